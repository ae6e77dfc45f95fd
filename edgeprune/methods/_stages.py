"""Removing as much as an accuracy allows: in stages, each judged at its end and undone where it took too much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from edgeprune.contracts import Step
from edgeprune.methods._ranked import RankedFactors
from edgeprune.network.data import Data
from edgeprune.network.evaluation import evaluate

_FIRST, _LEAST, _MOST = 0.2, 0.01, 0.2  # of all that is to go, in one stage
_PER_POINT = 10.0  # a stage takes so many times what accuracy is left, both as parts
_STAGES = 10  # in a training; what is not used trains what stays


@dataclass(frozen=True)
class Progress:
    """How far removing has come: parts of all that is to go, and the accuracy with the part that is gone."""

    bound: float
    accuracy: float
    reached: float = 0.0
    step: float = _FIRST

    @property
    def aim(self) -> float:
        """What the next stage removes in all."""
        return min(1.0, self.reached + self.step)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to remove, or no room for it."""
        return self.reached >= 1 or self.step < _LEAST

    def after(self, accuracy: float) -> Progress:
        """Judge a stage: the next one is the larger the more accuracy is left; after too much, interpolate."""
        if accuracy >= self.bound:
            step = min(_MOST, max(_LEAST, _PER_POINT * (accuracy - self.bound)))
            return replace(self, accuracy=accuracy, reached=self.aim, step=step)
        room = max(0.0, self.accuracy - self.bound) / (self.accuracy - accuracy)
        return replace(self, step=self.step * min(room, 0.5))


class Stages:
    """Leads factors through stages, and the network back to the last good one."""

    def __init__(self, network: nn.Module, data: Data, ranked: RankedFactors, accuracy_drop: float) -> None:
        """Judge the network as it is; the bound lies `accuracy_drop`, a part of 1, below that."""
        accuracy = evaluate(network, data)
        self.progress = Progress(accuracy - accuracy_drop, accuracy)
        self._data, self._ranked = data, ranked
        self._network: dict[str, torch.Tensor] = {}
        self._factors: dict[str, torch.Tensor] = {}
        self._keep(network)
        ranked.limit(self.progress.aim)

    def step(self, network: nn.Module, step: Step) -> Step:
        """Return where the stage stands; a stage that is over is judged before."""
        length = max(1, step.total // _STAGES)
        if step.number and step.number % length == 0:
            self.judge(network)
        number = length if self.progress.is_done else step.number % length
        return Step(number, length, step.learning_rate)

    def judge(self, network: nn.Module) -> None:
        """Keep what the stage came to, or go back to the one before."""
        if self.progress.is_done:
            return
        self.progress = self.progress.after(evaluate(network, self._data))
        if self.progress.reached == self._ranked.part:
            self._keep(network)
        else:
            network.load_state_dict(self._network)
            self._ranked.load(self._factors)
        self._ranked.limit(self.progress.reached if self.progress.is_done else self.progress.aim)

    def end(self, network: nn.Module) -> None:
        """Judge the last stage; what is gone by now is all that goes."""
        self.judge(network)
        self._ranked.limit(self.progress.reached)

    def state_dict(self) -> dict[str, Any]:
        """Return the progress, and what a stage that took too much goes back to."""
        return {"progress": asdict(self.progress), "network": self._network, "factors": self._factors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the saved progress."""
        self.progress = Progress(**state["progress"])
        self._network, self._factors = dict(state["network"]), dict(state["factors"])
        self._ranked.limit(self.progress.reached if self.progress.is_done else self.progress.aim)

    def _keep(self, network: nn.Module) -> None:
        self._network = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        self._factors = {name: factors.clone() for name, factors in self._ranked.factors.items()}
