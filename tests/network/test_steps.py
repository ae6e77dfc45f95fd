"""The estimate that steers a search must be what the cut network really costs."""

from __future__ import annotations

import pytest
import torch
from small_networks import Concatenated, Depthwise, Plain, Residual

from edgeprune.network.counting import count_macs
from edgeprune.network.plan import Plan, PruneChannels
from edgeprune.network.selection import allowed_counts, select_units
from edgeprune.network.steps import estimated_macs, ordered_steps
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply
from tests.network.random_networks import RandomNetwork

INPUT = torch.zeros(1, 3, 8, 8)
BLOCKS = [("grouped", 1), ("grouped", 2), ("transposed", 2), ("attention", 0), ("attention", 1), ("window", 0)]
NETWORKS = {
    **{type(network).__name__: network for network in (Plain(), Residual(), Depthwise(), Concatenated())},
    **{f"{kind}-{number}": RandomNetwork([(kind, 12, "batch", number)], "pool").eval() for kind, number in BLOCKS},
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_estimated_macs_are_those_of_the_cut_network(network: torch.nn.Module, part: float) -> None:
    structure = network_structure(network, INPUT)
    allocation = {}
    for group in structure.groups:
        counts = allowed_counts(group)
        allocation[group.name] = counts[int(part * (len(counts) - 1))]
    scores = {group.name: tuple(float(unit) for unit in range(group.size)) for group in structure.groups}
    edits = [PruneChannels(g.name, select_units(g, scores[g.name], allocation[g.name])) for g in structure.groups]
    kept = [edit for edit, group in zip(edits, structure.groups, strict=True) if len(edit.keep) < group.size]
    cut = apply(Plan(tuple(kept)), network, INPUT)
    assert estimated_macs(structure, {}) == count_macs(network, INPUT)
    assert estimated_macs(structure, allocation) == pytest.approx(count_macs(cut, INPUT), rel=1e-9)


@pytest.mark.parametrize("kind", ["grouped", "attention", "whole-attention", "window"])
def test_a_unit_costs_what_its_removal_saves(kind: str) -> None:
    network = RandomNetwork([(kind, 12, "batch", 2)], "pool").eval()
    before = count_macs(network, INPUT)
    for group in network_structure(network, INPUT).groups:
        if not group.constraints:
            cut = apply(Plan((PruneChannels(group.name, tuple(range(1, group.size))),)), network, INPUT)
            assert before - count_macs(cut, INPUT) == group.macs


def test_steps_of_a_group_stay_in_order_whatever_the_scores() -> None:
    structure = network_structure(Residual(width=16), INPUT)
    generator = torch.Generator().manual_seed(1)
    scores = {group.name: tuple(torch.rand(group.size, generator=generator).tolist()) for group in structure.groups}
    kept = {group.name: group.size for group in structure.groups}
    for step in ordered_steps(structure, scores, channel_multiple=4, per_mac=True):
        assert step.kept < kept[step.group]
        kept[step.group] = step.kept
    assert all(count <= 4 for count in kept.values())
