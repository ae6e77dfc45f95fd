import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.verdict.gate import Estimate, decide_limit, judge_limits, worst
from edgeprune.verdict.gate_limits import Limit

REGRESSION = Limit("latency_regression", "<= 3%", 0.03)
LATENCY = Limit("latency_p50", "<= 8ms", 8.0)
ACCURACY = Limit("accuracy", ">= 92%", 0.92)


@pytest.mark.parametrize(
    ("limit", "estimate", "is_last", "outcome"),
    [
        (LATENCY, (7.0, 6.9, 7.1), False, "pass"),
        (LATENCY, (8.0, 8.0, 8.0), False, "pass"),
        (LATENCY, (7.9, 7.7, 8.1), True, "inconclusive"),
        (LATENCY, (8.1, 7.9, 8.3), True, "inconclusive"),
        (LATENCY, (9.0, 8.5, 9.5), False, "fail"),
        (ACCURACY, (0.93, 0.93, 0.93), True, "pass"),
        (ACCURACY, (0.91, 0.91, 0.91), True, "fail"),
        (REGRESSION, (0.00, -0.02, 0.02), False, "pass"),
        (REGRESSION, (0.01, -0.02, 0.04), True, "inconclusive"),
        (REGRESSION, (0.03, 0.01, 0.05), False, "inconclusive"),
        (REGRESSION, (0.03, 0.01, 0.05), True, "fail"),
        (REGRESSION, (0.02, 0.015, 0.025), True, "pass"),
        (REGRESSION, (0.10, 0.08, 0.12), False, "fail"),
    ],
)
def test_a_limit_is_decided_by_the_whole_interval(limit, estimate, is_last, outcome):
    assert decide_limit(limit, Estimate(*estimate), is_last) == outcome


@pytest.mark.parametrize(
    ("limit", "estimate", "outcome"),
    [
        (LATENCY, (7.0, 6.9, 7.1), "pass"),
        (LATENCY, (9.0, 8.5, 9.5), "inconclusive"),
        (REGRESSION, (0.01, 0.005, 0.015), "inconclusive"),
        (REGRESSION, (0.10, 0.08, 0.12), "inconclusive"),
    ],
)
def test_times_of_a_busy_board_prove_only_that_a_network_is_fast_enough(limit, estimate, outcome):
    estimate = Estimate(*estimate, doubt="The board was busy.")
    assert decide_limit(limit, estimate, True) == outcome
    (check,) = judge_limits((limit,), {limit.name: estimate}, {}, is_last=True)
    assert (outcome == "pass") == ("The board was busy." not in check.sentence)


@given(st.floats(-0.5, 0.5), st.floats(0, 0.5), st.floats(0, 0.5), st.booleans())
def test_what_may_be_no_change_never_fails_and_what_may_be_over_never_passes(value, below, above, is_last):
    estimate = Estimate(value, value - below, value + above)
    outcome = decide_limit(REGRESSION, estimate, is_last)
    if estimate.low <= 0:
        assert outcome != "fail"
    if estimate.high > REGRESSION.value:
        assert outcome != "pass"


def test_sentences_name_the_value_and_the_limit():
    checks = judge_limits(
        (LATENCY, REGRESSION, ACCURACY),
        {"latency_p50": Estimate(9.0, 8.5, 9.5), "latency_regression": Estimate(0.025, 0.01, 0.04)},
        {"accuracy": "nothing was evaluated"},
        is_last=True,
    )
    assert [check.sentence for check in checks] == [
        "Median latency: 9.000 ms [8.500 ms, 9.500 ms]; <= 8ms does not hold.",
        "Slow-down against the baseline: +2.50 % [+1.00 %, +4.00 %]; surely worse than the baseline, and <= 3% could "
        "not be shown to hold.",
        "Accuracy: not known, because nothing was evaluated.",
    ]
    assert [check.outcome for check in checks] == ["fail", "fail", "inconclusive"]


def test_a_warning_does_not_count_and_off_is_not_decided():
    warning = Limit("size", "<= 1MB", 1e6, "warn")
    off = Limit("macs", "", 0.0, "off")
    found = {"size": Estimate.exactly(2e6), "macs": Estimate.exactly(1e9)}
    checks = judge_limits((warning, off), found, {}, is_last=True)
    assert [(check.outcome, check.counts) for check in checks] == [("fail", False), ("off", False)]


def test_an_open_interval_is_inconclusive():
    assert decide_limit(LATENCY, Estimate(7.0, 7.0, math.inf), True) == "inconclusive"


def test_the_worst_outcome_wins():
    assert worst(["pass", "inconclusive", "fail"]) == "fail"
    assert worst(["pass", "inconclusive", "off"]) == "inconclusive"
    assert worst(["off"]) == worst([]) == "pass"
