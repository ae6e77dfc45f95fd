"""A target as data: a board, how it is reached, and which engine runs there with which settings."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgeprune.errors import UnknownNameError, UsageError
from edgeprune.registry import Entry

_FOLDER = Path(__file__).parent.parent / "targets"
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class Target:
    """One target; `settings` go to the engine as they are, `address` to the transport.

    Widths that are a multiple of `channel_multiple` use the engine's kernels fully on this board.
    """

    # NOTE: read by pydantic, which turns a type into its checks without being imported where nothing is checked.
    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    name: str
    description: str
    runtime: str
    transport: str = "local"
    kind: Literal["real", "icount", "emulated"] = "real"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    threads: int = 1
    channel_multiple: int = 1
    address: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no board can be; raises UsageError."""
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"The target name {self.name!r} may hold small letters, digits, dots and dashes only.")
        for key in ("threads", "channel_multiple"):
            value = getattr(self, key)
            if value < 1:
                raise UsageError(f"Target {self.name}: {key} is {value}; it must be at least 1.")

    def engine_settings(self) -> dict[str, Any]:
        """Return what the engine is opened with."""
        return {**self.settings, "threads": self.threads}


def load_target(name_or_path: str | Path) -> Target:
    """Return the target of that name, or read it from a `.toml` file.

    Raises UnknownNameError for an unknown name or key, UsageError for a value that does not fit.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        known = list_targets()
        if str(name_or_path) not in known:
            raise UnknownNameError("target", str(name_or_path), known)
        path = known[str(name_or_path)].path
    return _target_from_dict(_read(path), path)


def list_targets() -> Mapping[str, Entry]:
    """Return the targets that come with edgeprune, by name; a file that cannot be read is listed with its problem."""
    return {path.stem: _entry(path) for path in sorted(_FOLDER.glob("*.toml"))}


def _entry(path: Path) -> Entry:
    try:
        return Entry(path.stem, path, str(_read(path).get("description", "")))
    except UsageError as error:
        return Entry(path.stem, path, "", str(error))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"There is no target file {path}. See: edgeprune list targets") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"The target file {path} cannot be read: {error}.") from error


def _target_from_dict(data: Mapping[str, Any], path: Path) -> Target:
    from pydantic import TypeAdapter, ValidationError

    known = [item.name for item in fields(Target)]
    for key in data:
        if key not in known:
            raise UnknownNameError(f"key in {path.name}", key, known)
    try:
        return TypeAdapter(Target).validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(f"Target file {path}: {place}: {first['msg']} (found {first['input']!r}).") from error
