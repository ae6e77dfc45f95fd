"""Incremental regularisation: units are empty before they are removed, and which ones go is decided on the way."""

from __future__ import annotations

import pytest
import torch
from pictures import picture_context, train_on_pictures
from small_networks import Residual, randomise

from edgeprune.contracts import Context, Step
from edgeprune.errors import UsageError
from edgeprune.methods._ranked import RankedFactors
from edgeprune.methods.inc_reg import IncReg
from edgeprune.network.evaluation import evaluate
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply

INPUTS = (torch.zeros(1, 3, 8, 8),)


def prepared(**options: float) -> tuple[IncReg, Context]:
    network = randomise(Residual())
    method, context = IncReg(**options), Context(network, INPUTS, network_structure(network, INPUTS), None, 0)
    method.prepare(context, {"stem": 5})
    return method, context


def test_a_long_training_has_the_numbers_of_the_paper():
    method, context = prepared()
    method.before_step(context.network, Step(0, 40_000, 5e-4))
    ranks = method.state_dict()["ranks"]["stem"]
    factors = method.state_dict()["factors"]["stem"]
    assert float(factors[ranks == 0]) == pytest.approx(2.5e-4 / 2.5)
    for parameter in context.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.after_backward(context.network)
    weight = context.network.stem.weight
    least = int(ranks.argmin())
    assert torch.allclose(weight.grad[least], 2.5e-4 * weight[least], rtol=0.7)
    before = weight.detach().clone()
    method.after_step(context.network)
    assert torch.equal(weight, before)  # nothing beside the gradient where the learning rate allows it


def test_a_decay_too_large_for_the_learning_rate_divides_the_weights():
    method, context = prepared()
    weight = context.network.blocks[0].conv2.weight
    for number in range(8):
        method.before_step(context.network, Step(number, 12, 0.5))
        before = weight.detach().clone()
        for parameter in context.network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        method.after_backward(context.network)
        method.after_step(context.network)
        assert bool((weight.abs() <= before.abs()).all())
    assert bool(torch.isfinite(weight).all())
    assert float(weight.grad.abs().max()) <= 0.1 / 0.5 * float(before.abs().max())


def test_ranks_are_averaged_over_the_steps():
    method, context = prepared()
    with torch.no_grad():
        for name in ("stem", "blocks.0.conv2", "blocks.1.conv2"):
            weight = context.network.get_parameter(f"{name}.weight")
            weight.copy_(torch.arange(1.0, 9.0).reshape(8, 1, 1, 1).expand_as(weight))
    for number in range(3):
        method.before_step(context.network, Step(number, 1000, 0.01))
    with torch.no_grad():
        for name in ("stem", "blocks.0.conv2", "blocks.1.conv2"):
            context.network.get_parameter(f"{name}.weight")[0] = 100.0
    method.before_step(context.network, Step(3, 1000, 0.01))
    means = [7, 3, 7, 11, 15, 19, 23, 27]
    assert method.state_dict()["ranks"]["stem"].tolist() == [mean / 4 for mean in means]


def test_numbers_that_mean_nothing_are_refused():
    with pytest.raises(UsageError, match="amplitude above zero, not 1 and 0"):
        IncReg(ceiling=1, amplitude=0)


@pytest.mark.data
def test_on_real_pictures_units_are_empty_when_they_go_and_removing_them_changes_nothing(data_folder):
    context = picture_context(data_folder)
    allocation = {group.name: group.size // 2 for group in context.structure.groups}
    method = IncReg()
    shaping = Shaping(method, context, allocation, steps=60)
    probe = RankedFactors(context, allocation)
    first = last = probe.sizes(context.network)
    left: list[float] = []
    gone = {name: torch.zeros(len(own), dtype=torch.bool) for name, own in first.items()}

    def look(step: int) -> None:
        nonlocal last
        for name, factors in method.state_dict()["factors"].items():
            now = (factors >= 1) & ~gone[name]
            left.extend((last[name][now] / first[name][now]).tolist())
            gone[name] |= now
        last = probe.sizes(context.network)

    train_on_pictures(shaping, batch_size=16, seen=look)
    plan = shaping.plan()
    assert {edit.group: len(edit.keep) for edit in plan.edits} == allocation
    assert len(left) == sum(group.size - allocation[group.name] for group in context.structure.groups)
    assert max(left) < 0.05
    smaller = apply(plan, context.network, context.example_inputs)
    before, after = (evaluate(network, context.data) for network in (context.network, smaller))
    assert abs(before - after) <= 0.001
    assert after > 0.15  # of ten classes, after 60 steps
