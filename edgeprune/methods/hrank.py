"""Removes the units whose maps have the lowest rank on average.

Mingbao Lin, Rongrong Ji, Yan Wang, Yichen Zhang, Baochang Zhang, Yonghong Tian, Ling Shao: "HRank: Filter Pruning using
High-Rank Feature Map", CVPR 2020, https://arxiv.org/abs/2002.10179.

Deviations: maps are taken where they are read, behind norm and activation, and a residual stream wherever it is read;
ranks are divided by their mean in the group, since maps of different size have different ranks. Among equal ranks
(a vector's is 1) the size of the maps decides.
"""

from __future__ import annotations

import torch

from edgeprune.contracts import Context, Method
from edgeprune.methods._maps import mean_over_maps
from edgeprune.methods._taylor import counted, data_of
from edgeprune.network.groups import Scores
from edgeprune.network.reduction import over_mean


class Hrank(Method):
    """Importance = mean rank of a unit's maps over the mean of its group."""

    needs_data = True

    def __init__(self, samples: int = 128) -> None:
        """Take the number of training samples to look at; raises UsageError."""
        self.samples = counted(samples, "hrank")

    def score(self, context: Context) -> Scores:
        """Score every unit; the mean score of a group is 1; raises UsageError without data."""
        means = mean_over_maps(context, data_of(context, "hrank"), self.samples, _rank)
        return {name: over_mean(torch.tensor(ranks)) for name, ranks in means.items()}


def _rank(maps: torch.Tensor) -> torch.Tensor:
    """(samples, units, rows, columns) -> (samples, units)."""
    size: torch.Tensor = maps.flatten(2).norm(dim=2)
    ranks: torch.Tensor = torch.linalg.matrix_rank(maps) + 1e-3 * size / (1 + size)
    return ranks
