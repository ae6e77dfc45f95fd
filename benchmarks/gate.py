"""How often a gate errs, over simulated pull requests: `python -m benchmarks.gate simulate`, then `... report`.

Each pull request is a baseline and a candidate on an emulated board of its own: noise of its serial number, and heat
that slows it down while it is measured. The candidate is the same network, or truly 3 % or 10 % slower. The gate
decides by the code of `edgeprune gate`, in virtual time. The same samples, and a baseline that was stored in an earlier
session, are also given to the usual rules: the mean against a fixed threshold, and Mann-Whitney alone.

`python -m benchmarks.gate host` asks for the same decision on this machine, about two networks that are equal and two
of which one has a layer 10 % wider; on a machine that others use too, raise its priority with chrt. `... shared` asks
while another program has the same core. Results are appended to results/gate*.jsonl, so that a stopped run goes on;
`report` writes results/gate.md.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from edgeprune.bench.emulated_board import EmulatedBoard, NetworkTime, board_from_settings, emulate
from edgeprune.bench.emulated_process import EmulatedProcess, VirtualClock
from edgeprune.bench.measure import MeasureOptions, turn_order
from edgeprune.bench.measurement import Block, ProcessRun
from edgeprune.bench.statistics import pooled_ms
from edgeprune.bench.target import Target, load_target
from edgeprune.bench.work import works_of_onnx
from edgeprune.files import append_line, write_text
from edgeprune.gating.estimates import Evidence, estimate_all
from edgeprune.gating.measuring import Effort, Looks, measure_until_clear
from edgeprune.verdict.gate import judge_limits
from edgeprune.verdict.gate_limits import Limit
from edgeprune.verdict.record import Record

_RESULTS = Path(__file__).parent / "results"
_LIMIT = Limit("latency_regression", "<= 3%", 0.03)
_EFFECTS = (0.0, 0.03, 0.10)
# Output channels of one tile of the board's kernels, and how many tiles the layer has: it grows by whole tiles.
_BOARDS = {
    "emulated-raspberry-pi-5-onnxruntime": (4, 800),
    "emulated-raspberry-pi-4-onnxruntime": (4, 800),
    "emulated-jetson-nano": (64, 600),
}
_QUICK = MeasureOptions(blocks=3, block_runs=10, block_s=0.0, warmup_runs=5, warmup_s=0.0, warmup_limit_s=0.1)
# Sessions on another day differ more than processes of one session do; 2 % is an assumption, and the second half of
# the table does without it.
_BETWEEN_SESSIONS = 0.02
_STORED_PROCESSES = 6
_SHARED = ", on a shared core"
_FEWEST_PAIRS = 6
_SLOWER_PER_C = 0.002
_USUAL_RULES = ("mean > 5 %", "mean > 10 %", "Mann-Whitney, p < 0.05")

app = typer.Typer(add_completion=False)


@app.command()
def simulate(requests: int = 1000, seconds: float = 600.0) -> None:
    """Judge so many pull requests of each kind, or as many as the time admits; goes on where an earlier call ended."""
    path = _RESULTS / "gate.jsonl"
    done = {(row["effect"], row["number"]) for row in _rows(path)}
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        for number in range(requests):
            for effect in _EFFECTS:
                if (effect, number) in done:
                    continue
                if time.monotonic() > end:
                    return
                append_line(path, json.dumps(_pull_request(Path(folder), effect, number)))


@app.command()
def host(repetitions: int = 20, seconds: float = 600.0) -> None:
    """Ask for the same decision on this machine, about real files."""
    _ask_here("", repetitions, seconds, Effort())


@app.command()
def shared(repetitions: int = 5, seconds: float = 600.0) -> None:
    """Ask again while another program computes on the same core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            _ask_here(_SHARED, repetitions, seconds, Effort(pairs=_FEWEST_PAIRS))
        finally:
            other.kill()
            os.sched_setaffinity(0, cores)


@app.command()
def report(out: Annotated[Path, typer.Option()] = _RESULTS / "gate.md") -> None:
    """Write the tables."""
    rows, measured = _rows(_RESULTS / "gate.jsonl"), _rows(_RESULTS / "gate_host.jsonl")
    text = ["# How often a gate errs", "", *_simulated_table(rows), *_host_table(measured)]
    write_text(out, "\n".join(text) + "\n")


def _ask_here(beside: str, repetitions: int, seconds: float, effort: Effort) -> None:
    """Judge equal networks and one with a wider layer, so often, or as often as the time admits."""
    path = _RESULTS / "gate_host.jsonl"
    done = {(row["effect"], row["number"]) for row in _rows(path)}
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder:
        files = {name: _real_network(Path(folder), width) for name, width in (("equal", 160), ("wider", 176))}
        for number, name in product(range(repetitions), files):
            if (name + beside, number) in done:
                continue
            if time.monotonic() > end:
                return
            row = _judged(files["equal"], files[name], load_target("host"), effort)
            row |= {"effect": name + beside, "number": number, "load": round(os.getloadavg()[0], 1)}
            append_line(path, json.dumps(row))


def _pull_request(folder: Path, effect: float, number: int) -> dict[str, Any]:
    """Return what every rule says about one pull request."""
    chance = random.Random(f"{effect} {number}")
    name = chance.choice(list(_BOARDS))
    board = _drifting(name)
    base, candidate, truth = _networks(folder, name, effect)
    clock = VirtualClock(board)
    clock.pass_time(chance.expovariate(1 / 30), busy=True)  # what ran before left it warm
    row, runs = _judged_there(board, (base, candidate), clock, f"{effect} {number}")
    # The baseline of an earlier session: the board had rested, and the day was another.
    rested = VirtualClock(board)
    stored = [_process(board, base, rested, f"stored {effect} {number} {n}") for n in range(_STORED_PROCESSES)]
    earlier = pooled_ms(stored) * math.exp(_BETWEEN_SESSIONS * chance.gauss(0, 1))
    return {
        "effect": effect,
        "number": number,
        "board": name,
        "true_effect": truth,
        **row,
        "stored": _alarms(earlier, pooled_ms(runs[1][:_STORED_PROCESSES])),
        "interleaved": _alarms(pooled_ms(runs[0]), pooled_ms(runs[1])),
    }


def _judged_there(
    board: EmulatedBoard, networks: tuple[NetworkTime, NetworkTime], clock: VirtualClock, serial: str
) -> tuple[dict[str, Any], list[list[ProcessRun]]]:
    """Measure in turns, in virtual time, until the gate has seen enough; return its verdict and the samples."""
    looks = Looks(Evidence(_nothing_known(), _nothing_known()), [_LIMIT], Effort(measure=_QUICK))
    runs: list[list[ProcessRun]] = [[], []]
    while not runs[1] or not looks.is_enough(runs):
        turn = len(runs[1])
        for index in turn_order(2, turn):
            runs[index].append(_process(board, networks[index], clock, f"{serial} {turn} {index}"))
    return _verdict(looks.seen(runs)), runs


def _process(board: EmulatedBoard, network: NetworkTime, clock: VirtualClock, seed: str) -> ProcessRun:
    """Return what one process on the board measures, as the agent there would say it."""
    events = list(EmulatedProcess(board, network, clock, seed).events(asdict(_QUICK)))
    said = {event["event"]: event for event in events}
    blocks = [Block(tuple(e["samples_ns"]), e["telemetry"]) for e in events if e["event"] == "block"]
    opened, peak = said["opened"], said["done"]["peak_memory_bytes"]
    return ProcessRun(opened["open_ms"], opened["first_ms"], (), tuple(blocks), peak)


def _judged(base: Path, candidate: Path, target: Target, effort: Effort) -> dict[str, Any]:
    """Return the verdict of the gate about two files, how many pairs it took, and what it found."""
    evidence = Evidence(_record(candidate, target), _record(base, target))
    return _verdict(measure_until_clear(evidence, [_LIMIT], target, effort))


def _verdict(seen: Evidence) -> dict[str, Any]:
    estimates = estimate_all(seen, [_LIMIT])
    (check,) = judge_limits([_LIMIT], estimates.known, estimates.unknown, is_last=True)
    found = estimates.known["latency_regression"]
    numbers = [round(value, 5) for value in (found.value, found.low, found.high)]
    return {"verdict": check.outcome, "pairs": len(seen.runs), "found": numbers, "busy": bool(found.doubt)}


def _alarms(first: Any, second: Any) -> list[str]:
    """Return which of the usual rules raise an alarm."""
    from scipy.stats import mannwhitneyu

    growth = float(np.mean(second) / np.mean(first)) - 1
    chance = mannwhitneyu(first, second, alternative="less").pvalue
    said = zip(_USUAL_RULES, (growth > 0.05, growth > 0.10, chance < 0.05), strict=True)
    return [rule for rule, alarm in said if alarm]


@cache
def _drifting(name: str) -> EmulatedBoard:
    """Return a board that heat slows down more, and faster, than its family."""
    board = board_from_settings(load_target(name).settings)
    return replace(board, heat=replace(board.heat, slower_per_c=_SLOWER_PER_C, settle_s=40.0))


@cache
def _networks(folder: Path, name: str, effect: float) -> tuple[NetworkTime, NetworkTime, float]:
    """Return two networks of one layer, the second as near as can be to so much slower, and by how much exactly."""
    board, (tile, tiles) = _drifting(name), _BOARDS[name]
    base = _one_layer(folder, tiles * tile, board)
    if effect == 0:
        return base, base, 0.0
    likely = range(round(tiles * (1 + 0.95 * effect)), round(tiles * (1 + 1.2 * effect)))
    tried = [_one_layer(folder, count * tile, board) for count in likely]
    candidate = min(tried, key=lambda network: abs(network.latency_ms / base.latency_ms - 1 - effect))
    return base, candidate, round(candidate.latency_ms / base.latency_ms - 1, 5)


def _one_layer(folder: Path, channels: int, board: EmulatedBoard) -> NetworkTime:
    """Return the time of one convolution, as an ONNX file would be timed on the board."""
    import onnx
    from onnx import TensorProto, helper

    path = folder / f"{channels}.onnx"
    if not path.exists():
        weight = helper.make_tensor("w", TensorProto.FLOAT, [channels, 8, 1, 1], bytes(channels * 32), raw=True)
        node = helper.make_node("Conv", ["x", "w"], ["y"], name="layer")
        shapes = (("x", [1, 8, 64, 64]), ("y", [1, channels, 64, 64]))
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
        onnx.save(helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:], [weight])), path)
    return emulate(works_of_onnx(path), board)


def _real_network(folder: Path, width: int) -> Path:
    """Export six convolutions, the third with so many channels."""
    import torch
    from torch import nn

    from edgeprune.network.export import export_network

    widths = (3, 160, 160, width, 160, 160, 160)
    layers = [
        part for inside, outside in pairwise(widths) for part in (nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU())
    ]
    torch.manual_seed(0)
    network = nn.Sequential(*layers).eval()
    return export_network(network, (torch.zeros(1, 3, 16, 16),), folder / str(width), simplify=False).onnx


def _record(artifact: Path, target: Target) -> Record:
    size = artifact.stat().st_size
    return Record(str(artifact), artifact.stem, target.name, target.kind, "", size, artifact=str(artifact))


def _nothing_known() -> Record:
    return Record("", "", "", "emulated", "", 0)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _simulated_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    by_effect = {effect: [row for row in rows if row["effect"] == effect] for effect in _EFFECTS}
    lines = [
        f"Simulated pull requests on emulated boards (numbers are emulated): {len(by_effect[0.0])} without a change, "
        f"{len(by_effect[0.03])} truly 3 % slower, {len(by_effect[0.10])} truly 10 % slower. Parts of all, in percent.",
        "",
        "| rule | no change: false alarm | no change: inconclusive | 3 % slower: caught | 3 %: inconclusive "
        "| 10 % slower: caught |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        _line("edgeprune gate, `latency_regression <= 3%`", by_effect, lambda row: row["verdict"]),
    ]
    for where, title in (("stored", "against a stored baseline"), ("interleaved", "on the gate's own samples")):
        for rule in _USUAL_RULES:

            def says(row: dict[str, Any], where: str = where, rule: str = rule) -> str:
                return "fail" if rule in row[where] else "pass"

            lines.append(_line(f"{rule}, {title}", by_effect, says))
    pairs = {effect: [row["pairs"] for row in found] for effect, found in by_effect.items()}
    effort = ", ".join(f"{effect:.0%}: {np.mean(values):.1f}" for effect, values in pairs.items() if values)
    boards = ", ".join(sorted({row["board"] for row in rows}))
    lines += [
        "",
        f"Pairs of processes that the gate measured on average, by the true slow-down: {effort}. Boards: {boards}, "
        f"each slower by {_SLOWER_PER_C:.1%} a degree, which is several percent within a session. A stored baseline is "
        f"of {_STORED_PROCESSES} processes of an earlier session; sessions differ by {_BETWEEN_SESSIONS:.0%} "
        "(standard deviation, an assumption). The rules on the gate's own samples do without that assumption.",
        "",
    ]
    return lines


def _line(rule: str, by_effect: dict[float, list[dict[str, Any]]], says: Callable[[dict[str, Any]], str]) -> str:
    def part(effect: float, verdict: str) -> str:
        found = by_effect[effect]
        return f"{100 * sum(says(row) == verdict for row in found) / len(found):.1f}" if found else "-"

    cells = (part(0.0, "fail"), part(0.0, "inconclusive"), part(0.03, "fail"), part(0.03, "inconclusive"))
    return f"| {rule} | {' | '.join((*cells, part(0.10, 'fail')))} |"


def _host_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        "The same decision on a real machine (x86-64, ONNX Runtime, one thread), about real files: six convolutions of "
        "160 channels, and the same with the third 10 % wider, which is 4 % more work. Other programs ran beside it, "
        "at a lower priority (`chrt --fifo 1 python -m benchmarks.gate host`). On a shared core, another program "
        "computed on the same core all the time, with the same priority; the gate notices and says that it cannot "
        "know.",
        "",
        "| candidate | repetitions | pass | fail | inconclusive | of these, busy | median found | pairs, mean | load |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for effect in dict.fromkeys(row["effect"] for row in rows):
        found = [row for row in rows if row["effect"] == effect]
        counts = [sum(row["verdict"] == verdict for row in found) for verdict in ("pass", "fail", "inconclusive")]
        slow = np.median([row["found"][0] for row in found])
        loads = [row["load"] for row in found]
        pairs = np.mean([row["pairs"] for row in found])
        lines.append(
            f"| {effect} | {len(found)} | {counts[0]} | {counts[1]} | {counts[2]} "
            f"| {sum(row['busy'] for row in found)} | {100 * slow:+.1f} % | {pairs:.1f} "
            f"| {min(loads):.0f} to {max(loads):.0f} |"
        )
    return lines


if __name__ == "__main__":
    app()
