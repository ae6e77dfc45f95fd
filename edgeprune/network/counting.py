"""Multiply-accumulates and parameters of a network, counted on the real operations."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgeprune.network.coupling.ride import trace_network


def count_macs(model: nn.Module, example_inputs: Any) -> int:
    """Multiply-accumulates of one forward on the example inputs (their batch size included).

    Convolutions, linear layers, matrix products and attention are counted; what costs one operation an element
    is not. Raises ModelError where the network fails on the inputs.
    """
    return trace_network(model, example_inputs).ledger.macs


def count_parameters(model: nn.Module) -> int:
    """Learned numbers; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in model.parameters())
