"""The works that the benchmark derives for a cut network are those of the network really cut and exported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_networks import Depthwise, Residual, randomise
from torch import nn

from benchmarks.cut_works import CutWorks
from benchmarks.networks import CifarResNet
from edgeprune.bench.work import works_of_file, works_of_onnx, write_works
from edgeprune.network.export import export_network
from edgeprune.network.groups import Structure
from edgeprune.network.plan import Plan, PruneChannels
from edgeprune.network.selection import allowed_counts, select_units
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply


class Dense(nn.Module):
    """Every layer reads what all before it wrote, and a head with several linear layers and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 12, 3, padding=1)
        self.third = nn.Conv2d(20, 6, 1)
        self.norm = nn.LayerNorm(26)
        self.wide = nn.Linear(26, 40)
        self.head = nn.Linear(40, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.first(x).relu()
        b = torch.cat([a, self.second(a).relu()], 1)
        c = torch.cat([b, self.third(b)], 1)
        rows = self.norm(c.flatten(2).transpose(1, 2))
        return self.head(nn.functional.gelu(self.wide(rows))).mean(1)


NETWORKS = {
    "residual": lambda: randomise(Residual()),
    "depthwise": lambda: randomise(Depthwise()),
    "padded shortcuts": lambda: CifarResNet(depth=8),
    "dense": Dense,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_derived_works_are_those_of_the_exported_cut(name: str, tmp_path: Path) -> None:
    network, inputs = NETWORKS[name]().eval(), (torch.zeros(1, 3, 8, 8),)
    structure = network_structure(network, inputs)
    works = works_of_onnx(export_network(network, inputs, tmp_path / "whole").onnx)
    allocation = _allocation(structure)
    plan = Plan(
        tuple(
            PruneChannels(group.name, select_units(group, [0.0] * group.size, allocation[group.name]))
            for group in structure.groups
        )
    )
    cut = apply(plan, network, inputs, via="auto")
    exported = works_of_onnx(export_network(cut, inputs, tmp_path / "cut").onnx)
    assert CutWorks(works, structure).with_allocation(allocation) == exported
    assert exported != works


def _allocation(structure: Structure) -> dict[str, int]:
    """Something between half and all of every group but its size, and different from group to group."""
    chosen = {}
    for place, group in enumerate(structure.groups):
        counts = [count for count in allowed_counts(group) if group.size / 2 <= count < group.size]
        chosen[group.name] = counts[place % len(counts)]
    return chosen


def test_works_come_back_from_their_file(tmp_path: Path) -> None:
    network = randomise(Depthwise())
    works = works_of_onnx(export_network(network, (torch.zeros(1, 3, 8, 8),), tmp_path).onnx)
    write_works(works, tmp_path / "works.json")
    assert works_of_file(tmp_path / "works.json") == works
