"""Seconds to find coupled channels against the size of the network: ResNets, DenseNets, a synthetic chain.

    python -m benchmarks.linear_cost --out benchmarks/results/linear_cost.json --plot benchmarks/results/linear_cost.svg

Each network is looked at three times and the fastest is kept; its own forward is timed the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoo import declare_torchvision
from edgeprune.network.counting import count_parameters
from edgeprune.network.structure import network_structure

FAMILIES = {
    "ResNet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "DenseNet": ("densenet121", "densenet169", "densenet201"),
}
CHAINS = (250, 500, 1000, 2000)
REPEATS = 3


class Chain(nn.Module):
    """Many small residual layers: (n, 3, 8, 8) -> (n, 5)."""

    def __init__(self, layers: int) -> None:
        """Make this many convolutions, two to a residual block."""
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.first = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(layers // 2))
        self.second = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(layers // 2))
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Run the chain."""
        x = self.stem(x)
        for first, second in zip(self.first, self.second, strict=True):
            x = x + 0.1 * second(torch.relu(first(x)))
        return self.last(x.mean((2, 3)))  # type: ignore[no-any-return]


def main() -> None:
    """Measure, save and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/linear_cost.json"))
    parser.add_argument("--plot", type=Path, default=Path("benchmarks/results/linear_cost.svg"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    library = declare_torchvision()
    import torchvision.models as zoo  # only here, after its operators are declared

    rows = []
    for family, names in FAMILIES.items():
        for name in names:
            rows.append(measured(family, name, zoo.get_model(name, weights=None).eval(), (3, 224, 224)))
    for layers in CHAINS:
        rows.append(measured("chain", f"{layers} layers", Chain(layers).eval(), (3, 8, 8)))
    del library
    options.out.write_text("[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]\n")
    draw(rows, options.plot)
    print(options.out.read_text())


def measured(family: str, name: str, network: nn.Module, size: tuple[int, ...]) -> dict[str, Any]:
    """One row: how large the network is, and how long looking at it takes."""
    inputs = torch.randn(1, *size)
    structure = network_structure(network, inputs)
    with torch.no_grad():
        forward_s = fastest(lambda: network(inputs))
    return {
        "family": family,
        "name": name,
        "layers": len(structure.layers),
        "tensor_positions": sum(
            len(own) for group in structure.groups for piece in group.slices for own in piece.index
        ),
        "parameters": count_parameters(network),
        "groups": len(structure.groups),
        "forward_s": forward_s,
        "groups_s": fastest(lambda: network_structure(network, inputs)),
        "load": round(os.getloadavg()[0], 1),
    }


def fastest(work: Callable[[], Any]) -> float:
    """The fewest seconds of a few runs: other work on the machine only ever adds."""
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return round(min(seconds), 4)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Seconds against layers and against positions, one line a family."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    for place, (key, label) in zip(
        axes, (("layers", "layers"), ("tensor_positions", "positions owned by units")), strict=True
    ):
        for family in dict.fromkeys(row["family"] for row in rows):
            mine = [row for row in rows if row["family"] == family]
            place.plot([row[key] for row in mine], [row["groups_s"] for row in mine], "o-", label=family)
        place.set_xlabel(label)
        place.set_ylabel("seconds to find the groups")
        place.set_ylim(bottom=0)
        place.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
