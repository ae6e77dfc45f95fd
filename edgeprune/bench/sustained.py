"""Latency over a long time under load: how a board warms up, and what it slows down to."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from edgeprune.bench.measure import MeasureOptions, measure
from edgeprune.progress import Progress, Silent

if TYPE_CHECKING:
    from edgeprune.bench.measurement import Measurement
    from edgeprune.bench.target import Target

_POINTS = 120
_LEAST_POINT_S = 0.5
# Enough for a median; a small network runs millions of times.
_POINT_SAMPLES = 400
# The ends of the time that are compared.
_FIRST_PART, _LAST_PART = 0.1, 1 / 3


@dataclass(frozen=True)
class Point:
    """One stretch of time: when it ended, the median latency, and the board beside it (None where it does not say)."""

    at_s: float
    latency_ms: float
    clock_mhz: float | None
    temperature_c: float | None
    throttled: tuple[str, ...]


@dataclass(frozen=True)
class Sustained:
    """Latency over time from a cold start, without a pause."""

    measurement: Measurement
    points: tuple[Point, ...]

    @property
    def first_ms(self) -> float:
        """The median of the first tenth of the time."""
        return median(point.latency_ms for point in self.points[: max(round(_FIRST_PART * len(self.points)), 1)])

    @property
    def settled_ms(self) -> float:
        """The median of the last third of the time."""
        return median(point.latency_ms for point in self.points[-max(round(_LAST_PART * len(self.points)), 1) :])

    @property
    def throttled_from_s(self) -> float | None:
        """When the board first said that it slowed itself down, None where it never did."""
        return next((point.at_s for point in self.points if point.throttled), None)


def measure_sustained(artifact: Path, target: Target, duration_s: float, progress: Progress | None = None) -> Sustained:
    """Run one process without a pause for `duration_s`; raises BuildError and BoardError like `measure`."""
    count = max(min(_POINTS, int(duration_s / _LEAST_POINT_S)), 2)
    options = MeasureOptions(
        processes=1,
        blocks=count,
        block_runs=1,
        block_s=duration_s / count,
        block_kept=_POINT_SAMPLES,
        warmup_runs=1,
        warmup_s=0.0,
        timeout_s=2 * duration_s + 120.0,
    )
    measurement = measure(artifact, target, options, progress or Silent())
    points, at_s = [], 0.0
    for block in measurement.runs[0].blocks:
        at_s += block.telemetry["wall_s"]
        points.append(
            Point(
                at_s=at_s,
                latency_ms=median(block.samples_ns) / 1e6,
                clock_mhz=block.telemetry.get("clock_mhz"),
                temperature_c=block.telemetry.get("temperature_c"),
                throttled=tuple(block.telemetry.get("throttled") or ()),
            )
        )
    return Sustained(measurement, tuple(points))


def sustained_to_dict(sustained: Sustained) -> dict[str, Any]:
    """Return the curve and what it says as plain JSON types."""
    measurement = sustained.measurement
    return {
        "target": measurement.target,
        "kind": measurement.kind,
        "fingerprint": measurement.fingerprint,
        "runtime": measurement.runtime,
        "runtime_version": measurement.runtime_version,
        "artifact_sha256": measurement.artifact_sha256,
        "first_ms": sustained.first_ms,
        "settled_ms": sustained.settled_ms,
        "slowdown": sustained.settled_ms / sustained.first_ms,
        "throttled_from_s": sustained.throttled_from_s,
        "points": [asdict(point) for point in sustained.points],
        "warnings": list(measurement.warnings),
    }
