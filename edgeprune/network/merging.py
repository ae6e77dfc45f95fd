"""Merging units that are alike: what reads them reads one of them, with the sum of the weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from edgeprune.errors import PlanError
from edgeprune.network.cutting import named_tensors
from edgeprune.network.groups import Group, Slice
from edgeprune.network.plan import MergeChannels, Plan


def mergeable(group: Group) -> str:
    """Return why the units of a group cannot be merged, "" where they can."""
    if not group.exact:
        return "a norm or another statistic runs across its units"
    if not any(piece.role == "reader" for piece in group.slices):
        return "no weights read its units"
    return ""


def cells(group: Group) -> tuple[tuple[int, ...], ...]:
    """Return the units in sets within which they may be merged: those in the same blocks of every constraint."""
    found: dict[tuple[int, ...], list[int]] = {}
    for unit in range(group.size):
        blocks = (block for constraint in group.constraints for block in constraint.blocks)
        found.setdefault(tuple(unit in block for block in blocks), []).append(unit)
    return tuple(map(tuple, found.values()))


def merge_readers(network: nn.Module, plan: Plan, groups: Iterable[Group]) -> None:
    """Add what reads the units of a cluster to what reads its first one, and set the rest to zero, in place.

    Raises PlanError for clusters that are not what a plan may merge.
    """
    by_name = {group.name: group for group in groups}
    tensors = named_tensors(network)
    for edit in plan.edits:
        if not isinstance(edit, MergeChannels):
            continue
        group = by_name[edit.group]
        _check_clusters(group, edit)
        for piece in group.slices:
            if piece.role == "reader":
                _merge(tensors[piece.tensor], piece, edit)


def merges(plan: Plan) -> tuple[str, ...]:
    """Return the groups in which a plan merges units."""
    return tuple(
        edit.group for edit in plan.edits if isinstance(edit, MergeChannels) and any(map(_several, edit.clusters))
    )


def _several(cluster: tuple[int, ...]) -> bool:
    return len(cluster) > 1


def _merge(tensor: torch.Tensor, piece: Slice, edit: MergeChannels) -> None:
    with torch.no_grad():
        rows = tensor.movedim(piece.dim, 0)
        for first, *others in edit.clusters:
            for unit in others:
                rows[list(piece.index[first])] += rows[list(piece.index[unit])]
                rows[list(piece.index[unit])] = 0


def _check_clusters(group: Group, edit: MergeChannels) -> None:
    where = f"The clusters of group {group.name!r}"
    reason = mergeable(group)
    if reason:
        raise PlanError(f"Group {group.name!r} cannot be merged: {reason}. Prune its units instead.")
    units = sorted(unit for cluster in edit.clusters for unit in cluster)
    if units != list(range(group.size)) or not all(edit.clusters):
        raise PlanError(f"{where} must hold each of its units 0 to {group.size - 1} once, not {units}.")
    cell_of = {unit: cell for cell in cells(group) for unit in cell}
    across = [cluster for cluster in edit.clusters if len({cell_of[unit] for unit in cluster}) > 1]
    if across:
        reasons = "; ".join(constraint.reason for constraint in group.constraints)
        raise PlanError(f"{where} join units {list(across[0])} of different blocks ({reasons}). Merge inside a block.")
    for piece in group.slices:
        for cluster in edit.clusters:
            counts = sorted({len(piece.index[unit]) for unit in cluster})
            if len(counts) > 1:
                raise PlanError(f"{where} join units that have {counts} positions in {piece.tensor!r}: not alike.")
