"""Draws the figures of a gate: where each effect lies beside its limit, and the latency over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from edgeprune.verdict import canvas, figures
from edgeprune.verdict.canvas import AFTER, BEFORE, LIMIT, LINE, MUTED
from edgeprune.verdict.gate import Judgement
from edgeprune.verdict.history import Samples
from edgeprune.verdict.record import Record
from edgeprune.verdict.trend import Change, TrendPoint
from edgeprune.verdict.wording import signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_TREND = 60
_MOST_MARKS = 7
# What the variables of a page are where there is no page: a picture of its own, in light colours.
_LIGHT = {
    "ink": "#1d2126",
    "muted": "#5d6670",
    "line": "#d9dbdd",
    "before": "#a75a00",
    "after": "#0067a5",
    "card": "#ffffff",
    "limit": "#8a2a72",
}


def distributions(judgement: Judgement) -> str:
    """Draw the samples of baseline and candidate on one axis; "" where either has none."""
    before = _samples(judgement.baseline, "baseline")
    after = _samples(judgement.candidate, "candidate")
    if before is None or after is None:
        return ""
    limit = next((check.limit.value for check in judgement.checks if check.limit.name == "latency_p50"), None)
    return figures.latency_distributions(before, after, limit)


def trend(points: Sequence[TrendPoint], changes: Sequence[Change]) -> str:
    """Draw the latency of the latest results with their intervals, and a line for each level between two changes."""
    first = max(len(points) - _LONGEST_TREND, 0)
    shown = points[first:]
    starts = [change.index - first for change in changes if change.index > first]
    edges = [0, *starts, len(shown)]

    def draw(axes: Axes) -> None:
        for place, point in enumerate(shown):
            axes.plot([place, place], point.interval_ms, color=LINE, linewidth=2.4)
        axes.plot([point.latency_ms for point in shown], "o", color=AFTER, markersize=5)
        for begin, end in pairwise(edges):
            level = median(point.latency_ms for point in shown[begin:end])
            axes.plot([begin - 0.4, end - 0.6], [level, level], color=BEFORE, linewidth=1.8)
        low = min(point.interval_ms[0] for point in shown)
        high = max(point.interval_ms[1] for point in shown)
        room = 0.25 * (high - low) or 0.05 * high
        for change in changes:
            if change.index > first:
                axes.axvline(change.index - first - 0.5, color=LIMIT, linewidth=1.2, linestyle=(0, (5, 3)))
                text = f"{signed(100 * change.factor, 1)} %"
                canvas.note(axes, text, (change.index - first - 0.5, high + 0.6 * room), (0, 0), "center", LIMIT)
        axes.set(xlim=(-0.8, len(shown) - 0.2), ylim=(max(low - 0.4 * room, 0), high + room))
        axes.set(ylabel="median latency, milliseconds", xticks=_marks(len(shown)))
        axes.set_xticklabels([_label(shown[place]) for place in _marks(len(shown))], color=MUTED)
        axes.grid(visible=False, axis="x")

    return canvas.inline_svg(draw, f"Latency of the latest {len(shown)} results", height=2.6)


def standalone(svg: str) -> str:
    """Return a figure of a page as a file of its own."""
    for name, colour in _LIGHT.items():
        svg = svg.replace(f"var(--{name})", colour)
    head = '<svg xmlns="http://www.w3.org/2000/svg" style="background:#ffffff;font-family:sans-serif"'
    return svg.replace("<svg", head, 1) + "\n"


def _marks(count: int) -> list[int]:
    return list(range(0, count, math.ceil(count / _MOST_MARKS)))


def _label(point: TrendPoint) -> str:
    return point.commit[:7] or point.recorded_at[5:10]


def _samples(record: Record | None, label: str) -> Samples | None:
    if record is None or record.measurement is None:
        return None
    processes = tuple(
        tuple(sample / 1e6 for block in run.blocks for sample in block.samples_ns) for run in record.measurement.runs
    )
    return Samples(label, processes, record.measurement.latency_p50_ms)
