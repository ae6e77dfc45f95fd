"""What a cut network asks of a board, derived from the works of the whole one and the allocation: no cut, no export.

Every result in a network holds some part of its elements after a cut: of a layer's result that part is known from the
groups of its channels, and every other operator passes on what it reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from edgeprune.bench.work import LayerWork
from edgeprune.network.groups import Allocation, Layer, Structure

_ONE = Fraction(1)
Parts = tuple[tuple[str | None, int], ...]


class CutWorks:
    """Derives the works of one network for any allocation."""

    def __init__(self, works: Sequence[LayerWork], structure: Structure) -> None:
        """Match the works, of the whole network's ONNX file, with the layers of its structure; raises ValueError."""
        self._works = works
        self._sizes = {group.name: group.size for group in structure.groups}
        self._layers = _matched(works, structure.layers)
        self._sums = _sums(works)

    def with_allocation(self, allocation: Allocation) -> tuple[LayerWork, ...]:
        """Return the works of the network that an allocation leaves."""
        kept = {**self._sizes, **allocation}
        staying: list[Fraction] = []
        cut: list[LayerWork] = []
        for index, work in enumerate(self._works):
            layer = self._layers.get(index)
            inside = self._read_part(work, staying)
            if layer is not None:
                outside = self._part(layer.out_parts, kept)
                cut.append(_layer(work, self._part(layer.in_parts, kept), outside))
            else:
                outside = self._padded_part(index, staying) if work.operator == "Pad" else inside
                cut.append(_passed_on(work, inside, outside))
            staying.append(outside)
        return tuple(cut)

    def _part(self, parts: Parts, kept: Mapping[str, int]) -> Fraction:
        total = sum(channels for _, channels in parts)
        left = sum(channels * Fraction(kept[name], self._sizes[name]) if name else channels for name, channels in parts)
        return Fraction(left, total) if total else _ONE

    def _read_part(self, work: LayerWork, staying: Sequence[Fraction]) -> Fraction:
        """Return the part that stays of everything a work reads."""
        parts = {staying[source] for source in work.reads}
        if len(parts) <= 1:
            return parts.pop() if parts else _ONE
        total = sum(self._works[source].output_elements for source in work.reads)
        return Fraction(sum(self._works[source].output_elements * staying[source] for source in work.reads)) / total

    def _padded_part(self, index: int, staying: Sequence[Fraction]) -> Fraction:
        """Zeros are added up to the channels of what the result is added to."""
        other = self._sums.get(index)
        return staying[other] if other is not None else staying[self._works[index].reads[0]]


def _matched(works: Sequence[LayerWork], layers: Sequence[Layer]) -> Mapping[int, Layer]:
    """Return the layer of every operator with weights, both in the order in which they run; ONNX may lose the names."""
    places = [index for index, work in enumerate(works) if work.macs and work.kind != "matmul"]
    weighted = [layer for layer in layers if layer.parameters]
    if [works[index].macs for index in places] != [layer.macs for layer in weighted]:
        raise ValueError("the operators with weights are not the layers of the structure, one by one")
    return dict(zip(places, weighted, strict=True))


def _sums(works: Sequence[LayerWork]) -> dict[int, int]:
    """Return, by operator, one that was run before it and whose result is added to its own."""
    found = {}
    for work in works:
        if work.kind == "elementwise" and len(work.reads) == 2:
            first, second = sorted(work.reads)
            found[second] = first
    return found


def _layer(work: LayerWork, inputs: Fraction, outputs: Fraction) -> LayerWork:
    """Return a convolution or linear layer with parts of its channels."""
    depthwise = work.kind == "depthwise"
    groups = _whole(work.groups * outputs) if depthwise else work.groups
    weights = outputs if depthwise else inputs * outputs
    return replace(
        work,
        input_elements=_whole(work.input_elements * inputs),
        output_elements=_whole(work.output_elements * outputs),
        weight_elements=_whole(work.weight_elements * weights),
        in_channels=_whole(work.in_channels * inputs),
        out_channels=_whole(work.out_channels * outputs),
        groups=groups,
    )


def _passed_on(work: LayerWork, inside: Fraction, outside: Fraction) -> LayerWork:
    """Return an operator whose data shrinks; in a product of two activations there are fewer rows."""
    with_channels = work.kind in ("norm", "elementwise", "activation") and work.weight_elements > 2
    return replace(
        work,
        input_elements=_whole(work.input_elements * inside),
        output_elements=_whole(work.output_elements * outside),
        weight_elements=_whole(work.weight_elements * (outside if with_channels else 1)),
        positions=_whole(work.positions * outside),
    )


def _whole(value: Fraction | int) -> int:
    return round(value)
