from __future__ import annotations

import pytest
import torch
from small_networks import Concatenated, Plain, Residual, randomise
from torch import nn

from edgeprune.contracts import Context
from edgeprune.errors import UsageError
from edgeprune.methods.magnitude import Magnitude
from edgeprune.network.structure import network_structure

INPUTS = (torch.zeros(1, 3, 8, 8),)


def _context(network: nn.Module) -> Context:
    return Context(network, INPUTS, network_structure(network, INPUTS), None, 0)


@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_the_norm_is_over_all_coupled_weights(norm):
    """Worked out by hand for a convolution, a pooling, and the linear layer behind a flatten."""
    network = randomise(Plain())
    linear = network.linear.weight.detach().reshape(5, 12, 4).transpose(0, 1)  # (unit, out, place)
    parts = [network.conv2.weight.flatten(1), network.conv2.bias[:, None], linear.flatten(1)]
    norms = torch.cat(parts, 1).norm(p=norm, dim=1)
    scores = torch.tensor(Magnitude(norm).score(_context(network))["conv2"])
    assert torch.allclose(scores, norms / norms.mean(), atol=1e-6)


def test_running_statistics_are_no_weights():
    network = randomise(Residual())
    before = Magnitude().score(_context(network))
    for name, buffer in network.named_buffers():
        if name.endswith("running_var"):
            buffer.mul_(100)
    assert Magnitude().score(_context(network)) == before


def test_every_group_has_the_mean_one_so_that_groups_compare():
    network = randomise(Concatenated())
    with torch.no_grad():
        network.left.weight.mul_(100)
    for scores in Magnitude().score(_context(network)).values():
        assert sum(scores) / len(scores) == pytest.approx(1)


def test_a_group_of_zeros_scores_zero():
    network = randomise(Plain())
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.zero_()
    assert set(Magnitude().score(_context(network))["conv1"]) == {0.0}


def test_a_norm_that_means_nothing_is_refused():
    with pytest.raises(UsageError, match="norm 0 of the method magnitude"):
        Magnitude(0)
