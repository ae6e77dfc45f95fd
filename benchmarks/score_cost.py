"""What a score pass costs on ResNet-50, against plain forward and backward passes over the same pictures.

`python -m benchmarks.score_cost [--batches 10] [--batch-size 32]`. Random weights and pictures of 224 x 224. Each
method's time is set against plain passes over the same batches, each run just before its batch; times are those of the
processor, so that what else runs on the machine counts little. Writes results/score_cost.json and .md.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
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
    """One method; `plain_s` is that of forward and backward over the same batches, None where it needs no data."""

    method: str
    seconds: float
    plain_s: float | None


def made_batches(batches: int, size: int) -> Batches:
    """Return random pictures and labels."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(size, 3, 224, 224, generator=generator), torch.arange(size)) for _ in range(batches)]


class Interleaved:
    """Batches; before each, the plain forward and backward over it is run and timed, so that load counts alike."""

    def __init__(self, network: nn.Module, batches: Batches) -> None:
        """Take a network of its own."""
        self.seconds = 0.0
        self._network, self._batches = network.eval(), batches

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield every batch after its plain pass."""
        for batch in self._batches:
            self.seconds += timed(lambda batch=batch: self._plain_pass(*batch))  # type: ignore[misc]
            yield batch

    def _plain_pass(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._network.zero_grad(set_to_none=True)
        cross_entropy(self._network(images), labels).backward()


def timed(call: Callable[[], object]) -> float:
    """Return the processor seconds of a call, of all threads."""
    started = time.process_time()
    call()
    return time.process_time() - started


def cost(name: str, network: nn.Module, structure: Structure, batches: Batches) -> Line:
    """Time a method's score, between plain passes over the same batches where it needs data."""
    kind: Callable[..., Method] = registry.load("methods", name)
    takes_batches = "batches" in inspect.signature(kind).parameters
    method = kind(batches=len(batches)) if takes_batches else kind()
    plain = Interleaved(copy.deepcopy(network), batches)
    data = Data(plain, plain, cross_entropy, top1, "made", (3, 224, 224)) if method.needs_data else None
    context = Context(copy.deepcopy(network), (batches[0][0][:1],), structure, data, 0)
    seconds = timed(lambda: method.score(context))
    return Line(name, seconds - plain.seconds, plain.seconds if method.needs_data else None)


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
        "plain passes sets a score against a forward and backward pass before each of its batches.\n\n"
        "Regenerate with `python -m benchmarks.score_cost`.\n\n"
    )


if __name__ == "__main__":
    main()
