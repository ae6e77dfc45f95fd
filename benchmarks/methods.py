"""Every method on the same network, to the same allocation, with the same training.

`python -m benchmarks.methods --mode short|full [--networks NAME ...] [--methods NAME ...] [--seeds N]` needs
EDGEPRUNE_DATA. The channels inside of the residual blocks are halved, which halves the multiply-accumulates; the
streams stay whole, because Torch-Pruning, which runs in the same table where it is installed, cannot follow shortcuts
that pad. Methods that train get half of the epochs before the cut, the others all of them after it. A cell is on the
disk as soon as it is done, and a killed training goes on at its last epoch. Writes results/methods_MODE.json and .md
of all cells that are on the disk.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from benchmarks.data import cifar10, cifar10_short, data_file
from benchmarks.entrants import channel_methods
from benchmarks.method_rows import Row, Rows, comparison, finished_rows, table
from benchmarks.peer_pruning import Peer, peers
from edgeprune import registry
from edgeprune.contracts import Context, Method
from edgeprune.files import write_text
from edgeprune.network.batches import Loader, count_batches
from edgeprune.network.counting import count_macs
from edgeprune.network.data import Data, example_inputs
from edgeprune.network.evaluation import evaluate, recalibrate_batch_norm
from edgeprune.network.groups import Allocation, Structure
from edgeprune.network.model import load_model
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply
from edgeprune.network.training import Guides, RecoverySettings, recover
from edgeprune.terminal import TerminalProgress

_RESULTS = Path(__file__).parent / "results"
_NETWORKS = ("resnet20", "resnet56")
_DISAGREEING = 0.08  # a usual part of the pictures on which two of the cut networks do not both err or both know
_COMPARED = (
    "Ours and Torch-Pruning's of the same criterion, the means over the networks and seeds that both have run, with "
    "the standard error of the difference. Its L1 adds up everything that is removed together, as `magnitude` does "
    "(there as an L2 norm); our `l1` takes the filters alone, as its paper does."
)


@dataclass(frozen=True)
class Schedule:
    """Epochs before and after the cut of a method that trains, and the learning rate that both begin with."""

    before: int
    after: int
    learning_rate: float = 0.01


@dataclass(frozen=True)
class Mode:
    """How long everything is trained, on which pictures; `own` are the schedules of methods with one of their own."""

    data: Callable[[int], Data]  # of a seed
    epochs: int
    device: str
    own: Mapping[str, Schedule] = field(default_factory=dict)

    def schedule(self, name: str, method: Method) -> Schedule:
        """Return the schedule of a method: its own, or half of the epochs before the cut, or none."""
        before = self.epochs // 2 if method.trains else 0
        return self.own.get(name, Schedule(before, self.epochs - before))


# The full mode has the papers' schedules where they are longer: see the docstrings of the methods.
_MODES = {
    "short": Mode(cifar10_short, epochs=4, device="cpu"),
    "full": Mode(
        cifar10,
        epochs=200,
        device="cuda",
        own={
            "centripetal-sgd": Schedule(600, 0, 0.03),
            "network-slimming": Schedule(160, 160),
            "polarisation": Schedule(160, 160),
            "thinet": Schedule(1, 199),
        },
    ),
}


class TimedShaping(Shaping):
    """Adds up the seconds that the hooks take."""

    seconds = 0.0

    def before_step(self, learning_rate: float) -> None:
        """As in `Shaping`."""
        self._timed(lambda: super(TimedShaping, self).before_step(learning_rate))

    def after_backward(self) -> None:
        """As in `Shaping`."""
        self._timed(super().after_backward)

    def after_step(self) -> None:
        """As in `Shaping`."""
        self._timed(super().after_step)

    def finish(self) -> None:
        """As in `Shaping`."""
        self._timed(super().finish)

    def _timed(self, call: Callable[[], None]) -> None:
        started = time.monotonic()
        call()
        self.seconds += time.monotonic() - started


@dataclass(frozen=True)
class Entry:
    """One method on one network with one seed, and everything that is the same for all of them."""

    network: str
    method: str
    seed: int
    mode: Mode
    data: Data
    out: Path

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.network}-{self.method.replace(': ', '-').replace(' ', '-')}-{self.seed}"


def run_entry(entry: Entry) -> Row:
    """Shape, cut, re-calibrate and recover; what a finished run of the same entry left is read instead."""
    file = entry.out / f"{entry.name}.json"
    if file.exists():
        return Row(**json.loads(file.read_text()))
    model = load_model(data_file(f"cifar10-{entry.network}.pt"), f"benchmarks.networks:{entry.network}").module
    original = model.to(entry.mode.device)
    inputs = tuple(part.to(entry.mode.device) for part in example_inputs(entry.data))
    context = Context(copy.deepcopy(original), inputs, network_structure(original, inputs), entry.data, entry.seed)
    allocation = inner_half(context.structure)
    method = _method(entry.method)
    schedule = entry.mode.schedule(entry.method, method)
    started = time.monotonic()
    shaped, hooks_s = _shape(entry, context, method, allocation, original)
    shaping_s = time.monotonic() - started
    network, choosing_s = _cut(context, method, allocation)
    cut = evaluate(network, entry.data)
    recalibrate_batch_norm(network, entry.data, 50)
    row = Row(
        network=entry.network,
        method=entry.method,
        seed=entry.seed,
        macs=count_macs(network, inputs) / count_macs(original, inputs),
        original=_original_accuracy(entry, original),
        shaped=shaped,
        cut=cut,
        recalibrated=evaluate(network, entry.data),
        recovered=0.0,
        choosing_s=choosing_s,
        hooks_s=hooks_s,
        training_s=0.0,
    )
    started = time.monotonic()
    recovered = _train(entry, network, schedule.after, Guides(teacher=original))
    training_s = shaping_s + time.monotonic() - started
    row = replace(row, recovered=row.recalibrated if recovered is None else recovered, training_s=training_s)
    write_text(file, json.dumps(asdict(row)) + "\n")
    for checkpoint in entry.out.glob(f"{entry.name}.*.checkpoint"):
        checkpoint.unlink()
    return row


def inner_half(structure: Structure) -> Allocation:
    """Return half of the units of every group that one convolution writes: those inside of the blocks."""
    inner = [group for group in structure.groups if sum(piece.role == "writer" for piece in group.slices) == 1]
    return {group.name: group.size // 2 for group in inner}


def _original_accuracy(entry: Entry, original: nn.Module) -> float:
    """Evaluate the original once for all methods."""
    file = entry.out / f"{entry.network}-original.txt"
    if not file.exists():
        write_text(file, f"{evaluate(original, entry.data)}\n")
    return float(file.read_text())


def _method(name: str) -> Method:
    made = peers()
    method: Method = made[name]() if name in made else registry.load("methods", name)()
    return method


def _shape(
    entry: Entry, context: Context, method: Method, allocation: Allocation, teacher: nn.Module
) -> tuple[float | None, float]:
    """Train the whole network with the method's hooks; return its accuracy then, and the seconds of the hooks."""
    epochs = entry.mode.schedule(entry.method, method).before
    if not epochs:
        return None, 0.0
    shaping = TimedShaping(method, context, allocation, epochs * count_batches(entry.data.train))
    accuracy = _train(entry, context.network, epochs, Guides(teacher=teacher, shaping=shaping))
    shaping.finish()
    return accuracy, shaping.seconds


def _cut(context: Context, method: Method, allocation: Allocation) -> tuple[nn.Module, float]:
    """Return what the method leaves of `context.network`, and the seconds that choosing and cutting took."""
    started = time.monotonic()
    if isinstance(method, Peer):
        network = method.cut(context, allocation)
    else:
        scores = method.score(replace(context, network=copy.deepcopy(context.network)))
        plan = method.plan(context.structure, scores, allocation)
        network = apply(plan, context.network, context.example_inputs)
    return network, time.monotonic() - started


def _train(entry: Entry, network: nn.Module, epochs: int, guides: Guides) -> float | None:
    """Train for some epochs and return the accuracy after the last; epochs between show that of one batch."""
    if not epochs:
        return None
    rate = entry.mode.schedule(entry.method, _method(entry.method)).learning_rate
    settings = RecoverySettings(epochs=epochs, learning_rate=rate, seed=entry.seed)
    checkpoint = entry.out / f"{entry.name}.{guides.stage.lower()}.checkpoint"
    watched = replace(entry.data, validation=list(islice(entry.data.validation, 1)))
    recover(network, watched, settings, guides, checkpoint, TerminalProgress())
    return evaluate(network, entry.data)


def main() -> None:
    """Run every cell, seed by seed, and write the table after each."""
    arguments = parser().parse_args()
    mode = _MODES[arguments.mode]
    if mode.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("The full mode trains for days on a CPU and needs a GPU, which is not here. Use --mode short.")
    out = arguments.out / arguments.mode
    out.mkdir(parents=True, exist_ok=True)
    progress = TerminalProgress()
    for seed in range(arguments.seeds):
        data = mode.data(seed)
        for network in arguments.networks:
            for method in arguments.methods:
                progress.say(f"{network}, {method}, seed {seed}, load {os.getloadavg()[0]:.1f}")
                run_entry(Entry(network, method, seed, mode, data, out))
                write_results(arguments.mode, data, finished_rows(out))


def write_results(mode: str, data: Data, rows: Rows) -> None:
    """Write the rows, their table and the comparison with the peer."""
    results = _RESULTS / f"methods_{mode}"
    text = f"{_heading(mode, data, rows)}{table(rows)}\n"
    if compared := comparison(rows):
        text += f"\n{_COMPARED}\n\n{compared}\n"
    write_text(results.with_suffix(".json"), json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    write_text(results.with_suffix(".md"), text)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    everything = [*channel_methods(), *peers()]
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--mode", choices=sorted(_MODES), required=True)
    made.add_argument("--out", type=Path, default=Path("runs/methods"))
    made.add_argument("--networks", nargs="*", choices=_NETWORKS, default=list(_NETWORKS))
    made.add_argument("--methods", nargs="*", choices=everything, default=everything)
    made.add_argument("--seeds", type=int, default=1)
    return made


def _heading(mode: str, data: Data, rows: Rows) -> str:
    originals = ", ".join(sorted({f"{row.network} {row.original:.2%}" for row in rows}))
    chosen, judged = _MODES[mode], _pictures(data.validation)
    noise = 100 * math.sqrt(_DISAGREEING / judged)
    return (
        f"# Every method, {mode} mode\n\n"
        f"CIFAR-10, {chosen.data.__name__}: {_pictures(data.train):,} pictures to train on, {judged:,} to judge by; "
        f"{chosen.epochs} epochs in all, half of them before the cut for methods that train. Half of the channels "
        f"inside of every block go. Originals: {originals}. Two networks that disagree on {_DISAGREEING:.0%} of the "
        f"pictures differ by {noise:.1f} points by chance (one standard deviation). Seconds are those of the wall "
        "clock, beside whatever else the machine was doing.\n\n"
        f"Regenerate with `python -m benchmarks.methods --mode {mode}`.\n\n"
    )


def _pictures(loader: Loader) -> int:
    return sum(len(targets) for _, targets in loader)


if __name__ == "__main__":
    main()
