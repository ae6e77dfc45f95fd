"""Criteria that look at weights alone, or at nothing, against their formulas worked out by hand."""

from __future__ import annotations

import pytest
import torch
from small_networks import Plain, Residual, randomise
from torch import nn

from edgeprune.contracts import Context
from edgeprune.methods.first_units import FirstUnits
from edgeprune.methods.geometric_median import GeometricMedian
from edgeprune.methods.l1 import L1
from edgeprune.methods.lamp import Lamp
from edgeprune.methods.synflow import Synflow
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


def test_l1_adds_up_the_filters_of_all_writers():
    network = randomise(Residual())
    writers = [network.stem, network.blocks[0].conv2, network.blocks[1].conv2]
    sums = sum(layer.weight.detach().abs().sum((1, 2, 3)) for layer in writers)
    assert L1().score(_context(network))["stem"] == pytest.approx((sums / sums.mean()).tolist(), rel=1e-5)


def test_lamp_is_the_part_of_all_that_is_as_large():
    network = randomise(Plain())
    squares = network.conv1.weight.square().sum((1, 2, 3)) + network.conv1.bias.square()
    squares = (squares + network.conv2.weight.square().sum((0, 2, 3))).tolist()
    wanted = [own / sum(other for other in squares if other >= own) for own in squares]
    scores = Lamp().score(_context(network))["conv1"]
    assert scores == pytest.approx(wanted, rel=1e-5)
    assert max(scores) == 1


def test_synaptic_flow_is_the_product_of_absolute_weights_and_the_same_through_every_layer():
    network = randomise(nn.Sequential(nn.Linear(4, 6), nn.ReLU6(), nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)))
    inputs = (torch.randn(3, 4),)
    first, second, last = (network[place].weight.detach().abs().double() for place in (0, 2, 4))
    last = last * network[3].weight.detach().abs().double()
    before, after = first.sum(1), last.sum(0)
    flows = [before * (after @ second), after * (second @ before)]
    context = Context(network, inputs, network_structure(network, inputs), None, 0)
    scores = Synflow().score(context)
    largest = max(float(flow.max()) for flow in flows)
    assert scores["0"] == pytest.approx((flows[0] / largest).tolist(), rel=1e-9)
    assert scores["2"] == pytest.approx((flows[1] / largest).tolist(), rel=1e-9)
    assert sum(scores["0"]) == pytest.approx(sum(scores["2"]), rel=1e-9)
