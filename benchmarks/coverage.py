"""Finds and cuts the coupled channels of many networks, and proves every cut.

    python -m benchmarks.coverage --out benchmarks/results/coverage.jsonl            everything, ours
    python -m benchmarks.coverage --peer --out benchmarks/results/coverage_peer.jsonl   Torch-Pruning, same networks
    python -m benchmarks.coverage --summary benchmarks/results/coverage.jsonl        the table

One line of JSON for each network, appended at once; a network that is already there is not run again.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo import MOST_PARAMETERS, Entry, build, declare_torchvision, timm_entries, torchvision_entries
from edgeprune.errors import EdgepruneError
from edgeprune.network.counting import count_macs, count_parameters
from edgeprune.network.coupling.ride import FAILURES
from edgeprune.network.equivalence import check_masked_equivalence
from edgeprune.network.groups import Structure, coverage
from edgeprune.network.plan import Plan, PruneChannels
from edgeprune.network.selection import allowed_counts, select_units
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply

LIMIT_S = 120
KEPT_PART = 0.7  # of every group, so that layers between two groups keep about half their work
Row = dict[str, Any]


class LateError(Exception):
    """The time limit is over."""


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/coverage.jsonl"))
    parser.add_argument("--peer", action="store_true", help="run Torch-Pruning instead")
    parser.add_argument("--source", choices=("torchvision", "timm"), help="only these networks")
    parser.add_argument("--only", nargs="*", default=[], help="only networks of these names")
    parser.add_argument("--summary", type=Path, help="print the table of a finished run")
    options = parser.parse_args()
    if options.summary:
        print(summary([json.loads(line) for line in options.summary.read_text().splitlines()]))
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    library = declare_torchvision()
    entries = [*torchvision_entries(), *timm_entries(Path(__file__).parent / "results" / "timm_members.json")]
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    done = {json.loads(line)["name"] for line in lines}
    for entry in entries:
        wanted = not options.only or entry.name in options.only
        if wanted and options.source in (None, entry.source) and f"{entry.source}/{entry.name}" not in done:
            row = run(entry, peer_cut if options.peer else own_cut)
            with options.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row["name"], row.get("problem", "ok"), flush=True)
    del library


def run(entry: Entry, cut: Callable[[nn.Module, Tensor, Row], None]) -> Row:
    """Build one network, see that it runs, and cut it within the time limit."""
    row: Row = {"name": f"{entry.source}/{entry.name}", "load": round(os.getloadavg()[0], 1)}
    start_mb = resident_mb()
    network = build(entry)
    row["parameters"] = count_parameters(network)
    if row["parameters"] > MOST_PARAMETERS:
        return {**row, "skipped": "larger than the benchmark takes"}
    inputs = torch.randn(1, *entry.size)
    try:
        with torch.no_grad(), time_limit():
            network(inputs)  # the first run pays for what later ones find ready
            reset_peak()
            row["forward_s"] = timed(lambda: network(inputs))
            row["forward_mb"] = peak_mb() - start_mb
    except (LateError, *FAILURES) as error:
        return {**row, "skipped": f"does not run: {type(error).__name__} {error}"[:200]}
    row["start_mb"] = start_mb
    try:
        with time_limit():
            cut(network, inputs, row)
    except (EdgepruneError, *FAILURES) as error:
        row["problem"] = f"{type(error).__name__}: {error}"[:400]
    except LateError:
        row["problem"] = f"not done in {LIMIT_S} s of processor time"
    gc.collect()
    return row


def own_cut(network: nn.Module, inputs: Tensor, row: Row) -> None:
    """Groups, a plan of about half the work, the cut and its proof."""
    reset_peak()
    found: list[Structure] = []
    row["groups_s"] = timed(lambda: found.append(network_structure(network, inputs)))
    row["groups_mb"] = peak_mb() - row.pop("start_mb")
    structure = found[0]
    row.update(groups=len(structure.groups), coverage=round(coverage(structure), 4))
    row["quarantined"] = [f"{item.name}: {item.reason} [{item.operation}]" for item in structure.quarantined]
    plan = random_plan(structure)
    cut: list[nn.Module] = []
    row["via"] = "modules"
    try:
        row["cut_s"] = timed(lambda: cut.append(apply(plan, network, inputs)))
    except EdgepruneError as error:
        row.update(via="export", fixed_size=str(error)[:300])
        row["cut_s"] = timed(lambda: cut.append(apply(plan, network, inputs, via="export")))
    row["macs_left"] = round(count_macs(cut[0], inputs) / count_macs(network, inputs), 4)
    report = check_masked_equivalence(network, cut[0], plan, inputs)
    row.update(proof="exact" if report.exact else "shapes", difference=report.largest_difference)
    if not report.exact:
        row.update(_exact_part(network, inputs, structure, plan))


def _exact_part(network: nn.Module, inputs: Tensor, structure: Structure, plan: Plan) -> Row:
    """The same plan without the groups that a norm runs across: that part has an exact proof."""
    exact = {group.name for group in structure.groups if group.exact}
    part = Plan(tuple(edit for edit in plan.cuts if edit.group in exact))
    if not part.edits:
        return {"exact_groups": 0}
    report = check_masked_equivalence(network, apply(part, network, inputs, via="auto"), part, inputs)
    return {"exact_groups": len(part.edits), "difference": report.largest_difference}


def random_plan(structure: Structure) -> Plan:
    """Random units, about `KEPT_PART` of every group, as near as the constraints allow."""
    chance = random.Random(0)
    edits = []
    for group in structure.groups:
        kept = min(allowed_counts(group), key=lambda count: (abs(count - KEPT_PART * group.size), -count))
        scores = [chance.random() for _ in range(group.size)]
        edits.append(PruneChannels(group.name, select_units(group, scores, kept)))
    return Plan(tuple(edits))


def peer_cut(network: nn.Module, inputs: Tensor, row: Row) -> None:
    """Torch-Pruning with its default settings, random importance, the output layers left alone."""
    import torch_pruning  # an optional peer

    row.pop("start_mb")
    before = count_macs(network, inputs)
    width = {tensor.shape[1] for tensor in _tensors(network(inputs)) if tensor.ndim > 1}
    last = [module for module in network.modules() if getattr(module, "out_features", None) in width]
    started = time.perf_counter()
    pruner = torch_pruning.pruner.MetaPruner(
        network, inputs, importance=torch_pruning.importance.RandomImportance(),
        pruning_ratio=1 - KEPT_PART, ignored_layers=last,
    )  # fmt: skip
    row["groups_s"] = time.perf_counter() - started
    row["cut_s"] = timed(pruner.step)
    with torch.no_grad():
        network(inputs)
    row["macs_left"] = round(count_macs(network, inputs) / before, 4)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    return [tensor for item in items for tensor in _tensors(item)]


def timed(work: Callable[[], Any]) -> float:
    """Seconds of wall clock that some work takes."""
    started = time.perf_counter()
    work()
    return round(time.perf_counter() - started, 4)


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise LateError when the time limit is over."""

    def stop(*_: Any) -> None:
        raise LateError

    # Processor time, so that other work on the machine does not count.
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def resident_mb() -> float:
    """Memory that this process holds now."""
    return _status("VmRSS")


def peak_mb() -> float:
    """The most memory that this process held since `reset_peak`."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Start counting the peak anew."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024, 1)


def summary(rows: list[Row]) -> str:
    """What share was cut and proved, and the spread of the seconds."""
    lines = []
    for source in ("torchvision", "timm"):
        mine = [row for row in rows if row["name"].startswith(source) and "skipped" not in row]
        good = [row for row in mine if "problem" not in row]
        if mine:
            lines.append(f"{source}: {len(good)} of {len(mine)} cut ({100 * len(good) / len(mine):.1f} %)")
            lines += [f"  {key}: {_spread([row[key] for row in good])}" for key in ("groups_s", "cut_s", "macs_left")]
            # Smaller forwards fit into memory that the process holds already, so their peak says nothing.
            memory = [
                row["groups_mb"] / row["forward_mb"] for row in good if row.get("groups_mb") and row["forward_mb"] > 100
            ]
            lines += [f"  memory against a forward: {_spread(memory)}"] if memory else []
            ways = [row.get("via") for row in good]
            lines.append(f"  via modules {ways.count('modules')}, via export {ways.count('export')}")
            lines += [f"  {row['name']}: {row['problem']}" for row in mine if "problem" in row]
    skipped = [row for row in rows if "skipped" in row]
    return "\n".join([*lines, f"not run: {len(skipped)}", *(f"  {row['name']}: {row['skipped']}" for row in skipped)])


def _spread(values: list[float]) -> str:
    ordered = sorted(values)
    return f"median {ordered[len(ordered) // 2]:.3f}, least {ordered[0]:.3f}, most {ordered[-1]:.3f}"


if __name__ == "__main__":
    main()
