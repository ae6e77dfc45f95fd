"""Draws the figures of a report as SVG that takes its colours and its font from the page around it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeprune.verdict.canvas import AFTER, BEFORE, LIMIT, LINE, MUTED, PAPER, inline_svg, limit_line, note
from edgeprune.verdict.history import Round, Samples
from edgeprune.verdict.wording import in_ms, in_percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 90
# Beyond so many times the slower median nothing is drawn, or it would squeeze everything else.
_FARTHEST_SAMPLE, _FARTHEST_LIMIT = 1.6, 3.0


def latency_distributions(before: Samples, after: Samples, limit_ms: float | None) -> str:
    """Draw both distributions on one axis, with medians, the median of each process, and the limit."""
    low, high = shown_range(before, after, limit_ms)

    def draw(axes: Axes) -> None:
        import numpy as np

        if limit_ms is not None:
            limit_line(axes.axvline(limit_ms))
            note(axes, f"limit {in_ms(limit_ms)}", (limit_ms, 1.3), (0, 3), "center", LIMIT)
        edges = np.linspace(low, high, _BINS + 1)
        sides = _sides(before, after, high - low)
        for samples, colour, side in ((before, BEFORE, sides[0]), (after, AFTER, sides[1])):
            counts, _ = np.histogram(samples.pooled, bins=edges)
            axes.stairs(counts / max(counts.max(), 1), edges, fill=True, color=colour, alpha=0.55)
            _median_label(axes, samples, colour, side)
            marks = [statistics.median(process) for process in samples.processes if process]
            axes.plot(marks, [-0.06] * len(marks), "|", color=colour, markersize=9, markeredgewidth=1.8, clip_on=False)
        axes.set(xlim=(low, high), ylim=(-0.12, 1.3), yticks=[], xlabel="latency of one inference, milliseconds")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)

    text = f"Latency before (median {in_ms(before.median_ms)}) and after (median {in_ms(after.median_ms)})"
    return inline_svg(draw, text, height=2.9)


def shown_range(before: Samples, after: Samples, limit_ms: float | None) -> tuple[float, float]:
    """Return the range of milliseconds to draw: nearly all samples, but not far beyond the medians and the limit."""
    pooled = [sorted(samples.pooled) for samples in (before, after)]
    slower_ms = max(before.median_ms, after.median_ms)
    ends = [before.median_ms, after.median_ms, *_near_limit(limit_ms, slower_ms)]
    low = min(*ends, *(ordered[int(0.002 * len(ordered))] for ordered in pooled))
    slow = max(ordered[int(0.99 * (len(ordered) - 1))] for ordered in pooled)
    high = max(*ends, min(slow, _FARTHEST_SAMPLE * slower_ms))
    margin = 0.04 * (high - low) or 0.05 * high or 1.0
    return max(low - margin, 0.0), high + margin


def outside_part(before: Samples, after: Samples, limit_ms: float | None) -> float:
    """Return which part (0 to 1) of all samples the drawing of both distributions leaves out."""
    low, high = shown_range(before, after, limit_ms)
    pooled = (*before.pooled, *after.pooled)
    return sum(not low <= value <= high for value in pooled) / len(pooled)


def rounds_over_macs(original: Round, rounds: Sequence[Round], final: Round, limit_ms: float | None) -> str:
    """Draw latency over multiply-accumulates, and beside it latency in the order of the rounds."""
    points = (original, *rounds, final)

    def draw(work: Axes, order: Axes) -> None:
        work.plot([0, original.macs / 1e6], [0, original.latency_ms], ":", color=MUTED, linewidth=1)
        order.plot([point.latency_ms for point in points], color=LINE, linewidth=1.2)
        for place, point in enumerate(points):
            size = 10 if point in (original, final) else 7
            _round_mark(work, point.macs / 1e6, point, point is original, size)
            _round_mark(order, place, point, point is original, size)
        for point, side in ((original, (-12, "right")), (final, (12, "left"))):
            note(work, point.label, (point.macs / 1e6, point.latency_ms), (side[0], -4), side[1])
        if limit_ms is not None:
            limit_line(work.axhline(limit_ms))
            limit_line(order.axhline(limit_ms))
            note(order, f"limit {in_ms(limit_ms)}", (len(points) - 0.7, limit_ms), (0, 5), "right", LIMIT)
        low, high = _latency_range(points, limit_ms)
        most = max(point.macs for point in points) / 1e6
        work.set(xlim=(0, 1.06 * most), ylim=(low, high), xlabel="multiply-accumulates, millions")
        work.set(ylabel="median latency, milliseconds")
        order.set(xlim=(-0.6, len(points) - 0.4), ylim=(low, high), xlabel="round", yticklabels=[])
        order.set(xticks=range(len(points)), xticklabels=["original", *(r.label for r in rounds), "final"])
        order.grid(visible=False, axis="x")

    return inline_svg(draw, f"Latency over work and over {len(rounds)} rounds of the search", height=3.5, columns=2)


def accuracy_stages(stages: Sequence[tuple[str, float]], floor: float | None) -> str:
    """Draw the accuracy (0 to 1) after each stage, with the lowest admitted one."""
    values = [100 * value for _, value in stages]

    def draw(axes: Axes) -> None:
        if floor is not None:
            limit_line(axes.axhline(100 * floor))
            note(axes, f"lowest admitted {in_percent(floor)}", (-0.35, 100 * floor), (0, -13), "left", LIMIT)
        axes.plot(values, color=AFTER, linewidth=1.6, marker="o", markersize=7)
        for place, (_, value) in enumerate(stages):
            dip = values[place] < min([*values[place - 1 : place], *values[place + 1 : place + 2]])
            note(axes, in_percent(value), (place, 100 * value), (0, -17 if dip else 9), "center")
        low, high = min([*values, *([100 * floor] if floor is not None else [])]), max(values)
        room = max(high - low, 1.0)
        axes.set(xlim=(-0.4, len(stages) - 0.6), ylim=(low - 0.3 * room, high + 0.28 * room))
        axes.set(xticks=range(len(stages)), xticklabels=[label for label, _ in stages], ylabel="accuracy, percent")
        axes.grid(visible=False, axis="x")

    text = "Accuracy by stage: " + ", ".join(f"{label} {in_percent(value)}" for label, value in stages)
    return inline_svg(draw, text, height=2.7)


def _median_label(axes: Axes, samples: Samples, colour: str, align: str) -> None:
    axes.axvline(samples.median_ms, ymax=0.8, color=colour, linewidth=1.6)
    note(axes, f"{samples.label} {in_ms(samples.median_ms)}", (samples.median_ms, 1.06), (0, 2), align, colour)


def _sides(before: Samples, after: Samples, span_ms: float) -> tuple[str, str]:
    """Return how the two labels are aligned: side by side where the medians are close, else centred."""
    if abs(before.median_ms - after.median_ms) > 0.25 * span_ms:
        return "center", "center"
    return ("left", "right") if before.median_ms >= after.median_ms else ("right", "left")


def _round_mark(axes: Axes, x: float, point: Round, is_original: bool, size: float) -> None:
    low, high = point.interval_ms
    colour = BEFORE if is_original else AFTER
    face = colour if point.feasible or is_original else PAPER
    axes.plot([x, x], [low, high], color=colour, linewidth=1.2)
    axes.plot(x, point.latency_ms, "o", markerfacecolor=face, markeredgecolor=colour, markersize=size)


def _latency_range(points: Sequence[Round], limit_ms: float | None) -> tuple[float, float]:
    ends = [end for point in points for end in point.interval_ms]
    ends += _near_limit(limit_ms, max(ends))
    room = 0.1 * (max(ends) - min(ends)) or 0.1 * max(ends)
    return max(min(ends) - room, 0.0), max(ends) + room


def _near_limit(limit_ms: float | None, slowest_ms: float) -> list[float]:
    return [limit_ms] if limit_ms is not None and limit_ms <= _FARTHEST_LIMIT * slowest_ms else []
