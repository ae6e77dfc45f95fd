"""The latency table: its file, its surfaces, and the choice of what to measure on boards that are functions."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from edgeprune.bench.latency_table import LatencyTable, read_table, write_table
from edgeprune.bench.layer_cost import Tile
from edgeprune.bench.layer_shape import LayerShape
from edgeprune.bench.stairs import Scan, counts, next_points, tile_of, tile_probes
from edgeprune.errors import StorageError, UsageError

CONV = LayerShape("conv", 64, 96, (28, 28), (3, 3), (1, 1), (1, 1), (1, 1))
FLOOR_MS = 0.05


def empty() -> LatencyTable:
    return LatencyTable("board", "emulated", "onnxruntime", "1", "f" * 16, {}, FLOOR_MS)


def true_ms(shape: LayerShape) -> float:
    """Tiles of sixteen outputs and four inputs."""
    return 0.002 + 1e-5 * (-(-shape.inputs // 4) * 4) * (-(-shape.outputs // 16) * 16)


def measured(table: LatencyTable, shapes: list[LayerShape]) -> LatencyTable:
    return table.with_layers({shape: (FLOOR_MS + shape.copies * true_ms(shape),) * 2 for shape in shapes})


def scanned(scan: Scan) -> LatencyTable:
    table = measured(empty(), list(tile_probes(scan.shape)))
    table = LatencyTable(**{**vars(table), "tiles": {scan.shape.family: tile_of(scan.shape, table)}})
    while points := next_points(scan, table):
        table = measured(table, points)
    return table


def test_the_width_of_the_stairs_is_found() -> None:
    assert tile_of(CONV, measured(empty(), list(tile_probes(CONV)))) == Tile(inputs=4, outputs=16)


@pytest.mark.parametrize("seed", range(5))
def test_processes_that_differ_by_more_than_a_stair_do_not_hide_it(seed: int) -> None:
    chance = random.Random(seed)
    levels = [math.exp(chance.gauss(0, 0.03)) for _ in range(4)]
    layers = {
        probe: tuple(
            FLOOR_MS + probe.copies * true_ms(probe) * level * math.exp(chance.gauss(0, 0.003)) for level in levels
        )
        for probe in tile_probes(CONV)
    }
    assert tile_of(CONV, empty().with_layers(layers)) == Tile(inputs=4, outputs=16)


def test_a_probe_without_the_fast_way_of_the_engine_does_not_hide_the_stairs() -> None:
    """Here channels that are no multiple of eight take a third longer."""
    probes = tile_probes(CONV)
    slow = {probe: 4 / 3 if probe.outputs % 8 else 1.0 for probe in probes}
    layers = {probe: (FLOOR_MS + probe.copies * true_ms(probe) * slow[probe],) for probe in probes}
    assert tile_of(CONV, empty().with_layers(layers)).outputs == 16


def test_few_points_give_the_whole_surface() -> None:
    table = scanned(Scan(CONV, inputs=True, outputs=True))
    cost = table.cost(CONV)
    assert len(table.layers) - len(tile_probes(CONV)) <= 12
    for inputs in range(8, 65, 7):
        for outputs in range(10, 97, 5):
            assert cost.ms(inputs, outputs) == pytest.approx(true_ms(CONV.with_channels(inputs, outputs)), rel=0.01)


def test_a_side_that_nothing_cuts_is_not_scanned() -> None:
    table = scanned(Scan(CONV, inputs=False, outputs=True))
    probes = set(tile_probes(CONV))
    assert all(shape.inputs == CONV.inputs for shape in table.layers if shape not in probes)


def test_counts_are_whole_stairs_and_halves_of_the_first() -> None:
    assert counts(64, 16) == (8, 16, 32, 48, 64)
    assert counts(10, 16)[-1] == 10
    assert len(counts(1280, 4)) <= 20


def test_a_table_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    table = scanned(Scan(CONV, inputs=True, outputs=True))
    write_table(table, tmp_path / "table.json")
    assert read_table(tmp_path / "table.json") == table


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text('{"schema": 1, "layers": [{"shape": {}, "medians_ms": []}]}')
    with pytest.raises(StorageError, match="Remove it and profile again"):
        read_table(path)
    path.write_text('{"schema": 9}')
    with pytest.raises(UsageError, match="schema 9"):
        read_table(path)


def test_processes_that_disagree_count_by_the_faster_one() -> None:
    calm = empty().with_layers({CONV: (1.00, 1.02)})
    disturbed = empty().with_layers({CONV: (1.00, 1.50)})
    assert calm.ms(CONV) * CONV.copies + FLOOR_MS == pytest.approx(1.01)
    assert disturbed.ms(CONV) * CONV.copies + FLOOR_MS == pytest.approx(1.00)
