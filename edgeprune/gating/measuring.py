"""Measures what a gate needs to know, and measures more until every limit is decided or the cap is reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgeprune.bench.comparison import CompareOptions
from edgeprune.bench.measure import MeasureOptions, measure_in_turns, profile_on_target
from edgeprune.bench.measurement import ProcessRun
from edgeprune.errors import BoardError, BuildError, UsageError
from edgeprune.gating.estimates import Evidence, estimate_all
from edgeprune.progress import Progress, Silent
from edgeprune.verdict.gate import judge_limits
from edgeprune.verdict.gate_limits import DEFAULT_PAIRS, Limit
from edgeprune.verdict.record import Record

if TYPE_CHECKING:
    from pathlib import Path

    from edgeprune.bench.target import Target

_LOOKS = (6, 10, 16, 26)


@dataclass(frozen=True)
class Effort:
    """How much to measure at most: processes of each network, and how long each looks."""

    pairs: int = DEFAULT_PAIRS
    measure: MeasureOptions = field(default_factory=lambda: MeasureOptions(blocks=3))
    progress: Progress = field(default_factory=Silent)

    @property
    def options(self) -> CompareOptions:
        """When to look, and the level of the interval at each look."""
        looks = (*(look for look in _LOOKS if look < self.pairs), self.pairs)
        return CompareOptions(looks=looks, measure=self.measure)


def measure_until_clear(evidence: Evidence, limits: Sequence[Limit], target: Target, effort: Effort) -> Evidence:
    """Measure the candidate, in turns with the baseline if there is one, until all limits are decided.

    Raises BuildError when an artifact does not load, BoardError for the board.
    """
    options = effort.options
    records = [record for record in (evidence.baseline, evidence.candidate) if record is not None]
    artifacts = [_path(record) for record in records]
    timed = [limit for limit in limits if limit.level != "off"]

    def is_enough(runs: Sequence[Sequence[ProcessRun]]) -> bool:
        pairs = len(runs[0])
        if pairs not in options.looks:
            return False
        found = _seen(evidence, runs, options.level)
        estimates = estimate_all(found, timed)
        checks = judge_limits(timed, estimates.known, estimates.unknown, is_last=pairs == options.looks[-1])
        # What no measuring can tell is not waited for.
        undecided = [check for check in checks if check.outcome == "inconclusive" and check.estimate is not None]
        open_names = ", ".join(check.limit.name for check in undecided)
        effort.progress.say(f"{pairs} processes each: {f'{open_names} not clear yet' if undecided else 'all clear'}")
        return not undecided or pairs == options.looks[-1]

    measured = measure_in_turns(artifacts, target, options.measure, is_enough, effort.progress)
    updated = [_profiled(record.measured_as(found), target) for record, found in zip(records, measured, strict=True)]
    baseline = updated[0] if evidence.baseline is not None else None
    return _seen(replace(evidence, candidate=updated[-1], baseline=baseline), [m.runs for m in measured], options.level)


def _seen(evidence: Evidence, runs: Sequence[Sequence[ProcessRun]], level: float) -> Evidence:
    """Return the evidence with what the processes of each saw so far."""
    if evidence.baseline is None:
        return replace(evidence, runs=runs[0], level=level)
    return replace(evidence, runs=runs[1], baseline_runs=runs[0], paired=True, level=level)


def _path(record: Record) -> Path:
    path = record.artifact_path
    if path is None:
        raise UsageError(f"The artifact of {record.source} is not there any more, so it cannot be measured.")
    return path


def _profiled(record: Record, target: Target) -> Record:
    """Add milliseconds by layer; a gate is not lost over them."""
    try:
        return replace(record, layers_ms=profile_on_target(_path(record), target) or record.layers_ms)
    except (BoardError, BuildError) as error:
        return replace(record, warnings=(*record.warnings, f"No times by layer: {error}"))
