"""The benchmarks of controllers on one network and board: the exact planner lands under every budget."""

from __future__ import annotations

import pytest

from benchmarks.controllers import Bench, Subject, prepared, search, table
from benchmarks.planning import plan
from benchmarks.planning import table as planning_table
from benchmarks.uniform_cut import Point, as_important, page
from edgeprune.bench.target import load_target
from edgeprune.progress import Silent

BOARD = "emulated-raspberry-pi-4"


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return prepared("resnet20", tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def bench(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(subject, load_target(BOARD), tmp_path_factory.mktemp("bench"), Silent())


@pytest.mark.parametrize("part", [0.8, 0.6, 0.4])
def test_the_exact_planner_lands_under_the_budget(bench: Bench, subject: Subject, part: float) -> None:
    """In truth, which only the emulated board knows; or nothing better fits."""
    cell = search(bench, subject, BOARD, part, "knapsack")
    assert 0.9 < cell.used <= 1
    assert cell.landed_after is not None or "better network" in cell.ending
    assert cell.rounds <= 8
    assert f"| {cell.rounds}, {cell.rounds} | 0 |" in table([cell])


def test_the_page_keeps_apart_what_nobody_met(bench: Bench, subject: Subject) -> None:
    cell = search(bench, subject, BOARD, 0.03, "knapsack")
    assert cell.used > 1
    page = table([cell])
    assert "| knapsack |" not in page
    assert f"{cell.rounds} measurements: the smallest network that was tried still takes" in page


def test_exact_planning_keeps_at_least_what_greedy_planning_keeps(bench: Bench) -> None:
    planned = plan("resnet20", bench, 0.6)
    assert planned.greedy_kept is not None
    assert planned.exact_kept >= planned.greedy_kept - 1e-3
    assert "| resnet20 | 60% | 12 |" in planning_table([planned])


def test_a_uniform_cut_is_compared_with_a_network_that_keeps_as_much() -> None:
    alike = [Point("every layer alike", 1.0, 10.0, 100, 1.0), Point("every layer alike", 0.8, 10.1, 64, 0.9)]
    ours = [Point("by measured milliseconds", part, ms, 50, kept) for part, ms, kept in ((0.8, 8, 0.95), (0.5, 5, 0.8))]
    assert as_important([*alike, *ours], 0.9) == ours[0]
    words = " ".join(page([*alike, *ours]).split())
    assert "takes 10.10 ms (+1.0%)" in words
    assert "takes 8.00 ms (-20.0%)" in words


def test_the_whole_network_takes_all_of_its_own_time(bench: Bench) -> None:
    assert bench.true_part({}) == 1
    assert bench.original.latency_ms == pytest.approx(bench.true_ms({}), rel=0.05)
