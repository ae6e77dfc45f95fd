"""Two methods as one: who may go with whom, one scale for both scores, one plan, and hooks that both get."""

import copy
from dataclasses import replace

import pytest
import torch
from small_networks import Residual, randomise
from torch import nn

from edgeprune.contracts import Context
from edgeprune.errors import UnknownNameError, UsageError
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.groups import Structure
from edgeprune.network.plan import Factorize, PruneChannels
from edgeprune.network.proof import check_plan
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply
from edgeprune.run.joining import load_method

INPUTS = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)),)


def data_of() -> Data:
    generator = torch.Generator().manual_seed(5)
    batches = [(torch.randn(16, 3, 8, 8, generator=generator), torch.arange(16) % 5) for _ in range(2)]
    return Data(batches, batches, cross_entropy, top1, "made", (3, 8, 8))


def context_of(spelling: str, network: nn.Module, data: Data | None) -> Context:
    context = Context(copy.deepcopy(network), INPUTS, network_structure(network, INPUTS), data, 0)
    return replace(context, structure=load_method(spelling).units(context))


def fewer(structure: Structure) -> dict[str, int]:
    """Half of the channels, and of the ranks those that fit the layers that are left."""
    ranks = {found.group: found for found in structure.factorisations}
    return {
        group.name: group.counts[0] if group.name in ranks else max(group.size // 2, 1) for group in structure.groups
    }


@pytest.mark.parametrize(
    "spelling",
    ["taylor+spatial-svd", "spatial-svd+taylor", "taylor+tucker", "taylor+cp", "magnitude + trained-rank-pruning"],
)
def test_channels_and_ranks_are_units_of_one_problem(spelling):
    network = randomise(Residual(12))
    structure = context_of(spelling, network, data_of()).structure
    kinds = [group.kind for group in structure.groups]
    assert kinds == sorted(kinds)
    assert {kinds.count("channel"), kinds.count("rank")} == {3, 4}
    assert any(name is not None for layer in structure.layers for name, _ in layer.in_parts)


@pytest.mark.parametrize("spelling", ["taylor+magnitude", "tucker+cp", "taylor+magnitude+cp"])
def test_two_of_one_kind_are_refused(spelling):
    with pytest.raises(UsageError, match="one must choose channels and the other ranks"):
        load_method(spelling)


def test_a_wrong_name_is_named():
    with pytest.raises(UnknownNameError, match=r"tuker.*Did you mean 'tucker'"):
        load_method("taylor+tuker")


@pytest.mark.parametrize("spelling", ["magnitude+spatial-svd", "magnitude+tucker", "magnitude+cp"])
def test_a_plan_prunes_first_and_each_method_keeps_its_best(spelling):
    network, data = randomise(Residual(24)), data_of()
    context = context_of(spelling, network, data)
    method, allocation = load_method(spelling), fewer(context.structure)
    plan = method.plan(context.structure, method.score(context), allocation)
    kinds = [type(edit) for edit in plan.edits]
    assert kinds == sorted(kinds, key=lambda kind: kind is Factorize)
    assert {PruneChannels, Factorize} == set(kinds)
    alone = context_of("magnitude", network, data)
    pruned = load_method("magnitude").plan(alone.structure, load_method("magnitude").score(alone), allocation)
    assert plan.cuts == pruned.cuts
    ranks = {found.layer: found.ranks[allocation[found.group] - 1] for found in context.structure.factorisations}
    assert {edit.layer: edit.rank for edit in plan.factorisations} == ranks
    check_plan(network, apply(plan, network, INPUTS), plan, INPUTS)  # raises when it is wrong


def test_scores_of_both_are_worth_the_loss_that_they_cost():
    network, data = randomise(Residual(24)), data_of()
    context = context_of("magnitude+spatial-svd", network, data)
    scores = load_method("magnitude+spatial-svd").score(context)
    for spelling in ("magnitude", "spatial-svd"):
        alone = context_of(spelling, network, data)
        own = load_method(spelling).score(alone)
        factors = {name: scores[name][0] / values[0] for name, values in own.items()}
        assert max(factors.values()) == pytest.approx(min(factors.values()))
    ranks = {found.group for found in context.structure.factorisations}
    assert load_method("magnitude+spatial-svd").score(replace(context, data=None)).keys() == scores.keys()
    without = load_method("magnitude+spatial-svd").score(replace(context, data=None))
    for part in (ranks, without.keys() - ranks):
        assert sum(sum(without[name]) for name in part) == pytest.approx(1.0)


@pytest.mark.parametrize("spelling", ["growing-reg+trained-rank-pruning", "magnitude+asymmetric-svd"])
def test_what_both_do_before_the_cut_is_done(spelling):
    network, data = randomise(Residual(24)), data_of()
    method = load_method(spelling)
    context = context_of(spelling, network, data)
    assert method.trains == (spelling == "growing-reg+trained-rank-pruning")
    allocation = fewer(context.structure)
    shaping = Shaping(method, context, allocation, 6)
    optimiser = torch.optim.SGD(context.network.parameters(), 0.01, 0.9)
    images, labels = data.train[0]
    for _ in range(6 if method.trains else 0):
        shaping.before_step(0.01)
        optimiser.zero_grad()
        (cross_entropy(context.network(images), labels) + shaping.penalty()).backward()
        shaping.after_backward()
        optimiser.step()
        shaping.after_step()
    saved = shaping.state_dict()
    again = Shaping(load_method(spelling), context_of(spelling, network, data), allocation, 6)
    again.load_state_dict(saved)
    assert repr(again.state_dict()) == repr(saved)
    plan = shaping.plan()
    assert plan.cuts
    assert plan.factorisations
    check_plan(context.network, apply(plan, context.network, INPUTS), plan, INPUTS)
