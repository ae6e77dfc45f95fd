"""What one layer computes, as data: enough to build a network of that layer alone, with any number of channels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

_MEASURED_MACS = 200_000_000
_FEWEST_COPIES, _MOST_COPIES = 4, 16


@dataclass(frozen=True)
class LayerShape:
    """One layer: its operator ("conv", "depthwise", "linear" or "attention") and its sizes.

    `inputs` and `outputs` are channels; of a depthwise layer and of an attention they are the same number (channels,
    heads). `size` is the rest of the input: height and width of a convolution, the rows of a linear layer, and
    (queries, keys, width of a head) of an attention.
    """

    operator: str
    inputs: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False

    @property
    def one_sided(self) -> bool:
        """Whether inputs and outputs are one number."""
        return self.operator in ("depthwise", "attention")

    @property
    def family(self) -> str:
        """Layers of one family run in the same kernels of an engine and so share the width of their stairs."""
        if self.operator != "conv":
            return self.operator
        return "pointwise" if set(self.kernel) == {1} else "conv"

    @property
    def macs(self) -> int:
        """Multiply-accumulates, about: a convolution is counted at its input's size over its stride."""
        if self.operator == "attention":
            queries, keys, width = self.size
            return 2 * self.inputs * queries * keys * width
        positions = math.prod(size // step or 1 for size, step in zip(self.size, self.stride or (1,), strict=False))
        return positions * math.prod(self.kernel) * self.outputs * max(self.inputs // self.groups, 1)

    @property
    def parameters(self) -> int:
        """Weights, without a bias."""
        if self.operator == "attention":
            return 0
        return math.prod(self.kernel) * self.outputs * max(self.inputs // self.groups, 1)

    @property
    def copies(self) -> int:
        """How often the layer is put side by side when it is measured alone, so that it outweighs what is fixed.

        A layer of one multiplication stands for what is fixed, and stands alone.
        """
        if self.macs <= 1:
            return 1
        return min(max(_MEASURED_MACS // max(self.macs, 1), _FEWEST_COPIES), _MOST_COPIES)

    def with_channels(self, inputs: int, outputs: int) -> LayerShape:
        """Return the same layer with other numbers of channels."""
        groups = outputs if self.operator == "depthwise" else self.groups
        return replace(self, inputs=inputs, outputs=outputs, groups=groups)

    def template(self) -> LayerShape:
        """Return the layer without its channels: what layers that differ in them alone have in common."""
        return replace(self, inputs=0, outputs=0, groups=0 if self.operator == "depthwise" else self.groups)

    def __str__(self) -> str:
        """Return it in a person's words: `conv 3x3 /2 16>32 at 32x32`."""
        kernel = " " + "x".join(map(str, self.kernel)) if self.kernel else ""
        stride = f" /{max(self.stride)}" if max(self.stride, default=1) > 1 else ""
        channels = str(self.outputs) if self.one_sided else f"{self.inputs}>{self.outputs}"
        return f"{self.operator}{kernel}{stride} {channels} at {'x'.join(map(str, self.size))}"


def shape_to_dict(shape: LayerShape) -> dict[str, Any]:
    """Return plain JSON types."""
    return asdict(shape)


def shape_from_dict(data: Mapping[str, Any]) -> LayerShape:
    """Read a shape back; raises TypeError for data that is none."""
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    return LayerShape(**fields)
