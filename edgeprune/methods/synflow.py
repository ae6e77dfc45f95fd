"""Removes the units through which the least weight flows from inputs to outputs; looks at no data.

Hidenori Tanaka, Daniel Kunin, Daniel L. K. Yamins, Surya Ganguli: "Pruning neural networks without any data by
iteratively conserving synaptic flow", NeurIPS 2020, https://arxiv.org/abs/2006.05467: w * dR/dw, R the sum of the
outputs of the network with absolute weights for an input of ones.

Deviations: on the trained network, one shot rather than 100 rounds; the flow of a unit is that through what reads it.
Biases and shifts are zero, norms only scale, and the input is tiny, so that activations stay where they are linear.
The flow through every layer is the same in total, so that scores compare across groups as they are.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from edgeprune.contracts import Context, Method
from edgeprune.methods._taylor import gate_gradient, gate_slots
from edgeprune.network.coupling.ride import outputs_in
from edgeprune.network.groups import Scores

_TINY = 1e-20


class Synflow(Method):
    """Importance = synaptic flow through a unit, over the largest flow of any; needs no data."""

    def score(self, context: Context) -> Scores:
        """Score every unit in 0..1."""
        network, groups = context.network.double().eval().requires_grad_(True), context.structure.groups
        _make_linear(network)
        parameters = dict(network.named_parameters())
        network.zero_grad(set_to_none=True)
        outputs = outputs_in(network(*(_tiny(part) for part in context.example_inputs)))
        torch.stack([output.sum() for output in outputs]).sum().backward()
        flows = {group.name: gate_gradient(gate_slots(group, parameters), parameters) for group in groups}
        largest = max((float(flow.max()) for flow in flows.values()), default=0.0) or 1.0
        return {name: tuple((flow / largest).tolist()) for name, flow in flows.items()}


def _tiny(part: torch.Tensor) -> torch.Tensor:
    return torch.full_like(part[:1].double(), _TINY) if part.is_floating_point() else part[:1]


def _make_linear(network: nn.Module) -> None:
    """Leave absolute weights alone, in place: no biases, and norms that only scale."""
    with torch.no_grad():
        for module in network.modules():
            for name, parameter in module.named_parameters(recurse=False):
                parameter.copy_(torch.zeros_like(parameter) if name.endswith("bias") else parameter.abs())
            if isinstance(module, _NormBase | nn.GroupNorm):
                module.forward = partial(_scaled, scale=module.weight, dim=1)  # type: ignore[method-assign]
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.forward = partial(_scaled, scale=module.weight, dim=-1)  # type: ignore[method-assign]


def _scaled(x: torch.Tensor, scale: torch.Tensor | None, dim: int) -> torch.Tensor:
    if scale is None:
        return x
    return x * (scale.reshape(-1, *[1] * (x.dim() - 2)) if dim == 1 else scale)
