"""The fastest ResNet-20 whose accuracy on CIFAR-10 stays inside a limit, on this machine.

`python -m benchmarks.max_drop [--drop 3] [--epochs 2] [--out FOLDER]` needs EDGEPRUNE_DATA. It writes
results/max_drop.json and results/max_drop.md beside this file; a stopped benchmark goes on where it was.
A whole recovery is two epochs over 10,000 training pictures; accuracies are on 5,000 test pictures.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import cifar10_fifth, data_file
from edgeprune.bench.target import load_target
from edgeprune.files import write_text
from edgeprune.loop import run_job
from edgeprune.network.data import example_inputs
from edgeprune.network.model import load_model
from edgeprune.run.fastest import STAGE
from edgeprune.run.job import Choices, Job
from edgeprune.run_dir import RunDir
from edgeprune.terminal import TerminalProgress
from edgeprune.verdict.budget import Budget, Points

_RESULTS = Path(__file__).parent / "results"


def find_fastest(drop_points: float, epochs: int, out: Path) -> dict[str, Any]:
    """Search, or go on with a search; return its attempts and what it ended with."""
    data = cifar10_fifth()
    model = load_model(data_file("cifar10-resnet20.pt"), "benchmarks.networks:resnet20")
    job = Job(
        model=model,
        example_inputs=example_inputs(data),
        data=data,
        target=load_target("host"),
        budget=Budget(accuracy_drop=Points(drop_points)),
        choices=Choices("taylor", "knapsack", epochs),
        out=out,
        command=("benchmarks.max_drop",),
    )
    result = run_job(job, TerminalProgress(), resume=True)
    ends = {name: getattr(result, name) for name in ("original", "final")}
    return {
        "drop_points": drop_points,
        "epochs": epochs,
        "verdict": result.verdict,
        "rounds": result.rounds,
        "load": round(os.getloadavg()[0], 1),
        "seconds": {"training": result.seconds.training, "measuring": result.seconds.measuring},
        "attempts": [dict(attempt) for attempt in RunDir(out).trials(STAGE)],
        **{
            name: {key: getattr(costs, key) for key in ("latency_p50_ms", "latency_interval_ms", "accuracy", "macs")}
            for name, costs in ends.items()
        },
    }


def table(found: Mapping[str, Any]) -> str:
    """Return the search and its end as Markdown."""
    original, final = found["original"], found["final"]
    left = final["latency_p50_ms"] / original["latency_p50_ms"]
    lost = 100 * (original["accuracy"] - final["accuracy"])
    lines = [
        "# The fastest network inside an accuracy limit",
        "",
        f"ResNet-20 on CIFAR-10, target `host`, at most {found['drop_points']:g} points lost. "
        f"{(__doc__ or '').strip().splitlines()[-1]} Regenerate with `python -m benchmarks.max_drop`.",
        "",
        "| attempt | latency asked for | recovery | latency | accuracy | inside the limit |",
        "| ---: | ---: | --- | ---: | ---: | --- |",
        *map(_attempt, found["attempts"]),
        "",
        "| network | latency | 95 % interval | MACs | accuracy |",
        "| --- | ---: | ---: | ---: | ---: |",
        _network("original", original),
        _network("found", final),
        "",
        f"{left:.1%} of the original's latency, for {lost:.2f} points of accuracy; verdict {found['verdict']}. "
        f"{found['rounds']} networks were measured. Other work kept the machine busy (load {found['load']:g}).",
    ]
    return "\n".join(lines) + "\n"


def _attempt(attempt: Mapping[str, Any]) -> str:
    kind = "whole" if attempt["whole"] else "short"
    if attempt["accuracy"] is None:
        return f"| {attempt['index']} | {attempt['part']:.1%} | {kind} | - | - | no network was that fast |"
    inside = "yes" if attempt["feasible"] else "no"
    return (
        f"| {attempt['index']} | {attempt['part']:.1%} | {kind} | {attempt['latency_ms']:.3f} ms "
        f"| {attempt['accuracy']:.2%} | {inside} |"
    )


def _network(name: str, costs: Mapping[str, Any]) -> str:
    low, high = costs["latency_interval_ms"]
    return (
        f"| {name} | {costs['latency_p50_ms']:.3f} ms | {low:.3f} to {high:.3f} ms | {costs['macs'] / 1e6:.1f} M "
        f"| {costs['accuracy']:.2%} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the search and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drop", type=float, default=3.0, help="points of accuracy that may be lost")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/max_drop"))
    asked = parser.parse_args(arguments)
    found = find_fastest(asked.drop, asked.epochs, asked.out)
    write_text(_RESULTS / "max_drop.json", json.dumps(found, indent=1) + "\n")
    write_text(_RESULTS / "max_drop.md", table(found))


if __name__ == "__main__":
    main()
