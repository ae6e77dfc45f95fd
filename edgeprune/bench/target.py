"""A target as data: a board, how it is reached, and which engine runs there with which settings."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgeprune.bench.board import Board
from edgeprune.bench.inventory import OwnTarget, own_targets
from edgeprune.errors import UnknownNameError, UsageError
from edgeprune.registry import Entry

_FOLDER = Path(__file__).parent.parent / "targets"
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class Target:
    """One target; `settings` go to the engine as they are, `address` to the transport.

    `python` is the interpreter on the board, where it is not the transport's usual one. Widths that are a multiple of
    `channel_multiple` use the engine's kernels fully on this board. `aliases` are shorter names of the same target;
    `board` is what is known of its family.
    """

    # NOTE: read by pydantic, which turns a type into its checks without being imported where nothing is checked.
    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    name: str
    description: str
    runtime: str
    transport: str = "local"
    kind: Literal["real", "icount", "emulated"] = "real"
    precision: Precision = "fp32"
    threads: int = 1
    channel_multiple: int = 1
    address: str | None = None
    python: str | None = None
    aliases: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    board: Board | None = None

    def __post_init__(self) -> None:
        """Refuse what no board can be; raises UsageError."""
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"The target name {self.name!r} may hold small letters, digits, dots, dashes and underscores only."
            )
        for key in ("threads", "channel_multiple"):
            value = getattr(self, key)
            if value < 1:
                raise UsageError(f"Target {self.name}: {key} is {value}; it must be at least 1.")
        if self.board is not None and self.precision not in self.board.precisions:
            known = ", ".join(self.board.precisions)
            raise UsageError(f"Target {self.name}: this board computes in {known}, not in {self.precision}.")

    def engine_settings(self) -> dict[str, Any]:
        """Return what the engine is opened with."""
        return {**self.settings, "threads": self.threads, "precision": self.precision}


def load_target(name_or_path: str | Path) -> Target:
    """Return the target of that name, the user's own or one of edgeprune's, or read it from a `.toml` file.

    Raises UnknownNameError for an unknown name or key, UsageError for a value that does not fit.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.suffix == ".toml":
        return _target_from_dict(_read(path), path)
    known, own = list_targets(), own_targets()
    if name in own:
        return complete(own[name])
    if name not in known:
        raise UnknownNameError("target", name, known)
    return _target_from_dict(_read(known[name].path), known[name].path)


def list_targets() -> Mapping[str, Entry]:
    """Return the user's own targets and those that come with edgeprune, by name.

    A file that cannot be read is listed with its problem.
    """
    own = [Entry(target.name, target.path, target.summary) for target in own_targets().values()]
    return {entry.name: entry for entry in [*sorted(own, key=lambda entry: entry.name), *list_families().values()]}


def list_families() -> Mapping[str, Entry]:
    """Return the targets that come with edgeprune, by name; a file that cannot be read is listed with its problem."""
    listed = (entry for path in sorted(_FOLDER.glob("*.toml")) for entry in _entries(path))
    return dict(sorted((entry.name, entry) for entry in listed))


def complete(own: OwnTarget) -> Target:
    """Return a target of the user's as a whole; the scheme of its address says how it is reached.

    Raises UnknownNameError for an unknown family or key, UsageError for a value that does not fit.
    """
    families = list_families()
    if own.like not in families:
        raise UnknownNameError(f"family of target {own.name!r} in {own.path}", own.like, families)
    scheme, separator, _ = str(own.changes.get("address", "")).partition("://")
    reached = {"transport": scheme} if separator else {}
    data = {**_read(families[own.like].path), **reached, **own.changes, "name": own.name, "aliases": []}
    return _target_from_dict(data, own.path)


def _entries(path: Path) -> list[Entry]:
    """Return the target of a file, and one entry for each other name it goes by."""
    try:
        data = _read(path)
    except UsageError as error:
        return [Entry(path.stem, path, "", str(error))]
    others = [Entry(str(alias), path, f"another name of {path.stem}") for alias in data.get("aliases", ())]
    return [Entry(path.stem, path, str(data.get("description", ""))), *others]


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
