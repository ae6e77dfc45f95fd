"""Reads the profile that a session of ONNX Runtime writes. Runs on the board: standard library of Python 3.8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_KERNEL = "_kernel_time"
# What the engine puts between the nodes of the graph.
_OWN_OPERATORS = ("ReorderInput", "ReorderOutput")
_OWN_NODES = ("gemm_input_reshape", "gemm_output_reshape")


def by_layer(events: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
    """Return milliseconds per inference by layer, of all runs but the first."""
    layers: dict[str, float] = {}
    runs = sum(event["name"] == "model_run" for event in events)
    first_done = min(event["ts"] + event["dur"] for event in events if event["name"] == "model_run")
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(_KERNEL) or event["ts"] < first_done:
            continue  # the first run also packs weights
        layer = _layer_of(event["name"][: -len(_KERNEL)], event["args"]["op_name"])
        layers[layer] = layers.get(layer, 0.0) + event["dur"] / 1000 / (runs - 1)
    return layers


def _layer_of(name: str, operator: str) -> str:
    """Nodes are called `layer` or `layer/Operator`, with `:2` on the second; the engine appends where it fuses."""
    if operator.startswith(_OWN_OPERATORS) or name.startswith(_OWN_NODES):
        return "(layout)"
    layer = name.partition("/")[0].partition(":")[0]
    return layer[: -len("_nchwc")] if layer.endswith("_nchwc") else layer
