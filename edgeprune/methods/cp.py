"""Splits a window into 1x1, a column and a row on each channel alone, and 1x1; needs no data.

Vadim Lebedev, Yaroslav Ganin, Maksim Rakhuba, Ivan Oseledets, Victor Lempitsky: "Speeding-up Convolutional Neural
Networks Using Fine-tuned CP-Decomposition", ICLR 2015, https://arxiv.org/abs/1412.6553.

Deviations: alternating least squares begun from an SVD for each pixel of the window, where the paper uses non-linear
least squares; the stride is taken where the window is; how much a term is worth is the energy of those first terms,
the largest first, because fitting every rank would take too long; a window of one pixel is split by channels.
"""

from __future__ import annotations

from edgeprune.contracts import Context, Method
from edgeprune.methods._lowrank import energy_spectrum, finite_weights, ranks_of, spectrum_of
from edgeprune.network.factorisation.layers import Choice
from edgeprune.network.factorisation.singular import singular_values
from edgeprune.network.factorisation.units import Spectrum, rank_scores
from edgeprune.network.groups import Scores, Structure


class Cp(Method):
    """Importance = part of the layer's energy in a term of its sum of products of four vectors."""

    def units(self, context: Context) -> Structure:
        """Return the ranks of the layers."""
        return ranks_of(context, "canonical", _spectrum)

    def score(self, context: Context) -> Scores:
        """Score every term by its part of its layer's energy."""
        return rank_scores(context.structure, context.network, _spectrum)


def _spectrum(choice: Choice) -> Spectrum:
    if choice.scheme.name != "canonical":
        return energy_spectrum(choice)
    pixels = finite_weights(choice).permute(0, 3, 4, 1, 2)  # (groups, height, width, outputs, inputs)
    return spectrum_of(singular_values(pixels).square().sum(0).flatten())
