"""Removes the units whose filters are nearest to all the others of their layer, since the others can stand in.

Yang He, Ping Liu, Ziwei Wang, Zhilan Hu, Yi Yang: "Filter Pruning via Geometric Median for Deep Convolutional Neural
Networks Acceleration", CVPR 2019, https://arxiv.org/abs/1811.00250: the sum of distances between signed filters.

Deviations: the filters of all writers of a group are joined to one, since they go together; the sums are divided by
their mean in the group, since the paper cuts every layer alike and distances of different layers do not compare.
"""

from __future__ import annotations

import torch

from edgeprune.contracts import Context, Method
from edgeprune.network.groups import Group, Scores
from edgeprune.network.reduction import over_mean, unit_rows


class GeometricMedian(Method):
    """Importance = sum of distances from a unit's filters to those of all other units, over the mean of its group."""

    def score(self, context: Context) -> Scores:
        """Score every unit; the mean score of a group is 1."""
        weights = dict(context.network.named_parameters())
        return {group.name: over_mean(_distances(group, weights)) for group in context.structure.groups}


def _distances(group: Group, weights: dict[str, torch.nn.Parameter]) -> torch.Tensor:
    """Return the sums of the distances between the units' joined filters -> (size,).

    Squared distances are added writer by writer; units that a writer does not own are zeros there.
    """
    squares = torch.zeros(group.size, group.size, dtype=torch.float64)
    for piece in group.slices:
        if piece.role != "writer" or piece.tensor not in weights:
            continue
        filters = unit_rows(weights[piece.tensor], piece)
        squares += torch.cdist(filters, filters) ** 2
    return squares.sqrt().sum(1)
