"""What every method promises, whoever wrote it; the networks show the couplings that methods meet."""

from __future__ import annotations

import copy
import hashlib
import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_networks import Concatenated, Depthwise, Plain, Residual, randomise
from torch import nn

from edgeprune import registry
from edgeprune.contracts import Context, Method
from edgeprune.errors import UsageError
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.groups import Structure
from edgeprune.network.plan import Plan
from edgeprune.network.proof import check_plan
from edgeprune.network.selection import allowed_counts
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply

METHODS = sorted(registry.entries("methods"))
NETWORKS = [Plain, Residual, Depthwise, Concatenated]
INPUTS = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)),)


def _data() -> Data:
    generator = torch.Generator().manual_seed(5)
    batches = [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 5) for _ in range(2)]
    return Data(batches, batches, cross_entropy, top1, "made", (3, 8, 8))


def _context(kind: type[Method], network: nn.Module, seed: int = 0, data: Data | None = None) -> Context:
    """What a method is asked about: the channels of the network, or what the method takes in their place."""
    context = Context(copy.deepcopy(network), INPUTS, network_structure(network, INPUTS), data, seed)
    return replace(context, network=copy.deepcopy(network), structure=kind().units(context))


def _fewer(structure: Structure, removed: int) -> dict[str, int]:
    """So many steps below the whole of every group."""
    counts = {group.name: allowed_counts(group) for group in structure.groups}
    return {name: allowed[-1 - min(removed, len(allowed) - 1)] for name, allowed in counts.items()}


def _kept(plan: Plan, structure: Structure) -> dict[str, int]:
    """The units that a plan leaves of every group."""
    ranks = {found.layer: found for found in structure.factorisations}
    kept = {edit.group: len(edit.keep) for edit in plan.cuts}
    for edit in plan.factorisations:
        found = ranks[edit.layer]
        kept[found.group] = found.ranks.index(edit.rank) + 1
    return {group.name: kept.get(group.name, group.size) for group in structure.groups}


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
    context = _context(kind, network, 0, _data())
    scores = kind().score(context)
    assert set(scores) == {group.name for group in context.structure.groups}
    for group in context.structure.groups:
        assert isinstance(scores[group.name], tuple)
        assert len(scores[group.name]) == group.size
        assert all(type(score) is float and math.isfinite(score) for score in scores[group.name])


def test_the_same_seed_gives_the_same_scores_whatever_the_global_generator(kind, network):
    first = kind().score(_context(kind, network, 3, _data()))
    torch.manual_seed(99)
    torch.rand(7)
    assert kind().score(_context(kind, network, 3, _data())) == first


def test_units_are_told_apart(kind, network):
    for scores in kind().score(_context(kind, network, 0, _data())).values():
        assert len(set(scores)) > 1


def test_network_inputs_and_data_stay_as_they_were(kind, network):
    context = _context(kind, network, 0, _data())
    images = [image for image, _ in context.data.train]
    before = _digest(network.state_dict().values()), _digest(INPUTS), _digest(images)
    kind().score(context)
    assert (_digest(network.state_dict().values()), _digest(INPUTS), _digest(images)) == before
    assert not network.training
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("removed", [0, 1, 3])
def test_a_plan_keeps_exactly_the_allocated_counts_and_can_be_cut(kind, network, removed):
    context = _context(kind, network, 0, _data())
    method = kind()
    allocation = _fewer(context.structure, removed)
    plan = method.plan(context.structure, method.score(context), allocation)
    assert _kept(plan, context.structure) == allocation
    assert all(edit.keep == tuple(sorted(set(edit.keep))) for edit in plan.cuts)
    check_plan(network, apply(plan, network, INPUTS), plan, INPUTS)  # raises when it is wrong


def test_a_method_that_needs_data_says_so(kind):
    network = randomise(Plain())
    context = replace(_context(kind, network, 0, _data()), data=None)
    if kind.needs_data:
        with pytest.raises(UsageError, match="data"):
            kind().score(context)
    else:
        assert kind().score(context) == kind().score(_context(kind, network, 0, _data()))


# ---------------------------------------------------------------- methods that train

TRAINING = [name for name in METHODS if registry.load("methods", name).trains]


class _Training:
    """Trains a copy of a network with a method's hooks, as the loop does, and can be stopped and gone on with."""

    def __init__(self, name: str, network: nn.Module, steps: int) -> None:
        kind = registry.load("methods", name)
        self.context = _context(kind, network, 3, _data())
        self.allocation = _fewer(self.context.structure, 3)
        self.shaping = Shaping(kind(), self.context, self.allocation, steps)
        trained = [p for p in self.context.network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.SGD([{"params": trained}], lr=0.02, momentum=0.9)

    def run(self, first: int, last: int) -> _Training:
        batches = self.context.data.train
        network = self.context.network.train()
        for number in range(first, last):
            images, labels = batches[number % len(batches)]
            torch.rand(number % 3)  # nobody may rely on the global generator
            self.shaping.before_step(0.02)
            loss = cross_entropy(network(images), labels) + self.shaping.penalty()
            self.optimiser.zero_grad()
            loss.backward()
            self.shaping.after_backward()
            self.optimiser.step()
            self.shaping.after_step()
        return self

    def saved(self) -> dict[str, Any]:
        """What a checkpoint holds, through the file that it is."""
        file = io.BytesIO()
        parts = {"network": self.context.network, "optimiser": self.optimiser, "shaping": self.shaping}
        torch.save({name: part.state_dict() for name, part in parts.items()}, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    def load(self, state: dict[str, Any]) -> _Training:
        self.context.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.shaping.load_state_dict(state["shaping"])
        return self


def _hooks(network: nn.Module) -> list[Any]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    modules = [hook for module in network.modules() for kind in kinds for hook in getattr(module, kind).values()]
    return modules + [p for p in network.parameters() if p._backward_hooks or p._post_accumulate_grad_hooks]


@pytest.mark.parametrize("name", TRAINING)
def test_a_shaped_network_is_whole_untied_and_cut_to_the_allocation(name, network):
    before = _digest(network.state_dict().values())
    training = _Training(name, network, 12).run(0, 12)
    plan = training.shaping.plan()
    shaped = training.context.network
    assert _kept(plan, training.context.structure) == training.allocation
    assert _digest(network.state_dict().values()) == before
    assert _digest(shaped.state_dict().values()) != before
    assert [type(module) for module in shaped.modules()] == [type(module) for module in network.modules()]
    assert not _hooks(shaped)
    assert all(parameter.requires_grad for parameter in shaped.parameters())
    check_plan(shaped, apply(plan, shaped, INPUTS), plan, INPUTS)  # raises when it is wrong


@pytest.mark.parametrize("name", TRAINING)
def test_a_killed_shaping_goes_on_to_the_same_bits(name, network):
    whole = _Training(name, network, 12).run(0, 12)
    killed = _Training(name, network, 12).run(0, 7)
    torch.manual_seed(99)
    resumed = _Training(name, network, 12).load(killed.saved()).run(7, 12)
    assert repr(resumed.shaping.state_dict()) == repr(whole.shaping.state_dict())
    assert resumed.shaping.plan() == whole.shaping.plan()
    tensors = [training.context.network.state_dict().values() for training in (whole, resumed)]
    assert _digest(tensors[0]) == _digest(tensors[1])
