"""The user's own targets: boards with an address, in a file of the user or of the project; no secrets in either.

    [lab-orin]
    like = "jetson-orin-nano"
    address = "ssh://jetson@10.0.0.5"

Any other key of a target may stand there too and wins over the family's. `edgeprune-targets.toml` in the current folder
wins over the user's file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.errors import UnknownNameError, UsageError
from edgeprune.files import write_text

PROJECT_FILE = Path("edgeprune-targets.toml")


@dataclass(frozen=True)
class OwnTarget:
    """One target of an inventory: the family it is like, what differs, and the file that says so."""

    name: str
    like: str
    changes: Mapping[str, Any]
    path: Path

    @property
    def summary(self) -> str:
        """One line for a listing."""
        return f"{self.changes.get('address', 'no address')}, like {self.like}"


def user_file() -> Path:
    """Return the file of this user's targets, in the place where the platform keeps configuration."""
    from platformdirs import user_config_path

    return user_config_path("edgeprune") / "targets.toml"


def own_targets() -> Mapping[str, OwnTarget]:
    """Return the targets of the user and of the project by name; raises UsageError for a file that does not fit."""
    found = {}
    for path in (user_file(), PROJECT_FILE):
        for name, entry in _read(path).items():
            found[name] = _own_target(name, entry, path)
    return found


def add_target(own: OwnTarget, known: Mapping[str, Any]) -> None:
    """Write a target into its file; raises UsageError for a name that is taken in `known`."""
    import tomlkit

    if own.name in known:
        raise UsageError(f"There is a target {own.name!r} already. Choose another name; see: edgeprune targets list")
    _read(own.path)  # a file that does not fit is not written over
    document = tomlkit.parse(own.path.read_text(encoding="utf-8")) if own.path.exists() else tomlkit.document()
    table = tomlkit.table()
    table.update({"like": own.like, **own.changes})
    document[own.name] = table
    write_text(own.path, tomlkit.dumps(document))


def remove_target(name: str) -> Path:
    """Remove a target from its file, which is returned; raises UnknownNameError for one that is not the user's."""
    import tomlkit

    found = own_targets()
    if name not in found:
        raise UnknownNameError("target of your own", name, found)
    path = found[name].path
    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    del document[name]
    write_text(path, tomlkit.dumps(document))
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"The inventory {path} cannot be read: {error}. Mend it or remove it.") from error


def _own_target(name: str, entry: Any, path: Path) -> OwnTarget:
    if not isinstance(entry, dict) or not isinstance(entry.get("like"), str):
        raise UsageError(f'{path}: target {name!r} does not say what it is like; add: like = "FAMILY"')
    changes = {key: value for key, value in entry.items() if key not in ("like", "name")}
    return OwnTarget(name, entry["like"], changes, path)
