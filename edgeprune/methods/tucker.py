"""Splits a window into 1x1, the window between fewer channels, and 1x1; needs no data.

Yong-Deok Kim, Eunhyeok Park, Sungjoo Yoo, Taelim Choi, Lu Yang, Dongjun Shin: "Compression of Deep Convolutional Neural
Networks for Fast and Low Power Mobile Applications", ICLR 2016, https://arxiv.org/abs/1511.06530 (Tucker-2). Shinichi
Nakajima, Masashi Sugiyama, S. Derin Babacan, Ryota Tomioka: "Global Analytic Solution of Fully-observed Variational
Bayesian Matrix Factorization", JMLR 14, 2013, https://jmlr.org/papers/v14/nakajima13a.html (its ranks).

Deviations: the controller allocates how many directions stay, and not the factorisation of the matrices by itself;
directions that it takes for noise count next to nothing, so that they go first. A few sweeps renew the bases. A window
of one pixel is split by channels.
"""

from __future__ import annotations

import torch

from edgeprune.contracts import Context, Method
from edgeprune.methods._lowrank import energy_spectrum, finite_weights, ranks_of
from edgeprune.network.factorisation.layers import Choice
from edgeprune.network.factorisation.singular import singular_values
from edgeprune.network.factorisation.units import Spectrum, rank_scores
from edgeprune.network.groups import Scores, Structure

_NOISE = 1e-3  # what a direction counts that is taken for noise, as a part of its energy
_TAU = 2.5129  # where a rank becomes worth having in the limit of large matrices, by the square root of rows / columns


class Tucker(Method):
    """Importance = part of the layer's energy in a direction of its inputs or outputs; noise counts next to nothing."""

    def units(self, context: Context) -> Structure:
        """Return the ranks of the layers."""
        return ranks_of(context, "tucker-2", _spectrum)

    def score(self, context: Context) -> Scores:
        """Score every direction by its part of its layer's energy."""
        return rank_scores(context.structure, context.network, _spectrum)


def _spectrum(choice: Choice) -> Spectrum:
    """Take the directions of both sides in one order: the first unit holds one of each."""
    if choice.scheme.name != "tucker-2":
        return energy_spectrum(choice)
    weights = finite_weights(choice)
    outs = _worth([weight.flatten(1) for weight in weights])
    ins = _worth([weight.transpose(0, 1).flatten(1) for weight in weights])
    sides = [(worth, 0) for worth in ins[1:].tolist()] + [(worth, 1) for worth in outs[1:].tolist()]
    ranks, scores, kept = [(1, 1)], [float(ins[0] + outs[0]) / 2], [1, 1]
    for worth, side in sorted(sides, key=lambda pair: -pair[0]):
        kept[side] += 1
        ranks.append((kept[0], kept[1]))
        scores.append(worth / 2)
    return Spectrum(tuple(ranks), tuple(scores), tuple(scores))


def _worth(matrices: list[torch.Tensor]) -> torch.Tensor:
    """The parts of the energy along one side, what is noise set back; added up over channel groups."""
    total = torch.zeros(min(matrices[0].shape), dtype=torch.float64)
    for matrix in matrices:
        energies = singular_values(matrix).square()
        signal = torch.arange(len(energies)) < max(evbmf_rank(matrix), 1)
        total += torch.where(signal, energies, _NOISE * energies)
    return total / total.sum().clamp_min(torch.finfo(total.dtype).tiny)


def evbmf_rank(matrix: torch.Tensor) -> int:
    """Return how many singular values of (rows, columns) are more than noise, whose variance is estimated as well.

    The global solution of empirical variational Bayes: the noise variance minimises its free energy.
    """
    from scipy.optimize import minimize_scalar

    rows, columns = sorted(matrix.shape)
    values = singular_values(matrix.double())
    alpha = rows / columns
    tau = _TAU * alpha**0.5
    least = (1 + tau) * (1 + alpha / tau)  # of the squared values over columns x variance
    squares = values.square()
    last = min(-(-rows // (1 + alpha)) - 1, rows - 1)
    tail = squares[int(last) :]
    low = max(float(tail[0]) / (columns * least), float(tail.mean()) / columns)
    high = float(squares.sum()) / (rows * columns)
    if not 0 < low < high:
        return len(values)

    def energy(variance: float) -> float:
        x = squares / (columns * variance)
        signal = x > least
        z = x[signal]
        middle = z - (1 + alpha)
        t = (middle + (middle.square() - 4 * alpha).clamp_min(0).sqrt()) / 2
        found = (x[~signal] - x[~signal].log()).sum() + (z - t).sum()
        found = found + ((t + 1) / z).log().sum() + alpha * (t / alpha + 1).log().sum()
        return float(found)

    variance = minimize_scalar(energy, bounds=(low, high), method="bounded").x
    return int((squares > columns * variance * least).sum())
