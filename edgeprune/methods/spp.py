"""Removes units by chance while the network trains, with probabilities that rise and fall with the units' ranks.

Huan Wang, Qiming Zhang, Yuehai Wang, Haoji Hu: "Structured Probabilistic Pruning for Convolutional Neural Network
Acceleration", BMVC 2018, https://arxiv.org/abs/1709.06994.

One number is drawn for each unit at each step: what is drawn out is masked for the step, and learns nothing in it.
Every t steps probabilities change by the units' L1 ranks; a unit that reaches 1 is out for good. When enough units of a
group are out, the others' weights are multiplied by their chance to have stayed. Deviations: a unit of the coupling
group is drawn, where the paper draws columns of a layer's matrix; the mask acts where the unit is read, since a norm
would undo both a smaller filter and the last correction; backward sees the masked weights as forward did; a training
too short for A = 0.05 every t = 180 steps updates more often, then in larger steps, to be done at three quarters of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from edgeprune.contracts import Context, Method, Step
from edgeprune.errors import UsageError
from edgeprune.methods._gates import Gates
from edgeprune.methods._growing import filter_scores
from edgeprune.methods._ranked import RankedFactors
from edgeprune.network.groups import Allocation, Scores

_UNTIL = 0.75  # of the training; the rest lets the kept units settle
_OUT = -1.0  # below every score


class Spp(Method):
    """Importance = L1 norm of a unit's filters over the mean of its group; what the draws left out is below all."""

    trains = True

    def __init__(self, amplitude: float = 0.05, interval: int = 180) -> None:
        """Take the largest rise of a probability, and the most steps from one to the next; raises UsageError."""
        if not 0 < amplitude <= 1 or interval < 1:
            raise UsageError(
                f"The method spp needs an amplitude above 0 and up to 1 and an interval of 1 step or more, not "
                f"{amplitude} and {interval}."
            )
        self.amplitude = amplitude
        self.interval = interval
        self._ranked: RankedFactors | None = None
        self._gates: Gates | None = None
        self._masks: dict[str, torch.Tensor] = {}
        self._seed = 0

    def score(self, context: Context) -> Scores:
        """Score every unit; the mean score of a group is 1."""
        scores = dict(filter_scores(context))
        out = self._ranked.out if self._ranked is not None else {}
        for name, gone in out.items():
            scores[name] = tuple(
                _OUT if is_out else score for score, is_out in zip(scores[name], gone.tolist(), strict=True)
            )
        return scores

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Start with all probabilities at 0."""
        self._ranked = RankedFactors(context, allocation)
        self._gates = Gates(context, self._ranked.factors)
        self._seed = context.seed

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Change the probabilities every few steps, and draw what is masked in this one."""
        if self._ranked is None or self._gates is None:
            return
        until = _UNTIL * step.total
        every = max(1, min(self.interval, int(until * self.amplitude / self._ranked.reach)))
        if step.number >= until:
            self._end(network)
        elif step.number % every == 0:
            amplitude = min(1.0, max(self.amplitude, every * self._ranked.reach / until))
            self._ranked.update(self._ranked.sizes(network), amplitude)
            self._correct(network)
        # By seed and step, so that a training that was killed draws what it would have drawn.
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step.number)
        self._masks = {
            name: (torch.rand(len(chances), generator=generator, dtype=torch.float64) >= chances).double()
            for name, chances in self._ranked.factors.items()
        }
        self._gates.close(network, self._masks)

    def after_backward(self, network: nn.Module) -> None:
        """Put the weights back; what was masked learns nothing."""
        if self._gates is not None:
            self._gates.reopen(network)
            self._gates.multiply_gradients(network, self._masks)

    def after_step(self, network: nn.Module) -> None:
        """Keep at zero what is out."""
        self._remove(network)

    def finish(self, context: Context) -> None:
        """Put out what is missing, where the training ended early."""
        self._end(context.network)
        self._remove(context.network)

    def state_dict(self) -> dict[str, Any]:
        """Return the probabilities."""
        return {"probabilities": dict(self._ranked.factors) if self._ranked is not None else {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the saved probabilities."""
        if self._ranked is not None:
            self._ranked.load(state["probabilities"])

    def _end(self, network: nn.Module) -> None:
        """Put out the units with the smallest filters until no group has to lose more."""
        if self._ranked is not None:
            self._ranked.settle(self._ranked.sizes(network))
            self._correct(network)

    def _correct(self, network: nn.Module) -> None:
        """Weigh the units that stay by their chance to have stayed, in groups that are done."""
        if self._ranked is not None and self._gates is not None:
            self._gates.multiply(network, {name: 1 - chances for name, chances in self._ranked.left_over().items()})

    def _remove(self, network: nn.Module) -> None:
        if self._ranked is not None and self._gates is not None:
            self._gates.multiply(network, {name: (~out).double() for name, out in self._ranked.out.items()})
