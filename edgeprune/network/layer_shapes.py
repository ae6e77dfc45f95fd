"""The sizes of every layer of a network, seen while it runs once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeprune.bench.layer_shape import LayerShape
from edgeprune.network.coupling.ride import evaluating, forward, running_modules


def layer_shapes(model: nn.Module, example_inputs: Any) -> Mapping[str, LayerShape]:
    """The shapes of the convolutions, linear layers and attentions by layer name; a layer that runs twice counts once.

    Layers are called as in `Structure.layers`. A product of two activations that is no attention operation of
    PyTorch is left out. Raises ModelError where the network fails on the inputs.
    """
    with evaluating(model), running_modules(model) as modules:
        recorder = _Recorder(model, modules)
        with recorder:
            forward(model, example_inputs)
    return recorder.shapes


class _Recorder(TorchDispatchMode):
    """Notes the sizes of the operations that layers are made of."""

    def __init__(self, model: nn.Module, modules: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of PyTorch
        self.shapes: dict[str, LayerShape] = {}
        self._modules = modules
        named = [(name, tensor) for name, tensor in model.named_parameters() if tensor.ndim > 1]
        # A linear layer multiplies by a view of its weight, which shares the weight's memory.
        self._names = {tensor.untyped_storage().data_ptr(): name for name, tensor in reversed(named)}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        reader = _READERS.get(func._schema.name.partition("::")[2])
        found = reader(args) if reader is not None else None
        if found is not None:
            weight, shape = found
            self.shapes.setdefault(self._layer(weight), shape)
        return func(*args, **(kwargs or {}))

    def _layer(self, weight: Tensor | None) -> str:
        name = self._names.get(weight.untyped_storage().data_ptr(), "") if weight is not None else ""
        if not name:
            return self._modules[-1] if self._modules else ""
        return name.rpartition(".")[0] or name


_Found = tuple[Tensor | None, LayerShape] | None


def _convolution(args: tuple[Any, ...]) -> _Found:
    x, weight = args[0], args[1]
    stride, padding, dilation = (tuple(sizes) for sizes in args[3:6])
    transposed, groups = bool(args[6]), int(args[8])
    per_group = weight.shape[1]
    outputs = per_group * groups if transposed else weight.shape[0]
    is_depthwise = groups > 1 and per_group == 1 and outputs == groups
    shape = LayerShape(
        operator="depthwise" if is_depthwise else "conv",
        inputs=x.shape[1],
        outputs=outputs,
        size=tuple(x.shape[2:]),
        kernel=tuple(weight.shape[2:]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        transposed=transposed,
    )
    return weight, shape


def _linear(x: Tensor, weight: Tensor) -> _Found:
    """(rows, inputs) times (inputs, outputs)."""
    rows = x.shape[:-1].numel()
    return weight, LayerShape("linear", x.shape[-1], weight.shape[-1], (rows,))


def _attention(args: tuple[Any, ...]) -> _Found:
    """(batch, heads, n, d) three times."""
    query, key = args[0], args[1]
    heads = query.shape[:-2].numel()
    return None, LayerShape("attention", heads, heads, (query.shape[-2], key.shape[-2], query.shape[-1]))


_READERS: Mapping[str, Callable[[tuple[Any, ...]], _Found]] = {
    "convolution": _convolution,
    "mm": lambda args: _linear(args[0], args[1]),
    "addmm": lambda args: _linear(args[1], args[2]),
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "scaled_dot_product_attention": _attention,
}
