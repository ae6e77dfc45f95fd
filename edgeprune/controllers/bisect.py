"""One global importance threshold; the measured latency says where it lies.

Every group shrinks in steps from one allowed count to the next; all steps of all groups stand in one order, least
important first, and a position in that order is an allocation. The position is bracketed by measurements and
interpolated over the multiply-accumulates it saves, so that a few measurements suffice. A single step that jumps
over the whole target window is put off behind all others, and finer steps are tried in its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeprune.contracts import SAFE_UTILISATION, Controller, Outcome, Problem, utilisation
from edgeprune.network.groups import Allocation
from edgeprune.network.steps import Step, estimated_macs, ordered_steps

# How far the tightest limit should be used.
_WINDOW_LOW, _WINDOW_HIGH = 0.93, SAFE_UTILISATION
# Where neighbouring positions lie on both sides of the window: using this much is left at that, less is refined.
_GOOD_ENOUGH = 0.9
_MOST_JUMPS = 4
_AIM = (_WINDOW_LOW + _WINDOW_HIGH) / 2


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
        self._set_order(
            ordered_steps(
                problem.structure, problem.scores, problem.channel_multiple, per_mac=problem.scores_are_losses
            )
        )

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

    def _set_order(self, steps: list[Step]) -> None:
        self._steps = steps
        structure = self.problem.structure
        self._macs = [estimated_macs(structure, self._allocation(position)) for position in range(len(steps) + 1)]

    def _allocation(self, position: int) -> dict[str, int]:
        return {**self._sizes, **{step.group: step.kept for step in self._steps[:position]}}
