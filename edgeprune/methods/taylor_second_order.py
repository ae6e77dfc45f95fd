"""Removes the units that the loss would miss least, by the slope and the curvature of the loss along each unit's gate.

Pavlo Molchanov, Arun Mallya, Stephen Tyree, Iuri Frosio, Jan Kautz: "Importance Estimation for Neural Network
Pruning", CVPR 2019, https://arxiv.org/abs/1906.10771: second order, diagonal, (-g + H / 2)^2 on gates.

Deviations: H is the Gauss-Newton diagonal of softmax cross entropy, which between ReLUs is the Hessian's: squared
gradients of randomly signed roots of the curvature in the logits (after Nicol N. Schraudolph: "Fast Curvature
Matrix-Vector Products for Second-Order Gradient Descent", Neural Computation 2002,
https://doi.org/10.1162/08997660260028683). Slope and curvature are averaged over batches before they are squared.
"""

from __future__ import annotations

import math

import torch

from edgeprune.contracts import Context, Method
from edgeprune.errors import UsageError
from edgeprune.methods._taylor import batches_of, counted, data_of, gate_gradient, gate_slots, loss_of_outputs
from edgeprune.network.batches import are_class_logits, as_inputs, epoch_generator
from edgeprune.network.groups import Scores


class TaylorSecondOrder(Method):
    """Importance = squared second-order change of the loss without the unit."""

    needs_data = True
    scores_are_losses = True

    def __init__(self, batches: int = 16, draws: int = 8) -> None:
        """Take the number of training batches, and of random signs for each; raises UsageError."""
        self.batches = counted(batches, "taylor-second-order")
        self.draws = counted(draws, "taylor-second-order")

    def score(self, context: Context) -> Scores:
        """Score every unit, on the one scale of the loss; raises UsageError without data or where no class is told."""
        data, network, groups = data_of(context, "taylor-second-order"), context.network, context.structure.groups
        parameters = dict(network.named_parameters())
        gates = {group.name: gate_slots(group, parameters) for group in groups}
        slopes = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
        curvatures = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
        generator = epoch_generator(context.seed, 0)
        used = 0
        for inputs, targets in batches_of(network, data, self.batches):
            used += 1
            outputs = network(*as_inputs(inputs))
            if not are_class_logits(outputs, targets):
                raise UsageError("The method taylor-second-order needs a network that tells classes. Use another one.")
            network.zero_grad(set_to_none=True)
            loss_of_outputs(data, outputs, targets).backward(retain_graph=True)
            for name, slots in gates.items():
                slopes[name] += gate_gradient(slots, parameters)
            for draw in range(self.draws):
                network.zero_grad(set_to_none=True)
                outputs.backward(_signed_root(outputs.detach(), generator), retain_graph=draw < self.draws - 1)
                for name, slots in gates.items():
                    curvatures[name] += gate_gradient(slots, parameters) ** 2 / self.draws
        return {name: tuple(((-slopes[name] / used + curvatures[name] / used / 2) ** 2).tolist()) for name in slopes}


def _signed_root(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return one random vector a sample (batch, classes) whose covariance is the curvature of the mean cross entropy.

    diag(p) - p p^T = S S^T, where column c of S is sqrt(p_c) (e_c - p); random signs take one sum of its columns.
    """
    chances = logits.float().softmax(1)
    signs = torch.randint(0, 2, logits.shape, generator=generator).to(logits.device) * 2 - 1
    roots = chances.sqrt() * signs
    return (roots - chances * roots.sum(1, keepdim=True)) / math.sqrt(len(logits))
