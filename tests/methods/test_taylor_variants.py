"""The variants of Taylor importance, each against its own formula worked out the plain way."""

from __future__ import annotations

import pytest
import torch
from small_networks import Plain, Residual, randomise
from torch import nn

from edgeprune.contracts import Context
from edgeprune.errors import UsageError
from edgeprune.methods.taylor import Taylor
from edgeprune.methods.taylor_fisher import TaylorFisher
from edgeprune.methods.taylor_norm import TaylorNorm
from edgeprune.methods.taylor_second_order import TaylorSecondOrder
from edgeprune.methods.taylor_weights import TaylorWeights
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.structure import network_structure

INPUTS = (torch.zeros(1, 3, 8, 8),)


def _data() -> Data:
    generator = torch.Generator().manual_seed(5)
    made = [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 5) for _ in range(2)]
    return Data(made, made, cross_entropy, top1, "made", (3, 8, 8))


def _context(network: nn.Module) -> Context:
    return Context(network, INPUTS, network_structure(network, INPUTS), _data(), 0)


def _gated(network: Plain, images: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    handle = network.conv2.register_forward_hook(lambda _layer, _x, y: y * gate.view(1, -1, 1, 1))
    try:
        return network(images)
    finally:
        handle.remove()


def test_weights_add_up_their_own_squares():
    network = randomise(Plain())
    expected = torch.zeros(12)
    for images, labels in _data().train:
        network.zero_grad()
        cross_entropy(network(images), labels).backward()
        reads = (network.linear.weight.grad * network.linear.weight).reshape(5, 12, 4) ** 2
        writes = (network.conv2.weight.grad * network.conv2.weight).flatten(1) ** 2
        biases = (network.conv2.bias.grad * network.conv2.bias) ** 2
        expected += (reads.sum((0, 2)) + writes.sum(1) + biases).detach() / 2
    assert torch.allclose(torch.tensor(TaylorWeights().score(_context(network))["conv2"]), expected, rtol=1e-4)


def test_a_norm_right_before_the_reader_is_the_gate():
    """Between a norm and a ReLU the change by scale and shift together is that of the gate behind the ReLU."""
    network = randomise(Residual())
    norm, gate = TaylorNorm().score(_context(network)), Taylor().score(_context(network))
    for name in ("blocks.0.conv1", "blocks.1.conv1"):
        assert norm[name] == pytest.approx(gate[name], rel=1e-3)


def test_fisher_squares_sample_by_sample():
    network = randomise(Plain())
    expected = torch.zeros(12)
    for images, labels in _data().train:
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            gate = torch.ones(12, requires_grad=True)
            cross_entropy(_gated(network, image, gate), label).backward()
            expected += gate.grad**2 / 16 / 2
    assert torch.allclose(torch.tensor(TaylorFisher().score(_context(network))["conv2"]), expected, rtol=1e-3)


def test_the_second_order_is_that_of_the_loss_along_a_gate():
    """Many random signs: the mean approaches the diagonal of the Hessian, which autograd gives exactly."""
    network = randomise(Plain())
    expected = torch.zeros(12)
    for images, labels in _data().train:

        def loss(gate: torch.Tensor, images: torch.Tensor = images, labels: torch.Tensor = labels) -> torch.Tensor:
            return cross_entropy(_gated(network, images, gate), labels)

        ones = torch.ones(12)
        slope = torch.autograd.functional.jacobian(loss, ones)
        curvature = torch.autograd.functional.hessian(loss, ones).diagonal()
        expected += (-slope + curvature / 2) / 2
    scores = torch.tensor(TaylorSecondOrder(draws=600).score(_context(network))["conv2"])
    assert torch.allclose(scores.sqrt(), expected.abs(), rtol=0.15, atol=0.02 * float(expected.abs().max()))


def test_what_tells_no_classes_is_refused():
    context = _context(randomise(Plain()))
    data = Data([(torch.zeros(2, 3, 8, 8), torch.zeros(2, 5))], [], lambda y, t: (y - t).sum(), top1, "made", (3, 8, 8))
    with pytest.raises(UsageError, match="taylor-second-order needs a network that tells classes"):
        TaylorSecondOrder().score(Context(context.network, INPUTS, context.structure, data, 0))
    for kind in (TaylorWeights, TaylorNorm, TaylorFisher, TaylorSecondOrder):
        with pytest.raises(UsageError, match=r"taylor-\S+ cannot score from 0"):
            kind(0)
