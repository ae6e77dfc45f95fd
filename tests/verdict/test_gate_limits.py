import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeprune.errors import UnknownNameError, UsageError
from edgeprune.verdict.gate_limits import METRICS, read_limits


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "gate.toml"
        path.write_text(text)
        return read_limits(path)

    return read


def test_limits_are_read_in_base_units_with_their_lines(read):
    limits = read(
        """[limits]
latency_p50 = "<= 8ms"
size = { limit = "<= 4MB", level = "warn" }
accuracy = ">= 92%"
accuracy_drop = "<= 0.5pt"

latency_regression = "<= 3%"
"""
    ).applying("resnet", "host")
    found = {limit.name: (limit.value, limit.level, limit.line) for limit in limits}
    assert found == {
        "latency_p50": (8.0, "error", 2),
        "size": (4e6, "warn", 3),
        "accuracy": (0.92, "error", 4),
        "accuracy_drop": (0.005, "error", 5),
        "latency_regression": (0.03, "error", 7),
    }
    assert [limit.in_points for limit in limits if limit.name == "accuracy_drop"] == [True]


def test_a_later_section_wins_where_target_and_model_match(read):
    limits = read(
        """[limits]
size = "<= 4MB"
[[for]]
target = "raspberry-*"
limits.latency_p50 = "<= 8ms"
[[for]]
target = "raspberry-*"
model = "mobile*"
limits.latency_p50 = "<= 5ms"
limits.size = "off"
"""
    )

    def texts(model, target):
        return {limit.name: limit.text or limit.level for limit in limits.applying(model, target)}

    assert texts("resnet", "host") == {"size": "<= 4MB"}
    assert texts("resnet", "raspberry-pi-5") == {"size": "<= 4MB", "latency_p50": "<= 8ms"}
    assert texts("mobilenet", "raspberry-pi-5") == {"size": "off", "latency_p50": "<= 5ms"}
    (narrow,) = [limit for limit in limits.applying("mobilenet", "raspberry-pi-5") if limit.name == "latency_p50"]
    assert narrow.line == 9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[limits]\nlatncy_p50 = "<= 8ms"', "Did you mean 'latency_p50'?"),
        ('[limts]\nsize = "<= 4MB"', "Did you mean 'limits'?"),
        ('[limits]\nlatency_p50 = "<= 8"', "has no known unit"),
        ("[limits]\nlatency_p50 = 8", "8 has no sign and unit; write it like '<= 8ms'"),
        ('[limits]\nlatency_p50 = "8ms"', "does not begin with <=; write it like '<= 8ms'"),
        ('[limits]\naccuracy = "<= 92%"', "does not begin with >=; write it like '>= 92%'"),
        ('[limits]\naccuracy = ">= 0.92"', "is no percentage"),
        ('[limits]\nlatency_p50 = "<= 60%"', "is a share of nothing"),
        ('[limits]\nlatency_p50 = "<= nan ms"', "is not a number with a unit"),
        ('[limits]\nsize = { limit = "<= 4MB", level = "eror" }', "Did you mean 'error'?"),
        ('[limits]\nsize = { limits = "<= 4MB" }', "Did you mean 'limit'?"),
        ('[limits]\nsize = { level = "warn" }', "size has no limit"),
        ('[for]\ntarget = "x"', "write [[for]] with two brackets"),
        ('[[for]]\ntargt = "x"', "Did you mean 'target'?"),
        ("[[for]]\ntarget = 3", "is no pattern"),
        ("[measuring]\npairs = 1", "pairs = 1 is not between 2 and 1000"),
        ("[measuring]\npair = 9", "Did you mean 'pairs'?"),
        ("limits = 3", "is no table"),
        ("size <= 4MB", "are no TOML"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(read, text, said):
    with pytest.raises((UsageError, UnknownNameError)) as caught:
        read(text)
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="Cannot read the limits"):
        read_limits(tmp_path / "gone.toml")


def test_a_gate_that_checks_nothing_is_refused(read):
    limits = read('[limits]\nsize = "off"\n[[for]]\ntarget = "pi"\nlimits.size = "<= 1MB"')
    assert limits.applying("net", "pi")
    with pytest.raises(UsageError, match=r"No limit of .* applies to net on host"):
        limits.applying("net", "host")


def test_the_example_of_every_metric_can_be_read(read):
    text = "\n".join(f"{name} = {metric.example!r}" for name, metric in METRICS.items())
    assert [limit.name for limit in read(f"[limits]\n{text}").applying("a", "b")] == list(METRICS)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_every_other_text_is_an_error_of_ours(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("limits") / "gate.toml"
    path.write_text(f"[limits]\nsize = {json.dumps('at most ' + text)}\n".replace("\\u007f", " "))
    with pytest.raises(UsageError, match=r"gate\.toml"):
        read_limits(path)
