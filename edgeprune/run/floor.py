"""What the smallest network that was measured still spends its time on, and what that means for a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeprune.bench.layer_cost import LayerCosts

if TYPE_CHECKING:
    from edgeprune.network.groups import Allocation, Layer, Structure

Parts = tuple[tuple[str | None, int], ...]
Verdict = Literal["satisfiable", "not satisfiable", "inconclusive"]


@dataclass(frozen=True)
class FloorPart:
    """Milliseconds of the floor that one cause explains; `layers` are those that it is about, longest first."""

    what: str
    latency_ms: float
    layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class BudgetVerdict:
    """Whether a latency can be reached by cutting, the nearest one that can, and what stands in the way."""

    limit_ms: float
    verdict: Verdict
    nearest_ms: float
    sentence: str


def floor_parts(
    structure: Structure, costs: LayerCosts, allocation: Allocation, measured_ms: float
) -> tuple[FloorPart, ...]:
    """Divide the measured latency of the smallest network among its causes, largest first.

    Layers count as measured alone. Where these add up to more than the network takes as a whole, because they
    overlap in it, all are scaled to fit; where to less, the rest lies between them.
    """
    kept = {group.name: allocation.get(group.name, group.size) / group.size for group in structure.groups}
    fixed: dict[str, float] = {}
    work: dict[str, float] = {}
    stuck: dict[str, float] = {}
    for layer in structure.layers:
        cost = costs.layers.get(layer.name)
        if cost is None:
            continue
        inputs, outputs = _channels(layer.in_parts, kept), _channels(layer.out_parts, kept)
        layer_ms = cost.ms(inputs, outputs)
        if not _is_cut(layer, kept):
            fixed[layer.name] = layer_ms
            continue
        work[layer.name] = min(cost.whole_ms * _work_left(layer, kept), layer_ms)
        stuck[layer.name] = layer_ms - work[layer.name]
    causes = [
        FloorPart("the engine, once an inference", costs.floor_ms),
        _part("layers that nothing can cut", fixed),
        _part("memory traffic and start of the layers that were cut", stuck),
        _part("arithmetic of the layers that were cut", work),
    ]
    return _fitted(causes, measured_ms)


def judge_budget(
    limit_ms: float, floor_ms: float, interval_ms: tuple[float, float], parts: Sequence[FloorPart]
) -> BudgetVerdict:
    """Compare a limit with the measured floor and its interval."""
    low, high = interval_ms
    if high <= limit_ms:
        sentence = f"{limit_ms:.4g} ms can be reached: the smallest network that was measured takes {floor_ms:.4g} ms."
        return BudgetVerdict(limit_ms, "satisfiable", limit_ms, sentence)
    cause = max(parts, key=lambda part: part.latency_ms)
    why = f"{cause.latency_ms:.3g} ms of that is {cause.what}"
    why += f" ({', '.join(cause.layers[:3])})" if cause.layers else ""
    if low > limit_ms:
        sentence = (
            f"{limit_ms:.4g} ms cannot be reached by cutting channels: the smallest network that was measured takes "
            f"{floor_ms:.4g} ms; {why}. Ask for {high:.4g} ms or more."
        )
        return BudgetVerdict(limit_ms, "not satisfiable", high, sentence)
    sentence = (
        f"Whether {limit_ms:.4g} ms can be reached is not clear: the smallest network takes {low:.4g} to {high:.4g} ms."
    )
    return BudgetVerdict(limit_ms, "inconclusive", high, sentence)


def _fitted(causes: Sequence[FloorPart], measured_ms: float) -> tuple[FloorPart, ...]:
    total_ms = sum(part.latency_ms for part in causes)
    scale = min(1.0, measured_ms / total_ms) if total_ms else 1.0
    parts = [FloorPart(part.what, part.latency_ms * scale, part.layers) for part in causes]
    rest_ms = measured_ms - sum(part.latency_ms for part in parts)
    parts.append(FloorPart("between the layers: activations, additions, moves", max(rest_ms, 0.0)))
    return tuple(sorted(parts, key=lambda part: -part.latency_ms))


def _part(what: str, layers_ms: Mapping[str, float]) -> FloorPart:
    ordered = sorted(layers_ms, key=lambda name: -layers_ms[name])
    return FloorPart(what, sum(layers_ms.values()), tuple(ordered))


def _is_cut(layer: Layer, kept: Mapping[str, float]) -> bool:
    return any(kept.get(name or "", 1.0) < 1 for name, _ in (*layer.in_parts, *layer.out_parts))


def _work_left(layer: Layer, kept: Mapping[str, float]) -> float:
    """Return the part of its multiply-accumulates that a layer keeps."""
    outputs = _channels(layer.out_parts, kept) / _channels(layer.out_parts, {})
    if layer.kind == "depthwise":
        return outputs
    return outputs * _channels(layer.in_parts, kept) / _channels(layer.in_parts, {})


def _channels(parts: Parts, kept: Mapping[str, float]) -> int:
    return max(round(sum(channels * kept.get(name or "", 1.0) for name, channels in parts)), 1)
