from __future__ import annotations

import numpy as np
import pytest

from edgeprune.errors import VerificationError
from edgeprune.network.parity import check_parity

SCORES = np.random.default_rng(0).normal(size=(100, 10)).astype(np.float32)


def test_equal_outputs_are_no_distance_apart():
    report = check_parity([SCORES], [SCORES.copy()], "copy")
    assert (report.max_abs, report.max_rel, report.top1_agreement, report.samples) == (0.0, 0.0, 1.0, 100)


def test_the_distance_is_relative_to_the_output_scale():
    reference = np.array([[100.0, 0.0]])
    report = check_parity([reference], [np.array([[100.0, 0.05]])], "shift")
    assert report.max_abs == pytest.approx(0.05)
    assert report.max_rel == pytest.approx(0.0005)


def test_the_worst_output_counts():
    one, two = np.ones((4, 3, 2)), SCORES[:4]
    report = check_parity([one, two], [one * 1.0005, two], "two outputs")
    assert report.max_rel == pytest.approx(0.0005)
    assert report.top1_agreement == 1.0


def test_lower_precisions_have_wider_limits():
    noisy = SCORES + np.float32(0.02)
    with pytest.raises(VerificationError, match=r"at most 0.10% is rounding"):
        check_parity([SCORES], [noisy], "shift")
    assert check_parity([SCORES], [noisy], "shift", "fp16").top1_agreement == 1.0
    with pytest.raises(VerificationError):
        check_parity([SCORES], [noisy], "shift", "a precision nobody knows")


def test_noise_is_told_in_decibels():
    noise = np.random.default_rng(1).normal(size=SCORES.shape)
    report = check_parity([SCORES], [SCORES + 0.1 * noise], "noise", "int8")
    assert report.snr_db == pytest.approx(20.0, abs=0.5)
    assert check_parity([SCORES], [SCORES.copy()], "copy").snr_db is None
    with pytest.raises(VerificationError, match=r"lies only 7\.\d dB below the output; at least 8 dB is rounding"):
        check_parity([np.tile(SCORES, 4)], [np.tile(SCORES + 0.45 * noise.clip(-2, 2), 4)], "noise", "int8")


@pytest.mark.parametrize(
    ("samples", "others", "passes"), [(4, 1, True), (4, 4, False), (100, 15, True), (100, 30, False)]
)
def test_few_samples_are_no_proof_of_disagreement(samples, others, passes):
    reference = np.tile([1.0, 0.9, 0.0], (samples, 1))
    outputs = reference.copy()
    outputs[:others] = [0.9, 1.0, 0.0]
    if passes:
        assert check_parity([reference], [outputs], "x", "int8").top1_agreement == 1 - others / samples
    else:
        with pytest.raises(VerificationError, match=f"of {samples} samples; at least 85.0% is needed"):
            check_parity([reference], [outputs], "x", "int8")


@pytest.mark.parametrize(
    ("reference", "outputs", "said"),
    [
        ([SCORES], [], "x: 0 outputs where the reference has 1"),
        ([], [], "no outputs to compare"),
        ([SCORES], [SCORES.T], r"x, output 0: shape \(10, 100\) where the reference has \(100, 10\)"),
        ([SCORES, SCORES], [SCORES, SCORES * 2], "x, output 1: differs by"),
        ([SCORES], [SCORES * np.nan], "x, output 0: the output holds NaN"),
        ([SCORES * np.inf], [SCORES], "x, output 0: the reference holds infinity"),
        ([np.zeros((1, 2))], [np.full((1, 2), 1e-9)], "differs by 1e-09"),
    ],
)
def test_what_differs_is_named(reference, outputs, said):
    with pytest.raises(VerificationError, match=said):
        check_parity(reference, outputs, "x")


def test_answers_count_where_values_are_close():
    tied = np.array([[1.0, 1.0001]] * 10)
    with pytest.raises(VerificationError, match=r"the same class on 0.0% of 10 samples"):
        check_parity([tied], [tied[:, ::-1]], "swapped")
