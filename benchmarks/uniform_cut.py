"""Cutting every layer alike beside cutting by measured milliseconds, on an emulated Jetson Nano.

`python -m benchmarks.uniform_cut --out FOLDER` asks what NVIDIA/TensorRT#3884 asks: a network pruned by 20 % ran no
faster on a Jetson Nano, at fp16. It cuts every group of ResNet-18 by the same part, and lets the exact planner search
for budgets; both keep the most important units, whose scores are random. It writes results/uniform_cut.json,
results/uniform_cut.md and results/uniform_cut.svg. Latencies are the exact ones of the board, without noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from benchmarks.controllers import Bench, Subject, keep_tables_in, prepared
from edgeprune import registry
from edgeprune.bench.target import load_target
from edgeprune.contracts import is_safe
from edgeprune.files import write_text
from edgeprune.network.groups import Allocation, Group
from edgeprune.network.selection import allowed_counts
from edgeprune.run.trial import kept_score
from edgeprune.terminal import TerminalProgress

_RESULTS = Path(__file__).parent / "results"
_NETWORK, _BOARD = "resnet18", "emulated-jetson-nano"
_UNIFORM = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
_BUDGETS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
_ASKED = 0.8

Way = Literal["every layer alike", "by measured milliseconds"]


@dataclass(frozen=True)
class Point:
    """One cut network: `asked` is the part of the units, or of the latency; `kept` is the part of all importance."""

    way: Way
    asked: float
    latency_ms: float
    macs: int
    kept: float


def uniform(bench: Bench, subject: Subject) -> list[Point]:
    """Return the network with every group cut by the same part, for several parts."""
    points = []
    for part in _UNIFORM:
        allocation = {group.name: _nearest(group, part) for group in subject.structure.groups}
        points.append(_point("every layer alike", part, bench, subject, allocation))
    return points


def _nearest(group: Group, part: float) -> int:
    return min(allowed_counts(group), key=lambda count: abs(count - part * group.size))


def planned(bench: Bench, subject: Subject) -> list[Point]:
    """Return what the exact planner finds for several budgets, by measurements with noise as in any run."""
    points = []
    for part in _BUDGETS:
        problem = bench.problem(part)
        controller = registry.load("controllers", "knapsack")(problem)
        safe = []
        while (allocation := controller.ask()) is not None:
            outcome = bench.measured(allocation)
            controller.tell(allocation, outcome)
            if is_safe(outcome, problem.limits):
                safe.append(allocation)
        if safe:
            best = max(safe, key=lambda one: kept_score(subject.scores, one))
            points.append(_point("by measured milliseconds", part, bench, subject, best))
    return points


def _point(way: Way, asked: float, bench: Bench, subject: Subject, allocation: Allocation) -> Point:
    return Point(way, asked, bench.true_ms(allocation), bench.macs(allocation), kept_score(subject.scores, allocation))


def as_important(points: Sequence[Point], kept: float) -> Point:
    """Return the fastest planned network that keeps at least as much importance; the uncut one where there is none."""
    enough = [point for point in points if point.kept >= kept]
    return min(enough, key=lambda point: point.latency_ms)


def page(points: Sequence[Point]) -> str:
    """Return the page: one sentence, and all points."""
    whole, cut, ours = _compared(points)
    lines = [
        "# A cut of 20 % that gains nothing",
        "",
        f"{_NETWORK} on `{_BOARD}` (emulated) takes {whole.latency_ms:.2f} ms. Without 20 % of all channels and "
        f"{1 - cut.macs / whole.macs:.0%} of the multiply-accumulates it takes {cut.latency_ms:.2f} ms "
        f"({cut.latency_ms / whole.latency_ms - 1:+.1%}). Cut by measured milliseconds, a network that keeps as much "
        f"importance ({ours.kept:.3f}, not {cut.kept:.3f}) takes {ours.latency_ms:.2f} ms "
        f"({ours.latency_ms / whole.latency_ms - 1:+.1%}) with {1 - ours.macs / whole.macs:.0%} fewer. "
        "Scores are random.",
        "",
        "![latency over importance kept](uniform_cut.svg)",
        "",
        "Regenerate with `python -m benchmarks.uniform_cut --out FOLDER`.",
        "",
        "| way | asked | latency | of the original | MACs | importance kept |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {point.way} | {point.asked:.0%} | {point.latency_ms:.2f} ms | {point.latency_ms / whole.latency_ms:.1%} "
        f"| {point.macs / 1e6:.0f} M | {point.kept:.3f} |"
        for point in points
    ]
    return "\n".join(lines) + "\n"


def _compared(points: Sequence[Point]) -> tuple[Point, Point, Point]:
    """Return the whole network, that with 20 % less of every layer, and ours that keeps as much."""
    alike = {point.asked: point for point in points if point.way == "every layer alike"}
    others = [point for point in points if point.way != "every layer alike"]
    return alike[1.0], alike[_ASKED], as_important([alike[1.0], *others], alike[_ASKED].kept)


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw latency over importance kept, one line a way, with the cut of 20 % and ours named."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "edgeprune"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for way in dict.fromkeys(point.way for point in points):
        mine = sorted((point for point in points if point.way == way), key=lambda point: point.kept)
        axes.plot([point.kept for point in mine], [point.latency_ms for point in mine], "o-", label=way)
    whole, cut, ours = _compared(points)
    axes.axhline(whole.latency_ms, color="grey", linestyle=":", label="uncut")
    for point, text, offset, side in (
        (cut, "20 % of every layer", (-10, 14), "right"),
        (ours, "as much importance", (8, -16), "left"),
    ):
        label = f"{text}\n{point.latency_ms:.1f} ms, {point.macs / 1e6:.0f} M MACs"
        axes.annotate(label, (point.kept, point.latency_ms), offset, textcoords="offset points", ha=side, fontsize=8)
    axes.set(xlabel="importance kept", ylabel="milliseconds on the emulated board", ylim=(0, None))
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    keep_tables_in(asked.out)
    subject = prepared(_NETWORK, asked.out)
    bench = Bench(subject, load_target(_BOARD), asked.out, TerminalProgress())
    points = [*uniform(bench, subject), *planned(bench, subject)]
    write_text(_RESULTS / "uniform_cut.json", json.dumps([asdict(point) for point in points], indent=1) + "\n")
    write_text(_RESULTS / "uniform_cut.md", page(points))
    draw(points, _RESULTS / "uniform_cut.svg")


if __name__ == "__main__":
    main()
