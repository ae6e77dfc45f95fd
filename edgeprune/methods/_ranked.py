"""What SPP and IncReg share: factors of units that rise and fall with the units' ranks, until enough units are out.

Huan Wang, Qiming Zhang, Yuehai Wang, Haoji Hu: "Structured Probabilistic Pruning for Convolutional Neural Network
Acceleration", BMVC 2018, https://arxiv.org/abs/1709.06994.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from edgeprune.contracts import Context
from edgeprune.network.groups import Allocation
from edgeprune.network.reduction import weight_slots
from edgeprune.network.selection import allowed_counts, select_units

_ROUNDING = 1e-9
SHAPE = 0.25  # the papers' u: how steeply the rise falls off with the rank


def increments(alive: int, removing: int, amplitude: float, shape: float = SHAPE) -> torch.Tensor:
    """Return by how much the factor of each rank changes (alive,), float64: from +amplitude over 0 at `removing` down.

    The least important unit has rank 0. The curve is symmetric about the rank where it is shape * amplitude.
    """
    steepness = math.log(2 / shape) / removing
    centre = -math.log(shape) / steepness
    ranks = torch.arange(alive, dtype=torch.float64)
    upper = torch.exp(-steepness * ranks)
    lower = 2 * shape - torch.exp(-steepness * (2 * centre - ranks))
    return amplitude * torch.where(ranks < centre, upper, lower)


class RankedFactors:
    """A factor from 0 to 1 for each unit of the groups that lose some; a unit with a factor of 1 is out for good.

    With constraints, the units that would go by their values rank below all others, so that what is out in the end
    can go.
    """

    def __init__(self, context: Context, allocation: Allocation) -> None:
        """Start with all factors at 0."""
        parameters = dict(context.network.named_parameters())
        losing = [group for group in context.structure.groups if allocation.get(group.name, group.size) < group.size]
        self._final = {group.name: (group, allocation[group.name]) for group in losing}
        self._kept = dict(self._final)
        self.part = 1.0
        self._writers = {group.name: weight_slots(group, parameters, ("writer",)) for group in losing}
        self.factors = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in losing}

    @property
    def kept(self) -> dict[str, int]:
        """How many units stay by group, as far as units may go now."""
        return {name: kept for name, (_, kept) in self._kept.items()}

    @property
    def out(self) -> dict[str, torch.Tensor]:
        """Whether a unit is out for good (size,), by group."""
        return {name: factors >= 1 for name, factors in self.factors.items()}

    @property
    def reach(self) -> float:
        """How many times the first unit's rise it takes until the last one is out; measured, about 15 % too much."""
        most = max((group.size - kept for group, kept in self._kept.values()), default=1) or 1
        return 1 + 0.9 * math.log2(most)

    def limit(self, part: float) -> None:
        """Let only a part of the units that are to go be out, from now on."""
        self.part = part
        for name, (group, kept) in self._final.items():
            least = group.size - int((group.size - kept) * part + _ROUNDING)
            self._kept[name] = (group, min(count for count in allowed_counts(group) if count >= least))

    def sizes(self, network: nn.Module) -> dict[str, torch.Tensor]:
        """Return the L1 norm of all that writes a unit (size,), by group."""
        parameters = dict(network.named_parameters())
        with torch.no_grad():
            return {
                name: torch.stack([slot.sums(parameters[slot.tensor].abs()).cpu() for slot in slots]).sum(0)
                for name, slots in self._writers.items()
            }

    def ranks(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the place of every unit in the order of its values (size,), what is out first."""
        ranks = {}
        for name, own in values.items():
            ranks[name] = torch.zeros_like(own)
            ranks[name][self._order(name, own)] = torch.arange(len(own), dtype=own.dtype)
        return ranks

    def update(self, values: Mapping[str, torch.Tensor], amplitude: float) -> None:
        """Let factors rise and fall with the ranks of the values; a group that has lost enough units stays as it is."""
        for name, (group, kept) in self._kept.items():
            factors = self.factors[name]
            gone = int((factors >= 1).sum())
            if gone < group.size - kept:
                alive = self._order(name, values[name])[gone:]
                change = increments(len(alive), group.size - kept - gone, amplitude)
                change[group.size - kept - gone :].clamp_(max=0.0)
                risen = (factors[alive] + change).clamp(0.0, 1.0)
                factors[alive] = torch.where(risen > 1 - _ROUNDING, 1.0, risen)

    def settle(self, values: Mapping[str, torch.Tensor]) -> None:
        """Put out whatever is missing, by the values."""
        for name, (group, kept) in self._kept.items():
            self.factors[name][self._order(name, values[name])[: group.size - kept]] = 1.0

    def left_over(self) -> dict[str, torch.Tensor]:
        """Take back the factors of units that stay, where enough units are out, and return them (size,) by group."""
        found = {}
        for name, (group, kept) in self._kept.items():
            factors = self.factors[name]
            staying = factors.masked_fill(factors >= 1, 0.0)
            if int((factors >= 1).sum()) == group.size - kept and bool(staying.any()):
                found[name] = staying
                self.factors[name] = (factors >= 1).to(factors)
        return found

    def load(self, factors: Mapping[str, Any]) -> None:
        """Go on with saved factors."""
        self.factors = {str(name): own.clone() for name, own in factors.items()}

    def _order(self, name: str, values: torch.Tensor) -> list[int]:
        """Return the units by their values, what is out first and what would go before what would stay."""
        group, kept = self._kept[name]
        listed: Sequence[float] = values.masked_fill(self.factors[name] >= 1, -1.0).tolist()
        stay = frozenset(select_units(group, listed, kept))
        return sorted(range(group.size), key=lambda unit: (unit in stay, listed[unit], unit))
