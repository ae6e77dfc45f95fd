"""What decomposing costs without fine-tuning: trained rank pruning beside direct decompositions of the same MACs.

`python -m benchmarks.low_rank [--networks resnet20] [--methods ...] [--parts 0.6] [--epochs 4] [--full] [--step-time]`
needs EDGEPRUNE_DATA. It takes a pretrained network, chooses ranks for every method that leave the same part of the
multiply-accumulates, and writes results/low_rank.json and results/low_rank.md. A method that trains for one of several
schemes is spelled with it: `trained-rank-pruning:channel`. The short mode trains on 10,000 pictures of CIFAR-10 and
judges by 5,000 of the test set; `--full` trains from scratch for 164 epochs on all 50,000, for a machine with a GPU.
`--step-time` only measures how much longer a training step of ResNet-56 takes, into results/low_rank_step.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.data import cifar10, cifar10_fifth, data_file
from benchmarks.networks import resnet20, resnet56
from edgeprune import registry
from edgeprune.contracts import Context, Method
from edgeprune.files import write_text
from edgeprune.network.batches import count_batches, device_of, moved
from edgeprune.network.counting import count_macs, count_parameters
from edgeprune.network.data import Data
from edgeprune.network.evaluation import evaluate
from edgeprune.network.groups import Allocation, Scores, Structure
from edgeprune.network.proof import check_plan
from edgeprune.network.shaping import Shaping
from edgeprune.network.steps import estimated_macs, ordered_steps
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply
from edgeprune.network.training import Guides, RecoverySettings, recover
from edgeprune.terminal import TerminalProgress

_RESULTS = Path(__file__).parent / "results"
_NETWORKS = {"resnet20": resnet20, "resnet56": resnet56}
_PUBLISHED = (
    "The paper reports for its own training of ResNet-20 90.50% at 1/2.17 of the work channel by channel and 90.62% at "
    "1/2.84 by columns and rows, for ResNet-56 92.63% at 1/2.43.\n\n"
)
_INPUTS = (torch.zeros(1, 3, 32, 32),)
_METHODS = ("trained-rank-pruning", "asymmetric-svd", "spatial-svd", "tucker", "cp")
_SHORT = RecoverySettings(epochs=4, learning_rate=0.01, weight_decay=1e-4)
_FULL = RecoverySettings(epochs=164, learning_rate=0.1, weight_decay=1e-4, distillation=0.0)


@dataclass(frozen=True)
class Line:
    """One method on one network at one part of its MACs; accuracies 0..1 `before` and `after` the decomposition."""

    network: str
    method: str
    part: float
    macs: int
    parameters: int
    layers: int
    accuracy_before: float
    accuracy_after: float
    seconds: float


@dataclass(frozen=True)
class Task:
    """What every method is given: a trained network; a method that trains may begin with its initial weights."""

    name: str
    network: nn.Module
    data: Data
    part: float
    settings: RecoverySettings
    from_scratch: bool


def decomposed(spelling: str, task: Task) -> Line:
    """Shape where the method trains, decompose at the part of the MACs, prove it, and judge both networks."""
    started = time.monotonic()
    name, _, scheme = spelling.partition(":")
    method: Method = registry.load("methods", name)(*filter(None, (scheme,)))
    inputs = moved(_INPUTS, device_of(task.network))
    context = Context(copy.deepcopy(task.network), inputs, network_structure(task.network, inputs), task.data, 0)
    context = replace(context, structure=method.units(context))
    scores = method.score(replace(context, network=copy.deepcopy(task.network)))
    allocation = allocation_at(task.part, context.structure, scores)
    if method.trains and task.from_scratch:
        context = replace(context, network=_initial(task.name))
    network = context.network
    if method.trains:
        _train(method, context, allocation, task)
    before = evaluate(network, task.data)
    if method.reconstructs and not method.trains:
        Shaping(method, context, allocation, 0).finish()
    plan = method.plan(context.structure, scores, allocation)
    thin = apply(plan, network, inputs)
    check_plan(network, thin, plan, inputs)
    return Line(
        network=task.name,
        method=spelling,
        part=task.part,
        macs=count_macs(thin, inputs),
        parameters=count_parameters(thin),
        layers=len(plan.factorisations),
        accuracy_before=before,
        accuracy_after=evaluate(thin, task.data),
        seconds=time.monotonic() - started,
    )


def allocation_at(part: float, structure: Structure, scores: Scores) -> Allocation:
    """Return the ranks that lose least energy while the network needs at most a part of its MACs."""
    allocation: dict[str, int] = {}
    whole = estimated_macs(structure, {})
    for step in ordered_steps(structure, scores, 1, per_mac=False):
        if estimated_macs(structure, allocation) <= part * whole:
            break
        allocation[step.group] = step.kept
    return allocation


def _train(method: Method, context: Context, allocation: Allocation, task: Task) -> None:
    settings, data = task.settings, task.data
    shaping = Shaping(method, context, allocation, settings.epochs * count_batches(data.train))
    guides = Guides(teacher=None if task.from_scratch else task.network, shaping=shaping)
    with tempfile.TemporaryDirectory() as folder:
        recover(context.network, data, settings, guides, Path(folder) / "shaping.checkpoint", TerminalProgress())
    shaping.finish()


def step_seconds(steps: int) -> tuple[list[float], list[float]]:
    """Return the processor seconds of each training step of ResNet-56 on 32 pictures, plain and with rank pruning.

    The two trainings take turns, step by step. What rank pruning adds does not depend on how many pictures there are,
    so that it weighs less with the usual 128.
    """
    torch.manual_seed(0)
    plain = resnet56()
    method: Method = registry.load("methods", "trained-rank-pruning")()
    network = copy.deepcopy(plain)
    context = Context(network, _INPUTS, network_structure(network, _INPUTS), None, 0)
    context = replace(context, structure=method.units(context))
    scores = method.score(replace(context, network=copy.deepcopy(network)))
    shaping = Shaping(method, context, allocation_at(0.5, context.structure, scores), steps)
    trainings = [_Training(plain, None), _Training(network, shaping)]
    for training in trainings:
        training.step_s(hooks=False)  # what PyTorch does once
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(steps):
        for training, found in zip(trainings, seconds, strict=True):
            found.append(training.step_s())
    return seconds


class _Training:
    """Steps of plain SGD on one batch, with the hooks of a method or without."""

    def __init__(self, network: nn.Module, shaping: Shaping | None) -> None:
        self._network, self._shaping = network.train(), shaping
        self._optimiser = torch.optim.SGD(network.parameters(), 0.01, 0.9)
        self._images, self._labels = torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))

    def step_s(self, hooks: bool = True) -> float:
        """Take a step, and return its processor seconds."""
        begin = time.process_time()
        shaping = self._shaping if hooks else None
        if shaping is not None:
            shaping.before_step(0.01)
        self._optimiser.zero_grad()
        nn.functional.cross_entropy(self._network(self._images), self._labels).backward()
        if shaping is not None:
            shaping.after_backward()
        self._optimiser.step()
        if shaping is not None:
            shaping.after_step()
        return time.process_time() - begin


def _write_step_time(steps: int) -> None:
    plain, shaped = step_seconds(steps)
    found = {
        "network": "resnet56",
        "batch": 32,
        "interval": 20,
        "plain_s": plain,
        "shaped_s": shaped,
        "projection_s": max(shaped) - statistics.median(shaped),
        "times": sum(shaped) / sum(plain),
    }
    write_text(_RESULTS / "low_rank_step.json", json.dumps(found, indent=1) + "\n")
    plain_s, shaped_s = statistics.mean(plain), statistics.mean(shaped)
    print(f"a step takes {plain_s:.2f} s, with trained rank pruning {shaped_s:.2f} s: {found['times']:.3f} times")


def table(lines: Sequence[Line]) -> str:
    """Return the lines as a Markdown table."""
    rows = [
        "| network | method | MACs | parameters | layers decomposed | accuracy before | after, no fine-tuning | drop |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    whole = {name: count_macs(factory(), _INPUTS) for name, factory in _NETWORKS.items()}
    rows += [
        f"| {line.network} | {line.method} | {line.macs / 1e6:.1f} M (1/{whole[line.network] / line.macs:.2f}) "
        f"| {line.parameters / 1e3:.0f} K | {line.layers} | {line.accuracy_before:.2%} | {line.accuracy_after:.2%} "
        f"| {100 * (line.accuracy_before - line.accuracy_after):.2f} pt |"
        for line in lines
    ]
    return "\n".join(rows)


def main() -> None:
    """Run every method at every part, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=["resnet20"], choices=list(_NETWORKS))
    parser.add_argument("--parts", nargs="*", type=float, default=[0.6])
    parser.add_argument("--methods", nargs="*", default=_METHODS)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--step-time", action="store_true", help="only measure how much longer a training step takes")
    arguments = parser.parse_args()
    if arguments.step_time:
        _write_step_time(steps=20)
        return
    settings = _FULL if arguments.full else _SHORT
    settings = replace(settings, epochs=arguments.epochs or settings.epochs)
    data = cifar10() if arguments.full else cifar10_fifth()
    for name in arguments.networks:
        network = _pretrained(name)
        for part in arguments.parts:
            task = Task(name, network, data, part, settings, arguments.full)
            for method in arguments.methods:
                line = decomposed(method, task)
                print(table([line]).splitlines()[-1], flush=True)
                _write(line, arguments.full, settings)


def _pretrained(name: str) -> nn.Module:
    network = _initial(name)
    network.load_state_dict(torch.load(data_file(f"cifar10-{name}.pt"), weights_only=True))
    return network


def _initial(name: str) -> nn.Module:
    torch.manual_seed(0)
    return _NETWORKS[name]().eval().to("cuda" if torch.cuda.is_available() else "cpu")


def _write(line: Line, full: bool, settings: RecoverySettings) -> None:
    """Put a line in its place among those of earlier calls."""
    stem = "low_rank_full" if full else "low_rank"
    file = _RESULTS / f"{stem}.json"
    lines = [Line(**found) for found in json.loads(file.read_text())] if file.exists() else []
    lines = [one for one in lines if _key(one) != _key(line)] + [line]
    lines.sort(key=lambda one: (one.network, -one.part, -one.accuracy_after))
    write_text(file, json.dumps([asdict(one) for one in lines], indent=1) + "\n")
    write_text(_RESULTS / f"{stem}.md", _heading(full, settings) + table(lines) + "\n")


def _key(line: Line) -> tuple[str, str, float]:
    return line.network, line.method, line.part


def _heading(full: bool, settings: RecoverySettings) -> str:
    start = "from scratch on all of CIFAR-10" if full else "from the pretrained weights, on 10,000 pictures"
    return (
        "# Decomposing without fine-tuning\n\n"
        f"Trained rank pruning trains {settings.epochs} epochs {start}, then every method decomposes at the same part "
        "of the multiply-accumulates, and nothing is trained after it. The other methods decompose the pretrained "
        "network; asymmetric-svd fits each layer to its answers on 512 of the training pictures, in closed form.\n\n"
        f"{_PUBLISHED if full else ''}"
        f"Regenerate with `python -m benchmarks.low_rank{' --full' if full else ''}`.\n\n"
    )


if __name__ == "__main__":
    main()
