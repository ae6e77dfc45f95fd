from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture
def data_folder() -> Path:
    """The folder with the real data and weights; tests that use it are marked `data`."""
    folder = os.environ.get("EDGEPRUNE_DATA")
    if not folder:
        pytest.skip("EDGEPRUNE_DATA is not set: it names the folder with the real data and weights")
    return Path(folder)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small networks gain nothing from more threads, and lose much where tests run side by side."""
    torch.set_num_threads(1)
