from __future__ import annotations

import torch
from small_networks import Residual

from edgeprune.network.groups import Slice
from edgeprune.network.reduction import norm_scales, slot_of, unit_sums


def test_sums_over_the_positions_of_a_unit_and_everything_else():
    values = torch.arange(24.0).reshape(2, 4, 3)
    heads = Slice("w", 1, "reader", ((0, 3), (2,)))  # position 1 belongs to no unit
    assert unit_sums(values, heads, 2).tolist() == [
        float(values[:, 0].sum() + values[:, 3].sum()),
        float(values[:, 2].sum()),
    ]


def test_vectors_are_summed_by_position():
    assert unit_sums(torch.tensor([1.0, 2.0, 4.0]), Slice("b", 0, "writer", ((2,), (0, 1))), 2).tolist() == [4.0, 3.0]


def test_small_numbers_are_not_lost_beside_large_ones():
    values = torch.tensor([[1e8, 1.0, -1e8]])
    assert unit_sums(values, Slice("w", 0, "writer", ((0,),)), 1).tolist() == [1.0]


def test_numbers_of_units_go_back_to_their_positions():
    values = torch.zeros(2, 4, 3)
    slot = slot_of(Slice("w", 1, "reader", ((0, 3), (2,))), 2)
    spread = slot.spread(torch.tensor([5.0, 7.0]), values, elsewhere=1.0)
    assert spread.shape == (1, 4, 1)
    assert spread.flatten().tolist() == [5.0, 1.0, 7.0, 5.0]


def test_sums_carry_gradients():
    values = torch.ones(3, requires_grad=True)
    slot_of(Slice("b", 0, "writer", ((2,), (0,))), 2).sums(values)[0].backward()
    assert values.grad.tolist() == [0.0, 0.0, 1.0]


def test_scales_of_norms_are_found_by_what_they_are():
    assert norm_scales(Residual()) == {
        "norm.weight",
        *(f"blocks.{block}.norm{place}.weight" for block in (0, 1) for place in (1, 2)),
    }
