"""What is known of a family of boards: how to recognise one, what it can do, what to set, its traps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

_STRICT: Mapping[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True)
class FileControl:
    """Files of the kernel to write for the time of a measurement: `value`, or what the file `like` beside each holds.

    `files` are patterns on the board; a board that has none of them does not have this control.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    name: str
    files: tuple[str, ...]
    source: str
    value: str = ""
    like: str = ""


@dataclass(frozen=True)
class CommandControl:
    """A setting that a program of the board shows and changes.

    `state` is a pattern whose group picks the setting out of what `show` prints. `set` holds `{state}` where the new
    setting goes. With an empty `wanted` any setting is as good: it is recorded and never changed.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    name: str
    show: tuple[str, ...]
    state: str
    source: str
    wanted: str = ""
    set: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trap:
    """Something that goes wrong on these boards, what to do about it, and where that is known from.

    The doctor speaks of it where `package` is installed in `version` and the processor lacks a feature.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    what: str
    remedy: str
    source: str
    package: str = ""
    version: str = ""
    lacks: str = ""


@dataclass(frozen=True)
class Board:
    """One family of boards.

    `models` are beginnings of what the device tree calls the board; `machine` is what `uname -m` says. Without
    `throttles_at_c` the kernel's own trip points count. `install` is the command that brings the runtime where pip
    is not the way.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = _STRICT

    source: str
    machine: str = ""
    models: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32", "fp16", "int8")
    memory_bytes: int | None = None
    throttles_at_c: float | None = None
    install: str = ""
    files: tuple[FileControl, ...] = ()
    commands: tuple[CommandControl, ...] = ()
    traps: tuple[Trap, ...] = ()
