"""Finds what a candidate is compared with, and refuses what cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeprune.errors import UsageError
from edgeprune.gating.estimates import Evidence
from edgeprune.gating.inputs import read_records
from edgeprune.gating.revision import commit_of
from edgeprune.verdict.gate_limits import Limit
from edgeprune.verdict.record import Record
from edgeprune.verdict.store import Entry, Store, matching


def find(asked: str, candidate: Record, store: Store | None, target: str | None) -> Record:
    """Return the baseline: a result by its path, else the latest of a branch or commit from the store.

    Raises UsageError where there is none, or none of the candidate's target.
    """
    path = Path(asked)
    if path.exists():
        return _from_path(path, candidate, target)
    entries = store.entries(candidate.model, candidate.target) if store is not None else []
    if not entries and (path.suffix or len(path.parts) > 1):
        raise UsageError(f"There is no baseline {asked}. Give a result, or a branch that the store knows.")
    found = matching(entries, asked, commit_of(asked))
    if not found:
        where = store.path if store is not None else "a store"
        known = sorted({entry.branch for entry in entries if entry.branch})
        raise UsageError(
            f"{where} holds no result of {asked!r} for {candidate.model} on {candidate.target} "
            f"(branches there: {', '.join(known) or 'none'}). Keep one first: edgeprune history --add RESULT"
        )
    return _latest(found, candidate).record()


def refuse_other_board(evidence: Evidence, limits: Sequence[Limit]) -> None:
    """Refuse to compare times of different boards; raises UsageError naming what differs."""
    candidate, baseline = evidence.candidate, evidence.baseline
    timed = [
        limit.name
        for limit in limits
        if limit.name in ("latency_regression", "memory_regression") and limit.level != "off"
    ]
    if baseline is None or not timed or not candidate.fingerprint or not baseline.fingerprint:
        return
    if candidate.fingerprint != baseline.fingerprint:
        raise UsageError(
            f"{candidate.source} was measured on board {candidate.fingerprint}, its baseline {baseline.source} on "
            f"board {baseline.fingerprint}: {_differences(candidate, baseline)}. "
            "Times of different boards are never compared; measure both on one."
        )


def _from_path(path: Path, candidate: Record, target: str | None) -> Record:
    records = read_records(path, target or candidate.target, None)
    same = [record for record in records if record.target == candidate.target]
    if not same:
        raise UsageError(
            f"The baseline {path} is of target {records[0].target}, {candidate.source} of {candidate.target}. "
            "Times of different boards are never compared; give a baseline of the same target."
        )
    named = [record for record in same if record.model == candidate.model]
    return (named or same)[-1]


def _latest(entries: Sequence[Entry], candidate: Record) -> Entry:
    """Return the latest entry of the candidate's board, or the latest of all where none is of that board."""
    same = [entry for entry in entries if entry.fingerprint == candidate.fingerprint]
    return (same or entries)[-1]


def _differences(candidate: Record, baseline: Record) -> str:
    """Return what differs between two boards, in words."""
    if candidate.measurement is None or baseline.measurement is None:
        return "nothing says how they differ"
    before, after = baseline.measurement.environment, candidate.measurement.environment
    names = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    return "; ".join(f"{name} {before.get(name)!r} and {after.get(name)!r}" for name in names) or "the same facts"
