"""A layer is factorised only where that is faster on every target: both times, measured, and what came of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class _Times:
    """What a layer and its chain take alone on a target."""

    target: str
    layer_ms: float
    chain_ms: float

    @property
    def slowness(self) -> float:
        """How much of the layer's time the chain takes."""
        return self.chain_ms / self.layer_ms


def faster_ranks(bench: Workbench, problem: Problem) -> Problem:
    """Return the problem with those ranks only whose chains are faster than their layer on every target, alone.

    Every candidate is put on the disk with both times. A layer without such a rank stays whole; raises UsageError
    where nothing else can be cut.
    """
    structure, costs = problem.structure, _costs_by_target(bench, problem)
    if not costs or not structure.factorisations:
        return problem
    if not bench.folder.trials(STAGE):
        for candidate in candidates(structure.factorisations, costs):
            bench.folder.append_trial(candidate)
    counts = {found.group: _faster(found, costs) for found in structure.factorisations}
    groups = tuple(group for group in structure.groups if counts.get(group.name, (group.size,)))
    slower = sum(not faster for faster in counts.values())
    bench.progress.say(f"{len(counts) - slower} of {len(counts)} layers are faster as chains on {' and '.join(costs)}")
    if not groups:
        raise UsageError(f"No layer of this network gets faster as a chain: {_nearest(structure, costs)}.")
    limited = tuple(_limited(group, counts) for group in groups)
    return replace(problem, structure=replace(structure, groups=limited))


def candidates(factorisations: Sequence[Factorisation], costs: Mapping[str, LayerCosts]) -> list[dict[str, Any]]:
    """Return every measured chain beside its layer, target by target, as lines for `trials.jsonl`."""
    return [
        {
            "stage": STAGE,
            "layer": found.layer,
            "scheme": found.scheme,
            "rank": list(found.ranks[count - 1]),
            **asdict(times),
            "rejected": "" if times.slowness < 1 else TOO_SLOW,
        }
        for found in factorisations
        for count, _ in found.chains
        for times in _times(found, count, costs)
    ]


def ranked_layers(bench: Workbench, problem: Problem, allocation: Allocation) -> tuple[RankedLayer, ...]:
    """Return what became of each layer that has ranks, with its spectra before and after the training."""
    saved, costs = bench.folder.recall(_SHAPED) or {}, _costs_by_target(bench, problem)
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
        line = _last_line(own, one, kept)
        ranked = _ranked_layer(one, kept, line, costs, trained=tuple(saved.get(one.group, ())))
        free = any(group.name == one.group for group in problem.structure.groups)
        is_slower = kept == len(one.ranks) and (line is not None or not free)
        found.append(replace(ranked, state="slower") if is_slower else ranked)
    return tuple(found)


def _last_line(lines: Sequence[Mapping[str, Any]], one: Factorisation, kept: int) -> Mapping[str, Any] | None:
    """What was measured at its allocated width of the rank that was taken, or rejected where none was."""
    if kept < len(one.ranks):
        own = [line for line in lines if tuple(line["rank"]) == one.ranks[kept - 1]]
        return max(own, key=lambda line: line["chain_ms"] / line["layer_ms"], default=None)
    return next((line for line in reversed(lines) if line["rejected"]), None)


def _ranked_layer(
    one: Factorisation,
    kept: int,
    line: Mapping[str, Any] | None,
    costs: Mapping[str, LayerCosts],
    trained: tuple[float, ...],
) -> RankedLayer:
    """Return a layer factorised or left whole; `line` is what was measured of it at its allocated width."""
    shown = kept if kept < len(one.ranks) else _fastest(one, costs)
    times = _slowest(one, shown, costs) if costs else None
    latest = trained or one.energies
    return RankedLayer(
        layer=one.layer,
        scheme=one.scheme,
        state="factorised" if kept < len(one.ranks) else "whole",
        rank=tuple(line["rank"]) if line else one.ranks[shown - 1],
        units=kept,
        target=line["target"] if line else times.target if times else "",
        layer_ms=line["layer_ms"] if line else times.layer_ms if times else None,
        chain_ms=line["chain_ms"] if line else times.chain_ms if times else None,
        kept_energy=sum(latest[:kept]) / (sum(latest) or 1.0),
        energies=_rounded(one.energies),
        trained_energies=_rounded(trained),
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


def _costs_by_target(bench: Workbench, problem: Problem) -> dict[str, LayerCosts]:
    """Return the measured layers by the name of their target; nothing where latency is not limited."""
    benches = (bench, *bench.others)
    measured = (problem.costs, *problem.other_costs)
    return {one.job.target.name: costs for one, costs in zip(benches, measured, strict=False) if costs is not None}


def _times(found: Factorisation, count: int, costs: Mapping[str, LayerCosts]) -> list[_Times]:
    return [
        _Times(target, own.layers[found.layer].whole_ms, sum(own.chains[found.layer][count]))
        for target, own in costs.items()
    ]


def _slowest(found: Factorisation, count: int, costs: Mapping[str, LayerCosts]) -> _Times:
    """The times on the target on which the chain gains least."""
    return max(_times(found, count, costs), key=lambda times: times.slowness)


def _faster(found: Factorisation, costs: Mapping[str, LayerCosts]) -> tuple[int, ...]:
    """The counts whose chains were measured to be faster than the layer on every target."""
    return tuple(count for count, _ in found.chains if _slowest(found, count, costs).slowness < 1)


def _limited(group: Group, counts: Mapping[str, tuple[int, ...]]) -> Group:
    return replace(group, counts=(*counts[group.name], group.size)) if group.name in counts else group


def _fastest(found: Factorisation, costs: Mapping[str, LayerCosts]) -> int:
    if not costs:
        return found.chains[0][0]
    return min((count for count, _ in found.chains), key=lambda count: _slowest(found, count, costs).slowness)


def _nearest(structure: Structure, costs: Mapping[str, LayerCosts]) -> str:
    """The chain that comes nearest to its layer, with both times."""
    fastest = [(found, _fastest(found, costs)) for found in structure.factorisations]
    best, count = min(fastest, key=lambda one: _slowest(one[0], one[1], costs).slowness)
    times = _slowest(best, count, costs)
    return (
        f"{best.layer} takes {times.layer_ms:.3g} ms whole and {times.chain_ms:.3g} ms at rank "
        f"{'x'.join(map(str, best.ranks[count - 1]))} on {times.target}. Choose a method that prunes channels, or "
        "another scheme"
    )
