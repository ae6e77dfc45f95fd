"""Carries out factorisations on a copy of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import fx, nn

from edgeprune.errors import PlanError
from edgeprune.network.coupling.ride import evaluating, forward
from edgeprune.network.cutting import copied
from edgeprune.network.factorisation.layers import Choice, choose, factorised_layer
from edgeprune.network.plan import Factorize


def factorised(edits: Sequence[Factorize], model: nn.Module, example_inputs: Any) -> nn.Module:
    """Return a copy in which the layers are chains; raises PlanError for what cannot be factorised so."""
    if isinstance(model, fx.GraphModule):
        raise PlanError(
            f"The layer {edits[0].layer!r} cannot be factorised: the network is an exported graph, which has "
            "operations and no layers. Give the network's own class and its weights (--arch)."
        )
    called = called_layers(model, example_inputs)
    thin = copied(model)
    for edit in edits:
        choice = choose(thin, edit.layer, edit.scheme)
        _check_use(choice, thin, called)
        _replace(thin, choice.layer, factorised_layer(choice, edit.rank))
    return thin


def called_layers(model: nn.Module, example_inputs: Any) -> frozenset[str]:
    """The names of the modules whose forward runs; a network may use the weight of a layer without calling it."""
    called: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name)) for name, module in model.named_modules()
    ]
    try:
        with evaluating(model):
            forward(model, example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return frozenset(called)


def sharing_layers(model: nn.Module, layer: nn.Module) -> tuple[str, ...]:
    """The other layers that hold the weight of a layer."""
    return tuple(
        name
        for name, module in model.named_modules()
        if module is not layer and module._parameters.get("weight") is layer.weight
    )


def _check_use(choice: Choice, model: nn.Module, called: frozenset[str]) -> None:
    where = f"The layer {choice.name!r} cannot be factorised"
    if choice.name not in called:
        raise PlanError(f"{where}: the network does not call it, but reads its weight in its own code.")
    others = sharing_layers(model, choice.layer)
    if others:
        raise PlanError(f"{where}: it shares its weight with {others[0]!r}.")


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, wherever the model holds it."""
    for module in model.modules():
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new
