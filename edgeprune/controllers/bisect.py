"""One global importance threshold; the measured latency says where it lies.

Every group shrinks in steps from one allowed count to the next; all steps of all groups stand in one order, least
important first, and a position in that order is an allocation. The position is bracketed by measurements and
interpolated over the multiply-accumulates it saves, so that a few measurements suffice. A single step that jumps
over the whole target window is put off behind all others, and finer steps are tried in its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, pairwise

from edgeprune.contracts import SAFE_UTILISATION, Controller, Outcome, Problem, utilisation
from edgeprune.network.groups import Allocation, Group, Layer
from edgeprune.network.selection import allowed_counts, select_units

# How far the tightest limit should be used.
_WINDOW_LOW, _WINDOW_HIGH = 0.93, SAFE_UTILISATION
# Where neighbouring positions lie on both sides of the window: using this much is left at that, less is refined.
_GOOD_ENOUGH = 0.9
_MOST_JUMPS = 4
_AIM = (_WINDOW_LOW + _WINDOW_HIGH) / 2
_SMALLEST_KEPT_PART = 0.1
_FEWEST_COUNTS = 4


@dataclass(frozen=True)
class _Step:
    group: str
    kept: int  # units that stay after the step
    importance: float


@dataclass(frozen=True)
class _Point:
    position: int
    utilisation: float  # of the tightest limit; at most 1 is feasible


class Bisect(Controller):
    """Walk one ordered list of shrinking steps until the measured network fits the limits."""

    def __init__(self, problem: Problem) -> None:
        """Order the steps of all groups; the limits must hold at least one value."""
        super().__init__(problem)
        self._sizes = {group.name: group.size for group in problem.structure.groups}
        self._low = _Point(0, utilisation(problem.original, problem.limits))
        self._high: _Point | None = None
        self._pending = 0
        self._rounds = 0
        self._jumps_left = _MOST_JUMPS
        self._known: dict[frozenset[tuple[str, int]], float] = {}
        self._misses = 0  # consecutive positions that were still above the window
        self._landed = self._low.utilisation <= 1
        self._set_order(_ordered_steps(problem))

    def ask(self) -> Allocation | None:
        """Return the next allocation, or None once the window is hit, nothing finer is left or rounds are used up."""
        while not self._is_done():
            self._pending = self._extrapolate() if self._high is None else self._interpolate(self._high)
            allocation = self._allocation(self._pending)
            known = self._known.get(frozenset(allocation.items()))
            if known is None:
                return allocation
            self._move_bracket(known)  # another order of steps has led here before
        return None

    def tell(self, allocation: Allocation, outcome: Outcome) -> None:
        """Move the bracket to what the allocation just asked for was measured to cost."""
        self._rounds += 1
        used = utilisation(outcome, self.problem.limits)
        self._known[frozenset(allocation.items())] = used
        self._move_bracket(used)

    def _is_done(self) -> bool:
        if self._landed or self._rounds >= self.problem.max_rounds:
            return True
        if self._high is None:
            return self._low.position == len(self._steps)
        if self._high.position - self._low.position > 1:
            return False
        return self._high.utilisation >= _GOOD_ENOUGH or not self._put_off_jump()

    def _move_bracket(self, used: float) -> None:
        point = _Point(self._pending, used)
        self._landed = _WINDOW_LOW <= used <= _WINDOW_HIGH
        if used > _WINDOW_HIGH:
            self._low, self._misses = point, self._misses + 1
        else:
            self._high, self._misses = point, 0

    def _extrapolate(self) -> int:
        """Aim at the window as if latency followed MACs; after a miss go at least half of the way that is left."""
        wanted = self._macs[self._low.position] * _AIM / self._low.utilisation
        last = len(self._steps)
        position = next((p for p in range(last) if self._macs[p] <= wanted), last)
        if self._misses:
            position = max(position, self._low.position + math.ceil((last - self._low.position) / 2))
        return max(position, self._low.position + 1)

    def _interpolate(self, high: _Point) -> int:
        part = (self._low.utilisation - _AIM) / (self._low.utilisation - high.utilisation)
        low_macs, high_macs = self._macs[self._low.position], self._macs[high.position]
        # A measurement at either end is known already; stay away from both so that the bracket shrinks.
        wanted = low_macs + min(max(part, 0.1), 0.9) * (high_macs - low_macs)
        inside = range(self._low.position + 1, high.position)
        return min(inside, key=lambda position: abs(self._macs[position] - wanted))

    def _put_off_jump(self) -> bool:
        """Move the step that jumps over the window, and its group's later ones, to the end; False without others."""
        start = self._low.position
        jumping = self._steps[start].group
        later = self._steps[start:]
        others = [step for step in later if step.group != jumping]
        if not others or not self._jumps_left:
            return False
        self._jumps_left -= 1
        self._set_order([*self._steps[:start], *others, *(step for step in later if step.group == jumping)])
        self._high, self._misses = None, 0
        return True

    def _set_order(self, steps: list[_Step]) -> None:
        self._steps = steps
        layers = self.problem.structure.layers
        self._macs = [
            sum(_layer_macs(layer, self._allocation(position), self._sizes) for layer in layers)
            for position in range(len(steps) + 1)
        ]

    def _allocation(self, position: int) -> dict[str, int]:
        return {**self._sizes, **{step.group: step.kept for step in self._steps[:position]}}


def _ordered_steps(problem: Problem) -> list[_Step]:
    steps = [
        step
        for group in problem.structure.groups
        for step in _steps_of_group(group, problem.scores[group.name], problem.channel_multiple)
    ]
    return sorted(steps, key=lambda step: (step.importance, step.group, -step.kept))


def _steps_of_group(group: Group, scores: tuple[float, ...], channel_multiple: int) -> list[_Step]:
    """Return the steps of one group, largest count first, with importances that never fall."""
    counts = sorted(_counts(group, channel_multiple), reverse=True)
    kept = [set(select_units(group, scores, count)) for count in counts]
    removed = [before - after for before, after in pairwise(kept)]
    importances = [sum(scores[unit] for unit in units) / len(units) for units in removed]
    return [
        _Step(group.name, count, importance)
        for count, importance in zip(counts[1:], accumulate(importances, max), strict=True)
    ]


def _counts(group: Group, channel_multiple: int) -> list[int]:
    """Return the counts to choose from: multiples of what the target likes, as long as a few choices remain."""
    floor = max(1, math.ceil(group.size * _SMALLEST_KEPT_PART))
    allowed = [count for count in allowed_counts(group) if count >= floor]
    multiple = channel_multiple if group.kind == "channel" else 1
    while multiple > 1 and group.size / multiple < _FEWEST_COUNTS:
        multiple //= 2
    return [count for count in allowed if count % multiple == 0 or count == group.size]


def _layer_macs(layer: Layer, kept: dict[str, int], sizes: dict[str, int]) -> float:
    """Estimate a layer's multiply-accumulates; a depthwise layer has one group on both sides and shrinks once."""
    if layer.in_group == layer.out_group and layer.kind == "depthwise":
        return layer.macs * _kept_part(layer.out_parts, kept, sizes)
    return layer.macs * _kept_part(layer.in_parts, kept, sizes) * _kept_part(layer.out_parts, kept, sizes)


def _kept_part(parts: tuple[tuple[str | None, int], ...], kept: dict[str, int], sizes: dict[str, int]) -> float:
    total = sum(channels for _, channels in parts)
    staying = sum(channels * kept[name] / sizes[name] if name in sizes else channels for name, channels in parts)
    return staying / total if total else 1.0
