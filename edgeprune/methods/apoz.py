"""Removes the units that are most often zero behind their activation.

Hengyuan Hu, Rui Peng, Yu-Wing Tai, Chi-Keung Tang: "Network Trimming: A Data-Driven Neuron Pruning Approach towards
Efficient Deep Architectures", 2016, https://arxiv.org/abs/1607.03250: the average percentage of zeros (APoZ).

Deviations: the score is what is left to 1, so that more is better; what is not above zero counts as zero, so that
activations other than ReLU order their units, too; a residual stream is looked at wherever it is read. The scale,
0 to 1, is one for all groups.
"""

from __future__ import annotations

from edgeprune.contracts import Context, Method
from edgeprune.methods._maps import mean_over_maps
from edgeprune.methods._taylor import counted, data_of
from edgeprune.network.groups import Scores


class Apoz(Method):
    """Importance = the part of a unit's values that is above zero where it is read."""

    needs_data = True

    def __init__(self, samples: int = 512) -> None:
        """Take the number of training samples to look at; raises UsageError."""
        self.samples = counted(samples, "apoz")

    def score(self, context: Context) -> Scores:
        """Score every unit in 0..1; raises UsageError without data."""
        data = data_of(context, "apoz")
        return mean_over_maps(context, data, self.samples, lambda maps: (maps > 0).float().mean((2, 3)))
