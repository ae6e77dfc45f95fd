"""Measures the single layers of a network on its target, and keeps what was measured where the next run finds it."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune import registry
from edgeprune.bench.fingerprint import environment_of, fingerprint_of
from edgeprune.bench.latency_table import LatencyTable, agreed, read_table, write_table
from edgeprune.bench.layer_cost import LayerCosts
from edgeprune.bench.layer_shape import LayerShape
from edgeprune.bench.stairs import Scan, next_points, tile_of, tile_probes
from edgeprune.bench.sweeping import Sweep, SweepOptions, sweep
from edgeprune.contracts import BuildRequest, Runtime
from edgeprune.errors import BuildError, UsageError
from edgeprune.network.layer_network import layer_samples, write_layer_onnx, write_layer_program
from edgeprune.network.layer_shapes import layer_shapes
from edgeprune.network.structure import network_structure

if TYPE_CHECKING:
    from torch import nn

    from edgeprune.bench.target import Target
    from edgeprune.network.groups import Structure
    from edgeprune.progress import Progress

# What is lost when a profile is killed, at most; a batch pays for its processes once.
_BATCH = 60
_BRIEF = SweepOptions()
# The stairs decide which layers are measured at all.
_PATIENT = SweepOptions(processes=4, block_s=0.03)
_FLOOR = LayerShape("linear", 1, 1, (1,))
# Layers that a scan measures, by experience: two sides, most of them straight.
_POINTS_A_LAYER = 10
_PILOTS = 6


@dataclass(frozen=True)
class Profile:
    """The layers of a network on a target: what they are, the table that holds them, where it lies, their costs."""

    structure: Structure
    shapes: Mapping[str, LayerShape]
    table: LatencyTable
    path: Path
    costs: LayerCosts


def profile_network(
    network: nn.Module,
    example_inputs: Any,
    target: Target,
    out: Path | None,
    progress: Progress,
    structure: Structure | None = None,
) -> Profile:
    """Measure what is not yet in the target's table of this network's layers, and of what they can become.

    `structure` says what can be cut or factorised; by default all coupled channels. The table lies in the user's
    cache by board and engine; a killed run goes on from it. `out` is a copy to share: what a file there holds already
    is taken in first. Raises BuildError when the engine refuses a layer, BoardError when the board cannot be used,
    UsageError for the table of another board or engine.
    """
    shapes = layer_shapes(network, example_inputs)
    structure = structure or network_structure(network, example_inputs)
    chains = [shape for found in structure.factorisations for _, chain in found.chains for shape in chain]
    scans = (*scans_of(structure, shapes), *_scans_of_ends(structure))
    table, path = Profiler(target, out, progress).measure(scans, chains)
    if out is not None:
        write_table(table, out)
    return Profile(structure, shapes, table, path, costs_of(structure, shapes, table))


def costs_of(structure: Structure, shapes: Mapping[str, LayerShape], table: LatencyTable) -> LayerCosts:
    """Return the costs of the layers that the table holds."""
    named = {layer.name for layer in structure.layers}
    chains = {
        found.layer: {count: tuple(table.ms(shape) for shape in chain) for count, chain in found.chains}
        for found in structure.factorisations
    }
    layers = {name: table.cost(shape) for name, shape in shapes.items() if name in named}
    ends = {
        name: (table.cost(first.shape), table.cost(last.shape)) for name, (first, last) in _ends_of(structure).items()
    }
    return LayerCosts(layers, table.floor_ms, chains, ends)


def scans_of(structure: Structure, shapes: Mapping[str, LayerShape]) -> tuple[Scan, ...]:
    """Return each different layer once, with the sides on which some group can cut it."""
    sides: dict[LayerShape, tuple[bool, bool]] = {}
    for layer in structure.layers:
        shape = shapes.get(layer.name)
        if shape is not None:
            before = sides.get(shape, (False, False))
            sides[shape] = (before[0] or _is_free(layer.in_parts), before[1] or _is_free(layer.out_parts))
    return tuple(Scan(shape, *free) for shape, free in sides.items())


def _ends_of(structure: Structure) -> dict[str, tuple[Scan, Scan]]:
    """Return the first and the last layer of the longest chain of each layer whose channels can be cut."""
    layers = {layer.name: layer for layer in structure.layers}
    found = {}
    for one in structure.factorisations:
        layer, (_, chain) = layers[one.layer], one.chains[-1]
        inputs, outputs = _is_free(layer.in_parts), _is_free(layer.out_parts)
        if inputs or outputs:
            found[one.layer] = (Scan(chain[0], inputs, outputs=True), Scan(chain[-1], True, outputs))
    return found


def _scans_of_ends(structure: Structure) -> tuple[Scan, ...]:
    return tuple(dict.fromkeys(scan for ends in _ends_of(structure).values() for scan in ends))


def _is_free(parts: tuple[tuple[str | None, int], ...]) -> bool:
    return any(name is not None for name, _ in parts)


def default_table_path(target: Target, fingerprint: str) -> Path:
    """Return where the table of a board and engine lies in the user's cache."""
    from platformdirs import user_cache_path

    return user_cache_path("edgeprune") / "latency-tables" / f"{target.runtime}-{fingerprint}.json"


class Profiler:
    """Builds and measures layers in batches and adds them to the table on the disk after each."""

    def __init__(self, target: Target, out: Path | None, progress: Progress) -> None:
        """Hold the target; nothing is measured yet."""
        self._target, self._out, self._progress = target, out, progress
        self._builder = _Builder(target)
        self._building_s = 0.0

    def measure(self, scans: Sequence[Scan], chains: Sequence[LayerShape] = ()) -> tuple[LatencyTable, Path]:
        """Complete the scans, and measure the layers of chains; return the table and where it lies."""
        table, path = self._open()
        whole = [scan.shape for scan in scans]
        table = self._announced(table, path, whole)
        table = self._add_tiles(table, path, scans)
        table = self._add(table, path, whole, "whole layers")
        while wanted := _unique(shape for scan in scans for shape in next_points(scan, table)):
            before = len(table.layers)
            table = self._add(table, path, wanted, "layers with fewer channels")
            if len(table.layers) == before:
                break
        return self._add(table, path, _unique(chains), "layers of factorised layers"), path

    def _open(self) -> tuple[LatencyTable, Path]:
        """Ask the board what it is, and read what is known of it or begin a table."""
        found = self._sweep([_FLOOR])
        (medians,) = found.medians_ms.values()
        environment = environment_of(found.facts, self._target, found.version)
        table = LatencyTable(
            target=self._target.name,
            kind=self._target.kind,
            runtime=self._target.runtime,
            runtime_version=found.version,
            fingerprint=fingerprint_of(environment),
            environment=environment,
            floor_ms=agreed(medians),
        )
        path = default_table_path(self._target, table.fingerprint)
        known = [read_table(file) for file in (path, self._out) if file is not None and file.exists()]
        for other in known:
            if other.fingerprint != table.fingerprint:
                raise UsageError(
                    f"{self._out} is the table of another board or engine ({other.target}, {other.runtime} "
                    f"{other.runtime_version}). Choose another --out."
                )
        if known:
            table = functools.reduce(LatencyTable.joined, known)
            self._progress.say(f"{len(table.layers)} layers of this board are known, from {path.name}")
        return table, path

    def _announced(self, table: LatencyTable, path: Path, whole: Sequence[LayerShape]) -> LatencyTable:
        """Measure a few layers of all sizes, and say from them how long the profile will take."""
        new = sorted((shape for shape in whole if shape not in table.layers), key=lambda shape: shape.macs)
        if not new:
            return table
        pilots = new[:: -(-len(new) // _PILOTS)]
        begin, built = time.monotonic(), self._building_s
        table = self._add(table, path, pilots, "a few layers for an estimate")
        building_s = self._building_s - built
        # NOTE: not the clock on the wall, which also waits for whoever measures on the same board.
        running_s = sum(_seconds_of(agreed(table.layers[shape])) for shape in pilots)
        each_s = min(building_s + running_s, time.monotonic() - begin) / len(pilots)
        coming = len(new) * _POINTS_A_LAYER
        self._progress.say(f"about {coming} layers are to be measured; that takes about {duration(coming * each_s)}")
        return table

    def _add_tiles(self, table: LatencyTable, path: Path, scans: Sequence[Scan]) -> LatencyTable:
        """Find the width of the stairs on the layer with most work of every new family."""
        largest: dict[str, LayerShape] = {}
        for scan in sorted(scans, key=lambda scan: scan.shape.inputs * scan.shape.outputs):
            if scan.shape.family not in table.tiles:
                largest[scan.shape.family] = scan.shape
        probes = _unique(probe for shape in largest.values() for probe in tile_probes(shape))
        table = self._add(table, path, probes, "layers that show the stairs", _PATIENT)
        tiles = {family: tile_of(shape, table) for family, shape in largest.items()}
        return replace(table, tiles={**table.tiles, **tiles})

    def _add(
        self,
        table: LatencyTable,
        path: Path,
        shapes: Sequence[LayerShape],
        what: str,
        options: SweepOptions = _BRIEF,
    ) -> LatencyTable:
        missing = [shape for shape in shapes if shape not in table.layers]
        if not missing:
            return table
        with self._progress.track(f"measuring {what}", len(missing)) as advance:
            for start in range(0, len(missing), _BATCH):
                batch = missing[start : start + _BATCH]
                medians = self._sweep(batch, options).medians_ms
                table = table.with_layers(dict(zip(batch, medians.values(), strict=True)))
                # Another profile of this board may have written meanwhile.
                table = table.joined(read_table(path)) if path.exists() else table
                write_table(table, path)
                advance(len(batch))
        return table

    def _sweep(self, shapes: Sequence[LayerShape], options: SweepOptions = _BRIEF) -> Sweep:
        with tempfile.TemporaryDirectory(prefix="edgeprune-layers-") as folder:
            begin = time.monotonic()
            artifacts = [self._builder.build(shape, Path(folder), index) for index, shape in enumerate(shapes)]
            self._building_s += time.monotonic() - begin
            return sweep(artifacts, self._target, options, self._progress)


@dataclass
class _Builder:
    """Builds layers for the target's runtime, from the ONNX alone where the runtime can."""

    target: Target
    needs_program: bool = False

    def __post_init__(self) -> None:
        self._runtime: Runtime = registry.load("runtimes", self.target.runtime)()

    def build(self, shape: LayerShape, folder: Path, index: int) -> Path:
        """Write the artifact of one layer; raises BuildError."""
        stem = folder / f"layer-{index}"
        out = folder / f"{stem.name}.{self._runtime.format}"
        write_layer_onnx(shape, stem.with_suffix(".onnx"))
        if not self.needs_program:
            try:
                self._runtime.build(self._request(shape, stem), out)
            except ValueError:
                self.needs_program = True
            else:
                return out
        write_layer_program(shape, stem.with_suffix(".pt2"))
        try:
            self._runtime.build(self._request(shape, stem), out)
        except ValueError as error:
            raise BuildError(f"{self.target.runtime} refused the layer {shape}: {error}") from error
        return out

    def _request(self, shape: LayerShape, stem: Path) -> BuildRequest:
        program = stem.with_suffix(".pt2")
        return BuildRequest(
            exported_program=program if program.exists() else None,
            onnx=stem.with_suffix(".onnx"),
            samples=() if self.target.precision == "fp32" else layer_samples(shape),
            precision=self.target.precision,
            settings=self.target.engine_settings(),
        )


def _unique(shapes: Iterable[LayerShape]) -> list[LayerShape]:
    return list(dict.fromkeys(shapes))


def _seconds_of(latency_ms: float) -> float:
    """Return how long a board looks at one layer."""
    warmup_ms = _BRIEF.warmup_runs * latency_ms
    block_ms = max(_BRIEF.block_runs * latency_ms, 1e3 * _BRIEF.block_s)
    return _BRIEF.processes * (warmup_ms + block_ms) / 1e3


def duration(seconds: float) -> str:
    """Write a time as a person says it."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
