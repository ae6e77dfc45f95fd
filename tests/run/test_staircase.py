"""What a profile says to a person, on layers whose stairs are known."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_networks import Residual, randomise

from edgeprune.bench.layer_cost import LayerCost, LayerCosts, Tile
from edgeprune.network.groups import Group, Layer, Structure
from edgeprune.run.staircase import GroupStairs, Stair, group_stairs

WIDE = 64


def layer(name: str, reads: str | None, writes: str | None) -> Layer:
    return Layer(name, "conv", 1, 1, reads, writes, ((reads, WIDE),), ((writes, WIDE),))


def structure(*layers: Layer) -> Structure:
    return Structure((Group("middle", WIDE, ()),), (), layers)


def stairs_of(tile: int, reader_tile: int = 1) -> GroupStairs:
    """One group between two layers; the writer takes a millisecond a whole tile, the reader next to nothing."""
    outputs = tuple((count, count / WIDE) for count in range(tile, WIDE + 1, tile))
    writer = LayerCost(outputs, ((WIDE, 1.0),), tile=Tile(1, tile))
    inputs = tuple((count, 0.01 * count / WIDE) for count in range(reader_tile, WIDE + 1, reader_tile))
    reader = LayerCost(((WIDE, 0.01),), inputs, 0.01 / WIDE, Tile(reader_tile, 1))
    costs = LayerCosts({"writer": writer, "reader": reader}, 0.0)
    (found,) = group_stairs(structure(layer("writer", None, "middle"), layer("reader", "middle", None)), costs)
    return found


@pytest.mark.parametrize(
    ("tile", "cuts", "sentence"),
    [
        (16, [16, 32, 48], "cutting 1 to 15 gives nothing, cut 16, 32 or 48"),
        (32, [32], "cutting 1 to 31 gives nothing, cut 32"),
        (8, [8, 16, 24, 32, 40, 48, 56], "cutting 1 to 7 gives nothing, cut 8, 16, 24, ... 56"),
        (4, list(range(4, 57, 4)), "every cut saves: 4, 8, 12, ... 56"),
    ],
)
def test_cuts_are_named_where_the_stairs_are(tile: int, cuts: list[int], sentence: str) -> None:
    found = stairs_of(tile)
    assert [stair.cut for stair in found.stairs] == cuts
    assert found.sentence == sentence
    assert found.stairs[0].saved_ms == pytest.approx(tile / WIDE, abs=0.01)


def test_a_group_without_stairs_says_so() -> None:
    flat = LayerCost(((8, 1.0), (WIDE, 1.0)), ((WIDE, 1.0),))
    (found,) = group_stairs(structure(layer("writer", None, "middle")), LayerCosts({"writer": flat}, 0.0))
    assert (found.stairs, found.sentence) == ((), "no cut saves time")


def test_small_savings_before_the_first_stair_are_named() -> None:
    found = dataclasses.replace(stairs_of(16), before_ms=0.0125)
    assert found.sentence.startswith("cutting 1 to 15 gives 0.0125 ms at most, cut 16")
    assert found.stairs[0] == Stair(16, found.stairs[0].saved_ms)


def test_every_group_of_a_real_network_has_its_line() -> None:
    from edgeprune.network.structure import network_structure

    found = network_structure(randomise(Residual()), (torch.zeros(1, 3, 8, 8),))
    lines = group_stairs(found, LayerCosts({}, 0.0))
    assert {line.group for line in lines} == {group.name for group in found.groups}
