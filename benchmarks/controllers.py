"""How many whole-network measurements each controller needs to land under a latency budget, and what it keeps.

`python -m benchmarks.controllers --out FOLDER [--networks N ...] [--boards B ...] [--controllers C ...]` measures on
the emulated boards, with noise, heat and drift, and compares with the board's exact latency, which no controller sees.
Budgets are parts of the original, which is measured beside every candidate. Units have random scores, the same for all
controllers. Candidates are not exported: their works are derived (cut_works.py). Every cell is in FOLDER as soon as it
is done, so that a stopped benchmark goes on; it writes results/controllers.json and results/controllers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
from torch import nn

from benchmarks import networks
from benchmarks.cut_works import CutWorks
from benchmarks.zoo import declare_torchvision
from edgeprune import registry
from edgeprune.bench.emulated_board import EmulatedBoard, board_from_settings, true_latency_ms
from edgeprune.bench.measure import QUICK, measure, measure_pair
from edgeprune.bench.target import Target, list_families, load_target
from edgeprune.bench.work import LayerWork, macs_of, works_of_file, works_of_onnx, write_works
from edgeprune.contracts import Limits, Outcome, Problem, is_safe
from edgeprune.files import append_line, write_text
from edgeprune.network.export import export_network
from edgeprune.network.groups import Allocation, Scores, Structure
from edgeprune.network.structure import network_structure
from edgeprune.progress import Progress
from edgeprune.run.profiling import profile_network
from edgeprune.run.trial import kept_score
from edgeprune.terminal import TerminalProgress

_RESULTS = Path(__file__).parent / "results"
_NETWORKS = ("resnet20", "resnet56", "mobilenet_v1_075", "mobilenet_v2_100_folded", "densenet121", "vit_tiny")
_CONTROLLERS = ("knapsack", "bisect", "netadapt")
_PARTS = (0.8, 0.6, 0.4)
_LANDED = 0.97
_MOST_ROUNDS = 40
_INTRODUCTION = """\
Emulated boards, networks and budgets of 80, 60 and 40 % of the original's latency, measured with noise, heat and drift.
Within 3 % is the upper end of the measured interval. Above the budget and used are the exact latency of the board,
which no controller sees, of the network that a run would choose. Importance kept is the part of all scores, which are
random. A search ends after at most 40 measurements. Budgets that no controller met are listed at the end.

Regenerate with `python -m benchmarks.controllers --out FOLDER`."""


@dataclass(frozen=True)
class Cell:
    """One search: what it was about, its rounds, and the truth; `used` are true parts of the budget.

    `landed_after` are the rounds until the upper end of the measured interval was within 3 % under the budget, None
    where it never was. `used` is the chosen network, `first_used` the first candidate, which no other has corrected.
    """

    network: str
    board: str
    part: float
    controller: str
    rounds: int
    landed_after: int | None
    used: float
    first_used: float
    kept: float
    ending: str
    seconds: float


@dataclass(frozen=True)
class Subject:
    """One network with all that is known of it before a board is asked."""

    name: str
    network: nn.Module
    inputs: tuple[torch.Tensor, ...]
    structure: Structure
    scores: Scores
    works: tuple[LayerWork, ...]


def prepared(name: str, out: Path) -> Subject:
    """Build a network and export it once."""
    network, side = _build(name)
    inputs = (torch.zeros(1, 3, side, side),)
    path = out / "works" / f"{name}.json"
    if not path.exists():
        with tempfile.TemporaryDirectory() as folder:
            write_works(works_of_onnx(export_network(network, inputs, Path(folder)).onnx), path)
    structure = network_structure(network, inputs)
    return Subject(name, network, inputs, structure, _scores(structure), works_of_file(path))


def _build(name: str) -> tuple[nn.Module, int]:
    if hasattr(networks, name):
        return getattr(networks, name)().eval(), 32 if "resnet" in name else 224
    library = declare_torchvision()
    if name == "vit_tiny":
        import timm  # after torchvision's operators are declared: it imports torchvision

        network = timm.create_model("vit_tiny_patch16_224")
    else:
        import torchvision.models as zoo  # likewise

        network = getattr(zoo, name)()
    del library
    return network.eval(), 224


def _scores(structure: Structure) -> Scores:
    """Return scores as real ones are spread: few large ones, and groups that differ."""
    random = np.random.default_rng(0)
    return {
        group.name: tuple((random.lognormal(0, 0.5) * random.lognormal(0, 0.7, group.size)).tolist())
        for group in structure.groups
    }


class Bench:
    """One network on one board: its latency table, the measurements, and the truth."""

    def __init__(self, subject: Subject, target: Target, out: Path, progress: Progress) -> None:
        """Profile the layers, or read the table of an earlier run, and measure the original."""
        self._subject, self._target = subject, target
        self._board: EmulatedBoard = board_from_settings(target.settings)
        self._cut = CutWorks(subject.works, subject.structure)
        self._folder = out / "artifacts"
        self.costs = profile_network(subject.network, subject.inputs, target, None, progress).costs
        self._original = self._artifact({}, "original")
        found = measure(self._original, target, QUICK)
        self.original = self._outcome({}, found.latency_p50_ms, found.latency_interval_ms)

    def problem(self, part: float) -> Problem:
        """Return what a controller is given for a part of the original's latency."""
        return Problem(
            structure=self._subject.structure,
            scores=self._subject.scores,
            limits=Limits(latency_ms=part * self.original.latency_ms),
            original=self.original,
            channel_multiple=self._target.channel_multiple,
            scores_are_losses=True,
            max_rounds=_MOST_ROUNDS,
            costs=self.costs,
        )

    def measured(self, allocation: Allocation) -> Outcome:
        """Measure a candidate beside the original, as a run does."""
        beside, candidate = measure_pair(self._original, self._artifact(allocation, "candidate"), self._target, QUICK)
        drift = beside.latency_p50_ms / self.original.latency_ms
        low, high = candidate.latency_interval_ms
        return self._outcome(allocation, candidate.latency_p50_ms / drift, (low / drift, high / drift))

    def true_part(self, allocation: Allocation) -> float:
        """Return the exact latency of a candidate as a part of the original's."""
        return self.true_ms(allocation) / self.true_ms({})

    def true_ms(self, allocation: Allocation) -> float:
        """Return the exact latency of a candidate on the cool, undisturbed board."""
        return true_latency_ms(self._cut.with_allocation(allocation), self._board)

    def macs(self, allocation: Allocation) -> int:
        """Return the multiply-accumulates of a candidate."""
        return macs_of(self._cut.with_allocation(allocation))

    def _artifact(self, allocation: Allocation, name: str) -> Path:
        path = self._folder / f"{self._subject.name}-{self._target.name}-{name}.json"
        write_works(self._cut.with_allocation(allocation), path)
        return path

    def _outcome(self, allocation: Allocation, latency_ms: float, interval_ms: tuple[float, float]) -> Outcome:
        works = self._cut.with_allocation(allocation)
        weights = sum(work.weight_elements for work in works)
        return Outcome(latency_ms, interval_ms, 4 * weights, macs_of(works), weights)


def search(bench: Bench, subject: Subject, board: str, part: float, name: str) -> Cell:
    """Let one controller search, and choose as a run does."""
    begin = time.process_time()
    problem = bench.problem(part)
    controller = registry.load("controllers", name)(problem)
    tried: list[tuple[Allocation, Outcome]] = [({}, problem.original)]
    while (allocation := controller.ask()) is not None:
        tried.append((allocation, bench.measured(allocation)))
        controller.tell(*tried[-1])
    used = [bench.true_part(allocation) / part for allocation, _ in tried]
    worth = [kept_score(subject.scores, allocation) for allocation, _ in tried]
    safe = [place for place, (_, outcome) in enumerate(tried) if is_safe(outcome, problem.limits)]
    chosen = max(safe, key=worth.__getitem__) if safe else min(range(len(tried)), key=used.__getitem__)
    return Cell(
        network=subject.name,
        board=board,
        part=part,
        controller=name,
        rounds=len(tried) - 1,
        landed_after=next((place for place, (_, found) in enumerate(tried) if _has_landed(found, problem)), None),
        used=used[chosen],
        first_used=used[1] if len(used) > 1 else used[0],
        kept=worth[chosen],
        ending=controller.ending(),
        seconds=time.process_time() - begin,
    )


def _has_landed(outcome: Outcome, problem: Problem) -> bool:
    limit_ms = problem.limits.latency_ms or 1.0
    return _LANDED * limit_ms <= outcome.latency_interval_ms[1] <= limit_ms


def run(asked: argparse.Namespace, progress: Progress) -> list[Cell]:
    """Return all cells of the folder, after those that were asked for and are not there yet."""
    file = asked.out / "cells.jsonl"
    cells = [Cell(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []
    for network in asked.networks:
        done = {(cell.board, cell.part, cell.controller) for cell in cells if cell.network == network}
        both = [(part, name) for part in asked.parts for name in asked.controllers]
        wanted = [(board, [one for one in both if (board, *one) not in done]) for board in asked.boards]
        if not any(left for _, left in wanted):
            continue
        subject = prepared(network, asked.out)
        for board, left in wanted:
            if not left:
                continue
            bench = Bench(subject, load_target(board), asked.out, progress)
            for part, name in left:
                cells.append(search(bench, subject, board, part, name))
                append_line(file, json.dumps(asdict(cells[-1])))
                progress.say(_line(cells[-1]))
    return cells


def _line(cell: Cell) -> str:
    return (
        f"{cell.network} {cell.board} {cell.part:.0%} {cell.controller}: {cell.rounds} rounds, landed after "
        f"{cell.landed_after}, {cell.used:.1%} used, first {cell.first_used:.1%}, kept {cell.kept:.3f}; {cell.ending}"
    )


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    boards = [name for name, entry in list_families().items() if not entry.problem and name.startswith("emulated-")]
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=_NETWORKS, default=_NETWORKS)
    parser.add_argument("--boards", nargs="+", choices=boards, default=boards)
    parser.add_argument("--controllers", nargs="+", choices=_CONTROLLERS, default=_CONTROLLERS)
    parser.add_argument("--parts", nargs="+", type=float, default=_PARTS)
    asked = parser.parse_args()
    keep_tables_in(asked.out)
    cells = run(asked, TerminalProgress())
    write_text(_RESULTS / "controllers.json", json.dumps([asdict(cell) for cell in cells], indent=1) + "\n")
    write_text(_RESULTS / "controllers.md", table(cells))


def keep_tables_in(out: Path) -> None:
    """Keep latency tables in the benchmark's folder, beside what the user's own work has measured."""
    os.environ["XDG_CACHE_HOME"] = str(out.resolve())


def table(cells: Sequence[Cell]) -> str:
    """Return the page: all cells by controller, then by network, then those in which knapsack did not come close."""
    reached = {_place(cell) for cell in cells if cell.used <= 1}
    met = [cell for cell in cells if _place(cell) in reached]
    own = [cell for cell in met if cell.controller == _CONTROLLERS[0]]
    lines = [
        "# Measurements until the budget is met",
        "",
        _INTRODUCTION,
        "",
        _extent(cells),
        "",
        *_titles("controller"),
    ]
    lines += [_row(name, chosen) for name in _CONTROLLERS if (chosen := [c for c in met if c.controller == name])]
    lines += ["", *([_open_loop(own), ""] if own else []), *_titles("network, controller")]
    for network, name in dict.fromkeys((cell.network, cell.controller) for cell in met):
        chosen = [cell for cell in met if (cell.network, cell.controller) == (network, name)]
        lines.append(_row(f"{network}, {name}", chosen))
    lines += ["", "Searches in which knapsack did not come within 3 %, and what it said:", ""]
    lines += [_reason(cell) for cell in own if cell.landed_after is None]
    lines += ["", "Budgets that no controller met, and what knapsack said:", ""]
    lines += [_reason(cell) for cell in cells if cell.controller == _CONTROLLERS[0] and _place(cell) not in reached]
    return "\n".join(lines) + "\n"


def _extent(cells: Sequence[Cell]) -> str:
    boards: dict[str, set[str]] = {}
    for cell in cells:
        boards.setdefault(cell.network, set()).add(cell.board)
    run = {(cell.controller, cell.network) for cell in cells}
    missing = [f"{name} on {network}" for name in _CONTROLLERS for network in boards if (name, network) not in run]
    extent = "Boards: " + ", ".join(f"{network} on {len(names)}" for network, names in boards.items()) + "."
    return extent + (f" Not run: {', '.join(missing)}." if missing else "")


def _place(cell: Cell) -> tuple[str, str, float]:
    return cell.network, cell.board, cell.part


def _reason(cell: Cell) -> str:
    return f"- {cell.network}, {cell.board}, {cell.part:.0%}, {cell.rounds} measurements: {cell.ending}"


def _titles(first: str) -> tuple[str, str]:
    titles = (
        *(first, "searches", "within 3 %", "after measurements: median, worst", "in all: median, worst"),
        *("above the budget", "used: median, least", "importance kept", "CPU s a search"),
    )
    return "| " + " | ".join(titles) + " |", "| --- |" + " ---: |" * (len(titles) - 1)


def _row(name: str, cells: Sequence[Cell]) -> str:
    landed = [cell.landed_after for cell in cells if cell.landed_after is not None]
    used = [cell.used for cell in cells]
    values = (
        *(name, str(len(cells)), str(len(landed)), _median_and_worst(landed)),
        *(_median_and_worst([cell.rounds for cell in cells]), str(sum(value > 1 for value in used))),
        *(f"{median(used):.1%}, {min(used):.1%}", f"{mean(cell.kept for cell in cells):.3f}"),
        f"{mean(cell.seconds for cell in cells):.1f}",
    )
    return "| " + " | ".join(values) + " |"


def _median_and_worst(counts: Sequence[int]) -> str:
    return f"{median(counts):g}, {max(counts)}" if counts else ""


def _open_loop(cells: Sequence[Cell]) -> str:
    """Return how far off the plans are that only the original has corrected."""
    used = [cell.first_used for cell in cells]
    close = sum(_LANDED <= value <= 1 for value in used)
    return (
        f"Knapsack without feedback, which is its first candidate: {close} of {len(used)} within 3 % under the budget, "
        f"{sum(value > 1 for value in used)} above it; {min(used):.1%} to {max(used):.1%} of it used, median "
        f"{median(used):.1%}."
    )


if __name__ == "__main__":
    main()
