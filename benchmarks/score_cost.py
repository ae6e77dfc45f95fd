"""What a score pass costs on ResNet-50, against plain forward and backward passes over the same pictures.

`python -m benchmarks.score_cost [--batches 10] [--batch-size 32]`. Random weights and pictures of 224 x 224. Each
method's time is set against the passes that ran just before and just after it; times are those of the processor, so
that what else runs on the machine counts little. Writes results/score_cost.json and .md.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.entrants import channel_methods
from benchmarks.zoo import declare_torchvision
from edgeprune import registry
from edgeprune.contracts import Context, Method
from edgeprune.files import write_text
from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.groups import Structure
from edgeprune.network.structure import network_structure
from edgeprune.terminal import TerminalProgress

_RESULTS = Path(__file__).parent / "results"
Batches = list[tuple[torch.Tensor, torch.Tensor]]
_GRADIENTS = ("taylor", "taylor-norm", "taylor-weights", "snip")


@dataclass(frozen=True)
class Line:
    """One method; `plain_s` is the mean of the forward and backward passes around it, None where it needs no data."""

    method: str
    seconds: float
    plain_s: float | None


def made_batches(batches: int, size: int) -> Batches:
    """Return random pictures and labels."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(size, 3, 224, 224, generator=generator), torch.arange(size)) for _ in range(batches)]


def plain_passes(network: nn.Module, batches: Batches) -> None:
    """Run forward and backward over all batches, in eval mode, as scoring does."""
    network.eval()
    for images, labels in batches:
        network.zero_grad(set_to_none=True)
        cross_entropy(network(images), labels).backward()


def timed(call: Callable[[], object]) -> float:
    """Return the processor seconds of a call, of all threads."""
    started = time.process_time()
    call()
    return time.process_time() - started


def cost(name: str, network: nn.Module, structure: Structure, batches: Batches) -> Line:
    """Time a method's score, between two plain passes where it needs data."""
    kind: Callable[..., Method] = registry.load("methods", name)
    takes_batches = "batches" in inspect.signature(kind).parameters
    method = kind(batches=len(batches)) if takes_batches else kind()
    data = Data(batches, batches, cross_entropy, top1, "made", (3, 224, 224)) if method.needs_data else None
    context = Context(copy.deepcopy(network), (batches[0][0][:1],), structure, data, 0)
    if not method.needs_data:
        return Line(name, timed(lambda: method.score(context)), None)
    before = timed(lambda: plain_passes(network, batches))
    seconds = timed(lambda: method.score(context))
    after = timed(lambda: plain_passes(network, batches))
    return Line(name, seconds, (before + after) / 2)


def table(lines: Iterable[Line]) -> str:
    """Return the results as a Markdown table."""
    rows = ["| method | seconds | of plain passes |", "| --- | ---: | ---: |"]
    for line in lines:
        part = "" if line.plain_s is None else f"{line.seconds / line.plain_s:.2f}"
        rows.append(f"| {line.method} | {line.seconds:.2f} | {part} |")
    return "\n".join(rows)


def main() -> None:
    """Time the methods that look at no data, and those that need one backward a batch."""
    entries = channel_methods()
    free = [name for name in entries if not registry.load("methods", name).needs_data]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--methods", nargs="*", choices=entries, default=[*free, *_GRADIENTS])
    arguments = parser.parse_args()
    library = declare_torchvision()
    from torchvision.models import resnet50  # only here, after its operators are declared

    torch.manual_seed(0)
    network, batches = resnet50().eval(), made_batches(arguments.batches, arguments.batch_size)
    structure = network_structure(network, batches[0][0][:1])
    progress, lines = TerminalProgress(), []
    for name in arguments.methods:
        lines.append(cost(name, network, structure, batches))
        progress.say(f"{name}: {lines[-1].seconds:.2f} s, plain {lines[-1].plain_s}")
        write_text(_RESULTS / "score_cost.json", json.dumps([asdict(line) for line in lines], indent=1) + "\n")
        write_text(_RESULTS / "score_cost.md", _heading(arguments) + table(lines) + "\n")
    del library


def _heading(arguments: argparse.Namespace) -> str:
    return (
        "# What a score pass costs\n\n"
        f"ResNet-50, random weights, {arguments.batches} batches of {arguments.batch_size} at 224 x 224, "
        f"{torch.get_num_threads()} thread; processor seconds, load {os.getloadavg()[0]:.1f} at the end. A part of "
        "plain passes sets a score against the forward and backward passes before and after it.\n\n"
        "Regenerate with `python -m benchmarks.score_cost`.\n\n"
    )


if __name__ == "__main__":
    main()
