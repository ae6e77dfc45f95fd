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


@dataclass(frozen=True)
class Looks:
    """Looks at what was measured so far, at the numbers of processes that the effort names."""

    evidence: Evidence
    limits: Sequence[Limit]
    effort: Effort

    def is_enough(self, runs: Sequence[Sequence[ProcessRun]]) -> bool:
        """Say whether every limit is decided, or nothing more may be measured; runs are by network."""
        options, count = self.effort.options, len(runs[0])
        if count not in options.looks:
            return False
        is_last = count == options.looks[-1]
        estimates = estimate_all(self.seen(runs), self.limits)
        checks = judge_limits(self.limits, estimates.known, estimates.unknown, is_last)
        # What no measuring can tell is not waited for.
        undecided = [check for check in checks if check.outcome == "inconclusive" and check.estimate is not None]
        names = ", ".join(check.limit.name for check in undecided)
        self.effort.progress.say(f"{count} processes each: {f'{names} not clear yet' if undecided else 'all clear'}")
        return not undecided or is_last

    def seen(self, runs: Sequence[Sequence[ProcessRun]]) -> Evidence:
        """Return the evidence with what the processes of each network saw."""
        level = self.effort.options.level
        if len(runs) == 1:
            return replace(self.evidence, runs=runs[0], level=level)
        return replace(self.evidence, runs=runs[1], baseline_runs=runs[0], paired=True, level=level)


def measure_until_clear(evidence: Evidence, limits: Sequence[Limit], target: Target, effort: Effort) -> Evidence:
    """Measure the candidate, in turns with the baseline if its artifact is there, until all limits are decided.

    Raises BuildError when an artifact does not load, BoardError for the board.
    """
    baseline = evidence.baseline
    in_turns = baseline is not None and baseline.artifact_path is not None
    records = [baseline, evidence.candidate] if baseline is not None and in_turns else [evidence.candidate]
    looks = Looks(evidence, limits, effort)
    measured = measure_in_turns(
        [_path(record) for record in records], target, effort.measure, looks.is_enough, effort.progress
    )
    updated = [_profiled(record.measured_as(found), target) for record, found in zip(records, measured, strict=True)]
    seen = replace(looks.seen([found.runs for found in measured]), candidate=updated[-1])
    return replace(seen, baseline=updated[0]) if in_turns else seen


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
