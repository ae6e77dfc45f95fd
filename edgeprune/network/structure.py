"""Coupled channels of any network: run it once, labels riding along, and read the groups off."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from torch import nn

from edgeprune.network.coupling.costs import layers_of, savings
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
    groups = tuple(
        _group(name, bundle, (trace, solution), shared)
        for name, bundle in zip(named, solution.bundles, strict=True)
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


def _group(name: str, bundle: Bundle, facts: tuple[Trace, Solution], shared: dict[bytes, Index]) -> Group:
    trace, solution = facts
    place = {unit: position for position, unit in enumerate(bundle.classes.tolist())}
    slices = []
    for axis in bundle.axes:
        own = solution.owned[axis]
        slices.append(Slice(own.axis[0], own.axis[1], own.role, _index(own, bundle, shared)))
    constraints = tuple(
        EqualCounts(tuple(tuple(sorted(place[unit] for unit in row)) for row in rule.rows), rule.reason)
        for rule in solution.rules
        if rule.rows[0][0] in place
    )
    macs, parameters = savings(trace, solution, bundle)
    heads = np.concatenate(trace.ledger.heads) if trace.ledger.heads else np.zeros(0, np.int64)
    kind = "head" if np.isin(bundle.classes, solution.classes.of[heads]).all() else "channel"
    statistics = [atoms for atoms, _ in trace.ledger.statistics]
    across = solution.classes.of[np.concatenate(statistics)] if statistics else np.zeros(0, np.int64)
    exact = not np.isin(bundle.classes, across).any()
    return Group(name, len(bundle.classes), tuple(slices), constraints, kind, macs, parameters, exact)


def _index(own: Owned, bundle: Bundle, shared: dict[bytes, Index]) -> Index:
    """For each unit its positions; equal answers are one object."""
    starts = np.searchsorted(own.classes, bundle.classes, "left")
    ends = np.searchsorted(own.classes, bundle.classes, "right")
    key = b"%d|" % id(bundle) + own.positions[starts[0] :].tobytes() + starts.tobytes() + ends.tobytes()
    if key not in shared:
        positions = own.positions.tolist()
        spans = zip(starts.tolist(), ends.tolist(), strict=True)
        shared[key] = tuple(tuple(positions[start:end]) for start, end in spans)
    return shared[key]


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
