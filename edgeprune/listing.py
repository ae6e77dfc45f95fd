"""Lists plug-ins and targets without importing them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgeprune.bench.target import list_targets
from edgeprune.errors import UnknownNameError
from edgeprune.registry import KINDS, Entry
from edgeprune.registry import entries as plugin_entries


@dataclass(frozen=True)
class Answer:
    """What a command prints: for machines, and for people."""

    data: Any
    text: str


def entries(kind: str) -> Mapping[str, Entry]:
    """Return everything of a kind by name; raises UnknownNameError."""
    if kind == "targets":
        return list_targets()
    if kind not in KINDS:
        raise UnknownNameError("kind", kind, (*KINDS, "targets"))
    return plugin_entries(kind)


def answer(kind: str) -> Answer:
    """Return one line an entry: its name and what it is, or what is wrong with it; raises UnknownNameError."""
    found = entries(kind)
    width = max((len(name) for name in found), default=0)
    lines = [
        f"{name:<{width}}  {f'cannot be used: {entry.problem}' if entry.problem else entry.summary}"
        for name, entry in found.items()
    ]
    data = [{"name": name, "summary": entry.summary, "problem": entry.problem} for name, entry in found.items()]
    return Answer(data, "\n".join(lines))
