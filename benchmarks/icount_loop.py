"""The closed loop where every number is exact: `python -m benchmarks.icount_loop` writes results/icount_loop.*.

The board is a whole arm64 Linux whose clock counts instructions (deploy/emulated/icount.sh), so a latency repeats to
some millionths. A small network on 32 x 32 pictures is compressed to 60 % of its latency with LiteRT there, by the
commands of a newcomer; both networks are measured again in new processes; and a gate with a limit that no real board
could decide judges the same network, and one with a layer of a few more channels. Measurements are short, because what
is exact need not be repeated often. (With ONNX Runtime an inference takes 0.01 % more or fewer instructions from
process to process.) Needs root once, for the board's disk.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import emulated_boards
from benchmarks.loopback_board import environment
from benchmarks.short_measurements import measuring_like
from edgeprune.bench.measure import MeasureOptions, measure
from edgeprune.bench.target import load_target
from edgeprune.commands.compress import Place, compress
from edgeprune.commands.export import Asked, export
from edgeprune.commands.source import Source
from edgeprune.files import write_text
from edgeprune.gating.gate import GateRequest, run_gate
from edgeprune.gating.measuring import Effort
from edgeprune.network.weights import save_weights
from edgeprune.run.job import Choices
from edgeprune.terminal import TerminalProgress
from edgeprune.verdict.budget import Budget, Share

_RESULTS = Path(__file__).parent / "results" / "icount_loop.json"
_CORE = "cortex-a76"
_PART = 0.6
_SHORT = MeasureOptions(processes=2, blocks=1, block_s=0.0, block_runs=31, warmup_runs=8, warmup_s=0.0)
_AGAIN = 2
_STEP_NS = 16  # of the processor's counter, which goes at 62.5 MHz
_WIDTHS = (32, 64, 96)
_WIDER = (32, 72, 96)
_LIMITS = '[limits]\nlatency_regression = "<= 0.1%"\n\n[measuring]\npairs = 3\n'
REPEATS_WITHIN = 5e-5  # of one latency, from benchmark to benchmark


@dataclass(frozen=True)
class Gate:
    """What the gate said of a network beside the original: its verdict, and how much slower it is, with interval."""

    network: str
    verdict: str
    slower: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Loop:
    """What the loop came to; `again` are the medians of later benchmarks, of the original and of the result."""

    verdict: str
    rounds: int
    original_ms: float
    final_ms: float
    part: float
    again: tuple[tuple[float, float], ...]
    gates: tuple[Gate, ...]
    seconds: float


def small_network(widths: Sequence[int] = _WIDTHS) -> nn.Module:
    """Return an untrained network for (batch, 3, 32, 32), ten classes; 2.3 M MACs as it stands."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise((3, *widths)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def wider_network() -> nn.Module:
    """Return the network with eight more channels in its second layer."""
    return small_network(_WIDER)


def write_network(factory: Callable[[], nn.Module], folder: Path) -> Source:
    """Write weights and pictures; neither changes what an inference costs."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    save_weights(factory(), folder / "weights.safetensors")
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "pictures.npz", images=images, labels=np.arange(64) % 10)
    arch = f"benchmarks.icount_loop:{factory.__name__}"
    return Source(folder / "weights.safetensors", arch, data=str(folder / "pictures.npz"))


def run(target: Path, folder: Path) -> Loop:
    """Compress, measure both networks again, and gate."""
    begun_s = time.perf_counter()
    place = Place(folder / "run", progress=TerminalProgress())
    # Without a table of layers: a process takes ten seconds to start here, and a hundred layers some minutes more.
    choices, budget = Choices("magnitude", "bisect", epochs=0), Budget(latency_ms=Share(_PART))
    with measuring_like(_SHORT):
        result = compress(write_network(small_network, folder / "small"), [str(target)], budget, choices, place)
    original, final = folder / "run" / "work" / "original" / "model.tflite", folder / "run" / "model.tflite"
    board = load_target(str(target))
    again = [tuple(measure(path, board, _SHORT).latency_p50_ms for path in (original, final)) for _ in range(_AGAIN)]
    return Loop(
        verdict=result.verdict,
        rounds=result.rounds,
        original_ms=result.original.latency_p50_ms,
        final_ms=result.final.latency_p50_ms,
        part=result.final.latency_p50_ms / result.original.latency_p50_ms,
        again=tuple((original_ms, final_ms) for original_ms, final_ms in again),
        gates=(
            gate("the same, exported again", small_network, original, target, folder / "same"),
            gate("8 more channels in one layer", wider_network, original, target, folder / "wider"),
        ),
        seconds=time.perf_counter() - begun_s,
    )


def gate(name: str, factory: Callable[[], nn.Module], baseline: Path, target: Path, folder: Path) -> Gate:
    """Export a network and judge it beside the original, on the board."""
    export(write_network(factory, folder), Asked("tflite"), folder, TerminalProgress())
    limits = folder / "gate.toml"
    limits.write_text(_LIMITS)
    effort = Effort(measure=_SHORT, progress=TerminalProgress())
    candidate = (folder / "model.tflite",)
    request = GateRequest(candidate, limits, str(baseline), str(target), "small", store=None, effort=effort)
    (judgement,) = run_gate(request).judgements
    (check,) = judgement.checks
    slower = check.estimate
    if slower is None:
        raise RuntimeError(f"the gate could not judge the network: {check}")
    return Gate(name, judgement.verdict, slower.value, (slower.low, slower.high))


def main() -> None:
    """Run the loop and write what it came to."""
    if (reason := emulated_boards.why_not("icount")) is not None:
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory(prefix="edgeprune-icount-") as name:
        folder = Path(name)
        own = {f"XDG_{what.upper()}_HOME": str(folder / what) for what in ("config", "cache")}
        with emulated_boards.running("icount", folder / "board", _CORE) as board, environment(own), board.on_path():
            loop = run(board.state / "litert.toml", folder)
    write_text(_RESULTS, json.dumps(asdict(loop), indent=1) + "\n")
    write_text(_RESULTS.with_suffix(".md"), table(loop))
    if (reason := what_is_wrong(loop)) is not None:
        raise SystemExit(reason)


def what_is_wrong(loop: Loop) -> str | None:
    """Return in which way the loop did not come to what it must, or None."""
    if loop.verdict != "pass" or loop.part > _PART:
        return f"The result takes {loop.part:.2%} of the original's time: {loop.verdict}."
    if largest_change(loop) > REPEATS_WITHIN:
        return f"A latency changed by {largest_change(loop):.1e} of itself."
    if [gate.verdict for gate in loop.gates] != ["pass", "fail"]:
        return f"The gates came to other verdicts: {loop.gates}."
    return None


def largest_change(loop: Loop) -> float:
    """Return by which part of itself a latency was ever another one than in the run."""
    pairs = [pair for again in loop.again for pair in zip(again, (loop.original_ms, loop.final_ms), strict=True)]
    return max(abs(again - before) / before for again, before in pairs)


def table(loop: Loop) -> str:
    """Return the result as Markdown."""
    rows = [("in the run", loop.original_ms, loop.final_ms), *(("measured again", *pair) for pair in loop.again)]
    lines = [f"| {name} | {one:.5f} ms | {other:.5f} ms | {other / one:.4%} |" for name, one, other in rows]
    return "\n".join(
        [
            "# The closed loop on a board whose clock counts instructions",
            "",
            f"`compress --latency {_PART:.0%}` of a small network on 32 x 32 pictures, over ssh, {loop.rounds} rounds:",
            f"verdict {loop.verdict}, in {loop.seconds / 60:.0f} min. No latency was ever further than "
            f"{largest_change(loop):.4%} of itself from the first one;",
            f"one step of the clock ({_STEP_NS} ns) is {_STEP_NS / loop.original_ms / 1e6:.4%} of the original.",
            "Regenerate with `python -m benchmarks.icount_loop` (as root).",
            "",
            "| | original | result | part |",
            "| --- | ---: | ---: | ---: |",
            *lines,
            "",
            "`gate` with `latency_regression <= 0.1%`, three processes of each network in turns with the original:",
            "",
            "| network | slower than the original | 95% interval | verdict |",
            "| --- | ---: | --- | --- |",
            *(
                f"| {one.network} | {one.slower:+.4%} | {' to '.join(f'{end:+.4%}' for end in one.interval)} "
                f"| {one.verdict} |"
                for one in loop.gates
            ),
            "",
        ]
    )


if __name__ == "__main__":
    main()
