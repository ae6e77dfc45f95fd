"""PyTorch's attention layer with widths of its own: heads and channels can be cut independently of each other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PrunedAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` that reads its sizes from its weights.

    The original demands that heads times head width be the embedding's width, so neither could be cut alone.
    The parameters and the state dict stay the same; only `forward` differs.
    """

    def forward(  # noqa: PLR0913  # the signature that it replaces
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention`; masks are honoured whether or not `is_causal` is set."""
        batched, inputs = query.dim() == 3, (query, key, value)
        if not batched:
            inputs = tuple(tensor.unsqueeze(1) for tensor in inputs)  # type: ignore[assignment]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        if self.batch_first and batched:
            inputs = tuple(tensor.transpose(0, 1) for tensor in inputs)  # type: ignore[assignment]
        queries, keys, values = self._projected(inputs)
        mask = self._mask(attn_mask, key_padding_mask, (queries, keys))
        dropout = self.dropout if self.training else 0.0
        if need_weights:
            mixed, weights = _weighted(queries, keys, values, mask, dropout)
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed, weights = F.scaled_dot_product_attention(queries, keys, values, mask, dropout), None
        out = self.out_proj(mixed.permute(2, 0, 1, 3).flatten(2))
        if self.batch_first and batched:
            out = out.transpose(0, 1)
        if batched:
            return out, weights
        return out.squeeze(1), None if weights is None else weights.squeeze(0)

    def _projected(self, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(n, B, E) three times -> (B, heads, n, head width) three times, learned extra positions added."""
        if self._qkv_same_embed_dim:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(x, weight, bias) for x, weight, bias in zip(inputs, weights, biases, strict=True))
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(1, k.shape[1], -1)])
            v = torch.cat([v, self.bias_v.expand(1, v.shape[1], -1)])
        q, k, v = (x.unflatten(-1, (-1, self.head_dim)).permute(1, 2, 0, 3) for x in (q, k, v))
        if self.add_zero_attn:
            k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
        return q, k, v

    def _mask(self, attention: Tensor | None, padding: Tensor | None, sides: tuple[Tensor, Tensor]) -> Tensor | None:
        """One additive mask that broadcasts to (B, heads, n, m), None where nothing is masked."""
        queries, keys = sides
        extra = keys.shape[2] - (attention.shape[-1] if attention is not None else keys.shape[2])
        mask = None
        if attention is not None:
            mask = F.pad(_additive(attention, queries.dtype), (0, extra))
            mask = mask.unflatten(0, (queries.shape[0], -1)) if mask.dim() == 3 else mask
        if padding is not None:
            padded = F.pad(_additive(padding, queries.dtype), (0, keys.shape[2] - padding.shape[-1]))[:, None, None, :]
            mask = padded if mask is None else mask + padded
        return mask


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask that is added: True means masked out."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)


def _weighted(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """Attention with its weights, (B, heads, n, m)."""
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    weights = (scores if mask is None else scores + mask).softmax(-1)
    weights = F.dropout(weights, dropout)
    return weights @ values, weights


@contextmanager
def own_attention(model: nn.Module) -> Iterator[None]:
    """Let every attention layer of PyTorch's own kind run as `PrunedAttention` for a while."""
    layers = [module for module in model.modules() if type(module) is nn.MultiheadAttention]
    for layer in layers:
        layer.__class__ = PrunedAttention
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.MultiheadAttention


def convert_attention(model: nn.Module, cut: frozenset[str]) -> None:
    """Make attention layers that hold a cut tensor run as `PrunedAttention` for good, and set their sizes."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        if type(module) is nn.MultiheadAttention and any(tensor.startswith(prefix) for tensor in cut):
            module.__class__ = PrunedAttention
            inner = module.out_proj.weight.shape[1]
            module.num_heads, module.embed_dim = inner // module.head_dim, module.out_proj.weight.shape[0]
