"""What the smallest network's time consists of, and the verdict on a budget."""

from __future__ import annotations

import pytest

from edgeprune.bench.layer_cost import LayerCost, LayerCosts
from edgeprune.network.groups import Group, Layer, Structure
from edgeprune.run.floor import FloorPart, floor_parts, judge_budget

FIXED = Layer("fixed", "conv", 1, 1, None, None, ((None, 8),), ((None, 8),))
CUT = Layer("cut", "conv", 1, 1, None, "g", ((None, 8),), (("g", 8),))
STRUCTURE = Structure((Group("g", 8, ()),), (), (FIXED, CUT))
# The cut layer takes 1 ms whole, and 0.4 ms with a quarter of its channels: 0.25 of arithmetic, 0.15 of something else.
COSTS = LayerCosts({"fixed": LayerCost(((8, 0.3),)), "cut": LayerCost(((2, 0.4), (8, 1.0)))}, floor_ms=0.1)


def parts_of(measured_ms: float) -> dict[str, float]:
    return {part.what.split()[0]: part.latency_ms for part in floor_parts(STRUCTURE, COSTS, {"g": 2}, measured_ms)}


def test_causes_add_up_to_what_was_measured() -> None:
    expected = {"the": 0.1, "layers": 0.3, "memory": 0.15, "arithmetic": 0.25, "between": 0.2}
    assert parts_of(1.0) == pytest.approx(expected)


def test_layers_that_overlap_are_scaled_to_fit() -> None:
    parts = parts_of(0.4)
    assert sum(parts.values()) == pytest.approx(0.4)
    assert parts["between"] == 0
    assert parts["layers"] == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("limit_ms", "verdict", "nearest_ms"),
    [(2.0, "satisfiable", 2.0), (0.9, "not satisfiable", 1.05), (1.0, "inconclusive", 1.05)],
)
def test_a_budget_is_judged_by_the_measured_interval(limit_ms: float, verdict: str, nearest_ms: float) -> None:
    parts = (FloorPart("layers that nothing can cut", 0.6, ("stem", "head")), FloorPart("the engine", 0.4))
    found = judge_budget(limit_ms, 1.0, (0.95, 1.05), parts)
    assert (found.verdict, found.nearest_ms) == (verdict, nearest_ms)
    if verdict == "not satisfiable":
        assert "0.6 ms of that is layers that nothing can cut (stem, head)" in found.sentence
        assert "Ask for 1.05 ms or more" in found.sentence
