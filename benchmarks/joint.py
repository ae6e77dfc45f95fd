"""Pruning, factorisation, and both under one budget: the same part of the measured latency, the same short recovery.

`python -m benchmarks.joint [--networks resnet20 ...] [--targets ...] [--methods ...] [--latency 0.7] [--epochs 2]`
needs EDGEPRUNE_DATA. Every cell is a whole `compress` run in the folder --out, and is not repeated when it is finished;
results/joint.md holds all finished cells with what became of every layer, each as the code of its day found it; remove
its folder to repeat it. The recovery is short: epochs of 2,000 pictures, judged by 1,000 others; without an epoch there
is none. What a run left is judged by 5,000 pictures of the test set besides. VGG-16, for which there are no weights
here, is trained on 1,297 handwritten digits first, recovers on them, and is judged by 500 others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import edgeprune as ep
from benchmarks import networks
from benchmarks.data import cifar10_fifth, cifar10_small, data_file, digits
from edgeprune.errors import UsageError
from edgeprune.files import write_text
from edgeprune.network.data import Data
from edgeprune.network.evaluation import evaluate
from edgeprune.network.model import load_model
from edgeprune.network.training import Guides, RecoverySettings, recover
from edgeprune.terminal import TerminalProgress
from edgeprune.verdict.result import RankedLayer, Result, read_result

_RESULTS = Path(__file__).parent / "results"
_FROM_SCRATCH = RecoverySettings(epochs=6, learning_rate=0.01, warmup_steps=40, distillation=0.0)


@dataclass(frozen=True)
class Subject:
    """A network, the data that it recovers on, the data that it is judged by in the end, and its file of weights."""

    factory: Callable[[], nn.Module]
    data: Callable[[], Data]
    judging: Callable[[], Data]
    weights: str = ""  # none: it is trained from scratch


_SUBJECTS = {
    "resnet20": Subject(networks.resnet20, cifar10_small, cifar10_fifth, "cifar10-resnet20.pt"),
    "resnet56": Subject(networks.resnet56, cifar10_small, cifar10_fifth, "cifar10-resnet56.pt"),
    "vgg16_bn": Subject(networks.vgg16_bn, digits, digits),
}
_TARGETS = ("emulated-raspberry-pi-5-onnxruntime", "host", "host-litert")
_METHODS = ("taylor", "spatial-svd", "trained-rank-pruning", "taylor+spatial-svd")
_ACCURACY, _REFUSED = "accuracy.json", "refused.txt"
_HEAD = (
    "network",
    "target",
    "method",
    "budget",
    "latency",
    "of the original",
    "MACs",
    "channels kept",
    "layers factorised",
    "original",
    "after the cut",
    "re-calibrated",
    "recovered",
    "original, more pictures",
    "result, more pictures",
)


def run_cell(network: str, target: str, method: str, latency: float, epochs: int, out: Path) -> None:
    """Compress and judge once, where that is not done yet; a target on which no chain is faster leaves the sentence."""
    folder = out / f"{network}-{target}-{method}-{latency:g}-{epochs}"
    if (folder / _ACCURACY).exists() or (folder / _REFUSED).exists():
        return
    subject, whole = _SUBJECTS[network], trained(network, out)
    try:
        if not (folder / "result.json").exists():
            ep.compress(
                whole,
                torch.zeros(1, 3, 32, 32),
                data=subject.data(),
                target=target,
                budget=ep.Budget(latency_ms=ep.Share(latency)),
                out=folder,
                method=method,
                epochs=epochs,
                resume=folder.exists(),
                progress=TerminalProgress(),
            )
    except UsageError as error:
        write_text(folder / _REFUSED, f"{error}\n")
    else:
        data = subject.judging()
        _judge(whole, data, out / f"{network}-{_ACCURACY}")
        _judge(load_model(folder / "model.pt2").module, data, folder / _ACCURACY)


def _judge(network: nn.Module, data: Data, file: Path) -> None:
    if not file.exists():
        write_text(file, json.dumps(evaluate(network, data)) + "\n")


def trained(name: str, out: Path) -> nn.Module:
    """Return a network with its weights; one without published weights is trained once, and kept in `out`."""
    subject = _SUBJECTS[name]
    torch.manual_seed(0)
    network = subject.factory()
    file = data_file(subject.weights) if subject.weights else out / f"{name}.pt"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        recover(network, subject.data(), _FROM_SCRATCH, Guides(), file.with_suffix(".checkpoint"), TerminalProgress())
        torch.save(network.state_dict(), file)
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.eval()


def page(out: Path) -> str:
    """Return the finished cells as Markdown: one table, then the layers of each."""
    cells = {path.parent.name: path.parent for path in sorted(out.glob("*/result.json"))}
    results = {name: read_result(folder / "result.json") for name, folder in cells.items()}
    refused = {path.parent.name: path.read_text().strip() for path in sorted(out.glob(f"*/{_REFUSED}"))}
    lines = ["# Pruning, factorisation, and both under one budget", ""]
    lines += [__doc__.partition("\n\n")[2].strip().replace("\n", " "), ""] if __doc__ else []
    lines += ["| " + " | ".join(_HEAD) + " |", "|---|---|---|" + "--:|" * (len(_HEAD) - 3)]
    lines += ["| " + " | ".join(_row(folder, results[name])) + " |" for name, folder in cells.items()]
    lines += [f"\n{name}: {sentence}" for name, sentence in refused.items()]
    for name, result in results.items():
        if result.ranked_layers:
            lines += ["", f"## {name}", "", *_layers(result.ranked_layers)]
    return "\n".join(lines) + "\n"


def _row(folder: Path, result: Result) -> tuple[str, ...]:
    original, final = result.original, result.final
    ranks = {f"{layer.layer}:rank" for layer in result.ranked_layers}
    channels = [(result.allocation[group], size) for group, size in result.group_sizes.items() if group not in ranks]
    kept = sum(count for count, _ in channels) / sum(size for _, size in channels) if channels else 1.0
    factorised = [layer for layer in result.ranked_layers if layer.state == "factorised"]
    rejected = [layer for layer in result.ranked_layers if layer.state == "slower"]
    return (
        folder.name.partition("-")[0],
        f"{result.target} ({result.kind})",
        result.method,
        f"{(result.budget.latency_ms or 0) / original.latency_p50_ms:.0%}",
        f"{final.latency_p50_ms:.3g} ms ({result.verdict})",
        f"{final.latency_p50_ms / original.latency_p50_ms:.1%}",
        f"{final.macs / 1e6:.1f} M",
        f"{kept:.0%}",
        f"{len(factorised)} of {len(result.ranked_layers)}, {len(rejected)} rejected" if result.ranked_layers else "",
        *("" if one is None else f"{one:.1%}" for one in _accuracies(folder, result)),
    )


def _accuracies(folder: Path, result: Result) -> tuple[float | None, ...]:
    stages = result.stages
    files = (folder.parent / f"{folder.name.partition('-')[0]}-{_ACCURACY}", folder / _ACCURACY)
    more = (json.loads(file.read_text()) if file.exists() else None for file in files)
    return (result.original.accuracy, stages.cut, stages.recalibrated, stages.recovered, *more)


def _layers(layers: Sequence[RankedLayer]) -> Iterator[str]:
    yield "| layer | outcome | width | rank | whole, ms | chain, ms |"
    yield "|---|---|---|--:|--:|--:|"
    for layer in layers:
        width = "all channels" if layer.width is None else f"{layer.width[0]}>{layer.width[1]}"
        times = (f"{ms:.4f}" if ms is not None else "too narrow" for ms in (layer.layer_ms, layer.chain_ms))
        yield f"| {layer.layer} | {layer.state} | {width} | {'x'.join(map(str, layer.rank))} | {' | '.join(times)} |"


def main() -> None:
    """Run the cells that are missing, and write the page after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=["resnet20", "resnet56"])
    parser.add_argument("--targets", nargs="*", default=_TARGETS)
    parser.add_argument("--methods", nargs="*", default=_METHODS)
    parser.add_argument("--latency", type=float, default=0.7, help="the part of the original's latency")
    parser.add_argument(
        "--epochs", type=int, default=2, help="of the recovery, half of them before the cut where the method trains"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/joint"))
    arguments = parser.parse_args()
    for network in arguments.networks:
        for target in arguments.targets:
            for method in arguments.methods:
                run_cell(network, target, method, arguments.latency, arguments.epochs, arguments.out)
                write_text(_RESULTS / "joint.md", page(arguments.out))


if __name__ == "__main__":
    main()
