"""A chain is measured again at the width that an allocation leaves its layer, before the whole network is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeprune.network.layer_shapes import layer_shapes
from edgeprune.network.steps import allocated_widths
from edgeprune.run.profiling import Profiler
from edgeprune.run.ranks import STAGE, TOO_SLOW

if TYPE_CHECKING:
    from edgeprune.bench.layer_shape import LayerShape
    from edgeprune.contracts import Problem
    from edgeprune.network.groups import Allocation, Factorisation
    from edgeprune.run.workbench import Workbench

_TOO_NARROW = "the layer is too narrow there for the rank"


@dataclass(frozen=True)
class _Candidate:
    """A factorised layer at its allocated width: the layer as one, and its chain; none where it is too narrow."""

    found: Factorisation
    kept: int
    whole: LayerShape
    chain: tuple[LayerShape, ...]


def slower_chains(bench: Workbench, problem: Problem, allocation: Allocation) -> Mapping[str, int]:
    """Return, by group, the kept units of those chains that are not faster than their layer at its allocated width.

    Every such pair is measured on every target and put on the disk with both times. Layers that keep all their channels
    have been judged before.
    """
    judged = _candidates(bench, problem, allocation)
    if problem.costs is None:  # nothing limits the latency, and a rank has but to fit
        return {one.found.group: one.kept for one in judged if not one.chain}
    if not judged:
        return {}
    lines = [line for one in (bench, *bench.others) for line in _measured(one, judged)]
    known = bench.folder.trials(STAGE)
    for line in lines:
        if line not in known:
            bench.folder.append_trial(line)
    rejected = {line["layer"] for line in lines if line["rejected"]}
    return {one.found.group: one.kept for one in judged if one.found.layer in rejected}


def _measured(bench: Workbench, judged: Sequence[_Candidate]) -> list[dict[str, Any]]:
    """Return what layers and chains take on one target, as lines for `trials.jsonl`."""
    shapes = [shape for one in judged for shape in ((one.whole, *one.chain) if one.chain else ())]
    with bench.watch("measuring"):
        table, _ = Profiler(bench.job.target, None, bench.progress).measure((), shapes)
    target = bench.job.target.name
    return [
        _line(one, target, table.ms(one.whole), sum(map(table.ms, one.chain))) if one.chain else _line(one, target)
        for one in judged
    ]


def without_ranks_from(problem: Problem, slower: Mapping[str, int]) -> Problem:
    """Return the problem without these ranks and the larger ones of their layers, which would be slower still."""
    groups = []
    for group in problem.structure.groups:
        least = slower.get(group.name, group.size)
        counts = tuple(count for count in group.counts if count < least)
        groups.append(replace(group, counts=(*counts, group.size)) if group.name in slower else group)
    left = tuple(group for group in groups if group.counts != (group.size,))
    return replace(problem, structure=replace(problem.structure, groups=left))


def _candidates(bench: Workbench, problem: Problem, allocation: Allocation) -> list[_Candidate]:
    widths = allocated_widths(problem.structure, allocation)
    thin = [found for found in problem.structure.factorisations if _kept(found, allocation) < len(found.ranks)]
    shapes = layer_shapes(bench.original, bench.job.example_inputs) if thin else {}
    judged = []
    for found in thin:
        whole, (inputs, outputs) = shapes[found.layer], widths[found.layer]
        if (inputs, outputs) != (whole.inputs, whole.outputs):
            kept = _kept(found, allocation)
            judged.append(
                _Candidate(found, kept, whole.with_channels(inputs, outputs), _chain(found, kept, inputs, outputs))
            )
    return judged


def _kept(found: Factorisation, allocation: Allocation) -> int:
    return allocation.get(found.group, len(found.ranks))


def _chain(found: Factorisation, kept: int, inputs: int, outputs: int) -> tuple[LayerShape, ...]:
    least_inputs, least_outputs = found.least[kept - 1]
    if inputs < least_inputs or outputs < least_outputs:
        return ()
    first, *middle, last = dict(found.chains)[kept]
    return (first.with_channels(inputs, first.outputs), *middle, last.with_channels(last.inputs, outputs))


def _line(one: _Candidate, target: str, layer_ms: float | None = None, chain_ms: float | None = None) -> dict[str, Any]:
    rejected = ""
    if layer_ms is None or chain_ms is None:
        rejected = _TOO_NARROW
    elif chain_ms >= layer_ms:
        rejected = TOO_SLOW
    return {
        "stage": STAGE,
        "layer": one.found.layer,
        "scheme": one.found.scheme,
        "rank": list(one.found.ranks[one.kept - 1]),
        "inputs": one.whole.inputs,
        "outputs": one.whole.outputs,
        "target": target,
        "layer_ms": layer_ms,
        "chain_ms": chain_ms,
        "rejected": rejected,
    }
