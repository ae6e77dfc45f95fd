"""Which units stay, given one score a unit and how many may stay."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from edgeprune.errors import PlanError
from edgeprune.network.groups import Allocation, EqualCounts, Group, Scores, Structure, needed_units
from edgeprune.network.plan import Factorize, Plan, PruneChannels


def allowed_counts(group: Group) -> tuple[int, ...]:
    """The numbers of units that the constraints of a group allow to stay, ascending; at least one stays."""
    if group.counts:
        return group.counts
    if not group.constraints:
        return tuple(range(1, group.size + 1))
    return tuple(count for count in range(1, group.size + 1) if _solved(group, (0.0,) * group.size, count))


def select_units(group: Group, scores: Sequence[float], kept: int) -> tuple[int, ...]:
    """The `kept` units with the largest total score that the constraints allow, ascending.

    Ties go to the unit that comes first. Raises PlanError for a wrong number of scores, a count that is out
    of range or one that no choice of units satisfies.
    """
    if len(scores) != group.size:
        raise PlanError(f"Group {group.name!r} has {group.size} units but {len(scores)} scores were given.")
    if not 1 <= kept <= group.size:
        raise PlanError(f"Group {group.name!r} can keep 1 to {group.size} units, not {kept}.")
    chosen = _solved(group, tuple(scores), kept) if group.constraints else _top(range(group.size), scores, kept)
    if not chosen:
        counts = allowed_counts(group)
        near = min(counts, key=lambda count: (abs(count - kept), -count))
        reasons = "; ".join(constraint.reason for constraint in group.constraints)
        raise PlanError(f"Group {group.name!r} cannot keep {kept} units ({reasons}). The nearest count is {near}.")
    return chosen


def plan_of_best(structure: Structure, scores: Scores, allocation: Allocation) -> Plan:
    """The edits that leave the best-scored units, exactly as many as allocated; raises PlanError like `select_units`.

    Channels are pruned first, so that a layer is factorised as it is left.
    """
    fewer = [group for group in structure.groups if allocation.get(group.name, group.size) < group.size]
    ranks = {found.group: found for found in structure.factorisations}
    cuts = [
        PruneChannels(group.name, select_units(group, scores[group.name], allocation[group.name]))
        for group in fewer
        if group.name not in ranks
    ]
    thin = [ranks[group.name] for group in fewer if group.name in ranks]
    chains = [Factorize(found.layer, found.scheme, found.ranks[allocation[found.group] - 1]) for found in thin]
    return Plan((*cuts, *chains))


def _top(units: Sequence[int], scores: Sequence[float], kept: int) -> tuple[int, ...]:
    return tuple(sorted(sorted(units, key=lambda unit: (-scores[unit], unit))[:kept]))


def _solved(group: Group, scores: tuple[float, ...], kept: int) -> tuple[int, ...]:
    """Best units under the constraints, () where there are none."""
    if _one_partition(group):
        blocks = group.constraints[0].blocks
        if kept % len(blocks):
            return ()
        share = kept // len(blocks)
        return tuple(sorted(unit for block in blocks for unit in _top(block, scores, share)))
    return _integer_program(group, scores, kept)


def _one_partition(group: Group) -> bool:
    """Whether one constraint alone divides all the units into blocks."""
    if needed_units(group):
        return False
    first = {frozenset(block) for block in group.constraints[0].blocks}
    same = all({frozenset(block) for block in constraint.blocks} == first for constraint in group.constraints)
    return same and sum(len(block) for block in first) == group.size


def _integer_program(group: Group, scores: tuple[float, ...], kept: int) -> tuple[int, ...]:
    # Imported here, because the contracts import this file and must not cost what numpy and scipy cost.
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    rows, least, most = [[1.0] * group.size], [float(kept)], [float(kept)]
    for row in (row for constraint in group.constraints for row in _balance(constraint, group.size)):
        rows, least, most = [*rows, row], [*least, 0.0], [*most, 0.0]
    for units in needed_units(group):
        row = [float(unit in units) for unit in range(group.size)]
        rows, least, most = [*rows, row], [*least, 1.0], [*most, float(len(units))]
    limits = LinearConstraint(np.array(rows), least, most)
    gain = -np.asarray(scores, float)
    found = milp(gain, integrality=np.ones(group.size), bounds=Bounds(0, 1), constraints=limits)
    return tuple(int(unit) for unit in np.flatnonzero(found.x > 0.5)) if found.success else ()


def _balance(constraint: EqualCounts, size: int) -> list[list[float]]:
    """Rows that are zero for the units that stay, where as many of one block stay as of the next."""
    rows = []
    for left, right in pairwise(constraint.blocks):
        row = [0.0] * size
        for sign, block in ((1.0, left), (-1.0, right)):
            for unit in block:
                row[unit] = sign
        rows.append(row)
    return rows
