"""A measurement as data: raw samples of every process, the environment they were taken in, and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal


@dataclass(frozen=True)
class Block:
    """Consecutive timed inferences, and what the board looked like beside them."""

    samples_ns: tuple[int, ...]
    telemetry: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ProcessRun:
    """One process that opened the artifact once: its cold start, its warm-up, its blocks."""

    open_ms: float  # load the runtime's session
    first_ms: float  # the first inference
    warmup_ns: tuple[int, ...]
    blocks: tuple[Block, ...]
    peak_memory_bytes: int


@dataclass(frozen=True)
class Measurement:
    """The latency of one artifact on one target, with every raw sample; all statistics derive from `runs`.

    `kind` is "real", "icount" or "emulated". `latency_interval_ms` is a 95 % interval of the median by a bootstrap
    over processes, then blocks. `latency_p90_ms` and `latency_p99_ms` are None where the sample is too small.
    """

    target: str
    kind: Literal["real", "icount", "emulated"]
    runtime: str
    runtime_version: str
    fingerprint: str
    artifact_sha256: str
    size_bytes: int
    environment: Mapping[str, Any]
    runs: tuple[ProcessRun, ...]
    latency_p50_ms: float
    latency_interval_ms: tuple[float, float]
    latency_p90_ms: float | None
    latency_p99_ms: float | None
    latency_min_ms: float
    warnings: tuple[str, ...] = ()

    @property
    def peak_memory_bytes(self) -> int:
        """The most memory that a process took, engine and all: the median of the processes; 0 where none said."""
        return int(median(run.peak_memory_bytes for run in self.runs))


def measurement_to_dict(measurement: Measurement) -> dict[str, Any]:
    """Return a measurement with all its raw samples as plain JSON types."""
    return asdict(measurement)


def measurement_from_dict(data: Mapping[str, Any]) -> Measurement:
    """Read a measurement back; raises KeyError or TypeError for data that is none."""
    runs = tuple(
        ProcessRun(
            open_ms=run["open_ms"],
            first_ms=run["first_ms"],
            warmup_ns=tuple(run["warmup_ns"]),
            blocks=tuple(Block(tuple(block["samples_ns"]), block["telemetry"]) for block in run["blocks"]),
            peak_memory_bytes=run["peak_memory_bytes"],
        )
        for run in data["runs"]
    )
    low, high = data["latency_interval_ms"]
    return Measurement(
        **{**data, "runs": runs, "latency_interval_ms": (low, high), "warnings": tuple(data["warnings"])}
    )
