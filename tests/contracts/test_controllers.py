"""What every controller promises: allowed counts, an end, and the same questions for the same answers."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from edgeprune import registry
from edgeprune.bench.layer_cost import LayerCost, LayerCosts, Tile
from edgeprune.contracts import Controller, Limits, Outcome, Problem, utilisation
from edgeprune.network.groups import Allocation, EqualCounts, Group, Layer, Structure

SIZES = {"a": 24, "b": 48, "c": 32}
HALVES = EqualCounts((tuple(range(16)), tuple(range(16, 32))), "the groups of a convolution keep equal counts")


def layer_ms(inputs: int, outputs: int) -> float:
    return 0.02 + 1e-4 * inputs * -(-outputs // 8) * 8


def problem_of(part: float) -> Problem:
    groups = tuple(Group(name, size, (), constraints=(HALVES,) if name == "c" else ()) for name, size in SIZES.items())
    pairs = tuple(itertools.pairwise(SIZES.items()))
    layers = tuple(
        Layer(f"{left}{right}", "conv", inputs * outputs, inputs * outputs, left, right,
              ((left, inputs),), ((right, outputs),))
        for (left, inputs), (right, outputs) in pairs
    )  # fmt: skip
    costs = {
        f"{left}{right}": LayerCost(
            tuple((count, layer_ms(inputs, count)) for count in range(8, outputs + 1, 8)),
            tuple((count, layer_ms(count, outputs)) for count in range(4, inputs + 1, 4)),
            layer_ms(4, 8),
            Tile(4, 8),
        )
        for (left, inputs), (right, outputs) in pairs
    }
    scores = {name: tuple(1 + (unit * 37 % size) / size for unit in range(size)) for name, size in SIZES.items()}
    original = outcome_of({})
    limits = Limits(latency_ms=part * original.latency_ms)
    return Problem(Structure(groups, (), layers), scores, limits, original, scores_are_losses=True,
                   costs=LayerCosts(costs, floor_ms=0.0))  # fmt: skip


def outcome_of(allocation: Allocation) -> Outcome:
    kept = [allocation.get(name, size) for name, size in SIZES.items()]
    latency_ms = 0.1 + 1.2 * sum(layer_ms(*pair) for pair in itertools.pairwise(kept))
    macs = sum(left * right for left, right in itertools.pairwise(kept))
    return Outcome(latency_ms, (0.995 * latency_ms, 1.005 * latency_ms), 4 * macs, macs, macs)


@pytest.fixture(params=sorted(registry.entries("controllers")))
def controller_class(request: pytest.FixtureRequest) -> type[Controller]:
    return registry.load("controllers", request.param)


def rounds_of(controller: Controller, most: int = 60) -> list[Allocation]:
    asked: list[Allocation] = []
    while (allocation := controller.ask()) is not None:
        assert len(asked) < most
        asked.append(allocation)
        controller.tell(allocation, outcome_of(allocation))
    return asked


@pytest.mark.parametrize("part", [0.8, 0.5])
def test_a_reachable_limit_is_met_with_counts_that_are_allowed(controller_class: type[Controller], part: float) -> None:
    problem = problem_of(part)
    asked = rounds_of(controller_class(problem))
    assert any(utilisation(outcome_of(allocation), problem.limits) <= 1 for allocation in asked)
    for allocation in asked:
        assert set(allocation) == set(SIZES)
        assert all(1 <= kept <= SIZES[name] for name, kept in allocation.items())
        assert allocation["c"] % 2 == 0


def test_an_impossible_limit_ends(controller_class: type[Controller]) -> None:
    problem = problem_of(0.01)
    assert len(rounds_of(controller_class(problem))) <= problem.max_rounds


def test_the_rounds_are_limited(controller_class: type[Controller]) -> None:
    problem = dataclasses.replace(problem_of(0.3), max_rounds=2)
    assert len(rounds_of(controller_class(problem))) <= 2


def test_telling_what_was_measured_continues_a_search(controller_class: type[Controller]) -> None:
    first = rounds_of(controller_class(problem_of(0.5)))
    again = controller_class(problem_of(0.5))
    for allocation in first:
        assert again.ask() == allocation
        again.tell(allocation, outcome_of(allocation))
    assert again.ask() is None
