"""Small networks that read nothing but filters learn which units to gate, under a budget of work or of milliseconds.

Xiu Su, Shan You, Tao Huang, Hongyan Xu, Fei Wang, Chen Qian, Changshui Zhang, Chang Xu: "Data Agnostic Filter Gating
for Efficient Deep Networks", 2020, https://arxiv.org/abs/2010.15041.

After the abstract of the paper (no code is public); details ours: an embedding of each filter beside the mean of its
layer and a lead for larger filters, gates at one half with a straight-through gradient, Adam, the trained network
frozen with its statistics. The budget is what the allocation costs, or the caller's: multiply-accumulates, or with
`objective="latency"` milliseconds of the layers as measured alone. Its term is |log(cost / budget)|, whose slope by a
gate is what the unit costs in all layers that write and read it; the slopes of the loss are scaled so that the term
presses half as hard again as they hold. The budget goes down over the first 60 % of the training, and no group faster
than twice that: groups that closed at once never came back. How the gates would spend the budget is `allocated`; a plan
keeps the counts that it is given. The gate acts where the unit is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from edgeprune.bench.layer_cost import LayerCosts
from edgeprune.contracts import Context, Method, Step
from edgeprune.errors import UnknownNameError, UsageError
from edgeprune.methods._filter_reader import WIDTH, FilterReader, Filters, filters_of, new_readers
from edgeprune.methods._gates import Gates
from edgeprune.methods._growing import filter_scores, removed_marks
from edgeprune.methods._spending import Hold, Spending, fewest, latency_cost, macs_cost, slopes, spending
from edgeprune.network.groups import Allocation, Group, Scores

_OBJECTIVES = ("macs", "latency")
_PATH, _SLOWEST, _FASTEST = 0.3, 1e-4, 2e-2  # the sum of Adam's rates, which moves logits by some units; its limits
_FURTHEST = 0.95  # how open or closed a gate gets, so that it can still change
_CLOSING = 0.6  # of the training, while the budget goes down


class Dagger(Method):
    """Importance = what a small network makes of a unit's filters: how open its gate is, 0 to 1."""

    trains = True

    def __init__(self, objective: str = "macs", costs: LayerCosts | None = None, budget: float | None = None) -> None:
        """Take what the budget is in, "macs" or "latency", with the layers as measured, and the budget.

        Without a budget it is what the allocation costs. Raises UsageError.
        """
        if objective not in _OBJECTIVES:
            raise UnknownNameError("objective", objective, _OBJECTIVES)
        if objective == "latency" and costs is None:
            raise UsageError("The objective 'latency' needs the costs of the layers on a board; measure them first.")
        self.objective, self.costs, self.budget = objective, costs, budget
        self.allocated: Allocation = {}
        self._allocation: Allocation = {}
        self._spending = Spending(lambda _: 0.0, 0.0, (), {})
        self._filters: dict[str, Filters] = {}
        self._readers: dict[str, FilterReader] = {}
        self._soft: dict[str, torch.Tensor] = {}
        self._prices: dict[str, float] = {}
        self._direction = 0
        self._hold = Hold()

    def score(self, context: Context) -> Scores:
        """Score every unit; before a training, and where nothing goes, by the L1 norm of its filters over the mean."""
        with torch.no_grad():
            return {**filter_scores(context), **{name: tuple(own.tolist()) for name, own in self._read().items()}}

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Read the filters as they are now, and begin with all gates open."""
        structure, measured = context.structure, self.costs if self.objective == "latency" else None
        cost = macs_cost(structure) if measured is None else latency_cost(structure, measured)
        self._allocation, self._spending = allocation, spending(cost, structure, allocation, self.budget)
        names = [group.name for group in self._spending.groups]
        self._filters = {group.name: filters_of(context, group) for group in self._spending.groups}
        self._readers = dict(zip(names, new_readers(list(self._filters.values()), context.seed), strict=True))
        self._gates = Gates(context, names)
        parameters = [parameter for reader in self._readers.values() for parameter in reader.parameters()]
        # As a sum over more numbers moves further by the same steps, what reads larger filters takes smaller ones.
        own = [{"params": [parameter], "reach": WIDTH / max(WIDTH, parameter.shape[-1])} for parameter in parameters]
        self._optimiser = torch.optim.Adam(own or [torch.zeros(0)])
        self._hold = Hold()

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Gate the units for this step; the statistics of the norms stay as they were trained."""
        self._soft = self._read()
        budget = self._spending.budget_now((step.number + 1) / (_CLOSING * step.total))
        closed = {group.name: self._hard(group, budget) for group in self._spending.groups}
        self._term({name: int(own.sum()) for name, own in closed.items()}, budget)
        for group in self._optimiser.param_groups:
            group["lr"] = group.get("reach", 1.0) * min(_FASTEST, max(_SLOWEST, _PATH / step.total))
        for module in network.modules():
            if isinstance(module, _NormBase):
                module.eval()
        self._gates.close(network, closed)

    def after_backward(self, network: nn.Module) -> None:
        """Train the readers by the slopes of loss and budget, and nothing else."""
        found = self._gates.gradients(network)
        self._gates.reopen(network)
        network.zero_grad(set_to_none=True)
        self._optimiser.zero_grad()
        hold = self._hold.of(found, self._prices)
        for name, soft in self._soft.items():
            slope = found.get(name, torch.zeros_like(soft)) / hold + self._direction * self._prices[name]
            outward = torch.where(slope > 0, soft < 1 - _FURTHEST, soft > _FURTHEST)
            soft.backward(slope.masked_fill(outward, 0.0).to(soft))  # straight through the gate
        self._optimiser.step()

    def finish(self, context: Context) -> None:
        """Close the gates of what the allocation leaves out, and find how the gates would spend its budget."""
        scores = self.score(context)
        self.allocated = self._spending.allocation(scores)
        marks = removed_marks(context.structure, scores, self._allocation)
        self._gates.multiply(context.network, {name: 1 - removed for name, removed in marks.items()})

    def state_dict(self) -> dict[str, Any]:
        """Return the readers with their optimiser, and how hard the loss holds the gates."""
        readers = {name: reader.state_dict() for name, reader in self._readers.items()}
        return {"readers": readers, "optimiser": self._optimiser.state_dict(), "hold": self._hold.mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the saved readers."""
        for name, reader in self._readers.items():
            reader.load_state_dict(state["readers"][name])
        self._optimiser.load_state_dict(state["optimiser"])
        self._hold.mean = float(state["hold"])

    def _read(self) -> dict[str, torch.Tensor]:
        """Return how open each gate is (size,), by group, from the filters as they were at the start."""
        return {name: torch.sigmoid(reader(self._filters[name])) for name, reader in self._readers.items()}

    def _hard(self, group: Group, budget: float) -> torch.Tensor:
        """Return 1.0 for a gate that is open; the most open ones of a group always are.

        A group loses at most twice the part that the budget has lost: when all of it goes, no slope means a thing.
        """
        soft = self._soft[group.name].detach()
        least = int(group.size * min(1.0, 2 * budget / self._spending.cost({}) - 1))
        gates = (soft > 0.5).double()
        gates[soft.topk(max(least, fewest(group))).indices] = 1.0
        return gates

    def _term(self, counts: Allocation, budget: float) -> None:
        """Find the slopes of |log(cost / budget)| by the gates of each group, and which way the term points now."""
        cost = self._spending.cost(counts)
        self._prices = {name: own / cost for name, own in slopes(self._spending, counts).items()}
        self._direction = (cost > budget) - (cost < budget)
