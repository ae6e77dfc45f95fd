"""Removes units by chance: the honest baseline that every other method has to beat.

Deepak Mittal, Shweta Bhardwaj, Mitesh M. Khapra, Balaraman Ravindran: "Recovering from Random Pruning: On the
Plasticity of Deep Convolutional Neural Networks", WACV 2018, https://arxiv.org/abs/1801.10447.

Deviation: the paper removes the same share of every layer; here a threshold over all units chooses, and the share
of each group comes out the same only on average.
"""

from __future__ import annotations

import numpy as np

from edgeprune.contracts import Context, Method
from edgeprune.network.groups import Scores


class Random(Method):
    """Importance = a random number in 0..1 for each unit, by the seed; needs no data."""

    def score(self, context: Context) -> Scores:
        """Score every unit."""
        generator = np.random.default_rng(context.seed)
        return {group.name: tuple(generator.random(group.size).tolist()) for group in context.structure.groups}
