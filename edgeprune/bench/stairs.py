"""Which layers to measure next, so that few measurements find the stairs of a board.

First the width of the stairs is looked for on one layer of each family; then every layer is scanned at whole stairs
only, and bisected where the time is not a straight line between what is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import linear_regression

from edgeprune.bench.latency_table import LatencyTable
from edgeprune.bench.layer_cost import Tile
from edgeprune.bench.layer_shape import LayerShape

# The width at which stairs are looked for; those of engines are powers of two, and two of the widest fit.
_PROBE_WIDTH = 128
_PROBE_CUTS = (0, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64)
# Narrower stairs are not told apart from this width.
NARROWEST_STAIR = _PROBE_CUTS[1]
_WIDER_STAIRS = (8, 16, 32, 64)
# Half the width must save at least this part of the time, or there are no stairs to be seen.
_LEAST_SLOPE = 0.05
# Wider stairs must leave less than this part of the squares: stairs taken for too narrow cost measurements only.
_CLEARLY_BETTER = 0.75
# What is nearer to a straight line than this part of the layer's time is not looked at more closely.
_STRAIGHT = 0.03
# How much of what every measurement holds besides its layer is noise.
_FLOOR_NOISE = 0.02
_SMALLEST_KEPT_PART = 0.1
_FIRST_POINTS = 5
_MOST_COUNTS = 17


@dataclass(frozen=True)
class Scan:
    """A layer, and on which sides it can be cut."""

    shape: LayerShape
    inputs: bool
    outputs: bool


def tile_probes(shape: LayerShape) -> tuple[LayerShape, ...]:
    """Return the layers that show the stairs of a shape's family: itself, as wide as the probe, and a little less."""
    if (shape.groups > 1 and shape.operator != "depthwise") or shape.operator == "attention":
        return ()
    narrower = [_PROBE_WIDTH - cut for cut in _PROBE_CUTS]
    over_outputs = [shape.with_channels(_width(shape.inputs), width) for width in narrower]
    if shape.one_sided:
        return tuple(shape.with_channels(width, width) for width in narrower)
    return (*over_outputs, *(shape.with_channels(width, _PROBE_WIDTH) for width in narrower))


def tile_of(shape: LayerShape, table: LatencyTable) -> Tile:
    """Return the stairs that the measured probes of a shape show."""
    probes = tile_probes(shape)
    if not probes:
        return Tile()
    outputs = _stair(probes[: len(_PROBE_CUTS)], table)
    return Tile(outputs if shape.one_sided else _stair(probes[len(_PROBE_CUTS) :], table), outputs)


def next_points(scan: Scan, table: LatencyTable) -> list[LayerShape]:
    """Return the layers to measure next, each once; none when the scan is complete."""
    shape, tile = scan.shape, table.tile(scan.shape)
    if shape.one_sided:
        return (
            _missing(table, shape.outputs, tile.outputs, lambda count: shape.with_channels(count, count))
            if scan.outputs
            else _unknown(table, [shape])
        )
    outputs = _missing(table, shape.outputs, tile.outputs, lambda count: shape.with_channels(shape.inputs, count))
    inputs = _missing(table, shape.inputs, tile.inputs, lambda count: shape.with_channels(count, shape.outputs))
    corner = shape.with_channels(
        counts(shape.inputs, tile.inputs)[0] if scan.inputs else shape.inputs,
        counts(shape.outputs, tile.outputs)[0] if scan.outputs else shape.outputs,
    )
    found = [shape, corner, *(outputs if scan.outputs else ()), *(inputs if scan.inputs else ())]
    return _unknown(table, dict.fromkeys(found))


def counts(size: int, tile: int) -> tuple[int, ...]:
    """Return the numbers of channels worth measuring, ascending: whole stairs, and halves below the first."""
    floor = max(1, math.ceil(size * _SMALLEST_KEPT_PART))
    step = tile
    while size // step > _MOST_COUNTS:
        step *= 2
    whole = {count for count in range(step, size + 1, step) if count >= floor}
    halves = {tile >> shift for shift in range(1, tile.bit_length()) if floor <= tile >> shift < size}
    first = {max(floor, min(tile, floor))} if not whole and not halves else set()
    return tuple(sorted(whole | halves | first | {size}))


def _missing(table: LatencyTable, size: int, tile: int, layer: Callable[[int], LayerShape]) -> list[LayerShape]:
    """Return what a scan along one side still needs: evenly spread counts, then halves of what is not straight."""
    candidates = counts(size, tile)
    places = {round(index * (len(candidates) - 1) / (_FIRST_POINTS - 1)) for index in range(_FIRST_POINTS)}
    first = [layer(candidates[place]) for place in sorted(places)]
    if any(shape not in table.layers for shape in first):
        return first
    known = {place: table.ms(layer(count)) for place, count in enumerate(candidates) if layer(count) in table.layers}
    tolerance = max(_STRAIGHT * max(known.values()), _FLOOR_NOISE * table.floor_ms / layer(size).copies)
    return [layer(candidates[place]) for place in _crooked(known, candidates, tolerance)]


def _crooked(known: Mapping[int, float], candidates: tuple[int, ...], tolerance: float) -> list[int]:
    """Return the places in the middle of intervals at whose ends the time bends."""
    places = sorted(known)
    bent = set()
    for before, here, after in zip(places, places[1:], places[2:], strict=False):
        part = (candidates[here] - candidates[before]) / (candidates[after] - candidates[before])
        line = known[before] + part * (known[after] - known[before])
        if abs(known[here] - line) > tolerance:
            bent |= {(before, here), (here, after)}
    return [(low + high) // 2 for low, high in pairwise(places) if (low, high) in bent and high - low > 1]


def _unknown(table: LatencyTable, shapes: Iterable[LayerShape]) -> list[LayerShape]:
    return [shape for shape in shapes if shape not in table.layers]


def _stair(probes: Sequence[LayerShape], table: LatencyTable) -> int:
    """Return the width of the stairs that fit the probes best; wider ones must fit clearly better.

    Each process is fitted by itself, because processes differ by more than narrow stairs. 1 where the time does not
    follow the width at all, 4 where no wider stair shows.
    """
    whole_ms, half_ms = table.ms(probes[0]), table.ms(probes[-1])
    if whole_ms - half_ms < _LEAST_SLOPE * whole_ms:
        return 1
    layers = [[(ms - table.floor_ms) / probe.copies for ms in table.layers[probe]] for probe in probes]
    processes = [process for process in zip(*layers, strict=False) if process[0] > 0]
    best = NARROWEST_STAIR
    for width in _WIDER_STAIRS:
        if _misfit(width, processes) < _CLEARLY_BETTER * _misfit(best, processes):
            best = width
    return best


def _misfit(width: int, processes: Sequence[Sequence[float]]) -> float:
    """Return the squares that are left when all probes lie on stairs of this width along a straight line.

    A probe that is slower than the widest one has lost a fast way of the engine, and stands for the widest one.
    """
    steps = [-(-(_PROBE_WIDTH - cut) // width) for cut in _PROBE_CUTS]
    left = 0.0
    for layers_ms in processes:
        parts = [min(ms / layers_ms[0], 1.0) for ms in layers_ms]
        slope, start = linear_regression(steps, parts)
        left += sum((part - start - slope * step) ** 2 for step, part in zip(steps, parts, strict=True))
    return left


def _width(channels: int) -> int:
    """Few inputs, such as the three of a picture, would hide the stairs of the outputs."""
    return max(channels, 16)
