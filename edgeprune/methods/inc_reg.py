"""Lets the weight decay of every unit rise or fall with its rank, until the least important ones are empty.

Huan Wang, Qiming Zhang, Yuehai Wang, Lu Yu, Haoji Hu: "Structured Pruning for Efficient ConvNets via Incremental
Regularization", IJCNN 2019, https://arxiv.org/abs/1804.09461.

A unit's L1 rank is averaged over all steps so far; by the average, its factor rises (up to A a step) or falls. A unit
whose factor reaches the ceiling is set to zero for good. Deviations: one factor for everything that makes a unit's
output, norms included; the paper's A = 2.5e-4 and ceiling of 2.5 are for some 40,000 steps, so a shorter training
raises A until all is out at three quarters of it, and the ceiling until units are empty when they go; a decay too large
for the learning rate divides the weights after the step instead of adding to the gradient. The ordinary weight decay,
which the paper halves, is the caller's. With `accuracy_drop` the allocation is the most that may go: a tenth of the
training at a time removes a part of it, as much as the accuracy leaves room for, and is undone where it took too much.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edgeprune.contracts import Context, Method, Step
from edgeprune.errors import UsageError
from edgeprune.methods._growing import UnitDecay, filter_scores
from edgeprune.methods._ranked import RankedFactors
from edgeprune.methods._stages import Stages
from edgeprune.methods._taylor import data_of
from edgeprune.network.groups import Allocation, Scores, Structure
from edgeprune.network.plan import Plan

_UNTIL = 0.75  # of the training; the rest lets the kept units settle
_EMPTY = 20.0  # a unit whose factor rises evenly is down to exp(-_EMPTY / 2) when it reaches the ceiling
_STABLE = 0.1  # decay times learning rate; more would swing with the optimiser's momentum


class IncReg(Method):
    """Importance = L1 norm of a unit's filters over the mean of its group; a decay by rank empties what will go."""

    trains = True

    def __init__(self, ceiling: float = 2.5, amplitude: float = 2.5e-4, accuracy_drop: float | None = None) -> None:
        """Take the largest decay, and by how much the least important unit's rises a step; raises UsageError.

        With `accuracy_drop`, a part of 1, fewer units go than allocated where the validation data do not allow more.
        """
        if not ceiling > 0 or not amplitude > 0 or not (accuracy_drop is None or 0 <= accuracy_drop < 1):
            raise UsageError(
                f"The method inc-reg needs a ceiling and an amplitude above zero and an accuracy drop from 0 to 1, not "
                f"{ceiling}, {amplitude} and {accuracy_drop}."
            )
        self.ceiling = ceiling
        self.amplitude = amplitude
        self.accuracy_drop = accuracy_drop
        self._stages: Stages | None = None
        self._ranked: RankedFactors | None = None
        self._decay: UnitDecay | None = None
        self._ranks: dict[str, torch.Tensor] = {}
        self._steps = 0
        self._rate = 0.0
        self._pull = 0.0  # decay times learning rate at a factor of 1

    def score(self, context: Context) -> Scores:
        """Score every unit; the mean score of a group is 1."""
        return filter_scores(context)

    def plan(self, structure: Structure, scores: Scores, allocation: Allocation) -> Plan:
        """Return the edits that leave the allocated counts, or what an accuracy allowed of them."""
        allowed = self._ranked.kept if self._stages is not None and self._ranked is not None else {}
        return super().plan(structure, scores, {**allocation, **allowed})

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Start with no decay."""
        self._ranked = RankedFactors(context, allocation)
        if self.accuracy_drop is not None:
            data = data_of(context, "inc-reg")
            self._stages = Stages(context.network, data, self._ranked, self.accuracy_drop)
        self._decay = UnitDecay(context)
        self._ranks = {}
        self._steps = 0

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Rank the units, and let their factors rise and fall."""
        if self._ranked is None:
            return
        step = self._stages.step(network, step) if self._stages is not None else step
        rise = max(self.amplitude / self.ceiling, self._ranked.reach / (_UNTIL * step.total))
        self._rate = step.learning_rate
        self._pull = max(self.ceiling * step.learning_rate, _EMPTY * rise)
        self._average(self._ranked.ranks(self._ranked.sizes(network)))
        self._ranked.update(self._ranks, rise)
        if step.number >= _UNTIL * step.total:
            self._ranked.settle(self._ranks)
        self._ranked.left_over()  # who stays is known there: no decay for them any more

    def after_backward(self, network: nn.Module) -> None:
        """Decay through the gradient what the learning rate allows."""
        if self._ranked is None or self._decay is None or self._rate <= 0:
            return
        pulls = {name: self._pull * factors for name, factors in self._ranked.factors.items()}
        self._decay.add(network, {name: pull * (pull <= _STABLE) / self._rate for name, pull in pulls.items()})

    def after_step(self, network: nn.Module) -> None:
        """Decay the rest after the step, and keep at zero what is out."""
        if self._ranked is None or self._decay is None:
            return
        for name, factors in self._ranked.factors.items():
            pull = self._pull * factors
            left = torch.where((pull > _STABLE) | (self._rate <= 0), 1 / (1 + pull), 1.0)
            self._decay.shrink(network, name, left.masked_fill(factors >= 1, 0.0))

    def finish(self, context: Context) -> None:
        """Set to zero what is not out yet, where the training ended early."""
        if self._ranked is None or self._decay is None:
            return
        self._ranked.settle(self._ranked.sizes(context.network))
        for name, out in self._ranked.out.items():
            self._decay.shrink(context.network, name, (~out).double())
        if self._stages is not None:
            self._stages.end(context.network)

    def state_dict(self) -> dict[str, Any]:
        """Return the factors and the averaged ranks."""
        factors = self._ranked.factors if self._ranked is not None else {}
        stages = self._stages.state_dict() if self._stages is not None else {}
        return {"factors": dict(factors), "ranks": dict(self._ranks), "steps": self._steps, "stages": stages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the saved factors."""
        if self._ranked is not None:
            self._ranked.load(state["factors"])
        if self._stages is not None:
            self._stages.load_state_dict(state["stages"])
        self._ranks, self._steps = dict(state["ranks"]), int(state["steps"])

    def _average(self, ranks: Mapping[str, torch.Tensor]) -> None:
        """Take the ranks of this step into the mean over all steps."""
        self._steps += 1
        for name, now in ranks.items():
            before = self._ranks.get(name, now)
            self._ranks[name] = before + (now - before) / self._steps
