"""Criteria that look at weights alone, or at nothing, against their formulas worked out by hand."""

from __future__ import annotations

import pytest
import torch
from small_networks import Plain, Residual, randomise
from torch import nn

from edgeprune.contracts import Context
from edgeprune.methods.first_units import FirstUnits
from edgeprune.methods.geometric_median import GeometricMedian
from edgeprune.network.structure import network_structure

INPUTS = (torch.zeros(1, 3, 8, 8),)


def _context(network: nn.Module) -> Context:
    return Context(network, INPUTS, network_structure(network, INPUTS), None, 0)


def test_distances_are_between_signed_filters():
    network = randomise(Plain())
    filters = torch.cat([network.conv2.weight.flatten(1), network.conv2.bias[:, None]], 1).detach()
    sums = torch.stack([(filters - own).norm(dim=1).sum() for own in filters])
    assert GeometricMedian().score(_context(network))["conv2"] == pytest.approx((sums / sums.mean()).tolist(), rel=1e-5)
    with torch.no_grad():
        network.conv2.weight[3], network.conv2.bias[3] = -network.conv2.weight[2], -network.conv2.bias[2]
        far = GeometricMedian().score(_context(network))["conv2"]
        network.conv2.weight[3], network.conv2.bias[3] = network.conv2.weight[2], network.conv2.bias[2]
        near = GeometricMedian().score(_context(network))["conv2"]
    assert far[3] / sum(far[4:]) > near[3] / sum(near[4:])


def test_all_writers_of_a_stream_are_one_filter():
    network = randomise(Residual())
    writers = [network.stem, network.blocks[0].conv2, network.blocks[1].conv2]
    filters = torch.cat([layer.weight.detach().flatten(1) for layer in writers], 1)
    sums = torch.cdist(filters, filters).sum(1)
    scores = GeometricMedian().score(_context(network))["stem"]
    assert scores == pytest.approx((sums / sums.mean()).tolist(), rel=1e-4)


def test_the_first_units_stay():
    context = _context(randomise(Plain()))
    plan = FirstUnits().plan(context.structure, FirstUnits().score(context), {"conv1": 3})
    assert [edit.keep for edit in plan.edits] == [(0, 1, 2)]
