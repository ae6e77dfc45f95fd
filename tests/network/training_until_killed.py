"""Trains a small network with everything random that training can have; run by test_training.py, which kills it."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import torch
from small_networks import Residual, randomise
from torch import nn
from torch.utils.data import DataLoader, Dataset

from edgeprune.network.data import Data, cross_entropy, top1
from edgeprune.network.training import Guides, RecoverySettings, recover
from edgeprune.progress import Silent


class Noisy(Dataset):
    """Samples whose augmentation draws from all three global generators."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.randn(3, 8, 8) * 0.3 + random.random() + np.random.rand() * 0.1
        image[index % 3] += 1
        return image, index % 3


class Lines(Silent):
    def say(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def data() -> Data:
    validation = [(torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)]
    return Data(DataLoader(Noisy(), 16, shuffle=True), validation, cross_entropy, top1, "noisy", (3, 8, 8))


def network(seed: int) -> nn.Module:
    made = randomise(Residual(classes=3), seed)
    made.blocks.append(nn.Dropout(0.2))
    return made


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    student = network(1)
    settings = RecoverySettings(epochs=4, warmup_steps=4)
    history = recover(student, data(), settings, Guides(network(2)), folder / "recovery.pt", Lines())
    torch.save(student.state_dict(), folder / "final.pt")
    sys.stdout.write(f"resumed after {history.resumed_after}, {len(history.epochs)} epochs\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
