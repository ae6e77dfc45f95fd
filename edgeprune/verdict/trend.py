"""How the latency of a model on a board went over time, and where it changed for good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from edgeprune.verdict.store import Entry

_SHORTEST = 3  # results between two changes
_PENALTY = 5.0  # times the variance and the logarithm of the number of results, for each change
_LEAST_CHANGE = 0.01
_SIGMA_OF_MAD = 1.4826


@dataclass(frozen=True)
class TrendPoint:
    """One stored result: its median latency with the 95 % interval, milliseconds."""

    recorded_at: str
    commit: str
    branch: str
    verdict: str
    latency_ms: float
    interval_ms: tuple[float, float]


@dataclass(frozen=True)
class Change:
    """The first result after a change, and by how much the latency changed (0.05 is 5 % slower)."""

    index: int
    commit: str
    recorded_at: str
    factor: float


def points_of(entries: Sequence[Entry], fingerprint: str) -> tuple[TrendPoint, ...]:
    """Return the results of one board whose latency is known, oldest first."""
    return tuple(
        TrendPoint(
            entry.recorded_at,
            entry.commit_sha,
            entry.branch,
            entry.verdict,
            entry.latency_p50_ms,
            (entry.latency_low_ms or entry.latency_p50_ms, entry.latency_high_ms or entry.latency_p50_ms),
        )
        for entry in entries
        if entry.fingerprint == fingerprint and entry.latency_p50_ms is not None
    )


def change_points(points: Sequence[TrendPoint]) -> tuple[Change, ...]:
    """Return where the level of the latency changed.

    Exact segmentation of the logarithms (PELT; Killick, Fearnhead, Eckley, "Optimal Detection of Changepoints With a
    Linear Computational Cost", JASA 2012, https://doi.org/10.1080/01621459.2012.737745). What scatters is learned from
    the differences of neighbours, which a change of level touches only once. Less than 1 % is not called a change.
    """
    if len(points) < 2 * _SHORTEST:
        return ()
    import numpy as np
    import ruptures

    logs = np.log([point.latency_ms for point in points])
    steps = np.abs(np.diff(logs))
    deviation = max(_SIGMA_OF_MAD * float(np.median(steps)) / math.sqrt(2), _noise(points), 1e-4)
    penalty = _PENALTY * deviation**2 * math.log(len(points))
    calm = logs.copy()  # a single odd result is no level: each takes the middle one of itself and its neighbours
    calm[1:-1] = np.median([logs[:-2], logs[1:-1], logs[2:]], axis=0)
    calm[0], calm[-1] = np.median(logs[:3]), np.median(logs[-3:])
    ends = ruptures.KernelCPD(kernel="linear", min_size=_SHORTEST).fit(calm[:, None]).predict(pen=penalty)
    levels = [float(np.median(logs[begin:end])) for begin, end in pairwise([0, *ends])]
    changes = []
    for index, before, after in zip(ends, levels, levels[1:], strict=False):
        factor = math.exp(after - before)
        if abs(factor - 1) >= _LEAST_CHANGE:
            changes.append(Change(index, points[index].commit, points[index].recorded_at, factor - 1))
    return tuple(changes)


def _noise(points: Sequence[TrendPoint]) -> float:
    """Return the standard deviation that the intervals of the single results promise."""
    halves = [math.log(point.interval_ms[1] / point.interval_ms[0]) / 2 for point in points]
    return median(halves) / 1.96
