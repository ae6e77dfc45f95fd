"""Splits the weight of a layer into the weights of a chain; singular values go to both sides by their square root.

All take a weight (outputs, inputs, height, width) and a rank, and return one weight for each layer of the chain,
(its outputs, its inputs or 1, its height, its width).
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeprune.errors import UsageError
from edgeprune.network.factorisation.singular import svd

Weights = tuple[Tensor, ...]
_SWEEPS = 5


def halves(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best product of this rank: (..., rows, rank) and (..., rank, columns), equally large."""
    left, values, right = svd(matrix)
    roots = values[..., :rank].sqrt()
    return left[..., :rank] * roots[..., None, :], roots[..., :, None] * right[..., :rank, :]


def window_matrix(weight: Tensor) -> Tensor:
    """(outputs, inputs, height, width) -> (inputs * height, outputs * width)."""
    outputs, inputs, height, width = weight.shape
    return weight.permute(1, 2, 0, 3).reshape(inputs * height, outputs * width)


def split_channels(weight: Tensor, rank: tuple[int, ...]) -> Weights:
    """The window from the inputs to `rank` channels, then 1x1 to the outputs."""
    outputs, inputs, height, width = weight.shape
    last, first = halves(weight.reshape(outputs, -1), rank[0])
    return first.reshape(-1, inputs, height, width), last[:, :, None, None]


def split_window(weight: Tensor, rank: tuple[int, ...]) -> Weights:
    """A column of the window from the inputs to `rank` channels, then a row to the outputs."""
    outputs, inputs, height, width = weight.shape
    first, last = halves(window_matrix(weight), rank[0])
    column = first.reshape(inputs, height, -1).permute(2, 0, 1)[..., None]
    row = last.reshape(-1, outputs, width).transpose(0, 1)[:, :, None, :]
    return column, row


def split_paths(weight: Tensor, rank: tuple[int, ...]) -> Weights:
    """1x1 from the inputs to `rank` channels for each output, then their windows, added up by output."""
    outputs, inputs, height, width = weight.shape
    first, last = halves(weight.reshape(outputs, inputs, height * width), rank[0])
    mixed = first.transpose(1, 2).reshape(outputs * rank[0], inputs, 1, 1)
    return mixed, last.reshape(outputs, rank[0], height, width)


def split_modes(weight: Tensor, rank: tuple[int, ...]) -> Weights:
    """1x1 from the inputs to `rank[0]` channels, the window to `rank[1]` channels, 1x1 to the outputs.

    A truncated higher-order SVD, then a few sweeps that renew each basis for the weight as the other basis sees it.
    """
    ins, outs = _basis(weight.transpose(0, 1), rank[0]), _basis(weight, rank[1])
    for _ in range(_SWEEPS):
        ins = _basis(torch.einsum("ncij,nb->cbij", weight, outs), rank[0])
        outs = _basis(torch.einsum("ncij,ca->naij", weight, ins), rank[1])
    core = torch.einsum("ncij,nb,ca->baij", weight, outs, ins)
    by_in, by_out = (_third_root(core.transpose(0, 1)), _third_root(core))
    core = core / by_out[:, None, None, None] / by_in[None, :, None, None]
    return (ins * by_in).T[:, :, None, None], core, (outs * by_out)[:, :, None, None]


def _basis(tensor: Tensor, rank: int) -> Tensor:
    """The strongest directions along the first axis: (first axis, rank)."""
    matrix = tensor.reshape(len(tensor), -1)
    return svd(matrix, whole=rank > matrix.shape[1])[0][:, :rank]


def _third_root(core: Tensor) -> Tensor:
    """What each slice gives away, so that three layers share its size."""
    norms = torch.linalg.vector_norm(core.flatten(1), dim=1)
    norms[norms == 0] = 1
    return torch.pow(norms, 1 / 3)


def split_canonically(weight: Tensor, rank: tuple[int, ...]) -> Weights:
    """1x1 from the inputs, a column and a row on each of `rank` channels alone, 1x1 to the outputs.

    Alternating least squares (TensorLy), begun from the strongest terms of an exact sum. Raises UsageError where
    TensorLy is missing.
    """
    factors = _exact_terms(weight)
    if rank[0] < factors[0].shape[1]:
        factors = _fitted(weight, [factor[:, : rank[0]] for factor in factors])
    sizes = [factor.norm(dim=0) for factor in factors]
    share = torch.stack(sizes).log().mean(0).exp()  # all four take the same part of a term's size
    outs, ins, column, row = (
        factor * torch.where(size > 0, share / size, 0.0) for factor, size in zip(factors, sizes, strict=True)
    )
    return ins.T[:, :, None, None], column.T[:, None, :, None], row.T[:, None, None, :], outs[:, :, None, None]


def _exact_terms(weight: Tensor) -> list[Tensor]:
    """One SVD for each pixel of the window: (axis, terms) for each of the four axes, the largest terms first."""
    outputs, inputs, height, width = weight.shape
    left, right = halves(weight.permute(2, 3, 0, 1), min(outputs, inputs))  # (height, width, outputs, terms)
    outs = left.permute(2, 0, 1, 3).reshape(outputs, -1)
    ins = right.permute(3, 0, 1, 2).reshape(inputs, -1)
    terms = left.shape[-1]
    column = torch.eye(height).to(weight).repeat_interleave(width * terms, 1)
    row = torch.eye(width).to(weight).repeat_interleave(terms, 1).repeat(1, height)
    order = (outs.norm(dim=0) * ins.norm(dim=0)).argsort(descending=True, stable=True)
    return [factor[:, order] for factor in (outs, ins, column, row)]


def _fitted(weight: Tensor, start: list[Tensor]) -> list[Tensor]:
    try:
        from tensorly.cp_tensor import CPTensor
        from tensorly.decomposition import parafac
    except ImportError as error:
        raise UsageError("The scheme 'canonical' needs TensorLy. Run: pip install 'edgeprune[lowrank]'") from error
    first = CPTensor((None, [factor.numpy().copy() for factor in start]))
    terms = parafac(weight.numpy(), start[0].shape[1], n_iter_max=50, init=first, tol=1e-7)
    weights, factors = torch.from_numpy(terms.weights), [torch.from_numpy(factor) for factor in terms.factors]
    return [factors[0] * weights, *factors[1:]]
