"""A measurement and a comparison as text for a person."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from edgeprune.bench.calibration import Calibration
from edgeprune.bench.comparison import Comparison
from edgeprune.bench.measurement import Measurement, ProcessRun
from edgeprune.bench.statistics import P90_SAMPLES, P99_SAMPLES, smallest_detectable, spread_between
from edgeprune.bench.sustained import Sustained

# Numbers of processes of each file for which a calibration says what can be seen.
_EFFORTS = (6, 10, 20, 40)


def render_measurement(measurement: Measurement, calibration: Calibration | None = None) -> str:
    """Return aligned lines: latency with its interval, tails where the sample supports them, cold start, doubts.

    What difference to another measurement like this one could be seen comes from a calibration of the board, or else
    from how far these processes lie apart.
    """
    runs = measurement.runs
    count = sum(len(block.samples_ns) for run in runs for block in run.blocks)
    low, high = measurement.latency_interval_ms
    rows = [
        ("target", f"{measurement.target} ({measurement.kind}), board {measurement.fingerprint}"),
        ("engine", f"{measurement.runtime} {measurement.runtime_version}"),
        *_engine_rows(measurement.environment.get("engine", {})),
        ("p50", f"{_ms(measurement.latency_p50_ms)}   95 % interval {_ms(low)} to {_ms(high)}"),
        ("p90", _tail(measurement.latency_p90_ms, count, P90_SAMPLES)),
        ("p99", _tail(measurement.latency_p99_ms, count, P99_SAMPLES)),
        ("min", _ms(measurement.latency_min_ms)),
        ("cold start", _cold_start([run.open_ms for run in runs], [run.first_ms for run in runs])),
        ("peak memory", f"{max(run.peak_memory_bytes for run in runs) / 1e6:.0f} MB"),
        ("file", f"{measurement.size_bytes:,} bytes, sha256 {measurement.artifact_sha256[:16]}"),
        ("samples", f"{count} in {len(runs)} processes, {sum(len(run.blocks) for run in runs)} blocks"),
        *(_differences(calibration, len(runs)) or _own_differences(runs)),
        *(("note", warning) for warning in measurement.warnings),
    ]
    return "\n".join(f"{label:<12} {text}" for label, text in rows)


def _engine_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return one row for each count that the engine gives: operators by provider, layers by number type."""
    counts = {name: value for name, value in facts.items() if isinstance(value, Mapping) and value}
    return [
        (name, ", ".join(f"{part} {count or ''}".strip() for part, count in counts[name].items())) for name in counts
    ]


def render_comparison(comparison: Comparison, artifacts: Sequence[Path], calibration: Calibration | None = None) -> str:
    """Return a sentence, then aligned lines with the numbers behind it."""
    effect = comparison.effect
    low, high = (bound - 1 for bound in effect.interval)
    rows = [
        ("target", f"{comparison.target} ({comparison.kind}), board {comparison.fingerprint}"),
        ("A", f"{_ms(comparison.first.latency_p50_ms)}   {artifacts[0]}"),
        ("B", f"{_ms(comparison.second.latency_p50_ms)}   {artifacts[1]}"),
        ("B against A", f"{effect.latency_factor - 1:+.2%}   95 % interval {low:+.2%} to {high:+.2%}"),
        ("effort", f"{effect.pairs} processes of each, in turns; finds differences from {effect.detectable:.1%}"),
        *_differences(calibration, effect.pairs),
        *(("note", warning) for warning in comparison.warnings),
    ]
    return "\n".join([_sentence(comparison), *(f"{label:<12} {text}" for label, text in rows)])


def render_calibration(calibration: Calibration) -> str:
    """Return what differences the board can show, and whether a file seemed to differ from itself."""
    low, high = (bound - 1 for bound in calibration.interval)
    rows = [
        ("target", f"{calibration.target} ({calibration.kind}), board {calibration.fingerprint}"),
        ("A/A", f"{calibration.latency_factor - 1:+.2%}   95 % interval {low:+.2%} to {high:+.2%}"),
        ("effort", f"{calibration.pairs} pairs of processes of one file"),
    ]
    rows += [("differences", f"from {calibration.detectable(n):.1%} on with {n} processes of each") for n in _EFFORTS]
    if not calibration.is_fair:
        rows.append(
            ("note", "The file seemed to differ from itself: something on the board changes while it measures.")
        )
    return "\n".join(f"{label:<12} {text}" for label, text in rows)


def render_sustained(sustained: Sustained) -> str:
    """Return how latency went on under load, in aligned lines."""
    measurement, points = sustained.measurement, sustained.points
    temperatures = [point.temperature_c for point in points if point.temperature_c is not None]
    begin_s = sustained.throttled_from_s
    rows = [
        ("target", f"{measurement.target} ({measurement.kind}), board {measurement.fingerprint}"),
        ("engine", f"{measurement.runtime} {measurement.runtime_version}"),
        ("time", f"{points[-1].at_s / 60:.1f} min without a pause, {len(points)} points"),
        ("at first", f"{_ms(sustained.first_ms)}   median of the first tenth"),
        (
            "settled",
            f"{_ms(sustained.settled_ms)}   median of the last third: "
            f"{sustained.settled_ms / sustained.first_ms - 1:+.1%}",
        ),
        ("heat", f"{temperatures[0]:.0f} to {max(temperatures):.0f} °C" if temperatures else "the board does not say"),
        ("slowed down", "never" if begin_s is None else f"from {begin_s / 60:.1f} min on"),
        *(("note", warning) for warning in measurement.warnings),
    ]
    return "\n".join(f"{label:<12} {text}" for label, text in rows)


def _differences(calibration: Calibration | None, processes: int) -> list[tuple[str, str]]:
    if calibration is None:
        return []
    seen = f"from {calibration.detectable(processes):.1%} on with {processes} processes of each"
    return [("differences", f"{seen} (calibrated {calibration.measured_on})")]


def _own_differences(runs: Sequence[ProcessRun]) -> list[tuple[str, str]]:
    if len(runs) < 2:
        return []
    seen = smallest_detectable(math.sqrt(2) * spread_between(runs), len(runs))
    return [("differences", f"from about {seen:.1%} on with {len(runs)} processes of each (by their own scatter)")]


def _sentence(comparison: Comparison) -> str:
    effect = comparison.effect
    size, margin = abs(effect.latency_factor - 1), comparison.margin
    sentences = {
        "faster": f"B is faster than A: it takes {size:.1%} less time.",
        "slower": f"B is slower than A: it takes {size:.1%} more time.",
        "no difference": f"No difference: B takes as long as A, within {margin * 100:.2g} %.",
        "inconclusive": "Inconclusive: this target scatters too much to say. Let it idle and cool, or allow a larger "
        f"--margin than {margin * 100:.2g}%.",
    }
    return sentences[effect.verdict]


def _ms(value: float) -> str:
    return f"{value:.3f} ms" if value < 100 else f"{value:.1f} ms"


def _tail(value_ms: float | None, count: int, needed: int) -> str:
    return f"not shown: {count} samples, {needed} are needed" if value_ms is None else _ms(value_ms)


def _cold_start(open_ms: Sequence[float], first_ms: Sequence[float]) -> str:
    opening, first = median(open_ms), median(first_ms)
    return f"{_ms(opening + first)}   {_ms(opening)} to load the engine and the file, {_ms(first)} first inference"
