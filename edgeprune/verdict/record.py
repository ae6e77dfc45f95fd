"""What is known of one network on one target: what a gate judges, and what the store keeps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgeprune.bench.measurement import Measurement
from edgeprune.errors import UsageError


@dataclass(frozen=True)
class Record:
    """One network on one target.

    Accuracies are 0 to 1. `latency_interval_ms` is a 95 % interval of the median. `layers_ms` comes from a profiled
    run, `layer_bytes` are the weights of each layer; both are empty where nothing says. `artifact` is the file that
    was measured, where it still lies here. `fingerprint` is "" where no board is known.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    source: str
    model: str
    target: str
    kind: Literal["real", "icount", "emulated"]
    runtime: str
    size_bytes: int
    fingerprint: str = ""
    latency_p50_ms: float | None = None
    latency_interval_ms: tuple[float, float] | None = None
    macs: int | None = None
    parameters: int | None = None
    accuracy: float | None = None
    original_accuracy: float | None = None
    artifact_sha256: str = ""
    measurement: Measurement | None = None
    layers_ms: Mapping[str, float] = field(default_factory=dict)
    layer_bytes: Mapping[str, int] = field(default_factory=dict)
    allocation: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    artifact: str = ""

    @property
    def artifact_path(self) -> Path | None:
        """The artifact, if the file is still there."""
        return Path(self.artifact) if self.artifact and Path(self.artifact).is_file() else None

    def measured_as(self, measurement: Measurement) -> Record:
        """Return the record with a new measurement in place of an old one."""
        return replace(
            self,
            measurement=measurement,
            kind=measurement.kind,
            runtime=f"{measurement.runtime} {measurement.runtime_version}",
            fingerprint=measurement.fingerprint,
            size_bytes=measurement.size_bytes,
            artifact_sha256=measurement.artifact_sha256,
            latency_p50_ms=measurement.latency_p50_ms,
            latency_interval_ms=measurement.latency_interval_ms,
            warnings=tuple(dict.fromkeys((*self.warnings, *measurement.warnings))),
        )


def record_to_dict(record: Record) -> dict[str, Any]:
    """Return a record with its raw samples as plain JSON types."""
    return asdict(record)


def record_from_json(text: str, where: str) -> Record:
    """Read a record back; raises UsageError naming what is damaged."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Record).validate_json(text, strict=True)
    except ValidationError as error:
        raise UsageError(f"{where} is no record of this version: {_first(error)}.") from error


def checked_measurement(data: Any, where: str) -> Measurement:
    """Read a measurement with its raw samples; raises UsageError for one that cannot have happened."""
    from pydantic import TypeAdapter, ValidationError

    try:
        text = json.dumps(data, allow_nan=False)
    except ValueError as error:
        raise UsageError(f"{where} holds a number that is not finite; measure again.") from error
    try:
        measurement = TypeAdapter(Measurement).validate_json(text, strict=True)
    except ValidationError as error:
        raise UsageError(f"{where} is no measurement: {_first(error)}. Measure again.") from error
    _refuse_impossible(measurement, where)
    return measurement


def _refuse_impossible(measurement: Measurement, where: str) -> None:
    if not measurement.runs:
        raise UsageError(f"{where} holds no samples: no process was measured. Measure again.")
    for run in measurement.runs:
        if not run.blocks or not all(block.samples_ns for block in run.blocks):
            raise UsageError(f"{where} holds a block without samples; measure again.")
        if len(run.blocks) != len(measurement.runs[0].blocks):
            raise UsageError(f"{where} holds processes of different lengths; measure again.")
        shortest = min(sample for block in run.blocks for sample in block.samples_ns)
        if shortest <= 0:
            raise UsageError(f"{where} holds a sample of {shortest} ns; no inference takes that. Measure again.")
    if not 0 < measurement.latency_p50_ms < math.inf:
        raise UsageError(f"{where} holds a median of {measurement.latency_p50_ms} ms; measure again.")


def _first(error: Any) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the whole"
    return f"{place}: {first['msg']}"
