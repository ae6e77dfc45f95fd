"""Factorises single layers: what each can become, the chain itself, and the weight that a chain amounts to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from edgeprune.errors import PlanError, UnknownNameError
from edgeprune.network.factorisation.schemes import SCHEMES, Part, Scheme, Sizes

Rank = int | tuple[int, ...]
Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class Choice:
    """A layer, by name, and the scheme that it is factorised with."""

    name: str
    layer: Layer
    scheme: Scheme

    @property
    def groups(self) -> int:
        """Its channel groups; each has factors of its own."""
        return self.layer.groups if isinstance(self.layer, nn.Conv2d) else 1

    @property
    def sizes(self) -> Sizes:
        """The sizes of the weight of one channel group."""
        weight = self.layer.weight
        window = tuple(weight.shape[2:]) or (1, 1)
        return (weight.shape[0] // self.groups, weight.shape[1], window[0], window[1])

    @property
    def full_rank(self) -> tuple[int, ...]:
        """The rank at which the chain computes the same as the layer."""
        return self.scheme.full_rank(self.sizes)


def choose(network: nn.Module, name: str, scheme: str) -> Choice:
    """Look up a layer and a scheme; raises UnknownNameError, or PlanError where they do not go together."""
    if scheme not in SCHEMES:
        raise UnknownNameError("factorisation scheme", scheme, SCHEMES)
    modules = dict(network.named_modules())
    if name not in modules:
        raise UnknownNameError("layer", name, [key for key, module in modules.items() if _is_layer(module)])
    reason = refusal(modules[name], SCHEMES[scheme])
    if reason:
        raise PlanError(f"The layer {name!r} cannot be factorised with the scheme {scheme!r}: {reason}.")
    return Choice(name, cast("Layer", modules[name]), SCHEMES[scheme])


def refusal(module: nn.Module, scheme: Scheme) -> str:
    """Why a layer cannot be factorised, "" where it can."""
    if not _is_layer(module):
        return f"it is a {type(module).__name__}, and only Conv2d and Linear can be"
    layer = cast("Layer", module)
    if isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros":
        return f"it pads with {layer.padding_mode!r} and not with zeros"
    return scheme.refusal(Choice("", layer, scheme).sizes)


def _is_layer(module: nn.Module) -> bool:
    return type(module) in (nn.Conv2d, nn.Linear)  # NOTE: a subclass may compute something else


def checked_rank(choice: Choice, rank: Rank) -> tuple[int, ...]:
    """Return the rank as one number for each of the scheme's; raises PlanError for one that the layer cannot have."""
    full = choice.full_rank
    ranks = rank if isinstance(rank, tuple) else (rank,) * len(full)
    where = f"The rank {rank!r} of the layer {choice.name!r} with the scheme {choice.scheme.name!r}"
    if any(isinstance(one, bool) or not isinstance(one, int) for one in ranks):
        raise PlanError(f"{where} is no whole number. Give 1 to {_listed(full)}.")
    if len(ranks) != len(full):
        raise PlanError(f"{where} has {len(ranks)} numbers; the scheme has {len(full)}.")
    if any(not 1 <= one <= most for one, most in zip(ranks, full, strict=True)):
        raise PlanError(f"{where} is outside of what it can be. Give 1 to {_listed(full)}.")
    return ranks


def _listed(full: tuple[int, ...]) -> str:
    return str(full[0]) if len(full) == 1 else str(full)


def factorised_layer(choice: Choice, rank: Rank) -> nn.Sequential:
    """Return the chain that replaces a layer, with its bias on the last one.

    A rank is that of each channel group. Raises PlanError for a bad rank, and for weights that have no
    singular values.
    """
    ranks = checked_rank(choice, rank)
    weights = _split_groups(choice, ranks)
    layers = [_thin_layer(choice, part, weight) for part, weight in zip(choice.scheme.parts, weights, strict=True)]
    bias = choice.layer.bias
    if bias is not None:
        layers[-1].bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return nn.Sequential(*layers).train(choice.layer.training)


def empty_chain(choice: Choice, rank: Rank) -> nn.Sequential:
    """Return the chain with zeros for weights: all that its sizes and its latency depend on."""
    ranks, sizes = checked_rank(choice, rank), choice.sizes
    layers = []
    for part in choice.scheme.parts:
        inputs, outputs = choice.scheme.widths(part, sizes, ranks)
        window = [sizes[2 + axis] if axis in part.axes else 1 for axis in (0, 1)]
        shape = (outputs * choice.groups, inputs // outputs if part.apart else inputs, *window)
        layers.append(_thin_layer(choice, part, torch.zeros(shape)))
    return nn.Sequential(*layers)


def group_weights(choice: Choice) -> Tensor:
    """The weight in float64: (groups, outputs, inputs, height, width)."""
    weight = choice.layer.weight.detach().double()
    return weight.reshape(choice.groups, *choice.sizes)


def _split_groups(choice: Choice, ranks: tuple[int, ...]) -> list[Tensor]:
    weight = group_weights(choice)
    if not torch.isfinite(weight).all():
        raise PlanError(f"The weight of the layer {choice.name!r} is not finite, so it has no factors. Leave it whole.")
    try:
        split = [choice.scheme.split(one.cpu(), ranks) for one in weight]
    except PlanError as error:
        raise PlanError(f"The layer {choice.name!r} has no factors: {error}. Leave it whole.") from error
    return [torch.cat(parts).to(choice.layer.weight) for parts in zip(*split, strict=True)]


def _thin_layer(choice: Choice, part: Part, weight: Tensor) -> Layer:
    """A layer of the chain; weight (outputs of all groups, inputs of one, height, width)."""
    layer = choice.layer
    made: Layer
    if isinstance(layer, nn.Conv2d):
        groups = len(weight) if part.apart else layer.groups
        made = nn.Conv2d(
            weight.shape[1] * groups,
            len(weight),
            cast("tuple[int, int]", tuple(weight.shape[2:])),
            stride=_along(part, layer.stride, 1),
            padding=layer.padding if isinstance(layer.padding, str) else _along(part, layer.padding, 0),
            dilation=_along(part, layer.dilation, 1),
            groups=groups,
            bias=False,
            device="meta",
        )
    else:
        made, weight = nn.Linear(weight.shape[1], len(weight), bias=False, device="meta"), weight[:, :, 0, 0]
    made.weight = nn.Parameter(weight.contiguous(), requires_grad=layer.weight.requires_grad)
    return made


def _along(part: Part, both: tuple[int, ...], neutral: int) -> tuple[int, int]:
    """A setting of the layer on the axes that a part covers."""
    down, across = (both[axis] if axis in part.axes else neutral for axis in (0, 1))
    return down, across


def composed_weight(chain: Iterable[nn.Module], like: Layer) -> Tensor:
    """Return the weight of one layer that computes what a chain does: the shape of `like`'s weight, in float64."""
    total: Tensor | None = None
    for layer in chain:
        step = _dense(cast("Layer", layer))
        # Windows of two layers that follow one another add up; on each axis at most one of them is wider than 1.
        total = step if total is None else _product(step, total)
    if total is None:
        raise PlanError("A chain without layers has no weight.")
    weight = like.weight
    blocks = like.groups if isinstance(like, nn.Conv2d) else 1
    rows, columns = weight.shape[0] // blocks, weight.shape[1]
    pieces = [
        total[block * rows : (block + 1) * rows, block * columns : (block + 1) * columns] for block in range(blocks)
    ]
    return torch.cat(pieces).reshape(weight.shape)


def _dense(layer: Layer) -> Tensor:
    """The weight of a layer between all its outputs and all its inputs, with zeros between channel groups."""
    weight = layer.weight.detach().double()
    if isinstance(layer, nn.Linear):
        return weight[:, :, None, None]
    groups = layer.groups
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    whole = weight.new_zeros(weight.shape[0], columns * groups, *weight.shape[2:])
    for group in range(groups):
        own = slice(group * rows, (group + 1) * rows)
        whole[own, group * columns : (group + 1) * columns] = weight[own]
    return whole


def _product(after: Tensor, before: Tensor) -> Tensor:
    found = torch.einsum("nmab,mcxy->ncaxby", after, before)
    outputs, inputs, down, more_down, across, more_across = found.shape
    return found.reshape(outputs, inputs, down * more_down, across * more_across)
