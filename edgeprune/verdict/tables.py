"""Lays out a result for reading: the table of costs, bars of kept units and of milliseconds, files and versions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgeprune.errors import UsageError
from edgeprune.files import sha256_of
from edgeprune.verdict.result import Costs, FurtherTarget, LayerTime, Result
from edgeprune.verdict.wording import change, in_bytes, in_count, in_ms, in_percent, points, significant, without_home

_MOST_LAYERS = 16
_ARTIFACT_SUFFIXES = frozenset({".json", ".jsonl", ".safetensors", ".pt2", ".onnx", ".tflite", ".engine"})
_STAGES: Mapping[str, str] = {
    "original": "original",
    "shaped": "shaped",
    "cut": "after the cut",
    "recalibrated": "re-calibrated",
    "recovered": "recovered",
    "exported": "exported",
}


State = Literal["", "met", "not met", "unsure"]


@dataclass(frozen=True)
class Row:
    """One quantity before and after, ready to print; `limit` and `state` are "" where nothing limits it."""

    what: str
    original: str
    final: str
    change: str
    limit: str = ""
    state: State = ""


@dataclass(frozen=True)
class Bar:
    """One line of a bar chart; parts are percentages of the full width, texts are empty where nothing is known."""

    name: str
    before_part: float
    after_part: float
    before: str
    after: str


@dataclass(frozen=True)
class File:
    """One file of the run folder."""

    name: str
    size: str
    sha256: str


def cost_rows(ends: Result | FurtherTarget) -> tuple[Row, ...]:
    """Return what the network costs before and after on one target beside what was asked."""
    before, after, budget = ends.original, ends.final, ends.budget
    return (
        Row(
            "Latency, median",
            in_ms(before.latency_p50_ms),
            in_ms(after.latency_p50_ms),
            change(before.latency_p50_ms, after.latency_p50_ms),
            *_limit(budget.latency_ms, after.latency_p50_ms, in_ms, after.latency_interval_ms[1]),
        ),
        Row("Latency, 95 % interval", _interval(before), _interval(after), ""),
        Row("Latency, 90th percentile", _p90(before), _p90(after), _p90_change(before, after)),
        _count_row("Size", in_bytes, before.size_bytes, after.size_bytes, budget.size_bytes),
        _count_row("MACs", in_count, before.macs, after.macs, budget.macs),
        _count_row("Parameters", in_count, before.parameters, after.parameters, None),
        *_memory_rows(before, after, budget.memory_bytes),
        _accuracy_row(ends),
    )


def accuracy_floor(ends: Result | FurtherTarget) -> float | None:
    """Return the lowest accuracy (0 to 1) that the budget admitted, or None."""
    if ends.budget.accuracy_drop is None or ends.original.accuracy is None:
        return None
    return ends.original.accuracy - ends.budget.accuracy_drop


def stages(result: Result) -> tuple[tuple[str, float], ...]:
    """Return the evaluated stages with their accuracy (0 to 1), in order."""
    found = ((label, getattr(result.stages, name)) for name, label in _STAGES.items())
    return tuple((label, accuracy) for label, accuracy in found if accuracy is not None)


def group_bars(result: Result) -> tuple[Bar, ...]:
    """Return kept units of every group of channels in the network's order; one that was left alone is whole."""
    bars = []
    ranks = {layer.group for layer in result.ranked_layers}
    for name, size in ((name, size) for name, size in result.group_sizes.items() if name not in ranks):
        kept = result.allocation.get(name, size)
        bars.append(Bar(name, 100.0, 100 * kept / size if size else 100.0, str(size), str(kept)))
    return tuple(bars)


def ranked_rows(result: Result) -> tuple[tuple[str, ...], ...]:
    """Return for each layer that has ranks: its name, what became of it, the rank, both times, and the kept energy."""
    states = {"factorised": "factorised", "whole": "kept whole", "slower": "rejected: slower"}
    return tuple(
        (
            layer.layer if layer.width is None else f"{layer.layer} at {layer.width[0]}>{layer.width[1]}",
            f"{states[layer.state]} on {layer.target}" if result.further and layer.target else states[layer.state],
            f"{layer.scheme} {' x '.join(map(str, layer.rank))}",
            "" if layer.layer_ms is None else significant(layer.layer_ms),
            "" if layer.chain_ms is None else significant(layer.chain_ms),
            in_percent(layer.kept_energy),
        )
        for layer in result.ranked_layers
    )


def layer_bars(result: Result) -> tuple[Bar, ...]:
    """Return milliseconds of the slowest layers before and after, all others summed in a last line without bars.

    The layers of a chain are summed beside the layer that it replaced.
    """
    before, after = _by_name(result.layers.original), _by_name(_with_chains_as_layers(result))
    names = list(dict.fromkeys([*before, *after]))
    peaks = {name: max(before.get(name, 0), after.get(name, 0)) for name in names}
    slowest = set(sorted(names, key=lambda name: -peaks[name])[:_MOST_LAYERS])
    longest = max(peaks.values(), default=0) or 1.0
    places = max(2 - math.floor(math.log10(longest)), 0)

    def bar(name: str, first: float | None, second: float | None, scale: float) -> Bar:
        parts = [100 * (value or 0) * scale for value in (first, second)]
        texts = ["" if value is None else f"{value:.{places}f}" for value in (first, second)]
        return Bar(name, parts[0], parts[1], texts[0], texts[1])

    bars = [bar(name, before.get(name), after.get(name), 1 / longest) for name in names if name in slowest]
    others = [name for name in names if name not in slowest]
    if others:
        sums = [sum(times.get(name, 0) for name in others) for times in (before, after)]
        bars.append(bar(f"{len(others)} others together", sums[0], sums[1], 0))
    return tuple(bars)


def facts(manifest: Path) -> tuple[tuple[str, str], ...]:
    """Return the facts of manifest.json as named lines, nested ones with dotted names; raises UsageError."""
    if not manifest.exists():
        return ()
    try:
        data = dict(json.loads(manifest.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{manifest} cannot be read: {error}. Run again with another --out.") from error
    shown_elsewhere = {"files", "command"}
    return tuple(_flat("", {key: value for key, value in data.items() if key not in shown_elsewhere}))


def artifacts(run_dir: Path) -> tuple[File, ...]:
    """Return the files that a run leaves for others, with sizes and hashes."""
    paths = sorted(path for path in run_dir.iterdir() if path.suffix in _ARTIFACT_SUFFIXES and path.is_file())
    return tuple(File(path.name, in_bytes(path.stat().st_size), sha256_of(path)) for path in paths)


def _limit(
    limit: float | None, value: float, write: Callable[[float], str], upper: float | None = None
) -> tuple[str, State]:
    """Return the limit in words and whether it is met; `upper` is the upper end of the value's interval."""
    if limit is None:
        return "", ""
    if value > limit:
        return write(limit), "not met"
    return write(limit), "unsure" if upper is not None and upper > limit else "met"


def _count_row(what: str, write: Callable[[float], str], before: int, after: int, limit: float | None) -> Row:
    return Row(what, write(before), write(after), change(before, after), *_limit(limit, after, write))


def _memory_rows(before: Costs, after: Costs, limit: float | None) -> list[Row]:
    rows = []
    if before.memory_bytes is not None and after.memory_bytes is not None:
        rows.append(_count_row("Memory at the peak", in_bytes, before.memory_bytes, after.memory_bytes, limit))
    if before.activation_bytes is not None and after.activation_bytes is not None:
        what = "Activations at once, computed"
        rows.append(_count_row(what, in_bytes, before.activation_bytes, after.activation_bytes, None))
    return rows


def _accuracy_row(ends: Result | FurtherTarget) -> Row:
    before, after, floor = ends.original.accuracy, ends.final.accuracy, accuracy_floor(ends)
    row = Row("Accuracy", in_percent(before), in_percent(after), points(before, after))
    if floor is None:
        return row
    state: State = "unsure" if after is None else "met" if after >= floor else "not met"
    return replace(row, limit=f"at least {in_percent(floor)}", state=state)


def _interval(costs: Costs) -> str:
    low, high = costs.latency_interval_ms
    return f"{significant(low)} to {significant(high)} ms"


def _p90(costs: Costs) -> str:
    return "too few samples" if costs.latency_p90_ms is None else in_ms(costs.latency_p90_ms)


def _p90_change(before: Costs, after: Costs) -> str:
    if before.latency_p90_ms is None or after.latency_p90_ms is None:
        return ""
    return change(before.latency_p90_ms, after.latency_p90_ms)


def _by_name(layers: tuple[LayerTime, ...]) -> dict[str, float]:
    """Sum by name: a runtime may run one layer as several kernels."""
    times: dict[str, float] = {}
    for layer in layers:
        times[layer.name] = times.get(layer.name, 0.0) + layer.milliseconds
    return times


def _with_chains_as_layers(result: Result) -> tuple[LayerTime, ...]:
    """The layers of the final network; `conv.0` and `conv.1` of a chain are both `conv`."""
    chains = {layer.layer for layer in result.ranked_layers if layer.state == "factorised"}

    def whole(name: str) -> str:
        layer, _, place = name.rpartition(".")
        return layer if place.isdigit() and layer in chains else name

    return tuple(replace(layer, name=whole(layer.name)) for layer in result.layers.final)


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [
            line for key, inner in value.items() for line in _flat(f"{prefix}.{key}" if prefix else str(key), inner)
        ]
    if isinstance(value, list):
        return [(prefix, without_home(" ".join(str(item) for item in value)))]
    return [] if value is None else [(prefix, without_home(str(value)))]
