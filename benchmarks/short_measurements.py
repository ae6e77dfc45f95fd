"""Shorter measurements than in use, for boards whose times mean nothing or repeat exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgeprune.bench import measure
from edgeprune.bench.measure import MeasureOptions
from edgeprune.run import ends, workbench

_PLACES = ((workbench, "QUICK"), (workbench, "THOROUGH"), (ends, "THOROUGH"), (measure, "THOROUGH"))


@contextmanager
def measuring_like(options: MeasureOptions) -> Iterator[None]:
    """Let the commands of this process measure like that, whatever they would ask for."""
    before = [getattr(module, name) for module, name in _PLACES]
    for module, name in _PLACES:
        setattr(module, name, options)
    try:
        yield
    finally:
        for (module, name), value in zip(_PLACES, before, strict=True):
            setattr(module, name, value)
