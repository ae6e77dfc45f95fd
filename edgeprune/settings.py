"""Reads `edgeprune.toml`: the names of the flags, applied to every command that has them; flags and environment win."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeprune.errors import UnknownNameError, UsageError


def default_map(path: Path, command_group: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the defaults of each command of a click group; raises UsageError for a file that does not fit."""
    if not path.is_file():
        return {}
    settings = _read(path)
    # The commands of a group act on names, which are no settings.
    flags = {name: _flags(command) for name, command in command_group.commands.items() if not is_group(command)}
    known = sorted({flag for options in flags.values() for flag in options})
    for key in settings:
        if key not in known:
            raise UnknownNameError(f"key in {path.name}", key, known)
    return {
        name: {
            parameter.name: _fitting(settings[flag], parameter)
            for flag, parameter in options.items()
            if flag in settings
        }
        for name, options in flags.items()
    }


def is_group(command: Any) -> bool:
    """Say whether a command has commands of its own."""
    return hasattr(command, "commands")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}. Mend it or remove it.") from error


def _fitting(value: Any, parameter: Any) -> Any:
    """Return one value where a command takes one, several where it takes several: of several, the first."""
    if parameter.multiple:
        return value if isinstance(value, list) else [value]
    return value[0] if isinstance(value, list) and value else value


def _flags(command: Any) -> dict[str, Any]:
    """Return the parameter of each long flag, spelled without its dashes."""
    return {
        flag.removeprefix("--"): parameter
        for parameter in command.params
        for flag in parameter.opts
        if flag.startswith("--")
    }
