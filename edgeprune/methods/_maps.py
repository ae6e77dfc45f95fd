"""What a network computes in its units: their maps where they are read, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from edgeprune.contracts import Context
from edgeprune.methods._taylor import batches_of
from edgeprune.network.batches import as_inputs
from edgeprune.network.data import Data
from edgeprune.network.groups import Group, Role, Slice
from edgeprune.network.reduction import over_mean, unit_norms

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
Visit = Callable[[str, torch.Tensor], None]


@dataclass(frozen=True)
class Place:
    """A layer that reads (or writes) the units of a group, and the slice of its weight that says which."""

    module: nn.Module
    piece: Slice


def places(network: nn.Module, group: Group) -> tuple[Place, ...]:
    """Return the plain layers that read all units of a group; where there are none, those that write them."""
    return _places(network, group, "reader") or _places(network, group, "writer")


def _places(network: nn.Module, group: Group, role: Role) -> tuple[Place, ...]:
    found = []
    for piece in group.slices:
        owner, _, leaf = piece.tensor.rpartition(".")
        if piece.role != role or leaf != "weight" or not all(piece.index):
            continue
        module = network.get_submodule(owner)
        if isinstance(module, _LAYERS) and getattr(module, "groups", 1) == 1:
            found.append(Place(module, piece))
    return tuple(found)


def maps_of(values: torch.Tensor, module: nn.Module, piece: Slice) -> torch.Tensor:
    """Return what a layer reads or writes by unit: (samples, units, rows, columns).

    A unit that owns several channels has them one below the other. Tokens are columns.
    """
    channels_last = isinstance(module, nn.Linear)
    values = values if channels_last else values.movedim(1, -1)
    sets = {len(positions) for positions in piece.index}
    positions = torch.tensor([own[: min(sets)] for own in piece.index], device=values.device)
    owned = values[..., positions]  # (samples, ..., units, own)
    owned = owned.movedim(-2, 1).movedim(-1, 2)  # (samples, units, own, ...)
    columns = owned.shape[-1] if owned.dim() > 3 else 1
    return owned.reshape(owned.shape[0], owned.shape[1], -1, columns)


@contextmanager
def watching(network: nn.Module, groups: Sequence[Group], visit: Visit) -> Iterator[None]:
    """Inside, every forward calls `visit` with each group's name and its maps, once a layer that reads it."""
    with ExitStack() as hooks:
        for group in groups:
            for place in places(network, group):
                hooks.enter_context(_hooked(place, group.name, visit))
        yield


@contextmanager
def _hooked(place: Place, name: str, visit: Visit) -> Iterator[None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        visit(name, maps_of((inputs[0] if place.piece.role == "reader" else output).detach(), module, place.piece))

    handle = place.module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def mean_over_maps(
    context: Context, data: Data, samples: int, measure: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, tuple[float, ...]]:
    """Return for each unit the mean of what `measure` makes of its maps, over samples and over layers that read it.

    `measure` turns (samples, units, rows, columns) into (samples, units). A group that no plain layer reads or writes
    gets the norms of its weights over their mean.
    """
    network, groups = context.network, context.structure.groups
    totals = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
    counts = dict.fromkeys(totals, 0)
    left = samples

    def visit(name: str, maps: torch.Tensor) -> None:
        measured = measure(maps[:left].float()).double().cpu()
        totals[name] += measured.sum(0)
        counts[name] += len(measured)

    with watching(network, groups, visit), torch.no_grad():
        for inputs, _ in batches_of(network, data, samples):
            if left <= 0:
                break
            parts = as_inputs(inputs)
            network(*(part[:left] for part in parts))
            left -= len(parts[0])
    weights = dict(network.named_parameters())
    return {
        group.name: tuple((totals[group.name] / counts[group.name]).tolist())
        if counts[group.name]
        else over_mean(unit_norms(group, weights))
        for group in groups
    }
