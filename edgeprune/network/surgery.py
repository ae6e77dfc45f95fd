"""Carries out a plan on a copy of a network: the only code that changes shapes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import fx, nn

from edgeprune.errors import ExportError, ModelError, UnknownNameError
from edgeprune.network.attention import convert_attention
from edgeprune.network.attributes import follow_shapes
from edgeprune.network.coupling.ride import trace_network
from edgeprune.network.coupling.solve import Solution
from edgeprune.network.cutting import Positions, named_tensors, positions_of, remove_positions, removed_units
from edgeprune.network.following import FixedSizeError, dead_atoms, first_failure, follow_sizes, refusal
from edgeprune.network.graph_sizes import exported_network, patch_graph, trace_graph
from edgeprune.network.groups import Group, Structure
from edgeprune.network.plan import Plan, PruneChannels
from edgeprune.network.structure import structure_and_solution, structure_of

Via = Literal["modules", "export", "auto"]


def apply(plan: Plan, model: nn.Module, example_inputs: Any, via: Via = "modules") -> nn.Module:
    """Cut a copy of the network as the plan says; the network itself stays untouched.

    Via "modules" the copy is made of the network's own classes. Via "export" it is the graph that torch.export
    makes of the network, whose written sizes follow any cut. Via "auto" it is the first, or else the second.

    Raises PlanError for a plan that breaks a constraint, or that changes a size which the network's own code
    writes as a number; ModelError where the network fails on the example inputs or cannot be copied;
    ExportError where torch.export is asked for and refuses.
    """
    if via not in ("modules", "export", "auto"):
        raise UnknownNameError("way to cut (via)", via, ("modules", "export", "auto"))
    if via == "export":
        return _apply_to_graph(plan, model, example_inputs)
    try:
        return _apply_to_modules(plan, model, example_inputs)
    except FixedSizeError:
        if via == "modules":
            raise
        return _apply_to_graph(plan, model, example_inputs)


def _apply_to_modules(plan: Plan, model: nn.Module, example_inputs: Any) -> nn.Module:
    if isinstance(model, fx.GraphModule):
        return _cut_graph(plan, model, example_inputs)
    trace = trace_network(model, example_inputs)
    structure, solution = structure_and_solution(trace)
    removed = removed_units(plan, structure.groups)
    cut = cut_copy(model, positions_of(structure.groups, removed, None), structure)
    dead = dead_atoms(solution.classes.of, removed_classes(solution, structure, removed), solution.classes.count)
    follow_sizes(cut, model, trace, dead, example_inputs)
    return cut


def _apply_to_graph(plan: Plan, model: nn.Module, example_inputs: Any) -> nn.Module:
    """Cut the exported graph; the plan is checked against the groups of the network itself first."""
    groups = structure_of(trace_network(model, example_inputs)).groups
    removed_units(plan, groups)
    graph = exported_network(model, example_inputs)
    names = _counterparts(groups, structure_of(trace_graph(graph, example_inputs)[0]).groups)
    missing = [edit.group for edit in plan.edits if edit.group not in names]
    if missing:
        raise ExportError(f"Group {missing[0]!r} is not the same in the exported graph; leave it whole.")
    edits = tuple(PruneChannels(names[edit.group], edit.keep) for edit in plan.edits)
    return _cut_graph(Plan(edits), graph, example_inputs)


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


def _cut_graph(plan: Plan, graph: fx.GraphModule, example_inputs: Any) -> nn.Module:
    trace, records = trace_graph(graph, example_inputs)
    structure, solution = structure_and_solution(trace)
    removed = removed_units(plan, structure.groups)
    cut = cut_copy(graph, positions_of(structure.groups, removed, None), structure)
    dead = dead_atoms(solution.classes.of, removed_classes(solution, structure, removed), solution.classes.count)
    if isinstance(cut, fx.GraphModule):
        patch_graph(cut, records, trace, dead)
    failure = first_failure(cut, trace, dead, example_inputs)
    if failure is not None:
        raise refusal(trace, dead, failure) from failure.error
    return cut


def removed_classes(solution: Solution, structure: Structure, removed: Mapping[str, Sequence[int]]) -> list[int]:
    """The classes of atoms behind the removed units."""
    bundles = [bundle for bundle in solution.bundles if len(bundle.classes) > 1]
    named = {group.name: bundle.classes for group, bundle in zip(structure.groups, bundles, strict=True)}
    return [int(named[name][unit]) for name, units in removed.items() for unit in units]


def cut_copy(model: nn.Module, positions: Positions, structure: Structure) -> nn.Module:
    """A copy without these positions, whose PyTorch layers know their new sizes."""
    cut = copied(model)
    before = {name: tuple(tensor.shape) for name, tensor in named_tensors(cut).items()}
    carried = frozenset(piece.tensor for group in structure.groups for piece in group.slices if piece.role == "carrier")
    remove_positions(cut, positions)
    follow_shapes(cut, carried, before)
    convert_attention(cut, frozenset(name for name, _ in positions))
    return cut


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; raises ModelError where the network holds something that cannot be copied."""
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        remedy = "Remove what cannot be deep-copied from it."
        raise ModelError(f"The network cannot be copied: {error}. {remedy}") from error
