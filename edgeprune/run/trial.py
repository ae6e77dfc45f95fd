"""One finished round as data, the way it stands in `trials.jsonl`, and the choice among rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from edgeprune.contracts import Limits, Outcome, Problem, is_safe, utilisation
from edgeprune.network.groups import Allocation, Scores

# A prediction that is missed by less is within the noise of a quick measurement.
_SLOWER_THAN_EXPECTED = 1.03


@dataclass(frozen=True)
class Trial:
    """One measured network.

    `outcome` is what the controller is told: its latency is the measured median divided by `drift`, which is how
    much slower the original, measured beside it, was than at the start (1 where it was not measured beside it).
    `kept_score` is the kept part of all importance. `expected_ms` is what the controller predicted, None where it does
    not predict; `rejected` says why the network is not what was looked for, "" where it may be. `elsewhere` holds for
    each further target its `target`, `drift`, `measurement` and `proofs`.
    """

    stage: str
    index: int
    allocation: Mapping[str, int]
    outcome: Outcome
    drift: float
    kept_score: float
    feasible: bool
    plan: str
    measurement: Mapping[str, Any]
    proofs: tuple[Mapping[str, Any], ...] = ()
    expected_ms: float | None = None
    rejected: str = ""
    elsewhere: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the trial as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trial:
        """Read a trial back."""
        tuples = {name: tuple(data.get(name, ())) for name in ("proofs", "elsewhere")}
        return cls(**{**data, "outcome": _outcome(data["outcome"]), **tuples})

    @property
    def key(self) -> frozenset[tuple[str, int]]:
        """The allocation as something to look up."""
        return key_of(self.allocation)

    def judged(self, limits: Limits) -> Trial:
        """Return the trial as other limits see it."""
        return replace(self, feasible=utilisation(self.outcome, limits) <= 1)

    def line(self, limits: Limits) -> str:
        """Return one line for a person who follows the search."""
        outcome = self.outcome
        low, high = outcome.latency_interval_ms
        used = f"{utilisation(outcome, limits):.1%} of the budget" if self.stage == "search" else "the original"
        elsewhere = "".join(
            f"{other.latency_ms:.3g} ms on {found['target']}, "
            for other, found in zip(outcome.others, self.elsewhere, strict=True)
        )
        return (
            f"round {self.index}: {outcome.latency_ms:.3g} ms [{low:.3g}, {high:.3g}], {elsewhere}"
            f"{outcome.macs / 1e6:.1f} M MACs, {outcome.size_bytes / 1e6:.2f} MB: {used}"
            + (f"; rejected: {self.rejected}" if self.rejected else "")
        )


@dataclass(frozen=True)
class Searched:
    """All trials of a search, the original first, and in a few words why it ended, where the controller says so."""

    trials: tuple[Trial, ...]
    ending: str = ""


def _outcome(data: Mapping[str, Any]) -> Outcome:
    low, high = data["latency_interval_ms"]
    others = tuple(_outcome(other) for other in data["others"])
    return Outcome(**{**data, "latency_interval_ms": (low, high), "others": others})


def key_of(allocation: Allocation) -> frozenset[tuple[str, int]]:
    """Return an allocation as something to look up."""
    return frozenset(allocation.items())


def kept_score(scores: Scores, allocation: Allocation) -> float:
    """Return the part of all importance that an allocation keeps when the best units stay."""
    kept = sum(
        sum(sorted(values, reverse=True)[: allocation.get(name, len(values))]) for name, values in scores.items()
    )
    total = sum(sum(values) for values in scores.values())
    return kept / total if total else 1.0


def objection(outcome: Outcome, problem: Problem, expected_ms: float | None) -> str:
    """Return why a candidate is rejected: over a limit, and slower than predicted or than the uncut network; or ""."""
    used = utilisation(outcome, problem.limits)
    if used <= 1:
        return ""
    reasons = [f"{used - 1:.1%} over the budget"]
    if expected_ms is not None and outcome.latency_ms > expected_ms * _SLOWER_THAN_EXPECTED:
        reasons.append(f"{outcome.latency_ms / expected_ms - 1:.0%} slower than predicted")
    if outcome.latency_ms > problem.original.latency_ms:
        reasons.append("slower than the uncut network")
    return ", ".join(reasons)


def best_of(trials: Sequence[Trial], limits: Limits) -> Trial:
    """Return the trial that keeps most importance at a safe distance below the limits, or else the nearest to them."""
    safe = [trial for trial in trials if is_safe(trial.outcome, limits)]
    if safe:
        return max(safe, key=lambda trial: trial.kept_score)
    return min(trials, key=lambda trial: utilisation(trial.outcome, limits))
