"""Removes the units whose filters have the smallest sum of absolute weights.

Hao Li, Asim Kadav, Igor Durdanovic, Hanan Samet, Hans Peter Graf: "Pruning Filters for Efficient ConvNets",
ICLR 2017, https://arxiv.org/abs/1608.08710.

Deviations: the filters of all writers of a group are added up; the sums are divided by their mean in the group,
since the paper cuts layers by counts of its own choice and sums of different layers do not compare.
"""

from __future__ import annotations

from edgeprune.contracts import Context, Method
from edgeprune.methods._growing import filter_scores
from edgeprune.network.groups import Scores


class L1(Method):
    """Importance = L1 norm of a unit's filters over the mean of its group; needs no data."""

    def score(self, context: Context) -> Scores:
        """Score every unit; the mean score of a group is 1."""
        return filter_scores(context)
