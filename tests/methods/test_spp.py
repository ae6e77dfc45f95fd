"""Structured probabilistic pruning: what is drawn out is masked for a step, and probabilities rise and fall."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from pictures import picture_context, train_on_pictures
from small_networks import Residual, randomise
from torch.nn import functional as F

from edgeprune.contracts import Context, Step
from edgeprune.errors import UsageError
from edgeprune.methods.spp import Spp
from edgeprune.network.evaluation import evaluate
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply

INPUTS = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)),)


def prepared() -> tuple[Spp, Context]:
    network = randomise(Residual())
    method, context = Spp(), Context(network, INPUTS, network_structure(network, INPUTS), None, 0)
    method.prepare(context, {"stem": 5})
    return method, context


def test_what_is_masked_is_not_read_learns_nothing_and_is_put_back():
    method, context = prepared()
    network = context.network
    chances = torch.tensor([0.5] * 8, dtype=torch.float64)
    method.load_state_dict({"probabilities": {"stem": chances}})
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    method.before_step(network, Step(1, 100_000, 0.01))  # no update in this one
    masked = network.linear.weight.abs().sum(0) == 0
    assert 0 < int(masked.sum()) < 8
    assert bool((network.blocks[1].conv1.weight[:, masked] == 0).all())
    F.cross_entropy(network(INPUTS[0]), torch.tensor([0, 3])).backward()
    method.after_backward(network)
    assert all(torch.equal(parameter, before[name]) for name, parameter in network.named_parameters())
    assert bool((network.linear.weight.grad[:, masked] == 0).all())
    assert bool((network.linear.weight.grad[:, ~masked] != 0).any())


def test_draws_follow_from_seed_and_step():
    ways = []
    for noise in (0, 5):
        method, context = prepared()
        seen = []
        for number in range(8):
            torch.rand(noise)
            method.before_step(context.network, Step(number, 12, 0.01))
            seen.append(context.network.linear.weight.detach().clone())
            method.after_backward(context.network)
        ways.append(torch.stack(seen))
    assert torch.equal(*ways)
    assert len(ways[0].unique(dim=0)) > 3


def test_who_stays_is_weighed_by_its_chance_once_enough_are_out():
    method, context = prepared()
    network = context.network
    chances = torch.tensor([0.0, 1.0, 0.2, 0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    method.load_state_dict({"probabilities": {"stem": chances}})
    before = network.linear.weight.detach().clone()
    method.before_step(network, Step(75, 100, 0.01))
    method.after_backward(network)
    method.after_step(network)
    expected = before * torch.tensor([1.0, 0.0, 0.8, 1.0, 0.0, 1.0, 0.0, 1.0])
    assert torch.allclose(network.linear.weight, expected)


def test_numbers_that_mean_nothing_are_refused():
    with pytest.raises(UsageError, match="not 0 and 180"):
        Spp(amplitude=0)


@pytest.mark.data
def test_on_real_pictures_chances_rise_and_fall_and_removing_units_changes_nothing(data_folder):
    context = picture_context(data_folder)
    allocation = {group.name: group.size // 2 for group in context.structure.groups}
    method = Spp()
    shaping = Shaping(method, context, allocation, steps=60)
    chances: list[dict[str, torch.Tensor]] = []
    train_on_pictures(
        shaping,
        batch_size=16,
        learning_rate=0.05,
        seen=lambda step: chances.append({name: p.clone() for name, p in method.state_dict()["probabilities"].items()}),
    )
    fell = 0  # of units that are not out, while their group still has some to lose
    for before, after in pairwise(chances):
        for name, own in after.items():
            if int((own >= 1).sum()) < len(own) - allocation[name]:
                fell += int((own < before[name]).sum())
    assert fell > 0
    plan = shaping.plan()
    assert {edit.group: len(edit.keep) for edit in plan.edits} == allocation
    smaller = apply(plan, context.network, context.example_inputs)
    before, after = (evaluate(network, context.data) for network in (context.network, smaller))
    assert abs(before - after) <= 0.001
    assert after > 0.15  # of ten classes, after 60 steps
