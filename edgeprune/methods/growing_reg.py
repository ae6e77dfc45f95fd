"""Picks the units with the smallest filters, and lets their weight decay grow until nothing is left of them.

Huan Wang, Can Qin, Yulun Zhang, Yun Fu: "Neural Pruning via Growing Regularization", ICLR 2021,
https://arxiv.org/abs/2012.09243: GReg-1.

Deviations: one factor for everything that makes a unit's output, norms included, where the paper decays the filter;
the step of the growth follows from the length of the training, with the ceiling at three quarters of it, where the
paper adds 1e-4 every 10 steps for as long as it takes.
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

_GROWTH = 0.75  # of the training; the rest lets the kept units settle


class GrowingReg(Method):
    """Importance = L1 norm of a unit's filters over the mean of its group; a growing decay empties what will go."""

    trains = True

    def __init__(self, ceiling: float = 1.0, interval: int = 10) -> None:
        """Take the largest decay, and the number of steps between two rises; raises UsageError."""
        if not ceiling > 0 or interval < 1:
            raise UsageError(
                f"The method growing-reg needs a ceiling above zero and an interval of 1 step or more, "
                f"not {ceiling} and {interval}."
            )
        self.ceiling = ceiling
        self.interval = interval
        self._marks: dict[str, torch.Tensor] = {}
        self._decay: UnitDecay | None = None
        self._factor = 0.0

    def score(self, context: Context) -> Scores:
        """Score every unit; the mean score of a group is 1."""
        return filter_scores(context)

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Pick, once and for all, the units that will go."""
        self._marks = removed_marks(context.structure, self.score(context), allocation)
        self._decay = UnitDecay(context)
        self._factor = 0.0

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Raise the factor of the picked units every few steps."""
        if step.number % self.interval == 0:
            self._factor = self.ceiling * min(1.0, step.number / (_GROWTH * step.total))

    def after_backward(self, network: nn.Module) -> None:
        """Decay the picked units."""
        if self._decay is not None:
            self._decay.add(network, {name: self._factor * marks for name, marks in self._marks.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the factor; the picked units follow from the network as it came."""
        return {"factor": self._factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the saved factor."""
        self._factor = float(state["factor"])
