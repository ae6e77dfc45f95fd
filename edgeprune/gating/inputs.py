"""Reads what a gate is given: a run folder, a result.json, measurements of `edgeprune bench`, or an artifact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgeprune.bench.measurement import Measurement
from edgeprune.errors import EdgepruneError, UsageError
from edgeprune.run_dir import RunDir
from edgeprune.verdict.record import Record, checked_measurement
from edgeprune.verdict.result import Costs, LayerTime, read_result
from edgeprune.verdict.wording import model_name

_GIVE = "Give a run folder, a result.json, a file of edgeprune bench --out, or an artifact with --target."


def read_records(path: Path, target: str | None, model: str | None) -> tuple[Record, ...]:
    """Return what a file or folder holds; `target` is where an artifact will be measured, `model` renames it.

    Raises UsageError for what is missing, damaged or impossible.
    """
    if path.is_dir():
        if not (path / "result.json").is_file():
            raise UsageError(f"{path} holds no result.json: the run is not finished. {_GIVE}")
        records: tuple[Record, ...] = _from_run(path / "result.json")
    elif not path.is_file():
        raise UsageError(f"There is no {path}. {_GIVE}")
    elif path.suffix != ".json":
        records = (_from_artifact(path, target),)
    elif _begins_with_list(path):
        records = _from_bench(path)
    else:
        records = _from_run(path)
    return tuple(replace(record, model=model) for record in records) if model else records


def with_layers(record: Record) -> Record:
    """Add what the artifact says about itself: bytes of weights by layer, and its multiply-accumulates."""
    from edgeprune.bench.work import macs_of, works_of_onnx

    artifact = record.artifact_path
    if artifact is None or artifact.suffix != ".onnx" or record.layer_bytes:
        return record
    try:
        works = works_of_onnx(artifact)
    except EdgepruneError as error:
        return replace(record, warnings=(*record.warnings, f"No sizes by layer: {error}"))
    sizes: dict[str, int] = {}
    for work in works:
        width = {"fp32": 4, "fp16": 2, "int8": 1}[work.precision]
        sizes[work.layer] = sizes.get(work.layer, 0) + work.weight_elements * width
    known = {name: size for name, size in sizes.items() if size}
    macs = record.macs if record.macs is not None else macs_of(works)
    return replace(record, layer_bytes=known, macs=macs)


def _begins_with_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(64).lstrip().startswith(b"[")


def _from_artifact(path: Path, target: str | None) -> Record:
    from edgeprune.bench.target import load_target

    if target is None:
        raise UsageError(f"{path} has not been measured; say where to measure it with --target.")
    board = load_target(target)
    return Record(
        source=str(path),
        model=path.stem,
        target=board.name,
        kind=board.kind,
        runtime=board.runtime,
        size_bytes=path.stat().st_size,
        artifact=str(path),
    )


def _from_bench(path: Path) -> tuple[Record, ...]:
    """Read the list that `edgeprune bench --out` writes."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is damaged or cut short: {error}. Measure again.") from error
    if not entries:
        raise UsageError(f"{path} holds no measurement. Measure again.")
    records = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("artifact"), str):
            raise UsageError(f"{path}: entry {number} is no measurement of edgeprune bench. {_GIVE}")
        artifact = Path(entry["artifact"])
        data = {key: value for key, value in entry.items() if key not in ("artifact", "calibration")}
        measurement = checked_measurement(data, f"{path}, entry {number},")
        begun = Record(str(path), artifact.stem, measurement.target, measurement.kind, "", 0)
        records.append(_with_artifact(begun.measured_as(measurement), artifact))
    return tuple(records)


def _from_run(path: Path) -> tuple[Record, ...]:
    """Read a result.json, and what stands beside it: raw samples, versions, the artifacts; one record a target."""
    result = read_result(path)
    whole = Record(
        source=str(path.parent if path.name == "result.json" else path),
        model=model_name(result),
        target=result.target,
        kind=result.kind,
        runtime=result.runtime,
        size_bytes=result.final.size_bytes,
        layers_ms=_sums(result.layers.final),
        allocation=dict(result.allocation),
    )
    ends = [(whole, result.original, result.final)]
    for one in result.further:
        elsewhere = replace(whole, target=one.target, kind=one.kind, runtime=one.runtime, layers_ms={})
        ends.append((elsewhere, one.original, one.final))
    records = tuple(_with_costs(*end) for end in ends)
    if path.name != "result.json":
        return records
    manifest = _manifest(path.with_name("manifest.json"))
    known = tuple(replace(record, versions=dict(manifest.get("versions", {}))) for record in records)
    return _with_samples(known, path.parent, manifest)


def _with_costs(record: Record, original: Costs, final: Costs) -> Record:
    return replace(
        record,
        size_bytes=final.size_bytes,
        latency_p50_ms=final.latency_p50_ms,
        latency_interval_ms=final.latency_interval_ms,
        macs=final.macs,
        parameters=final.parameters,
        accuracy=final.accuracy,
        original_accuracy=original.accuracy,
    )


def _with_samples(records: tuple[Record, ...], folder: Path, manifest: Mapping[str, Any]) -> tuple[Record, ...]:
    """Add the samples of the final trial, target by target."""
    where = f"{folder / 'trials.jsonl'}"
    try:
        finals = RunDir(folder).trials("final")
        ends = [finals[-1], *finals[-1].get("elsewhere", ())] if finals else []
        found = [end.get("measurement") for end in ends]
    except (EdgepruneError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{where} is damaged: {error}. Run again with another --out.") from error
    if not found:
        return records
    measured = [checked_measurement(one, f"{where}, the final trial,") for one in found]
    targets, others = [record.target for record in records], [one.target for one in measured]
    if targets != others:
        raise UsageError(
            f"{folder}: result.json is of target {', '.join(targets)}, trials.jsonl of {', '.join(others)}; "
            "they are of different runs. Run again with another --out."
        )
    return tuple(_with_run_of(record, one, folder, manifest) for record, one in zip(records, measured, strict=True))


def _with_run_of(record: Record, measurement: Measurement, folder: Path, manifest: Mapping[str, Any]) -> Record:
    size, version = record.size_bytes, record.runtime
    record = replace(record.measured_as(measurement), size_bytes=size, runtime=version or record.runtime)
    names = [name for name, sha256 in manifest.get("files", {}).items() if sha256 == measurement.artifact_sha256]
    return _with_artifact(record, folder / names[0]) if names else record


def _with_artifact(record: Record, artifact: Path) -> Record:
    """Remember where the measured file lies, if it is still the same one."""
    from edgeprune.files import sha256_of

    is_same = artifact.is_file() and sha256_of(artifact) == record.artifact_sha256
    return replace(record, artifact=str(artifact)) if is_same else record


def _manifest(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} cannot be read: {error}. Run again with another --out.") from error


def _sums(layers: tuple[LayerTime, ...]) -> dict[str, float]:
    times: dict[str, float] = {}
    for layer in layers:
        times[layer.name] = times.get(layer.name, 0.0) + layer.milliseconds
    return times
