"""Finds plug-ins by file name; listing imports nothing, and a broken one stays listed with its reason."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeprune.errors import EdgepruneError, UnknownNameError, UsageError

KINDS = ("methods", "controllers", "runtimes", "transports")
_ROOT = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """One plug-in: its name, its file, the first sentence of its docstring, and why it cannot be read, if so."""

    name: str
    path: Path
    summary: str
    problem: str = ""


def entries(kind: str) -> Mapping[str, Entry]:
    """Return all plug-ins of a kind by name, without importing any; entry points `edgeprune.<kind>` count too."""
    files = sorted((_ROOT / kind).glob("[!_]*.py"))
    found = {entry.name: entry for entry in map(_read_entry, files)}
    for point in importlib.metadata.entry_points(group=f"edgeprune.{kind}"):
        spec = _spec_of_entry_point(point.value)
        path = Path(spec) if spec else Path(point.value)
        found.setdefault(point.name, _read_entry(path, point.name))
    return found


def load(kind: str, name: str) -> Any:
    """Import one plug-in and return its class; raises UnknownNameError, or UsageError when it does not import."""
    known = entries(kind)
    if name not in known:
        raise UnknownNameError(kind.removesuffix("s"), name, known)
    path = known[name].path
    try:
        module = _import(kind, name, path)
    except EdgepruneError:
        raise
    except (ImportError, SyntaxError, OSError) as error:
        raise UsageError(f"The {kind.removesuffix('s')} {name!r} does not load: {error}. See {path}.") from error
    return plugin_class(module)


def plugin_class(module: ModuleType) -> Any:
    """Return the one public class that a plug-in file defines."""
    classes = [
        member
        for label, member in vars(module).items()
        if inspect.isclass(member) and member.__module__ == module.__name__ and not label.startswith("_")
    ]
    if len(classes) != 1:
        names = ", ".join(cls.__name__ for cls in classes) or "none"
        raise UsageError(f"{module.__file__} must define exactly one public class; it defines: {names}.")
    return classes[0]


def _read_entry(path: Path, name: str | None = None) -> Entry:
    name = name or path.stem.replace("_", "-")
    try:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError) as error:
        return Entry(name, path, "", f"{type(error).__name__}: {error}")
    return Entry(name, path, (docstring or "").partition("\n")[0])


def _spec_of_entry_point(value: str) -> str | None:
    module = value.partition(":")[0]
    spec = importlib.util.find_spec(module)
    return spec.origin if spec else None


def _import(kind: str, name: str, path: Path) -> ModuleType:
    if path.parent == _ROOT / kind:
        return importlib.import_module(f"edgeprune.{kind}.{path.stem}")
    spec = importlib.util.spec_from_file_location(f"edgeprune_{kind}_{name.replace('-', '_')}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no Python file at {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
