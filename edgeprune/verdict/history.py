"""Reads what a report draws from `trials.jsonl`: the raw samples of both ends, and every round between them.

One JSON object a line: `stage` ("original", "search" or "final"), `index`, `allocation` (kept units by group, or null),
`outcome` (`latency_ms`, `latency_interval_ms`, `size_bytes`, `macs`, `parameters`), `measurement` (the fields of
`bench.measurement.Measurement`; raw samples in `runs[].blocks[].samples_ns`), `feasible`, `kept_score`,
`rejected` (why, or ""). The final trial also holds `original_measurement`: the original, measured side by side with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import UsageError
from edgeprune.run_dir import RunDir


@dataclass(frozen=True)
class Samples:
    """Raw latencies of one network by process, in milliseconds."""

    label: str
    processes: tuple[tuple[float, ...], ...]
    median_ms: float

    @property
    def pooled(self) -> tuple[float, ...]:
        """All samples of all processes."""
        return tuple(value for process in self.processes for value in process)


@dataclass(frozen=True)
class Round:
    """One measured network; latency in milliseconds with its interval."""

    label: str
    macs: int
    latency_ms: float
    interval_ms: tuple[float, float]
    size_bytes: int
    feasible: bool
    rejected: str = ""  # why the network is not what was looked for


@dataclass(frozen=True)
class History:
    """The measured rounds of a run in their order; samples are None where the target keeps none."""

    before: Samples | None
    after: Samples | None
    rounds: tuple[Round, ...]


def read_history(run_dir: Path) -> History:
    """Read all searched trials and the last samples of both ends; raises UsageError for lines of another form."""
    folder = RunDir(run_dir)
    try:
        originals, finals = folder.trials("original"), folder.trials("final")
        beside = [trial["original_measurement"] for trial in finals if "original_measurement" in trial]
        return History(
            before=_last_samples([*(trial["measurement"] for trial in originals), *beside], "before"),
            after=_last_samples([trial["measurement"] for trial in finals], "after"),
            rounds=tuple(_round(str(number), trial) for number, trial in enumerate(folder.trials("search"), 1)),
        )
    except (KeyError, TypeError, ValueError) as error:
        path = run_dir / "trials.jsonl"
        raise UsageError(
            f"{path} is not of this version: {error!r} in a line. Run again with another --out."
        ) from error


def _last_samples(measurements: list[dict[str, Any]], label: str) -> Samples | None:
    if not measurements:
        return None
    measurement = measurements[-1]
    processes = tuple(
        tuple(nanoseconds / 1e6 for block in run["blocks"] for nanoseconds in block["samples_ns"])
        for run in measurement["runs"]
    )
    samples = Samples(label, processes, float(measurement["latency_p50_ms"]))
    return samples if samples.pooled else None


def _round(label: str, trial: Mapping[str, Any]) -> Round:
    outcome = trial["outcome"]
    low, high = outcome["latency_interval_ms"]
    return Round(
        label=label,
        macs=int(outcome["macs"]),
        latency_ms=float(outcome["latency_ms"]),
        interval_ms=(float(low), float(high)),
        size_bytes=int(outcome["size_bytes"]),
        feasible=bool(trial["feasible"]),
        rejected=str(trial.get("rejected", "")),
    )
