from __future__ import annotations

import pytest
import torch
from small_networks import Residual, randomise

from edgeprune.bench.measure import MeasureOptions
from edgeprune.network.export import export_network

# Enough to see every part of a measurement; the numbers themselves are not looked at.
SHORT = MeasureOptions(processes=2, blocks=3, block_runs=5, block_s=0.01, warmup_s=0.02, timeout_s=60.0)


@pytest.fixture(scope="session")
def network():
    return randomise(Residual())


@pytest.fixture(scope="session")
def exported(network, tmp_path_factory):
    return export_network(network, (torch.zeros(1, 3, 8, 8),), tmp_path_factory.mktemp("small"), simplify=False)


@pytest.fixture
def short():
    return SHORT
