"""What a layer needs of each resource that stays whole or becomes a chain of a rank, at any number of channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.bench.layer_cost import LayerCost
from edgeprune.controllers._program import Cost
from edgeprune.controllers._sides import Side, tabulated

if TYPE_CHECKING:
    from edgeprune.network.groups import Factorisation

_PARAMETER_BYTES = 4.0
Amounts = dict[str, float]


@dataclass(frozen=True)
class Measured:
    """The measured milliseconds of the layers of each chain, by kept units, and how those of its ends follow channels.

    `ends` are the first and the last layer of the chain of the largest rank over both their widths; None where the
    layer keeps its channels.
    """

    chains: Mapping[int, tuple[float, ...]]
    ends: tuple[LayerCost, LayerCost] | None


@dataclass(frozen=True)
class Ranked:
    """A layer with ranks, its channels, and its measured chains by the name of the resource.

    The milliseconds of chains are a resource of their own, which measurements correct apart from whole layers. The
    first layer of a chain depends on the inputs and the rank, the last one on the rank and the outputs.
    """

    factorisation: Factorisation
    inputs: int
    outputs: int
    measured: Mapping[str, Measured]

    @property
    def group(self) -> str:
        """The group of its ranks."""
        return self.factorisation.group

    def amounts(self, kept: int, inputs: float, outputs: float, whole: Mapping[str, float]) -> Amounts:
        """Return what the layer needs with so many units of its rank, where it needs `whole` as one."""
        if not self._is_chain(kept):
            return {**whole, **dict.fromkeys(self.measured, 0.0)}
        first, last = self._first(kept, inputs), self._last(kept, outputs)
        return {**dict.fromkeys(whole, 0.0), **{name: first[name] + last[name] for name in first}}

    def costs(
        self,
        left: Side,
        right: Side,
        counts: Callable[[str], Sequence[int]],
        whole: Callable[[float, float], Mapping[str, float]],
    ) -> Iterator[Cost]:
        """Yield what the layer costs over the options of its rank and of the nodes on its sides.

        With two of them it is whole only while the rank has its last option, which gates those costs.
        """
        ranks = counts(self.group)
        if left.node and right.node and left.node != right.node:
            lefts, rights = counts(left.node), counts(right.node)
            yield tabulated(
                (left.node, self.group), lambda n, kept: self._first(kept, left.channels_of(n)), lefts, ranks
            )
            yield tabulated(
                (right.node, self.group), lambda n, kept: self._last(kept, right.channels_of(n)), rights, ranks
            )
            yield tabulated(
                (left.node, right.node),
                lambda one, other: whole(left.channels_of(one), right.channels_of(other)),
                lefts,
                rights,
                gate=self.group,
            )
            return

        def amounts(count: int, kept: int) -> Amounts:
            inputs, outputs = left.channels_of(count), right.channels_of(count)
            return self.amounts(kept, inputs, outputs, whole(inputs, outputs))

        node = left.node or right.node
        if node:
            yield tabulated((node, self.group), amounts, counts(node), ranks)
        else:
            yield tabulated((self.group,), amounts, (0,), ranks)

    def _is_chain(self, kept: int) -> bool:
        return kept in dict(self.factorisation.chains)

    def _first(self, kept: int, inputs: float) -> Amounts:
        """All layers of the chain but the last; endless where the layer has too few inputs for the rank."""
        return self._part(kept, 0, inputs, self.inputs)

    def _last(self, kept: int, outputs: float) -> Amounts:
        return self._part(kept, 1, outputs, self.outputs)

    def _part(self, kept: int, end: int, channels: float, all_channels: int) -> Amounts:
        names = ("macs", "bytes", *self.measured)
        if not self._is_chain(kept):
            return dict.fromkeys(names, 0.0)
        if channels < self.factorisation.least[kept - 1][end] - 1e-9:
            return dict.fromkeys(names, math.inf)
        chain = dict(self.factorisation.chains)[kept]
        (edge, middle) = (chain[0], chain[1:-1]) if end == 0 else (chain[-1], ())
        part = channels / all_channels
        found = {
            "macs": edge.macs * part + sum(shape.macs for shape in middle),
            "bytes": _PARAMETER_BYTES * (edge.parameters * part + sum(shape.parameters for shape in middle)),
        }
        rank = edge.outputs if end == 0 else edge.inputs
        for name, measured in self.measured.items():
            times = measured.chains[kept]
            ms = times[0] if end == 0 else times[-1]
            found[name] = ms * _share(measured, end, channels, all_channels, rank)
            found[name] += sum(times[1:-1]) if end == 0 else 0.0
        return found


def _share(measured: Measured, end: int, channels: float, all_channels: int, rank: int) -> float:
    """What part of its time the first or last layer of a chain takes with fewer channels."""
    if measured.ends is None or channels >= all_channels:
        return channels / all_channels
    surface = measured.ends[end]
    if end == 0:
        return surface.ms(round(channels), rank) / surface.ms(all_channels, rank)
    return surface.ms(rank, round(channels)) / surface.ms(rank, all_channels)
