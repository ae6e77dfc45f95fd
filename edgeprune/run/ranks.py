"""A layer is factorised only where that is faster on the target: both times, measured, and what came of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from edgeprune.contracts import Context
from edgeprune.errors import UsageError
from edgeprune.network.steps import allocated_widths
from edgeprune.network.structure import network_structure
from edgeprune.verdict.result import RankedLayer

if TYPE_CHECKING:
    from torch import nn

    from edgeprune.bench.layer_cost import LayerCosts
    from edgeprune.contracts import Method, Problem
    from edgeprune.network.groups import Allocation, Factorisation, Group, Structure
    from edgeprune.run.workbench import Workbench

STAGE = "ranks"
TOO_SLOW = "the chain is not faster than the layer"
_SHAPED = "energies-shaped"


def faster_ranks(bench: Workbench, problem: Problem) -> Problem:
    """Return the problem with those ranks only whose chains are faster than their layer, as measured alone.

    Every candidate is put on the disk with both times. A layer without such a rank stays whole; raises UsageError
    where nothing else can be cut.
    """
    structure, costs = problem.structure, problem.costs
    if costs is None or not structure.factorisations:
        return problem
    if not bench.folder.trials(STAGE):
        for candidate in candidates(structure.factorisations, costs):
            bench.folder.append_trial(candidate)
    counts = {found.group: _faster(found, costs) for found in structure.factorisations}
    groups = tuple(group for group in structure.groups if counts.get(group.name, (group.size,)))
    slower = sum(not faster for faster in counts.values())
    bench.progress.say(
        f"{len(counts) - slower} of {len(counts)} layers are faster as chains on {bench.job.target.name}"
    )
    if not groups:
        raise UsageError(f"No layer of this network gets faster as a chain: {_nearest(structure, costs)}.")
    limited = tuple(_limited(group, counts) for group in groups)
    return replace(problem, structure=replace(structure, groups=limited))


def candidates(factorisations: Sequence[Factorisation], costs: LayerCosts) -> list[dict[str, Any]]:
    """Return every measured chain beside its layer, as lines for `trials.jsonl`."""
    return [
        {
            "stage": STAGE,
            "layer": found.layer,
            "scheme": found.scheme,
            "rank": list(found.ranks[count - 1]),
            "layer_ms": costs.layers[found.layer].whole_ms,
            "chain_ms": sum(costs.chains[found.layer][count]),
            "rejected": "" if count in _faster(found, costs) else TOO_SLOW,
        }
        for found in factorisations
        for count, _ in found.chains
    ]


def ranked_layers(bench: Workbench, problem: Problem, allocation: Allocation) -> tuple[RankedLayer, ...]:
    """Return what became of each layer that has ranks, with its spectra before and after the training."""
    saved = bench.folder.recall(_SHAPED) or {}
    widths = allocated_widths(problem.structure, allocation)
    lines = [line for line in bench.folder.trials(STAGE) if "inputs" in line]
    found = []
    for one in problem.structure.factorisations:
        kept = allocation.get(one.group, len(one.ranks))
        own = [
            line
            for line in lines
            if (line["layer"], (line["inputs"], line["outputs"])) == (one.layer, widths[one.layer])
        ]
        found.append(_ranked_layer(one, problem, kept, _last_line(own, one, kept), tuple(saved.get(one.group, ()))))
    return tuple(found)


def _last_line(lines: Sequence[Mapping[str, Any]], one: Factorisation, kept: int) -> Mapping[str, Any] | None:
    """What was measured at its allocated width of the rank that was taken, or rejected where none was."""
    if kept < len(one.ranks):
        return next((line for line in lines if tuple(line["rank"]) == one.ranks[kept - 1]), None)
    return next((line for line in reversed(lines) if line["rejected"]), None)


def _ranked_layer(
    one: Factorisation, problem: Problem, kept: int, line: Mapping[str, Any] | None, after: tuple[float, ...]
) -> RankedLayer:
    """What became of one layer; `line` is what was measured of it at its allocated width."""
    free = any(group.name == one.group for group in problem.structure.groups)
    state: Literal["factorised", "whole", "slower"] = "whole" if free and line is None else "slower"
    state = "factorised" if kept < len(one.ranks) else state
    shown, costs = kept if state == "factorised" else _fastest(one, problem.costs), problem.costs
    whole_ms = costs.layers[one.layer].whole_ms if costs else None
    chain_ms = sum(costs.chains[one.layer][shown]) if costs else None
    latest = after or one.energies
    return RankedLayer(
        layer=one.layer,
        scheme=one.scheme,
        state=state,
        rank=tuple(line["rank"]) if line else one.ranks[shown - 1],
        units=kept,
        layer_ms=line["layer_ms"] if line else whole_ms,
        chain_ms=line["chain_ms"] if line else chain_ms,
        kept_energy=sum(latest[:kept]) / (sum(latest) or 1.0),
        energies=_rounded(one.energies),
        trained_energies=_rounded(after),
        width=(line["inputs"], line["outputs"]) if line else None,
        group=one.group,
    )


def note_energies(bench: Workbench, method: Method, shaped: nn.Module) -> None:
    """Put on the disk how the energy of each layer with ranks is spread in the network that the method shaped."""

    def compute() -> dict[str, list[float]]:
        inputs, network = bench.job.example_inputs, copy.deepcopy(shaped)
        coupled = network_structure(network, inputs)
        units = method.units(Context(network, inputs, coupled, bench.job.data, bench.job.choices.seed))
        return {found.group: list(found.energies) for found in units.factorisations}

    with bench.watch("training"):
        bench.folder.remember(_SHAPED, compute)


def _rounded(energies: Sequence[float]) -> tuple[float, ...]:
    """As many digits as a figure shows, so that the result stays a file that people open."""
    return tuple(float(f"{value:.4g}") for value in energies)


def left_whole(structure: Structure) -> tuple[str, ...]:
    """Return a warning for each layer that could not be factorised."""
    return tuple(
        f"The layer {item.name} stays whole: {item.reason}."
        for item in structure.quarantined
        if item.operation == "factorise"
    )


def _faster(found: Factorisation, costs: LayerCosts) -> tuple[int, ...]:
    """The counts whose chains were measured to be faster than the layer."""
    layer_ms = costs.layers[found.layer].whole_ms
    return tuple(count for count, _ in found.chains if sum(costs.chains[found.layer][count]) < layer_ms)


def _limited(group: Group, counts: Mapping[str, tuple[int, ...]]) -> Group:
    return replace(group, counts=(*counts[group.name], group.size)) if group.name in counts else group


def _fastest(found: Factorisation, costs: LayerCosts | None) -> int:
    if costs is None:
        return found.chains[0][0]
    return min((count for count, _ in found.chains), key=lambda count: sum(costs.chains[found.layer][count]))


def _nearest(structure: Structure, costs: LayerCosts) -> str:
    """The chain that comes nearest to its layer, with both times."""
    lines = candidates(structure.factorisations, costs)
    best = min(lines, key=lambda line: line["chain_ms"] / line["layer_ms"])
    return (
        f"{best['layer']} takes {best['layer_ms']:.3g} ms whole and {best['chain_ms']:.3g} ms at rank "
        f"{'x'.join(map(str, best['rank']))}. Choose a method that prunes channels, or another scheme"
    )
