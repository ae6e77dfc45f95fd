"""A cut of a layer that was measured to be slower than the layer is named with both times, unless it was chosen."""

from __future__ import annotations

from dataclasses import replace

from edgeprune.bench.layer_cost import LayerCost, LayerCosts
from edgeprune.contracts import Limits, Outcome, Problem
from edgeprune.network.groups import Group, Layer, Structure
from edgeprune.run.slower import slower_cuts
from edgeprune.verdict.result import SlowerCut

# Four convolutions at 28x28 in ONNX Runtime, one thread: 62 channels take longer than 64.
OVER_OUTPUTS = ((46, 1.46), (48, 1.11), (49, 1.75), (62, 2.44), (64, 2.00))


def problem() -> Problem:
    groups = (Group("a", 64, ()), Group("b", 64, ()))
    layers = (
        Layer("conv", "conv", 1, 1, "a", "b", (("a", 64),), (("b", 64),)),
        Layer("depthwise", "depthwise", 1, 1, "b", "b", (("b", 64),), (("b", 64),), apart=True),
        Layer("unmeasured", "linear", 1, 1, "b", None, (("b", 64),), ((None, 10),)),
    )
    costs = {
        "conv": LayerCost(OVER_OUTPUTS, ((32, 2.05), (60, 2.10), (64, 2.00))),
        "depthwise": LayerCost(((32, 0.9), (62, 1.2), (64, 1.0))),
    }
    outcome = Outcome(3.0, (3.0, 3.0), 1, 1, 1)
    scores = {"a": (1.0,) * 64, "b": (1.0,) * 64}
    return Problem(Structure(groups, (), layers), scores, Limits(2.0), outcome, costs=LayerCosts(costs, 0.0))


def test_slower_cuts_are_named_with_both_times() -> None:
    assert slower_cuts(problem(), {"b": 48}) == (
        SlowerCut("conv", 64, 62, 2.44, 2.00),
        SlowerCut("conv", 60, 64, 2.10, 2.00),  # 32 is slower by less than the noise of a measurement
        SlowerCut("depthwise", 62, 62, 1.2, 1.0),
    )


def test_what_was_chosen_was_not_rejected() -> None:
    assert [cut.outputs for cut in slower_cuts(problem(), {"a": 64, "b": 62})] == [64]


def test_channels_that_nobody_can_cut_are_not_named() -> None:
    whole = problem()
    assert slower_cuts(replace(whole, structure=whole.structure.with_ranks_only()), {}) == ()
    (conv, *others) = whole.structure.layers
    bound = replace(conv, in_group=None, in_parts=((None, 64),))
    left = replace(whole, structure=replace(whole.structure, layers=(bound, *others)))
    assert [cut.inputs for cut in slower_cuts(left, {"b": 48})] == [64, 62]


def test_without_measured_layers_nothing_is_known() -> None:
    assert slower_cuts(replace(problem(), costs=None), {}) == ()
