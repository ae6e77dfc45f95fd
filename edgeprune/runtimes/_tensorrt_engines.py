"""Engines that were built on this board, kept by everything that an engine depends on. Runs on the board: Python 3.8.

An engine is code for one GPU, one TensorRT and one power mode: the ONNX file is what is carried, and no engine is
loaded but one that lies here with the facts it was built under.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMIT_BYTES = 2 << 30  # what all engines together may take
_WORKSPACE_PART = 4  # of the memory that is free
_WORKSPACE_MIB = (64, 4096)  # the least that TensorRT can work with, and more than it ever uses
# From one attempt to the next when memory runs out: less scratch memory, then fewer kernels tried as well.
_RETREATS = ((1, None), (4, 2), (16, 0))


class Order(NamedTuple):
    """What to build: `level` is how hard the builder tries (0 to 5), None for its default."""

    onnx: str
    precision: str
    workspace_mib: int
    timing_cache: str
    level: int | None = None


def folder(settings: Mapping[str, Any]) -> Path:
    """Return where engines lie: where the target says, or among what `edgeprune targets clean` removes."""
    if settings.get("engines"):
        return Path(str(settings["engines"])).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home, "edgeprune", "board", "engines")


def engine_for(
    tool: Any, onnx: str, settings: Mapping[str, Any], facts: Mapping[str, str]
) -> tuple[Path, Mapping[str, Any]]:
    """Return the engine of an ONNX file for this board, built now where it is not here yet, and how it was built.

    `tool` is trtexec or the bindings, `facts` say what the GPU is. Raises ValueError saying what was refused.
    """
    place = _own_folder(folder(settings))
    everything = dict(facts, **_system())
    everything["builder"] = tool.name
    timing_cache = place / (_digest(everything) + ".timing")
    workspace_mib = int(settings.get("workspace_mib", 0))
    everything["onnx_sha256"] = _sha256_of(Path(onnx))
    everything["precision"] = str(settings.get("precision", "fp32"))
    everything["workspace_mib"] = str(workspace_mib)
    engine = place / (_digest(everything) + ".engine")
    if _is_ours(engine, everything):
        os.utime(str(engine))
        return engine, _record(engine)["built"]
    order = Order(onnx, everything["precision"], workspace_mib or _free_workspace_mib(), str(timing_cache))
    partial = engine.with_suffix(".partial")
    try:
        built = _build(tool, order, partial)
        record = dict(everything, engine_sha256=_sha256_of(partial), **built)
        _record_of(engine).write_text(json.dumps(record), encoding="utf-8")
        partial.replace(engine)
    finally:
        if partial.is_file():
            partial.unlink()
    _make_room(place, engine)
    return engine, record["built"]


def _build(tool: Any, order: Order, out: Path) -> dict[str, Any]:
    """Build, with less and less memory where it runs out; return with how much it was."""
    for part, level in _RETREATS:
        attempt = order._replace(workspace_mib=max(order.workspace_mib // part, 1), level=level)
        try:
            known = dict(tool.build(attempt, out))
        except MemoryError as error:
            last = error
        else:
            return {"built": dict(known, workspace_mib=attempt.workspace_mib, level=level)}
    raise ValueError(
        f"the board ran out of memory while building, with {attempt.workspace_mib} MiB of scratch memory too ({last}); "
        "close what else runs there (the desktop), add swap, or give another limit as `workspace_mib` of the target"
    )


def _is_ours(engine: Path, facts: Mapping[str, str]) -> bool:
    """Say whether an engine was built under these very facts and has not changed since."""
    try:
        record = _record(engine)
    except (OSError, ValueError):
        return False
    same = all(record.get(key) == value for key, value in facts.items())
    return same and engine.is_file() and record.get("engine_sha256") == _sha256_of(engine)


def _own_folder(place: Path) -> Path:
    """Return the folder, which nobody else may write to: to load an engine is to run it."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = place.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(f"others may write to {place}, and an engine is code; run: chmod 700 {place}")
    return place


def _record(engine: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(_record_of(engine).read_text(encoding="utf-8"))
    return record


def _record_of(engine: Path) -> Path:
    return engine.with_suffix(".json")


def _make_room(place: Path, newest: Path) -> None:
    engines = sorted(place.glob("*.engine"), key=lambda path: path.stat().st_mtime)
    total_bytes = sum(path.stat().st_size for path in engines)
    for path in engines:
        if total_bytes <= LIMIT_BYTES or path == newest:
            return
        total_bytes -= path.stat().st_size
        path.unlink()
        if _record_of(path).is_file():
            _record_of(path).unlink()


def _system() -> dict[str, str]:
    """Return what decides on kernels besides the GPU: the release of the drivers, and the power mode."""
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _read("/etc/nv_tegra_release"))
    return {"l4t": "{}.{}".format(*release.groups()) if release else "", "power_mode": _power_mode()}


def _power_mode() -> str:
    said = subprocess.getoutput("timeout 10 nvpmodel -q 2>/dev/null")  # nothing, where there is no such program
    found = re.search(r"^([0-9]+)\s*$", said, re.MULTILINE)
    return found.group(1) if found else ""


def _free_workspace_mib() -> int:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    free_mib = int(found.group(1)) // 1024 if found else _WORKSPACE_MIB[1]
    return min(max(free_mib // _WORKSPACE_PART, _WORKSPACE_MIB[0]), _WORKSPACE_MIB[1])


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _digest(facts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()
