"""Draws how the energy of layers lies on their ranks, before and after a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeprune.verdict.canvas import AFTER, BEFORE, INK, inline_svg, limit_line
from edgeprune.verdict.result import RankedLayer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_IN_A_ROW = 4
_LEAST = 1e-7  # of the largest energy


def spectra(layers: Sequence[RankedLayer]) -> str:
    """Draw the energy by rank of every layer, before and after the training, and where it was cut off."""
    rows = -(-len(layers) // _IN_A_ROW)

    def draw(*panels: Axes) -> None:
        for axes, layer in zip(panels, layers, strict=False):
            _spectrum(axes, layer)
        for axes in panels[len(layers) :]:
            axes.set_axis_off()

    text = f"Energy by rank of {len(layers)} layers, before and after"
    return inline_svg(draw, text, height=0.4 + 1.35 * rows, columns=_IN_A_ROW, rows=rows)


def _spectrum(axes: Axes, layer: RankedLayer) -> None:
    """One layer on a logarithmic scale; what lies below its end is numerically nothing."""
    drawn = [(layer.energies, BEFORE), *([(layer.trained_energies, AFTER)] if layer.trained_energies else [])]
    least = max(layer.energies[0], 1e-9) * _LEAST
    for energies, colour in drawn:
        axes.plot(range(1, len(energies) + 1), [max(value, least) for value in energies], color=colour, linewidth=1.5)
    if layer.state == "factorised":
        limit_line(axes.axvline(layer.units + 0.5))
    axes.set(yscale="log", ylim=(0.6 * least, 2 * layer.energies[0]), yticks=[], xlim=(0, len(layer.energies) + 1))
    axes.minorticks_off()
    axes.set_title(layer.layer, fontsize=8, color=INK)
    axes.tick_params(labelsize=7)
