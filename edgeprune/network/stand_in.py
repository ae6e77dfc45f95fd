"""A network that is computed elsewhere, as a module: so that a user's own metric can judge an artifact on its board."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgeprune.network.batches import Loader, as_inputs

Array = np.ndarray[Any, Any]
# Takes the inputs of each inference, returns each output of all of them, stacked.
Answer = Callable[[Sequence[tuple[Array, ...]]], Sequence[Array]]


class StandIn(nn.Module):
    """Answers batches of any size through inferences of `batch` samples each."""

    def __init__(self, answer: Answer, batch: int) -> None:
        """Remember who answers."""
        super().__init__()
        self._answer, self._batch = answer, batch

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Return what the network would: a tensor, or a tuple of several."""
        count = len(inputs[0])
        outputs = self._answer(samples_of([_padded(tensor.cpu(), self._batch) for tensor in inputs], self._batch))
        tensors = tuple(torch.from_numpy(np.array(output[:count])) for output in outputs)
        return tensors[0] if len(tensors) == 1 else tensors


@dataclass(frozen=True)
class FirstSamples:
    """The batches of a loader until they hold `count` samples."""

    loader: Loader
    count: int

    def __iter__(self) -> Iterator[Any]:
        seen = 0
        for inputs, targets in self.loader:
            yield inputs, targets
            seen += len(as_inputs(inputs)[0])
            if seen >= self.count:
                return


def samples_of(inputs: Sequence[torch.Tensor], batch: int) -> list[tuple[Array, ...]]:
    """Split inputs (samples, ...) into those of one inference each, as arrays (batch, ...)."""
    whole = len(inputs[0]) - len(inputs[0]) % batch
    return [tuple(tensor[at : at + batch].numpy() for tensor in inputs) for at in range(0, whole, batch)]


def _padded(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    """Repeat the last sample until the count is a multiple of the batch of one inference."""
    missing = -len(tensor) % batch
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) if missing else tensor
