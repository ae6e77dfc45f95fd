"""What every method promises, whoever wrote it; the networks show the couplings that methods meet."""

from __future__ import annotations

import copy
import hashlib
import math
from typing import Any

import pytest
import torch
from small_networks import Concatenated, Depthwise, Plain, Residual, randomise
from torch import nn

from edgeprune import registry
from edgeprune.contracts import Context, Method
from edgeprune.errors import UsageError
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.equivalence import check_masked_equivalence
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply

METHODS = sorted(registry.entries("methods"))
NETWORKS = [Plain, Residual, Depthwise, Concatenated]
INPUTS = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)),)


def _data() -> Data:
    generator = torch.Generator().manual_seed(5)
    batches = [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 5) for _ in range(2)]
    return Data(batches, batches, cross_entropy, top1, "made", (3, 8, 8))


def _context(network: nn.Module, seed: int = 0) -> Context:
    structure = network_structure(network, INPUTS)
    return Context(copy.deepcopy(network), INPUTS, structure, _data(), seed)


def _digest(tensors: Any) -> str:
    return hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()


@pytest.fixture(params=METHODS)
def kind(request) -> type[Method]:
    return registry.load("methods", request.param)


@pytest.fixture(params=NETWORKS)
def network(request) -> nn.Module:
    return randomise(request.param())


@pytest.mark.parametrize("name", METHODS)
def test_it_is_listed_with_a_sentence_and_loads(name):
    entry = registry.entries("methods")[name]
    assert entry.problem == ""
    assert entry.summary.endswith(".")
    assert issubclass(registry.load("methods", name), Method)


def test_every_unit_of_every_group_gets_a_finite_score(kind, network):
    context = _context(network)
    scores = kind().score(context)
    assert set(scores) == {group.name for group in context.structure.groups}
    for group in context.structure.groups:
        assert isinstance(scores[group.name], tuple)
        assert len(scores[group.name]) == group.size
        assert all(type(score) is float and math.isfinite(score) for score in scores[group.name])


def test_the_same_seed_gives_the_same_scores_whatever_the_global_generator(kind, network):
    first = kind().score(_context(network, seed=3))
    torch.manual_seed(99)
    torch.rand(7)
    assert kind().score(_context(network, seed=3)) == first


def test_units_are_told_apart(kind, network):
    for scores in kind().score(_context(network)).values():
        assert len(set(scores)) > 1


def test_network_inputs_and_data_stay_as_they_were(kind, network):
    context = _context(network)
    images = [image for image, _ in context.data.train]
    before = _digest(network.state_dict().values()), _digest(INPUTS), _digest(images)
    kind().score(context)
    assert (_digest(network.state_dict().values()), _digest(INPUTS), _digest(images)) == before
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("removed", [0, 1, 3])
def test_a_plan_keeps_exactly_the_allocated_counts_and_can_be_cut(kind, network, removed):
    context = _context(network)
    method = kind()
    allocation = {group.name: group.size - removed for group in context.structure.groups}
    plan = method.plan(context.structure, method.score(context), allocation)
    kept = {edit.group: edit.keep for edit in plan.edits}
    for group in context.structure.groups:
        units = kept.get(group.name, tuple(range(group.size)))
        assert units == tuple(sorted(set(units)))
        assert len(units) == allocation[group.name]
    check_masked_equivalence(network, apply(plan, network, INPUTS), plan, INPUTS)  # raises when it is wrong


def test_a_method_that_needs_data_says_so(kind):
    network = randomise(Plain())
    context = Context(network, INPUTS, network_structure(network, INPUTS), None, 0)
    if kind.needs_data:
        with pytest.raises(UsageError, match="data"):
            kind().score(context)
    else:
        assert kind().score(context) == kind().score(_context(network))


def test_its_state_survives_a_kill(kind):
    network = randomise(Residual())
    method, context = kind(), _context(network)
    method.prepare(context, {group.name: 2 for group in context.structure.groups})
    state = method.state_dict()
    again = kind()
    again.load_state_dict(copy.deepcopy(state))
    assert repr(again.state_dict()) == repr(state)
