"""Writes an ONNX file at a lower precision: 16-bit floats, or 8-bit integers between Q/DQ pairs. Workstation only.

Inputs and outputs stay float32, so that every precision of a network is called alike.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import onnx

_LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Int8Scheme:
    """How activations become integers; weights are symmetric with one scale a channel in every scheme.

    `signed`: int8 symmetric around zero, else uint8 with a zero point. `integer_bias`: int32 biases, else float32.
    """

    signed: bool
    integer_bias: bool


# TensorRT refuses zero points and integer biases.
SYMMETRIC = Int8Scheme(signed=True, integer_bias=False)
# ONNX Runtime's processor kernels fuse integer biases, and are twice as fast with uint8 on x86 (ResNet-56).
AFFINE = Int8Scheme(signed=False, integer_bias=True)


def copy_onnx(source: Path, out: Path) -> None:
    """Take the file as it is."""
    if source != out:
        _replace(out, lambda partial: shutil.copyfile(source, partial))


def write_half(source: Path, out: Path) -> None:
    """Compute in float16 throughout, but for the operators that need more range; raises ValueError."""
    import onnx
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(source)
    _check_range(model)
    with _quiet():
        converted = onnx_ir.from_proto(convert_float_to_float16(model, keep_io_types=True))
    converted.graph.sort()  # the converter appends what it adds
    _save(onnx_ir.to_proto(converted), out)


def write_half_weights(source: Path, out: Path) -> None:
    """Store weights as float16 and compute in float32: the engine widens them when it loads; raises ValueError."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    _check_range(model)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        name, half = tensor.name, f"{tensor.name}.half"
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), half))
        casts.append(onnx.helper.make_node("Cast", [half], [name], f"{name}/Cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _save(model, out)


def write_int8(source: Path, out: Path, samples: Sequence[Sequence[Any]], scheme: Int8Scheme) -> None:
    """Quantise weights and activations, with ranges seen on samples (the arrays of one inference each).

    Raises ValueError where there are no samples, or saying what the quantiser refused.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if not samples:
        raise ValueError("int8 takes its ranges from real inputs, and there are none; give --calibration or --data")
    kind = quantization.QuantType.QInt8 if scheme.signed else quantization.QuantType.QUInt8
    options = {"ActivationSymmetric": scheme.signed, "WeightSymmetric": True, "QuantizeBias": scheme.integer_bias}
    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared, written = Path(folder) / "prepared.onnx", Path(folder) / "written.onnx"
        try:
            quant_pre_process(source, prepared, skip_symbolic_shape=True)  # folds batch norms into convolutions
            quantization.quantize_static(
                prepared,
                written,
                _reader(prepared, samples),
                per_channel=True,
                activation_type=kind,
                weight_type=quantization.QuantType.QInt8,
                extra_options=options,
            )
        except Exception as error:  # the quantiser raises anything
            raise ValueError(f"onnxruntime.quantization: {error}") from error
        _replace(out, lambda partial: shutil.copyfile(written, partial))


def _reader(path: Path, samples: Sequence[Sequence[Any]]) -> Any:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package has no type information
        def __init__(self) -> None:
            names = [end.name for end in onnx.load(path, load_external_data=False).graph.input]
            self._feeds = iter([dict(zip(names, arrays)) for arrays in samples])

        def get_next(self) -> Any:
            return next(self._feeds, None)

    return Reader()


def _check_range(model: onnx.ModelProto) -> None:
    """Refuse a weight that float16 cannot hold."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            largest = float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))
            if largest > _LARGEST_HALF:
                raise ValueError(f"{tensor.name} holds {largest:.3g}, and fp16 ends at {_LARGEST_HALF:g}; use fp32")


def _save(model: onnx.ModelProto, out: Path) -> None:
    import onnx

    onnx.checker.check_model(model)
    _replace(out, lambda partial: onnx.save(model, partial))


def _replace(out: Path, write: Callable[[Path], Any]) -> None:
    partial = out.with_name(f".{out.name}.partial")
    write(partial)
    partial.replace(out)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converters' advice to their own developers off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
