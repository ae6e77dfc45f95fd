"""Factors by rank: the curve of the papers, and that exactly as many units are out as must be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import Plain, randomise
from torch import nn

from edgeprune.contracts import Context
from edgeprune.methods._ranked import RankedFactors, increments
from edgeprune.network.groups import EqualCounts, Group, Slice, Structure
from edgeprune.network.structure import network_structure

INPUTS = (torch.zeros(1, 3, 8, 8),)


def test_the_curve_falls_from_the_amplitude_over_zero_where_enough_units_lie_below():
    curve = increments(alive=16, removing=9, amplitude=0.05).tolist()
    assert curve[0] == 0.05
    assert curve[6] == pytest.approx(0.25 * 0.05)  # at two thirds, its centre
    assert curve[9] == pytest.approx(0, abs=1e-15)
    assert curve == sorted(curve, reverse=True)
    assert [curve[6] - curve[6 + n] for n in (1, 2, 3)] == pytest.approx([curve[6 - n] - curve[6] for n in (1, 2, 3)])
    # Half of many units: the most important one falls by 3.5 times what the least important one rises by.
    assert increments(4000, 2000, 1.0)[-1] == pytest.approx(-3.5, rel=0.01)


def fixed_values(size: int) -> tuple[Context, torch.Tensor]:
    network = nn.Sequential(nn.Conv2d(1, size, 1), nn.Conv2d(size, 2, 1))
    index = tuple((unit,) for unit in range(size))
    slices = (Slice("0.weight", 0, "writer", index), Slice("1.weight", 1, "reader", index))
    structure = Structure((Group("0", size, slices),), (), ())
    context = Context(network, (torch.zeros(1, 1, 2, 2),), structure, None, 0)
    return context, torch.arange(size, dtype=torch.float64).flip(0)


@pytest.mark.parametrize(("size", "kept"), [(4, 3), (8, 4), (64, 20), (64, 1), (256, 128)])
def test_all_are_out_when_they_should_be_and_not_much_earlier(size, kept):
    context, values = fixed_values(size)
    ranked = RankedFactors(context, {"0": kept})
    steps = 2000
    rise = ranked.reach / steps
    done = next(n for n in range(steps) if ranked.update({"0": values}, rise) or ranked.out["0"].sum() == size - kept)
    assert 0.75 * steps < done or size == 4
    assert ranked.out["0"].tolist() == [value < size - kept for value in values.tolist()]
    assert not ranked.left_over()  # with ranks that never change, those that stay never rise


@given(seed=st.integers(0, 99), kept=st.integers(1, 4), steps=st.integers(0, 40))
def test_constraints_hold_for_whatever_is_out_in_the_end(seed, kept, steps):
    generator = torch.Generator().manual_seed(seed)
    context, _ = fixed_values(10)
    blocks = (tuple(range(5)), tuple(range(5, 10)))
    (group,) = context.structure.groups
    bound = Group(group.name, 10, group.slices, (EqualCounts(blocks, "two blocks"),))
    ranked = RankedFactors(Context(context.network, INPUTS, Structure((bound,), (), ()), None, 0), {"0": 2 * kept})
    for _ in range(steps):
        ranked.update({"0": torch.rand(10, generator=generator, dtype=torch.float64)}, 0.3)
    ranked.settle({"0": torch.rand(10, generator=generator, dtype=torch.float64)})
    out = ranked.out["0"]
    assert [int(out[list(block)].sum()) for block in blocks] == [5 - kept, 5 - kept]


def test_who_stays_gives_back_its_factor_once_enough_are_out():
    context, values = fixed_values(4)
    ranked = RankedFactors(context, {"0": 2})
    ranked.factors["0"] = torch.tensor([0.0, 0.25, 1.0, 0.5], dtype=torch.float64)
    assert not ranked.left_over()
    ranked.settle({"0": values})
    assert ranked.left_over()["0"].tolist() == [0.0, 0.25, 0.0, 0.0]
    assert ranked.factors["0"].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert math.isclose(ranked.reach, 1.9)


def test_a_unit_is_as_large_as_all_that_writes_it():
    network = randomise(Plain())
    structure = network_structure(network, INPUTS)
    ranked = RankedFactors(Context(network, INPUTS, structure, None, 0), {"conv1": 3})
    weights = network.conv1.weight.abs().double().sum((1, 2, 3)) + network.conv1.bias.abs().double()
    assert torch.allclose(ranked.sizes(network)["conv1"], weights)
