"""Runs an ONNX graph on the workstation, as the reference that every export is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from edgeprune.errors import ExportError

Array = npt.NDArray[np.generic]


def run_onnx(
    model: onnx.ModelProto, inputs: Sequence[torch.Tensor], watched: Sequence[str] | None = None
) -> list[Array]:
    """Run a graph once on the CPU; return its outputs, or the `watched` ones with nothing fused.

    Raises ExportError saying what ONNX Runtime refused.
    """
    options = _options()
    if watched is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (outputs,) = _run(model.SerializeToString(), options, [[tensor.numpy() for tensor in inputs]], watched)
    return outputs


def run_samples(path: Path, samples: Sequence[Sequence[Array]]) -> list[Array]:
    """Run a file on each sample (the inputs of one inference); return each output, stacked (samples * batch, ...).

    Raises ExportError saying what ONNX Runtime refused.
    """
    rows = _run(str(path), _options(), samples, None)
    return [np.concatenate([np.atleast_1d(output) for output in column]) for column in zip(*rows, strict=True)]


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return options


def _run(
    model: str | bytes,
    options: onnxruntime.SessionOptions,
    samples: Sequence[Sequence[Array]],
    watched: Sequence[str] | None,
) -> list[list[Array]]:
    try:
        session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
        names = [end.name for end in session.get_inputs()]
        rows = [session.run(watched, dict(zip(names, arrays, strict=True))) for arrays in samples]
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise ExportError(f"ONNX Runtime refuses the graph: {error}") from error
    return [[np.asarray(output) for output in row] for row in rows]
