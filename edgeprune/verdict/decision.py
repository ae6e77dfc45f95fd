"""Is the finished network good enough: its measured costs against the limits, on one target or on several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeprune.contracts import Limits
from edgeprune.verdict.result import Costs, Verdict


@dataclass(frozen=True)
class Decision:
    """The verdict, one sentence per violation, and one sentence per limit that could not be decided."""

    verdict: Verdict
    violations: tuple[str, ...]
    doubts: tuple[str, ...]


def decide(limits: Limits, accuracy_floor: float | None, final: Costs) -> Decision:
    """Compare a finished network with its limits.

    A latency limit is on the median. A median above it fails; a median within it passes only when the whole
    interval is within it too, otherwise the measurement is too coarse for this limit: inconclusive.
    An accuracy limit on a network that was never evaluated is inconclusive too.
    """
    violations = [
        *_latency_violations(limits.latency_ms, final),
        *_count_violations("size", "bytes", limits.size_bytes, final.size_bytes),
        *_count_violations("work", "multiply-accumulates", limits.macs, final.macs),
        *_count_violations("memory of the network at its peak", "bytes", limits.memory_bytes, final.memory_bytes),
        *_accuracy_violations(accuracy_floor, final.accuracy),
    ]
    doubts = [*_latency_doubts(limits.latency_ms, final), *_accuracy_doubts(accuracy_floor, final.accuracy)]
    return Decision(_verdict(violations, doubts), tuple(violations), tuple(doubts))


def joined(decisions: Mapping[str, Decision]) -> Decision:
    """Return the decision on a network that must keep its limits on every target, by the targets' names."""
    violations = by_target({name: decision.violations for name, decision in decisions.items()})
    doubts = by_target({name: decision.doubts for name, decision in decisions.items()})
    return Decision(_verdict(violations, doubts), violations, doubts)


def by_target(sentences: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return all sentences; where there are several targets, each says which one it is about."""
    several = len(sentences) > 1
    return tuple(f"On {name}: {one}" if several else one for name, own in sentences.items() for one in own)


def _verdict(violations: Sequence[str], doubts: Sequence[str]) -> Verdict:
    return "fail" if violations else "inconclusive" if doubts else "pass"


def _latency_violations(limit_ms: float | None, final: Costs) -> list[str]:
    median = final.latency_p50_ms
    if limit_ms is None or median <= limit_ms:
        return []
    over = median / limit_ms - 1
    return [f"The median latency is {median:.4g} ms, {over:.1%} above the limit of {limit_ms:.4g} ms."]


def _latency_doubts(limit_ms: float | None, final: Costs) -> list[str]:
    median, high = final.latency_p50_ms, final.latency_interval_ms[1]
    if limit_ms is None or not median <= limit_ms < high:
        return []
    return [
        f"The median latency {median:.4g} ms is within the limit of {limit_ms:.4g} ms, but its interval reaches "
        f"{high:.4g} ms: measure longer or on a quieter machine, or ask for a lower latency in the search."
    ]


def _count_violations(what: str, unit: str, limit: float | None, value: int | None) -> list[str]:
    if limit is None or value is None or value <= limit:
        return []
    return [f"The {what} is {value:,} {unit}, {value / limit - 1:.1%} above the limit of {limit:,.0f}."]


def _accuracy_violations(floor: float | None, accuracy: float | None) -> list[str]:
    if floor is None or accuracy is None or accuracy >= floor:
        return []
    points = (floor - accuracy) * 100
    return [f"The accuracy is {accuracy:.2%}, {points:.2f} points below the floor of {floor:.2%}."]


def _accuracy_doubts(floor: float | None, accuracy: float | None) -> list[str]:
    if floor is None or accuracy is not None:
        return []
    return [f"The accuracy floor of {floor:.2%} was not checked, because no accuracy was measured: give --data."]
