"""How far measurements can be trusted, where the truth is known: `python -m benchmarks.measuring [BOARD...]`.

On emulated boards, whose exact latency is known: how often `edgeprune compare` finds no difference between a file and
itself, and a true difference of 3 %; how often the 95 % interval of a measurement holds the truth. And how far the
boards are from the figures that were published of real ones. Writes results/measuring.json and measuring.md; boards
that are not asked for keep their rows.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.zoo import declare_torchvision
from edgeprune.bench.comparison import compare
from edgeprune.bench.emulated_board import board_from_settings, true_latency_ms
from edgeprune.bench.measure import MeasureOptions, measure
from edgeprune.bench.target import Target, list_families, load_target
from edgeprune.bench.work import works_of_onnx
from edgeprune.files import write_text

_RESULTS = Path(__file__).parent / "results" / "measuring.json"
_CALLS = 100
_DIFFERENCE = 0.03
_MEASUREMENTS = 200
_PROCESSES = 5
# The network, the inputs' size, and the milliseconds of others, each with where they are from.
_PUBLISHED: Sequence[tuple[str, str, int, float, str]] = (
    ("emulated-jetson-nano", "resnet18", 256, 18.0, "kentaroy47, benchmark-FP32-FP16-INT8-with-TensorRT"),
    ("emulated-jetson-nano", "resnet34", 256, 30.0, "kentaroy47, benchmark-FP32-FP16-INT8-with-TensorRT"),
    ("emulated-jetson-nano", "resnet50", 256, 42.0, "kentaroy47, benchmark-FP32-FP16-INT8-with-TensorRT"),
    ("emulated-raspberry-pi-5", "mobilenetv2_100", 224, 10.89, "learn.arm.com, ExecuTorch on Arm"),
    ("emulated-raspberry-pi-4-onnxruntime", "mobilenetv1_100", 224, 64.2, "OpenCV Zoo"),
    ("emulated-raspberry-pi-4-onnxruntime", "mobilenetv2_100", 224, 57.9, "OpenCV Zoo"),
    ("emulated-raspberry-pi-4-onnxruntime", "resnet50", 224, 420.9, "OpenCV Zoo"),
)


def boards(names: Sequence[str]) -> list[Target]:
    """Return the emulated targets of these names, all of them where none is named."""
    wanted = names or [name for name in list_families() if name.startswith("emulated-")]
    return [load_target(name) for name in wanted]


def chain(layers: int, path: Path) -> Path:
    """Write equal convolutions, one after the other."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.zeros((64, 64, 3, 3), np.float32), "weight")
    nodes = [
        helper.make_node("Conv", [f"t{place}", "weight"], [f"t{place + 1}"], name=f"conv{place}", pads=(1, 1, 1, 1))
        for place in range(layers)
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 64, 28, 28)) for name in ("t0", f"t{layers}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def truth_ms(artifact: Path, target: Target) -> float:
    """Return the exact latency on a cool board that nothing disturbs."""
    return true_latency_ms(works_of_onnx(artifact), board_from_settings(target.settings))


def nearly_equal(target: Target, folder: Path) -> tuple[Path, Path]:
    """Return two chains of which the second truly takes a little more than 3 % longer."""
    for layers in range(40, 4, -1):
        first, second = chain(layers, folder / "first.onnx"), chain(layers + 1, folder / "second.onnx")
        if truth_ms(second, target) >= (1 + _DIFFERENCE) * truth_ms(first, target):
            return first, second
    raise ValueError(f"no chain on {target.name} differs by {_DIFFERENCE:.0%}")


def verdicts(first: Path, second: Path, target: Target) -> Mapping[str, int]:
    """Return how often `compare` said what, each time on another specimen of the board."""
    # NOTE: the noise is drawn from the address, which names the board so that boards do not share theirs.
    specimens = (replace(target, address=f"{target.name} {number}") for number in range(_CALLS))
    return Counter(compare(first, second, specimen).effect.verdict for specimen in specimens)


def coverage(artifact: Path, target: Target) -> float:
    """Return how often the interval of a measurement holds the truth, on specimens that heat does not slow down."""
    settings = copy.deepcopy(dict(target.settings))
    settings["emulated"]["heat"] |= {"slower_per_c": 0.0, "throttle_c": 1000.0}
    true_ms = truth_ms(artifact, target)
    held = 0
    for number in range(_MEASUREMENTS):
        specimen = replace(target, address=f"{target.name} {number}", settings=settings)
        options = MeasureOptions(processes=_PROCESSES)
        low, high = measure(artifact, specimen, options).latency_interval_ms
        held += low <= true_ms <= high
    return held / _MEASUREMENTS


def trust(target: Target, folder: Path) -> dict[str, Any]:
    """Return everything that is found of one board."""
    first, second = nearly_equal(target, folder)
    return {
        "board": target.name,
        "true_ms": truth_ms(first, target),
        "true_difference": truth_ms(second, target) / truth_ms(first, target) - 1,
        "identical": dict(verdicts(first, first, target)),
        "different": dict(verdicts(first, second, target)),
        "coverage": coverage(first, target),
    }


def published(folder: Path) -> list[dict[str, Any]]:
    """Return published figures of real boards beside those of the emulated ones."""
    _ = declare_torchvision()  # alive until the end
    import timm  # imports torchvision, whose operators must be declared first
    import torch

    from edgeprune.network.export import export_network

    rows = []
    for board, name, size, published_ms, source in _PUBLISHED:
        network = timm.create_model(name, pretrained=False).eval()
        exported = export_network(network, (torch.zeros(1, 3, size, size),), folder / f"{name}-{size}").onnx
        emulated_ms = truth_ms(exported, load_target(board))
        rows.append(
            {"board": board, "network": f"{name} at {size}", "published_ms": published_ms, "emulated_ms": emulated_ms}
            | {"source": source}
        )
    return rows


def table(data: Mapping[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "# How far measurements can be trusted",
        "",
        (__doc__ or "").partition("\n\n")[2].partition(" Writes ")[0],
        "",
    ]
    lines += [f"{_CALLS} calls of `compare` each, at its usual margin of 2 %; {_MEASUREMENTS} measurements each.", ""]
    lines += [
        "| board | latency | a file and itself: no difference | wrongly different | true difference "
        f"| found slower | 95 % interval holds the truth, with {_PROCESSES} processes |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in data["boards"]:
        same, other = row["identical"], row["different"]
        wrong = same.get("slower", 0) + same.get("faster", 0)
        lines.append(
            f"| {row['board']} | {row['true_ms']:.2f} ms | {same.get('no difference', 0)} of {_CALLS} | {wrong} "
            f"| {row['true_difference']:.2%} | {other.get('slower', 0)} of {_CALLS} | {row['coverage']:.1%} |"
        )
    if not data["published"]:
        return "\n".join([*lines, ""])
    lines += ["", "Published figures of real boards, and what the emulated ones take:", ""]
    lines += ["| board | network | published | emulated | difference | source |", "|---|---|--:|--:|--:|---|"]
    for row in data["published"]:
        off = row["emulated_ms"] / row["published_ms"] - 1
        lines.append(
            f"| {row['board']} | {row['network']} | {row['published_ms']:g} ms | {row['emulated_ms']:.4g} ms "
            f"| {off:+.0%} | {row['source']} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure the boards of the command line, and write both files."""
    data = json.loads(_RESULTS.read_text()) if _RESULTS.exists() else {"boards": [], "published": []}
    with tempfile.TemporaryDirectory() as folder:
        for target in boards(sys.argv[1:]) if sys.argv[1:] != ["published"] else ():
            row = trust(target, Path(folder))
            print(row)
            others = [other for other in data["boards"] if other["board"] != target.name]
            data["boards"] = sorted([*others, row], key=lambda row: str(row["board"]))
            _write(data)
        if sys.argv[1:] == [] or "published" in sys.argv[1:]:
            data["published"] = published(Path(folder))
            _write(data)


def _write(data: Mapping[str, Any]) -> None:
    write_text(_RESULTS, json.dumps(data, indent=1) + "\n")
    write_text(_RESULTS.with_suffix(".md"), table(data))


if __name__ == "__main__":
    main()
