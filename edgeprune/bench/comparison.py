"""Which of two artifacts is faster on a target: measured in turns until the answer is clear, or not to be had."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeprune.bench.measure import MeasureOptions, measure_in_turns
from edgeprune.bench.measurement import Measurement, ProcessRun, measurement_to_dict
from edgeprune.errors import UsageError
from edgeprune.progress import Progress, Silent

if TYPE_CHECKING:
    from edgeprune.bench.target import Target

Verdict = Literal["faster", "slower", "no difference", "inconclusive"]

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class CompareOptions:
    """When to stop: at one of the `looks` (pairs of processes, one of each artifact), once the answer is clear.

    Differences smaller than `margin` (0.02 is 2 %) either way count as none. Every look could err, so each is held
    to a stricter level, and all of them together to 95 % (Bonferroni).
    """

    margin: float = 0.02
    looks: tuple[int, ...] = (6, 10, 16, 26, 40)
    measure: MeasureOptions = field(default_factory=lambda: MeasureOptions(blocks=3))

    def __post_init__(self) -> None:
        """Refuse what decides nothing; raises UsageError."""
        if not 0 < self.margin < 1:
            raise UsageError(f"The margin is {self.margin:g}; it must lie between 0 and 1, such as 0.02 for 2 %.")
        if not self.looks or self.looks[0] < 2 or list(self.looks) != sorted(set(self.looks)):
            raise UsageError(f"The looks {self.looks} must be rising numbers of pairs, of at least 2.")

    @property
    def level(self) -> float:
        """The level of the interval at each look."""
        return 1 - (1 - _CONFIDENCE) / len(self.looks)


@dataclass(frozen=True)
class Effect:
    """How the second artifact compares with the first: its latency as a multiple of the first's, with an interval.

    `detectable` is the smallest relative difference that the same effort finds in 80 of 100 cases.
    """

    verdict: Verdict
    latency_factor: float
    interval: tuple[float, float]
    pairs: int
    detectable: float


@dataclass(frozen=True)
class Comparison:
    """The effect, what was asked for, and both measurements with their raw samples."""

    target: str
    kind: Literal["real", "icount", "emulated"]
    fingerprint: str
    margin: float
    effect: Effect
    first: Measurement
    second: Measurement

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know of either measurement."""
        return tuple(dict.fromkeys((*self.first.warnings, *self.second.warnings)))


def compare(
    first: Path,
    second: Path,
    target: Target,
    options: CompareOptions | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Measure two artifacts in turns, A B B A, until it is clear whether the second is faster, slower or neither.

    Raises BuildError and BoardError like `measure`.
    """
    options = options or CompareOptions()
    reporter = progress or Silent()

    def is_enough(runs: Sequence[Sequence[ProcessRun]]) -> bool:
        pairs = len(runs[0])
        if pairs not in options.looks:
            return False
        effect = judge(runs[0], runs[1], options)
        reporter.say(f"{pairs} pairs: {describe_effect(effect)}")
        return effect.verdict != "inconclusive" or pairs == options.looks[-1]

    a, b = measure_in_turns([first, second], target, options.measure, is_enough, reporter)
    return Comparison(
        target=a.target,
        kind=a.kind,
        fingerprint=a.fingerprint,
        margin=options.margin,
        effect=judge(a.runs, b.runs, options),
        first=a,
        second=b,
    )


def judge(first: Sequence[ProcessRun], second: Sequence[ProcessRun], options: CompareOptions) -> Effect:
    """Decide from pairs of processes that were measured beside each other.

    "no difference" is a finding: the whole interval lies inside the margin. What neither that nor a difference
    explains is inconclusive.
    """
    from edgeprune.bench.statistics import log_differences, mean_interval, smallest_detectable

    differences = log_differences(first, second)
    low, high = mean_interval(differences, level=options.level)
    reach = math.log1p(options.margin)
    verdict: Verdict = "inconclusive"
    if -reach < low and high < reach:
        verdict = "no difference"
    elif low > 0 or high < 0:
        verdict = "slower" if low > 0 else "faster"
    return Effect(
        verdict=verdict,
        latency_factor=math.exp(float(differences.mean())),
        interval=(math.exp(low), math.exp(high)),
        pairs=len(differences),
        detectable=smallest_detectable(float(differences.mean(axis=1).std(ddof=1)), len(differences)),
    )


def describe_effect(effect: Effect) -> str:
    """Return the latency of the second relative to the first, in words and percent."""
    low, high = (bound - 1 for bound in effect.interval)
    return f"{effect.latency_factor - 1:+.2%} [{low:+.2%}, {high:+.2%}], {effect.verdict}"


def comparison_to_dict(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison with all raw samples as plain JSON types."""
    return {
        "target": comparison.target,
        "kind": comparison.kind,
        "fingerprint": comparison.fingerprint,
        "margin": comparison.margin,
        **asdict(comparison.effect),
        "warnings": list(comparison.warnings),
        "first": measurement_to_dict(comparison.first),
        "second": measurement_to_dict(comparison.second),
    }
