"""Draws which layers share channels: one row a layer, one rail a group, a dot where a layer writes or reads it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from edgeprune.network.groups import Group, Layer, Role, Structure

ROW, RAIL, BAR, MARGIN = 22, 16, 120, 16
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e")
_ROLE_ORDER: dict[Role, int] = {"carrier": 0, "reader": 1, "writer": 2}


@dataclass(frozen=True)
class Rail:
    """One group in the drawing: the rows it touches, each with the strongest role there, and its column."""

    group: Group
    rows: tuple[tuple[int, Role], ...]
    column: int
    colour: str


def draw_couplings(structure: Structure) -> str:
    """The couplings as SVG text; open it in any browser, names and sizes show on hover."""
    rails = _rails(structure)
    columns = max((rail.column for rail in rails), default=0) + 1
    names = max((len(layer.name) for layer in structure.layers), default=4) * 7 + 2 * MARGIN
    left = names + BAR + MARGIN
    width = max(left + columns * RAIL + 2 * MARGIN, left + 190, 520)
    height = (len(structure.layers) + 2) * ROW + 3 * MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{MARGIN}" y="{ROW}" font-weight="bold">layer</text>',
        f'<text x="{names}" y="{ROW}" font-weight="bold">MACs</text>',
        f'<text x="{left}" y="{ROW}" font-weight="bold">groups of coupled channels</text>',
    ]
    total = max((layer.macs for layer in structure.layers), default=1) or 1
    lines += [_layer(row, layer, names, layer.macs / total) for row, layer in enumerate(structure.layers)]
    lines += [_rail(rail, left) for rail in rails]
    lines += [_legend(height - MARGIN), "</svg>"]
    return "\n".join(lines) + "\n"


def _rails(structure: Structure) -> list[Rail]:
    """Put every group on the first column that is free where it runs."""
    place = {layer.name: row for row, layer in reversed(list(enumerate(structure.layers)))}
    rails: list[Rail] = []
    ends: list[int] = []  # the last row that each column is taken to
    found = [(group, _rows(group, place)) for group in structure.groups]
    for position, (group, rows) in enumerate(sorted(found, key=lambda item: item[1][:1])):
        if not rows:
            continue
        free = [column for column, end in enumerate(ends) if end < rows[0][0]]
        column = free[0] if free else len(ends)
        ends[column : column + 1] = [rows[-1][0]]
        rails.append(Rail(group, rows, column, COLOURS[position % len(COLOURS)]))
    return rails


def _rows(group: Group, place: dict[str, int]) -> tuple[tuple[int, Role], ...]:
    roles: dict[int, Role] = {}
    for piece in group.slices:
        row = place.get(piece.tensor.rpartition(".")[0] or piece.tensor)
        if row is not None and _ROLE_ORDER[piece.role] >= _ROLE_ORDER[roles.get(row, "carrier")]:
            roles[row] = piece.role
    return tuple(sorted(roles.items()))


def _y(row: int) -> int:
    return (row + 2) * ROW


def _layer(row: int, layer: Layer, names: int, share: float) -> str:
    text = f"{layer.name}: {layer.kind}, {layer.macs:,} MACs, {layer.parameters:,} parameters"
    bar = max(1, round(share * BAR))
    return (
        f"<g><title>{escape(text)}</title>"
        f'<text x="{MARGIN}" y="{_y(row) + 4}">{escape(layer.name)}</text>'
        f'<rect x="{names}" y="{_y(row) - 5}" width="{bar}" height="10" fill="#d0d4da"/></g>'
    )


def _rail(rail: Rail, left: int) -> str:
    x = left + MARGIN // 2 + rail.column * RAIL
    group = rail.group
    text = f"{group.name}: {group.size} units ({group.kind}){'' if group.exact else ', a norm runs across them'}"
    dots = [_dot(x, _y(row), role, rail.colour) for row, role in rail.rows]
    first, last = _y(rail.rows[0][0]), _y(rail.rows[-1][0])
    line = f'<line x1="{x}" y1="{first}" x2="{x}" y2="{last}" stroke="{rail.colour}" stroke-width="2"/>'
    return f"<g><title>{escape(text)}</title>{line}{''.join(dots)}</g>"


def _dot(x: int, y: int, role: Role, colour: str) -> str:
    if role == "carrier":
        return f'<rect x="{x - 4}" y="{y - 2}" width="8" height="4" fill="{colour}"/>'
    fill = colour if role == "writer" else "#ffffff"
    return f'<circle cx="{x}" cy="{y}" r="5" fill="{fill}" stroke="{colour}" stroke-width="2"/>'


def _legend(y: int) -> str:
    words = (("writer", "writes the group"), ("reader", "reads it"), ("carrier", "carries it through"))
    roles: list[tuple[Role, str]] = [(role, text) for role, text in words]  # type: ignore[misc]
    items = []
    for position, (role, text) in enumerate(roles):
        x = MARGIN + 8 + position * 150
        items.append(f'{_dot(x, y - 4, role, "#555555")}<text x="{x + 12}" y="{y}">{text}</text>')
    return "".join(items)
