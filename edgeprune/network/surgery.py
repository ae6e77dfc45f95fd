"""Carries out a plan on a copy of a network: the only code that changes shapes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from edgeprune.errors import ModelError
from edgeprune.network.attention import convert_attention
from edgeprune.network.attributes import follow_shapes
from edgeprune.network.coupling.ride import trace_network
from edgeprune.network.coupling.solve import Solution
from edgeprune.network.cutting import Positions, named_tensors, positions_of, remove_positions, removed_units
from edgeprune.network.following import dead_atoms, follow_sizes
from edgeprune.network.groups import Structure
from edgeprune.network.plan import Plan
from edgeprune.network.structure import structure_and_solution


def apply(plan: Plan, model: nn.Module, example_inputs: Any) -> nn.Module:
    """Cut a copy of the network as the plan says; the network itself stays untouched.

    Raises PlanError for a plan that breaks a constraint, or that changes a size which the network's own code
    writes as a number; ModelError where the network fails on the example inputs or cannot be copied.
    """
    trace = trace_network(model, example_inputs)
    structure, solution = structure_and_solution(trace)
    removed = removed_units(plan, structure.groups)
    positions = positions_of(structure.groups, removed, None)
    cut = cut_copy(model, positions, structure)
    dead = dead_atoms(solution.classes.of, removed_classes(solution, structure, removed), solution.classes.count)
    follow_sizes(cut, model, trace, dead, example_inputs)
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
    carried = frozenset(
        piece.tensor for group in structure.groups for piece in group.slices if piece.role == "carrier"
    )
    remove_positions(cut, positions)
    follow_shapes(cut, carried, before)
    convert_attention(cut, frozenset(name for name, _ in positions))
    return cut


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; raises ModelError where the network holds something that cannot be copied."""
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise ModelError(f"The network cannot be copied: {error}. Remove what cannot be deep-copied from it.") from error
