"""Splits windows into a column and a row by the singular values of the weights alone; needs no data.

Max Jaderberg, Andrea Vedaldi, Andrew Zisserman: "Speeding up Convolutional Neural Networks with Low Rank Expansions",
BMVC 2014, https://arxiv.org/abs/1405.3866: its second scheme.

Deviations: the closed form for the weights, where the paper also fits responses; a layer with a window of one pixel is
split by channels; the ranks come from the controller, each worth its part of the layer's energy.
"""

from __future__ import annotations

from edgeprune.contracts import Context, Method
from edgeprune.methods._lowrank import energy_spectrum, ranks_of
from edgeprune.network.factorisation.units import rank_scores
from edgeprune.network.groups import Scores, Structure


class SpatialSvd(Method):
    """Importance = part of the layer's energy in a singular value of its (inputs x height, outputs x width) matrix."""

    def units(self, context: Context) -> Structure:
        """Return the ranks of the layers."""
        return ranks_of(context, "spatial", energy_spectrum)

    def score(self, context: Context) -> Scores:
        """Score every rank by its part of its layer's energy."""
        return rank_scores(context.structure, context.network, energy_spectrum)
