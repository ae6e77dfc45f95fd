"""How many bytes of activations a network needs at once, as data that an allocation can be put into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgeprune.network.groups import Allocation


@dataclass(frozen=True)
class Moment:
    """One operation, and the tensors that must be in memory while it runs.

    Together they take `fixed_bytes` and, for every unit that a group keeps, `unit_bytes` of that group.
    """

    operation: str
    fixed_bytes: float
    unit_bytes: Mapping[str, float] = field(default_factory=dict)

    def bytes_with(self, kept: Allocation) -> float:
        """Return what the moment takes with so many kept units of each of its groups."""
        return self.fixed_bytes + sum(size * kept[group] for group, size in self.unit_bytes.items())


def peak_moment(moments: Sequence[Moment], kept: Allocation) -> Moment:
    """Return the moment that needs most; `kept` names every group."""
    return max(moments, key=lambda moment: moment.bytes_with(kept))
