import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeprune.contracts import Outcome
from edgeprune.errors import UsageError
from edgeprune.verdict.budget import (
    Budget,
    Points,
    Share,
    parse_drop,
    parse_duration,
    parse_latency,
    parse_macs,
    parse_margin,
    parse_memory,
    parse_size,
)

_PARSERS = (parse_latency, parse_size, parse_macs, parse_drop)
_ORIGINAL = Outcome(4.0, (3.9, 4.1), 1_000_000, 50_000_000, 250_000)
_decimals = st.decimals(min_value="0.001", max_value="100000", places=3).map(str)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (parse_latency, "8ms", 8.0),
        (parse_latency, " 8 ms ", 8.0),
        (parse_latency, "500us", 0.5),
        (parse_latency, "500µs", 0.5),
        (parse_latency, "500\u03bcs", 0.5),  # the Greek letter instead of the micro sign
        (parse_latency, "1.5s", 1500.0),
        (parse_latency, "60%", Share(0.6)),
        (parse_size, "4MB", 4e6),
        (parse_size, "1KiB", 1024.0),
        (parse_size, "50%", Share(0.5)),
        (parse_memory, "32MB", 32e6),
        (parse_memory, "50%", Share(0.5)),
        (parse_macs, "60M", 60e6),
        (parse_macs, "1.2G", 1.2e9),
        (parse_macs, "123", 123.0),
        (parse_drop, "1%", 0.01),
        (parse_drop, "0.5pt", Points(0.5)),
        (parse_drop, "0%", 0.0),
    ],
)
def test_units_are_read(parse, text, value):
    parsed = parse(text)
    assert type(parsed) is type(value)
    assert parsed == pytest.approx(value) if isinstance(value, float) else parsed == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_latency, "8", r"'8' has no known unit \(s, ms, us, µs, %\); write it like 8ms"),
        (parse_latency, "8 MB", "has no known unit"),
        (parse_latency, "8MS", "has no known unit"),
        (parse_latency, "0ms", "not above zero"),
        (parse_latency, "0", "has no known unit|not above zero"),
        (parse_latency, "-3ms", "not a number with a unit"),
        (parse_latency, "", "not a number with a unit"),
        (parse_latency, "1e3ms", "not a number with a unit|no known unit"),
        (parse_latency, "nanms", "not a number with a unit"),
        (parse_latency, "8,5ms", "not a number with a unit"),
        (parse_latency, "150%", "'150%' is more than the original has; ask for at most 100%"),
        (parse_latency, "9" * 400 + "ms", "too large"),
        (parse_size, "9" * 302 + "GB", "too large"),
        (parse_latency, "٣ms", "not a number with a unit"),
        (parse_size, "4Mb", "has no known unit"),
        (parse_macs, "60MB", "has no known unit"),
        (parse_memory, "32", "'32' has no known unit .*write it like 32MB"),
        (parse_drop, "1", "write it as 1% or 0.5pt"),
        (parse_drop, "100%", "between 0 and 100"),
        (parse_drop, "120pt", "between 0 and 100"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(parse, text, message):
    with pytest.raises(UsageError, match=message):
        parse(text)


@given(_decimals)
def test_milliseconds_and_microseconds_agree(number):
    in_us = parse_latency(f"{number}us")
    assert parse_latency(f"{number}ms") == pytest.approx(1000 * in_us)


@given(_decimals, st.sampled_from(["B", "KB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_sizes_are_positive_and_grow_with_their_unit(number, unit):
    size = parse_size(number + unit)
    assert 0 < parse_size(number + "B") <= size < math.inf


@given(st.text(max_size=12) | st.from_regex(r"[0-9]{1,400}(ms|%|GB|G|pt)?", fullmatch=True), st.sampled_from(_PARSERS))
def test_any_text_is_a_value_or_one_usage_error(text, parse):
    value, message = None, repr(text)
    try:
        value = parse(text)
    except UsageError as error:
        message = str(error)
    assert repr(text) in message
    if value is not None:
        number = getattr(value, "part", getattr(value, "value", value))
        assert math.isfinite(number)
        assert number >= 0


@given(st.floats(0.001, 1.0))
def test_a_share_is_of_the_original(part):
    budget = Budget(latency_ms=Share(part), size_bytes=Share(part), macs=Share(part), memory_bytes=Share(part))
    limits = budget.limits(replace(_ORIGINAL, memory_bytes=8_000_000))
    assert limits.latency_ms == pytest.approx(4.0 * part)
    assert limits.size_bytes == pytest.approx(1e6 * part)
    assert limits.macs == pytest.approx(5e7 * part)
    assert limits.memory_bytes == pytest.approx(8e6 * part)


_values = st.floats(1e-3, 1e12)
_shares = st.floats(0.01, 1.0).map(Share)


@given(_values | _shares | st.none(), _values | _shares | st.none(), st.floats(0, 0.99) | st.floats(0, 99).map(Points))
def test_a_budget_in_words_reads_back(latency, macs, drop):
    texts = Budget(latency_ms=latency, macs=macs, accuracy_drop=drop).as_text()
    for flag, parse, value in (("latency", parse_latency, latency), ("macs", parse_macs, macs)):
        assert (flag in texts) == (value is not None)
        if value is not None:
            read = parse(texts[flag])
            assert type(read) is type(value)
            assert getattr(read, "part", read) == pytest.approx(getattr(value, "part", value), rel=1e-3)
    assert type(parse_drop(texts["max-drop"])) is type(drop)


def test_every_target_has_its_own_original_and_may_have_its_own_latency():
    slower = replace(_ORIGINAL, latency_ms=100.0, size_bytes=2_000_000)
    both = replace(_ORIGINAL, others=(slower,))
    (other,) = Budget(latency_ms=Share(0.5), size_bytes=Share(0.5)).limits(both).others
    assert (other.latency_ms, other.size_bytes) == (50.0, 1e6)
    (other,) = Budget(latency_ms=Share(0.5), other_latencies_ms=(8.0,)).limits(both).others
    assert other.latency_ms == 8.0
    assert Budget(latency_ms=Share(0.5), other_latencies_ms=(8.0,)).as_text() == {"latency": "50%, 8ms"}


def test_absolute_limits_pass_through():
    limits = Budget(latency_ms=8.0).limits(_ORIGINAL)
    assert (limits.latency_ms, limits.size_bytes, limits.macs) == (8.0, None, None)


@given(st.floats(0.0, 0.99), st.floats(0.0, 1.0))
def test_a_relative_drop_never_asks_for_more_than_the_original(drop, accuracy):
    floor = Budget(accuracy_drop=drop).accuracy_floor(accuracy)
    assert 0 <= floor <= accuracy


def test_points_are_subtracted():
    assert Budget(accuracy_drop=Points(0.5)).accuracy_floor(0.9339) == pytest.approx(0.9289)
    assert Budget().accuracy_floor(0.9) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latency_ms": 0.0}, "latency_ms is 0.0; it must be above zero"),
        ({"latency_ms": -1.0}, "above zero"),
        ({"latency_ms": math.nan}, "above zero"),
        ({"latency_ms": math.inf}, "above zero"),
        ({"size_bytes": Share(1.2)}, "120% of the original; ask for at most 100%"),
        ({"macs": Share(0.0)}, "above zero"),
        ({"accuracy_drop": 1.0}, "not between 0 and 100"),
        ({"accuracy_drop": -0.1}, "not between 0 and 100"),
        ({"accuracy_drop": Points(100.0)}, "not between 0 and 100"),
        ({"accuracy_drop": math.nan}, "not between 0 and 100"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        Budget(**arguments)


@pytest.mark.parametrize(("text", "seconds"), [("10min", 600.0), ("90s", 90.0), ("0.5h", 1800.0)])
def test_a_duration_is_read_into_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["10", "10m", "0s", "ten", "-1s", "10ms"])
def test_a_duration_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="write it like 10min or 90s"):
        parse_duration(text)


def test_a_margin_is_a_percentage():
    assert parse_margin("2%") == pytest.approx(0.02)
    for text in ("2", "0%", "100%", "2pt", "two"):
        with pytest.raises(UsageError, match="write it like 2%"):
            parse_margin(text)
