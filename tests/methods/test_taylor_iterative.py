"""Iterative Taylor: gates close a few at a time, stay closed, and leave a network that the cut does not change."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from small_networks import Residual, randomise
from torch.nn import functional as F

from edgeprune.contracts import Context
from edgeprune.methods.taylor_iterative import TaylorIterative
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply

INPUTS = (torch.zeros(1, 3, 8, 8),)
STEPS = 60


def test_units_go_a_few_at_a_time_and_the_cut_changes_nothing():
    network = randomise(Residual())
    generator = torch.Generator().manual_seed(3)
    batches = [(torch.randn(16, 3, 8, 8, generator=generator), torch.arange(16) % 5) for _ in range(3)]
    data = Data(batches, batches, cross_entropy, top1, "made", (3, 8, 8))
    structure = network_structure(network, INPUTS)
    allocation = {"stem": 5, "blocks.0.conv1": 4}
    shaping = Shaping(TaylorIterative(), Context(network, INPUTS, structure, data, 0), allocation, STEPS)
    optimiser = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9)
    closed, first = [], copy.deepcopy(network.state_dict())
    for step in range(STEPS):
        network.train()
        shaping.before_step(0.01)
        optimiser.zero_grad()
        F.cross_entropy(network(batches[step % 3][0]), batches[step % 3][1]).backward()
        shaping.after_backward()
        optimiser.step()
        shaping.after_step()
        columns = network.blocks[0].conv2.weight.abs().amax((0, 2, 3))
        closed.append(frozenset((columns == 0).nonzero().flatten().tolist()))
    assert closed[1] == frozenset()
    assert len({len(units) for units in closed}) > 4  # not all at once
    assert all(early <= late for early, late in pairwise(closed))
    assert len(closed[int(0.75 * STEPS)]) == len(closed[-1]) == 6
    plan = shaping.plan()
    keep = {edit.group: set(edit.keep) for edit in plan.edits}
    assert keep["blocks.0.conv1"] == set(range(10)) - closed[-1]
    assert {name: len(units) for name, units in keep.items()} == allocation
    smaller = apply(plan, network, INPUTS)
    with torch.no_grad():
        assert torch.allclose(smaller(batches[0][0]), network(batches[0][0]), atol=1e-5)
    assert not torch.equal(first["blocks.1.conv1.weight"], network.blocks[1].conv1.weight)
