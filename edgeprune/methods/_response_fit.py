"""The best map of a rank from what a layer answers to what it should answer, also through a clamp as a rectifier's."""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensor = torch.Tensor
Bounds = tuple[float, float]  # what a clamp lets through; above 0 is a rectifier

_RIDGE = 1e-6  # of the mean energy of an output
_LEAST_RIDGE = 1e-12  # where nothing answers at all
_PENALTIES = (0.01, 1.0)  # on the distance of what stands in for the wanted outputs before the clamp
_ROUNDS = 25


@dataclass(frozen=True)
class Fit:
    """Outputs y (rows, outputs) become y @ matrix.T + offset; the matrix (outputs, outputs) has the rank."""

    matrix: Tensor
    offset: Tensor

    def of(self, outputs: Tensor) -> Tensor:
        """Return the fitted rows."""
        return outputs @ self.matrix.T + self.offset


class Regression:
    """Fits targets from one set of rows, at one rank, by least squares; `shifted` allows an offset."""

    def __init__(self, outputs: Tensor, rank: int, shifted: bool) -> None:
        """Invert the products of the rows once for all targets."""
        self._outputs, self._rank, self._shifted = outputs, rank, shifted
        self._mean = outputs.mean(0) if shifted else torch.zeros_like(outputs[0])
        self._centred = outputs - self._mean
        self._products = self._centred.T @ self._centred
        ridge = _RIDGE * self._products.diagonal().mean() + _LEAST_RIDGE
        self._factor = torch.linalg.cholesky(self._products + ridge * torch.eye(len(self._products)))

    def fit(self, wanted: Tensor) -> Fit:
        """Return the best map of the rank to `wanted`; where the rows are the wanted ones, all of it at full rank.

        Reduced-rank regression: the unrestricted map, then the directions of the outputs in which it explains most.
        """
        mean = wanted.mean(0) if self._shifted else torch.zeros_like(wanted[0])
        # The ridge draws the map towards leaving the outputs as they are, not towards nothing.
        missing = (wanted - mean - self._centred).T @ self._centred
        whole = torch.eye(len(self._products)).to(missing) + torch.cholesky_solve(missing.T, self._factor).T
        _, directions = torch.linalg.eigh(whole @ self._products @ whole.T)
        kept = directions[:, -self._rank :]
        matrix = kept @ (kept.T @ whole)
        return Fit(matrix, mean - matrix @ self._mean)

    def fit_clamped(self, wanted: Tensor, bounds: Bounds) -> Fit:
        """Return the best map that was found for what a clamp makes of `wanted`.

        Takes turns: what may stand in for the wanted outputs, the same after the clamp or nearer, in closed form for
        each number; then the map to that.
        """
        goal = wanted.clamp(*bounds)
        fits = [self.fit(wanted)]
        for penalty in _PENALTIES:
            for _ in range(_ROUNDS):
                fits.append(self.fit(stand_in(goal, fits[-1].of(self._outputs), penalty, bounds)))
        ends = (fits[0], fits[-1])
        return min(ends, key=lambda fit: float((fit.of(self._outputs).clamp(*bounds) - goal).square().sum()))


def stand_in(goal: Tensor, fitted: Tensor, penalty: float, bounds: Bounds) -> Tensor:
    """Return z that minimises (goal - clamp(z))^2 + penalty * (z - fitted)^2, each number by itself."""
    low, high = bounds
    between = ((goal + penalty * fitted) / (1 + penalty)).clamp(low, high)
    best, least = between, (goal - between).square() + penalty * (between - fitted).square()
    for beyond, bound in ((fitted.clamp_max(low), low), (fitted.clamp_min(high), high)):
        cost = (goal - bound).square() + penalty * (beyond - fitted).square()
        best, least = torch.where(cost <= least, beyond, best), torch.minimum(cost, least)
    return best
