"""What all figures share: colours that come from the page around them, type, notes, and the way to SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

# Stand-ins that matplotlib draws with; each becomes a variable of the page, which knows light from dark.
INK, MUTED, LINE = "#0a0b01", "#0a0b02", "#0a0b03"
BEFORE, AFTER, PAPER, LIMIT = "#0a0b04", "#0a0b05", "#0a0b06", "#0a0b07"
_VARIABLES: Mapping[str, str] = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    BEFORE: "var(--before)",
    AFTER: "var(--after)",
    PAPER: "var(--card)",
    LIMIT: "var(--limit)",
}
_STYLE: Mapping[Any, Any] = {  # matplotlib types its own keys as literals
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}
# What a file of its own is drawn with, because no page is around it.
_LIGHT: Mapping[str, str] = {
    "--ink": "#1d2126",
    "--muted": "#5d6670",
    "--line": "#d9dbdd",
    "--before": "#a75a00",
    "--after": "#0067a5",
    "--card": "#ffffff",
    "--limit": "#8a2a72",
}


def note(
    axes: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], align: str, colour: str = INK
) -> None:
    """Write beside a point, on a ground that hides the lines below."""
    ground = {"facecolor": PAPER, "edgecolor": "none", "pad": 1, "alpha": 0.85}
    axes.annotate(text, at, offset, textcoords="offset points", ha=align, color=colour, bbox=ground)


def limit_line(line: Line2D) -> None:
    """Make a line one that must not be crossed."""
    line.set(color=LIMIT, linewidth=1.4, linestyle=(0, (5, 3)))


def inline_svg(draw: Callable[..., None], description: str, height: float, columns: int = 1, rows: int = 1) -> str:
    """Return one drawing as an inline element: no prolog, no namespaces, ids that no other figure has."""
    from markupsafe import escape
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    stream = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": description}):
        figure = Figure(figsize=(7.6, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel in axes:
            panel.patch.set_visible(False)
        draw(*axes)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing)
    return _inline(stream.getvalue(), str(escape(description)))


def _inline(svg: str, description: str) -> str:
    head, start, body = svg.partition("<g")
    # Groups are numbered alike in every figure, and an id must be unique in the page; marks and clips keep theirs.
    body = re.sub(r'<g id="[^"]*"', "<g", start + body)
    body = re.sub(r" font-family: [^;]*;", "", body).replace("xlink:href", "href")
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, variable)
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    return f'<svg role="img" aria-label="{description}" {box}>{body}'


def standalone_svg(inline: str) -> str:
    """Return an inline figure as the text of an .svg file: light colours, a white ground, a usual font."""
    drawn = inline
    for name, colour in _LIGHT.items():
        drawn = drawn.replace(f"var({name})", colour)
    head, _, body = drawn.partition(">")
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    ground = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f'{head.replace("<svg", f"<svg {namespaces}", 1)} font-family="sans-serif">{ground}{body}\n'
