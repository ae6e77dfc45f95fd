"""From tensors to units and back: the sums over what a unit owns, which methods score and train by."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from edgeprune.network.groups import Group, Role, Slice

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True, eq=False)
class Slot:
    """A slice that is ready for use at every step of a training.

    `positions` (n,) are all positions along `dim` that belong to a unit, `owners` (n,) the units they belong to.
    """

    tensor: str
    dim: int
    role: Role
    size: int  # units of the group
    positions: torch.Tensor
    owners: torch.Tensor

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Sum `values`, shaped like the tensor, over each unit's positions and everything else -> (size,), float64.

        Gradients flow through it; positions that no unit owns are left out.
        """
        rows = values.to(torch.float64).movedim(self.dim, 0)
        along = rows.reshape(len(rows), -1).sum(1)  # (positions,)
        sums = torch.zeros(self.size, dtype=torch.float64, device=values.device)
        return sums.index_add(0, self.owners.to(values.device), along[self.positions.to(values.device)])

    def spread(self, by_unit: torch.Tensor, like: torch.Tensor, elsewhere: float = 0.0) -> torch.Tensor:
        """Put each unit's number (size,) at its positions along `dim`, shaped to broadcast over `like`.

        Positions that no unit owns get `elsewhere`.
        """
        along = torch.full((like.shape[self.dim],), elsewhere, dtype=like.dtype, device=like.device)
        owned = by_unit.to(like.device, like.dtype)[self.owners.to(like.device)]
        along[self.positions.to(like.device)] = owned
        return along.reshape([-1 if dim == self.dim % like.dim() else 1 for dim in range(like.dim())])


def slot_of(slice_: Slice, size: int) -> Slot:
    """Return the slot of a slice of a group with `size` units."""
    positions = torch.tensor([p for unit in slice_.index for p in unit], dtype=torch.long)
    owners = torch.tensor([u for u, unit in enumerate(slice_.index) for _ in unit], dtype=torch.long)
    return Slot(slice_.tensor, slice_.dim, slice_.role, size, positions, owners)


def weight_slots(
    group: Group, weights: Collection[str], roles: tuple[Role, ...] = ("writer", "carrier", "reader")
) -> tuple[Slot, ...]:
    """Return the slots of a group in the named weights that have one of the roles."""
    slices = (piece for piece in group.slices if piece.tensor in weights and piece.role in roles)
    return tuple(slot_of(piece, group.size) for piece in slices)


def norm_scales(network: nn.Module) -> frozenset[str]:
    """Return the qualified names of the learned scales of all norms."""
    scales = {id(module.weight) for module in network.modules() if isinstance(module, _NORMS)}
    return frozenset(name for name, parameter in network.named_parameters() if id(parameter) in scales)


def norm_tensors(network: nn.Module) -> frozenset[str]:
    """Return the qualified names of the learned scales and shifts of all norms."""
    norms = (module for module in network.modules() if isinstance(module, _NORMS))
    own = {id(parameter) for module in norms for parameter in module.parameters(recurse=False)}
    return frozenset(name for name, parameter in network.named_parameters() if id(parameter) in own)


def unit_sums(values: torch.Tensor, slice_: Slice, size: int) -> torch.Tensor:
    """Sum `values`, shaped like the slice's tensor, over each unit's positions and everything else -> (size,).

    Sums are in float64, so that large tensors lose nothing; positions that no unit owns are left out.
    """
    return slot_of(slice_, size).sums(values.detach())


def unit_norms(group: Group, weights: Mapping[str, torch.Tensor], norm: float = 2.0) -> torch.Tensor:
    """Return the p-norm over all weights that each unit of a group has in the given tensors -> (size,), float64."""
    total = torch.zeros(group.size, dtype=torch.float64)
    for slot in weight_slots(group, weights):
        total += slot.sums(weights[slot.tensor].detach().abs().double().pow(norm)).cpu()
    return total.pow(1 / norm)


def unit_rows(values: torch.Tensor, slice_: Slice) -> torch.Tensor:
    """Return all that each unit has in `values`, one row a unit -> (units, numbers), float64 on the CPU.

    A unit with fewer positions than others has zeros behind them.
    """
    rows = values.detach().double().cpu().movedim(slice_.dim, 0)
    rows = rows.reshape(len(rows), -1)
    widest = max(len(positions) for positions in slice_.index)
    joined = torch.zeros(len(slice_.index), widest * rows.shape[1], dtype=torch.float64)
    for unit, positions in enumerate(slice_.index):
        own = rows[list(positions)].flatten()
        joined[unit, : len(own)] = own
    return joined


def over_mean(values: torch.Tensor) -> tuple[float, ...]:
    """Return scores (size,) over their mean, so that groups of different scale compare; zeros stay zeros."""
    mean = values.mean()
    return tuple((values / mean if mean > 0 else values).tolist())
