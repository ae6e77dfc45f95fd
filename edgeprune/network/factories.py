"""Calls what the user names as `package.module:factory`: the network's architecture, the data."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeprune.errors import EdgepruneError, UsageError


def call_factory(spec: str, flag: str, error: type[UsageError]) -> Any:
    """Import `package.module:factory`, also from the current directory, and return what the factory returns.

    `flag` is the option that the user wrote it after. Raises `error` where there is no such module or factory
    and where the factory fails; errors of this package that the factory raises pass through.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise error(f"{flag} {spec!r} is not of the form package.module:factory.")
    with current_directory_on_path():
        factory = getattr(_import(module_name, spec, flag, error), name, None)
        if factory is None:
            known = vars(sys.modules[module_name])
            raise error(f"{flag} {spec!r}: the module {module_name} has no {name!r}.{nearest(name, known)}")
        if not callable(factory):
            raise error(f"{flag} {spec!r}: {name} is a {type(factory).__name__}, not a function to call.")
        return _call(factory, spec, flag, error)


@contextlib.contextmanager
def current_directory_on_path() -> Iterator[None]:
    """Let imports find files of the current directory, as `python -m` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest known public name, or nothing."""
    public = [candidate for candidate in known if not candidate.startswith("_")]
    near = difflib.get_close_matches(name, public, n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _import(module_name: str, spec: str, flag: str, error: type[UsageError]) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as failure:
        missing = failure.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            raise error(
                f"{flag} {spec!r}: there is no module {missing!r}, neither installed nor in the current "
                f"directory.{nearest(missing, _neighbours(missing))}"
            ) from failure
        raise error(f"{flag} {spec!r}: importing {module_name} failed: {failure}.") from failure
    except Exception as failure:  # a user's module may raise anything while it is imported
        reason = f"{type(failure).__name__}: {failure}"
        raise error(f"{flag} {spec!r}: importing {module_name} failed: {reason}") from failure


def _neighbours(module_name: str) -> list[str]:
    """Return the modules that lie beside a missing one in the current directory."""
    parent, _, _ = module_name.rpartition(".")
    folder = Path(*parent.split(".")) if parent else Path()
    prefix = f"{parent}." if parent else ""
    if not folder.is_dir():
        return []
    return [prefix + p.stem for p in folder.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()]


def _call(factory: Any, spec: str, flag: str, error: type[UsageError]) -> Any:
    try:
        return factory()
    except EdgepruneError:
        raise
    except Exception as failure:  # a user's factory may raise anything
        reason = f"{type(failure).__name__}: {failure}"
        raise error(f"{flag} {spec!r} was called without arguments and raised {reason}") from failure
