"""Budgets on this machine, judged by independent measurements afterwards.

`python -m benchmarks.host_budgets --out FOLDER [--networks N ...] [--targets T ...]` needs EDGEPRUNE_DATA. Each run is
`edgeprune compress`, each check `edgeprune bench` of the original's and the final artifact, in processes of their own.
A stopped benchmark goes on where it was; it writes results/host_budgets.json and results/host_budgets.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.data import data_file
from edgeprune.files import write_text
from edgeprune.terminal import TerminalProgress
from edgeprune.verdict.result import read_result

_RESULTS = Path(__file__).parent / "results"
_TARGETS = {"host": "onnx", "host-litert": "tflite"}


@dataclass(frozen=True)
class Subject:
    """A trained network, its data, and the part of its latency that is asked for."""

    file: str
    data: str
    part: str


_NETWORKS = {
    "resnet56": Subject("cifar10-resnet56.pt", "cifar10_fifth", "60%"),
    "mobilenet_v1_075": Subject("imagenet-mobilenetv1-075-224.pt", "imagenet_samples", "70%"),
    "mobilenet_v2_100_folded": Subject("imagenet-mobilenetv2-100-224-folded.pt", "imagenet_samples", "80%"),
}


@dataclass(frozen=True)
class Row:
    """One run and its check, in milliseconds; `upper_end_ms` is that of the run's own last measurement."""

    network: str
    target: str
    asked: str
    verdict: str
    rounds: int
    budget_ms: float
    original_ms: float
    final_ms: float
    upper_end_ms: float
    checked_original_ms: float
    checked_final_ms: float
    load: float


def run(network: str, target: str, out: Path) -> Row:
    """Compress and check, or read what an earlier call left of either."""
    folder, subject = out / f"{network}-{target}", _NETWORKS[network]
    if not (folder / "result.json").exists():
        source = (str(data_file(subject.file)), "--arch", f"benchmarks.networks:{network}")
        asked = ("--data", f"benchmarks.data:{subject.data}", "--target", target, "--latency", subject.part)
        _edgeprune("compress", *source, *asked, "--epochs", "0", "--out", str(folder), "--resume")
    checked = out / f"{network}-{target}.json"
    if not checked.exists():
        name = f"model.{_TARGETS[target]}"
        artifacts = (str(folder / "work" / "original" / name), str(folder / name))
        _edgeprune("bench", *artifacts, "--target", target, "--out", str(checked))
    result, (original, final) = read_result(folder / "result.json"), json.loads(checked.read_text())
    return Row(
        network=network,
        target=target,
        asked=subject.part,
        verdict=result.verdict,
        rounds=result.rounds,
        budget_ms=result.budget.latency_ms or 0.0,
        original_ms=result.original.latency_p50_ms,
        final_ms=result.final.latency_p50_ms,
        upper_end_ms=result.final.latency_interval_ms[1],
        checked_original_ms=original["latency_p50_ms"],
        checked_final_ms=final["latency_p50_ms"],
        load=round(os.getloadavg()[0], 1),
    )


def _edgeprune(*arguments: str) -> None:
    """Run a command of its own; a budget that was not met is a result, anything else ends the benchmark."""
    done = subprocess.run([sys.executable, "-m", "edgeprune.cli", *arguments], check=False)
    if done.returncode not in (0, 1, 3):
        raise SystemExit(done.returncode)


def table(rows: Iterable[Row]) -> str:
    """Return the page."""
    titles = ("network", "target", "asked for", "rounds", "original", "final", "of the budget", "upper end", "verdict")
    checks = ("original again", "final again", "of the budget", "of the original")
    lines = [
        "# Budgets on this machine",
        "",
        "Median latencies. The upper end is that of the 95 % interval, as a part of the budget. *Again* is measured",
        "afterwards by `edgeprune bench`, in other processes. No training: this is about time alone.",
        "",
        "Regenerate with `python -m benchmarks.host_budgets --out FOLDER`.",
        "",
        "| " + " | ".join((*titles, *checks)) + " |",
        "| --- | --- |" + " ---: |" * 6 + " --- |" + " ---: |" * len(checks),
    ]
    for row in rows:
        lines.append(
            f"| {row.network} | {row.target} | {row.asked} | {row.rounds} | {row.original_ms:.3f} ms "
            f"| {row.final_ms:.3f} ms | {row.final_ms / row.budget_ms:.1%} | {row.upper_end_ms / row.budget_ms:.1%} "
            f"| {row.verdict} | {row.checked_original_ms:.3f} ms | {row.checked_final_ms:.3f} ms "
            f"| {row.checked_final_ms / row.budget_ms:.1%} | {row.checked_final_ms / row.checked_original_ms:.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=_NETWORKS, default=tuple(_NETWORKS))
    parser.add_argument("--targets", nargs="+", choices=_TARGETS, default=tuple(_TARGETS))
    asked = parser.parse_args()
    progress, rows = TerminalProgress(), []
    for network in asked.networks:
        for target in asked.targets:
            rows.append(run(network, target, asked.out))
            progress.say(f"{rows[-1]}")
            write_text(_RESULTS / "host_budgets.json", json.dumps([asdict(row) for row in rows], indent=1) + "\n")
            write_text(_RESULTS / "host_budgets.md", table(rows))


if __name__ == "__main__":
    main()
