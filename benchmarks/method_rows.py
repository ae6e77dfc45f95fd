"""The rows of `benchmarks.methods`, their table, and how ours compare with Torch-Pruning's of the same criterion."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import stdev

from benchmarks.peer_pruning import COUNTERPARTS


@dataclass(frozen=True)
class Row:
    """What one cell came to; accuracies 0..1, None where there is no such stage.

    `choosing_s` are the seconds from the trained network to the cut one, `hooks_s` what the method's hooks added to
    the training before it, the forward and backward of a penalty not included.
    """

    network: str
    method: str
    seed: int
    macs: float  # of the original
    original: float
    shaped: float | None
    cut: float
    recalibrated: float
    recovered: float
    choosing_s: float
    hooks_s: float
    training_s: float


Rows = Sequence[Row]


def finished_rows(folder: Path) -> Rows:
    """Return the rows of all cells that are on the disk."""
    return [Row(**json.loads(file.read_text())) for file in sorted(folder.glob("*.json"))]


def table(rows: Iterable[Row]) -> str:
    """Return the means over seeds as a Markdown table, the best of each network first."""
    lines = [
        "| network | method | seeds | MACs | shaped | cut | re-calibrated | recovered | choosing | hooks | training |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (network, method), own in sorted(_cells(rows).items(), key=lambda cell: (cell[0][0], -_recovered(cell[1]))):
        shaped = "" if own[0].shaped is None else f"{_mean(own, 'shaped'):.2%}"
        lines.append(
            f"| {network} | {method} | {len(own)} | {_mean(own, 'macs'):.1%} | {shaped} | {_mean(own, 'cut'):.2%} "
            f"| {_mean(own, 'recalibrated'):.2%} | {_mean(own, 'recovered'):.2%} | {_mean(own, 'choosing_s'):.1f} s "
            f"| {_mean(own, 'hooks_s'):.1f} s | {_mean(own, 'training_s'):.0f} s |"
        )
    return "\n".join(lines)


def comparison(rows: Iterable[Row]) -> str:
    """Return ours against Torch-Pruning's of the same criterion, and the means over all of them; "" without theirs."""
    cells = {name: {row.seed: row for row in own} for name, own in _cells(rows).items()}
    pairs: dict[str, list[tuple[Row, Row]]] = {}
    for (network, peer), theirs in cells.items():
        ours = cells.get((network, COUNTERPARTS.get(peer, "")), {})
        pairs.setdefault(peer, []).extend((ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys()))
    compared = {peer: own for peer, own in pairs.items() if own}
    if not compared:
        return ""
    lines = [
        "| ours | Torch-Pruning's | cells | re-calibrated: ours | theirs | recovered: ours | theirs | difference |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_compared(COUNTERPARTS[peer], peer, own) for peer, own in sorted(compared.items())]
    lines.append(_compared("all", "", [pair for own in compared.values() for pair in own]))
    return "\n".join(lines)


def _compared(name: str, peer: str, pairs: Sequence[tuple[Row, Row]]) -> str:
    ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    differences = [100 * (own.recovered - other.recovered) for own, other in pairs]
    spread = f" ± {stdev(differences) / len(pairs) ** 0.5:.2f}" if len(pairs) > 1 else ""
    return (
        f"| {name} | {peer.removeprefix('torch-pruning: ')} | {len(pairs)} | {_mean(ours, 'recalibrated'):.2%} "
        f"| {_mean(theirs, 'recalibrated'):.2%} | {_recovered(ours):.2%} | {_recovered(theirs):.2%} "
        f"| {sum(differences) / len(pairs):+.2f}{spread} pt |"
    )


def _cells(rows: Iterable[Row]) -> Mapping[tuple[str, str], list[Row]]:
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.network, row.method), []).append(row)
    return cells


def _recovered(rows: Rows) -> float:
    return _mean(rows, "recovered")


def _mean(rows: Rows, name: str) -> float:
    return sum(float(asdict(row)[name]) for row in rows) / len(rows)
