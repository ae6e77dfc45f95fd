"""TensorRT through its Python bindings, of any version from 8.0 on, or those of TensorRT for RTX. Runs on the board.

What a version can do is asked of the bindings themselves: precision flags are gone from 11 on and in the RTX edition,
where the number types of the network decide; names of tensors came with 8.5.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeprune.runtimes._tensorrt_cuda import Gpu
from edgeprune.runtimes._tensorrt_formats import explained, layer_counts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeprune.runtimes._tensorrt_engines import Order

_PROFILED_RUNS = 50
_RTX = "tensorrt_rtx"  # compiles on the GPU when an engine is loaded, and has no timings to keep
_NO_DRIVER = re.compile(r" ?\[\w+\.cpp::\w+::\d+\] Error Code 1: Cuda Runtime \(.*?\(cudaError 35: [^)]*\)\)")


class Parsed(NamedTuple):
    """A network as TensorRT read it; all must be kept alive together."""

    builder: Any
    network: Any
    log: Any


class Bindings:
    """The bindings on this board; `trt` is the imported module."""

    def __init__(self, trt: Any) -> None:
        """Remember the module."""
        self._trt = trt
        self.name = str(trt.__version__)

    def parse(self, onnx: str) -> Parsed:
        """Read an ONNX file; raises ValueError with the reason and the remedy."""
        trt = self._trt
        log = _log(trt)
        builder = trt.Builder(log)
        network = builder.create_network(_network_flags(trt))
        parser = trt.OnnxParser(network, log)
        if not parser.parse(Path(onnx).read_bytes()):
            raise ValueError(refusal([parser.get_error(position) for position in range(parser.num_errors)]))
        return Parsed(builder, network, log)

    def build(self, order: Order, engine: Path) -> Mapping[str, Any]:
        """Write an engine; what is known of it, the session says. Raises MemoryError or ValueError."""
        builder, network, log = self.parse(order.onnx)
        config = builder.create_builder_config()
        self._configure(config, order)
        cache = None if self._trt.__name__ == _RTX else _timing_cache(config, order.timing_cache)
        plan = builder.build_serialized_network(network, config)
        said = "; ".join(log.complaints)
        if plan is None:
            if "memory" in said.lower():
                raise MemoryError(said)
            raise ValueError(f"TensorRT builds no engine: {explained(said)}")
        engine.write_bytes(plan)
        if cache is not None:
            Path(order.timing_cache).write_bytes(cache.serialize())
        return {}

    def open(self, engine: Path, onnx: str) -> BindingsSession:
        """Load an engine onto the GPU; raises ValueError where it is none for this GPU."""
        return BindingsSession(self._trt, engine)

    def profile(self, engine: Path, onnx: str, arrays: Sequence[Any]) -> Mapping[str, float]:
        """Return milliseconds per inference by kernel."""
        session = BindingsSession(self._trt, engine)
        session.run(arrays)
        profiler = _profiler(self._trt)
        session.context.profiler = profiler
        for _ in range(_PROFILED_RUNS):
            session.run(arrays)
        return {name: total_ms / _PROFILED_RUNS for name, total_ms in profiler.total_ms.items()}

    def _configure(self, config: Any, order: Order) -> None:
        flags = self._trt.BuilderFlag
        workspace_bytes = order.workspace_mib << 20
        if hasattr(config, "set_memory_pool_limit"):
            config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, workspace_bytes)
        else:
            config.max_workspace_size = workspace_bytes
        if order.precision == "fp32" and hasattr(flags, "TF32"):
            config.clear_flag(flags.TF32)
        wanted = {"fp16": ("FP16",), "int8": ("INT8", "FP16")}.get(order.precision, ())
        for name in wanted:
            if hasattr(flags, name):
                config.set_flag(getattr(flags, name))
        if order.level is not None and hasattr(config, "builder_optimization_level"):
            config.builder_optimization_level = order.level
        if hasattr(self._trt, "ProfilingVerbosity"):
            config.profiling_verbosity = self._trt.ProfilingVerbosity.DETAILED


class BindingsSession:
    """An engine on the GPU, with memory there for its inputs and outputs."""

    def __init__(self, trt: Any, engine: Path) -> None:
        """Load it; raises CudaError where there is no GPU, ValueError where it does not take the engine."""
        self._gpu, log = Gpu(), _log(trt)
        self._runtime = trt.Runtime(log)
        self._engine = self._runtime.deserialize_cuda_engine(engine.read_bytes())
        if self._engine is None:
            raise ValueError(f"TensorRT does not load its engine: {explained('; '.join(log.complaints))}")
        self.context = self._engine.create_execution_context()
        self._stream = self._gpu.stream()
        ends = _named_ends(trt, self._engine) if hasattr(self._engine, "num_io_tensors") else _bound_ends(self._engine)
        self._inputs = [self._placed(end, trt) for end in ends if end.is_input]
        self._outputs = [self._placed(end, trt) for end in ends if not end.is_input]
        self._order = [self._placed_as(end.name) for end in ends]
        self.version = str(trt.__version__)
        self.facts: dict[str, Any] = {"layers": _layer_counts(trt, self._engine)}
        self.input_shapes = [place.end.shape for place in self._inputs]
        self.input_types = [place.type.name for place in self._inputs]

    def run(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """Return the outputs of one inference, host memory to host memory."""
        import numpy as np

        for place, array in zip(self._inputs, inputs):
            self._gpu.send(np.ascontiguousarray(array, dtype=place.type), place.address, self._stream)
        if hasattr(self.context, "execute_async_v3"):
            self.context.execute_async_v3(self._stream.value)
        else:
            self.context.execute_async_v2([place.address.value for place in self._order], self._stream.value)
        outputs = [np.empty(place.end.shape, place.type) for place in self._outputs]
        for place, array in zip(self._outputs, outputs):
            self._gpu.fetch(place.address, array, self._stream)
        self._gpu.wait(self._stream)
        return outputs

    def _placed(self, end: _End, trt: Any) -> _Place:
        import numpy as np

        kind = np.dtype(trt.nptype(end.type))
        size_bytes = max(int(np.prod(end.shape)) * kind.itemsize, 1)
        place = _Place(end, kind, self._gpu.allocate(size_bytes))
        if hasattr(self.context, "set_tensor_address"):
            self.context.set_tensor_address(end.name, place.address.value)
        return place

    def _placed_as(self, name: str) -> _Place:
        return next(place for place in (*self._inputs, *self._outputs) if place.end.name == name)


class _End(NamedTuple):
    name: str
    shape: tuple[int, ...]
    type: Any
    is_input: bool


class _Place(NamedTuple):
    end: _End
    type: Any
    address: Any


def _layer_counts(trt: Any, engine: Any) -> dict[str, int]:
    if not hasattr(engine, "create_engine_inspector"):
        return {}
    return layer_counts(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _named_ends(trt: Any, engine: Any) -> list[_End]:
    names = [engine.get_tensor_name(position) for position in range(engine.num_io_tensors)]
    return [
        _End(
            name,
            tuple(engine.get_tensor_shape(name)),
            engine.get_tensor_dtype(name),
            engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
        )
        for name in names
    ]


def _bound_ends(engine: Any) -> list[_End]:
    return [
        _End(
            engine.get_binding_name(position),
            tuple(engine.get_binding_shape(position)),
            engine.get_binding_dtype(position),
            engine.binding_is_input(position),
        )
        for position in range(engine.num_bindings)
    ]


def refusal(errors: Sequence[Any]) -> str:
    """Return one sentence for what a parser refused: operator, node, reason, remedy."""
    if not errors:
        return "TensorRT's parser refuses the file without a reason"
    first = errors[0]
    # 8 knows the number of a node alone.
    operator = first.node_operator() if hasattr(first, "node_operator") else ""
    node = repr(first.node_name()) if hasattr(first, "node_name") and first.node_name() else f"at node {first.node()}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    reason = f"{first.code().name}: {_reason(first.desc())}"
    return f"TensorRT's parser refuses {operator} {node}{more}: {explained(reason, operator)}"


def _reason(description: str) -> str:
    """Take out of a description what is about the machine that parses, which may have no GPU."""
    text = _NO_DRIVER.sub("", " ".join(description.split()))
    return "TensorRT has no such operator" if text == "false" else text


def _network_flags(trt: Any) -> int:
    """Return what 8 needs, what the RTX edition wants to be told, and nothing else."""
    kinds = trt.NetworkDefinitionCreationFlag
    if hasattr(trt.BuilderFlag, "FP16"):
        return 1 << int(kinds.EXPLICIT_BATCH) if hasattr(kinds, "EXPLICIT_BATCH") else 0
    return 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0


def _timing_cache(config: Any, path: str) -> Any:
    """Give the builder what earlier builds on this board found out."""
    known = Path(path).read_bytes() if Path(path).is_file() else b""
    cache = config.create_timing_cache(known)
    config.set_timing_cache(cache, False)
    return cache


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the package has no type information
        """Keeps what the engine complains of instead of printing it."""

        def __init__(self) -> None:
            super().__init__()
            self.complaints: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            serious = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            if serious and not _NO_DRIVER.match(message):
                self.complaints.append(message)

    return Log()


def _profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]  # likewise
        """Adds up what the engine reports."""

        def __init__(self) -> None:
            super().__init__()
            self.total_ms: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.total_ms[layer_name] = self.total_ms.get(layer_name, 0.0) + ms

    return Profiler()
