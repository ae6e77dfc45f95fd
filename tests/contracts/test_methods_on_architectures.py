"""Every method on small editions of real architectures: residual, depthwise, dense and attention."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from architectures import SIDES, densenet40, mobilenet_v1, resnet20, vit_tiny
from small_networks import randomise
from torch import nn

from benchmarks.entrants import channel_methods
from edgeprune import registry
from edgeprune.contracts import Context
from edgeprune.network.cutting import removed_units
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.equivalence import check_masked_equivalence
from edgeprune.network.groups import Allocation, Structure
from edgeprune.network.plan import MergeChannels
from edgeprune.network.selection import allowed_counts
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply

METHODS = channel_methods()
TRAINING = [name for name in METHODS if registry.load("methods", name).trains]
ARCHITECTURES = [resnet20, mobilenet_v1, densenet40, vit_tiny]
STEPS = 2


class Subject:
    """A network with random weights, and what is known of it."""

    def __init__(self, network: nn.Module, side: int) -> None:
        generator = torch.Generator().manual_seed(7)
        images = torch.randn(4, 3, side, side, generator=generator)
        self.batches = [(images[:2], torch.tensor([0, 1])), (images[2:], torch.tensor([2, 3]))]
        self.inputs = (images[:2],)
        self.network = randomise(network)
        self.structure: Structure = network_structure(self.network, self.inputs)

    def context(self) -> Context:
        data = Data(self.batches, self.batches, cross_entropy, top1, "made", tuple(self.inputs[0].shape[1:]))
        return Context(copy.deepcopy(self.network), self.inputs, self.structure, data, 3)

    def allocation(self) -> Allocation:
        """About half of every group."""
        return {
            group.name: min(allowed_counts(group), key=lambda count: abs(2 * count - group.size))
            for group in self.structure.groups
        }


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=lambda factory: factory.__name__)
def subject(request) -> Subject:
    return Subject(request.param(), SIDES[request.param.__name__])


def hooks(network: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", METHODS)
def test_every_unit_is_scored_and_the_allocation_is_kept(name, subject):
    context, allocation = subject.context(), subject.allocation()
    before = copy.deepcopy(subject.network)
    method = registry.load("methods", name)()
    scores = method.score(context)
    assert {group: len(own) for group, own in scores.items()} == {g.name: g.size for g in subject.structure.groups}
    assert all(math.isfinite(score) for own in scores.values() for score in own)
    assert any(len(set(own)) > 1 for own in scores.values())
    plan = method.plan(subject.structure, scores, allocation)
    assert {edit.group: len(edit.keep) for edit in plan.edits} == {
        group.name: allocation[group.name] for group in subject.structure.groups if allocation[group.name] < group.size
    }
    removed_units(plan, subject.structure.groups)  # raises where a constraint is broken
    assert hooks(context.network) == 0
    assert same(subject.network, before)


def train(name: str, subject: Subject, first: int, last: int, saved: Any = None) -> Shaping:
    shaping = Shaping(registry.load("methods", name)(), subject.context(), subject.allocation(), STEPS)
    network = shaping.context.network
    optimiser = torch.optim.SGD(network.parameters(), 0.01)
    if saved is not None:
        network.load_state_dict(saved[0])
        shaping.load_state_dict(saved[1])
    network.train()
    for step in range(first, last):
        images, labels = subject.batches[step % 2]
        shaping.before_step(0.01)
        loss = cross_entropy(network(images), labels) + shaping.penalty()
        optimiser.zero_grad()
        loss.backward()
        shaping.after_backward()
        optimiser.step()
        shaping.after_step()
    return shaping


@pytest.mark.parametrize("name", TRAINING)
def test_a_training_shapes_resumes_and_leaves_nothing_behind(name, subject):
    whole = train(name, subject, 0, STEPS)
    half = train(name, subject, 0, STEPS // 2)
    saved = copy.deepcopy((half.context.network.state_dict(), half.state_dict()))
    resumed = train(name, subject, STEPS // 2, STEPS, saved)
    plan = whole.plan()
    resumed.finish()
    network = whole.context.network
    assert same(resumed.context.network, network)
    assert hooks(network) == 0
    assert [type(module) for module in network.modules()] == [type(module) for module in subject.network.modules()]
    removed_units(plan, subject.structure.groups)
    if any(isinstance(edit, MergeChannels) for edit in plan.edits):  # what is new about these is only known by a cut
        cut = apply(plan, network, subject.inputs)
        assert check_masked_equivalence(network, cut, plan, subject.inputs).parameters_after < sum(
            parameter.numel() for parameter in network.parameters()
        )
