"""Splits layers so that their responses on data stay, given what the split layers before them answer; ReLU-aware.

Xiangyu Zhang, Jianhua Zou, Kaiming He, Jian Sun: "Accelerating Very Deep Convolutional Networks for Classification and
Detection", TPAMI 2016, https://arxiv.org/abs/1505.06798: a layer's outputs are fitted at a rank behind the rectifier,
layer by layer on the answers of the layers split before it; ranks keep the largest product of the parts of the
responses' energies.

Deviations: the controller allocates the ranks exactly under its limits, where the paper drops one eigenvalue after
another under a count of operations. The fit is written into the whole layer, whose weight has the rank from then on
and is split without loss at the cut; the batch norm behind a layer, or its bias, takes the offset, and a layer with
neither has none. A clamp at both ends, as that of ReLU6, is fitted as the rectifier is; other activations are fitted as
if there were none.
"""

from __future__ import annotations

import copy
import math
from itertools import accumulate, pairwise

import torch

from edgeprune.contracts import Context, Method
from edgeprune.errors import PlanError
from edgeprune.methods._lowrank import finite_weights, ranks_of, spectrum_of
from edgeprune.methods._response_fit import Regression
from edgeprune.methods._responses import Sampling, Tail, responses_of, tails_of
from edgeprune.methods._taylor import counted, data_of
from edgeprune.network.factorisation.layers import Choice, choose
from edgeprune.network.factorisation.singular import singular_values
from edgeprune.network.factorisation.units import Spectra, Spectrum, rank_scores
from edgeprune.network.groups import Allocation, Factorisation, Scores, Structure

_FIRST = 1.0  # more than any later rank can add to the logarithm
_LEAST_ENERGY = 1e-300


class AsymmetricSvd(Method):
    """Importance = what a principal component of the responses adds to the logarithm of the energy that is kept."""

    needs_data = True
    scores_are_losses = True  # of the logarithm of the product
    reconstructs = True

    def __init__(self, samples: int = 512, places: int = 10) -> None:
        """Take the number of training samples, and of places to look at in each; raises UsageError."""
        self.samples = counted(samples, "asymmetric-svd")
        self.places = counted(places, "asymmetric-svd")
        self._allocation: Allocation = {}

    def units(self, context: Context) -> Structure:
        """Return the ranks of the layers; raises UsageError without data."""
        return ranks_of(context, "channel", self._spectra(context))

    def score(self, context: Context) -> Scores:
        """Score every rank, so that the sum over layers is the logarithm of the product that the paper maximises."""
        return rank_scores(context.structure, context.network, self._spectra(context))

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Remember the ranks."""
        self._allocation = allocation

    def finish(self, context: Context) -> None:
        """Fit the layers in their order, each to the answers that it gave before any of them was fitted."""
        thin = [one for one in context.structure.factorisations if self._rank(one) < one.ranks[-1][0]]
        data, how = data_of(context, "asymmetric-svd"), self._sampling(context)
        tails = tails_of(context.network, context.example_inputs)
        before = copy.deepcopy(context.network)
        wanted = responses_of(before, [found.layer for found in thin], data, how)
        for found in thin:
            outputs = responses_of(context.network, [found.layer], data, how)[found.layer]
            choice = choose(context.network, found.layer, found.scheme)
            _refit(choice, self._rank(found), tails[found.layer], wanted[found.layer], outputs)

    def _rank(self, found: Factorisation) -> int:
        return found.ranks[self._allocation.get(found.group, len(found.ranks)) - 1][0]

    def _sampling(self, context: Context) -> Sampling:
        return Sampling(self.samples, self.places, context.seed)

    def _spectra(self, context: Context) -> Spectra:
        tails = tails_of(context.network, context.example_inputs)
        data = data_of(context, "asymmetric-svd")
        answers = responses_of(context.network, list(tails), data, self._sampling(context))
        return lambda choice: _spectrum(choice, tails[choice.name].of(answers[choice.name]))


def _spectrum(choice: Choice, rows: torch.Tensor) -> Spectrum:
    """The principal components of the responses, added up over channel groups, as many as the rank can be."""
    finite_weights(choice)
    if not torch.isfinite(rows).all():
        raise PlanError("its responses are not finite")
    (full,) = choice.full_rank
    centred = (rows - rows.mean(0)).unflatten(1, (choice.groups, -1)).movedim(1, 0)
    energies = singular_values(centred.mT @ centred).sum(0)
    found = spectrum_of(energies[:full])
    kept = (max(energy, _LEAST_ENERGY) for energy in accumulate(found.energies))
    gains = (math.log(after / before) for before, after in pairwise(kept))
    return Spectrum(found.ranks, (_FIRST, *gains), found.energies)


def _refit(choice: Choice, rank: int, tail: Tail, wanted: torch.Tensor, outputs: torch.Tensor) -> None:
    """Write into a layer the weight of the rank, and the offset, whose answers come nearest to the wanted ones."""
    layer, size = choice.layer, choice.sizes[0]
    weight = layer.weight.detach().double().cpu().clone()
    bias = torch.zeros_like(tail.shift) if layer.bias is None else layer.bias.detach().double().cpu()
    before, after = tail.of(bias), torch.zeros_like(tail.shift)  # what is added to the weighted inputs
    # Without an offset to be moved the layer can only be fitted as it is before the batch norm.
    shifted = tail.offset is not None
    goal, given = (tail.of(rows) if shifted else tail.scale * rows for rows in (wanted, outputs))
    for group in range(choice.groups):
        own = slice(group * size, (group + 1) * size)
        try:
            regression = Regression(given[:, own], rank, shifted)
            if tail.bounds is None or not shifted:
                found = regression.fit(goal[:, own])
            else:
                found = regression.fit_clamped(goal[:, own], tail.bounds)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # of PyTorch
            raise PlanError(f"The responses of the layer {choice.name!r} were not fitted: {error}") from error
        scale = tail.scale[own]
        matrix = found.matrix * scale / scale[:, None]
        weight[own] = (matrix @ weight[own].flatten(1)).reshape(weight[own].shape)
        after[own] = found.matrix @ before[own] + found.offset
    with torch.no_grad():
        layer.weight.copy_(weight)
        if tail.offset is not None:
            tail.offset.add_(((after - before) / tail.slope).to(tail.offset))
