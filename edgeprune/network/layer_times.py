"""What the layers of a network take by how many of their channels stay, from layers that were measured alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgeprune.bench.layer_cost import LayerCost, LayerCosts
from edgeprune.network.groups import Structure

Milliseconds = Callable[[float, float], float]  # by the parts of a layer's inputs and outputs that stay


def layer_milliseconds(structure: Structure, measured: LayerCosts | None) -> Mapping[str, Milliseconds]:
    """Return the milliseconds of each layer by the parts of its channels that stay; empty without measured layers.

    A layer that was not measured takes what the others take for as many multiply-accumulates.
    """
    costs = measured.layers if measured else {}
    known = [layer for layer in structure.layers if layer.name in costs]
    macs = sum(layer.macs for layer in known)
    per_mac = sum(costs[layer.name].whole_ms for layer in known) / macs if macs else 0.0
    found: dict[str, Milliseconds] = {}
    for layer in structure.layers if costs else ():
        if layer.name in costs:
            found[layer.name] = _measured(costs[layer.name])
        else:
            found[layer.name] = _estimated(layer.macs * per_mac)
    return found


def _measured(cost: LayerCost) -> Milliseconds:
    outputs = cost.over_outputs[-1][0]
    inputs = cost.over_inputs[-1][0] if cost.over_inputs else 0
    return lambda in_part, out_part: cost.ms(round(inputs * in_part), round(outputs * out_part))


def _estimated(whole_ms: float) -> Milliseconds:
    return lambda in_part, out_part: whole_ms * in_part * out_part
