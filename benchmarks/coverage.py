"""Finds and cuts the coupled channels of many networks, and proves every cut.

    python -m benchmarks.coverage --peer                                      everything, ours beside Torch-Pruning
    python -m benchmarks.coverage --only resnet18 --out /tmp/coverage.jsonl   ours, one network
    python -m benchmarks.coverage --summary benchmarks/results/coverage.jsonl the table

One line of JSON for each network and tool, appended at once; one that is already there is not run again. Seconds are
of processor time on one thread, so that other work on the machine counts little; `wall_s` is the clock's.
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
from torch import Tensor, fx, nn

from benchmarks.zoo import MOST_PARAMETERS, Entry, build, declare_torchvision, timm_entries, torchvision_entries
from edgeprune.errors import EdgepruneError
from edgeprune.network.counting import count_macs, count_parameters
from edgeprune.network.coupling.ride import FAILURES
from edgeprune.network.equivalence import check_masked_equivalence
from edgeprune.network.groups import Structure, coverage
from edgeprune.network.plan import Plan, PruneChannels
from edgeprune.network.selection import allowed_counts, select_units
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply, fixed_size

OWN, PEER = "edgeprune", "torch-pruning"
LIMITS_S = {OWN: 120, PEER: 60}  # of processor time; in a run with 120 for both, no peer took between 42 and 120
SLOW_S = 5
KEPT_PART = 0.7  # of every group, so that layers between two groups keep about half their work
Row = dict[str, Any]
Cut = Callable[[nn.Module, Tensor, Row], None]


class LateError(BaseException):
    """The time limit is over."""


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/coverage.jsonl"))
    parser.add_argument("--peer", action="store_true", help="run Torch-Pruning on each network too")
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
    done = {(row["tool"], row["name"]) for row in map(json.loads, lines)}
    tools = TOOLS if options.peer else {OWN: own_cut}
    for entry in entries:
        wanted = not options.only or entry.name in options.only
        for tool, cut in tools.items() if wanted and options.source in (None, entry.source) else ():
            if (tool, entry.label) not in done:
                row = run(entry, tool, cut)
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(tool, row["name"], row.get("problem", "ok"), flush=True)
    del library


def run(entry: Entry, tool: str, cut: Cut) -> Row:
    """Build one network, see that it runs, and cut it within the time limit."""
    row: Row = {"tool": tool, "name": entry.label, "load": round(os.getloadavg()[0], 1)}
    start_mb = resident_mb()
    network = build(entry)
    row["parameters"] = count_parameters(network)
    if row["parameters"] > MOST_PARAMETERS:
        return {**row, "skipped": "larger than the benchmark takes"}
    inputs = torch.randn(1, *entry.size)
    try:
        with torch.no_grad(), time_limit(LIMITS_S[OWN]):
            network(inputs)  # the first run pays for what later ones find ready
            reset_peak()
            row["forward_s"] = timed(lambda: network(inputs))
            row["forward_mb"] = peak_mb() - start_mb
    except (LateError, *FAILURES) as error:
        return {**row, "skipped": f"does not run: {type(error).__name__} {error}"[:200]}
    row["start_mb"] = start_mb
    started = time.perf_counter()
    try:
        with time_limit(LIMITS_S[tool]):
            cut(network, inputs, row)
    except (EdgepruneError, *FAILURES) as error:
        row["problem"] = f"{type(error).__name__}: {error}"[:400]
    except LateError:
        row["problem"] = f"not done in {LIMITS_S[tool]} s of processor time"
    row["wall_s"] = round(time.perf_counter() - started, 2)
    gc.collect()
    return row


def own_cut(network: nn.Module, inputs: Tensor, row: Row) -> None:
    """Groups, a plan of about half the work, the cut and its proof.

    `cut_s` is all of `apply`, from the network to its cut copy: it finds the groups itself.
    """
    reset_peak()
    found: list[Structure] = []
    row["groups_s"] = timed(lambda: found.append(network_structure(network, inputs)))
    row["groups_mb"] = peak_mb() - row.pop("start_mb")
    structure = found[0]
    row.update(groups=len(structure.groups), coverage=round(coverage(structure), 4))
    row["quarantined"] = [f"{item.name}: {item.reason} [{item.operation}]" for item in structure.quarantined]
    plan = random_plan(structure)
    cut: list[nn.Module] = []
    row["cut_s"] = timed(lambda: cut.append(apply(plan, network, inputs, via="auto")))
    row["via"] = "export" if isinstance(cut[0], fx.GraphModule) else "modules"
    if row["via"] == "export":
        row["fixed_size"] = fixed_size(network, inputs)[:300]
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

    reset_peak()
    before = count_macs(network, inputs)
    width = {tensor.shape[1] for tensor in _tensors(network(inputs)) if tensor.ndim > 1}
    last = [module for module in network.modules() if getattr(module, "out_features", None) in width]
    started = time.process_time()
    pruner = torch_pruning.pruner.MetaPruner(
        network, inputs, importance=torch_pruning.importance.RandomImportance(),
        pruning_ratio=1 - KEPT_PART, ignored_layers=last,
    )  # fmt: skip
    row["groups_s"] = round(time.process_time() - started, 4)
    row["groups_mb"] = peak_mb() - row.pop("start_mb")
    row["cut_s"] = round(row["groups_s"] + timed(pruner.step), 4)
    with torch.no_grad():
        network(inputs)
    row["macs_left"] = round(count_macs(network, inputs) / before, 4)


TOOLS: dict[str, Cut] = {OWN: own_cut, PEER: peer_cut}


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    return [tensor for item in items for tensor in _tensors(item)]


def timed(work: Callable[[], Any]) -> float:
    """Seconds of processor time that some work takes."""
    started = time.process_time()
    work()
    return round(time.process_time() - started, 4)


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """Raise LateError when the time limit is over."""

    def stop(*_: Any) -> None:
        raise LateError

    # Processor time, so that other work on the machine does not count.
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
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
    """What share each tool cut and proved, and the spread of the seconds."""
    lines = []
    for tool in TOOLS:
        for source in ("torchvision", "timm"):
            mine = [row for row in rows if row["tool"] == tool and row["name"].startswith(source)]
            lines += _table(f"{tool}, {source}", [row for row in mine if "skipped" not in row])
    lines += _against_peer(rows)
    skipped = [row for row in rows if "skipped" in row and row["tool"] == OWN]
    return "\n".join([*lines, f"not run: {len(skipped)}", *(f"  {row['name']}: {row['skipped']}" for row in skipped)])


def _table(title: str, rows: list[Row]) -> list[str]:
    good = [row for row in rows if "problem" not in row]
    if not good:
        return []
    lines = [f"{title}: {len(good)} of {len(rows)} cut ({100 * len(good) / len(rows):.1f} %)"]
    lines += [f"  {key}: {_spread([row[key] for row in good])}" for key in ("groups_s", "cut_s", "macs_left")]
    # Smaller forwards fit into memory that the process holds already, so their peak says nothing.
    memory = [row["groups_mb"] / row["forward_mb"] for row in good if row["forward_mb"] > 100]
    lines += [f"  memory against a forward: {_spread(memory)}"] if memory else []
    slow = sorted((row for row in good if row["cut_s"] > SLOW_S), key=lambda row: -float(row["cut_s"]))
    lines += [f"  over {SLOW_S} s: {row['name']} {row['cut_s']:.1f} s, via {row.get('via')}" for row in slow]
    if "via" in good[0]:
        ways, proofs = [row["via"] for row in good], [row["proof"] for row in good]
        lines.append(f"  via modules {ways.count('modules')}, via export {ways.count('export')}")
        lines.append(f"  proof exact {proofs.count('exact')}, where a norm runs across {proofs.count('shapes')}")
        lines.append(f"  MACs in layers that some group makes smaller: {_spread([row['coverage'] for row in good])}")
    return [*lines, *(f"  {row['name']}: {row['problem']}" for row in rows if "problem" in row)]


def _against_peer(rows: list[Row]) -> list[str]:
    """How many times longer the peer takes from the network to the cut one, where both cut it."""
    seconds = {(row["tool"], row["name"]): row["cut_s"] for row in rows if "cut_s" in row and "problem" not in row}
    times = {name: peer / seconds[OWN, name] for (tool, name), peer in seconds.items()
             if tool == PEER and (OWN, name) in seconds}  # fmt: skip
    lines = [f"seconds of Torch-Pruning over ours, both cut: {_spread(list(times.values()))}"] if times else []
    return lines + [f"  {name}: {value:.1f}" for name, value in times.items() if "densenet" in name]


def _spread(values: list[float]) -> str:
    ordered = sorted(values)
    return f"median {ordered[len(ordered) // 2]:.3f}, least {ordered[0]:.3f}, most {ordered[-1]:.3f}"


if __name__ == "__main__":
    main()
