"""ThiNet: greedy order and least squares against brute force, and what rescaling is worth."""

from __future__ import annotations

import copy
from itertools import combinations

import pytest
import torch
from small_networks import Plain, Residual, randomise
from torch import nn
from torch.nn import functional as F

from edgeprune.contracts import Context
from edgeprune.methods._contributions import gram_of
from edgeprune.methods.thinet import Thinet, fitted_factors, greedy_scores
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.structure import network_structure

INPUTS = (torch.zeros(1, 3, 8, 8),)
IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def context_of(network: nn.Module) -> Context:
    batches = [(IMAGES, torch.arange(64) % 5)]
    data = Data(batches, batches, cross_entropy, top1, "made", (3, 8, 8))
    return Context(network, INPUTS, network_structure(network, INPUTS), data, 0)


def test_units_go_in_the_order_in_which_least_is_lost():
    contributions = torch.randn(200, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    contributions[:, 5] = -contributions[:, 2] + 0.01  # together they do nothing, so they go together
    scores = greedy_scores(contributions.T @ contributions)
    order = sorted(range(7), key=lambda unit: scores[unit])
    for count in range(1, 7):
        lost = {
            unit: float(contributions[:, [*order[: count - 1], unit]].sum(1).square().sum())
            for unit in range(7)
            if unit not in order[: count - 1]
        }
        assert order[count - 1] == min(lost, key=lost.get)
    assert abs(order.index(5) - order.index(2)) == 1
    assert scores[order[-1]] >= 1 - 1e-6


def test_factors_are_those_of_least_squares():
    contributions = torch.randn(200, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    contributions[:, 3] += contributions[:, 1]
    kept = (0, 1, 4)
    wanted = torch.linalg.lstsq(contributions[:, kept], contributions.sum(1)).solution
    assert torch.allclose(fitted_factors(contributions.T @ contributions, kept), wanted, atol=1e-4)


def test_contributions_of_all_units_make_up_the_outputs():
    network, samples = randomise(Plain()), 40
    context = context_of(network)
    group = next(group for group in context.structure.groups if group.name == "conv1")
    with torch.no_grad():
        read = F.max_pool2d(F.relu(network.conv1(IMAGES[:samples])), 2)
        outputs = network.conv2(read) - network.conv2.bias[:, None, None]
        alone = torch.stack([network.conv2(read * (torch.arange(8) == unit)[:, None, None]) for unit in range(8)])
    alone = (alone - network.conv2.bias[:, None, None]).double()
    wanted = torch.einsum("ubchw,vbchw->uv", alone, alone) / float(outputs.double().square().sum())
    gram = gram_of(context, group, context.data, samples, count=400)
    assert gram.sum() == pytest.approx(1)
    assert torch.allclose(gram, wanted, atol=0.03)


def test_greedy_is_near_the_best_choice_and_rescaling_brings_outputs_nearer():
    network = randomise(Residual())
    context = context_of(copy.deepcopy(network))
    method = Thinet(samples=64, places=30)
    method.prepare(context, {"blocks.0.conv1": 5})
    method.finish(context)
    kept = next(
        edit.keep for edit in method.plan(context.structure, method.score(context), {"blocks.0.conv1": 5}).edits
    )
    with torch.no_grad():
        x = F.relu(network.norm(network.stem(IMAGES)))
        read = F.relu(network.blocks[0].norm1(network.blocks[0].conv1(x)))
        wanted = network.blocks[0].conv2(read)

        def error(units: tuple[int, ...], conv: nn.Conv2d) -> float:
            masked = torch.zeros_like(read)
            masked[:, units] = read[:, units]
            return float((conv(masked) - wanted).square().sum())

        plain = {units: error(units, network.blocks[0].conv2) for units in combinations(range(10), 5)}
        rescaled = error(kept, context.network.blocks[0].conv2)
    assert rescaled < plain[kept]
    assert plain[kept] <= sorted(plain.values())[len(plain) // 10]
    gone = [unit for unit in range(10) if unit not in kept]
    assert context.network.blocks[0].conv2.weight[:, gone].abs().max() == 0
