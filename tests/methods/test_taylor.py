from __future__ import annotations

import pytest
import torch
from small_networks import Concatenated, Depthwise, Plain, Residual, randomise
from torch import nn

from edgeprune.contracts import Context
from edgeprune.errors import TrainingError, UsageError
from edgeprune.methods.taylor import Taylor
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.structure import network_structure

INPUTS = (torch.zeros(1, 3, 8, 8),)

# Where the gates of the paper go: after the norm (or the layer) that writes, before a layer that reads. A residual
# stream has one gate on all its writers; a part of a concatenation is some channels of the norm behind it.
GATES = {
    Plain: {"conv1": ["conv1:out"], "conv2": ["conv2:out"]},
    Residual: {
        "stem": ["norm:out", "blocks.0.norm2:out", "blocks.1.norm2:out"],
        "blocks.0.conv1": ["blocks.0.norm1:out"],
        "blocks.1.conv1": ["blocks.1.norm1:out"],
    },
    Depthwise: {"expand": ["project:in"], "project": ["norm3:out"]},
    Concatenated: {"left": ["norm:out:0"], "right": ["norm:out:6"], "join": ["join:out"]},
}


def _data(batches: int = 3) -> Data:
    generator = torch.Generator().manual_seed(5)
    made = [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 5) for _ in range(batches)]
    return Data(made, made, cross_entropy, top1, "made", (3, 8, 8))


def _context(network: nn.Module, data: Data | None) -> Context:
    return Context(network, INPUTS, network_structure(network, INPUTS), data, 0)


def _gradient_of_gate(network: nn.Module, places: list[str], size: int, batch: tuple) -> torch.Tensor:
    gate = torch.ones(size, requires_grad=True)

    def apply(value: torch.Tensor, first: int) -> torch.Tensor:
        factors = torch.cat([torch.ones(first), gate, torch.ones(value.shape[1] - first - size)])
        return value * factors.view(1, -1, 1, 1)

    handles = []
    for place in places:
        name, side, *first = place.split(":")
        layer, start = network.get_submodule(name), int(first[0]) if first else 0
        if side == "out":
            handles.append(layer.register_forward_hook(lambda _m, _x, y, s=start: apply(y, s)))
        else:
            handles.append(layer.register_forward_pre_hook(lambda _m, x, s=start: (apply(x[0], s),)))
    cross_entropy(network(batch[0]), batch[1]).backward()
    for handle in handles:
        handle.remove()
    return gate.grad


@pytest.mark.parametrize("kind", GATES)
def test_a_score_is_the_squared_gradient_of_an_actual_gate(kind):
    network, data = randomise(kind()), _data()
    context = _context(network, data)
    assert {group.name for group in context.structure.groups} == set(GATES[kind])
    expected = {
        group.name: torch.stack(
            [_gradient_of_gate(network, GATES[kind][group.name], group.size, batch) ** 2 for batch in data.train]
        ).mean(0)
        for group in context.structure.groups
    }
    scores = Taylor().score(context)
    for name, values in expected.items():
        assert values.max() > 1e-6
        assert torch.allclose(torch.tensor(scores[name]), values, rtol=1e-5, atol=1e-5 * float(values.max())), name


def test_a_unit_that_changes_nothing_scores_nothing():
    network = randomise(Residual())
    with torch.no_grad():
        network.blocks[0].conv2.weight[:, 3] = 0
    scores = Taylor().score(_context(network, _data()))["blocks.0.conv1"]
    assert scores[3] == 0
    assert min(score for unit, score in enumerate(scores) if unit != 3) > 0


def test_scores_foretell_the_change_of_the_loss():
    """Where a unit is nearly off already, its first-order score is the squared change of the loss by removing it."""
    network, (batch,) = randomise(Plain()), _data(1).train
    with torch.no_grad():
        network.conv2.weight[:, 2] *= 1e-3
    scores = Taylor().score(_context(network, _data(1)))["conv1"]
    with torch.no_grad():
        before = cross_entropy(network.double()(batch[0].double()), batch[1])
        network.conv2.weight[:, 2] = 0
        change = cross_entropy(network(batch[0].double()), batch[1]) - before
    assert scores[2] == pytest.approx(float(change) ** 2, rel=0.05)


def test_only_the_asked_number_of_batches_is_used():
    network, data = randomise(Plain()), _data(3)
    one = Taylor(batches=1).score(_context(network, data))
    assert one == Taylor(batches=1).score(_context(network, _data(1)))
    assert one != Taylor(batches=2).score(_context(network, data))


def test_frozen_weights_are_scored_all_the_same():
    network = randomise(Plain())
    expected = Taylor().score(_context(network, _data()))
    assert Taylor().score(_context(randomise(Plain()).requires_grad_(False), _data())) == expected


def test_what_cannot_be_scored_is_refused():
    network = randomise(Plain())
    with pytest.raises(UsageError, match=r"taylor needs training data; give --data"):
        Taylor().score(_context(network, None))
    with pytest.raises(UsageError, match="from 0 batches"):
        Taylor(batches=0)
    poisoned = [(torch.full((2, 3, 8, 8), float("nan")), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(TrainingError, match=r"is nan on its training data; check --data"):
        Taylor().score(_context(network, Data(poisoned, poisoned, cross_entropy, top1, "nan", (3, 8, 8))))
