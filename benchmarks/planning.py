"""What exact planning takes and brings: seconds to plan, and importance kept beside a greedy choice.

`python -m benchmarks.planning --out FOLDER [--networks N ...]` plans on one emulated board, whose layers it profiles
once into FOLDER (the one of benchmarks.controllers will do), and writes results/planning.json and results/planning.md.
Both ways choose among the same numbers of units, with layers that take as long alone. Seconds are of processor time.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.controllers import Bench, keep_tables_in, prepared
from edgeprune import registry
from edgeprune.bench.target import load_target
from edgeprune.contracts import Problem
from edgeprune.controllers._demands import demands_of
from edgeprune.controllers._resources import Resources
from edgeprune.files import write_text
from edgeprune.network.groups import Allocation
from edgeprune.run.trial import kept_score
from edgeprune.terminal import TerminalProgress

_RESULTS = Path(__file__).parent / "results"
_NETWORKS = (
    "resnet20",
    "resnet56",
    "resnet50",
    "mobilenet_v1_075",
    "mobilenet_v2_100_folded",
    "vit_tiny",
    "densenet121",
)
_BOARD = "emulated-raspberry-pi-4"
_PARTS = (0.8, 0.6, 0.4)


@dataclass(frozen=True)
class Planned:
    """One plan: the problem's size, the exact choice and the greedy one; `kept` are parts of all importance.

    `greedy_kept` is None where the greedy choice does not get under the limit.
    """

    network: str
    board: str
    part: float
    groups: int
    options: int
    most_options: int
    seconds: float
    exact_kept: float
    greedy_kept: float | None


class Greedy:
    """Shrinks one group after the other by a step, that which loses least for the time it saves, until all fits."""

    def __init__(self, problem: Problem) -> None:
        """Tabulate the layers; nothing is chosen yet."""
        self._resources = Resources(problem)
        (self._demand,) = demands_of(problem.limits)
        self.nodes = [node for node in self._resources.nodes if not node.parts]
        self._worth = {node.name: dict(zip(node.counts, node.values, strict=True)) for node in self.nodes}

    def allocation(self, most_ms: float) -> Allocation | None:
        """Return what fits so many milliseconds of the layers alone, None where nothing does."""
        kept = {node.name: node.counts[-1] for node in self.nodes}
        now_ms = self.layers_ms(kept)
        while now_ms > most_ms:
            steps = [step for name in kept if (step := self._step(kept, name, now_ms)) is not None]
            if not steps:
                return None
            _, name, count = min(steps)
            kept[name] = count
            now_ms = self.layers_ms(kept)
        return kept

    def layers_ms(self, allocation: Allocation) -> float:
        """Return what the layers take as measured alone."""
        return self._resources.alone(self._demand, allocation)

    def _step(self, kept: Allocation, name: str, now_ms: float) -> tuple[float, str, int] | None:
        """Return what the next smaller count of a group loses for the time it saves, and that count."""
        worth = self._worth[name]
        smaller = max((count for count in worth if count < kept[name]), default=None)
        if smaller is None:
            return None
        saved_ms = now_ms - self.layers_ms({**kept, name: smaller})
        lost = worth[kept[name]] - worth[smaller]
        return (lost / saved_ms if saved_ms > 0 else math.inf), name, smaller


def plan(network: str, bench: Bench, part: float) -> Planned:
    """Plan one network for one budget, exactly, and greedily with no more milliseconds than the exact plan takes."""
    problem = bench.problem(part)
    begin = time.process_time()
    exact = registry.load("controllers", "knapsack")(problem).ask()
    seconds = time.process_time() - begin
    greedy = Greedy(problem)
    chosen = greedy.allocation(greedy.layers_ms(exact)) if exact else None
    return Planned(
        network=network,
        board=_BOARD,
        part=part,
        groups=len(greedy.nodes),
        options=sum(len(node.counts) for node in greedy.nodes),
        most_options=max(len(node.counts) for node in greedy.nodes),
        seconds=seconds,
        exact_kept=kept_score(problem.scores, exact) if exact else 0.0,
        greedy_kept=kept_score(problem.scores, chosen) if chosen else None,
    )


def table(plans: Iterable[Planned]) -> str:
    """Return the page."""
    titles = ("network", "budget", "groups", "options, most of a group", "planned in", "exact", "greedy")
    lines = [
        "# Exact planning",
        "",
        f"Layers of `{_BOARD}` (emulated). Exact and greedy: the part of all importance kept with layers that take as",
        "long alone; scores are random. Seconds of processor time on one core, from the measured layers to the plan.",
        "",
        "Regenerate with `python -m benchmarks.planning --out FOLDER`.",
        "",
        "| " + " | ".join(titles) + " |",
        "| --- |" + " ---: |" * (len(titles) - 1),
    ]
    for one in plans:
        greedy = "" if one.greedy_kept is None else f"{one.greedy_kept:.4f}"
        lines.append(
            f"| {one.network} | {one.part:.0%} | {one.groups} | {one.options}, {one.most_options} "
            f"| {one.seconds:.2f} s | {one.exact_kept:.4f} | {greedy} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", choices=_NETWORKS, default=_NETWORKS)
    asked = parser.parse_args()
    keep_tables_in(asked.out)
    progress, plans = TerminalProgress(), []
    for network in asked.networks:
        bench = Bench(prepared(network, asked.out), load_target(_BOARD), asked.out, progress)
        for part in _PARTS:
            plans.append(plan(network, bench, part))
            progress.say(f"{plans[-1]}")
            write_text(_RESULTS / "planning.json", json.dumps([asdict(one) for one in plans], indent=1) + "\n")
            write_text(_RESULTS / "planning.md", table(plans))


if __name__ == "__main__":
    main()
