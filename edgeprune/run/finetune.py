"""After the search: shape, cut once more, re-estimate the batch norms, train back, and note each accuracy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeprune.network.evaluation import recalibrate_batch_norm
from edgeprune.network.plan import Plan
from edgeprune.network.training import Guides, RecoverySettings, recover
from edgeprune.run.shaping import shape, split_epochs
from edgeprune.verdict.result import Epoch, Proof, Stages

if TYPE_CHECKING:
    from torch import nn

    from edgeprune.contracts import Method, Problem
    from edgeprune.run.trial import Trial
    from edgeprune.run.workbench import Workbench

_RECALIBRATION_BATCHES = 50


@dataclass(frozen=True)
class Tuned:
    """The network that goes to the target for good, the plan it came from, and its accuracy on the way.

    `whole` is the network that the plan was carried out on.
    """

    network: nn.Module
    whole: nn.Module
    plan: Plan
    proof: Proof
    stages: Stages
    shaping: tuple[Epoch, ...] = ()
    recovery: tuple[Epoch, ...] = ()
    warnings: tuple[str, ...] = ()


def finetune(bench: Workbench, method: Method, problem: Problem, chosen: Trial) -> Tuned:
    """Shape, cut, re-calibrate and recover the chosen allocation; one outside the budget is not worth training."""
    original = bench.accuracy("original", bench.original)
    shaped = shape(bench, method, problem, chosen)
    plan = shaped.plan
    network, proof = bench.cut(plan, shaped.network)
    if not plan.edits:
        note = "The original is within the budget already; nothing was cut."
        return Tuned(network, shaped.network, plan, proof, Stages(original=original), warnings=(note,))
    cut = bench.accuracy("cut", network)
    with bench.watch("training"):
        recalibrate_batch_norm(network, bench.job.data, _RECALIBRATION_BATCHES)
    recalibrated = bench.accuracy("recalibrated", network)
    stages = Stages(original, cut, recalibrated, shaped=shaped.accuracy)
    tuned = Tuned(network, shaped.network, plan, proof, stages, shaped.epochs)
    if not chosen.feasible:
        note = "The best network found is outside the budget, so it was not trained."
        return replace(tuned, warnings=(note,))
    _, epochs = split_epochs(bench.job.choices, method)
    if not epochs:
        return tuned
    recovery = _recover(bench, network, epochs)
    return replace(tuned, stages=replace(stages, recovered=recovery[-1].accuracy), recovery=recovery)


def _recover(bench: Workbench, network: nn.Module, epochs: int) -> tuple[Epoch, ...]:
    settings = RecoverySettings(epochs=epochs, seed=bench.job.choices.seed)
    checkpoint = bench.folder.work / "recovery.checkpoint"
    guides = Guides(teacher=bench.original)
    with bench.watch("training"):
        history = recover(network, bench.job.data, settings, guides, checkpoint, bench.progress)
    return tuple(Epoch(record.loss, record.accuracy) for record in history.epochs)
