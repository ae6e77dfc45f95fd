"""The computed bytes of activations: by hand on small networks, and alike before and after a cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from edgeprune.network.activations import activation_bytes, activation_moments
from edgeprune.network.moments import peak_moment
from edgeprune.network.plan import Plan, PruneChannels
from edgeprune.network.selection import allowed_counts, select_units
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply
from tests.network.random_networks import BLOCKS, HEADS, NORMS, WIDTHS, RandomNetwork
from tests.small_networks import Concatenated, Depthwise, Plain, Residual, randomise

FLOAT = 4
# A padded shortcut ties units of two tensors together, of which the moments take the mean.
_KINDS = sorted(set(BLOCKS) - {"padded"})
_BLOCK = st.tuples(st.sampled_from(_KINDS), st.sampled_from(WIDTHS), st.sampled_from(NORMS), st.integers(0, 3))


class Chain(nn.Module):
    """Two convolutions with what engines fuse into them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv2(F.hardswish(self.norm(self.conv1(x))))


def test_a_norm_and_an_activation_write_over_their_input() -> None:
    """While conv2 runs its input (8 channels) and its result (4) are there: more than at conv1 (3 and 8)."""
    assert activation_bytes(Chain(), torch.zeros(1, 3, 10, 10)) == (8 + 4) * 100 * FLOAT


def test_a_sample_of_a_batch_counts_alone() -> None:
    batch = torch.zeros(50, 3, 10, 10)
    assert activation_bytes(Chain(), batch[:1]) == activation_bytes(Chain(), batch[:1].clone())


def test_a_shortcut_stays_in_memory_beside_the_block() -> None:
    """In the second convolution of a block: the stream, the block's inner channels, and the result."""
    width = 16
    found = activation_bytes(Residual(width), torch.zeros(1, 3, 6, 6))
    assert found == (width + (width + 2) + width) * 36 * FLOAT


def test_views_and_weights_cost_nothing() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(20, 30))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x.reshape(4, 5).transpose(0, 1).reshape(1, 20), self.weight.abs().t() * 2)

    assert activation_bytes(Views(), torch.zeros(1, 20)) > 0  # a transposed view is copied once
    assert activation_bytes(Views(), torch.zeros(1, 20)) < 30 * 20 * FLOAT


def test_an_input_that_is_read_late_stays() -> None:
    class Late(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.repeat(1, 3)).sum(1, keepdim=True) + x

    assert activation_bytes(Late(), torch.zeros(1, 100)) == (100 + 300 + 1) * FLOAT


@pytest.mark.parametrize("kind", [Plain, Residual, Depthwise, Concatenated])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_moments_predict_the_cut_network(kind: type[nn.Module], data: st.DataObject) -> None:
    check_prediction(randomise(kind()), torch.zeros(1, 3, 8, 8), data)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(_BLOCK, min_size=1, max_size=3), st.sampled_from(HEADS), st.data())
def test_moments_never_promise_too_little(
    blocks: list[tuple[str, int, str, int]], head: str, data: st.DataObject
) -> None:
    """On networks of every kind of block, where a reshape may hide channels."""
    check_prediction(RandomNetwork(blocks, head).eval(), torch.randn(2, 3, 8, 8), data, exact=False)


def check_prediction(network: nn.Module, inputs: torch.Tensor, data: st.DataObject, exact: bool = True) -> None:
    groups = network_structure(network, inputs).groups
    kept = {group.name: data.draw(st.sampled_from(allowed_counts(group))) for group in groups}
    edits = (PruneChannels(g.name, select_units(g, (1.0,) * g.size, kept[g.name])) for g in groups)
    found = activation_bytes(apply(Plan(tuple(edits)), network, inputs, via="auto"), inputs)
    predicted = peak_moment(activation_moments(network, inputs), kept).bytes_with(kept)
    assert predicted == pytest.approx(found) if exact else predicted >= found - 1e-6
