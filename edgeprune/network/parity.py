"""Says whether two versions of a network give the same outputs on the same inputs, and how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from edgeprune.errors import VerificationError

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class ParityLimits:
    """How far two versions may be apart.

    `max_rel` is the largest difference as a part of the largest reference value, `min_snr_db` the least ratio of the
    reference's power to the difference's. `min_top1_agreement` is the smallest part of all inputs on which both must
    pick the same class; fewer on some samples are forgiven while that part is still likely.
    """

    max_rel: float
    min_snr_db: float
    min_top1_agreement: float


_LIMITS = {
    # Reordered float32 sums differ by 1e-6 of the output scale; a wrong weight, bias or padding by 1e-2 and more.
    "fp32": ParityLimits(max_rel=1e-3, min_snr_db=40.0, min_top1_agreement=0.99),
    # float16 keeps 11 bits, and the differences of some fifty layers add up: 35 to 67 dB on real networks.
    "fp16": ParityLimits(max_rel=5e-2, min_snr_db=25.0, min_top1_agreement=0.97),
    # int8 keeps 8 bits a tensor: 15 to 27 dB on these; one tensor with a wrong scale leaves 5 dB and less.
    "int8": ParityLimits(max_rel=0.5, min_snr_db=8.0, min_top1_agreement=0.85),
}
_UNLIKELY = 0.01


@dataclass(frozen=True)
class ParityReport:
    """The distance of two versions: absolute, relative to the output scale, as noise, and in answers.

    `snr_db` is None where nothing differs; `top1_agreement` is None where no output is a row of class scores;
    `samples` is the first dimension.
    """

    max_abs: float
    max_rel: float
    top1_agreement: float | None
    samples: int
    snr_db: float | None = None


def check_parity(
    reference_outputs: Sequence[Array], outputs: Sequence[Array], what: str, precision: str = "fp32"
) -> ParityReport:
    """Compare outputs (samples, ...) pairwise and return how far apart they are; the precision sets the limits.

    Raises VerificationError naming `what` and the first output that differs in number, shape or values.
    """
    if len(reference_outputs) != len(outputs):
        raise VerificationError(f"{what}: {len(outputs)} outputs where the reference has {len(reference_outputs)}.")
    limits = _LIMITS.get(precision, _LIMITS["fp32"])  # an unknown precision is held to the strictest
    distances = [
        _compare(np.asarray(reference), np.asarray(output), f"{what}, output {index}", limits)
        for index, (reference, output) in enumerate(zip(reference_outputs, outputs, strict=True))
    ]
    if not distances:
        raise VerificationError(f"{what}: there are no outputs to compare.")
    agreements = [found.top1_agreement for found in distances if found.top1_agreement is not None]
    return ParityReport(
        max_abs=max(found.max_abs for found in distances),
        max_rel=max(found.max_rel for found in distances),
        top1_agreement=min(agreements, default=None),
        samples=distances[0].samples,
        snr_db=min((found.snr_db for found in distances if found.snr_db is not None), default=None),
    )


def _compare(reference: Array, output: Array, what: str, limits: ParityLimits) -> ParityReport:
    if reference.shape != output.shape:
        raise VerificationError(f"{what}: shape {output.shape} where the reference has {reference.shape}.")
    for label, values in (("the reference", reference), ("the output", output)):
        if not np.isfinite(values).all():
            raise VerificationError(f"{what}: {label} holds {_first_odd(values)}; nothing can be compared with it.")
    report = _distance(reference, output)
    if report.max_rel > limits.max_rel:
        raise VerificationError(
            f"{what}: differs by {report.max_abs:.3g}, {report.max_rel:.2%} of the output scale; "
            f"at most {limits.max_rel:.2%} is rounding."
        )
    if report.snr_db is not None and report.snr_db < limits.min_snr_db:
        raise VerificationError(
            f"{what}: the difference lies only {report.snr_db:.1f} dB below the output; "
            f"at least {limits.min_snr_db:g} dB is rounding."
        )
    if _disagree(report, limits):
        raise VerificationError(
            f"{what}: the same class on {report.top1_agreement:.1%} of {report.samples} samples; "
            f"at least {limits.min_top1_agreement:.1%} is needed."
        )
    return report


def _disagree(report: ParityReport, limits: ParityLimits) -> bool:
    """Say whether so few equal answers are unlikely for versions that agree as often as they must."""
    if report.top1_agreement is None:
        return False
    agreed = round(report.top1_agreement * report.samples)
    return bool(binom.cdf(agreed, report.samples, limits.min_top1_agreement) < _UNLIKELY)


def _distance(reference: Array, output: Array) -> ParityReport:
    wide, other = reference.astype(np.float64), output.astype(np.float64)
    max_abs = float(np.abs(wide - other).max(initial=0.0))
    scale = float(np.abs(wide).max(initial=0.0))
    return ParityReport(
        max_abs=max_abs,
        max_rel=max_abs / scale if scale else float(max_abs > 0),
        top1_agreement=_top1_agreement(wide, other),
        samples=reference.shape[0] if reference.ndim else 1,
        snr_db=_snr_db(wide, other),
    )


def _snr_db(reference: npt.NDArray[np.float64], output: npt.NDArray[np.float64]) -> float | None:
    signal, noise = float(np.square(reference).sum()), float(np.square(reference - output).sum())
    return 10 * math.log10(signal / noise) if signal and noise else None


def _top1_agreement(reference: npt.NDArray[np.float64], output: npt.NDArray[np.float64]) -> float | None:
    if reference.ndim != 2 or reference.shape[1] < 2 or reference.shape[0] == 0:  # (samples, classes)
        return None
    return float((reference.argmax(1) == output.argmax(1)).mean())


def _first_odd(values: Array) -> str:
    return "NaN" if np.isnan(values).any() else "infinity"
