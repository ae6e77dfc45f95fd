"""What the raw samples say: quantiles where there are enough, an interval that knows about processes, and doubts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgeprune.bench.measurement import ProcessRun

# Fewest samples from which a nearest-rank quantile is worth printing, at 99 % confidence.
P90_SAMPLES = 64
P99_SAMPLES = 662
_RESAMPLES = 2000
_DETECTION = 1.96 + 0.84  # normal quantiles: 95 % confidence, 80 % power
_WARM = 0.05
_DRIFT = 0.03
_OTHER_LOAD = 0.15
_WAITING = 0.05
_CLOCK_DROP = 0.05
_SPREAD = 0.10
_INTERVAL = 0.05

Floats = npt.NDArray[np.float64]


def pooled_ms(runs: Sequence[ProcessRun]) -> Floats:
    """Return every sample of every process in milliseconds, in the order taken."""
    return np.array([ns for run in runs for block in run.blocks for ns in block.samples_ns], dtype=np.float64) / 1e6


def nearest_rank(samples: Floats, part: float) -> float:
    """Return the smallest sample that at least this part of the samples does not exceed."""
    ordered = np.sort(samples)
    return float(ordered[max(math.ceil(part * len(ordered)), 1) - 1])


def supported_quantile(samples: Floats, part: float, needed: int) -> float | None:
    """Return the quantile, or None where there are fewer samples than it needs."""
    return nearest_rank(samples, part) if len(samples) >= needed else None


def median_interval_ms(runs: Sequence[ProcessRun], seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of the median latency by a bootstrap over processes with all their blocks.

    Samples of one process resemble each other, and processes differ: resampling single inferences would promise
    an interval several times too narrow. A block counts by its median; the plain median is always inside, between
    the two middle samples and as the sample at its nearest rank.
    """
    samples = pooled_ms(runs)
    centres = float(np.median(samples)), nearest_rank(samples, 0.5)
    low, high = np.exp(mean_interval(np.log(_block_medians_ms(runs)), seed, level))
    return min(float(low), *centres), max(float(high), *centres)


def mean_interval(blocks: Floats, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of the mean of (units, blocks), where blocks of one unit are not independent.

    A hierarchical bootstrap: units are drawn with replacement and keep their blocks, because drawing those again
    would count their scatter twice (Davison, Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8).
    Its standard error is widened for the few units by Student's t (Hesterberg, "What Teachers Should Know About the
    Bootstrap", The American Statistician 2015, https://doi.org/10.1080/00031305.2015.1089789). A single unit leaves
    only its blocks to draw from.
    """
    from scipy.special import stdtrit

    units = (blocks if len(blocks) > 1 else blocks.T).mean(axis=1)
    count = len(units)
    centre = float(units.mean())
    if count == 1:
        return centre, centre
    picked = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count))
    error = units[picked].mean(axis=1).std() * math.sqrt(count / (count - 1))
    reach = float(stdtrit(count - 1, (1 + level) / 2) * error)
    return centre - reach, centre + reach


def difference_interval(
    first: Floats, second: Floats, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Return how much larger the mean of the second (units, blocks) is, and the interval of that: value, low, high.

    For units that were not paired: both are drawn apart, and the few units widen the interval by Welch's degrees of
    freedom. A single unit on either side says nothing about how units differ, so its interval is infinite.
    """
    from scipy.special import stdtrit

    units = [blocks.mean(axis=1) for blocks in (first, second)]
    centre = float(units[1].mean() - units[0].mean())
    if min(map(len, units)) < 2:
        return centre, -math.inf, math.inf
    generator = np.random.default_rng(seed)
    variances = []
    for each in units:
        picked = generator.integers(len(each), size=(_RESAMPLES, len(each)))
        variances.append(float(each[picked].mean(axis=1).var()) * len(each) / (len(each) - 1))
    total = sum(variances)
    if total == 0:
        return centre, centre, centre
    parts = zip(variances, units, strict=True)
    freedom = total**2 / sum(variance**2 / (len(each) - 1) for variance, each in parts)
    reach = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(total)
    return centre, centre - reach, centre + reach


def process_logs(runs: Sequence[ProcessRun]) -> Floats:
    """Return the logarithm of each block's median in milliseconds: (processes, blocks)."""
    logs: Floats = np.log(_block_medians_ms(runs))
    return logs


def spread_between(runs: Sequence[ProcessRun]) -> float:
    """Return the standard deviation of the processes' logarithmic latencies; infinite for a single process."""
    return float(process_logs(runs).mean(axis=1).std(ddof=1)) if len(runs) > 1 else math.inf


def log_differences(first: Sequence[ProcessRun], second: Sequence[ProcessRun]) -> Floats:
    """Return how much longer the second takes than the first, as logarithms: (pairs of processes, blocks)."""
    differences: Floats = np.log(_block_medians_ms(second)) - np.log(_block_medians_ms(first))
    return differences


def smallest_detectable(deviation: float, pairs: int) -> float:
    """Return the smallest relative difference that so many pairs find in 80 of 100 cases.

    `deviation` is the standard deviation of one pair's logarithmic difference.
    """
    return math.expm1(_DETECTION * deviation / math.sqrt(pairs))


def drift(runs: Sequence[ProcessRun]) -> float:
    """Return how much slower the last third of a process was than its first third, as a factor; 1.0 is steady."""
    medians = _block_medians_ms(runs)
    third = max(medians.shape[1] // 3, 1)
    return float(np.median(medians[:, -third:].mean(axis=1) / medians[:, :third].mean(axis=1)))


def doubts(runs: Sequence[ProcessRun]) -> tuple[str, ...]:
    """Return what a reader should know before trusting the numbers, each with what to do about it."""
    judges = (
        _warmth_doubt,
        _drift_doubt,
        _load_doubt,
        waiting_doubt,
        _clock_doubt,
        _throttle_doubt,
        _spread_doubt,
        _interval_doubt,
    )
    found = [judge(runs) for judge in judges]
    return tuple(doubt for doubt in found if doubt)


def _warmth_doubt(runs: Sequence[ProcessRun]) -> str:
    """The first tenth of a steady process is like the rest."""
    excess = []
    for run in runs:
        samples = np.array([ns for block in run.blocks for ns in block.samples_ns])
        excess.append(float(np.median(samples[: max(len(samples) // 10, 1)]) / np.median(samples)) - 1)
    if np.median(excess) <= _WARM:
        return ""
    return f"The first timed inferences were {np.median(excess):.0%} slower than the rest: warm up for longer."


def _drift_doubt(runs: Sequence[ProcessRun]) -> str:
    factor = drift(runs)
    if abs(factor - 1) <= _DRIFT:
        return ""
    direction = "slower" if factor > 1 else "faster"
    return (
        f"Inferences became {abs(factor - 1):.1%} {direction} while measuring; let the board cool down and idle first."
    )


def _load_doubt(runs: Sequence[ProcessRun]) -> str:
    loads = [load for load in _telemetry(runs, "other_load") if load > _OTHER_LOAD]
    blocks = sum(len(run.blocks) for run in runs)
    if not loads:
        return ""
    return (
        f"Other processes kept up to {max(loads):.1f} cores busy during {len(loads)} of {blocks} blocks; "
        "stop them, or measure again later."
    )


def waiting_doubt(runs: Sequence[ProcessRun]) -> str:
    """Say that inferences often stood still because others had the cores; "" where they did not.

    Times are then mostly those of the scheduler: a network that computes 4 % longer takes 2 % longer where every
    inference waits as long as it computes.
    """
    waiting = _telemetry(runs, "waiting")
    if not waiting or np.median(waiting) <= _WAITING:
        return ""
    return f"Inferences waited {np.median(waiting):.0%} of the time for a core that other processes had; stop them."


def _clock_doubt(runs: Sequence[ProcessRun]) -> str:
    clocks = _telemetry(runs, "clock_mhz")
    if not clocks or min(clocks) >= (1 - _CLOCK_DROP) * max(clocks):
        return ""
    return (
        f"The clock moved between {min(clocks):.0f} and {max(clocks):.0f} MHz; "
        "set the governor to performance, or cool the board."
    )


def _throttle_doubt(runs: Sequence[ProcessRun]) -> str:
    looks = [block.telemetry.get("throttled") or () for run in runs for block in run.blocks]
    reasons = sorted({reason for look in looks for reason in look})
    if not reasons:
        return ""
    return (
        f"The board slowed itself down ({', '.join(reasons)}) during {sum(map(bool, looks))} of {len(looks)} blocks; "
        "cool it, and check its power supply."
    )


def _spread_doubt(runs: Sequence[ProcessRun]) -> str:
    low, middle, high = np.quantile(pooled_ms(runs), [0.25, 0.5, 0.75])
    if high - low <= _SPREAD * middle:
        return ""
    return f"The middle half of the samples spreads over {(high - low) / middle:.0%} of the median; the board is busy."


def _interval_doubt(runs: Sequence[ProcessRun]) -> str:
    low, high = median_interval_ms(runs)
    half = (high - low) / (high + low)
    if half <= _INTERVAL:
        return ""
    return f"The median is known to ±{half:.0%} only; more processes make it sharper."


def _block_medians_ms(runs: Sequence[ProcessRun]) -> Floats:
    return np.array([[np.median(block.samples_ns) for block in run.blocks] for run in runs]) / 1e6


def _telemetry(runs: Sequence[ProcessRun], key: str) -> list[float]:
    values = [block.telemetry.get(key) for run in runs for block in run.blocks]
    return [float(value) for value in values if value is not None]
