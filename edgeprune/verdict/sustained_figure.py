"""Draws latency, clock and temperature over a long time under load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.verdict.canvas import AFTER, BEFORE, LIMIT, inline_svg, standalone_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Moment:
    """When, the median latency, the temperature where the board says it, and whether it slowed itself down."""

    minutes: float
    latency_ms: float
    temperature_c: float | None
    is_throttled: bool


def sustained_figure(moments: Sequence[Moment], target: str) -> str:
    """Return the text of an .svg file; the time in which the board slowed itself down has a ground of its own."""
    temperatures = [(moment.minutes, moment.temperature_c) for moment in moments if moment.temperature_c is not None]

    def draw(latency: Axes, *below: Axes) -> None:
        latency.plot([moment.minutes for moment in moments], [moment.latency_ms for moment in moments], color=AFTER)
        latency.set(ylim=(0, 1.15 * max(moment.latency_ms for moment in moments)), ylabel="median latency, ms")
        for heat in below:
            heat.plot(*zip(*temperatures, strict=True), color=BEFORE)
            heat.set_ylabel("temperature, °C")
        for axes in (latency, *below):
            _shade(axes, moments)
            axes.set_xlim(0, moments[-1].minutes)
        (latency, *below)[-1].set_xlabel("minutes under load")

    rows = 2 if temperatures else 1
    return standalone_svg(inline_svg(draw, f"Latency under load on {target}", height=2.0 * rows + 0.6, rows=rows))


def _shade(axes: Axes, moments: Sequence[Moment]) -> None:
    begin = 0.0
    for moment in moments:
        if moment.is_throttled:
            axes.axvspan(begin, moment.minutes, color=LIMIT, alpha=0.13, linewidth=0)
        begin = moment.minutes
