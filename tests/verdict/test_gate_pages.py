import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import xmlschema

from edgeprune.bench.measurement import Block, Measurement, ProcessRun
from edgeprune.verdict.gate import Effort, Estimate, GateResult, Judgement, judge_limits
from edgeprune.verdict.gate_forge import github_annotations, gitlab_code_quality
from edgeprune.verdict.gate_junit import junit_xml
from edgeprune.verdict.gate_limits import Limit
from edgeprune.verdict.gate_reasons import explain
from edgeprune.verdict.gate_report import gate_to_dict, render_html, render_markdown, render_text
from edgeprune.verdict.record import Record
from edgeprune.verdict.trend import TrendPoint, change_points

SCHEMA = Path(__file__).with_name("junit.xsd")
LIMITS = (
    Limit("latency_regression", "<= 3%", 0.03, line=3),
    Limit("latency_p50", "<= 8ms", 8.0, line=2),
    Limit("latency_p90", "<= 9ms", 9.0, line=4),
    Limit("accuracy", ">= 92%", 0.92, line=5),
    Limit("startup", "<= 5ms", 5.0, "warn", line=6),
    Limit("macs", "", 0.0, "off", line=7),
)
ESTIMATES = {
    "latency_regression": Estimate(0.041, 0.031, 0.05),
    "latency_p50": Estimate(7.1, 7.0, 7.2),
    "latency_p90": Estimate(8.9, 8.7, 9.2),
    "startup": Estimate(120.0, 110.0, 130.0),
}


def measurement(factor, clock_mhz, throttled=()):
    """Three processes of two blocks around 7 ms."""
    telemetry = {"clock_mhz": clock_mhz, "temperature_c": 50.0, "other_load": 0.0, "throttled": list(throttled)}
    runs = tuple(
        ProcessRun(
            100.0, 20.0, (1,), (Block(tuple(int(7e6 * factor + 1e4 * (n + k)) for k in range(40)), telemetry),) * 2, 1
        )
        for n in range(3)
    )
    facts = {"kernel": "6.6" if throttled else "6.1", "cpu": "Cortex-A76"}
    return Measurement(
        "pi", "real", "onnxruntime", "1.31", "f" * 16, "a" * 64, 2_000_000, facts, runs, 7.0 * factor,
        (6.9 * factor, 7.1 * factor), 7.3 * factor, None, 6.9 * factor,
    )  # fmt: skip


def record(factor, wider):
    layers = {f"layer{n}": 0.3 for n in range(12)} | {"<b>conv</b>": 1.0 + 0.3 * wider}
    return Record(
        source="runs/x", model="res|net", target="pi", kind="real", runtime=f"onnxruntime 1.{30 + wider}", size_bytes=2,
        layers_ms=layers, layer_bytes={"<b>conv</b>": 1000 * (1 + wider)}, allocation={"layer1": 16 + 8 * wider},
    ).measured_as(measurement(factor, 2400 - 200 * wider, ("under-voltage",) if wider else ()))  # fmt: skip


@pytest.fixture
def result():
    candidate, baseline = record(1.041, 1), record(1.0, 0)
    checks = judge_limits(LIMITS, ESTIMATES, {"accuracy": "nothing was evaluated"}, is_last=True)
    levels = [7.0 + 0.01 * (n % 2) for n in range(12)] + [7.3] * 4
    trend = tuple(
        TrendPoint(f"2026-01-{n:02d}", f"{n:040x}", "main", "pass", x, (x - 0.05, x + 0.05))
        for n, x in enumerate(levels, 1)
    )
    effort = Effort("measured in turns", 16, 0.012)
    why = explain(candidate, baseline)
    judgement = Judgement(candidate, baseline, checks, effort, why, ("Mind <this>.",), trend, change_points(trend))
    return GateResult((judgement,), "ci/gate.toml")


def test_junit_keeps_to_the_schema_and_to_the_outcomes(result, tmp_path):
    file = tmp_path / "gate.xml"
    file.write_text(junit_xml(result), encoding="utf-8")
    schema = xmlschema.XMLSchema(SCHEMA)
    schema.validate(file)
    suite = schema.to_dict(file)["testsuite"][0]
    assert (suite["@tests"], suite["@failures"], suite["@errors"], suite["@skipped"]) == (6, 1, 2, 1)
    found = {case["@name"].split()[0]: [key for key in case if not key.startswith("@")] for case in suite["testcase"]}
    assert found == {
        "latency_regression": ["failure"],
        "latency_p50": ["system-out"],
        "latency_p90": ["error"],
        "accuracy": ["error"],
        "startup": ["system-out"],
        "macs": ["skipped"],
    }
    failure = next(case["failure"] for case in suite["testcase"] if "failure" in case)
    assert "<= 3% does not hold" in failure["@message"]
    assert "Layer <b>conv</b>: +0.300 ms" in failure["$"]


def test_a_junit_reader_shows_it(result, tmp_path):
    source, shown = tmp_path / "gate.xml", tmp_path / "gate.html"
    source.write_text(junit_xml(result), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "junit2htmlreport", source, shown], check=True, capture_output=True)
    text = shown.read_text(encoding="utf-8")
    assert "latency_regression" in text
    assert "does not hold" in text


def test_markdown_says_the_verdict_first_then_the_table_then_why(result):
    text = render_markdown(result)
    lines = [line for line in text.splitlines() if line]
    assert lines[0] == "<!-- edgeprune-gate -->"
    assert lines[1].startswith("## Failed: res&#124;net on pi does not keep latency_regression")
    assert lines[2].startswith("| | limit")
    assert lines[4].startswith("| **not met** | latency_regression |")
    places = [text.index(part) for part in ("| **not met**", "What changed", "Distribution of the latency")]
    assert places == sorted(places)
    assert "| &#60;b&#62;conv&#60;/b&#62; | 1.00 | 1.30 | +0.300 | +1.000 KB |" in text
    assert "- Note: Accuracy: not known, because nothing was evaluated." in text
    assert "under-voltage" in text
    assert "2200 MHz for the candidate, 2400 MHz for the baseline" in text
    assert "layer1 16 → 24" in text
    assert "board: kernel: 6.1 before, 6.6 now" in text


class Parser(HTMLParser):
    """Collects tags and addresses; nothing may be loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.headings = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href") and not value.startswith("#")]
        if tag not in ("meta", "path", "use", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass


def test_the_page_is_one_file_and_in_the_promised_order(result):
    page = render_html(result)
    parser = Parser()
    parser.feed(page)
    assert parser.links == []
    assert parser.open == []
    places = [page.index(part) for part in ("<h1", "The limits", "What changed", "Distributions", "Over time")]
    assert places == sorted(places)
    assert "<b>conv</b>" not in page
    assert "&lt;b&gt;conv" in page
    assert page.count("<svg") == 3


def test_text_and_json_say_the_same(result):
    text, data = render_text(result), gate_to_dict(result)
    assert text.startswith("Failed: res|net on pi does not keep latency_regression <= 3%: +4.10 % [+3.10 %, +5.00 %].")
    assert "So many show a slow-down from 1.20 % on." in text
    data = json.loads(json.dumps(data, allow_nan=False))
    assert data["verdict"] == "fail"
    found = {check["name"]: check["outcome"] for check in data["results"][0]["checks"]}
    assert found["accuracy"] == "inconclusive"
    assert found["macs"] == "off"


def test_github_reads_annotations_at_the_line_of_the_limit(result):
    lines = github_annotations(result).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("::error file=ci/gate.toml,line=3,title=latency_regression of res|net on pi::Slow-down")
    assert "<= 3%25 does not hold" in lines[0]
    assert "is inconclusive" in lines[1]
    assert lines[3].startswith("::warning file=ci/gate.toml,line=6")


def test_gitlab_reads_code_quality(result):
    findings = json.loads(gitlab_code_quality(result))
    assert [(finding["severity"], finding["location"]["lines"]["begin"]) for finding in findings] == [
        ("critical", 3),
        ("major", 4),
        ("major", 5),
        ("minor", 6),
    ]
    assert len({finding["fingerprint"] for finding in findings}) == 4
