"""Says what changed between baseline and candidate: layers, kept units, versions, clocks and throttling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from edgeprune.bench.measurement import Measurement
from edgeprune.verdict.record import Record
from edgeprune.verdict.wording import in_bytes, in_ms, signed, significant

_MOST_LAYERS = 8
_SAME_CLOCK = 0.02
_BUSY = 0.15
_WARMER_C = 3.0


@dataclass(frozen=True)
class LayerChange:
    """One layer before and after; None where it was not there, or where nothing says."""

    name: str
    before_ms: float | None
    after_ms: float | None
    before_bytes: int | None
    after_bytes: int | None

    @property
    def more_ms(self) -> float:
        """Milliseconds that came on top."""
        return (self.after_ms or 0.0) - (self.before_ms or 0.0)

    @property
    def more_bytes(self) -> int:
        """Bytes of weights that came on top."""
        return (self.after_bytes or 0) - (self.before_bytes or 0)


@dataclass(frozen=True)
class Why:
    """What changed; `facts` are the name, the text before and the text after of each version and fact of the board.

    `layers` are the ones that changed most, and `other_layers` sums the rest. `board` says in sentences what the
    board did while it measured.
    """

    layers: tuple[LayerChange, ...] = ()
    other_layers: LayerChange | None = None
    allocation: tuple[tuple[str, int | None, int | None], ...] = ()
    facts: tuple[tuple[str, str, str], ...] = ()
    board: tuple[str, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.layers or self.allocation or self.facts or self.board)

    def sentences(self) -> tuple[str, ...]:
        """Return the main changes, one sentence each."""
        layers = [_layer_sentence(layer) for layer in self.layers[:3] if layer.more_ms or layer.more_bytes]
        kept = [
            f"Group {name} keeps {_units(after)}, {_units(before)} before."
            for name, before, after in self.allocation[:3]
        ]
        facts = [f"{name} is {after or 'unknown'}, {before or 'unknown'} before." for name, before, after in self.facts]
        return (*layers, *kept, *facts, *self.board)


def explain(candidate: Record, baseline: Record | None) -> Why:
    """Compare both records; without a baseline only the candidate's slowest layers and its board are known."""
    changes = _layer_changes(candidate, baseline)
    shown, rest = changes[:_MOST_LAYERS], changes[_MOST_LAYERS:]
    return Why(
        layers=tuple(shown),
        other_layers=_sum(rest) if rest else None,
        allocation=_allocation(candidate, baseline) if baseline is not None else (),
        facts=_facts(candidate, baseline) if baseline is not None else (),
        board=_board(candidate, baseline),
    )


def _layer_changes(candidate: Record, baseline: Record | None) -> list[LayerChange]:
    before_ms, before_bytes = (baseline.layers_ms, baseline.layer_bytes) if baseline is not None else ({}, {})
    names = dict.fromkeys([*before_ms, *candidate.layers_ms, *before_bytes, *candidate.layer_bytes])
    changes = [
        LayerChange(
            name,
            before_ms.get(name),
            candidate.layers_ms.get(name),
            before_bytes.get(name),
            candidate.layer_bytes.get(name),
        )
        for name in names
    ]
    if baseline is None:
        return sorted(changes, key=lambda change: (-(change.after_ms or 0.0), -(change.after_bytes or 0)))
    most_ms = max((abs(change.more_ms) for change in changes), default=0.0) or 1.0
    most_bytes = max((abs(change.more_bytes) for change in changes), default=0) or 1
    weight = {c.name: abs(c.more_ms) / most_ms + abs(c.more_bytes) / most_bytes for c in changes}
    return sorted((c for c in changes if weight[c.name]), key=lambda change: -weight[change.name])


def _sum(changes: list[LayerChange]) -> LayerChange:
    return LayerChange(
        f"{len(changes)} others together",
        sum(change.before_ms or 0.0 for change in changes),
        sum(change.after_ms or 0.0 for change in changes),
        sum(change.before_bytes or 0 for change in changes),
        sum(change.after_bytes or 0 for change in changes),
    )


def _allocation(candidate: Record, baseline: Record) -> tuple[tuple[str, int | None, int | None], ...]:
    before, after = baseline.allocation, candidate.allocation
    if not before or not after:
        return ()
    names = dict.fromkeys([*before, *after])
    return tuple((name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name))


def _facts(candidate: Record, baseline: Record) -> tuple[tuple[str, str, str], ...]:
    """Return versions and facts of the board that are known on both sides and differ."""
    before, after = _flat(baseline), _flat(candidate)
    shared = [name for name in after if name in before]
    return tuple((name, before[name], after[name]) for name in shared if before[name] != after[name])


def _flat(record: Record) -> dict[str, str]:
    environment: Mapping[str, Any] = record.measurement.environment if record.measurement is not None else {}
    facts = {f"board: {name}": str(value) for name, value in environment.items() if not name.startswith("runtime")}
    return {"runtime": record.runtime, **{f"version: {name}": text for name, text in record.versions.items()}, **facts}


def _board(candidate: Record, baseline: Record | None) -> tuple[str, ...]:
    """Return what clocks, heat and other processes did during both measurements."""
    after = candidate.measurement
    if after is None:
        return ()
    sentences = [*_throttled("the candidate", after), *_busy("the candidate", after)]
    before = baseline.measurement if baseline is not None else None
    if before is None:
        return tuple(sentences)
    sentences += [*_throttled("the baseline", before), *_busy("the baseline", before)]
    clocks = _middle(before, "clock_mhz"), _middle(after, "clock_mhz")
    if clocks[0] and clocks[1] and abs(clocks[1] / clocks[0] - 1) > _SAME_CLOCK:
        sentences.append(
            f"The clock ran at {clocks[1]:.0f} MHz for the candidate, {clocks[0]:.0f} MHz for the baseline."
        )
    heat = _middle(before, "temperature_c"), _middle(after, "temperature_c")
    if heat[0] is not None and heat[1] is not None and abs(heat[1] - heat[0]) > _WARMER_C:
        sentences.append(f"The board was at {heat[1]:.0f} °C for the candidate, {heat[0]:.0f} °C for the baseline.")
    return tuple(sentences)


def _throttled(whose: str, measurement: Measurement) -> list[str]:
    looks = [block.telemetry.get("throttled") or () for run in measurement.runs for block in run.blocks]
    reasons = sorted({str(reason) for look in looks for reason in look})
    if not reasons:
        return []
    count = sum(map(bool, looks))
    return [f"The board slowed itself down ({', '.join(reasons)}) in {count} of {len(looks)} blocks of {whose}."]


def _busy(whose: str, measurement: Measurement) -> list[str]:
    loads = [load for load in _values(measurement, "other_load") if load > _BUSY]
    if not loads:
        return []
    blocks = sum(len(run.blocks) for run in measurement.runs)
    return [f"Other processes kept up to {max(loads):.1f} cores busy in {len(loads)} of {blocks} blocks of {whose}."]


def _middle(measurement: Measurement, key: str) -> float | None:
    values = _values(measurement, key)
    return median(values) if values else None


def _values(measurement: Measurement, key: str) -> list[float]:
    found = (block.telemetry.get(key) for run in measurement.runs for block in run.blocks)
    return [float(value) for value in found if value is not None]


def _layer_sentence(layer: LayerChange) -> str:
    parts = []
    if layer.before_ms is not None and layer.after_ms is not None:
        ms = signed(layer.more_ms, 3)
        parts.append(f"{ms} ms ({significant(layer.before_ms, 3)} to {significant(layer.after_ms, 3)} ms)")
    elif layer.after_ms is not None:
        parts.append(f"{in_ms(layer.after_ms)}, not there before")
    elif layer.before_ms is not None:
        parts.append(f"gone, {in_ms(layer.before_ms)} before")
    if layer.more_bytes:
        direction = "more" if layer.more_bytes > 0 else "less"
        parts.append(f"{in_bytes(abs(layer.more_bytes))} {direction} weights")
    return f"Layer {layer.name}: {', '.join(parts)}."


def _units(count: int | None) -> str:
    return "no units" if count is None else f"{count} units"
