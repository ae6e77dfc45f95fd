"""Corrects predictions by measurements of whole networks, because layers measured alone do not add up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
# How far a layer in a network may be from the same layer alone, as standard deviations before anything was measured:
# what all layers of a kind have in common, what one layer has at every number of channels, and at one of them.
_KIND_DOUBT, _LAYER_DOUBT, _CELL_DOUBT = 0.25, 0.15, 0.15
# How far what is fixed, and what follows the activations outside all layers, may be from what is expected.
_OUTSIDE_DOUBT = 0.5
_LEAST_OUTSIDE_DOUBT = 0.02  # of the original


@dataclass(frozen=True)
class Cell:
    """One place in the table of one layer: which options its nodes have, and what it takes alone, by kind.

    A sum that lies between two options has a part of the cells of both.
    """

    table: int
    options: tuple[int, ...]
    amounts: Mapping[str, float]
    part: float = 1.0

    @property
    def key(self) -> tuple[int, tuple[int, ...]]:
        """The place without what it takes."""
        return self.table, self.options


@dataclass(frozen=True)
class Seen:
    """One measured network: its cells, what it takes beside them by kind, what it took as a whole, how surely."""

    cells: tuple[Cell, ...]
    constants: Mapping[str, float]
    whole: float
    doubt: float

    def parts(self) -> dict[str, float]:
        """Return what all takes alone, by kind."""
        totals = dict(self.constants)
        for cell in self.cells:
            for kind, amount in cell.amounts.items():
                totals[kind] = totals.get(kind, 0.0) + cell.part * amount
        return totals


@dataclass(frozen=True)
class Correction:
    """whole = fixed + constants + cells, each kind scaled; a layer deviates from its kind, and a cell from its layer.

    `expected` are the scales before anything was measured, which a layer's deviation multiplies.
    """

    fixed: float
    scales: Mapping[str, float]
    expected: Mapping[str, float]
    layers: Mapping[int, float]
    cells: Mapping[tuple[int, tuple[int, ...]], float]

    def predict(self, cells: Iterable[Cell], constants: Mapping[str, float]) -> float:
        """Return what a network takes as a whole."""
        return self.constant(constants) + sum(self._cell(cell) for cell in cells)

    def constant(self, constants: Mapping[str, float]) -> float:
        """Return what a network takes whatever its cells are."""
        return self.fixed + sum(self.scales[kind] * amount for kind, amount in constants.items())

    def table(self, place: int, amounts: Mapping[str, Floats], kinds: Mapping[str, str]) -> Floats | None:
        """Return what the cells of a table take; `kinds` names the amounts that count, None where it has none."""
        known = [(kinds[name], values) for name, values in amounts.items() if name in kinds]
        if not known:
            return None
        found: Floats = np.sum([self._scale(place, kind) * values for kind, values in known], axis=0)
        for (table, options), added in self.cells.items():
            if table == place:
                found[options] += added
        return found

    def _cell(self, cell: Cell) -> float:
        plain = sum(self._scale(cell.table, kind) * amount for kind, amount in cell.amounts.items())
        return cell.part * (plain + self.cells.get(cell.key, 0.0))

    def _scale(self, place: int, kind: str) -> float:
        return self.scales[kind] + self.layers.get(place, 0.0) * self.expected[kind]


@dataclass(frozen=True)
class Outside:
    """What a network takes outside its layers: so much is fixed, and the rest follows a kind."""

    fixed: float
    kind: str


def fit(seen: Sequence[Seen], outside: Outside | None) -> Correction:
    """Return the most plausible correction after these measurements, the original first.

    A regression on Gaussian beliefs: layers are expected to take in the network what they take alone, and the rest of
    the original to be fixed where nothing is known of it; where the original takes less than its layers alone, all
    scales are expected below 1 alike. Networks that share cells share what deviates in them.
    """
    beliefs = _beliefs(seen[0], outside)
    tables = sorted({cell.table for one in seen for cell in one.cells})
    cells = {cell.key: beliefs.alone(cell) for one in seen for cell in one.cells}
    rows = np.array([_row(one, beliefs, tables, cells) for one in seen])
    gaps = np.array([one.whole - beliefs.whole(one) for one in seen])
    noise = np.diag([(one.doubt * one.whole) ** 2 for one in seen])
    fixed, *found = (rows.T @ np.linalg.solve(rows @ rows.T + noise, gaps)).tolist()
    shifts, found = found[: len(beliefs.scales)], found[len(beliefs.scales) :]
    return Correction(
        fixed=beliefs.fixed + beliefs.fixed_doubt * fixed,
        scales={
            kind: scale + beliefs.doubts[kind] * shift
            for (kind, scale), shift in zip(beliefs.scales.items(), shifts, strict=True)
        },
        expected=beliefs.scales,
        layers={table: _LAYER_DOUBT * shift for table, shift in zip(tables, found, strict=False)},
        cells={
            key: _CELL_DOUBT * alone * shift
            for (key, alone), shift in zip(cells.items(), found[len(tables) :], strict=True)
        },
    )


@dataclass(frozen=True)
class _Beliefs:
    """What is expected before any candidate was measured, and the standard deviation of each."""

    fixed: float
    fixed_doubt: float
    scales: Mapping[str, float]
    doubts: Mapping[str, float]

    def alone(self, cell: Cell) -> float:
        return sum(self.scales[kind] * amount for kind, amount in cell.amounts.items())

    def whole(self, one: Seen) -> float:
        return self.fixed + sum(self.scales[kind] * part for kind, part in one.parts().items())


def _beliefs(original: Seen, outside: Outside | None) -> _Beliefs:
    parts = original.parts()
    alone = sum(part for kind, part in parts.items() if outside is None or kind != outside.kind)
    scale = min(1.0, original.whole / alone) if alone > 0 else 1.0
    rest = original.whole - scale * alone
    least = _LEAST_OUTSIDE_DOUBT * original.whole
    scales = dict.fromkeys(sorted(parts), scale)
    doubts = dict.fromkeys(scales, _KIND_DOUBT * scale)
    fixed = rest
    if outside is not None and parts[outside.kind] > 0:
        fixed = min(rest, outside.fixed)
        scales[outside.kind] = (rest - fixed) / parts[outside.kind]
        doubts[outside.kind] = (_OUTSIDE_DOUBT * (rest - fixed) + least) / parts[outside.kind]
    return _Beliefs(fixed, _OUTSIDE_DOUBT * fixed + least, scales, doubts)


def _row(
    one: Seen, beliefs: _Beliefs, tables: Sequence[int], cells: Mapping[tuple[int, tuple[int, ...]], float]
) -> Floats:
    """Return how a network depends on everything that is in doubt, in standard deviations of it."""
    parts = one.parts()
    by_table: dict[int, float] = {}
    for cell in one.cells:
        by_table[cell.table] = by_table.get(cell.table, 0.0) + cell.part * beliefs.alone(cell)
    own = {cell.key: cell.part for cell in one.cells}
    return np.array(
        [
            beliefs.fixed_doubt,
            *(beliefs.doubts[kind] * parts.get(kind, 0.0) for kind in beliefs.scales),
            *(_LAYER_DOUBT * by_table.get(table, 0.0) for table in tables),
            *(_CELL_DOUBT * alone * own.get(key, 0.0) for key, alone in cells.items()),
        ]
    )
