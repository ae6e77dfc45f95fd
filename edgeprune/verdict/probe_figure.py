"""Draws what latency a network can reach: measured variants over their work and importance, and the floor's parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprune.errors import UsageError
from edgeprune.verdict.canvas import AFTER, BEFORE, LIMIT, MUTED, inline_svg, limit_line, note, standalone_svg
from edgeprune.verdict.wording import change, in_count, in_ms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BREAK = 26  # letters of a label in one line
_ALIKE, _PLANNED = "cut alike everywhere", "cut as planned"


@dataclass(frozen=True)
class Point:
    """One measured network: its label, its multiply-accumulates, the part of all importance that it keeps, its time."""

    label: str
    macs: int
    kept_score: float
    latency_ms: float
    interval_ms: tuple[float, float]


@dataclass(frozen=True)
class FirstLook:
    """What a probe in the folder of a run shows: a figure, what it says in a sentence, and where it was measured."""

    figure: str
    sentence: str
    target: str
    kind: str


def probe_figure(probe: Mapping[str, Any]) -> str:
    """Return the text of an .svg file that shows the data of `edgeprune probe`."""
    limit_ms = probe["budget"]["limit_ms"] if probe["budget"] else None
    parts = [(part["what"], part["latency_ms"]) for part in probe["floor"]]

    def draw(work: Axes, worth: Axes, floor: Axes, empty: Axes) -> None:
        _draw_reach(work, worth, curves_of(probe), limit_ms)
        labels = [_broken(what) for what, _ in parts][::-1]
        floor.barh(labels, [latency_ms for _, latency_ms in parts][::-1], color=AFTER, alpha=0.55, height=0.6)
        floor.tick_params(axis="y", labelsize=7.5, length=0)
        floor.grid(visible=False, axis="y")
        floor.set_xlabel("milliseconds of the fastest network")
        empty.set_axis_off()

    text = f"Latency that can be reached on {probe['target']} ({probe['kind']})"
    return standalone_svg(inline_svg(draw, text, height=6.6, columns=2, rows=2))


def read_first_look(path: Path, limit_ms: float | None) -> FirstLook | None:
    """Return what a file of `edgeprune probe --out` shows, None where there is none; raises UsageError."""
    if not path.exists():
        return None
    try:
        probe = json.loads(path.read_text(encoding="utf-8"))
        curves = curves_of(probe)
        target, kind = str(probe["target"]), str(probe["kind"])
        sentence = compared(curves)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UsageError(f"{path} is no probe: {error!r}. Remove it, or probe again with --out {path}.") from error

    def draw(work: Axes, worth: Axes) -> None:
        _draw_reach(work, worth, curves, limit_ms)

    text = f"Latency of variants that were cut alike everywhere, and as planned, on {target} ({kind})"
    return FirstLook(inline_svg(draw, text, height=3.6, columns=2), sentence, target, kind)


def curves_of(probe: Mapping[str, Any]) -> dict[str, list[Point]]:
    """Return both ways of cutting, each with the uncut network, by what they are called; raises KeyError, TypeError."""
    points = [(variant["how"], _point(variant)) for variant in probe["variants"]]
    return {
        _ALIKE: [point for how, point in points if how in ("original", "uniform")],
        _PLANNED: [point for how, point in points if how != "uniform"],
    }


def compared(curves: Mapping[str, Sequence[Point]]) -> str:
    """Say what the mildest cut of every layer alike brings, and the fastest planned one that keeps as much; or ""."""
    whole, *alike = curves[_ALIKE]
    if not alike:
        return ""
    mildest = max(alike, key=lambda point: point.kept_score)
    enough = [point for point in curves[_PLANNED] if point.kept_score >= mildest.kept_score]
    planned = min(enough, key=lambda point: point.latency_ms)
    against = f"the uncut {in_ms(whole.latency_ms)} and {in_count(whole.macs)}"
    return (
        f"With {mildest.label}, the network takes {_costs(mildest, whole)}, against {against}; "
        f"{_PLANNED}, one that keeps as much importance takes {_costs(planned, whole)}."
    )


def _costs(point: Point, whole: Point) -> str:
    latency = f"{in_ms(point.latency_ms)} ({change(whole.latency_ms, point.latency_ms)})"
    return f"{latency} and {in_count(point.macs)} MACs ({change(whole.macs, point.macs)})"


def _point(variant: Mapping[str, Any]) -> Point:
    low, high = variant["latency_interval_ms"]
    latency_ms = float(variant["latency_p50_ms"])
    return Point(variant["label"], int(variant["macs"]), float(variant["kept_score"]), latency_ms, (low, high))


def _draw_reach(work: Axes, worth: Axes, curves: Mapping[str, Sequence[Point]], limit_ms: float | None) -> None:
    original = next(iter(curves.values()))[0]
    work.plot([0, original.macs / 1e6], [0, original.latency_ms], ":", color=MUTED, linewidth=1)
    _draw_curves(work, curves, lambda point: point.macs / 1e6)
    _draw_curves(worth, curves, lambda point: point.kept_score)
    for axes, right in ((work, original.macs / 1e6), (worth, 1.0)):
        if limit_ms is not None:
            limit_line(axes.axhline(limit_ms))
            note(axes, f"limit {in_ms(limit_ms)}", (right, limit_ms), (0, 5), "right", LIMIT)
        axes.set(xlim=(0, None), ylim=(0, None))
    work.set(xlabel="multiply-accumulates, millions", ylabel="median latency, ms")
    worth.set(xlabel="part of all importance that is kept")
    work.legend(frameon=False, fontsize=8.5, labelcolor=MUTED, loc="upper left")


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[Point]], across: Callable[[Point], float]) -> None:
    for (label, points), colour in zip(curves.items(), (BEFORE, AFTER), strict=True):
        ordered = sorted(points, key=across)
        x = [across(point) for point in ordered]
        axes.plot(x, [point.latency_ms for point in ordered], "o-", color=colour, linewidth=1.4, label=label)
        for point in ordered:
            axes.plot([across(point)] * 2, point.interval_ms, color=colour, linewidth=1.2)


def _broken(label: str) -> str:
    """Break a label into lines between words."""
    lines = [""]
    for word in label.split():
        if lines[-1] and len(lines[-1]) + len(word) > _BREAK:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
