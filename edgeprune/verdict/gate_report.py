"""Writes what came of a gate for people and machines: one page that is understood in ten seconds, a comment, JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgeprune.verdict import gate_figures, wording
from edgeprune.verdict.gate import Check, GateResult, Judgement, describe
from edgeprune.verdict.gate_limits import in_parts
from edgeprune.verdict.gate_reasons import LayerChange
from edgeprune.verdict.pages import render
from edgeprune.verdict.record import Record

TITLES: Mapping[str, str] = {"pass": "Passed", "fail": "Failed", "inconclusive": "Inconclusive"}

_STATES: Mapping[str, str] = {"pass": "met", "fail": "not met", "inconclusive": "unsure", "off": "off"}


@dataclass(frozen=True)
class Row:
    """One limit, ready to print."""

    name: str
    limit: str
    baseline: str
    measured: str
    state: str
    is_warning: bool


@dataclass(frozen=True)
class LayerRow:
    """One layer, ready to print; parts are percentages of the longest bar."""

    name: str
    before: str
    after: str
    more: str
    more_bytes: str
    before_part: float
    after_part: float


def headline(judgement: Judgement) -> str:
    """Return what came of one network as one sentence."""
    place = f"{judgement.candidate.model} on {judgement.candidate.target}"
    counting = [check for check in judgement.checks if check.counts]
    if not counting:
        return f"{place} has no limit that counts, only limits that warn."
    if judgement.verdict == "pass":
        number = len(counting)
        return f"{place} keeps {'its limit' if number == 1 else f'all {number} limits'}."
    wrong = [check for check in counting if check.outcome == judgement.verdict]
    first, more = wrong[0], len(wrong) - 1
    tail = f", nor {more} other limit{'s' if more > 1 else ''}" if more else ""
    verb = "does not keep" if judgement.verdict == "fail" else "cannot be said to keep"
    said = f": {describe(first.limit, first.estimate)}" if first.estimate is not None else ", which is not known"
    return f"{place} {verb} {first.limit.name} {first.limit.text}{said}{tail}."


def gate_to_dict(result: GateResult) -> dict[str, Any]:
    """Return what came of a gate as plain JSON types, without raw samples."""
    return {
        "schema": 1,
        "verdict": result.verdict,
        "limits": result.limits,
        "results": [_judgement_to_dict(judgement) for judgement in result.judgements],
    }


def render_html(result: GateResult) -> str:
    """Return report.html: one file, nothing is loaded from anywhere."""
    return render("gate.html.j2", _view(result))


def render_markdown(result: GateResult) -> str:
    """Return report.md, the comment of a pull request."""
    return render("gate.md.j2", _view(result))


def render_text(result: GateResult) -> str:
    """Return what a terminal shows."""
    return "\n\n".join(_text(judgement) for judgement in result.judgements)


def rows(judgement: Judgement) -> tuple[Row, ...]:
    """Return the table of the limits, what failed first."""
    order = ("fail", "inconclusive", "pass", "off")
    checks = sorted(judgement.checks, key=lambda check: (order.index(check.outcome), not check.counts))
    return tuple(
        Row(
            name=check.limit.name,
            limit=check.limit.text,
            baseline=_baseline_value(check, judgement.baseline),
            measured=describe(check.limit, check.estimate) if check.estimate is not None else "not known",
            state=_STATES[check.outcome],
            is_warning=check.limit.level == "warn",
        )
        for check in checks
    )


def effort_sentence(judgement: Judgement) -> str:
    """Return how the numbers came about, and how small a slow-down they can show."""
    effort, record = judgement.effort, judgement.candidate
    board = f"board {record.fingerprint}" if record.fingerprint else "a board that nobody recorded"
    several = f"{effort.pairs} processes" + (" of each" if judgement.baseline is not None else "")
    told = {
        "measured in turns": f"Baseline and candidate were measured in turns, {several}",
        "measured": f"The candidate was measured now, {effort.pairs} processes",
        "stored samples": f"Nothing was measured now; the stored samples of {effort.pairs} processes decide",
        "stored numbers": "Nothing was measured now, and there are no raw samples; the stored numbers decide",
    }
    least = ""
    if effort.detectable is not None and judgement.baseline is not None:
        least = f" So many show a slow-down from {in_parts(effort.detectable).lstrip('+')} on."
    return f"{told[effort.how]}, on {board} ({wording.KINDS[record.kind]}).{least}"


def _text(judgement: Judgement) -> str:
    table = [(row.state, row.name, row.limit, row.baseline, row.measured) for row in rows(judgement)]
    lines = [("", "limit", "", "baseline", "measured"), *table]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    body = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    changed = [f"Changed: {sentence}" for sentence in judgement.why.sentences()] if judgement.verdict != "pass" else []
    notes = [f"Note: {warning}" for warning in judgement.warnings]
    head = f"{TITLES[judgement.verdict]}: {headline(judgement)}"
    return "\n".join([head, "", *body, "", effort_sentence(judgement), *changed, *notes])


def _view(result: GateResult) -> dict[str, Any]:
    return {
        "verdict": result.verdict,
        "title": TITLES[result.verdict],
        "limits": result.limits,
        "judgements": [_judgement_view(judgement) for judgement in result.judgements],
    }


def _judgement_view(judgement: Judgement) -> dict[str, Any]:
    why = judgement.why
    layers = [*why.layers, *([why.other_layers] if why.other_layers is not None else [])]
    longest = max((max(layer.before_ms or 0, layer.after_ms or 0) for layer in why.layers), default=0) or 1.0
    undecided = [check.sentence for check in judgement.checks if check.counts and check.outcome == "inconclusive"]
    warned = [c.sentence for c in judgement.checks if c.outcome in ("fail", "inconclusive") and not c.counts]
    return {
        "verdict": judgement.verdict,
        "title": TITLES[judgement.verdict],
        "headline": headline(judgement),
        "record": judgement.candidate,
        "has_baseline": judgement.baseline is not None,
        "rows": rows(judgement),
        "cautions": [*undecided, *warned, *judgement.warnings],
        "effort": effort_sentence(judgement),
        "why": why,
        "layers": [_layer_row(layer, longest, layer is why.other_layers) for layer in layers],
        "distributions": gate_figures.distributions(judgement),
        "trend": gate_figures.trend(judgement.trend, judgement.changes) if len(judgement.trend) > 1 else "",
        "trend_points": judgement.trend,
        "changes": judgement.changes,
        "quantiles": [
            _quantiles(label, record)
            for label, record in (("baseline", judgement.baseline), ("candidate", judgement.candidate))
            if record is not None and record.measurement is not None
        ],
    }


def _layer_row(layer: LayerChange, longest: float, is_sum: bool) -> LayerRow:
    scale = 0.0 if is_sum else 100 / longest
    return LayerRow(
        name=layer.name,
        before="" if layer.before_ms is None else wording.significant(layer.before_ms, 3),
        after="" if layer.after_ms is None else wording.significant(layer.after_ms, 3),
        more=wording.signed(layer.more_ms, 3) if layer.before_ms is not None or layer.after_ms is not None else "",
        more_bytes=_more_bytes(layer),
        before_part=(layer.before_ms or 0.0) * scale,
        after_part=(layer.after_ms or 0.0) * scale,
    )


def _more_bytes(layer: LayerChange) -> str:
    if layer.before_bytes is None and layer.after_bytes is None:
        return ""
    sign = wording.signed(layer.more_bytes, 0)[:1] if layer.more_bytes else ""
    return sign + wording.in_bytes(abs(layer.more_bytes)) if layer.more_bytes else "same"


def _quantiles(label: str, record: Record) -> dict[str, str]:
    """Return a distribution in five numbers, for where no picture can be shown."""
    import numpy as np

    runs = record.measurement.runs if record.measurement is not None else ()
    samples = [sample / 1e6 for run in runs for block in run.blocks for sample in block.samples_ns]
    low, lower, middle, upper, high = np.quantile(samples, [0.05, 0.25, 0.5, 0.75, 0.95])
    values = {"p5": low, "p25": lower, "p50": middle, "p75": upper, "p95": high}
    texts = {name: wording.in_ms(float(value)) for name, value in values.items()}
    return {"label": label, "count": f"{len(samples):,}", **texts}


def _baseline_value(check: Check, baseline: Record | None) -> str:
    """Return what the baseline has of the quantity behind a limit."""
    if baseline is None:
        return ""
    readers: Mapping[str, tuple[Any, Callable[[float], str]]] = {
        "latency_p50": (baseline.latency_p50_ms, wording.in_ms),
        "latency_regression": (baseline.latency_p50_ms, wording.in_ms),
        "size": (baseline.size_bytes, wording.in_bytes),
        "size_regression": (baseline.size_bytes, wording.in_bytes),
        "macs": (baseline.macs, wording.in_count),
        "parameters": (baseline.parameters, wording.in_count),
        "accuracy": (baseline.accuracy, wording.in_percent),
        "accuracy_regression": (baseline.accuracy, wording.in_percent),
    }
    value, write = readers.get(check.limit.name, (None, str))
    return "" if value is None else write(value)


def _judgement_to_dict(judgement: Judgement) -> dict[str, Any]:
    return {
        "verdict": judgement.verdict,
        "headline": headline(judgement),
        "candidate": _record_to_dict(judgement.candidate),
        "baseline": _record_to_dict(judgement.baseline) if judgement.baseline is not None else None,
        "checks": [_check_to_dict(check) for check in judgement.checks],
        "effort": asdict(judgement.effort),
        "why": {**asdict(judgement.why), "sentences": list(judgement.why.sentences())},
        "warnings": list(judgement.warnings),
    }


def _check_to_dict(check: Check) -> dict[str, Any]:
    estimate = None
    if check.estimate is not None:
        # An interval that is open upwards has no end that JSON could hold.
        numbers = {name: getattr(check.estimate, name) for name in ("value", "low", "high")}
        estimate = {name: None if abs(value) > 1e300 else value for name, value in numbers.items()}
    return {
        "name": check.limit.name,
        "limit": check.limit.text,
        "level": check.limit.level,
        "outcome": check.outcome,
        "estimate": estimate,
        "sentence": check.sentence,
    }


def _record_to_dict(record: Record) -> dict[str, Any]:
    kept = ("source", "model", "target", "kind", "runtime", "fingerprint", "size_bytes", "latency_p50_ms")
    more = ("latency_interval_ms", "macs", "parameters", "accuracy", "artifact_sha256")
    return {name: getattr(record, name) for name in (*kept, *more)}
