"""A method at work on a training: its hooks in the order of a step, and the plan that comes of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeprune.contracts import Context, Method, Step
from edgeprune.errors import StepError, UsageError

if TYPE_CHECKING:
    import torch

    from edgeprune.network.groups import Allocation
    from edgeprune.network.plan import Plan


class Shaping:
    """Shapes the training of `context.network` towards an allocation; the caller owns the training loop.

    Build it before the optimiser, which then trains what the method adds to the network, too. `steps` is how many
    optimiser steps the training will have; a method that reconstructs needs none. Raises UsageError for a method that
    does neither, or for no step.
    """

    def __init__(self, method: Method, context: Context, allocation: Allocation, steps: int) -> None:
        """Let the method get ready."""
        if not (method.trains or method.reconstructs):
            raise UsageError(
                f"The method {type(method).__name__} does not shape a training: it only scores. Choose one that trains."
            )
        if steps < 1 and not method.reconstructs:
            raise UsageError(f"A training of {steps} steps shapes nothing; give 1 or more.")
        self.method = method
        self.context = context
        self.allocation = allocation
        self.steps = steps
        self._done = 0
        self._finished = False
        self._shapes = _shapes(context.network)
        method.prepare(context, allocation)

    def before_step(self, learning_rate: float) -> None:
        """Call before the forward of every step."""
        self.method.before_step(self.context.network, Step(self._done, self.steps, learning_rate))

    def penalty(self) -> torch.Tensor | float:
        """Return what to add to the loss of this step; 0.0 where the method adds nothing."""
        penalty = self.method.penalty(self.context.network)
        return 0.0 if penalty is None else penalty

    def after_backward(self) -> None:
        """Call between backward and the optimiser's step."""
        self.method.after_backward(self.context.network)

    def after_step(self) -> None:
        """Call after the optimiser's step."""
        self.method.after_step(self.context.network)
        self._done += 1

    def finish(self) -> None:
        """End the shaping; the network has its own tensors again, and is in eval mode.

        Calling it again does nothing. Raises StepError for a method that leaves something behind.
        """
        if self._finished:
            return
        self.context.network.eval()
        self.method.finish(self.context)
        self._finished = True
        left = sorted(_shapes(self.context.network).items() ^ self._shapes.items())
        if left:
            name = type(self.method).__name__
            raise StepError(f"The method {name} changed {left[0][0]!r} of the network and did not put it back.")

    def plan(self) -> Plan:
        """Finish, score the trained network, and return the edits that leave exactly the allocation."""
        self.finish()
        context = replace(self.context, network=copy.deepcopy(self.context.network))
        return self.method.plan(context.structure, self.method.score(context), self.allocation)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold besides the network and the optimiser."""
        return {"done": self._done, "method": self.method.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._done = int(state["done"])
        self.method.load_state_dict(state["method"])


def _shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
