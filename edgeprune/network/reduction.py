"""Sums what belongs to a unit: the arithmetic that scoring methods share."""

from __future__ import annotations

import torch

from edgeprune.network.groups import Slice


def unit_sums(values: torch.Tensor, slice_: Slice, size: int) -> torch.Tensor:
    """Sum `values`, shaped like the slice's tensor, over each unit's positions and everything else -> (size,).

    Sums are in float64, so that large tensors lose nothing; positions that no unit owns are left out.
    """
    rows = values.detach().to(torch.float64).movedim(slice_.dim, 0)
    along = rows.reshape(len(rows), -1).sum(1)  # (positions,)
    positions = torch.tensor([p for unit in slice_.index for p in unit], dtype=torch.long, device=values.device)
    owners = torch.tensor([u for u, unit in enumerate(slice_.index) for _ in unit], dtype=torch.long)
    sums = torch.zeros(size, dtype=torch.float64, device=values.device)
    return sums.index_add_(0, owners.to(values.device), along[positions])
