"""Small files that a compress run can start from: trained weights of a little residual network, and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from tests.small_networks import Residual, randomise

ARCH = "tests.jobs:network"


@dataclass(frozen=True)
class JobFiles:
    """Where they are."""

    weights: Path
    data: Path

    def arguments(self, out: Path, *more: str) -> list[str]:
        files = [str(self.weights), "--arch", ARCH, "--data", str(self.data), "--out", str(out)]
        return ["compress", *files, "--method", "magnitude", *more]


def network() -> torch.nn.Module:
    return Residual(width=16, classes=4)


def wide_network() -> torch.nn.Module:
    """Wide enough to show the stairs of a board."""
    return Residual(width=32)


def write_job_files(folder: Path) -> JobFiles:
    """Write pictures whose brightest corner is their class, and random weights."""
    generator = np.random.default_rng(0)
    labels = np.arange(80) % 4
    images = generator.integers(0, 80, (80, 8, 8, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += 150
    np.savez(folder / "pictures.npz", images=images, labels=labels)
    save_file(randomise(network()).state_dict(), folder / "weights.safetensors")
    return JobFiles(folder / "weights.safetensors", folder / "pictures.npz")
