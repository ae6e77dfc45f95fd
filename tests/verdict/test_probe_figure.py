"""A probe as a picture: cutting every layer alike beside cutting as planned, in a file and in the report of a run."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from edgeprune.errors import UsageError
from edgeprune.verdict.probe_figure import compared, curves_of, probe_figure, read_first_look
from edgeprune.verdict.report import write_report


def variant(how: str, label: str, latency_ms: float, macs: int, kept_score: float) -> dict[str, Any]:
    interval = [0.99 * latency_ms, 1.01 * latency_ms]
    named = {"how": how, "label": label, "macs": macs, "kept_score": kept_score}
    return {**named, "latency_p50_ms": latency_ms, "latency_interval_ms": interval}


@pytest.fixture
def probe() -> dict[str, Any]:
    """A cut of 20 % that costs the engine its fast kernels."""
    return {
        "target": "emulated-jetson-nano",
        "kind": "emulated",
        "budget": {"limit_ms": 9.0},
        "floor": [{"what": "the engine, once an inference", "latency_ms": 3.0}],
        "variants": [
            variant("original", "the original", 10.0, 1_800_000, 1.0),
            variant("uniform", "80% of every group", 10.2, 1_200_000, 0.9),
            variant("uniform", "50% of every group", 5.0, 500_000, 0.7),
            variant("smallest", "the smallest", 4.0, 100_000, 0.2),
            variant("planned", "planned for 80%", 8.0, 1_300_000, 0.97),
            variant("planned", "planned for 60%", 6.0, 900_000, 0.91),
        ],
    }


def test_a_cut_that_gains_nothing_is_put_beside_one_that_keeps_as_much(probe: dict[str, Any]) -> None:
    sentence = compared(curves_of(probe))
    assert sentence.startswith("With 80% of every group, the network takes 10.20 ms (+2.0 %) and 1.200 M MACs")
    assert "one that keeps as much importance takes 6.000 ms" in sentence


def test_without_a_planned_one_that_keeps_as_much_the_uncut_network_stands_for_it(probe: dict[str, Any]) -> None:
    probe["variants"] = probe["variants"][:4]
    assert "one that keeps as much importance takes 10.00 ms (0.0 %)" in compared(curves_of(probe))
    probe["variants"] = probe["variants"][:1]
    assert compared(curves_of(probe)) == ""


def test_the_picture_shows_both_ways_and_the_floor(probe: dict[str, Any]) -> None:
    text = probe_figure(probe)
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "var(" not in text
    for words in ("cut alike everywhere", "cut as planned", "limit 9.000 ms", "part of all importance that is kept"):
        assert words in text


def test_a_probe_in_the_folder_of_a_run_is_in_its_report(make_run, probe: dict[str, Any]) -> None:
    run_dir = make_run()
    without, _ = (path.read_text() for path in write_report(run_dir))
    assert "Cut alike everywhere" not in without
    (run_dir / "probe.json").write_text(json.dumps(probe))
    page, markdown = (path.read_text() for path in write_report(run_dir))
    sentence = compared(curves_of(probe))
    assert "<h2>Cut alike everywhere, and cut as planned</h2>" in page
    assert sentence in page
    assert "emulated-jetson-nano (emulated)" in page
    assert sentence in markdown


@pytest.mark.parametrize("text", ["", "[]", '{"variants": []}', '{"variants": [{"how": "uniform"}]}'])
def test_a_file_that_is_no_probe_is_one_clear_error(tmp_path, text: str) -> None:
    path = tmp_path / "probe.json"
    assert read_first_look(path, None) is None
    path.write_text(text)
    with pytest.raises(UsageError, match=r"probe\.json is no probe: .* probe again with --out"):
        read_first_look(path, None)
