from __future__ import annotations

import pytest

from edgeprune.bench.findings import Patient, examine, judge_state
from edgeprune.bench.target import load_target

GB = 10**9
STATE = {
    "clock_mhz": 1800.0,
    "gpu_clock_mhz": None,
    "temperature_c": 48.0,
    "throttled": [],
    "throttle_history": [],
}
FACTS = {
    "kind": "real",
    "machine": "aarch64",
    "bits": 64,
    "model": "Raspberry Pi 4 Model B Rev 1.4",
    "cpu_features": ["fp", "asimd", "crc32"],
    "system": "Debian GNU/Linux 12 (bookworm)",
    "kernel": "6.6.51+rpt-rpi-v8",
    "python": "3.11.2",
    "python_path": "/usr/bin/python3",
    "packages": {"ai-edge-litert": "2.4.0", "numpy": "2.2.0"},
    "disk_free_bytes": 9 * GB,
    "memory": {"MemTotal": 4 * GB, "MemAvailable": 3 * GB, "SwapTotal": GB, "SwapFree": GB},
    "state": STATE,
    "look": {"other_load": 0.02},
    "busiest": ["python3 (7)"],
    "tegrastats": {},
    "throttles_at_c": None,
    "controls": [{"name": "governor", "now": ["performance"], "changes": []}],
}
NEEDED = ("ai-edge-litert>=2.0", "numpy")


def findings(facts=None, target="raspberry-pi-4", skew_s=0.1, **changes):
    patient = Patient(
        load_target(target),
        {**FACTS, **(facts or {}), **changes},
        NEEDED,
        {"ai-edge-litert": "tflite-runtime"},
        skew_s,
    )
    return examine(patient)


def found(check, **changes):
    """Return severity and sentence of the worst finding of a check."""
    order = ("error", "warning", "note", "ok")
    matching = [finding for finding in findings(**changes) if finding.check == check]
    worst = min(matching, key=lambda finding: order.index(finding.severity))
    return worst.severity, worst.sentence


def test_a_healthy_board_has_good_findings_only():
    assert {finding.severity for finding in findings()} == {"ok"}
    assert found("board")[1].startswith("Raspberry Pi 4 Model B Rev 1.4, Debian")


@pytest.mark.parametrize(
    ("check", "changes", "severity", "said"),
    [
        ("kind", {"kind": "icount"}, "error", "says that it is 'icount', and target raspberry-pi-4 says 'real'"),
        ("board", {"machine": "x86_64"}, "error", "is a x86_64 machine; target raspberry-pi-4 is for aarch64"),
        ("board", {"model": "Raspberry Pi 5 Model B"}, "warning", "calls itself 'Raspberry Pi 5 Model B'"),
        ("board", {"bits": 32}, "error", "Install the 64-bit system"),
        ("Python", {"python": "3.7.3"}, "error", "Install Python 3.8 or newer"),
        ("runtime", {"packages": {"numpy": "2"}}, "error", "/usr/bin/python3 -m pip install 'ai-edge-litert>=2.0'"),
        ("runtime", {"packages": {"ai-edge-litert": "1.4", "numpy": "2"}}, "error", "lacks ai-edge-litert>=2.0"),
        ("runtime", {"packages": {"tflite-runtime": "2.14.0", "numpy": "1.26"}}, "ok", "in place of ai-edge-litert"),
        ("disk", {"disk_free_bytes": 300e6}, "warning", "Only 300 MB free"),
        ("disk", {"disk_free_bytes": 3e6}, "error", "edgeprune targets clean raspberry-pi-4"),
        ("memory", {"memory": {"MemTotal": GB, "MemAvailable": 30e6}}, "error", "Only 30 MB of 1000 MB available"),
        (
            "swap",
            {"memory": {"MemTotal": GB, "MemAvailable": GB, "SwapTotal": GB, "SwapFree": GB / 2}},
            "warning",
            "500 MB are swapped out",
        ),
        ("other load", {"look": {"other_load": 0.9}}, "warning", "0.9 cores busy, most of all python3 (7)"),
        ("time", {"skew_s": -86400.0}, "warning", "86400 s behind this machine's"),
        ("time", {"skew_s": 60.0}, "warning", "60 s ahead of"),
        (
            "governor",
            {"controls": [{"name": "governor", "now": ["ondemand"], "changes": [["write", "/sys/x", "performance"]]}]},
            "warning",
            "It is ondemand; it should be set for a benchmark (/sys/x performance). "
            "Run: edgeprune doctor raspberry-pi-4 --fix",
        ),
        ("governor", {"controls": [{"name": "governor", "now": [], "changes": []}]}, "note", "no such setting"),
    ],
)
def test_each_trouble_is_said_with_its_remedy(check, changes, severity, said):
    assert found(check, **changes)[0] == severity
    assert said in found(check, **changes)[1]


@pytest.mark.parametrize(
    ("state", "check", "severity", "said"),
    [
        ({"temperature_c": 83.0}, "temperature", "error", "at 83 °C and slows down from 80 °C on"),
        ({"temperature_c": 74.0}, "temperature", "warning", "close to the 80 °C"),
        ({"throttled": ["under-voltage", "throttled"]}, "throttling", "error", "now: under-voltage, throttled"),
        ({"throttle_history": ["under-voltage"]}, "throttle history", "warning", "Since it was started"),
    ],
)
def test_heat_and_throttling(state, check, severity, said):
    assert found(check, state={**STATE, **state})[0] == severity
    assert said in found(check, state={**STATE, **state})[1]


def test_the_board_s_own_trip_point_counts_where_it_is_lower():
    assert found("temperature", throttles_at_c=45.0)[0] == "error"


@pytest.mark.parametrize(
    ("packages", "features", "springs"),
    [
        ({"ai-edge-litert": "2.3.0"}, ["fp", "asimd"], True),
        ({"ai-edge-litert": "2.3.0"}, ["fp", "asimd", "atomics"], False),
        ({"ai-edge-litert": "2.30.0"}, ["fp", "asimd"], False),
        ({"ai-edge-litert": "2.4.0"}, ["fp", "asimd"], False),
        ({}, ["fp", "asimd"], False),
    ],
)
def test_a_known_trap_is_told_where_it_is_set(packages, features, springs):
    told = findings(packages={"numpy": "2", **packages}, cpu_features=features)
    assert any(finding.check == "known trap" for finding in told) == springs


def test_a_target_that_knows_no_board_is_examined_too():
    told = findings(target="host", machine="x86_64", model="", controls=[])
    assert all(finding.severity == "ok" for finding in told)


def test_an_emulated_board_says_that_its_times_mean_nothing():
    from dataclasses import replace

    target = replace(load_target("raspberry-pi-4"), kind="emulated")
    told = examine(Patient(target, {**FACTS, "kind": "emulated"}, NEEDED))
    assert [finding.message for finding in told if finding.check == "kind"] == [
        "This board is emulated: its times mean nothing."
    ]


def test_the_quick_form_keeps_silent_about_what_is_well():
    target = load_target("raspberry-pi-4")
    assert judge_state(target, "real", STATE, None) == []
    hot = judge_state(target, "icount", {**STATE, "temperature_c": 90.0, "throttled": ["throttled"]}, None)
    assert [(finding.check, finding.severity) for finding in hot] == [
        ("kind", "error"),
        ("temperature", "error"),
        ("throttling", "error"),
    ]


def test_a_busy_gpu_and_the_clocks_that_only_the_monitor_sees():
    seen = {"gpu_load_percent": 40.0, "gpu_clock_mhz": 918.0, "memory_clock_mhz": 3199.0}
    assert found("other GPU load", tegrastats=seen)[0] == "warning"
    assert "keep the GPU 40 % busy" in found("other GPU load", tegrastats=seen)[1]
    assert found("GPU clock", tegrastats=seen) == ("ok", "918 MHz")
    assert found("memory clock", tegrastats=seen) == ("ok", "3199 MHz")
