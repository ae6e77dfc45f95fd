"""The bisect controller against boards whose latency is a known function of the allocation."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.contracts import SAFE_UTILISATION, Limits, Outcome, Problem, utilisation
from edgeprune.controllers.bisect import Bisect
from edgeprune.network.groups import Allocation, Group, Layer, Structure
from edgeprune.network.steps import ordered_steps

Latency = Callable[[Allocation], float]


def chain(widths: tuple[int, ...]) -> Structure:
    """A chain of layers, each of which writes one group and reads the one before."""
    groups = tuple(Group(f"g{index}", width, ()) for index, width in enumerate(widths))
    names = [None, *(group.name for group in groups)]
    layers = tuple(
        Layer(
            name=f"l{index}",
            kind="conv",
            macs=1000 * width,
            parameters=width,
            in_group=names[index],
            out_group=names[index + 1],
            in_parts=((names[index], 8),),
            out_parts=((names[index + 1], width),),
        )
        for index, width in enumerate(widths)
    )
    return Structure(groups, (), layers)


def problem_of(structure: Structure, latency: Latency, part: float, channel_multiple: int = 1) -> Problem:
    whole = {group.name: group.size for group in structure.groups}
    original = outcome_of(latency(whole))
    scores = {
        group.name: tuple(((unit * 7919 + place * 104729) % 1000) / 1000 for unit in range(group.size))
        for place, group in enumerate(structure.groups)
    }
    limits = Limits(latency_ms=part * original.latency_ms)
    return Problem(structure, scores, limits, original, channel_multiple, max_rounds=30)


def outcome_of(latency_ms: float) -> Outcome:
    return Outcome(latency_ms, (latency_ms, latency_ms), size_bytes=1, macs=1, parameters=1)


def searched(problem: Problem, latency: Latency) -> list[tuple[dict[str, int], float]]:
    controller = Bisect(problem)
    rounds = []
    while (allocation := controller.ask()) is not None:
        outcome = outcome_of(latency(allocation))
        controller.tell(allocation, outcome)
        rounds.append((dict(allocation), utilisation(outcome, problem.limits)))
    return rounds


def smooth(kept: Mapping[str, int]) -> float:
    return 0.2 + sum(kept.values()) / 100


def stairs(kept: Mapping[str, int]) -> float:
    """Widths are rounded up to eight, as vector units do."""
    return 0.2 + sum(-(-count // 8) * 8 for count in kept.values()) / 100


WIDTHS = (16, 32, 64, 32, 16, 48)


@pytest.mark.parametrize("part", [0.8, 0.6, 0.4])
@pytest.mark.parametrize("latency", [smooth, stairs])
def test_lands_in_the_window_below_the_limit(latency: Latency, part: float) -> None:
    rounds = searched(problem_of(chain(WIDTHS), latency, part), latency)
    assert max(used for _, used in rounds if used <= SAFE_UTILISATION) >= 0.9
    assert len(rounds) <= 8


@settings(max_examples=60, deadline=None)
@given(
    widths=st.lists(st.sampled_from([8, 16, 24, 64]), min_size=1, max_size=8),
    part=st.floats(0.3, 0.95),
    multiple=st.sampled_from([1, 4, 8]),
)
def test_every_allocation_is_legal_and_none_is_measured_twice(widths: list[int], part: float, multiple: int) -> None:
    structure = chain(tuple(widths))
    problem = problem_of(structure, stairs, part, multiple)
    rounds = searched(problem, stairs)
    sizes = {group.name: group.size for group in structure.groups}
    for allocation, _ in rounds:
        assert allocation.keys() == sizes.keys()
        assert all(1 <= kept <= sizes[name] for name, kept in allocation.items())
    asked = [tuple(sorted(allocation.items())) for allocation, _ in rounds]
    assert len(asked) == len(set(asked))


def test_an_impossible_budget_ends_at_the_smallest_network() -> None:
    structure = chain(WIDTHS)
    rounds = searched(problem_of(structure, smooth, 0.05), smooth)
    smallest = {group.name: -(-group.size // 10) for group in structure.groups}
    assert rounds[-1][0] == smallest
    assert all(used > 1 for _, used in rounds)


def test_a_budget_that_is_met_already_asks_for_nothing() -> None:
    assert searched(problem_of(chain(WIDTHS), smooth, 1.0), smooth) == []


def test_a_step_that_jumps_over_the_window_gives_way_to_finer_ones() -> None:
    def with_a_cliff(kept: Allocation) -> float:
        """Half of the time hangs on the first channel of one group."""
        return 1.0 + (1.0 if kept["g2"] == 64 else 0.0) + sum(kept.values()) / 1000

    problem = problem_of(chain(WIDTHS), with_a_cliff, 0.97)
    scores = {
        name: tuple(0.0 if name == "g2" else value + 1 for value in values) for name, values in problem.scores.items()
    }
    cliff_first = Problem(problem.structure, scores, problem.limits, problem.original, max_rounds=30)
    rounds = searched(cliff_first, with_a_cliff)
    assert 0.93 <= rounds[-1][1] <= 0.975
    assert rounds[-1][0]["g2"] == 64


def test_least_important_units_go_first() -> None:
    structure = chain((16, 16))
    problem = problem_of(structure, smooth, 0.8)
    scores = {"g0": tuple([0.1] * 16), "g1": tuple([0.9] * 16)}
    rounds = searched(Problem(structure, scores, problem.limits, problem.original, max_rounds=30), smooth)
    assert rounds[-1][0]["g1"] == 16
    assert rounds[-1][0]["g0"] < 16


def test_counts_are_multiples_of_what_the_target_likes() -> None:
    problem = problem_of(chain((64, 128)), stairs, 0.6, channel_multiple=8)
    rounds = searched(problem, stairs)
    assert rounds
    for allocation, _ in rounds:
        assert all(kept % 8 == 0 for kept in allocation.values())


def test_counts_below_the_multiple_are_its_halves() -> None:
    steps = ordered_steps(chain((16, 64)), {"g0": tuple([0.1] * 16), "g1": tuple([0.9] * 64)}, 16, per_mac=False)
    counts = [("g0", 8), ("g0", 4), ("g0", 2), ("g1", 48), ("g1", 32), ("g1", 16), ("g1", 8)]
    assert [(step.group, step.kept) for step in steps] == counts


def test_telling_the_trials_of_a_killed_search_continues_it() -> None:
    problem = problem_of(chain(WIDTHS), stairs, 0.5)
    whole = searched(problem, stairs)
    again = Bisect(problem)
    for allocation, _ in whole[:-1]:
        assert again.ask() == allocation
        again.tell(allocation, outcome_of(stairs(allocation)))
    assert again.ask() == whole[-1][0]


def test_losses_are_weighed_against_work_and_ranks_are_not() -> None:
    cheap, costly = Group("cheap", 16, (), macs=1), Group("costly", 16, (), macs=100)
    structure = Structure((cheap, costly), (), ())
    scores = {"cheap": tuple([1.0] * 16), "costly": tuple([2.0] * 16)}
    by_score = ordered_steps(structure, scores, 1, per_mac=False)
    by_loss_per_mac = ordered_steps(structure, scores, 1, per_mac=True)
    assert by_score[0].group == "cheap"
    assert by_loss_per_mac[0].group == "costly"
