"""Pruning, factorisation, and both under one budget: the same part of the measured latency, the same short recovery.

`python -m benchmarks.joint [--networks resnet20 resnet56] [--targets ...] [--methods ...] [--latency 0.7] [--epochs 2]`
needs EDGEPRUNE_DATA. Every cell is a whole `compress` run in the folder --out, and is not repeated when it is finished;
results/joint.md holds all finished cells with what became of every layer. The recovery is short: epochs of 2,000
pictures, judged by 1,000 others; without an epoch there is none.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

import edgeprune as ep
from benchmarks import networks
from benchmarks.data import cifar10_small, data_file
from edgeprune.errors import UsageError
from edgeprune.files import write_text
from edgeprune.terminal import TerminalProgress
from edgeprune.verdict.result import RankedLayer, Result, read_result

_RESULTS = Path(__file__).parent / "results"
_TARGETS = ("emulated-raspberry-pi-5-onnxruntime", "host", "host-litert")
_METHODS = ("taylor", "spatial-svd", "trained-rank-pruning", "taylor+spatial-svd")
_HEAD = (
    "network",
    "target",
    "method",
    "latency",
    "of the original",
    "MACs",
    "channels kept",
    "layers factorised",
    "after the cut",
    "re-calibrated",
    "recovered",
)


def run_cell(network: str, target: str, method: str, latency: float, epochs: int, out: Path) -> None:
    """Compress once, where that is not done yet; a target on which no chain is faster leaves the sentence."""
    folder = out / f"{network}-{target}-{method}-{latency:g}-{epochs}"
    if (folder / "result.json").exists() or (folder / "refused.txt").exists():
        return
    try:
        ep.compress(
            trained(network),
            torch.zeros(1, 3, 32, 32),
            data=cifar10_small(),
            target=target,
            budget=ep.Budget(latency_ms=ep.Share(latency)),
            out=folder,
            method=method,
            epochs=epochs,
            resume=folder.exists(),
            progress=TerminalProgress(),
        )
    except UsageError as error:
        write_text(folder / "refused.txt", f"{error}\n")


def trained(name: str) -> nn.Module:
    """Return a network of CIFAR-10 with its pretrained weights."""
    network: nn.Module = {"resnet20": networks.resnet20, "resnet56": networks.resnet56}[name]()
    network.load_state_dict(torch.load(data_file(f"cifar10-{name}.pt"), weights_only=True))
    return network.eval()


def page(out: Path) -> str:
    """Return the finished cells as Markdown: one table, then the layers of each."""
    cells = {path.parent.name: read_result(path) for path in sorted(out.glob("*/result.json"))}
    refused = {path.parent.name: path.read_text().strip() for path in sorted(out.glob("*/refused.txt"))}
    lines = ["# Pruning, factorisation, and both under one budget", ""]
    lines += [__doc__.partition("\n\n")[2].strip().replace("\n", " "), ""] if __doc__ else []
    lines += ["| " + " | ".join(_HEAD) + " |", "|---|---|---|" + "--:|" * (len(_HEAD) - 3)]
    lines += ["| " + " | ".join(_row(name, result)) + " |" for name, result in cells.items()]
    lines += [f"\n{name}: {sentence}" for name, sentence in refused.items()]
    for name, result in cells.items():
        if result.ranked_layers:
            lines += ["", f"## {name}", "", *_layers(result.ranked_layers)]
    return "\n".join(lines) + "\n"


def _row(name: str, result: Result) -> tuple[str, ...]:
    stages, original, final = result.stages, result.original, result.final
    ranks = {f"{layer.layer}:rank" for layer in result.ranked_layers}
    channels = [(result.allocation[group], size) for group, size in result.group_sizes.items() if group not in ranks]
    kept = sum(count for count, _ in channels) / sum(size for _, size in channels) if channels else 1.0
    factorised = [layer for layer in result.ranked_layers if layer.state == "factorised"]
    rejected = [layer for layer in result.ranked_layers if layer.state == "slower"]
    return (
        name.partition("-")[0],
        f"{result.target} ({result.kind})",
        result.method,
        f"{final.latency_p50_ms:.3g} ms ({result.verdict})",
        f"{final.latency_p50_ms / original.latency_p50_ms:.1%}",
        f"{final.macs / 1e6:.1f} M",
        f"{kept:.0%}",
        f"{len(factorised)} of {len(result.ranked_layers)}, {len(rejected)} rejected" if result.ranked_layers else "",
        *("" if one is None else f"{one:.1%}" for one in (stages.cut, stages.recalibrated, stages.recovered)),
    )


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
