"""Criteria that look at maps, against their formulas worked out another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import Concatenated, Plain, Residual, randomise
from torch import nn
from torch.nn import functional as F

from edgeprune.contracts import Context
from edgeprune.methods.apoz import Apoz
from edgeprune.methods.chip import Chip
from edgeprune.methods.hrank import Hrank
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.structure import network_structure

INPUTS = (torch.zeros(1, 3, 8, 8),)
IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def context_of(network: nn.Module) -> Context:
    batches = [(IMAGES[:4], torch.arange(4)), (IMAGES[4:], torch.arange(2))]
    data = Data(batches, batches, cross_entropy, top1, "made", (3, 8, 8))
    return Context(network, INPUTS, network_structure(network, INPUTS), data, 0)


@torch.no_grad()
def stream_maps(network: nn.Module) -> list[torch.Tensor]:
    """What the two blocks and the linear layer of a residual network read of its stream."""
    first = F.relu(network.norm(network.stem(IMAGES)))
    second = network.blocks[0](first)
    return [first, second, network.blocks[1](second).mean((2, 3))[:, :, None, None]]


def test_apoz_is_the_part_above_zero_wherever_the_stream_is_read():
    network = randomise(Residual())
    wanted = torch.stack([(maps > 0).float().mean((0, 2, 3)) for maps in stream_maps(network)]).mean(0)
    assert Apoz().score(context_of(network))["stem"] == pytest.approx(wanted.tolist(), abs=1e-6)
    assert Apoz(samples=5).score(context_of(network))["stem"] != pytest.approx(wanted.tolist(), abs=1e-6)


def test_hrank_counts_the_rank_of_every_map():
    network = randomise(Residual())
    with torch.no_grad():
        network.blocks[0].norm1.weight[2] = 0  # a map that is the same everywhere has rank 1
        network.blocks[0].norm1.bias[2] = 1
    block = network.blocks[0]
    with torch.no_grad():
        maps = F.relu(block.norm1(block.conv1(stream_maps(network)[0])))
    ranks = np.linalg.matrix_rank(maps.numpy()).mean(0)
    assert ranks[2] == 1
    assert Hrank().score(context_of(network))["blocks.0.conv1"] == pytest.approx(ranks / ranks.mean(), rel=2e-3)


def test_chip_is_the_loss_of_nuclear_norm():
    network = randomise(Concatenated())
    with torch.no_grad():
        maps = F.relu(network.norm(torch.cat([network.left(IMAGES), network.right(IMAGES)], 1))).numpy()
    left = maps[:, :6].reshape(len(maps), 6, -1)
    losses = np.zeros(6)
    for unit in range(6):
        without = left.copy()
        without[:, unit] = 0
        losses[unit] = np.mean([np.linalg.norm(row, "nuc") for row in left])
        losses[unit] -= np.mean([np.linalg.norm(row, "nuc") for row in without])
    assert Chip().score(context_of(network))["left"] == pytest.approx(losses / losses.mean(), rel=1e-4)


def test_a_unit_of_a_flattened_layer_is_all_its_positions():
    network = randomise(Plain())
    with torch.no_grad():
        x = F.max_pool2d(F.relu(network.conv1(IMAGES)), 2)
        maps = F.adaptive_avg_pool2d(F.relu(network.conv2(x)), 2)
    wanted = (maps > 0).float().mean((0, 2, 3))
    assert Apoz().score(context_of(network))["conv2"] == pytest.approx(wanted.tolist(), abs=1e-6)
