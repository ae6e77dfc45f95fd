"""A board whose clock counts instructions: the same network takes the same time in every process.

The whole closed loop on it, and gates, are in benchmarks/icount_loop.py, which takes ten minutes.
"""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import nn

from benchmarks import icount_loop
from edgeprune import registry
from edgeprune.bench.measure import MeasureOptions, measure
from edgeprune.bench.target import load_target
from edgeprune.contracts import BuildRequest
from edgeprune.network.export import export_network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SHORT = MeasureOptions(processes=2, blocks=1, block_s=0.0, block_runs=31, warmup_runs=8, warmup_s=0.0)
NETWORK = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(32, 64, 3, 2, 1))


def test_a_latency_repeats_from_process_to_process(icount, tmp_path):
    inputs = torch.zeros(1, 3, 32, 32)
    onnx = export_network(NETWORK, (inputs,), tmp_path).onnx
    order = BuildRequest(None, onnx, (inputs.numpy(),), "fp32", {"threads": 1})
    registry.load("runtimes", "litert")().build(order, tmp_path / "model.tflite")
    with icount.on_path():
        found = measure(tmp_path / "model.tflite", load_target(str(icount.state / "litert.toml")), SHORT)
    first, second = (statistics.median(run.blocks[0].samples_ns) for run in found.runs)
    assert found.kind == "icount"
    assert abs(first - second) <= icount_loop.REPEATS_WITHIN * first
