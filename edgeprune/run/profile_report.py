"""A profile as text, as plain data, and as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from edgeprune.run.staircase import GroupStairs, Padding, group_stairs, paddings
from edgeprune.verdict.profile_figure import LayerCurve, stairs_figure

if TYPE_CHECKING:
    from edgeprune.bench.layer_cost import LayerCost
    from edgeprune.bench.layer_shape import LayerShape
    from edgeprune.run.profiling import Profile

_MOST_PADDINGS = 8


def profile_to_dict(profile: Profile) -> dict[str, Any]:
    """Return what a profile found as plain JSON types: the board, its tiles, every layer, every group, the padding."""
    table = profile.table
    return {
        "target": table.target,
        "kind": table.kind,
        "runtime": table.runtime,
        "runtime_version": table.runtime_version,
        "fingerprint": table.fingerprint,
        "table": str(profile.path),
        "floor_ms": table.floor_ms,
        "tiles": {family: asdict(tile) for family, tile in table.tiles.items()},
        "layers": [
            {
                "name": name,
                "layer": str(profile.shapes[name]),
                "whole_ms": cost.whole_ms,
                "over_outputs": [list(point) for point in cost.over_outputs],
                "over_inputs": [list(point) for point in cost.over_inputs],
            }
            for name, cost in profile.costs.layers.items()
        ],
        "groups": [asdict(stairs) for stairs in group_stairs(profile.structure, profile.costs)],
        "padding": [{**asdict(found), "wasted": found.wasted} for found in paddings(profile)],
    }


def render_profile(profile: Profile) -> str:
    """Return aligned lines: the board and its tiles, what each group can save, and what is computed for nothing."""
    table, costs = profile.table, profile.costs
    total_ms = sum(cost.whole_ms for cost in costs.layers.values())
    tiles = [f"{family} {tile.outputs} out, {tile.inputs} in" for family, tile in sorted(table.tiles.items())]
    head = [
        ("target", f"{table.target} ({table.kind}), board {table.fingerprint}"),
        ("engine", f"{table.runtime} {table.runtime_version}"),
        ("table", f"{profile.path}, {len(table.layers)} layers measured"),
        ("stairs", f"channels computed together: {'; '.join(tiles)}"),
        ("layers", f"{total_ms:.3f} ms alone; a network of next to nothing takes {table.floor_ms:.3f} ms"),
    ]
    lines = [f"{label:<12} {text}" for label, text in head]
    lines += ["", *_groups(group_stairs(profile.structure, costs)), "", *_padding(paddings(profile))]
    return "\n".join(lines)


def draw_profile(profile: Profile) -> str:
    """Return the .svg text with the stairs of the layers that take most time in all."""
    spent: dict[LayerShape, float] = {}
    often: Counter[LayerShape] = Counter()
    costs: dict[LayerShape, LayerCost] = {}
    for name, cost in profile.costs.layers.items():
        shape = profile.shapes[name]
        costs[shape] = cost
        often[shape] += 1
        spent[shape] = spent.get(shape, 0.0) + cost.whole_ms
    curves = []
    for shape in sorted(spent, key=lambda shape: -spent[shape]):
        cost = costs[shape]
        counts = range(cost.over_outputs[0][0], shape.outputs + 1)
        predicted = tuple((count, cost.ms(count if shape.one_sided else shape.inputs, count)) for count in counts)
        title = f"{shape}" + (f" ({often[shape]} times)" if often[shape] > 1 else "")
        curves.append(LayerCurve(title, cost.over_outputs, predicted))
    return stairs_figure(curves, f"{profile.table.target} ({profile.table.kind})")


def _groups(found: Sequence[GroupStairs]) -> list[str]:
    rows = [("group", "units", "its layers", "first cut saves", "what to cut")]
    for stairs in found:
        first = stairs.stairs[0] if stairs.stairs else None
        saved = f"{first.saved_ms:.4f} ms ({first.saved_ms / stairs.layers_ms:.0%})" if first else "-"
        rows.append((stairs.group, str(stairs.units), f"{stairs.layers_ms:.4f} ms", saved, stairs.sentence))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _padding(found: Sequence[Padding]) -> list[str]:
    if not found:
        return ["No channels are wasted: every layer fills the tiles of the engine."]
    lines = ["Channels that do not fill the tiles of the engine:"]
    for side in sorted(found, key=lambda side: -side.wasted / side.computed)[:_MOST_PADDINGS]:
        lines.append(
            f"  {side.layer}: {side.channels} {side.side} take as long as {side.computed}; {side.wasted} are wasted"
        )
    return [*lines, *([f"  and {len(found) - _MOST_PADDINGS} more"] if len(found) > _MOST_PADDINGS else [])]
