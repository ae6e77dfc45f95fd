"""Lets the weight decay of all units grow, so that those that matter come apart from the others; then empties the rest.

Huan Wang, Can Qin, Yulun Zhang, Yun Fu: "Neural Pruning via Growing Regularization", ICLR 2021,
https://arxiv.org/abs/2012.09243: GReg-2. Weights with a flat loss give way to a decay that is the same for all, so
that after a while magnitude says what the curvature of the loss is.

Deviations: the decay grows for all during the first half of the training, up to the paper's 0.01; then the units with
the smallest filters are picked, and theirs alone grows to 1 within a further quarter, where the paper picks and grows
for as long as it takes. One factor for everything that makes a unit's output, norms included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edgeprune.contracts import Context, Method, Step
from edgeprune.errors import UsageError
from edgeprune.methods._growing import UnitDecay, filter_scores, removed_marks
from edgeprune.network.groups import Allocation, Scores

_APART, _EMPTY = 0.5, 0.75  # of the training


class GrowingReg2(Method):
    """Importance = L1 norm of a unit's filters over the mean of its group, after a decay that grew for all units."""

    trains = True

    def __init__(self, ceiling: float = 1.0, common_ceiling: float = 0.01, interval: int = 10) -> None:
        """Take the largest decay of picked units and of all, and the steps between two rises; raises UsageError."""
        if not ceiling > 0 or not common_ceiling > 0 or interval < 1:
            raise UsageError(
                f"The method growing-reg-2 needs ceilings above zero and an interval of 1 step or more, not {ceiling}, "
                f"{common_ceiling} and {interval}."
            )
        self.ceiling = ceiling
        self.common_ceiling = common_ceiling
        self.interval = interval
        self._context: Context | None = None
        self._allocation: Allocation = {}
        self._decay: UnitDecay | None = None
        self._marks: dict[str, torch.Tensor] = {}
        self._picked = False
        self._factor = 0.0

    def score(self, context: Context) -> Scores:
        """Score every unit; the mean score of a group is 1."""
        return filter_scores(context)

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Mark every unit of the groups that lose some."""
        self._context = context
        self._allocation = allocation
        self._decay = UnitDecay(context)
        self._picked = False
        removed = removed_marks(context.structure, self.score(context), allocation)
        self._marks = {name: torch.ones_like(marks) for name, marks in removed.items()}

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Raise the factor every few steps; halfway, pick the units that will go."""
        done = step.number / step.total
        if done >= _APART and not self._picked and self._context is not None:
            self._marks = removed_marks(self._context.structure, self.score(self._context), self._allocation)
            self._picked = True
        if step.number % self.interval == 0:
            if self._picked:
                grown = min(1.0, (done - _APART) / (_EMPTY - _APART))
                self._factor = self.common_ceiling + (self.ceiling - self.common_ceiling) * grown
            else:
                self._factor = self.common_ceiling * done / _APART

    def after_backward(self, network: nn.Module) -> None:
        """Decay the marked units."""
        if self._decay is not None:
            self._decay.add(network, {name: self._factor * marks for name, marks in self._marks.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the factor, and the marks with whether they are those of picked units."""
        return {"factor": self._factor, "picked": self._picked, "marks": dict(self._marks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the saved marks."""
        self._factor = float(state["factor"])
        self._picked = bool(state["picked"])
        self._marks = dict(state["marks"])
