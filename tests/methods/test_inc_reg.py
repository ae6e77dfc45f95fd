"""Incremental regularisation: units are empty before they are removed, and which ones go is decided on the way."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pictures import picture_context, train_on_pictures
from small_networks import Residual, randomise

from edgeprune.contracts import Context, Step
from edgeprune.errors import UsageError
from edgeprune.methods._ranked import RankedFactors
from edgeprune.methods._stages import Progress
from edgeprune.methods.inc_reg import IncReg
from edgeprune.network.data import Data, cross_entropy, top1
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
    with pytest.raises(UsageError, match="from 0 to 1, not 1, 0 and None"):
        IncReg(ceiling=1, amplitude=0)
    with pytest.raises(UsageError, match=r"0\.00025 and 2"):
        IncReg(accuracy_drop=2)


def test_a_stage_takes_what_accuracy_leaves_room_for_and_less_after_too_much():
    progress = Progress(bound=0.90, accuracy=0.92)
    assert progress.aim == 0.2
    second = progress.after(0.915)
    assert (second.reached, second.step) == (0.2, pytest.approx(0.15))
    undone = second.after(0.87)  # 1.5 points of room, 4.5 points lost: a third of the step
    assert (undone.reached, undone.step) == (0.2, pytest.approx(0.05))
    third = undone.after(0.9001)
    assert (third.reached, third.step) == (pytest.approx(0.25), 0.01)
    assert not third.is_done
    assert third.after(0.88).is_done
    assert Progress(0.5, 0.9, reached=0.95).after(0.8).is_done


def bounded_context() -> Context:
    network = randomise(Residual())
    generator = torch.Generator().manual_seed(4)
    batches = [(torch.randn(16, 3, 8, 8, generator=generator), torch.arange(16) % 5) for _ in range(2)]
    data = Data(batches, batches, cross_entropy, top1, "made", (3, 8, 8))
    return Context(network, INPUTS, network_structure(network, INPUTS), data, 0)


def bounded(context: Context, drop: float, steps: range, saved: list[Any] | None = None) -> Shaping:
    shaping = Shaping(IncReg(accuracy_drop=drop), context, {"stem": 2, "blocks.0.conv1": 2}, steps=60)
    optimiser = torch.optim.SGD(context.network.parameters(), 0.02)
    if saved is not None:
        context.network.load_state_dict(saved[0])
        shaping.load_state_dict(saved[1])
    for number in steps:
        images, labels = context.data.train[number % 2]
        context.network.train()
        shaping.before_step(0.02)
        optimiser.zero_grad()
        cross_entropy(context.network(images), labels).backward()
        shaping.after_backward()
        optimiser.step()
        shaping.after_step()
    return shaping


def test_where_accuracy_allows_it_all_goes_and_where_it_does_not_the_last_good_network_comes_back():
    free = bounded(bounded_context(), 0.99, range(60))
    assert {edit.group: len(edit.keep) for edit in free.plan().edits} == free.allocation
    context = bounded_context()
    original = evaluate(context.network, context.data)
    tight = bounded(context, 0.0, range(60))
    kept = {edit.group: len(edit.keep) for edit in tight.plan().edits}
    assert evaluate(context.network, context.data) >= original
    assert all(kept.get(name, 8) > count for name, count in tight.allocation.items())
    smaller = apply(tight.plan(), context.network, INPUTS)
    with torch.no_grad():
        assert torch.allclose(smaller(INPUTS[0]), context.network(INPUTS[0]), atol=1e-5)


def test_a_killed_training_within_an_accuracy_goes_on_to_the_same_network():
    whole, half, again = bounded_context(), bounded_context(), bounded_context()
    first = bounded(whole, 0.1, range(60))
    stopped = bounded(half, 0.1, range(27))
    saved = copy.deepcopy([half.network.state_dict(), stopped.state_dict()])
    second = bounded(again, 0.1, range(27, 60), saved)
    assert first.plan() == second.plan()
    assert all(torch.equal(a, b) for a, b in zip(whole.network.parameters(), again.network.parameters(), strict=True))


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
