"""Counts the parameters that an export must hold, and finds the first that it lost or changed in size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from edgeprune.errors import VerificationError


@dataclass(frozen=True)
class ParameterCounts:
    """Elements of the parameters in the network and in both files, tied ones once.

    `onnx` counts the initialisers that carry a parameter, before batch norms are folded into the weights; it
    equals `network` less `unused`, the parameters that no output depends on. `exported_program` is None
    where there is no `model.pt2`.
    """

    network: int
    unused: int
    exported_program: int | None
    onnx: int


def count_parameters(
    network: nn.Module,
    inputs: Sequence[torch.Tensor],
    program: ExportedProgram | None,
    in_onnx: Mapping[str, int],
) -> ParameterCounts:
    """Compare the network with its program and with the elements found `in_onnx` by parameter name.

    Raises VerificationError naming the first parameter that is missing or has another size.
    """
    used = _read_by_program(program) if program is not None else _reached_by_gradients(network, inputs)
    in_program = {} if program is None else {name: tensor.numel() for name, tensor in program.state_dict.items()}
    total = unused = 0
    for names, size in _tied(network):
        needed = not used.isdisjoint(names)
        if needed:
            _check_size(names, size, in_onnx, "model.onnx")
        if program is not None:
            _check_size(names, size, in_program, "model.pt2")
        total += size
        unused += 0 if needed else size
    return ParameterCounts(total, unused, total if program is not None else None, total - unused)


def _tied(network: nn.Module) -> list[tuple[tuple[str, ...], int]]:
    """Return each parameter once: all its names, and its element count."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    return [(tuple(aliases), parameter.numel()) for parameter, aliases in names.items()]


def _check_size(names: tuple[str, ...], size: int, found: Mapping[str, int], where: str) -> None:
    sizes = [found[name] for name in names if name in found]
    if not sizes:
        raise VerificationError(f"{where} has no {names[0]}, which the network's output depends on.")
    if set(sizes) != {size}:
        raise VerificationError(f"{where} has {sizes[0]} elements in {names[0]} where the network has {size}.")


def _read_by_program(program: ExportedProgram) -> frozenset[str]:
    named = program.graph_signature.inputs_to_parameters
    read = (node.name for node in program.graph.nodes if node.op == "placeholder" and node.users)
    return frozenset(named[name] for name in read if name in named)


def _reached_by_gradients(network: nn.Module, inputs: Sequence[torch.Tensor]) -> frozenset[str]:
    parameters = dict(network.named_parameters(remove_duplicate=False))
    outputs = [leaf for leaf in pytree.tree_leaves(network(*inputs)) if isinstance(leaf, torch.Tensor)]
    total = sum(output.sum() for output in outputs if output.requires_grad)
    if not isinstance(total, torch.Tensor):
        return frozenset()
    wanted = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    gradients = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    return frozenset(name for name, gradient in zip(wanted, gradients, strict=True) if gradient is not None)
