"""The ranks of a network's layers as units of groups, which a controller allocates as it does channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from edgeprune.bench.layer_shape import LayerShape
from edgeprune.errors import PlanError
from edgeprune.network.factorisation.applying import called_layers, sharing_layers
from edgeprune.network.factorisation.layers import Choice, choose, empty_chain, refusal
from edgeprune.network.factorisation.schemes import SCHEMES
from edgeprune.network.groups import Factorisation, Group, Quarantine, Structure
from edgeprune.network.layer_shapes import layer_shapes

_MOST_COUNTS = 8
_REMEDY = "Leave it whole."


@dataclass(frozen=True)
class Spectrum:
    """How a layer can be truncated: the rank by kept units, and what each unit adds, largest first.

    `energies` are parts of the layer's energy, for the reader; `scores` are what is weighed.
    """

    ranks: tuple[tuple[int, ...], ...]
    scores: tuple[float, ...]
    energies: tuple[float, ...]


Spectra = Callable[[Choice], Spectrum]


def rank_name(layer: str) -> str:
    """The name of the group of a layer's ranks."""
    return f"{layer}:rank"


def with_ranks(
    structure: Structure, network: nn.Module, example_inputs: Any, schemes: Sequence[str], spectra: Spectra
) -> Structure:
    """Return a structure with the ranks of all layers but the first and the last.

    Each is factorised with the first scheme that applies to it. What has no spectrum, or no chain that needs fewer
    multiply-accumulates, is left whole; the former with its reason.
    """
    shapes = layer_shapes(network, example_inputs)
    called = called_layers(network, example_inputs)
    groups, found, left = [], [], []
    for layer in structure.layers[1:-1]:
        choice = None if isinstance(network, fx.GraphModule) else _choice(network, layer.name, schemes)
        if choice is None or layer.name not in called or sharing_layers(network, choice.layer):
            continue
        try:
            spectrum = spectra(choice)
        except PlanError as error:
            left.append(Quarantine(layer.name, str(error), "factorise", layer.name, "", _REMEDY))
            continue
        factorisation = _factorisation(choice, spectrum, shapes[layer.name])
        if factorisation.chains:
            size = len(spectrum.ranks)
            counts = (*(count for count, _ in factorisation.chains), size)
            macs, parameters = layer.macs // size, layer.parameters // size
            groups.append(Group(factorisation.group, size, (), (), "rank", macs, parameters, exact=True, counts=counts))
            found.append(factorisation)
    return replace(
        structure,
        groups=(*structure.groups, *groups),
        quarantined=(*structure.quarantined, *left),
        factorisations=tuple(found),
    )


def rank_scores(structure: Structure, network: nn.Module, spectra: Spectra) -> dict[str, tuple[float, ...]]:
    """Score the units of all groups of ranks; raises PlanError for a layer that has no spectrum any more."""
    return {
        found.group: spectra(choose(network, found.layer, found.scheme)).scores for found in structure.factorisations
    }


def _choice(network: nn.Module, name: str, schemes: Sequence[str]) -> Choice | None:
    module = dict(network.named_modules()).get(name)
    if module is None:
        return None
    return next((choose(network, name, one) for one in schemes if not refusal(module, SCHEMES[one])), None)


def _chains(choice: Choice, spectrum: Spectrum, shape: LayerShape) -> tuple[tuple[int, tuple[LayerShape, ...]], ...]:
    """Chains of a few ranks, evenly spread, that need fewer multiply-accumulates than the layer."""
    last = _last_below(shape.macs, lambda kept: _macs(_chain(choice, spectrum.ranks[kept - 1], shape)), spectrum)
    step = next((step for step in (1, 2, 4, 8, 16, 32, 64) if last // step <= _MOST_COUNTS), -(-last // _MOST_COUNTS))
    counts = range(step, last + 1, step) if last >= step else range(0)
    return tuple((count, _chain(choice, spectrum.ranks[count - 1], shape)) for count in counts)


def _factorisation(choice: Choice, spectrum: Spectrum, shape: LayerShape) -> Factorisation:
    return Factorisation(
        layer=choice.name,
        group=rank_name(choice.name),
        scheme=choice.scheme.name,
        ranks=spectrum.ranks,
        chains=_chains(choice, spectrum, shape),
        energies=spectrum.energies,
        least=_least(choice, spectrum.ranks),
    )


def _least(choice: Choice, ranks: Sequence[tuple[int, ...]]) -> tuple[tuple[int, int], ...]:
    """For each rank the fewest inputs, and the fewest outputs, of a layer that can have it."""
    outputs, inputs, height, width = choice.sizes

    def fewest(rank: tuple[int, ...], full_ranks: Sequence[tuple[int, ...]]) -> int:
        fits = [all(one <= most for one, most in zip(rank, full, strict=True)) for full in full_ranks]
        return choice.groups * (1 + fits.index(True))

    by_inputs = [choice.scheme.full_rank((outputs, count, height, width)) for count in range(1, inputs + 1)]
    by_outputs = [choice.scheme.full_rank((count, inputs, height, width)) for count in range(1, outputs + 1)]
    return tuple((fewest(rank, by_inputs), fewest(rank, by_outputs)) for rank in ranks)


def _last_below(macs: int, macs_of: Callable[[int], int], spectrum: Spectrum) -> int:
    """The largest number of units below all of them whose chain needs fewer, by bisection; 0 where none does."""
    low, high = 0, len(spectrum.ranks)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if macs_of(middle) < macs else (low, middle)
    return low


def _chain(choice: Choice, rank: tuple[int, ...], shape: LayerShape) -> tuple[LayerShape, ...]:
    sizes = (1, shape.inputs, *shape.size) if shape.operator != "linear" else (*shape.size, shape.inputs)
    chain = empty_chain(choice, rank).eval()
    return tuple(layer_shapes(chain, (torch.zeros(sizes),)).values())


def _macs(chain: tuple[LayerShape, ...]) -> int:
    return sum(shape.macs for shape in chain)
