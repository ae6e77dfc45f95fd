"""Turns samples and counts into the numbers that limits are about, each with the interval that it lies in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeprune.bench import statistics
from edgeprune.bench.measurement import ProcessRun
from edgeprune.verdict.gate import Estimate
from edgeprune.verdict.gate_limits import Limit
from edgeprune.verdict.record import Record

_NO_SAMPLES = "there are no raw samples of it"
_CONFIDENCE = 0.95
_TIMES = frozenset({"latency_p50", "latency_p90", "startup", "latency_regression"})


@dataclass(frozen=True)
class Evidence:
    """What limits are judged by: both networks, the processes that were measured of each, the level of intervals.

    `paired` says that the processes of both were measured in turns.
    """

    candidate: Record
    baseline: Record | None = None
    runs: Sequence[ProcessRun] = ()
    baseline_runs: Sequence[ProcessRun] = ()
    paired: bool = False
    level: float = _CONFIDENCE

    @classmethod
    def stored(cls, candidate: Record, baseline: Record | None) -> Evidence:
        """Return what is known without measuring anything."""
        return cls(candidate, baseline, _stored_runs(candidate), _stored_runs(baseline))


@dataclass(frozen=True)
class Estimates:
    """What is known by the name of its limit, and why the rest is not."""

    known: Mapping[str, Estimate]
    unknown: Mapping[str, str]


class UnknownQuantityError(Exception):
    """Nothing says how large something is; the message says why."""


def estimate_all(evidence: Evidence, limits: Sequence[Limit]) -> Estimates:
    """Estimate what each limit is about."""
    known, unknown = {}, {}
    for limit in limits:
        if limit.level == "off":
            continue
        try:
            known[limit.name] = replace(_ESTIMATORS[limit.name](evidence, limit), doubt=_doubt(evidence, limit))
        except UnknownQuantityError as error:
            unknown[limit.name] = str(error)
    return Estimates(known, unknown)


def latency_factor(evidence: Evidence) -> Estimate:
    """Return the candidate's latency as a multiple of the baseline's."""
    first, second = _given(evidence.baseline_runs), _given(evidence.runs)
    if evidence.paired:
        differences = statistics.log_differences(first, second)
        low, high = statistics.mean_interval(differences, level=evidence.level)
        centre = float(differences.mean())
    else:
        logs = (statistics.process_logs(first), statistics.process_logs(second))
        centre, low, high = statistics.difference_interval(*logs, level=evidence.level)
    return Estimate(math.exp(centre), math.exp(low), math.exp(min(high, 700.0)))


def detectable(evidence: Evidence, pairs: int) -> float | None:
    """Return the smallest relative slow-down that so many pairs find in 80 of 100 cases, by what scatters here.

    None where too few processes were measured to know.
    """
    if evidence.paired:
        differences = statistics.log_differences(evidence.baseline_runs, evidence.runs)
        return statistics.smallest_detectable(float(differences.mean(axis=1).std(ddof=1)), pairs)
    spreads = [statistics.spread_between(runs) for runs in (evidence.runs, evidence.baseline_runs) if len(runs) > 1]
    return statistics.smallest_detectable(math.sqrt(2) * max(spreads), pairs) if spreads else None


def _median(evidence: Evidence, limit: Limit) -> Estimate:
    record = evidence.candidate
    if evidence.runs:
        samples = statistics.pooled_ms(evidence.runs)
        return Estimate(float(np.median(samples)), *statistics.median_interval_ms(evidence.runs, level=evidence.level))
    if record.latency_p50_ms is None or record.latency_interval_ms is None:
        raise UnknownQuantityError(_NO_SAMPLES)
    return Estimate(record.latency_p50_ms, *record.latency_interval_ms)


def _ninetieth(evidence: Evidence, limit: Limit) -> Estimate:
    runs = _given(evidence.runs)
    samples = statistics.pooled_ms(runs)
    value = statistics.supported_quantile(samples, 0.9, statistics.P90_SAMPLES)
    if value is None:
        raise UnknownQuantityError(f"{len(samples)} samples are too few, {statistics.P90_SAMPLES} are needed")
    quantiles = [float(np.quantile(statistics.pooled_ms([run]), 0.9)) for run in runs]
    return _spread(value, quantiles, evidence.level)


def _startup(evidence: Evidence, limit: Limit) -> Estimate:
    starts = [run.open_ms + run.first_ms for run in _given(evidence.runs)]
    return _spread(float(np.median(starts)), starts, evidence.level)


def _memory(evidence: Evidence, limit: Limit) -> Estimate:
    peaks = _peaks(evidence.runs)
    return _spread(float(np.median(peaks)), peaks, evidence.level)


def _slow_down(evidence: Evidence, limit: Limit) -> Estimate:
    factor = latency_factor(evidence)
    return Estimate(factor.value - 1, factor.low - 1, factor.high - 1)


def _memory_growth(evidence: Evidence, limit: Limit) -> Estimate:
    logs = [np.log(np.array(_peaks(runs)))[:, None] for runs in (evidence.baseline_runs, evidence.runs)]
    centre, low, high = statistics.difference_interval(logs[0], logs[1], level=evidence.level)
    return Estimate(math.expm1(centre), math.expm1(low), math.expm1(min(high, 700.0)))


def _size_growth(evidence: Evidence, limit: Limit) -> Estimate:
    return Estimate.exactly(evidence.candidate.size_bytes / max(_baseline(evidence).size_bytes, 1) - 1)


def _accuracy(evidence: Evidence, limit: Limit) -> Estimate:
    return Estimate.exactly(_evaluated(evidence.candidate.accuracy))


def _drop_from_original(evidence: Evidence, limit: Limit) -> Estimate:
    original = evidence.candidate.original_accuracy
    if original is None:
        raise UnknownQuantityError("only a run that evaluated its original says what was lost")
    return _loss(original, _evaluated(evidence.candidate.accuracy), limit)


def _drop_from_baseline(evidence: Evidence, limit: Limit) -> Estimate:
    before, after = _baseline(evidence).accuracy, evidence.candidate.accuracy
    return _loss(_evaluated(before), _evaluated(after), limit)


def _count(name: str) -> Callable[[Evidence, Limit], Estimate]:
    def estimate(evidence: Evidence, limit: Limit) -> Estimate:
        value = getattr(evidence.candidate, name)
        if value is None:
            raise UnknownQuantityError("the file does not say")
        return Estimate.exactly(value)

    return estimate


_ESTIMATORS: Mapping[str, Callable[[Evidence, Limit], Estimate]] = {
    "latency_p50": _median,
    "latency_p90": _ninetieth,
    "startup": _startup,
    "size": _count("size_bytes"),
    "peak_memory": _memory,
    "macs": _count("macs"),
    "parameters": _count("parameters"),
    "accuracy": _accuracy,
    "accuracy_drop": _drop_from_original,
    "latency_regression": _slow_down,
    "size_regression": _size_growth,
    "memory_regression": _memory_growth,
    "accuracy_regression": _drop_from_baseline,
}


def _doubt(evidence: Evidence, limit: Limit) -> str:
    if limit.name not in _TIMES:
        return ""
    doubt = statistics.waiting_doubt(evidence.runs)
    return doubt or (statistics.waiting_doubt(evidence.baseline_runs) if limit.metric.against_baseline else "")


def _loss(before: float, after: float, limit: Limit) -> Estimate:
    return Estimate.exactly(before - after if limit.in_points or before == 0 else 1 - after / before)


def _evaluated(accuracy: float | None) -> float:
    if accuracy is None:
        raise UnknownQuantityError("nothing was evaluated")
    return accuracy


def _given(runs: Sequence[ProcessRun]) -> Sequence[ProcessRun]:
    if not runs:
        raise UnknownQuantityError(_NO_SAMPLES)
    return runs


def _stored_runs(record: Record | None) -> Sequence[ProcessRun]:
    return record.measurement.runs if record is not None and record.measurement is not None else ()


def _peaks(runs: Sequence[ProcessRun]) -> list[int]:
    peaks = [run.peak_memory_bytes for run in _given(runs)]
    if min(peaks) <= 0:
        raise UnknownQuantityError("the target does not say how much memory a process took")
    return peaks


def _baseline(evidence: Evidence) -> Record:
    if evidence.baseline is None:
        raise UnknownQuantityError("there is no baseline")
    return evidence.baseline


def _spread(value: float, units: Sequence[float], level: float) -> Estimate:
    """Return the interval of a number that each process says once; one process leaves it open upwards."""
    if len(units) < 2:
        return Estimate(value, value, math.inf)
    low, high = np.exp(statistics.mean_interval(np.log(np.array(units, dtype=float))[:, None], level=level))
    return Estimate(value, min(float(low), value), max(float(high), value))
