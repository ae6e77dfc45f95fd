"""Removes the units with the smallest weights: the p-norm over all coupled tensors of a unit.

Hao Li, Asim Kadav, Igor Durdanovic, Hanan Samet, Hans Peter Graf: "Pruning Filters for Efficient ConvNets",
ICLR 2017, https://arxiv.org/abs/1608.08710 (L1 norm of a convolution's filters). Gongfan Fang, Xinyin Ma, Mingli Song,
Michael Bi Mi, Xinchao Wang: "DepGraph: Towards Any Structural Pruning", CVPR 2023, https://arxiv.org/abs/2301.12900
(the norm over everything that is removed together).

Deviations: the norm is over writers, carriers and readers alike, since a large filter that nobody reads does
nothing; it is divided by the mean of its group, since the papers cut every layer alike and norms of different
groups do not compare; L2 rather than L1, which a few large weights move more than many small ones.
"""

from __future__ import annotations

from edgeprune.contracts import Context, Method
from edgeprune.errors import UsageError
from edgeprune.network.groups import Scores
from edgeprune.network.reduction import over_mean, unit_norms


class Magnitude(Method):
    """Importance = p-norm of a unit's trained weights over the mean p-norm of its group; needs no data."""

    def __init__(self, norm: float = 2.0) -> None:
        """Take the exponent p of the norm, above zero; raises UsageError."""
        if not norm > 0:
            raise UsageError(f"The norm {norm} of the method magnitude is not above zero; 1 and 2 are usual.")
        self.norm = norm

    def score(self, context: Context) -> Scores:
        """Score every unit; the mean score of a group is 1."""
        weights = dict(context.network.named_parameters())
        return {group.name: over_mean(unit_norms(group, weights, self.norm)) for group in context.structure.groups}
