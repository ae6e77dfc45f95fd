"""What each unit contributes to the outputs of the layers that read it, at random places."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from edgeprune.contracts import Context
from edgeprune.methods._maps import Place, places
from edgeprune.methods._taylor import batches_of
from edgeprune.network.batches import as_inputs, epoch_generator
from edgeprune.network.data import Data
from edgeprune.network.groups import Group
from edgeprune.network.reduction import slot_of


def gram_of(context: Context, group: Group, data: Data, samples: int, count: int) -> torch.Tensor | None:
    """Return the sums of products of the units' contributions (units, units), over all layers that read them.

    Every layer is divided by the squares of its own outputs. None where no plain layer reads the group.
    """
    readers = [place for place in places(context.network, group) if place.piece.role == "reader" and _plain(place)]
    if not readers:
        return None
    generator = epoch_generator(context.seed, 0)
    grams = [torch.zeros(group.size, group.size, dtype=torch.float64) for _ in readers]

    def take(number: int, place: Place) -> Callable[..., None]:
        slot = slot_of(place.piece, group.size)

        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            parts = _contributions(module, inputs[0].detach(), count, generator).double().cpu()  # (places, channels)
            units = torch.zeros(len(parts), group.size, dtype=torch.float64)
            units.index_add_(1, slot.owners, parts[:, slot.positions])
            grams[number] += units.T @ units

        return hook

    hooks = [place.module.register_forward_pre_hook(take(number, place)) for number, place in enumerate(readers)]
    try:
        with torch.no_grad():
            seen = 0
            for inputs, _ in batches_of(context.network, data, samples):
                if seen >= samples:
                    break
                parts = [part[: samples - seen] for part in as_inputs(inputs)]
                context.network(*parts)
                seen += len(parts[0])
    finally:
        for handle in hooks:
            handle.remove()
    return torch.stack([gram / max(float(gram.sum()), 1e-30) for gram in grams]).sum(0)


def _plain(place: Place) -> bool:
    return isinstance(place.module, nn.Conv2d | nn.Linear)


def _contributions(module: nn.Module, x: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Return what each input channel adds to one random output at `count` random places a sample (places, channels)."""
    if isinstance(module, nn.Conv2d):
        window = (module.kernel_size, module.dilation, 0, module.stride)
        # NOTE: the padding as PyTorch itself applies it, also where it is given as "same".
        columns = F.unfold(
            F.pad(x, module._reversed_padding_repeated_twice), *window
        )  # (samples, channels * k, places)
        patches = columns.transpose(1, 2).reshape(len(x), columns.shape[2], x.shape[1], -1)
        weight = module.weight.detach().flatten(2)  # (outputs, channels, k)
    else:
        patches = x.reshape(len(x), -1, x.shape[-1], 1)
        weight = module.weight.detach().unsqueeze(-1)  # type: ignore[operator]
    at = torch.randint(0, patches.shape[1], (len(x), count), generator=generator).to(x.device)
    chosen = patches[torch.arange(len(x), device=x.device)[:, None], at].flatten(0, 1)  # (places, channels, k)
    outputs = torch.randint(0, len(weight), (len(chosen),), generator=generator).to(x.device)
    return (chosen * weight[outputs]).sum(-1)
