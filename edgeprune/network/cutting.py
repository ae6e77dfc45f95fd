"""Which positions of which tensor go, and taking them out."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from edgeprune.errors import ModelError, PlanError, UnknownNameError
from edgeprune.network.groups import Group, Role, needed_units
from edgeprune.network.plan import Plan

Network = TypeVar("Network", bound=nn.Module)
Positions = Mapping[tuple[str, int], tuple[int, ...]]  # by tensor and dimension


def removed_units(plan: Plan, groups: Iterable[Group]) -> dict[str, tuple[int, ...]]:
    """The units that a plan removes from each group; raises PlanError for a plan that breaks a constraint."""
    by_name = {group.name: group for group in groups}
    removed: dict[str, tuple[int, ...]] = {}
    for edit in plan.cuts:
        if edit.group not in by_name:
            raise UnknownNameError("group", edit.group, by_name)
        if edit.group in removed:
            raise PlanError(f"The plan prunes group {edit.group!r} twice. Give one keep list for each group.")
        check_keep(by_name[edit.group], edit.keep)
        kept = set(edit.keep)
        removed[edit.group] = tuple(unit for unit in range(by_name[edit.group].size) if unit not in kept)
    return removed


def check_keep(group: Group, keep: tuple[int, ...]) -> None:
    """Raise PlanError where a keep list is empty, out of range, repeated, unsorted or breaks a constraint."""
    where = f"The keep list of group {group.name!r}"
    _check_numbers(keep, group.size, where)
    for constraint in group.constraints:
        counts = [len(set(block) & set(keep)) for block in constraint.blocks]
        if len(set(counts)) > 1:
            raise PlanError(
                f"{where} keeps {counts} units of its {len(counts)} blocks, which must keep equally many "
                f"({constraint.reason})."
            )
    for units in needed_units(group):
        if not set(units) & set(keep):
            raise PlanError(f"{where} keeps none of units {_short(units)}, so a layer would be left without channels.")


def _check_numbers(keep: tuple[int, ...], size: int, where: str) -> None:
    if not keep:
        raise PlanError(f"{where} is empty. Keep at least one of its {size} units.")
    wrong = [unit for unit in keep if isinstance(unit, bool) or not isinstance(unit, int)]
    if wrong:
        raise PlanError(f"{where} holds {wrong[0]!r}, which is no unit number.")
    outside = [unit for unit in keep if not 0 <= unit < size]
    if outside:
        raise PlanError(f"{where} holds unit {outside[0]}, but its units are 0 to {size - 1}.")
    if len(set(keep)) != len(keep):
        twice = next(unit for unit in keep if keep.count(unit) > 1)
        raise PlanError(f"{where} holds unit {twice} twice.")
    if list(keep) != sorted(keep):
        raise PlanError(f"{where} is not in ascending order. Sort it: the order of the units stays.")


def _short(units: tuple[int, ...]) -> str:
    return f"{units[0]} to {units[-1]}" if units == tuple(range(units[0], units[-1] + 1)) else f"{list(units[:8])} ..."


def positions_of(groups: Iterable[Group], removed: Mapping[str, tuple[int, ...]], role: Role | None) -> Positions:
    """The positions that the removed units own, by tensor and dimension; of one role or of all."""
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    for group in groups:
        for piece in group.slices:
            if group.name in removed and role in (None, piece.role):
                gone = (piece.index[unit] for unit in removed[group.name])
                found[piece.tensor, piece.dim] += [position for positions in gone for position in positions]
    return {key: tuple(sorted(positions)) for key, positions in found.items() if positions}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by qualified name, a shared one under its first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def zero_positions(model: nn.Module, positions: Positions) -> None:
    """Set positions of parameters and buffers to zero, in place."""
    tensors = named_tensors(model)
    with torch.no_grad():
        for (name, dim), some in positions.items():
            tensors[name].index_fill_(dim, torch.tensor(some, device=tensors[name].device), 0)


def tensors_without(model: nn.Module, positions: Positions) -> dict[int, Tensor]:
    """Parameters and buffers that lose positions, cut, by the identity of the tensor that each takes the place of."""
    tensors, wanted = named_tensors(model), dict[str, Tensor]()
    for (name, dim), some in positions.items():
        tensor = wanted.get(name, tensors[name].detach())
        keep = torch.ones(tensor.shape[dim], dtype=torch.bool)
        keep[list(some)] = False
        wanted[name] = tensor.index_select(dim, keep.nonzero().flatten().to(tensor.device))
    return {id(tensors[name]): _like(tensors[name], tensor) for name, tensor in wanted.items()}


def _like(old: Tensor, new: Tensor) -> Tensor:
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def give_own_tensors(model: nn.Module, cut: Mapping[int, Tensor]) -> None:
    """Put the cut tensors in their places and copies in all others, in place; what was shared stays shared."""
    fresh = dict(cut)
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    held[name] = fresh.setdefault(id(tensor), _like(tensor, tensor.detach().clone()))  # type: ignore[assignment]


def copied(model: Network, instead: Mapping[int, Tensor] | None = None) -> Network:
    """A deep copy, with other tensors `instead` of some, by identity.

    Raises ModelError where the network holds something that cannot be copied.
    """
    try:
        return copy.deepcopy(model, dict[int, Any](instead or {}))
    except (RuntimeError, TypeError, NotImplementedError) as error:
        remedy = "Remove what cannot be deep-copied from it."
        raise ModelError(f"The network cannot be copied: {error}. {remedy}") from error
