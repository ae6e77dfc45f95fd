"""Decides whether a network keeps its limits: yes, no, or not to be known from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from edgeprune.verdict.gate_limits import Limit
from edgeprune.verdict.gate_reasons import Why
from edgeprune.verdict.record import Record
from edgeprune.verdict.result import Verdict
from edgeprune.verdict.trend import Change, TrendPoint

Outcome = Literal["pass", "fail", "inconclusive", "off"]
How = Literal["measured in turns", "measured", "stored samples", "stored numbers"]

_WORST_FIRST: tuple[Verdict, ...] = ("fail", "inconclusive", "pass")


@dataclass(frozen=True)
class Estimate:
    """A number in base units, and the interval that it lies in; the same three times where it is exact.

    `doubt` is a sentence where the interval cannot be trusted, because other processes slowed the board down.
    """

    value: float
    low: float
    high: float
    doubt: str = ""

    @classmethod
    def exactly(cls, value: float) -> Estimate:
        """Return a number that does not scatter."""
        return cls(value, value, value)


@dataclass(frozen=True)
class Check:
    """One limit and what came of it; `estimate` is None where nothing is known, and `sentence` says why."""

    limit: Limit
    outcome: Outcome
    estimate: Estimate | None
    sentence: str

    @property
    def counts(self) -> bool:
        """Whether it decides the verdict."""
        return self.limit.level == "error"


@dataclass(frozen=True)
class Effort:
    """How the numbers came about; `detectable` is the smallest slow-down that so many pairs find in 80 of 100 cases."""

    how: How
    pairs: int = 0
    detectable: float | None = None


@dataclass(frozen=True)
class Judgement:
    """What came of one network: its checks, against what, how they were measured, and what changed."""

    candidate: Record
    baseline: Record | None
    checks: tuple[Check, ...]
    effort: Effort
    why: Why = field(default_factory=Why)
    warnings: tuple[str, ...] = ()
    trend: tuple[TrendPoint, ...] = ()
    changes: tuple[Change, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst outcome of a limit at the level `error`."""
        return worst([check.outcome for check in self.checks if check.counts])


@dataclass(frozen=True)
class GateResult:
    """What came of all networks."""

    judgements: tuple[Judgement, ...]
    limits: str = ""
    command: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of any network."""
        return worst([judgement.verdict for judgement in self.judgements])


def worst(outcomes: Sequence[str]) -> Verdict:
    """Return the worst of several outcomes; without any, that is a pass."""
    return next((verdict for verdict in _WORST_FIRST if verdict in outcomes), "pass")


def judge_limits(
    limits: Sequence[Limit], estimates: Mapping[str, Estimate], unknown: Mapping[str, str], is_last: bool
) -> tuple[Check, ...]:
    """Decide every limit; estimates and the reasons why one is unknown go by the limit's name.

    `is_last` says that nothing more will be measured.
    """
    return tuple(_check(limit, estimates.get(limit.name), unknown.get(limit.name, ""), is_last) for limit in limits)


def decide_limit(limit: Limit, estimate: Estimate, is_last: bool) -> Outcome:
    """Decide one limit with effect size and confidence.

    The whole interval must lie on one side of the limit. Against a baseline there is one more way to fail, once
    nothing more will be measured: the candidate is surely slower, and could not show that the limit still holds.
    What may as well be no change at all never fails. In doubt only an absolute limit is decided, and only if it holds:
    on a quiet board the network would be faster still.
    """
    low, high = estimate.low, estimate.high
    if limit.metric.sign == ">=":
        low, high, bound = -high, -low, -limit.value
    else:
        bound = limit.value
    if estimate.doubt and limit.metric.against_baseline:
        return "inconclusive"
    if high <= bound:
        return "pass"
    if estimate.doubt:
        return "inconclusive"
    if low > bound or (is_last and limit.metric.against_baseline and low > 0):
        return "fail"
    return "inconclusive"


def _check(limit: Limit, estimate: Estimate | None, unknown: str, is_last: bool) -> Check:
    if limit.level == "off":
        return Check(limit, "off", estimate, "Switched off.")
    what = limit.metric.what
    what = what[0].upper() + what[1:]
    if estimate is None:
        return Check(limit, "inconclusive", None, f"{what}: not known, because {unknown or 'nothing measured it'}.")
    outcome = decide_limit(limit, estimate, is_last)
    said = f"{what}: {describe(limit, estimate)}"
    if outcome == "pass":
        return Check(limit, outcome, estimate, f"{said}; {limit.text} holds.")
    if outcome == "inconclusive" and estimate.doubt:
        return Check(limit, outcome, estimate, f"{said}; that says nothing about {limit.text}. {estimate.doubt}")
    if outcome == "inconclusive":
        return Check(limit, outcome, estimate, f"{said}; too coarse to say whether {limit.text} holds.")
    if limit.metric.against_baseline and estimate.low <= limit.value:
        sentence = f"{said}; surely worse than the baseline, and {limit.text} could not be shown to hold."
        return Check(limit, outcome, estimate, sentence)
    return Check(limit, outcome, estimate, f"{said}; {limit.text} does not hold.")


def describe(limit: Limit, estimate: Estimate) -> str:
    """Return a number in words, with its interval where it has one."""
    write = limit.metric.write
    if limit.in_points:
        return write(estimate.value).replace(" %", " points")
    if estimate.low == estimate.high:
        return write(estimate.value)
    return f"{write(estimate.value)} [{write(estimate.low)}, {write(estimate.high)}]"
