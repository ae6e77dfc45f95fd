"""The latency table of one board and engine: single layers, measured; a file that can be shared and is added to.

The file is JSON: `schema`, `target`, `kind`, `runtime`, `runtime_version`, `fingerprint` and the `environment` that it
stands for, `floor_ms` (a network of next to nothing), `tiles` (by family of layers, how many channels the engine
works on at a time) and `layers`, each with its `shape` (see LayerShape) and `medians_ms` of all its copies together,
one for each process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeprune.bench.layer_cost import Curve, LayerCost, Tile
from edgeprune.bench.layer_shape import LayerShape, shape_from_dict, shape_to_dict
from edgeprune.errors import StorageError, UsageError
from edgeprune.files import write_text

SCHEMA = 1
# What is left of a layer that takes no longer than the floor, as a part of its time.
_LEAST_PART = 0.02
# Processes that differ by more than this part were not disturbed alike.
_AGREE = 0.05


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of single layers on one board; `layers` hold the medians of all copies together, one a process."""

    target: str
    kind: str
    runtime: str
    runtime_version: str
    fingerprint: str
    environment: Mapping[str, Any]
    floor_ms: float
    tiles: Mapping[str, Tile] = field(default_factory=dict)
    layers: Mapping[LayerShape, tuple[float, ...]] = field(default_factory=dict)

    def with_layers(self, layers: Mapping[LayerShape, tuple[float, ...]]) -> LatencyTable:
        """Return the table with more layers."""
        return replace(self, layers={**self.layers, **layers})

    def joined(self, other: LatencyTable) -> LatencyTable:
        """Return what either table of one board knows; what both know stays as this one has it."""
        tiles, layers = {**other.tiles, **self.tiles}, {**other.layers, **self.layers}
        return replace(self, tiles=tiles, layers=layers)

    def ms(self, shape: LayerShape) -> float:
        """Return what a measured layer adds to a network: its time over the floor; raises KeyError."""
        whole_ms = agreed(self.layers[shape])
        return max(whole_ms - self.floor_ms, _LEAST_PART * whole_ms) / shape.copies

    def tile(self, shape: LayerShape) -> Tile:
        """Return the stairs of a layer's family; single channels where they are not known."""
        return self.tiles.get(shape.family, Tile())

    def cost(self, shape: LayerShape) -> LayerCost:
        """Return the surface over the channels of a layer, from all that was measured of it; raises KeyError."""
        outputs = self._curve({found.outputs: found for found in self._of(shape) if found.inputs == shape.inputs})
        if shape.one_sided:
            outputs = self._curve({found.outputs: found for found in self._of(shape)})
            return LayerCost(outputs, tile=self.tile(shape))
        inputs = self._curve({found.inputs: found for found in self._of(shape) if found.outputs == shape.outputs})
        corner = shape.with_channels(inputs[0][0], outputs[0][0])
        least_ms = self.ms(corner) if corner in self.layers else inputs[0][1] * outputs[0][1] / self.ms(shape)
        return LayerCost(outputs, inputs, least_ms, self.tile(shape))

    def _of(self, shape: LayerShape) -> list[LayerShape]:
        """Everything measured of this layer with no more channels than it has."""
        template = shape.template()
        return [
            found
            for found in self.layers
            if found.template() == template and found.inputs <= shape.inputs and found.outputs <= shape.outputs
        ]

    def _curve(self, by_count: Mapping[int, LayerShape]) -> Curve:
        return tuple((count, self.ms(by_count[count])) for count in sorted(by_count))


def agreed(medians: tuple[float, ...]) -> float:
    """Return the mean of medians that agree, and else the lowest: what disturbs a process only adds to its time."""
    low, high = min(medians), max(medians)
    return sum(medians) / len(medians) if high <= low * (1 + _AGREE) else low


def write_table(table: LatencyTable, path: Path) -> None:
    """Write the table in one step; raises StorageError."""
    data = asdict(replace(table, layers={}))
    data["layers"] = [
        {"shape": shape_to_dict(shape), "medians_ms": list(medians)} for shape, medians in table.layers.items()
    ]
    write_text(path, json.dumps({"schema": SCHEMA, **data}, indent=1, allow_nan=False) + "\n")


def read_table(path: Path) -> LatencyTable:
    """Read a table; raises UsageError for a file of another schema, StorageError for one that is no table."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        schema = data.pop("schema")
        if schema != SCHEMA:
            raise UsageError(f"{path} has schema {schema!r}; this version reads schema {SCHEMA}. Profile again.")
        layers = {shape_from_dict(row["shape"]): _medians(row["medians_ms"]) for row in data.pop("layers")}
        tiles = {family: Tile(**tile) for family, tile in data.pop("tiles").items()}
        return LatencyTable(**data, tiles=tiles, layers=layers)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StorageError(f"{path} is no latency table: {error!r}. Remove it and profile again.") from error


def _medians(values: list[float]) -> tuple[float, ...]:
    medians = tuple(float(value) for value in values)
    if not medians or not all(math.isfinite(value) and value > 0 for value in medians):
        raise ValueError(f"medians_ms {values} are no times")
    return medians
