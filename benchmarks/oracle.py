"""How well each method foretells what removing a unit does to the loss.

`python -m benchmarks.oracle [--out FOLDER] [--methods NAME ...]` needs EDGEPRUNE_DATA. The oracle removes every unit of
the pretrained ResNet-20 by itself and takes the loss over 2,000 training pictures; each group and each method is on the
disk as soon as it is done, so that a stopped benchmark goes on where it was. Writes results/oracle.json and oracle.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.data import cifar10_two_thousand, data_file
from benchmarks.entrants import channel_methods
from benchmarks.networks import CifarResNet
from edgeprune import registry
from edgeprune.contracts import Context
from edgeprune.files import append_line, write_text
from edgeprune.network.batches import count_batches
from edgeprune.network.cutting import positions_of, zero_positions
from edgeprune.network.data import Data, example_inputs
from edgeprune.network.groups import Group, Structure
from edgeprune.network.model import load_model
from edgeprune.network.shaping import Shaping
from edgeprune.network.structure import network_structure
from edgeprune.network.training import Guides, RecoverySettings, recover
from edgeprune.progress import Progress
from edgeprune.terminal import TerminalProgress

_RESULTS = Path(__file__).parent / "results"
_NETWORK = "resnet20"

# The parts of the network in order, by what their tensors are called.
_PREFIXES = ("conv1", *(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)), "linear")

Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]
Changes = Mapping[str, Sequence[float]]  # of the loss, by group


@dataclass(frozen=True)
class Line:
    """One method: Spearman's rank correlation of its scores with the squared change of the loss by removing a unit.

    `overall` is over all units of the network, `within` the mean over groups of the correlation inside one group.
    """

    method: str
    overall: float
    within: float
    seconds: float


def oracle(network: CifarResNet, structure: Structure, data: Data, file: Path, progress: Progress) -> Changes:
    """Return what removing each unit changes the loss by, from the file as far as it holds it."""
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    changes: dict[str, list[float]] = {entry["group"]: entry["changes"] for entry in done}
    missing = [group for group in structure.groups if group.name not in changes]
    with progress.track("Removing units", sum(group.size for group in missing)) as advance:
        for group in missing:
            changes[group.name] = _changes(network, group, data)
            advance(group.size)
            append_line(file, json.dumps({"group": group.name, "changes": changes[group.name]}))
    return changes


def correlations(name: str, context: Context, changes: Changes, epochs: int, progress: Progress) -> Line:
    """Score every unit with a method, and compare the order of the scores with that of the oracle.

    With `epochs` the method trains the network before, towards an allocation that leaves it whole.
    """
    method = registry.load("methods", name)()
    started = time.monotonic()
    if epochs:
        shaping = Shaping(method, context, {}, epochs * count_batches(_data(context).train))
        settings = RecoverySettings(epochs=epochs, seed=context.seed)
        with TemporaryDirectory() as folder:
            guides = Guides(shaping=shaping)
            recover(context.network, _data(context), settings, guides, Path(folder) / "checkpoint", progress)
        shaping.finish()
    scores = method.score(context)
    seconds = time.monotonic() - started
    own, true = zip(*((np.array(scores[name]), np.square(values)) for name, values in changes.items()), strict=True)
    within = [_rank_correlation(*pair) for pair in zip(own, true, strict=True)]
    overall = _rank_correlation(np.concatenate(own), np.concatenate(true))
    return Line(_label(name, epochs), overall, float(np.mean(within)), seconds)


def _label(name: str, epochs: int) -> str:
    return f"{name}, after {epochs} epochs" if epochs else name


def _data(context: Context) -> Data:
    if context.data is None:
        raise ValueError("The oracle needs pictures.")
    return context.data


def _rank_correlation(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> float:
    if len(np.unique(first)) < 2:  # a method that tells no unit apart orders nothing
        return 0.0
    return float(spearmanr(first, second).statistic)


def _changes(network: CifarResNet, group: Group, data: Data) -> list[float]:
    """Remove each unit of a group in turn; what comes before the first reader is computed once for all of them."""
    names = [piece.tensor for piece in group.slices if piece.role == "reader"]
    first = min(place for place, prefix in enumerate(_PREFIXES) if any(name.startswith(prefix) for name in names))
    with torch.no_grad():
        batches = [(_forward(network, images, 0, first), labels) for images, labels in data.train]
        whole = _loss(network, batches, first, data)
        losses = []
        for unit in range(group.size):
            masked = copy.deepcopy(network)
            zero_positions(masked, positions_of([group], {group.name: (unit,)}, "reader"))
            losses.append(_loss(masked, batches, first, data))
    return [loss - whole for loss in losses]


def _loss(network: CifarResNet, batches: Batches, first: int, data: Data) -> float:
    losses = [(float(data.loss(_forward(network, x, first, len(_PREFIXES)), y)), len(y)) for x, y in batches]
    return sum(loss * count for loss, count in losses) / sum(count for _, count in losses)


def _forward(network: CifarResNet, x: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Run the parts of the network from `first` to before `last`."""
    for place in range(first, last):
        if place == 0:
            x = torch.relu(network.bn1(network.conv1(x)))
        elif place == len(_PREFIXES) - 1:
            x = network.linear(x.mean((2, 3)))
        else:
            x = network.get_submodule(_PREFIXES[place])(x)
    return x


def table(lines: Iterable[Line]) -> str:
    """Return the results as a Markdown table, the best first."""
    rows = ["| method | all units | within a group | seconds |", "| --- | ---: | ---: | ---: |"]
    rows += [
        f"| {line.method} | {line.overall:.3f} | {line.within:.3f} | {line.seconds:.1f} |"
        for line in sorted(lines, key=lambda line: -line.overall)
    ]
    return "\n".join(rows)


def main() -> None:
    """Ask the oracle, then every method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/oracle"))
    parser.add_argument("--methods", nargs="*", default=channel_methods())
    parser.add_argument("--trained", nargs="*", default=["attention-sca"], help="methods to ask after a training, too")
    parser.add_argument("--epochs", type=int, default=4, help="of that training")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    progress, data = TerminalProgress(), cifar10_two_thousand()
    loaded = load_model(data_file(f"cifar10-{_NETWORK}.pt"), f"benchmarks.networks:{_NETWORK}").module
    network = cast("CifarResNet", loaded)
    inputs = example_inputs(data)
    structure = network_structure(network, inputs)
    changes = oracle(network, structure, data, arguments.out / "oracle.jsonl", progress)
    file = arguments.out / "methods.jsonl"
    lines = [Line(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []
    asked = [(name, 0) for name in arguments.methods] + [(name, arguments.epochs) for name in arguments.trained]
    for name, epochs in asked:
        if _label(name, epochs) in {line.method for line in lines}:
            continue
        context = Context(copy.deepcopy(network), inputs, structure, data, seed=0)
        line = correlations(name, context, changes, epochs, progress)
        lines.append(line)
        append_line(file, json.dumps(asdict(line)))
        progress.say(f"{line.method}: {line.overall:.3f} over all units, {line.within:.3f} within a group")
    lines.sort(key=lambda line: line.method)
    write_text(_RESULTS / "oracle.json", json.dumps([asdict(line) for line in lines], indent=1) + "\n")
    write_text(_RESULTS / "oracle.md", _heading(changes) + table(lines) + "\n")


def _heading(changes: Changes) -> str:
    units = sum(len(values) for values in changes.values())
    return (
        "# What the scores are worth\n\n"
        "Spearman's rank correlation of each method's scores with the squared change of the loss when a unit is really "
        f"removed: all {units} units of the pretrained ResNet-20, 2,000 training pictures of CIFAR-10, no "
        "training in between. Methods that train are asked before they train, unless a line says otherwise.\n"
        "Seconds are those of the wall clock, beside whatever else the machine was doing.\n\n"
        "Regenerate with `python -m benchmarks.oracle`.\n\n"
    )


if __name__ == "__main__":
    main()
