"""Coupled channels of any network: run it once, labels riding along, and read the groups off."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from edgeprune.network.coupling.costs import layers_of, savings
from edgeprune.network.coupling.ledger import Atoms, Flags
from edgeprune.network.coupling.ride import Trace, trace_network
from edgeprune.network.coupling.solve import Bundle, Owned, Solution, solve
from edgeprune.network.groups import EqualCounts, Group, Quarantine, Slice, Structure

Index = tuple[tuple[int, ...], ...]


def channel_groups(model: nn.Module, example_inputs: Any) -> tuple[Group, ...]:
    """The coupled channels of a network, in the order in which it writes them.

    `example_inputs` is a tensor, or a tuple of the positional arguments of the forward. Raises ModelError
    where the network fails on them.
    """
    return network_structure(model, example_inputs).groups


def network_structure(model: nn.Module, example_inputs: Any) -> Structure:
    """Groups, what is quarantined and why, and the layers with their costs; raises ModelError as above."""
    return structure_of(trace_network(model, example_inputs))


def structure_of(trace: Trace) -> Structure:
    """What a trace says about the network."""
    return structure_and_solution(trace)[0]


def structure_and_solution(trace: Trace) -> tuple[Structure, Solution]:
    """The public data, and the classes of atoms behind it."""
    solution = solve(trace)
    named = _names(solution.bundles)
    shared: dict[bytes, Index] = {}
    facts = _Facts(trace, solution, _marked(solution, trace.ledger.heads), _across(trace, solution))
    groups = tuple(
        _group(name, bundle, costs, facts, shared)
        for name, bundle, costs in zip(named, solution.bundles, savings(trace, solution), strict=True)
        if len(bundle.classes) > 1
    )
    lone = [bundle for bundle in solution.bundles if len(bundle.classes) == 1]
    quarantined = _quarantined(trace, solution, lone)
    free = {name: bundle for name, bundle in zip(named, solution.bundles, strict=True) if len(bundle.classes) > 1}
    return Structure(groups, quarantined, layers_of(trace, solution, free)), solution


def _names(bundles: list[Bundle]) -> list[str]:
    """The first writer's module; further groups of the same writer add the position where they start."""
    seen: Counter[str] = Counter()
    names = []
    for bundle in bundles:
        names.append(f"{bundle.writer}:{bundle.start}" if seen[bundle.writer] else bundle.writer)
        seen[bundle.writer] += 1
    return names


@dataclass(frozen=True)
class _Facts:
    """What every group is built from; `heads` and `across` say for each class whether it is one."""

    trace: Trace
    solution: Solution
    heads: Flags
    across: Flags


def _marked(solution: Solution, marks: list[Atoms]) -> Flags:
    flags = np.zeros(solution.classes.count, bool)
    for atoms in marks:
        flags[solution.classes.of[atoms]] = True
    return flags


def _across(trace: Trace, solution: Solution) -> Flags:
    return _marked(solution, [atoms for atoms, _ in trace.ledger.statistics])


def _group(name: str, bundle: Bundle, costs: tuple[int, int], facts: _Facts, shared: dict[bytes, Index]) -> Group:
    place = {unit: position for position, unit in enumerate(bundle.classes.tolist())}
    slices = []
    for axis in bundle.axes:
        own = facts.solution.owned[axis]
        slices.append(Slice(own.axis[0], own.axis[1], own.role, _index(own, bundle, shared)))
    constraints = tuple(
        EqualCounts(tuple(tuple(sorted(place[unit] for unit in row)) for row in rule.rows), rule.reason)
        for rule in facts.solution.rules
        if rule.rows[0][0] in place
    )
    kind = "head" if facts.heads[bundle.classes].all() else "channel"
    exact = not facts.across[bundle.classes].any()
    return Group(name, len(bundle.classes), tuple(slices), constraints, kind, *costs, exact)


def _index(own: Owned, bundle: Bundle, shared: dict[bytes, Index]) -> Index:
    """For each unit its positions; equal answers are one object."""
    starts = np.searchsorted(own.classes, bundle.classes, "left")
    ends = np.searchsorted(own.classes, bundle.classes, "right")
    low, high = int(starts.min()), int(ends.max())
    positions = own.positions[low:high]
    key = b"%d|" % id(bundle) + positions.tobytes() + (starts - low).tobytes() + (ends - low).tobytes()
    if key not in shared:
        shared[key] = _gathered(positions, starts - low, ends - low)
    return shared[key]


def _gathered(positions: Atoms, starts: Atoms, ends: Atoms) -> Index:
    """`positions[start:end]` for each unit."""
    if (ends - starts == 1).all():
        return tuple(zip(positions[starts].tolist()))  # one list: it makes tuples of one position
    plain = positions.tolist()
    return tuple(tuple(plain[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True))


def _quarantined(trace: Trace, solution: Solution, lone: list[Bundle]) -> tuple[Quarantine, ...]:
    found = []
    for bundle in solution.blocked:
        reason = solution.classes.reason(trace.ledger, int(bundle.classes[0]))
        if reason is None or reason.operation == "output":
            continue
        found.append(
            Quarantine(bundle.writer, reason.text, reason.operation, reason.module, reason.location, reason.remedy)
        )
    for bundle in lone:
        text = "all its channels are tied into one unit, so none can be removed alone"
        found.append(Quarantine(bundle.writer, text, "tie", bundle.writer, "", "Leave it whole."))
    return tuple(dict.fromkeys(found))
