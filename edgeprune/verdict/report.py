"""Writes `report.html`, one file that a person enjoys reading, and `report.md` for a pull request."""

from __future__ import annotations

import shlex
from pathlib import Path, PurePath
from typing import Any

from edgeprune.files import write_text
from edgeprune.verdict import tables, wording
from edgeprune.verdict.figures import accuracy_stages, latency_distributions, outside_part, rounds_over_macs
from edgeprune.verdict.history import History, Round, read_history
from edgeprune.verdict.pages import render
from edgeprune.verdict.probe_figure import read_first_look
from edgeprune.verdict.result import Costs, Result, read_result
from edgeprune.verdict.spectra import spectra

_GROUPS_IN_ONE_COLUMN = 12


def write_report(run_dir: Path) -> tuple[Path, Path]:
    """Write report.html and report.md beside the result.json of a finished run and return their paths.

    Raises UsageError when the folder holds no finished run, StorageError when the disk refuses.
    """
    result = read_result(run_dir / "result.json")
    view = _view(run_dir, result, read_history(run_dir))
    html, markdown = run_dir / "report.html", run_dir / "report.md"
    write_text(html, render("report.html.j2", view))
    write_text(markdown, render("report.md.j2", view))
    return html, markdown


def _view(run_dir: Path, result: Result, history: History) -> dict[str, Any]:
    """Return everything the templates print, so that they only lay out."""
    bars = tables.group_bars(result)
    stages = tables.stages(result)
    return {
        "result": result,
        "headline": wording.headline(result),
        "name": wording.model_name(result),
        "kind": wording.KINDS[result.kind],
        "rows": tables.cost_rows(result),
        "further": [(one, wording.KINDS[one.kind], tables.cost_rows(one)) for one in result.further],
        **_distributions(result, history),
        "first_look": read_first_look(run_dir / "probe.json", result.budget.latency_ms),
        "history": history,
        "rounds_figure": _rounds_figure(result, history),
        "stages": stages,
        "stages_figure": accuracy_stages(stages, tables.accuracy_floor(result)) if len(stages) > 1 else "",
        "group_columns": [bars] if len(bars) <= _GROUPS_IN_ONE_COLUMN else _halves(bars),
        "kept_units": sum(int(bar.after) for bar in bars),
        "all_units": sum(int(bar.before) for bar in bars),
        "layers": tables.layer_bars(result),
        "ranked": tables.ranked_rows(result),
        "spectra": spectra(result.ranked_layers) if result.ranked_layers else "",
        "time": _time_parts(result),
        "command": _command_line(result),
        "facts": tables.facts(run_dir / "manifest.json"),
        "files": tables.artifacts(run_dir),
    }


def _distributions(result: Result, history: History) -> dict[str, Any]:
    before, after, limit_ms = history.before, history.after, result.budget.latency_ms
    if before is None or after is None:
        return {"distributions": "", "outside": ""}
    outside = f"{outside_part(before, after, limit_ms):.1%}".replace("%", " %")
    return {"distributions": latency_distributions(before, after, limit_ms), "outside": outside}


def _rounds_figure(result: Result, history: History) -> str:
    if not history.rounds:
        return ""
    limit_ms = result.budget.latency_ms
    original = _as_round("original", result.original, limit_ms)
    return rounds_over_macs(original, history.rounds, _as_round("final", result.final, limit_ms), limit_ms)


def _as_round(label: str, costs: Costs, limit_ms: float | None) -> Round:
    feasible = limit_ms is None or costs.latency_p50_ms <= limit_ms
    return Round(label, costs.macs, costs.latency_p50_ms, costs.latency_interval_ms, costs.size_bytes, feasible)


def _halves(bars: tuple[tables.Bar, ...]) -> list[tuple[tables.Bar, ...]]:
    middle = (len(bars) + 1) // 2
    return [bars[:middle], bars[middle:]]


def _time_parts(result: Result) -> list[tuple[str, float, float]]:
    """Return what the run spent its seconds on: name, seconds, percentage."""
    seconds = result.seconds
    parts = (("training", seconds.training), ("measuring", seconds.measuring), ("everything else", seconds.rest))
    total = sum(value for _, value in parts) or 1.0
    return [(name, value, 100 * value / total) for name, value in parts]


def _command_line(result: Result) -> str:
    """Return the command as typed, without where the program or anybody's home lies."""
    program, *arguments = result.command or ("",)
    return wording.without_home(shlex.join([PurePath(program).name, *arguments]))
