"""ONNX Runtime on the processor.

Build: the exported ONNX itself. Board: `pip install onnxruntime` (1.14 or later for opset 18).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeprune.contracts import BuildRequest

_KERNEL = "_kernel_time"
_PROFILED_RUNS = 20
# What the engine puts between the nodes of the graph.
_OWN_OPERATORS = ("ReorderInput", "ReorderOutput")
_OWN_NODES = ("gemm_input_reshape", "gemm_output_reshape")
# ONNX Runtime calls its tensor types after C.
_TYPES = {"float": "float32", "double": "float64", "half": "float16"}


class OnnxRuntime:
    """Runs ONNX files with the CPU provider, operators one after the other."""

    format = "onnx"
    precisions = ("fp32",)
    requirements = ("onnxruntime>=1.14", "numpy")

    def build(self, request: BuildRequest, out: Path) -> None:
        """Copy the ONNX, once a session has accepted it."""
        if request.precision not in self.precisions:
            raise ValueError(f"onnxruntime builds {self.precisions}, not {request.precision!r}")
        try:
            _session(str(request.onnx), request.settings)
        except Exception as error:  # the engine's errors have no base class of their own
            raise ValueError(str(error)) from error
        if request.onnx != out:
            partial = out.with_name(f".{out.name}.partial")
            shutil.copyfile(request.onnx, partial)
            partial.replace(out)

    def open(self, artifact: str, settings: Mapping[str, Any]) -> _Session:
        """Load an ONNX file with `threads` threads."""
        return _Session(_session(artifact, settings))

    def profile(self, artifact: str, settings: Mapping[str, Any], inputs: Sequence[Any]) -> Mapping[str, float]:
        """Return milliseconds per inference by layer; what the engine adds to change layouts is `(layout)`.

        A fused kernel counts for the layer that it starts with. Profiling itself slows the engine down.
        """
        with tempfile.TemporaryDirectory() as folder:
            session = _session(artifact, settings, profile_prefix=str(Path(folder) / "profile"))
            feed = dict(zip((end.name for end in session.get_inputs()), inputs))
            for _ in range(_PROFILED_RUNS):
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return _by_layer(events)


class _Session:
    def __init__(self, session: Any) -> None:
        import onnxruntime

        self.version = onnxruntime.__version__
        self._session = session
        ends = session.get_inputs()
        self._names = [end.name for end in ends]
        self.input_shapes = [tuple(end.shape) for end in ends]
        plain = [end.type[len("tensor(") : -1] for end in ends]
        self.input_types = [_TYPES.get(name, name) for name in plain]

    def run(self, inputs: Sequence[Any]) -> Sequence[Any]:
        outputs: Sequence[Any] = self._session.run(None, dict(zip(self._names, inputs)))
        return outputs


def _session(artifact: str, settings: Mapping[str, Any], profile_prefix: str | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(settings.get("threads", 1))
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])


def _by_layer(events: Sequence[Mapping[str, Any]]) -> Mapping[str, float]:
    layers: dict[str, float] = {}
    runs = sum(event["name"] == "model_run" for event in events)
    first_done = min(event["ts"] + event["dur"] for event in events if event["name"] == "model_run")
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(_KERNEL) or event["ts"] < first_done:
            continue  # the first run also packs weights
        layer = _layer_of(event["name"][: -len(_KERNEL)], event["args"]["op_name"])
        layers[layer] = layers.get(layer, 0.0) + event["dur"] / 1000 / (runs - 1)
    return layers


def _layer_of(name: str, operator: str) -> str:
    """Nodes are called `layer` or `layer/Operator`, with `:2` on the second; the engine appends where it fuses."""
    if operator.startswith(_OWN_OPERATORS) or name.startswith(_OWN_NODES):
        return "(layout)"
    layer = name.partition("/")[0].partition(":")[0]
    return layer[: -len("_nchwc")] if layer.endswith("_nchwc") else layer
