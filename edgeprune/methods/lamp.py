"""Removes the units whose weights are a small part of all that is at least as large in their group.

Jaeho Lee, Sejun Park, Sangwoo Mo, Sungsoo Ahn, Jinwoo Shin: "Layer-adaptive Sparsity for the Magnitude-based Pruning",
ICLR 2021, https://arxiv.org/abs/2010.07611.

Deviation: a unit's squared norm over all its coupled weights takes the place of one squared weight. The score
compares across groups as it is: the largest unit of every group has 1, so that no group is emptied first.
"""

from __future__ import annotations

from edgeprune.contracts import Context, Method
from edgeprune.network.groups import Scores
from edgeprune.network.reduction import unit_norms


class Lamp(Method):
    """Importance = a unit's squared weights over those of all units of its group that are as large; needs no data."""

    def score(self, context: Context) -> Scores:
        """Score every unit in 0..1; the largest of a group has 1."""
        weights, scores = dict(context.network.named_parameters()), {}
        for group in context.structure.groups:
            squares = unit_norms(group, weights).square()
            larger = (squares[None, :] >= squares[:, None]).double() @ squares
            scores[group.name] = tuple((squares / larger.clamp(min=1e-300)).tolist())
        return scores
