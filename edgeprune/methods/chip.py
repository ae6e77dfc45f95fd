"""Removes the units whose maps the other units of the layer can best do without.

Yang Sui, Miao Yin, Yi Xie, Huy Phan, Saman Zonouz, Bo Yuan: "CHIP: CHannel Independence-based Pruning for Compact
Neural Networks", NeurIPS 2021, https://arxiv.org/abs/2110.13981: the loss of nuclear norm of the layer's maps, a row a
unit, when one row is zero.

Deviations: maps are taken where they are read, and a residual stream wherever it is read; scores are divided by their
mean in the group, since norms of different layers do not compare. The time grows with the fourth power of the width.
"""

from __future__ import annotations

import torch

from edgeprune.contracts import Context, Method
from edgeprune.methods._maps import mean_over_maps
from edgeprune.methods._taylor import counted, data_of
from edgeprune.network.groups import Scores
from edgeprune.network.reduction import over_mean

_AT_ONCE = 4_000_000  # numbers in memory


class Chip(Method):
    """Importance = loss of nuclear norm without a unit's maps, over the mean of its group."""

    needs_data = True

    def __init__(self, samples: int = 16) -> None:
        """Take the number of training samples to look at; raises UsageError."""
        self.samples = counted(samples, "chip")

    def score(self, context: Context) -> Scores:
        """Score every unit; the mean score of a group is 1; raises UsageError without data."""
        means = mean_over_maps(context, data_of(context, "chip"), self.samples, _independence)
        return {name: over_mean(torch.tensor(losses)) for name, losses in means.items()}


def _independence(maps: torch.Tensor) -> torch.Tensor:
    """(samples, units, rows, columns) -> (samples, units): the nuclear norm of all rows less that without one.

    Singular values are the roots of the eigenvalues of the rows' products with one another.
    """
    rows = maps.flatten(2).double()
    products = rows @ rows.transpose(1, 2)  # (samples, units, units)
    units = products.shape[1]
    others = 1 - torch.eye(units, dtype=products.dtype, device=products.device)
    without = [
        _nuclear(products[:, None] * some[:, :, None] * some[:, None, :])
        for some in others.split(max(1, _AT_ONCE // products.numel()))
    ]
    return _nuclear(products)[:, None] - torch.cat(without, 1)


def _nuclear(products: torch.Tensor) -> torch.Tensor:
    eigenvalues: torch.Tensor = torch.linalg.eigvalsh(products)
    return eigenvalues.clamp(min=0).sqrt().sum(-1)
