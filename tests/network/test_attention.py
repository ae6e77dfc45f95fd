"""The attention layer with widths of its own computes what PyTorch's does."""

import pytest
import torch
from torch import nn

from edgeprune.network.attention import own_attention


def causal(length, heads=0):
    mask = torch.ones(length, length, dtype=torch.bool).triu(1)
    return mask if not heads else mask.expand(heads, length, length)


CASES = [
    ({"batch_first": True}, {}),
    ({}, {"need_weights": False}),
    ({"bias": False}, {"attn_mask": causal(6)}),
    ({"kdim": 5, "vdim": 7}, {}),
    ({"add_bias_kv": True, "add_zero_attn": True}, {"attn_mask": causal(6)}),
    ({"add_bias_kv": True, "batch_first": True}, {"key_padding_mask": torch.tensor([[0] * 5 + [1]] * 2).bool()}),
    ({"batch_first": True}, {"attn_mask": causal(6, 8), "average_attn_weights": False}),
]


@pytest.mark.parametrize(("made", "called"), CASES)
def test_it_agrees_with_torch(made, called):
    layer = nn.MultiheadAttention(8, 4, **made).eval()
    widths = (8, made.get("kdim", 8), made.get("vdim", 8))
    shape = (2, 6) if made.get("batch_first") else (6, 2)
    inputs = [torch.randn(*shape, width) for width in widths]
    with torch.no_grad():
        wanted = layer(*inputs, **called)
        with own_attention(layer):
            assert type(layer) is not nn.MultiheadAttention
            got = layer(*inputs, **called)
    assert type(layer) is nn.MultiheadAttention
    torch.testing.assert_close(got[0], wanted[0])
    assert (got[1] is None) == (wanted[1] is None)
    if wanted[1] is not None:
        torch.testing.assert_close(got[1], wanted[1])


def test_one_sequence_without_a_batch():
    layer = nn.MultiheadAttention(8, 2).eval()
    x = torch.randn(5, 8)
    with torch.no_grad(), own_attention(layer):
        got = layer(x, x, x)
    torch.testing.assert_close(got, layer(x, x, x))
