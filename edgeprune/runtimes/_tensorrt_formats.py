"""Reads what trtexec of TensorRT 8, 10 and 11 prints and writes. Runs on the board: standard library of Python 3.8."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# 8.5.2 calls itself v8502 and 10.3.0 v100300; 11.1 also writes v11.1.0.106.
_BANNER = re.compile(r"\[TensorRT v([\d.]+)\]")
_GPU = re.compile(r"Selected Device: (.+)")
_CAPABILITY = re.compile(r"Compute Capability: (\d+\.\d+)")
# An error goes on until the next line of the log, which begins with its time or its kind.
_ERROR = re.compile(r"\[E\] (?:\[TRT\] )?(.+?)(?=\n(?:\[[\d/:-]+\] )?\[[A-Z]\]|\n&&&&|\Z)", re.DOTALL)
_PLACE = re.compile(r"^\w+\.cpp:\d+: (?:ERROR: )?")
# What trtexec says after each error, and around the node that it prints.
_EMPTY_WORDS = ("Failed to", "Parsing model failed", "Engine", "Network And Config", "--- ", "input:")
_ERRORS = 3
_WARNING = re.compile(r"\[W\] \* (.+)")
# One record a line; a quotation mark in a layer's name is not escaped, so that the file is not always JSON.
_RECORD = re.compile(
    r'\{ "name" : "(.*)", "timeMs" : [-+.e\d]+, "averageMs" : ([-+.e\d]+)(?:, "medianMs" : ([-+.e\d]+))?'
)
_NUMBER = r"(\d+(?:\.\d+)?(?:e[-+]\d+)?)"
# 8.6 and later print the numbers before the layer, earlier ones after it; 8.2 has no median.
_NUMBERS_FIRST = re.compile(rf"\[I\] +{_NUMBER} +{_NUMBER} +{_NUMBER} +{_NUMBER} +(\S.*?) *$", re.MULTILINE)
_LAYER_FIRST = re.compile(rf"\[I\] +(\S.*?) +{_NUMBER} +{_NUMBER}(?: +{_NUMBER})? +{_NUMBER} *$", re.MULTILINE)
_PROFILE = re.compile(r"=== Profile \(\d+ iterations \) ===")
# The first that a layer's description contains.
_TYPES = (
    ("int8", "int8"),
    ("fp8", "fp8"),
    ("half", "fp16"),
    ("fp16", "fp16"),
    ("float16", "fp16"),
    ("float", "fp32"),
    ("fp32", "fp32"),
)
# What TensorRT says of an operator or a number that it does not take, in any version, and what helps.
_REMEDIES = (
    (
        ("plugin not found", "no importer registered", "unsupported_node", "unsupported operator"),
        "write {operator} with standard operators, or end the exported network before it",
    ),
    (
        ("zero point", "zero_point", "zeropoint"),
        "quantise symmetrically, with zero points of 0: edgeprune's --precision int8 does",
    ),
    (("int32", "must be float", "bias"), "leave biases in floating point: edgeprune's --precision int8 does"),
    (("must have same input types", "same type"), "let all inputs of {operator} have one number type"),
    (("profile", "dynamic"), "export the network for one input size"),
)
_LEGACY_DIGITS = 1000  # before 10, a version is major * 1000 + minor * 100 + patch, then major * 10000


class Layer(NamedTuple):
    """One layer of an engine; `kind` and `number_type` (of its first output) are "" where the file does not say."""

    name: str
    kind: str = ""
    number_type: str = ""


def version_of(log: str) -> tuple[int, int, int]:
    """Return the version of TensorRT that wrote a log; raises ValueError where it names none."""
    found = _BANNER.search(log)
    if not found:
        raise ValueError(f"trtexec does not say its version: {log[:120]!r}")
    text = found.group(1)
    if "." in text:
        major, minor, patch = (int(part) for part in (text + ".0.0").split(".")[:3])
        return major, minor, patch
    base = _LEGACY_DIGITS if len(text) <= 4 else _LEGACY_DIGITS * 10
    return int(text) // base, int(text) % base // 100, int(text) % 100


def device_of(log: str) -> dict[str, str]:
    """Return the GPU that a log names; empty where it names none."""
    gpu, capability = _GPU.search(log), _CAPABILITY.search(log)
    if not gpu or not capability:
        return {}
    return {"gpu": gpu.group(1).strip(), "compute_capability": capability.group(1)}


def complaint_of(log: str) -> str:
    """Return the first errors of a log as one line, or its last line."""
    errors = [_PLACE.sub("", " ".join(line.split())) for line in _ERROR.findall(log)]
    telling = [line for line in errors if not line.startswith(_EMPTY_WORDS)]
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return " ".join((telling or errors)[:_ERRORS]) or (lines[-1] if lines else "it ended without a word")


def explained(complaint: str, operator: str = "") -> str:
    """Return a complaint of TensorRT with what helps, where that is known; `operator` is what it is about."""
    text = complaint.lower()
    for signs, remedy in _REMEDIES:
        if any(sign in text for sign in signs):
            return f"{complaint}; {remedy.format(operator=operator or 'that operator')}"
    return complaint


def warnings_of(log: str) -> list[str]:
    """Return what trtexec thinks of its own measurement."""
    return [line.strip() for line in _WARNING.findall(log)]


def times_ns_of(exported_times: str) -> list[int]:
    """Return the time of each inference from `--exportTimes`: to the GPU, there, and back."""
    return [round(record["latencyMs"] * 1e6) for record in json.loads(exported_times)]


def outputs_of(exported_output: str) -> dict[str, tuple[tuple[int, ...], list[float]]]:
    """Return shape and values by name from `--exportOutput`."""
    found: dict[str, tuple[tuple[int, ...], list[float]]] = {}
    for record in json.loads(exported_output):
        sizes = [int(size) for size in record["dimensions"].split("x") if size]
        found[record["name"]] = (tuple(sizes), record["values"])
    return found


def layers_ms_of(exported_profile: str) -> dict[str, float]:
    """Return milliseconds per inference by layer from `--exportProfile`: the median, where the version has it."""
    found: dict[str, float] = {}
    for name, average, median in _RECORD.findall(exported_profile):
        found[name] = found.get(name, 0.0) + float(median or average)
    return found


def layers_ms_in(log: str) -> dict[str, float]:
    """Return the same from the table that `--dumpProfile` prints."""
    start = _PROFILE.search(log)
    if not start:
        return {}
    table = log[start.end() :]
    found: dict[str, float] = {}
    if "Avg.(ms)" in table:
        rows = [(row[4], float(row[2])) for row in _NUMBERS_FIRST.findall(table)]
    else:
        rows = [(row[0], float(row[3] or row[2])) for row in _LAYER_FIRST.findall(table)]
    for name, value_ms in rows:
        if name == "Total":
            break
        found[name] = found.get(name, 0.0) + value_ms
    return found


def engine_layers(exported_layers: str) -> list[Layer]:
    """Return the layers of `--exportLayerInfo`; only names where the engine was built without detail."""
    layers = json.loads(exported_layers)["Layers"]
    return [Layer(layer) if isinstance(layer, str) else _layer(layer) for layer in layers]


def layer_counts(exported_layers: str) -> dict[str, int]:
    """Return how many layers of an engine compute in which number type; empty where it was built without detail."""
    types = [layer.number_type for layer in engine_layers(exported_layers)]
    return {name: types.count(name) for name in sorted(set(types)) if name}


def _layer(layer: Mapping[str, Any]) -> Layer:
    outputs: Sequence[Mapping[str, Any]] = layer.get("Outputs") or [{}]
    # 11 writes the type apart; before it is a part of one sentence.
    said = str(outputs[0].get("DataType") or outputs[0].get("Datatype") or outputs[0].get("Format/Datatype") or "")
    number_type = next((ours for theirs, ours in _TYPES if theirs in said.lower()), "")
    return Layer(layer["Name"], layer.get("LayerType", ""), number_type)


def by_layer(kernels_ms: Mapping[str, float]) -> dict[str, float]:
    """Give each kernel to the layer of the network that it starts with; changes of layout are `(layout)`."""
    layers: dict[str, float] = {}
    for kernel, value_ms in kernels_ms.items():
        name = _first_layer(kernel)
        layers[name] = layers.get(name, 0.0) + value_ms
    return layers


def _first_layer(kernel: str) -> str:
    """A kernel is called `a + b`, `PWN(a, b)` or `{ForeignNode[a...b]}`; a node `layer` or `layer/Operator`."""
    if kernel.startswith(("Reformatting", "[HostToDeviceCopy", "[DeviceToHostCopy")):
        return "(layout)"
    parts = [part.strip() for part in re.split(r" \+ |, |\.\.\.", re.sub(r"PWN\(|\{ForeignNode\[|\]\}|\)", "", kernel))]
    # Quantised weights come first, under the name of their tensor.
    named = [part for part in parts if "QuantizeLinear" not in part and not part.endswith((".weight", ".weight_scale"))]
    return (named or parts)[0].partition("/")[0].partition(":")[0]
