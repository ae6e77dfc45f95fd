from __future__ import annotations

from dataclasses import replace

import torch
from small_networks import Residual, randomise

from edgeprune.contracts import Context
from edgeprune.methods.random import Random
from edgeprune.network.structure import network_structure

INPUTS = (torch.zeros(1, 3, 8, 8),)


def test_the_seed_chooses_and_nothing_else():
    network = randomise(Residual())
    context = Context(network, INPUTS, network_structure(network, INPUTS), None, 7)
    scores = Random().score(context)
    assert Random().score(replace(context, network=randomise(Residual(), seed=1))) == scores
    assert Random().score(replace(context, seed=8)) != scores


def test_no_group_is_favoured():
    network = randomise(Residual(width=400))
    context = Context(network, INPUTS, network_structure(network, INPUTS), None, 0)
    for scores in Random().score(context).values():
        assert abs(sum(scores) / len(scores) - 0.5) < 0.05
