"""The knapsack controller: its program against all allocations, and its search against boards that are functions."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import os
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.bench.layer_cost import LayerCost, LayerCosts, Tile
from edgeprune.contracts import Limits, Outcome, Problem, is_safe, utilisation
from edgeprune.controllers._demands import demands_of
from edgeprune.controllers._program import Cost, Limit, Node, solve
from edgeprune.controllers._resources import Resources
from edgeprune.controllers.knapsack import Knapsack
from edgeprune.network.groups import Allocation, Group, Layer, Scores, Structure
from edgeprune.network.moments import Moment

WIDTHS = (32, 64, 64, 128, 64)


def chain(widths: tuple[int, ...] = WIDTHS) -> Structure:
    groups = tuple(Group(f"g{index}", width, ()) for index, width in enumerate(widths))
    layers = tuple(
        Layer(f"l{index}", "conv", left * right, left * right, f"g{index}", f"g{index + 1}",
              ((f"g{index}", left),), ((f"g{index + 1}", right),))
        for index, (left, right) in enumerate(itertools.pairwise(widths))
    )  # fmt: skip
    return Structure(groups, (), layers)


def layer_ms(inputs: int, outputs: int) -> float:
    """Stairs of sixteen outputs and eight inputs."""
    return 0.01 + 1e-4 * (-(-inputs // 8) * 8) * (-(-outputs // 16) * 16)


def cost(inputs: int, outputs: int) -> LayerCost:
    over_outputs = tuple((count, layer_ms(inputs, count)) for count in range(16, outputs + 1, 16))
    over_inputs = tuple((count, layer_ms(count, outputs)) for count in range(8, inputs + 1, 8))
    return LayerCost(over_outputs, over_inputs, layer_ms(8, 16), Tile(8, 16))


def network_ms(allocation: Allocation, widths: tuple[int, ...] = WIDTHS) -> float:
    """What the layers take does not add up: half as much again, and a part that is fixed."""
    kept = [allocation.get(f"g{index}", width) for index, width in enumerate(widths)]
    return 0.3 + 1.5 * sum(layer_ms(left, right) for left, right in itertools.pairwise(kept))


def outcome_of(latency_ms: float) -> Outcome:
    return Outcome(latency_ms, (0.995 * latency_ms, 1.005 * latency_ms), size_bytes=1, macs=1, parameters=1)


def scores_of(structure: Structure) -> Scores:
    return {
        group.name: tuple(((unit * 7919 + place * 104729) % 1000) / 1000 for unit in range(group.size))
        for place, group in enumerate(structure.groups)
    }


def problem_of(part: float) -> Problem:
    structure = chain()
    original = outcome_of(network_ms({}))
    costs = LayerCosts(
        {f"l{index}": cost(*pair) for index, pair in enumerate(itertools.pairwise(WIDTHS))}, floor_ms=0.0
    )
    limits = Limits(latency_ms=part * original.latency_ms)
    return Problem(structure, scores_of(structure), limits, original, scores_are_losses=True, costs=costs)


def searched(problem: Problem) -> tuple[Knapsack, list[tuple[Allocation, Outcome]]]:
    controller = Knapsack(problem)
    rounds = []
    while (allocation := controller.ask()) is not None:
        outcome = outcome_of(network_ms(allocation))
        controller.tell(allocation, outcome)
        rounds.append((allocation, outcome))
    return controller, rounds


@pytest.mark.parametrize("part", [0.8, 0.6, 0.4])
def test_lands_within_three_percent_below_the_limit_in_four_rounds(part: float) -> None:
    problem = problem_of(part)
    controller, rounds = searched(problem)
    used = rounds[-1][1].latency_interval_ms[1] / problem.limits.latency_ms
    assert 0.97 <= used <= 1
    assert len(rounds) <= 4
    assert "3 %" in controller.ending()


def test_predictions_get_better_with_every_measurement() -> None:
    problem = problem_of(0.5)
    controller = Knapsack(problem)
    allocation = controller.ask()
    before = abs(controller.expected_ms(allocation) / network_ms(allocation) - 1)
    controller.tell(allocation, outcome_of(network_ms(allocation)))
    after = abs(controller.expected_ms(allocation) / network_ms(allocation) - 1)
    assert after < 0.01
    assert after <= before


def test_an_impossible_budget_ends_at_the_smallest_network_and_says_so() -> None:
    controller, rounds = searched(problem_of(0.05))
    assert all(kept <= max(1, group.size // 2) for group in chain().groups for kept in [rounds[-1][0][group.name]])
    assert "smallest network" in controller.ending()


def test_a_budget_that_is_met_already_asks_for_nothing() -> None:
    controller, rounds = searched(problem_of(1.1))
    assert rounds == []
    assert controller.ending() == "the original is within the limits already"


def test_counts_lie_on_the_stairs() -> None:
    _, rounds = searched(problem_of(0.6))
    for allocation, _ in rounds:
        assert all(kept % 8 == 0 for kept in allocation.values())


def test_telling_the_trials_of_a_killed_search_continues_it() -> None:
    problem = problem_of(0.4)
    _, rounds = searched(problem)
    again = Knapsack(problem)
    for allocation, outcome in rounds:
        assert again.ask() == allocation
        again.tell(allocation, outcome)
    assert again.ask() is None


def test_peak_memory_is_limited_at_every_moment() -> None:
    """The process takes a fixed part, the weights, and one and a half times the largest of two moments."""
    problem = problem_of(0.5)
    moments = (Moment("early", 1000.0, {"g0": 90.0, "g1": 60.0}), Moment("late", 500.0, {"g3": 50.0, "g4": 40.0}))

    def outcome(allocation: Allocation) -> Outcome:
        kept = [allocation.get(f"g{index}", width) for index, width in enumerate(WIDTHS)]
        weights = 4 * sum(left * right for left, right in itertools.pairwise(kept))
        early, late = 1000 + 90 * kept[0] + 60 * kept[1], 500 + 50 * kept[3] + 40 * kept[4]
        memory = int(5000 + weights + 1.5 * max(early, late))
        return dataclasses.replace(outcome_of(1.0), memory_bytes=memory)

    limits = Limits(memory_bytes=0.4 * (outcome({}).memory_bytes or 0))
    problem = dataclasses.replace(problem, limits=limits, original=outcome({}), moments=moments, costs=None)
    controller, rounds = Knapsack(problem), []
    while (allocation := controller.ask()) is not None:
        controller.tell(allocation, outcome(allocation))
        rounds.append(outcome(allocation))
    assert len(rounds) <= 4
    assert is_safe(rounds[-1], limits)
    assert utilisation(rounds[-1], limits) > 0.94


def test_one_network_meets_the_limits_of_two_boards() -> None:
    """On the second board every layer takes three times as long, wide ones more; its budget is the tighter one."""
    problem = problem_of(0.7)

    def outcome(allocation: Allocation) -> Outcome:
        second = 0.1 + 3 * network_ms(allocation) + 0.01 * allocation.get("g3", WIDTHS[3])
        return dataclasses.replace(outcome_of(network_ms(allocation)), others=(outcome_of(second),))

    original = outcome({})
    limits = dataclasses.replace(problem.limits, others=(Limits(latency_ms=0.5 * original.others[0].latency_ms),))
    tripled = LayerCosts(
        {name: dataclasses.replace(cost, over_outputs=tuple((n, 3 * ms) for n, ms in cost.over_outputs),
                                   over_inputs=tuple((n, 3 * ms) for n, ms in cost.over_inputs),
                                   least_ms=3 * cost.least_ms)
         for name, cost in problem.costs.layers.items()}, 0.0,
    )  # fmt: skip
    problem = dataclasses.replace(problem, limits=limits, original=original, other_costs=(tripled,))
    controller, rounds = Knapsack(problem), []
    while (allocation := controller.ask()) is not None:
        controller.tell(allocation, outcome(allocation))
        rounds.append(outcome(allocation))
    assert len(rounds) <= 5
    assert is_safe(rounds[-1], limits)
    assert utilisation(rounds[-1], limits) > 0.95


def test_a_layer_that_cannot_be_cut_takes_its_part_of_the_limit() -> None:
    problem = problem_of(0.6)
    fixed = Layer("head", "conv", 4096, 4096, None, None, ((None, 64),), ((None, 64),))
    structure = dataclasses.replace(problem.structure, layers=(*problem.structure.layers, fixed))
    costs = LayerCosts({**problem.costs.layers, "head": LayerCost(((64, 1.0),))}, floor_ms=0.0)

    def outcome(allocation: Allocation) -> Outcome:
        return outcome_of((network_ms(allocation) - 0.3) / 1.5 + 1.0)  # its layers and nothing else

    original = outcome({})
    limits = Limits(latency_ms=0.8 * original.latency_ms)
    problem = dataclasses.replace(problem, structure=structure, costs=costs, limits=limits, original=original)
    controller = Knapsack(problem)
    allocation = controller.ask()
    assert outcome(allocation).latency_ms == pytest.approx(0.98 * limits.latency_ms, rel=0.02)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=4),
    room=st.floats(0.2, 0.9),
)
def test_the_program_finds_the_best_of_all_choices(seed: int, sizes: list[int], room: float) -> None:
    """Every two neighbours have a cost of their own for each pair of options; most of the value is never lost."""
    random = np.random.default_rng(seed)
    nodes = [
        Node(f"n{place}", tuple(range(1, size + 1)), tuple((_ANYWAY + np.cumsum(random.random(size))).tolist()))
        for place, size in enumerate(sizes)
    ]
    costs = [
        Cost((left.name, right.name), {"ms": random.random((len(left.counts), len(right.counts)))})
        for left, right in itertools.pairwise(nodes)
    ]
    most = room * sum(float(one.amounts["ms"].max()) for one in costs)
    best = -1.0
    for options in itertools.product(*(range(size) for size in sizes)):
        needed = sum(one.amounts["ms"][pair] for one, pair in zip(costs, itertools.pairwise(options), strict=True))
        if needed <= most:
            best = max(best, sum(node.values[option] for node, option in zip(nodes, options, strict=True)))
    found = solve(nodes, costs, {"ms": Limit(most)})
    if best < 0:
        assert found is None
        return
    assert found is not None
    value = sum(node.values[found.counts[node.name] - 1] for node in nodes)
    whole = sum(node.values[-1] for node in nodes)
    assert best - value <= 0.031 * (whole - best) + 1e-9
    assert found.lost == pytest.approx(1000 * (whole - value) / whole, abs=1e-6)


# Of each node: its part of all value is such that a proof to within a thousandth of it would show nothing.
_ANYWAY = 1_000.0


def test_a_sum_of_groups_is_never_cheaper_than_its_channels() -> None:
    groups = [Node("a", (8, 16), (1.0, 2.0)), Node("b", (8, 16), (1.0, 2.0))]
    total = Node("a+b", (16, 32), parts={"a": (8.0, 16.0), "b": (8.0, 16.0)})
    costs = [Cost(("a+b",), {"ms": np.array([1.0, 3.0])})]
    assert solve([*groups, total], costs, {"ms": Limit(2.0)}).counts == {"a": 8, "b": 8}
    assert solve([*groups, total], costs, {"ms": Limit(3.0)}).counts == {"a": 16, "b": 16}


def test_what_the_solver_prints_does_not_stand_in_the_answer(capfd, monkeypatch) -> None:
    solved = scipy.optimize.milp

    def talkative(*arguments: Any, **options: Any) -> Any:
        ctypes.CDLL(None).puts(b"tmpSolver.run();")
        return solved(*arguments, **options)

    monkeypatch.setattr(scipy.optimize, "milp", talkative)
    os.write(1, b"before\n")
    assert solve([Node("a", (8, 16), (1.0, 2.0))], [Cost(("a",), {"ms": np.array([1.0, 3.0])})], {"ms": Limit(2.0)})
    os.write(1, b"after\n")
    assert capfd.readouterr().out == "before\nafter\n"


def test_a_sum_whose_stairs_are_too_many_lies_between_two_of_its_options() -> None:
    groups = [Node("a", (8, 16), (1.0, 2.0)), Node("b", (8, 16), (1.0, 2.1))]
    total = Node("a+b", (16, 32), parts={"a": (8.0, 16.0), "b": (8.0, 16.0)}, between=True)
    costs = [Cost(("a+b",), {"ms": np.array([1.0, 3.0])})]
    assert solve([*groups, total], costs, {"ms": Limit(1.9)}).counts == {"a": 8, "b": 8}
    assert solve([*groups, total], costs, {"ms": Limit(2.0)}).counts == {"a": 8, "b": 16}


WIDE, READ = (64, 48, 96, 56), 512


@settings(max_examples=25, deadline=None)
@given(kept=st.tuples(*(st.integers(width // 8, width // 2) for width in WIDE)), outputs=st.integers(2, 16))
def test_a_layer_behind_many_groups_takes_what_lies_between_the_options_of_their_sum(kept, outputs) -> None:
    """Half the time of the layer follows what it reads; it writes one group."""
    groups = (*(Group(f"g{place}", width, ()) for place, width in enumerate(WIDE)), Group("out", 16, ()))
    parts = (*((f"g{place}", width) for place, width in enumerate(WIDE)), (None, READ - sum(WIDE)))
    layer = Layer("wide", "conv", READ * 16, READ * 16, None, "out", parts, (("out", 16),))
    over_inputs = ((16, 0.5 + 0.5 * 16 / READ), (READ, 1.0))
    cost = LayerCost(((1, 1.0 / 16), (16, 1.0)), over_inputs, (0.5 + 0.5 * 16 / READ) / 16)
    structure = Structure(groups, (), (layer,))
    costs, original = LayerCosts({"wide": cost}, floor_ms=0.0), outcome_of(1.0)
    problem = Problem(structure, scores_of(structure), Limits(latency_ms=0.5), original, True, costs=costs)
    (demand,) = demands_of(problem.limits)
    allocation = {**{f"g{place}": count for place, count in enumerate(kept)}, "out": outputs}
    read = sum(kept) + READ - sum(WIDE)
    assert Resources(problem).alone(demand, allocation) == pytest.approx((0.5 + 0.5 * read / READ) * outputs / 16)


@pytest.mark.parametrize("part", [0.8, 0.6, 0.4])
def test_lands_where_the_time_between_layers_follows_the_channels_and_narrow_layers_are_copied(part: float) -> None:
    """Nothing is fixed, and between a layer in blocks of sixteen channels and a narrower one the engine copies."""
    widths = (16, 32, 32, 64, 64, 128, 128, 64)

    def network_ms(allocation: Allocation) -> float:
        kept = [allocation.get(f"g{index}", width) for index, width in enumerate(widths)]
        pairs = list(itertools.pairwise(kept))
        copies = sum(0.004 * min(pair) for pair in pairs if (pair[0] % 16) != (pair[1] % 16))
        return 1.1 * sum(layer_ms(*pair) for pair in pairs) + 0.02 * sum(kept) + copies

    structure, original = chain(widths), outcome_of(network_ms({}))
    costs = LayerCosts({f"l{index}": cost(*pair) for index, pair in enumerate(itertools.pairwise(widths))}, 0.0)
    limits = Limits(latency_ms=part * original.latency_ms)
    controller = Knapsack(Problem(structure, scores_of(structure), limits, original, costs=costs))
    rounds = []
    while (allocation := controller.ask()) is not None:
        rounds.append(outcome_of(network_ms(allocation)))
        controller.tell(allocation, rounds[-1])
    good = [place for place, found in enumerate(rounds, 1) if 0.93 < utilisation(found, limits) <= 1]
    assert good
    assert good[0] <= 6


def test_scores_that_are_no_losses_do_not_empty_the_group_that_costs_most() -> None:
    """The first layers take nearly all the time: a sum of scores would leave them the fewest units there may be."""
    problem = problem_of(0.6)
    expensive = {name: dataclasses.replace(cost, over_outputs=tuple((n, 4 * ms) for n, ms in cost.over_outputs),
                                           over_inputs=tuple((n, 4 * ms) for n, ms in cost.over_inputs))
                 if name in ("l0", "l1") else cost
                 for name, cost in problem.costs.layers.items()}  # fmt: skip
    alike = {group.name: (1.0,) * group.size for group in problem.structure.groups}
    problem = dataclasses.replace(problem, scores=alike, costs=LayerCosts(expensive, 0.0))
    summed, multiplied = (
        Knapsack(dataclasses.replace(problem, scores_are_losses=are_losses)).ask() for are_losses in (True, False)
    )

    def least(allocation: Allocation) -> float:
        return min(allocation[f"g{index}"] / width for index, width in enumerate(WIDTHS))

    assert least(multiplied) >= 1.5 * least(summed)
