"""The precision that a target computes in, as the user asks for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune import registry
from edgeprune.bench.target import PRECISIONS
from edgeprune.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from edgeprune.bench.target import Target


def check_precision(target: Target, precision: str | None = None) -> Target:
    """Return the target at that precision, or as it is; raises UsageError where its engine or board has none such."""
    wanted = precision or target.precision
    for known in PRECISIONS:
        if known == wanted:
            there = registry.load("runtimes", target.runtime).precisions
            if wanted not in there:
                raise UsageError(f"The engine {target.runtime} builds {', '.join(there)}, not {wanted}.")
            return replace(target, precision=known)
    raise UnknownNameError("precision", wanted, PRECISIONS)
