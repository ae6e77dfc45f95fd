from __future__ import annotations

import json

from edgeprune.contracts import Limits, Outcome
from edgeprune.run.trial import Trial, best_of, kept_score

LIMITS = Limits(latency_ms=10.0)


def trial(index: int, latency_ms: float, score: float) -> Trial:
    return Trial(
        stage="search",
        index=index,
        allocation={"a": index},
        outcome=Outcome(latency_ms, (latency_ms - 1, latency_ms + 1), size_bytes=1, macs=2, parameters=3),
        drift=1.0,
        kept_score=score,
        feasible=latency_ms <= 10,
        plan="{}",
        measurement={"runs": []},
        proofs=({"what": "cut"},),
    )


def test_a_trial_comes_back_from_its_line() -> None:
    before = trial(1, 9.0, 0.5)
    assert Trial.from_json(json.loads(json.dumps(before.to_json()))) == before


def test_the_best_keeps_most_importance_at_a_safe_distance() -> None:
    trials = [trial(1, 12.0, 0.9), trial(2, 9.9, 0.8), trial(3, 9.5, 0.7), trial(4, 5.0, 0.4)]
    assert best_of(trials, LIMITS).index == 3


def test_without_a_feasible_one_the_nearest_is_best() -> None:
    assert best_of([trial(1, 20.0, 0.9), trial(2, 12.0, 0.2)], LIMITS).index == 2


def test_kept_score_is_the_part_of_importance_that_the_best_units_hold() -> None:
    scores = {"a": (1.0, 3.0, 0.0), "b": (4.0, 2.0)}
    assert kept_score(scores, {"a": 1}) == 0.9
    assert kept_score(scores, {}) == 1.0


def test_the_line_of_a_round_holds_its_numbers() -> None:
    assert trial(3, 9.0, 0.5).line(LIMITS) == "round 3: 9 ms [8, 10], 0.0 M MACs, 0.00 MB: 90.0% of the budget"
