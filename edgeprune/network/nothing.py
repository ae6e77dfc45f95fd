"""A network that does nothing worth measuring, so that what is measured is the engine itself."""

from __future__ import annotations

from torch import Tensor, nn


class Nothing(nn.Module):
    """Adds one to its first input."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the input plus one."""
        return inputs + 1
