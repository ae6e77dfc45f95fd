"""Merging units that are alike loses nothing; merging others is refused, and so is what cannot be merged."""

from __future__ import annotations

import pytest
import torch
from small_networks import Concatenated, Depthwise, Plain, Residual, randomise
from torch import nn

from edgeprune.errors import PlanError, VerificationError
from edgeprune.network.cutting import named_tensors
from edgeprune.network.equivalence import check_masked_equivalence
from edgeprune.network.plan import MergeChannels, Plan, PruneChannels
from edgeprune.network.structure import channel_groups
from edgeprune.network.surgery import apply

PICTURES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Grouped(nn.Module):
    """A convolution in groups, and a norm across all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.mix = nn.Conv2d(8, 8, 1)
        self.norm = nn.GroupNorm(1, 8)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(self.mix(self.grouped(self.conv(x)))).mean((2, 3)))


def merge_plan(network: nn.Module) -> Plan:
    """Clusters of two and more units, not in order, and lone ones, in every group."""
    edits = []
    for group in channel_groups(network, PICTURES):
        many = tuple(unit for unit in (1, 4, 2) if unit < group.size)
        edits.append(MergeChannels(group.name, ((3, 0), many, *((unit,) for unit in range(5, group.size)))))
    return Plan(tuple(edits))


def make_alike(network: nn.Module, plan: Plan) -> nn.Module:
    """Copy what makes the first unit of a cluster to the others."""
    groups = {group.name: group for group in channel_groups(network, PICTURES)}
    tensors = named_tensors(network)
    with torch.no_grad():
        for edit in plan.edits:
            for piece in groups[edit.group].slices:
                if piece.role == "reader":
                    continue
                rows = tensors[piece.tensor].movedim(piece.dim, 0)
                for first, *others in edit.clusters:
                    for unit in others:
                        rows[list(piece.index[unit])] = rows[list(piece.index[first])]
    return network


@pytest.mark.parametrize("via", ["modules", "export"])
@pytest.mark.parametrize("kind", [Plain, Residual, Depthwise, Concatenated])
def test_merging_units_that_are_alike_loses_nothing(kind, via):
    network = randomise(kind())
    plan = merge_plan(network)
    make_alike(network, plan)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cut = apply(plan, network, PICTURES, via=via)
    report = check_masked_equivalence(network, cut, plan, PICTURES)
    assert report.largest_difference < 1e-12
    assert report.merge_difference < 1e-6
    assert torch.allclose(cut(PICTURES), network(PICTURES), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    pruned = Plan(tuple(PruneChannels(edit.group, edit.keep) for edit in plan.edits))
    same = apply(pruned, network, PICTURES, via=via).state_dict()
    assert {name: tensor.shape for name, tensor in cut.state_dict().items()} == {
        name: tensor.shape for name, tensor in same.items()
    }
    assert not torch.allclose(apply(pruned, network, PICTURES, via=via)(PICTURES), cut(PICTURES), rtol=0.01)


def test_a_plan_may_prune_one_group_and_merge_another():
    network = randomise(Residual())
    merge = MergeChannels("blocks.0.conv1", ((0, 5, 9), (1,), (2, 3), (4,), (6,), (7,), (8,)))
    make_alike(network, Plan((merge,)))
    plan = Plan((PruneChannels("stem", (0, 2, 7)), merge))
    report = check_masked_equivalence(network, apply(plan, network, PICTURES), plan, PICTURES)
    assert report.largest_difference < 1e-12
    assert report.merge_difference < 1e-6


def test_merging_units_that_differ_is_refused_by_the_proof():
    network = randomise(Plain())
    plan = merge_plan(network)
    cut = apply(plan, network, PICTURES)
    with pytest.raises(VerificationError, match=r"Merging units of conv1, conv2 changes .* not alike"):
        check_masked_equivalence(network, cut, plan, PICTURES)


def test_a_merge_without_its_sums_is_noticed():
    network = randomise(Plain())
    plan = merge_plan(network)
    make_alike(network, plan)
    unsummed = apply(Plan(tuple(PruneChannels(edit.group, edit.keep) for edit in plan.edits)), network, PICTURES)
    with pytest.raises(VerificationError, match="differs from the masked original"):
        check_masked_equivalence(network, unsummed, plan, PICTURES)


def test_a_plan_reads_back_what_it_wrote():
    plan = Plan((MergeChannels("a", ((2, 0), (1,))), PruneChannels("b", (0, 4))))
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.edits[0].keep == (1, 2)
    with pytest.raises(PlanError, match="not complete"):
        Plan.from_json('{"schema": 1, "edits": [{"edit": "merge_channels", "group": "a"}]}')


@pytest.mark.parametrize(
    "clusters",
    [((0, 1), (2, 3)), ((0, 1, 2, 3, 4, 5, 6, 7, 7),), ((0, 1), (1, 2, 3, 4, 5, 6, 7)), ((0, 1, 2, 3, 4, 5, 6, 7), ())],
)
def test_clusters_hold_every_unit_once(clusters):
    with pytest.raises(PlanError, match="conv1"):
        apply(Plan((MergeChannels("conv1", clusters),)), randomise(Plain()), PICTURES)


def test_units_are_merged_inside_the_blocks_that_keep_equally_many():
    network = randomise(Grouped())
    apart = ((0, 4), (5, 1), *((unit,) for unit in (2, 3, 6, 7)))
    with pytest.raises(PlanError, match=r"units \[0, 4\] of different blocks .*grouped convolution"):
        apply(Plan((MergeChannels("grouped", apart),)), network, PICTURES)
    inside = Plan((MergeChannels("grouped", ((1, 0), (2,), (3,), (4, 6), (5,), (7,))),))
    make_alike(network, inside)
    cut = apply(inside, network, PICTURES)
    assert cut.grouped.weight.shape == (6, 4, 3, 3)
    assert check_masked_equivalence(network, cut, inside, PICTURES).merge_difference < 1e-6


def test_units_under_one_norm_are_not_merged():
    clusters = ((0, 1), *((unit,) for unit in range(2, 8)))
    with pytest.raises(PlanError, match="cannot be merged: a norm"):
        apply(Plan((MergeChannels("mix", clusters),)), randomise(Grouped()), PICTURES)
