"""Times the kernels of a `.tflite` file through the engine's C interface, and gives each to its layer.

The engine's Python interface times nothing. Runs beside the litert runtime, with the standard library of Python 3.8.
"""

from __future__ import annotations

import ctypes as c
import importlib
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The C interface may change with any release; these were seen to be right.
_KNOWN_VERSIONS = ("2.3.",)
_RUNS = 20
_WARMUP_RUNS = 5
_WEIGHTED_OPS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"})
_WEIGHTED_KERNELS = ("Convolution", "Deconvolution", "Fully Connected", "Batch Matrix Multiply")
_LAYER = "LAYER_"  # the converter writes it before the name of a layer, with / for dots
_FLOAT32, _CPU = 1, 1  # the engine's numbers for them
_OPERATOR, _DELEGATED_OPERATOR = 2, 8  # kinds of events that are one kernel


def layers_ms(artifact: str, interpreter: Any, version: str) -> Mapping[str, float]:
    """Return milliseconds by layer; empty for an unknown version, or kernels that do not match the layers."""
    if not version.startswith(_KNOWN_VERSIONS):
        return {}
    ends = len(interpreter.get_input_details()), len(interpreter.get_output_details())
    return by_layer(_kernels(artifact, *ends), layer_names(interpreter))


def layer_names(interpreter: Any) -> list[str]:
    """Return the layer of each operation with weights, in execution order, as the converter wrote it."""
    tensors = {tensor["index"]: tensor["name"] for tensor in interpreter.get_tensor_details()}
    weights = [op["inputs"][1] for op in interpreter._get_ops_details() if op["op_name"] in _WEIGHTED_OPS]
    return [tensors[index].partition(_LAYER)[2].partition(";")[0].replace("/", ".") for index in weights]


def by_layer(kernels: Sequence[tuple[str, float]], names: Sequence[str]) -> Mapping[str, float]:
    """Add up kernels (tag, milliseconds) by layer: each with weights is the next layer's, others the last one's."""
    if sum(tag.startswith(_WEIGHTED_KERNELS) for tag, _ in kernels) != len(names) or not all(names):
        return {}
    coming, layer = iter(names), "input"
    layers: dict[str, float] = {}
    for tag, duration_ms in kernels:
        layer = next(coming) if tag.startswith(_WEIGHTED_KERNELS) else layer
        place = "(layout)" if tag.startswith("Transpose") else layer
        layers[place] = layers.get(place, 0.0) + duration_ms
    return layers


class _Layout(c.Structure):
    _fields_ = (("rank", c.c_uint), ("sizes", c.c_int32 * 8), ("strides", c.c_uint32 * 8))


class _Type(c.Structure):
    _fields_ = (("element", c.c_int), ("layout", _Layout))


class _Event(c.Structure):
    _fields_ = (
        ("tag", c.c_char_p),
        ("kind", c.c_int),
        ("start_us", c.c_uint64),
        ("elapsed_us", c.c_uint64),
        ("memory", c.c_uint64 * 6),
        ("index", c.c_uint64),
        ("extra", c.c_uint64),
        ("source", c.c_int),
    )


class _Engine:
    """The C interface: `call` checks the status, `new` returns what a function makes through its last argument."""

    def __init__(self) -> None:
        package = Path(str(importlib.import_module("ai_edge_litert").__file__))
        self._library = c.CDLL(str(package.with_name("libLiteRt.so")))

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, "LiteRt" + name)(*arguments)
        if status != 0:
            raise RuntimeError(f"LiteRt{name} returned {status}")

    def new(self, name: str, *arguments: Any) -> Any:
        made = c.c_void_p()
        self.call(name, *arguments, c.byref(made))
        return made


def _kernels(artifact: str, inputs: int, outputs: int) -> list[tuple[str, float]]:
    """Return each kernel's tag and median milliseconds, in execution order."""
    engine, first, keep_options = _Engine(), c.c_size_t(0), c.CFUNCTYPE(None, c.c_void_p)(lambda _: None)
    environment = engine.new("CreateEnvironment", 0, None)
    options = engine.new("CreateOptions")
    engine.call("SetOptionsHardwareAccelerators", options, _CPU)
    text = c.create_string_buffer(b"enable_profiling = true\n")
    engine.call(
        "AddOpaqueOptions", options, engine.new("CreateOpaqueOptions", b"runtime_options_string", text, keep_options)
    )
    file = engine.new("CreateModelFromFile", environment, artifact.encode())
    model = engine.new("CreateCompiledModel", environment, file, options)
    given, made = _buffers(engine, environment, model, inputs, outputs)
    profiler = engine.new("CompiledModelGetProfiler", model)

    def run(times: int) -> None:
        for _ in range(times):
            engine.call("RunCompiledModel", model, first, c.c_size_t(inputs), given, c.c_size_t(outputs), made)

    run(_WARMUP_RUNS)
    engine.call("StartProfiler", profiler)
    run(_RUNS)
    engine.call("StopProfiler", profiler)
    count = c.c_int()
    engine.call("GetNumProfilerEvents", profiler, c.byref(count))
    events = (_Event * count.value)()
    engine.call("GetProfilerEvents", profiler, count, events)
    return _medians([event for event in events if event.kind in (_OPERATOR, _DELEGATED_OPERATOR)])


def _buffers(engine: _Engine, environment: Any, model: Any, inputs: int, outputs: int) -> tuple[Any, Any]:
    first = c.c_size_t(0)

    def buffer(layout: _Layout, requirements: Any) -> Any:
        kind = c.byref(_Type(_FLOAT32, layout))
        return engine.new("CreateManagedTensorBufferFromRequirements", environment, kind, requirements)

    given, made = (c.c_void_p * inputs)(), (c.c_void_p * outputs)()
    for position in range(inputs):
        layout, at = _Layout(), c.c_size_t(position)
        engine.call("GetCompiledModelInputTensorLayout", model, first, at, c.byref(layout))
        given[position] = buffer(layout, engine.new("GetCompiledModelInputBufferRequirements", model, first, at))
    layouts = (_Layout * outputs)()
    engine.call("GetCompiledModelOutputTensorLayouts", model, first, c.c_size_t(outputs), layouts, c.c_bool(False))
    for position in range(outputs):
        at = c.c_size_t(position)
        requirements = engine.new("GetCompiledModelOutputBufferRequirements", model, first, at)
        made[position] = buffer(layouts[position], requirements)
    return given, made


def _medians(events: Sequence[Any]) -> list[tuple[str, float]]:
    """Return the median of each position over the runs; nothing where the runs did not do the same."""
    count = len(events) // _RUNS
    rounds = [events[start : start + count] for start in range(0, count * _RUNS, count or 1)]
    tags = [[event.tag for event in one] for one in rounds]
    if count * _RUNS != len(events) or any(found != tags[0] for found in tags):
        return []
    times_us = [median(one[position].elapsed_us for one in rounds) for position in range(count)]
    return [(tag.decode(), time_us / 1000) for tag, time_us in zip(tags[0] if tags else [], times_us)]
