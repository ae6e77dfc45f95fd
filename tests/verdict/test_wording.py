from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.verdict.result import AskedBudget
from edgeprune.verdict.wording import (
    change,
    headline,
    in_bytes,
    in_count,
    in_ms,
    in_percent,
    in_seconds,
    model_name,
    points,
    significant,
    without_home,
)


@given(st.floats(1e-6, 1e9))
def test_significant_digits_lose_little_and_need_no_exponent(value):
    text = significant(value)
    assert "e" not in text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=6e-4)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (in_ms(1.8664), "1.866 ms"),
        (in_ms(0.0123456), "0.01235 ms"),
        (in_ms(12345.6), "12,346 ms"),
        (in_ms(0), "0 ms"),
        (in_bytes(999), "999 bytes"),
        (in_bytes(1_620_422), "1.620 MB"),
        (in_count(125_485_696), "125.5 M"),
        (in_count(12), "12"),
        (in_percent(0.9339), "93.39 %"),
        (in_percent(None), "not evaluated"),
        (in_seconds(12.34), "12.3 s"),
        (in_seconds(431), "7 min 11 s"),
        (in_seconds(7261), "2 h 1 min"),
        (change(2.0, 1.0), "\N{MINUS SIGN}50.0 %"),
        (change(1.0, 1.25), "+25.0 %"),
        (change(1.0, 0.9999), "0.0 %"),
        (change(0.0, 1.0), "unknown"),
        (points(0.93, 0.925), "\N{MINUS SIGN}0.50 points"),
        (points(None, 0.9), "unknown"),
    ],
)
def test_numbers_are_written_with_their_unit(written, expected):
    assert written == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/jane/net.pt", "~/net.pt"),
        ("--out=/Users/jane/x", "--out=~/x"),
        ("/root", "~"),
        ("'/root/a b'", "'~/a b'"),
        ("C:\\Users\\jane\\net.pt", "~\\net.pt"),
        ("data/root/images and /rooted", "data/root/images and /rooted"),
    ],
)
def test_home_folders_are_hidden(text, expected):
    assert without_home(text) == expected


def test_a_network_without_a_factory_is_called_after_its_file(result):
    model = replace(result.model, arch=None, path="nets/small.pt2")
    assert model_name(replace(result, model=model)) == "small"


@pytest.mark.parametrize(
    ("latency_ms", "limit_ms", "part"),
    [
        (1.791, None, "42 % less time than before; it is"),
        (1.791, 1.5, "42 % less time than before, but 1.500 ms was the limit; it is"),
        (3.111, None, "as fast as before; it is"),
        (3.5, None, "13 % more time than before; it is"),
    ],
)
def test_the_sentence_says_what_happened(result, latency_ms, limit_ms, part):
    final = replace(result.final, latency_p50_ms=latency_ms, latency_interval_ms=(latency_ms, latency_ms))
    budget = AskedBudget({}, latency_ms=limit_ms)
    assert part in headline(replace(result, final=final, budget=budget))
