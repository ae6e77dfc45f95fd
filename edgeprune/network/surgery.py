"""Carries out a plan on a copy of a network: the only code that changes shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import fx, nn

from edgeprune.errors import ExportError, ModelError, UnknownNameError
from edgeprune.network.attention import convert_attention
from edgeprune.network.attributes import follow_shapes
from edgeprune.network.coupling.ride import Trace, trace_network
from edgeprune.network.coupling.solve import Solution
from edgeprune.network.cutting import (
    Network,
    Positions,
    copied,
    give_own_tensors,
    named_tensors,
    positions_of,
    removed_units,
    tensors_without,
)
from edgeprune.network.factorisation.applying import factorised
from edgeprune.network.following import FixedSizeError, Removal, first_failure, follow_sizes, refusal
from edgeprune.network.graph_export import exported_networks
from edgeprune.network.graph_sizes import NodeRecord, patch_graph, trace_graph
from edgeprune.network.groups import Group, Structure
from edgeprune.network.merging import merge_readers, merges
from edgeprune.network.plan import Plan, PruneChannels
from edgeprune.network.selection import allowed_counts, select_units
from edgeprune.network.structure import structure_and_solution

Via = Literal["modules", "export", "auto"]


def apply(plan: Plan, model: nn.Module, example_inputs: Any, via: Via = "modules") -> nn.Module:
    """Cut a copy of the network as the plan says; the network itself stays untouched.

    Via "modules" the copy is made of the network's own classes. Via "export" it is the graph that PyTorch's
    tracer makes of the network, whose written sizes follow any cut. Via "auto" it is the first, or else the second.

    Raises PlanError for a plan that breaks a constraint, or that changes a size which the network's own code
    writes as a number; ModelError where the network fails on the example inputs or cannot be copied;
    ExportError where that tracer is asked for and refuses.
    """
    if via not in ("modules", "export", "auto"):
        raise UnknownNameError("way to cut (via)", via, ("modules", "export", "auto"))
    for stage in plan.stages():
        if stage.factorisations:
            model = factorised(stage.factorisations, model, example_inputs)
        else:
            model = _apply_cuts(stage, model, example_inputs, via)
    return model


def _apply_cuts(plan: Plan, model: nn.Module, example_inputs: Any, via: Via) -> nn.Module:
    """Carry out edits on channels."""
    if isinstance(model, fx.GraphModule) and via != "export":
        trace, records = trace_graph(model, example_inputs)
        seen = look(trace)
        source = merged(plan, model, seen.structure.groups)
        return _cut_graph(plan, source if source is not model else copied(model), seen, records)
    seen = look(trace_network(model, example_inputs))
    removed = removed_units(plan, seen.structure.groups)
    model = merged(plan, model, seen.structure.groups)
    if via == "export":
        return _apply_to_graph(plan, model, example_inputs, seen)
    try:
        return _cut_modules(removed, model, seen)
    except FixedSizeError:
        if via == "modules":
            raise
        return _apply_to_graph(plan, model, example_inputs, seen)


def merged(plan: Plan, model: Network, groups: Sequence[Group]) -> Network:
    """The network itself where a plan merges nothing, else a copy whose readers have been summed.

    The units that no weight reads any more are still there; raises PlanError as `apply` does.
    """
    removed_units(plan, groups)
    if not merges(plan):
        return model
    summed = copied(model)
    merge_readers(summed, plan, groups)
    return summed


def fixed_size(model: nn.Module, example_inputs: Any) -> str:
    """What refuses a plan that cuts every group in the network's own classes, "" where nothing does."""
    if isinstance(model, fx.GraphModule):
        return ""
    seen = look(trace_network(model, example_inputs))
    fewer = {group.name: removed_half(group) for group in seen.structure.groups}
    try:
        _cut_modules(fewer, model, seen)
    except FixedSizeError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Look:
    """What one run told: the record, the public data, and the classes of atoms behind it."""

    trace: Trace
    structure: Structure
    solution: Solution


def look(trace: Trace) -> Look:
    """Solve a record once for all that cutting asks of it."""
    return Look(trace, *structure_and_solution(trace))


def _cut_modules(removed: Mapping[str, tuple[int, ...]], model: nn.Module, seen: Look) -> nn.Module:
    cut = cut_copy(model, positions_of(seen.structure.groups, removed, None), seen.structure)
    follow_sizes(cut, model, seen.trace, removal(seen, removed))
    return cut


def _apply_to_graph(plan: Plan, model: nn.Module, example_inputs: Any, first: Look) -> nn.Module:
    """Cut the exported graph by the names that the groups of the network have there."""
    graph, trace, records = _traced_export(model, example_inputs, first.trace)
    seen = look(trace)
    names = _counterparts(first.structure.groups, seen.structure.groups)
    missing = [edit.group for edit in plan.cuts if edit.group not in names]
    if missing:
        raise ExportError(f"Group {missing[0]!r} is not the same in the exported graph; leave it whole.")
    edits = tuple(PruneChannels(names[edit.group], edit.keep) for edit in plan.cuts)
    return _cut_graph(Plan(edits), graph, seen, records)


def _traced_export(
    model: nn.Module, example_inputs: Any, trace: Trace
) -> tuple[fx.GraphModule, Trace, dict[str, NodeRecord]]:
    """The exported graph, for any batch size if that one runs, and what it did on the example inputs."""
    sizes = {size for step in trace.steps for shape in step.shapes for size in shape}
    complaint: ModelError | None = None
    for graph in exported_networks(model, example_inputs, sizes):
        try:
            return graph, *trace_graph(graph, example_inputs)
        except ModelError as error:
            complaint = error
    raise ExportError(f"The exported graph does not run: {complaint}") from complaint


def _counterparts(groups: Sequence[Group], others: Sequence[Group]) -> dict[str, str]:
    """The name in the graph of each group; a tensor that several layers share may have another name there."""
    by_name = {group.name: group for group in others}
    by_place = dict(zip((group.name for group in groups), others, strict=False))
    found: dict[str, str] = {}
    for group in groups:
        for other in (by_name.get(group.name), by_place.get(group.name)):
            if other is not None and _owned(other) == _owned(group):
                found.setdefault(group.name, other.name)
    return found


def _owned(group: Group) -> list[tuple[int, str, tuple[tuple[int, ...], ...]]]:
    return sorted((piece.dim, piece.role, piece.index) for piece in group.slices)


def _cut_graph(plan: Plan, cut: fx.GraphModule, seen: Look, records: dict[str, NodeRecord]) -> nn.Module:
    """Cut a graph in place; only its tensors may still be those of the network."""
    removed = removed_units(plan, seen.structure.groups)
    positions = positions_of(seen.structure.groups, removed, None)
    before = {name: tuple(tensor.shape) for name, tensor in named_tensors(cut).items()}
    give_own_tensors(cut, tensors_without(cut, positions))
    _follow(cut, positions, seen.structure, before)
    gone = removal(seen, removed)
    patch_graph(cut, records, seen.trace, gone.dead)
    failure = first_failure(cut, seen.trace, gone.dead)
    if failure is not None:
        raise refusal(seen.trace, gone, failure) from failure.error
    return cut


def removed_half(group: Group) -> tuple[int, ...]:
    """About half of the units, as the constraints of the group allow."""
    kept = min(allowed_counts(group), key=lambda count: abs(2 * count - group.size))
    stay = set(select_units(group, (0.0,) * group.size, kept))
    return tuple(unit for unit in range(group.size) if unit not in stay)


def removal(seen: Look, removed: Mapping[str, Sequence[int]]) -> Removal:
    """The atoms that go, and the group that each belongs to."""
    bundles = [bundle for bundle in seen.solution.bundles if len(bundle.classes) > 1]
    owner = np.full(seen.solution.classes.count, -1, np.int64)
    for position, (group, bundle) in enumerate(zip(seen.structure.groups, bundles, strict=True)):
        owner[bundle.classes[list(removed.get(group.name, ()))]] = position
    owner_of_atom = owner[seen.solution.classes.of]
    return Removal(owner_of_atom >= 0, owner_of_atom, tuple(group.name for group in seen.structure.groups))


def cut_copy(model: nn.Module, positions: Positions, structure: Structure) -> nn.Module:
    """A copy without these positions, whose PyTorch layers know their new sizes."""
    before = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    cut = copied(model, tensors_without(model, positions))
    _follow(cut, positions, structure, before)
    return cut


def _follow(cut: nn.Module, positions: Positions, structure: Structure, before: dict[str, tuple[int, ...]]) -> None:
    """Tell PyTorch's layers their new sizes, in place."""
    carried = frozenset(piece.tensor for group in structure.groups for piece in group.slices if piece.role == "carrier")
    follow_shapes(cut, carried, before)
    convert_attention(cut, frozenset(name for name, _ in positions))
