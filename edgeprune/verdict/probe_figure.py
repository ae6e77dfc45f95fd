"""Draws what latency a network can reach: measured variants over their work, and what the floor consists of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.verdict.canvas import AFTER, BEFORE, LIMIT, MUTED, inline_svg, limit_line, note, standalone_svg
from edgeprune.verdict.wording import in_ms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BREAK = 26  # letters of a label in one line


@dataclass(frozen=True)
class Point:
    """One measured network: millions of multiply-accumulates, milliseconds, and the interval of these."""

    macs_millions: float
    latency_ms: float
    interval_ms: tuple[float, float]


def probe_figure(
    curves: Mapping[str, Sequence[Point]], parts: Sequence[tuple[str, float]], limit_ms: float | None, target: str
) -> str:
    """Return the text of an .svg file; the first of all points is the original, `parts` make up the floor."""

    def draw(reach: Axes, floor: Axes) -> None:
        _draw_curves(reach, curves, limit_ms)
        labels = [_broken(what) for what, _ in parts][::-1]
        floor.barh(labels, [latency_ms for _, latency_ms in parts][::-1], color=AFTER, alpha=0.55, height=0.6)
        floor.tick_params(axis="y", labelsize=7.5, length=0)
        floor.grid(visible=False, axis="y")
        floor.set_xlabel("milliseconds of the fastest network")

    return standalone_svg(inline_svg(draw, f"Latency that can be reached on {target}", height=3.6, columns=2))


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[Point]], limit_ms: float | None) -> None:
    colours = (BEFORE, AFTER)
    original = next(iter(curves.values()))[0]
    axes.plot([0, original.macs_millions], [0, original.latency_ms], ":", color=MUTED, linewidth=1)
    for (label, points), colour in zip(curves.items(), colours, strict=False):
        ordered = sorted(points, key=lambda point: point.macs_millions)
        x = [point.macs_millions for point in ordered]
        axes.plot(x, [point.latency_ms for point in ordered], "o-", color=colour, linewidth=1.4, label=label)
        for point in ordered:
            axes.plot([point.macs_millions] * 2, point.interval_ms, color=colour, linewidth=1.2)
    if limit_ms is not None:
        limit_line(axes.axhline(limit_ms))
        note(axes, f"limit {in_ms(limit_ms)}", (original.macs_millions, limit_ms), (0, 5), "right", LIMIT)
    axes.set(xlim=(0, None), ylim=(0, None), xlabel="multiply-accumulates, millions", ylabel="median latency, ms")
    axes.legend(frameon=False, fontsize=8.5, labelcolor=MUTED, loc="upper left")


def _broken(label: str) -> str:
    """Break a label into lines between words."""
    lines = [""]
    for word in label.split():
        if lines[-1] and len(lines[-1]) + len(word) > _BREAK:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
