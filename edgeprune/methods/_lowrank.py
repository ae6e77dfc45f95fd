"""What the methods that factorise share: weights as matrices, and how much each rank holds of a layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from edgeprune.contracts import Context
from edgeprune.errors import PlanError
from edgeprune.network.factorisation.layers import Choice, group_weights
from edgeprune.network.factorisation.singular import singular_values
from edgeprune.network.factorisation.units import Spectrum, with_ranks
from edgeprune.network.groups import Structure

Tensor = torch.Tensor


@dataclass(frozen=True)
class Unfolding:
    """A weight (groups, outputs, inputs, height, width) as matrices (count, rows, columns), and back."""

    unfold: Callable[[Tensor], Tensor]
    fold: Callable[[Tensor, tuple[int, ...]], Tensor]


def _channels(weight: Tensor) -> Tensor:
    return weight.flatten(2)


def _window(weight: Tensor) -> Tensor:
    groups, outputs, inputs, height, width = weight.shape
    return weight.permute(0, 2, 3, 1, 4).reshape(groups, inputs * height, outputs * width)


def _unwindowed(matrices: Tensor, shape: tuple[int, ...]) -> Tensor:
    groups, outputs, inputs, height, width = shape
    return matrices.reshape(groups, inputs, height, outputs, width).permute(0, 3, 1, 2, 4)


def _paths(weight: Tensor) -> Tensor:
    return weight.flatten(0, 1).flatten(2)


UNFOLDINGS: Mapping[str, Unfolding] = {
    "channel": Unfolding(_channels, lambda matrices, shape: matrices.reshape(shape)),
    "spatial": Unfolding(_window, _unwindowed),
    "decoupled": Unfolding(_paths, lambda matrices, shape: matrices.reshape(shape)),
}


def ranks_of(context: Context, scheme: str, spectra: Callable[[Choice], Spectrum]) -> Structure:
    """Return the ranks of the layers as what the controller allocates; a window of one pixel is split by channels."""
    schemes = dict.fromkeys((scheme, "channel"))
    found = with_ranks(context.structure, context.network, context.example_inputs, tuple(schemes), spectra)
    return found.with_ranks_only()


def energy_spectrum(choice: Choice) -> Spectrum:
    """Return the part of a layer's energy, its squared singular values, at each rank of one number."""
    values = singular_values(UNFOLDINGS[choice.scheme.name].unfold(finite_weights(choice)))
    return spectrum_of(values.square().sum(0))


def finite_weights(choice: Choice) -> Tensor:
    """Return the weight by channel group, in float64 on the CPU; raises PlanError where it is not finite."""
    weights = group_weights(choice).cpu()
    if not torch.isfinite(weights).all():
        raise PlanError("its weight is not finite")
    return weights


def spectrum_of(energies: Tensor) -> Spectrum:
    """Return a spectrum of one rank from the energies (full rank,) of its terms, whatever their order."""
    ordered = energies.sort(descending=True).values
    parts = ordered / ordered.sum().clamp_min(torch.finfo(ordered.dtype).tiny)
    scores = tuple(parts.tolist())
    return Spectrum(tuple((rank,) for rank in range(1, len(scores) + 1)), scores, scores)


@dataclass(frozen=True)
class Projected:
    """Matrices (count, rows, columns) at their ranks, and where their nuclear norms grow: U V^T of what is kept."""

    matrices: Tensor
    subgradient: Tensor


def project(matrices: Tensor, ranks: Tensor) -> Projected:
    """Truncate many matrices of one shape, each at its own rank (count,), by the smaller of their Gram matrices.

    One that is not finite, or whose eigenvalues are not found, stays as it is and pushes nothing.
    """
    finite = torch.isfinite(matrices).all(-1).all(-1)
    sound = torch.where(finite[:, None, None], matrices, 0.0).double()
    flip = sound.shape[1] > sound.shape[2]
    wide = sound.mT if flip else sound
    try:
        values, vectors = torch.linalg.eigh(wide @ wide.mT)  # ascending
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # of PyTorch
        return _projected_apart(matrices, ranks)
    size = values.shape[1]
    kept = torch.arange(size, device=values.device) >= size - ranks.to(values.device)[:, None]
    roots = values.clamp_min(0.0).sqrt()
    shares = torch.where(kept & (roots > 1e-9 * roots[:, -1:]), 1.0 / roots, 0.0)
    inner = vectors.mT @ wide
    low = (vectors * kept[:, None, :]) @ inner
    steep = (vectors * shares[:, None, :]) @ inner
    low, steep = (one.mT if flip else one for one in (low, steep))
    return Projected(torch.where(finite[:, None, None], low.to(matrices), matrices), steep.to(matrices))


def _projected_apart(matrices: Tensor, ranks: Tensor) -> Projected:
    """Project one by one, so that a matrix without eigenvalues keeps none of the others from its rank."""
    if len(matrices) == 1:
        return Projected(matrices, torch.zeros_like(matrices))
    found = [project(*pair) for pair in zip(matrices.split(1), ranks.split(1), strict=True)]
    return Projected(torch.cat([one.matrices for one in found]), torch.cat([one.subgradient for one in found]))


def rank_at(energy: float, matrices: Tensor) -> Tensor:
    """Return for each matrix (count, rows, columns) the smallest rank that keeps a part of its energy: (count,).

    Numbers that are not finite count nothing.
    """
    energies = singular_values(matrices.double().nan_to_num(0.0, 0.0, 0.0)).square().cumsum(-1)
    ranks: Tensor = (energies < energy * energies[:, -1:]).sum(-1) + 1
    return ranks


def tensors_of(state: Any) -> dict[str, Tensor]:
    """Read saved tensors."""
    return {str(name): tensor for name, tensor in dict(state).items()}
