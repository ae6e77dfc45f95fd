"""The outer search on accuracy curves whose answer is known."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.run.drop_search import Answer, Ask, DropSearch


@dataclass(frozen=True)
class Curve:
    """Loses `size * (1 - part) ** bend` after a whole recovery, `short` times as much after a short one.

    Nothing is faster than `floor` of the original's latency.
    """

    size: float
    bend: float
    short: float = 3.0
    floor: float = 0.15
    noise: float = 0.0

    def loss(self, ask: Ask, chance: random.Random) -> float | None:
        if ask.part < self.floor:
            return None
        loss = self.size * (1 - ask.part) ** self.bend * (1.0 if ask.whole else self.short)
        return loss + chance.gauss(0, self.noise)

    def fastest(self, limit: float) -> float:
        return max(1 - (limit / self.size) ** (1 / self.bend), self.floor)


def searched(search: DropSearch, curve: Curve, seed: int = 0) -> list[Answer]:
    chance, answers = random.Random(seed), []
    while (ask := search.ask()) is not None:
        answers.append(Answer(ask.part, ask.whole, curve.loss(ask, chance)))
        search.tell(answers[-1])
        assert len(answers) < 25, "the search does not end"
    return answers


_curves = st.builds(
    Curve, st.floats(0.02, 0.6), st.floats(1.2, 3.5), st.floats(1.3, 8.0), st.floats(0.1, 0.35), st.floats(0, 0.002)
)


@settings(max_examples=300, deadline=None)
@given(_curves, st.sampled_from([0.002, 0.005, 0.01, 0.02, 0.03]), st.integers(0, 1000))
def test_what_is_returned_is_inside_and_recoveries_are_few(curve: Curve, limit: float, seed: int) -> None:
    search = DropSearch(limit)
    answers = searched(search, curve, seed)
    recovered = [answer for answer in answers if answer.loss is not None]
    assert sum(answer.whole for answer in recovered) <= 3
    assert sum(not answer.whole for answer in answers) <= 6
    if search.best is not None:
        assert search.best.loss is not None
        assert search.best.loss <= limit


def test_it_lands_near_the_fastest() -> None:
    """Over 300 curves: half of them within 5 % of the original's latency, and nearly all find something."""
    gaps, missed = [], 0
    for seed in range(300):
        chance = random.Random(seed)
        curve = Curve(chance.uniform(0.02, 0.6), chance.uniform(1.2, 3.5), chance.uniform(1.3, 8), 0.15, 0.001)
        search = DropSearch(0.01)
        searched(search, curve, seed)
        if search.best is None:
            missed += curve.fastest(0.01) < 0.85
        else:
            gaps.append(search.best.part - curve.fastest(0.01))
    assert sorted(gaps)[len(gaps) // 2] < 0.05
    assert sorted(gaps)[int(0.9 * len(gaps))] < 0.15
    assert missed == 0


def test_a_loss_that_nothing_avoids_ends_without_a_best() -> None:
    search = DropSearch(0.001)
    searched(search, Curve(size=5.0, bend=1.0))
    assert search.best is None
    assert search.mildest is not None
    assert search.mildest.part == pytest.approx(0.95, abs=0.05)


def test_where_nothing_is_that_fast_the_search_ends() -> None:
    search = DropSearch(0.01)
    answers = searched(search, Curve(size=0.1, bend=2.0, floor=2.0))
    assert all(answer.loss is None for answer in answers)
    assert search.best is None
    assert search.mildest is None


def test_without_training_every_answer_counts() -> None:
    search, curve = DropSearch(0.02, trains=False), Curve(size=0.3, bend=2.0)
    answers = searched(search, curve)
    assert all(answer.whole for answer in answers)
    assert search.best is not None
    assert math.isclose(search.best.part, curve.fastest(0.02), abs_tol=0.05)


def test_telling_a_new_search_the_same_answers_continues_it() -> None:
    curve, whole = Curve(size=0.3, bend=2.0), DropSearch(0.01)
    answers = searched(whole, curve)
    for told in range(len(answers)):
        again = DropSearch(0.01)
        for answer in answers[:told]:
            again.ask()
            again.tell(answer)
        ask = again.ask()
        assert ask == Ask(answers[told].part, answers[told].whole)
