"""Draws the stairs of single layers: what was measured over their output channels, and the steps between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.verdict.canvas import AFTER, BEFORE, MUTED, inline_svg, standalone_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3
_MOST_PANELS = 12


@dataclass(frozen=True)
class LayerCurve:
    """One layer: what it is, the measured (channels, ms), and the same for every number of channels."""

    title: str
    measured: tuple[tuple[int, float], ...]
    predicted: tuple[tuple[int, float], ...]


def stairs_figure(curves: Sequence[LayerCurve], target: str) -> str:
    """Return the text of an .svg file with the first dozen layers that were measured at several widths."""
    shown = [curve for curve in curves if len(curve.measured) > 1][:_MOST_PANELS]
    rows = -(-len(shown) // _COLUMNS) or 1

    def draw(*panels: Axes) -> None:
        for panel, curve in zip(panels, shown, strict=False):
            _draw_curve(panel, curve)
        for panel in panels[len(shown) :]:
            panel.set_visible(False)
        for panel in panels[: len(shown)][::_COLUMNS]:
            panel.set_ylabel("milliseconds")
        for panel in panels[max(len(shown) - _COLUMNS, 0) : len(shown)]:
            panel.set_xlabel("output channels")

    text = f"Milliseconds of single layers over their output channels on {target}"
    return standalone_svg(inline_svg(draw, text, height=2.1 * rows + 0.3, columns=_COLUMNS, rows=rows))


def _draw_curve(panel: Axes, curve: LayerCurve) -> None:
    counts, times = zip(*curve.predicted, strict=True)
    panel.plot(counts, times, color=AFTER, linewidth=1.4, drawstyle="steps-pre")
    panel.plot(*zip(*curve.measured, strict=True), "o", color=BEFORE, markersize=4)
    panel.set_ylim(0, 1.1 * max(times))
    panel.set_xlim(0, 1.04 * counts[-1])
    panel.set_title(curve.title, fontsize=7, color=MUTED, loc="left")
