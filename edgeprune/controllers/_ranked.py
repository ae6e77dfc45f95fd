"""What a layer needs of each resource that stays whole or becomes a chain of a rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeprune.network.groups import Factorisation

_PARAMETER_BYTES = 4.0


@dataclass(frozen=True)
class Ranked:
    """A layer with ranks, and the measured milliseconds of its chains by kept units, by the name of the resource.

    The milliseconds of chains are a resource of their own, which measurements correct apart from whole layers.
    """

    factorisation: Factorisation
    chains_ms: Mapping[str, Mapping[int, tuple[float, ...]]]

    @property
    def group(self) -> str:
        """The group of its ranks."""
        return self.factorisation.group

    def amounts(self, kept: int, whole: Mapping[str, float]) -> dict[str, float]:
        """Return what the layer needs with so many units of its rank, where it needs `whole` as it is."""
        chains = dict(self.factorisation.chains)
        if kept not in chains:
            return {**whole, **dict.fromkeys(self.chains_ms, 0.0)}
        found = dict.fromkeys(whole, 0.0)
        found["macs"] = float(sum(shape.macs for shape in chains[kept]))
        found["bytes"] = _PARAMETER_BYTES * sum(shape.parameters for shape in chains[kept])
        return {**found, **{name: sum(by_count[kept]) for name, by_count in self.chains_ms.items()}}
