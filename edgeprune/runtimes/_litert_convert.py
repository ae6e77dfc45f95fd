"""Turns `model.pt2` into `.tflite`: reads orders from standard input, one JSON line each, and answers each with one.

A process of its own, because litert-torch loads half a gigabyte and may take its process down with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import fx, nn

_PRECISION = Path(__file__).with_name("_litert_precision.py")
_PARENT_DEATH_SIGNAL = 1
_MISSING = "litert-torch is not installed ({}). Run: pip install 'edgeprune[litert]'"


def main() -> None:
    """Answer orders until standard input ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    answers = _take_stdout()
    for line in sys.stdin:
        order = json.loads(line)
        problem = _convert(order)
        answers.write(json.dumps({"problem": problem}) + "\n")
        answers.flush()


def _convert(order: Mapping[str, Any]) -> str:
    """Write the artifact; return what went wrong, or ""."""
    out, precision = Path(order["out"]), order["precision"]
    try:
        import litert_torch
        import torch
    except ImportError as error:
        return _MISSING.format(error)
    try:
        torch.set_num_threads(1)
        exported = torch.export.load(order["program"])
        arguments, _ = exported.example_inputs
        network = name_layers(fold_batch_norms(exported.module()))
        partial, lowered = (out.with_name(f".{out.name}.{stage}") for stage in ("partial", "lowered"))
        litert_torch.convert(network, tuple(arguments)).export(str(partial))
        if precision != "fp32":
            runpy.run_path(str(_PRECISION))["lower"](partial, precision, order["samples"], lowered)
            lowered.replace(partial)
        partial.replace(out)
    except Exception as error:  # the converter raises anything; the answer carries it to the one who asked
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"litert-torch: {lines[0] if lines else type(error).__name__}"
    return ""


def fold_batch_norms(network: fx.GraphModule) -> fx.GraphModule:
    """Fold batch norms into the convolutions before them, in place.

    The converter does the same, but only after it has taken each apart three times: this halves its time.
    """
    import torch

    for node in list(network.graph.nodes):
        if node.target is torch.ops.aten.batch_norm.default and _folds(node):
            _fold(network, node)
    network.graph.eliminate_dead_code()
    network.recompile()
    return network


def name_layers(network: fx.GraphModule) -> fx.GraphModule:
    """Make the converter name tensors `LAYER_<module>`, with / for dots, which the profiler reads back."""
    for node in network.graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack:
            module, _ = list(stack.values())[-1]
            node.meta["nn_module_stack"] = {"layer": (module.replace(".", "/"), "LAYER")}
    return network


def _folds(norm: Any) -> bool:
    import torch

    convolution, training = norm.args[0], norm.args[5]
    return (
        convolution.target in (torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default)
        and len(convolution.users) == 1
        and not training
        and all(tensor is None or tensor.op == "get_attr" for tensor in (*convolution.args[1:3], *norm.args[1:5]))
    )


def _fold(network: fx.GraphModule, norm: Any) -> None:
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    convolution = norm.args[0]
    bias = convolution.args[2] if len(convolution.args) > 2 else None
    scale, shift, mean, variance = (_tensor(network, node) for node in norm.args[1:5])
    epsilon = norm.args[7]
    folded = fuse_conv_bn_weights(
        _tensor(network, convolution.args[1]), _tensor(network, bias), mean, variance, epsilon, scale, shift
    )
    with network.graph.inserting_before(convolution):
        nodes = [_attach(network, f"{convolution.name}_{part}", value) for part, value in zip("wb", folded)]
    convolution.args = (convolution.args[0], *nodes, *convolution.args[3:])
    norm.replace_all_uses_with(convolution)
    network.graph.erase_node(norm)


def _attach(network: fx.GraphModule, name: str, value: nn.Parameter) -> fx.Node:
    setattr(network, name, value)
    return network.graph.get_attr(name)


def _tensor(network: fx.GraphModule, node: Any) -> Any:
    if node is None:
        return None
    owner, _, name = node.target.rpartition(".")
    return getattr(network.get_submodule(owner), name)


def _take_stdout() -> IO[str]:
    """Keep standard output for answers: the converter prints its progress there, from now on to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    main()
