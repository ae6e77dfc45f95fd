"""Corrects predictions by measurements of whole networks, because layers measured alone do not add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

# How far a layer in a network may be from the same layer alone, and the part of the time outside all layers that may
# go with them, before anything was measured: standard deviations.
_SCALE_DOUBT = 0.25
_FIXED_DOUBT = 0.3
_LEAST_FIXED_DOUBT = 0.02  # of the original
_LEAST_SCALE = 0.05
# How exactly a measurement is to be met, as a part of it.
_MEASURED_DOUBT = 0.01


@dataclass(frozen=True)
class Seen:
    """One measured network: what its layers take alone, by kind, and what it took as a whole."""

    parts: Mapping[str, float]
    whole: float


@dataclass(frozen=True)
class Correction:
    """whole = near * (fixed + sum of scale * part): `near` makes it exact for the measurement nearest to the aim."""

    fixed: float
    scales: Mapping[str, float]
    near: float = 1.0

    def predict(self, parts: Mapping[str, float]) -> float:
        """Return what a network takes as a whole."""
        return self.near * self.plain(parts)

    def plain(self, parts: Mapping[str, float]) -> float:
        """Return the same without the last factor."""
        return self.fixed + sum(self.scales[kind] * part for kind, part in parts.items())


def fit(seen: Sequence[Seen], aim: float) -> Correction:
    """Return the most plausible fixed overhead and scales after these measurements, the original first.

    A ridge regression: layers are expected to take in the network what they take alone, and the rest of the original
    to be fixed; where the original takes less than its layers alone, all scales are expected below 1 alike.
    """
    kinds = sorted(seen[0].parts)
    original = seen[0]
    alone = sum(original.parts.values())
    scale = min(1.0, original.whole / alone) if alone > 0 else 1.0
    expected = np.array([original.whole - scale * alone, *(scale for _ in kinds)])
    fixed_doubt = max(_FIXED_DOUBT * expected[0], _LEAST_FIXED_DOUBT * original.whole)
    doubts = np.array([fixed_doubt, *(_SCALE_DOUBT * scale for _ in kinds)])
    rows = np.array([[1.0, *(one.parts[kind] for kind in kinds)] for one in seen])
    whole = np.array([one.whole for one in seen])
    weights = 1.0 / (_MEASURED_DOUBT * whole)
    system = np.concatenate([rows * doubts * weights[:, None], np.eye(len(expected))])
    gaps = np.concatenate([(whole - rows @ expected) * weights, np.zeros(len(expected))])
    found = expected + doubts * np.linalg.lstsq(system, gaps, rcond=None)[0]
    scales = dict(zip(kinds, np.maximum(found[1:], _LEAST_SCALE * scale).tolist(), strict=True))
    plain = Correction(max(float(found[0]), 0.0), scales)
    return replace(plain, near=_near(plain, seen, aim))


def _near(plain: Correction, seen: Sequence[Seen], aim: float) -> float:
    """Return what makes the fit exact around the aim: between the measurements next to it, or at the nearest."""
    under = max((one for one in seen if one.whole <= aim), key=lambda one: one.whole, default=None)
    over = min((one for one in seen if one.whole > aim), key=lambda one: one.whole, default=None)
    factors = [one.whole / plain.plain(one.parts) for one in (under, over) if one is not None]
    if under is None or over is None:
        return factors[0]
    return factors[0] + (factors[1] - factors[0]) * (aim - under.whole) / (over.whole - under.whole)
