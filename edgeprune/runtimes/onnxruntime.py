"""ONNX Runtime on the processor, or on what the target's `providers` name.

Build: the exported ONNX, at the asked precision. Board: `pip install onnxruntime` (1.14 or later for opset 18).
"""

from __future__ import annotations

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeprune.contracts import BuildRequest

_PROFILED_RUNS = 20
# ONNX Runtime calls its tensor types after C.
_TYPES = {"float": "float32", "double": "float64", "half": "float16"}
_MISSING = "{} is asked for, and this onnxruntime {} has {}; install the build that has it, or change `providers`"
_CPU = "CPUExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"


class OnnxRuntime:
    """Runs ONNX files, operators one after the other.

    A target's `providers`, for example `["CUDAExecutionProvider"]`, are tried in their order; the first must be there,
    and the processor takes the operators that none of them has.
    """

    format = "onnx"
    precisions = ("fp32", "fp16", "int8")
    requirements = ("onnxruntime>=1.14", "numpy")
    companions = ("edgeprune.runtimes._onnxruntime_profile",)

    def unavailable(self) -> str:
        """Say whether the package is missing."""
        return "" if find_spec("onnxruntime") else "onnxruntime is not installed; run: pip install onnxruntime"

    def build(self, request: BuildRequest, out: Path) -> None:
        """Write the ONNX at the asked precision, once a session on the processor has accepted it.

        The processor computes fp16 no faster than fp32, so there it is a way to store weights.
        """
        from edgeprune.runtimes import _onnx_precision as precision

        if request.precision not in self.precisions:
            raise ValueError(f"onnxruntime builds {self.precisions}, not {request.precision!r}")
        try:
            _session(str(request.onnx), {})
        except Exception as error:  # the engine's errors have no base class of their own
            raise ValueError(str(error)) from error
        providers = _providers(request.settings)
        if request.precision == "int8":
            scheme = precision.SYMMETRIC if _TENSORRT in providers else precision.AFFINE
            precision.write_int8(request.onnx, out, request.samples, scheme)
        elif request.precision == "fp16":
            write = precision.write_half_weights if providers == [_CPU] else precision.write_half
            write(request.onnx, out)
        else:
            precision.copy_onnx(request.onnx, out)

    def open(self, artifact: str, settings: Mapping[str, Any]) -> _Session:
        """Load an ONNX file with `threads` threads; raises ValueError where the first provider is not at hand."""
        return _Session(_session(artifact, settings))

    def profile(self, artifact: str, settings: Mapping[str, Any], inputs: Sequence[Any]) -> Mapping[str, float]:
        """Return milliseconds per inference by layer; what the engine adds to change layouts is `(layout)`.

        A fused kernel counts for the layer that it starts with. Profiling itself slows the engine down.
        """
        from edgeprune.runtimes._onnxruntime_profile import by_layer

        with tempfile.TemporaryDirectory() as folder:
            session = _session(artifact, settings, profile_prefix=str(Path(folder) / "profile"))
            feed = dict(zip((end.name for end in session.get_inputs()), inputs))
            for _ in range(_PROFILED_RUNS):
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return by_layer(events)


class _Session:
    def __init__(self, session: Any) -> None:
        import onnxruntime

        self.version = onnxruntime.__version__
        self.facts = {"operators": _placement(session)}
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
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.enable_profiling = profile_prefix is not None
    options.profile_file_prefix = profile_prefix or ""
    providers = _providers(settings)
    there = onnxruntime.get_available_providers()
    known = [name for name in providers if name in there]
    if providers[0] in there:
        session = onnxruntime.InferenceSession(artifact, options, providers=known)
        there = session.get_providers()  # a provider whose libraries do not load is left out without an error
        if providers[0] in there:
            return session
    raise ValueError(_MISSING.format(providers[0], onnxruntime.__version__, ", ".join(there)))


def _placement(session: Any) -> Mapping[str, int]:
    """Return how many operators each provider really took; only their names where this version keeps no count."""
    try:
        parts = session.get_provider_graph_assignment_info()
    except AttributeError:
        return dict.fromkeys(session.get_providers(), 0)
    counts: dict[str, int] = {}
    for part in parts:
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    return counts


def _providers(settings: Mapping[str, Any]) -> list[str]:
    """Return the providers in the order in which they are tried, the processor last."""
    asked = [str(name) for name in settings.get("providers", ())]
    return [*(name for name in asked if name != _CPU), _CPU] if asked != [_CPU] else asked
