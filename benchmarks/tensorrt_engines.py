"""What NVIDIA's parser and builder make of real networks, on a machine without a GPU.

`python -m benchmarks.tensorrt_engines [--out FOLDER]` needs EDGEPRUNE_DATA and TensorRT for RTX. Each network is taken
whole and with half of every group's units, at every precision; engines are built, not run. Numbers of a lowered
network come from ONNX Runtime. What is done is on the disk at once, so that a stopped benchmark goes on where it was.
It writes results/tensorrt_engines.json and results/tensorrt_engines.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from benchmarks.data import cifar10_small, data_file, imagenet_samples
from edgeprune import registry
from edgeprune.contracts import BuildRequest, Context
from edgeprune.files import append_line, write_text
from edgeprune.network.data import Data, calibration_batches, example_inputs
from edgeprune.network.export import export_network
from edgeprune.network.model import load_model
from edgeprune.network.onnx_run import run_samples
from edgeprune.network.parity import check_parity
from edgeprune.network.selection import allowed_counts
from edgeprune.network.stand_in import samples_of
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply
from edgeprune.runtimes._onnx_precision import AFFINE, write_int8
from edgeprune.runtimes._tensorrt_bindings import Bindings
from edgeprune.runtimes._tensorrt_engines import Order

_RESULTS = Path(__file__).parent / "results"
_NETWORKS = {
    "ResNet-56": ("resnet56", "cifar10-resnet56.pt", cifar10_small),
    "MobileNetV1 0.75": ("mobilenet_v1_075", "imagenet-mobilenetv1-075-224.pt", imagenet_samples),
    "MobileNetV2 1.0": ("mobilenet_v2_100_folded", "imagenet-mobilenetv2-100-224-folded.pt", imagenet_samples),
}
_PRECISIONS = ("fp32", "fp16", "int8")
_SAMPLES = 32
_WORKSPACE_MIB = 1024
_HEADER = '<ir_version: 8, opset_import: ["" : 17, "my.operators" : 1]>'
_REFUSED = {
    "an operator that TensorRT does not have": f"{_HEADER} g (float[2, 3, 3] x) => (float[2] y) {{ y = Det(x) }}",
    "an operator of one's own": f"{_HEADER} g (float[2, 3] x) => (float[2, 3] y) {{ y = my.operators.Swirl(x) }}",
}


@dataclass(frozen=True)
class Line:
    """One engine: `convolutions_int8` of `convolutions` read quantised inputs; `snr_db` is against fp32."""

    network: str
    precision: str
    onnx_bytes: int
    engine_bytes: int
    parse_s: float
    build_s: float
    convolutions: int
    convolutions_int8: int
    snr_db: float | None
    top1_agreement: float | None


def engines(name: str, network: nn.Module, data: Data, folder: Path, tool: Bindings) -> Iterator[Line]:
    """Lower a network to every precision, and build an engine of each."""
    inputs = example_inputs(data, _SAMPLES)
    samples = samples_of(inputs, 1)
    full = export_network(network, tuple(tensor[:1] for tensor in inputs), folder, simplify=True).onnx
    runtime = registry.load("runtimes", "tensorrt")()
    expected = run_samples(full, samples)
    for precision in _PRECISIONS:
        lowered, engine = folder / f"lowered.{precision}.onnx", folder / f"{precision}.engine"
        runtime.build(BuildRequest(None, full, _calibration(data), precision, {}), lowered)
        report = check_parity(expected, run_samples(lowered, samples), f"{name} at {precision}", precision)
        started = time.monotonic()
        network_there = tool.parse(str(lowered)).network
        parsed = time.monotonic()
        tool.build(Order(str(lowered), precision, _WORKSPACE_MIB, ""), engine)
        kinds = _convolutions(network_there)
        yield Line(
            network=name,
            precision=precision,
            onnx_bytes=lowered.stat().st_size,
            engine_bytes=engine.stat().st_size,
            parse_s=parsed - started,
            build_s=time.monotonic() - parsed,
            convolutions=len(kinds),
            convolutions_int8=sum(kinds),
            snr_db=report.snr_db,
            top1_agreement=report.top1_agreement,
        )


def half(network: nn.Module, data: Data) -> nn.Module:
    """Return the network with half of every group's units, the largest ones."""
    inputs = example_inputs(data)
    structure = network_structure(network, inputs)
    allocation = {
        group.name: min(allowed_counts(group), key=lambda count: abs(count - group.size / 2))
        for group in structure.groups
    }
    method = registry.load("methods", "magnitude")()
    scores = method.score(Context(network, inputs, structure, None, seed=0))
    return apply(method.plan(structure, scores, allocation), network, inputs)


def refusals(folder: Path, tool: Bindings) -> Iterator[tuple[str, str]]:
    """Yield what is refused, and what the user is told."""
    for what, text in _REFUSED.items():
        onnx.save(onnx.parser.parse_model(text), folder / "refused.onnx")
        yield what, _told(folder / "refused.onnx", tool)
    write_int8(_convolution(folder), folder / "affine.onnx", [(np.ones((1, 3, 8, 8), np.float32),)], AFFINE)
    yield "int8 as ONNX Runtime's processor kernels like it best", _told(folder / "affine.onnx", tool)


def _convolution(folder: Path) -> Path:
    text = f"{_HEADER} g (float[1, 3, 8, 8] x) => (float[1, 8, 6, 6] y) {{ y = Conv(x, weight, bias) }}"
    model = onnx.parser.parse_model(text)
    for name, shape in (("weight", (8, 3, 3, 3)), ("bias", (8,))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    onnx.save(model, folder / "convolution.onnx")
    return folder / "convolution.onnx"


def _told(path: Path, tool: Bindings) -> str:
    try:
        tool.parse(str(path))
    except ValueError as error:
        return str(error)
    return "accepted"


def _convolutions(network: Any) -> list[bool]:
    """Return for each convolution whether it reads a quantised input."""
    layers = [network.get_layer(position) for position in range(network.num_layers)]
    dequantised = {layer.get_output(0).name for layer in layers if layer.type.name == "DEQUANTIZE"}
    return [layer.get_input(0).name in dequantised for layer in layers if layer.type.name == "CONVOLUTION"]


def _calibration(data: Data) -> list[tuple[Any, ...]]:
    images = torch.cat([images for images, _ in calibration_batches(data, 1)])[:_SAMPLES]
    return samples_of((images,), 1)


def report(lines: Sequence[Line], refused: Sequence[tuple[str, str]], version: str) -> str:
    """Return the results as Markdown."""
    rows = [
        "# What TensorRT takes",
        "",
        f"Accepted and built by NVIDIA's TensorRT for RTX {version} on a machine without a GPU; no engine was run, and "
        "these engines are finished on the GPU that loads them, so that their sizes are not those on a board. "
        "Differences are those of the ONNX file in ONNX Runtime against fp32, on 25 or 32 real pictures, which for the "
        "MobileNets are also those that gave the ranges; the cut networks were not trained after the cut.",
        "",
        "Regenerate with `python -m benchmarks.tensorrt_engines`.",
        "",
        "| network | precision | ONNX MB | engine MB | parse s | build s | int8 convolutions | SNR dB | same class |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows += [
        f"| {line.network} | {line.precision} | {line.onnx_bytes / 1e6:.2f} | {line.engine_bytes / 1e6:.2f} | "
        f"{line.parse_s:.2f} | {line.build_s:.2f} | {line.convolutions_int8} of {line.convolutions} | "
        f"{'' if line.snr_db is None else f'{line.snr_db:.1f}'} | "
        f"{'' if line.top1_agreement is None else f'{line.top1_agreement:.0%}'} |"
        for line in lines
    ]
    rows += ["", "## What it refuses, and what one is told", "", "| what | answer |", "| --- | --- |"]
    return "\n".join([*rows, *(f"| {what} | {told} |" for what, told in refused)]) + "\n"


def _lines(file: Path) -> list[Line]:
    return [Line(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def main() -> None:
    """Build every engine, then ask for what is refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/tensorrt-engines"))
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    tool, file = Bindings(import_module("tensorrt_rtx")), folder / "engines.jsonl"
    for name, (arch, weights, load) in _NETWORKS.items():
        data = load()
        for label in (name, f"{name}, half the units"):
            if any(line.network == label for line in _lines(file)):
                continue
            network = load_model(data_file(weights), f"benchmarks.networks:{arch}").module
            place = folder / label.replace(" ", "-").replace(",", "")
            place.mkdir(exist_ok=True)
            found = list(engines(label, network if label == name else half(network, data), data, place, tool))
            for line in found:
                append_line(file, json.dumps(asdict(line)))
            print(*found, sep="\n", flush=True)
    lines = _lines(file)
    refused = list(refusals(folder, tool))
    write_text(_RESULTS / "tensorrt_engines.json", json.dumps([asdict(line) for line in lines], indent=1) + "\n")
    write_text(_RESULTS / "tensorrt_engines.md", report(lines, refused, tool.name))


if __name__ == "__main__":
    main()
