"""The proof of a cut: the original with the removed units' readers at zero must compute the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgeprune.errors import VerificationError
from edgeprune.network.coupling.ride import Trace, as_inputs, evaluating, forward, outputs_in, trace_network
from edgeprune.network.cutting import copied, positions_of, removed_units, zero_positions
from edgeprune.network.groups import Group
from edgeprune.network.merging import merges
from edgeprune.network.plan import Plan
from edgeprune.network.structure import structure_of
from edgeprune.network.surgery import merged

TOLERANCE = 1e-7  # of the largest output, in float64, where rounding alone gives about 1e-13
ALIKE = 1e-4  # of the largest output: units that were trained to be alike in float32 differ by rounding


@dataclass(frozen=True)
class EquivalenceReport:
    """What was compared; `largest_difference` is relative to the largest output, None where no comparison is exact.

    `merge_difference` is what merging units changed, likewise relative; None where the plan merges none.
    """

    exact: bool
    largest_difference: float | None
    parameters_before: int
    parameters_after: int
    parameters_expected: int
    inexact_groups: tuple[str, ...] = ()
    merge_difference: float | None = None


def check_masked_equivalence(original: nn.Module, cut: nn.Module, plan: Plan, example_inputs: Any) -> EquivalenceReport:
    """Compare the cut network with the masked original in float64; raises VerificationError where they differ.

    Units that the plan merges are first compared as they are summed, to rounding, and then as they were before, to
    `ALIKE`: that is the loss of merging them. Where a norm runs across the removed units, shapes, parameter counts
    and finite outputs are checked instead.
    """
    trace = trace_network(original, example_inputs)
    groups = structure_of(trace).groups
    removed = removed_units(plan, groups)
    before, after = parameter_count(original), parameter_count(cut)
    expected = before - removed_parameters(original, groups, removed) - left_out(original, cut, trace)
    if after != expected:
        raise VerificationError(
            f"The cut network has {after} parameters where the plan leaves {expected} of {before}: "
            f"{wrong_tensor(original, cut, groups, removed)}."
        )
    inexact = tuple(group.name for group in groups if not group.exact and removed.get(group.name))
    masked = copied(merged(plan, original, groups))
    zero_positions(masked, positions_of(groups, removed, "reader"))
    difference = output_difference(masked, cut, example_inputs, exact=not inexact)
    if difference is not None and not difference <= TOLERANCE:
        raise VerificationError(
            f"The cut network differs from the masked original by {difference:.3g} of the largest output "
            f"(allowed: {TOLERANCE:g}) after pruning {', '.join(sorted(removed))}."
        )
    loss = _merge_difference(original, cut, plan, groups, example_inputs) if merges(plan) and not inexact else None
    return EquivalenceReport(not inexact, difference, before, after, expected, inexact, loss)


def _merge_difference(
    original: nn.Module, cut: nn.Module, plan: Plan, groups: tuple[Group, ...], example_inputs: Any
) -> float | None:
    """Compare with the original in which the merged units are whole; raises VerificationError where it matters."""
    whole = set(merges(plan))
    pruned = Plan(tuple(edit for edit in plan.cuts if edit.group not in whole))
    masked = copied(original)
    zero_positions(masked, positions_of(groups, removed_units(pruned, groups), "reader"))
    difference = output_difference(masked, cut, example_inputs)
    if difference is not None and not difference <= ALIKE:
        raise VerificationError(
            f"Merging units of {', '.join(sorted(whole))} changes the outputs by {difference:.3g} of the largest "
            f"(allowed: {ALIKE:g}): they are not alike in this network. Merge them in the network that was trained "
            "for it, or prune them."
        )
    return difference


def parameter_count(model: nn.Module) -> int:
    """Learned numbers; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def left_out(original: nn.Module, cut: nn.Module, trace: Trace) -> int:
    """Learned numbers that no operation reads, where an exported graph does without them."""
    there = {name for name, _ in cut.named_parameters()} | set(trace.axes)
    return sum(parameter.numel() for name, parameter in original.named_parameters() if name not in there)


def removed_parameters(model: nn.Module, groups: tuple[Group, ...], removed: dict[str, tuple[int, ...]]) -> int:
    """How many learned numbers a plan takes away, worked out from the fields of the groups alone."""
    gone: dict[str, dict[int, int]] = {}
    for (name, dim), positions in positions_of(groups, removed, None).items():
        gone.setdefault(name, {})[dim] = len(positions)
    total = 0
    for name, parameter in model.named_parameters():
        left = 1
        for dim, size in enumerate(parameter.shape):
            left *= size - gone.get(name, {}).get(dim, 0)
        total += parameter.numel() - left
    return total


def wrong_tensor(
    original: nn.Module, cut: nn.Module, groups: tuple[Group, ...], removed: dict[str, tuple[int, ...]]
) -> str:
    """Name the first tensor whose shape is not what the plan leaves."""
    gone = {key: len(positions) for key, positions in positions_of(groups, removed, None).items()}
    shapes = {name: tuple(parameter.shape) for name, parameter in cut.named_parameters()}
    for name, parameter in original.named_parameters():
        wanted = tuple(size - gone.get((name, dim), 0) for dim, size in enumerate(parameter.shape))
        if shapes.get(name) != wanted:
            return f"{name} is {shapes.get(name)} instead of {wanted}"
    return "it has tensors that the original does not have"


def as_double(value: Any) -> Any:
    """Example inputs with their floating-point tensors in float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return tuple(as_double(item) for item in value)
    return value


class _Double(TorchDispatchMode):
    """Turns casts to single precision into casts to double, and skips checks of the number type."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._assert_tensor_metadata.default:
            return None
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") == torch.float32:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)


@contextmanager
def in_double() -> Iterator[None]:
    """Numbers that a network makes or casts while it runs are in float64 as well."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Double():  # type: ignore[no-untyped-call]  # of PyTorch
            yield
    finally:
        torch.set_default_dtype(before)


def output_difference(masked: nn.Module, cut: nn.Module, inputs: Any, exact: bool = True) -> float | None:
    """The largest difference in float64 relative to the largest output; None where only shapes and finiteness count.

    Raises VerificationError for other shapes than the original's, or numbers that are not finite.
    """
    wanted, got = _outputs(masked, inputs), _outputs(cut, inputs)
    if [tensor.shape for tensor in wanted] != [tensor.shape for tensor in got]:
        raise VerificationError("The cut network's outputs have other shapes than the original's.")
    if any(tensor.is_floating_point() and not torch.isfinite(tensor).all() for tensor in got):
        raise VerificationError("The cut network's outputs are not all finite numbers.")
    pairs = [(a, b) for a, b in zip(wanted, got, strict=True) if a.numel()]
    if not exact:
        return None
    return max((_difference(a, b) for a, b in pairs), default=0.0)


def _outputs(network: nn.Module, inputs: Any) -> list[Tensor]:
    network = copied(network).double()
    with evaluating(network), in_double():
        return outputs_in(forward(network, as_inputs(as_double(inputs))))


def _difference(wanted: Tensor, got: Tensor) -> float:
    wanted, got = (torch.view_as_real(t) if t.is_complex() else t.double() for t in (wanted, got))
    scale = max(float(wanted.abs().max()), 1e-30)
    return float((wanted - got).abs().max()) / scale
