"""Two methods as one, spelled `taylor+tucker`: one says which channels stay, the other which ranks; one budget."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgeprune import registry
from edgeprune.contracts import Context, Method, Step
from edgeprune.errors import UsageError
from edgeprune.network.plan import Plan
from edgeprune.network.steps import estimated_macs, ordered_steps
from edgeprune.network.surgery import apply

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeprune.network.data import Data
    from edgeprune.network.groups import Allocation, Scores, Structure

SEPARATOR = "+"
_PROBE_PART = 0.9  # of the multiply-accumulates, that both methods leave to learn what their scores are worth
_PROBE_BATCHES = 4
_LEAST_WORTH = 1e-6


def method_names(spelling: str) -> tuple[str, ...]:
    """Return the names in the spelling of a method."""
    return tuple(name.strip() for name in spelling.split(SEPARATOR))


def load_method(spelling: str) -> Method:
    """Make the method of that name, or two of them work together; raises UnknownNameError or UsageError."""
    methods: list[Method] = [registry.load("methods", name)() for name in method_names(spelling)]
    if len(methods) == 1:
        return methods[0]
    channels = [method for method in methods if type(method).units is Method.units]
    ranks = [method for method in methods if type(method).units is not Method.units]
    if (len(channels), len(ranks)) != (1, 1):
        raise UsageError(
            f"The methods {spelling!r} do not go together: one must choose channels and the other ranks, for example "
            "taylor+spatial-svd."
        )
    return _joined(channels[0], ranks[0])


def _joined(channels: Method, ranks: Method) -> Method:
    class Both(_Joined):
        needs_data = channels.needs_data or ranks.needs_data
        trains = channels.trains or ranks.trains
        reconstructs = channels.reconstructs or ranks.reconstructs
        scores_are_losses = True  # both are weighed by what they cost in a probe

    return Both(channels, ranks)


class _Joined(Method):
    """Asks each method about its own units.

    The scores of both are brought to one scale by the data: by how much the loss of the network as it came rises when
    each method alone takes a tenth of the multiply-accumulates away. Without data all units of either count the same
    together. Channels are removed before layers are factorised.
    """

    def __init__(self, channels: Method, ranks: Method) -> None:
        self._channels, self._ranks = channels, ranks
        self._shaping: list[Method] = [method for method in (channels, ranks) if method.trains or method.reconstructs]

    def units(self, context: Context) -> Structure:
        """Return the coupled channels and the ranks."""
        found = self._ranks.units(context)
        return replace(
            context.structure,
            groups=(*context.structure.groups, *found.groups),
            quarantined=found.quarantined,
            factorisations=found.factorisations,
        )

    def score(self, context: Context) -> Scores:
        """Score channels and ranks, each by its method, on one scale."""
        scores: dict[str, tuple[float, ...]] = {}
        for method in (self._channels, self._ranks):
            own = replace(
                context, network=copy.deepcopy(context.network), structure=self._own(method, context.structure)
            )
            found = method.score(own)
            worth = _worth(replace(own, network=context.network), method, found)
            scores |= {name: tuple(value * worth for value in values) for name, values in found.items()}
        return scores

    def plan(self, structure: Structure, scores: Scores, allocation: Allocation) -> Plan:
        """Return the edits on channels, then the factorisations."""
        edits = [
            edit
            for method in (self._channels, self._ranks)
            for edit in method.plan(self._own(method, structure), scores, allocation).edits
        ]
        return Plan(tuple(edits))

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Let those that shape get ready, each for its own units."""
        for method in self._shaping:
            method.prepare(self._own_context(method, context), allocation)

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Let both change weights."""
        for method in self._shaping:
            method.before_step(network, step)

    def penalty(self, network: nn.Module) -> torch.Tensor | None:
        """Return the sum of what both add to the loss."""
        found = [penalty for method in self._shaping if (penalty := method.penalty(network)) is not None]
        return sum(found[1:], found[0]) if found else None

    def after_backward(self, network: nn.Module) -> None:
        """Let both change gradients."""
        for method in self._shaping:
            method.after_backward(network)

    def after_step(self, network: nn.Module) -> None:
        """Let both change weights."""
        for method in self._shaping:
            method.after_step(network)

    def finish(self, context: Context) -> None:
        """Let both take out what they added, the method of the ranks last."""
        for method in self._shaping:
            method.finish(self._own_context(method, context))

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both."""
        return {"shaping": [method.state_dict() for method in self._shaping]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the states of both."""
        for method, own in zip(self._shaping, state["shaping"], strict=True):
            method.load_state_dict(own)

    def _own_context(self, method: Method, context: Context) -> Context:
        return replace(context, structure=self._own(method, context.structure))

    def _own(self, method: Method, structure: Structure) -> Structure:
        return structure.with_ranks_only() if method is self._ranks else structure.without_ranks()


def _worth(context: Context, method: Method, scores: Scores) -> float:
    """Return what one of a method's score is worth: so much loss, or without data a share of all."""
    structure, data = context.structure, context.data
    total = sum(sum(values) for values in scores.values()) or 1.0
    if data is None:
        return 1.0 / total
    probe: dict[str, int] = {}
    for step in ordered_steps(structure, scores, 1, per_mac=method.scores_are_losses):
        if estimated_macs(structure, probe) <= _PROBE_PART * estimated_macs(structure, {}):
            break
        probe[step.group] = step.kept
    sizes = {group.name: group.size for group in structure.groups}
    lost = sum(sum(sorted(scores[name])[: sizes[name] - kept]) for name, kept in probe.items())
    thin = apply(method.plan(structure, scores, probe), context.network, context.example_inputs, via="auto")
    rise = _loss(thin, data) - _loss(context.network, data)
    return max(rise, _LEAST_WORTH) / max(lost, _LEAST_WORTH * total)


def _loss(network: nn.Module, data: Data) -> float:
    import torch

    from edgeprune.network.batches import OnDevice, as_inputs, device_of
    from edgeprune.network.data import calibration_batches

    losses = []
    with torch.no_grad():
        for inputs, targets in OnDevice(calibration_batches(data, _PROBE_BATCHES), device_of(network)):
            losses.append(float(data.loss(network.eval()(*as_inputs(inputs)), targets)))
    return sum(losses) / len(losses)
