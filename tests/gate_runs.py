"""Run folders for gates: real networks, measured on an emulated board, written as a finished run writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from small_networks import Residual, randomise

from edgeprune.bench.measure import MeasureOptions, measure
from edgeprune.bench.measurement import measurement_to_dict
from edgeprune.bench.target import load_target
from edgeprune.files import sha256_of
from edgeprune.network.export import export_network
from edgeprune.verdict.result import (
    AskedBudget,
    Costs,
    LayerTime,
    LayerTimes,
    ModelOrigin,
    Result,
    Seconds,
    Stages,
    write_result,
)

BOARD = "emulated-raspberry-pi-5-onnxruntime"
MACS = 38_000_000


def export(folder: Path, width: int = 64) -> Path:
    """Write the ONNX file of a little residual network; wider is slower."""
    network = randomise(Residual(width))
    return export_network(network, (torch.zeros(1, 3, 32, 32),), folder / f"width{width}", simplify=False).onnx


@dataclass(frozen=True)
class RunFolder:
    """A finished run; its parts can be spoilt one by one."""

    path: Path

    def edit(self, name: str, change) -> RunFolder:
        """Change a JSON file."""
        file = self.path / name
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))
        return self

    def edit_final(self, change) -> RunFolder:
        """Change the final trial."""
        file = self.path / "trials.jsonl"
        trial = json.loads(file.read_text())
        change(trial)
        file.write_text(json.dumps(trial) + "\n")
        return self


@cache
def _measured(artifact: Path, board: str):
    return measure(artifact, load_target(board), MeasureOptions(processes=8, blocks=3))


def write_gate_run(folder: Path, artifact: Path, board: str = BOARD, accuracy: float | None = 0.93) -> RunFolder:
    """Write the folder of a run whose final network is this artifact."""
    measurement = _measured(artifact, board)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(artifact.read_bytes())
    final = Costs(
        latency_p50_ms=measurement.latency_p50_ms,
        latency_interval_ms=measurement.latency_interval_ms,
        latency_p90_ms=measurement.latency_p90_ms,
        size_bytes=measurement.size_bytes,
        macs=MACS,
        parameters=150_000,
        accuracy=accuracy,
    )
    layers = (LayerTime("stem", 0.1), LayerTime("blocks.0.conv1", 0.9))
    result = Result(
        verdict="pass",
        violations=(),
        target=board,
        kind="emulated",
        runtime=f"{measurement.runtime} {measurement.runtime_version}",
        method="magnitude",
        controller="bisect",
        seed=0,
        command=("edgeprune", "compress"),
        model=ModelOrigin("weights.pt", "ab" * 32, "tests.jobs:network", "state dict"),
        budget=AskedBudget({"latency": "60%"}),
        original=replace(final, accuracy=0.935),
        final=final,
        rounds=0,
        allocation={"stem": 16},
        group_sizes={"stem": 16},
        stages=Stages(original=0.935),
        seconds=Seconds(1.0, 1.0, 1.0),
        layers=LayerTimes(layers, layers),
    )
    write_result(result, folder / "result.json")
    trial = {"stage": "final", "index": 0, "measurement": measurement_to_dict(measurement)}
    (folder / "trials.jsonl").write_text(json.dumps(trial) + "\n")
    manifest = {"versions": {"onnxruntime": "1.31.1"}, "files": {"model.onnx": sha256_of(folder / "model.onnx")}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return RunFolder(folder)
