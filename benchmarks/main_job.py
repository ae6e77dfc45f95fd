"""Networks x methods x budgets x controllers: what the search reaches and what a short recovery gives back.

`python -m benchmarks.main_job [--out FOLDER]` needs EDGEPRUNE_DATA. It writes results/main_job.json and
results/main_job.md beside this file. Every cell is a run folder, so that a stopped benchmark goes on where it was;
lines of cells that are not asked for stay in the results.
Recovery is one epoch over 10,000 training pictures; accuracies are on 5,000 test pictures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.data import cifar10_fifth, data_file
from edgeprune import registry
from edgeprune.bench.target import load_target
from edgeprune.files import write_text
from edgeprune.loop import search
from edgeprune.network.data import Data, example_inputs
from edgeprune.network.model import load_model
from edgeprune.progress import Progress
from edgeprune.run.finetune import finetune
from edgeprune.run.job import Choices, Job
from edgeprune.run.problem import state_problem
from edgeprune.run.trial import best_of
from edgeprune.run.workbench import Workbench
from edgeprune.run_dir import RunDir, Stopwatch
from edgeprune.terminal import TerminalProgress
from edgeprune.verdict.budget import Budget, Share

_RESULTS = Path(__file__).parent / "results"
_NETWORKS = ("resnet20", "resnet56")
_METHODS = ("magnitude", "taylor", "random")
_PARTS = (0.8, 0.6, 0.4)
_CONTROLLERS = ("knapsack", "bisect")
_TARGET = "host"


@dataclass(frozen=True)
class Cell:
    """One network, one method, one controller, one budget."""

    network: str
    method: str
    controller: str
    part: float

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return f"{self.network}-{self.method}-{self.controller}-{self.part:.0%}"


@dataclass(frozen=True)
class Line:
    """What one cell came to; latencies of one interleaved measurement, accuracies 0..1."""

    network: str
    method: str
    controller: str
    budget: str
    feasible: bool
    rounds: int
    latency_share: float
    latency_ms: float
    macs: int
    parameters: int
    accuracy_original: float | None
    accuracy_cut: float | None
    accuracy_recalibrated: float | None
    accuracy_recovered: float | None
    seconds: Mapping[str, float]


def run_cell(cell: Cell, data: Data, out: Path, progress: Progress) -> Line:
    """Search and recover one cell; what a cell shares with an earlier one is copied instead of computed."""
    folder = RunDir(out / cell.name)
    with folder.claimed():
        _share(cell, folder, out)
        job = _job(cell, data, folder.path)
        folder.begin(job.identity(), job.facts(), resume=True)
        bench = Workbench(job, folder, Stopwatch(folder), progress)
        bench.accuracy("original", bench.original)
        method = registry.load("methods", cell.method)()
        problem = state_problem(bench, method)
        trials = search(bench, method, problem).trials
        chosen = best_of(trials, problem.limits)
        stages = finetune(bench, method, problem, chosen).stages
        original_ms = problem.original.latency_ms * chosen.drift  # as measured beside the chosen one
        return Line(
            network=cell.network,
            method=cell.method,
            controller=cell.controller,
            budget=f"{cell.part:.0%}",
            feasible=chosen.feasible,
            rounds=len(trials) - 1,
            latency_share=chosen.measurement["latency_p50_ms"] / original_ms,
            latency_ms=chosen.measurement["latency_p50_ms"],
            macs=chosen.outcome.macs,
            parameters=chosen.outcome.parameters,
            accuracy_original=stages.original,
            accuracy_cut=stages.cut,
            accuracy_recalibrated=stages.recalibrated,
            accuracy_recovered=stages.recovered,
            seconds=bench.watch.seconds(),
        )


def _job(cell: Cell, data: Data, out: Path) -> Job:
    model = load_model(data_file(f"cifar10-{cell.network}.pt"), f"benchmarks.networks:{cell.network}")
    budget = Budget(latency_ms=Share(cell.part))
    choices = Choices(cell.method, cell.controller, epochs=1)
    return Job(model, example_inputs(data), data, load_target(_TARGET), budget, choices, out, ("benchmarks.main_job",))


def _share(cell: Cell, folder: RunDir, out: Path) -> None:
    """Take the original's accuracy and measurement from any cell of the network, scores from one of the method too."""
    for other in sorted(out.glob(f"{cell.network}-*")):
        if other == folder.path:
            continue
        names = ["accuracy-original.json"]
        if other.name.startswith(f"{cell.network}-{cell.method}-"):
            names.append("scores.json")
        for name in names:
            source, target = other / "work" / name, folder.work / name
            if source.exists() and not target.exists():
                shutil.copyfile(source, target)
        originals = RunDir(other).trials("original")
        if originals and not folder.trials("original"):
            folder.append_trial(originals[0])


def table(lines: Iterable[Line]) -> str:
    """Return the results as a Markdown table."""
    rows = [
        "| network | method | controller | budget | latency | of original | MACs | parameters | cut | re-calibrated "
        "| recovered |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows += [
        f"| {line.network} | {line.method} | {line.controller} | {line.budget} | {line.latency_ms:.3f} ms "
        f"| {line.latency_share:.1%} | {line.macs / 1e6:.1f} M | {line.parameters / 1e3:.0f} K | "
        + " | ".join(map(_percent, (line.accuracy_cut, line.accuracy_recalibrated, line.accuracy_recovered)))
        + " |"
        for line in lines
    ]
    return "\n".join(rows)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def main() -> None:
    """Run every cell and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/main_job"))
    parser.add_argument("--networks", nargs="*", default=list(_NETWORKS))
    parser.add_argument("--methods", nargs="*", default=list(_METHODS))
    parser.add_argument("--controllers", nargs="*", default=list(_CONTROLLERS))
    arguments = parser.parse_args()
    progress = TerminalProgress()
    data = cifar10_fifth()
    for choice in itertools.product(arguments.networks, arguments.methods, arguments.controllers, _PARTS):
        cell = Cell(*choice)
        progress.say(f"{cell.name}, load {os.getloadavg()[0]:.1f}")
        _note(run_cell(cell, data, arguments.out, progress))


def _note(line: Line) -> None:
    """Put a line into the results, in the place of an earlier one of the same cell."""
    known = [Line(**entry) for entry in json.loads((_RESULTS / "main_job.json").read_text(encoding="utf-8"))]
    lines = [other for other in known if _cell(other) != _cell(line)] + [line]
    lines.sort(key=lambda one: (one.network, _METHODS.index(one.method), one.budget, one.controller))
    write_text(_RESULTS / "main_job.json", json.dumps([asdict(one) for one in lines], indent=1) + "\n")
    write_text(_RESULTS / "main_job.md", _heading(lines) + table(lines) + "\n")


def _cell(line: Line) -> tuple[str, ...]:
    return (line.network, line.method, line.controller, line.budget)


def _heading(lines: list[Line]) -> str:
    originals = {line.network: line.accuracy_original for line in lines}
    accuracies = ", ".join(f"{name} {_percent(value)}" for name, value in originals.items())
    return (
        "# The main job on CIFAR-10\n\n"
        f"Target `{_TARGET}`. Latency is the median of a candidate measured interleaved with the original. Recovery is "
        f"one epoch over 10,000 training pictures; accuracies are on 5,000 test pictures. Originals: {accuracies}.\n\n"
        "The two controllers were run at different times: compare shares of the original, not milliseconds. "
        "Regenerate with `python -m benchmarks.main_job`.\n\n"
    )


if __name__ == "__main__":
    main()
