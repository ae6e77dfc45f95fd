"""Which methods compare with one another: those that remove units of the same groups."""

from __future__ import annotations

from edgeprune import registry
from edgeprune.contracts import Method


def channel_methods() -> list[str]:
    """Return the names of the methods that prune coupled channels; one that factorises allocates ranks instead."""
    names = sorted(registry.entries("methods"))
    return [name for name in names if registry.load("methods", name).units is Method.units]
