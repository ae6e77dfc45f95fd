"""Writes a `.tflite` at a lower precision: 16-bit weights, or 8-bit integers throughout. Runs in the converter.

Inputs and outputs stay float32, so that every precision of a network is called alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def lower(model: Path, precision: str, samples: str | None, out: Path) -> None:
    """Write `model` at "fp16" or "int8"; ranges come from the `.npz` that `samples` names (input_0, input_1, ...)."""
    from ai_edge_quantizer import quantizer

    recipe = _half() if precision == "fp16" else _integers()
    lowering = quantizer.Quantizer(str(model), recipe)
    ranges = None
    if lowering.need_calibration and samples is not None:
        key, feeds = _feeds(model, samples)
        ranges = lowering.calibrate({key: feeds}, num_threads=1)
    result = lowering.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    result.export_model(str(out), overwrite=True)


def _half() -> Any:
    """Weights as 16-bit floats: XNNPACK widens them when it loads, or computes with them where the cores can."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    recipe = RecipeManager()
    recipe.add_quantization_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=AlgorithmName.FLOAT_CASTING,
    )
    return recipe.get_quantization_recipe()


def _integers() -> Any:
    """Weights symmetric with one scale a channel, activations with a zero point; the ends stay floating point."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    recipe = RecipeManager()
    recipe.add_static_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        activation_num_bits=8,
        weight_num_bits=8,
    )
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        recipe.add_quantization_config(
            regex=".*",
            operation_name=end,
            op_config=qtyping.OpQuantizationConfig(),
            algorithm_key=AlgorithmName.NO_QUANTIZE,
        )
    return recipe.get_quantization_recipe()


def _feeds(model: Path, samples: str) -> tuple[str, list[dict[str, Any]]]:
    """Return the key of the file's one signature, and the inputs of each sample by name."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    (signature,) = Interpreter(model_path=str(model)).get_signature_list().items()
    key, ends = signature
    names = sorted(ends["inputs"], key=lambda name: (len(name), name))  # args_0, ..., args_10
    with np.load(samples, allow_pickle=False) as stored:
        columns = [stored[f"input_{number}"] for number in range(len(stored.files))]
    rows: Iterator[tuple[Any, ...]] = zip(*columns)
    return key, [dict(zip(names, row)) for row in rows]
