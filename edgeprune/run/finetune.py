"""After the search: cut the original once more, re-estimate its batch norms, train it back, and note each accuracy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeprune.network.evaluation import recalibrate_batch_norm
from edgeprune.network.plan import Plan
from edgeprune.network.training import Guides, RecoverySettings, recover
from edgeprune.verdict.result import Epoch, Proof, Stages

if TYPE_CHECKING:
    from torch import nn

    from edgeprune.run.trial import Trial
    from edgeprune.run.workbench import Workbench

_RECALIBRATION_BATCHES = 50


@dataclass(frozen=True)
class Tuned:
    """The network that goes to the target for good, the plan it came from, and its accuracy on the way."""

    network: nn.Module
    plan: Plan
    proof: Proof
    stages: Stages
    epochs: tuple[Epoch, ...] = ()
    warnings: tuple[str, ...] = ()


def finetune(bench: Workbench, chosen: Trial) -> Tuned:
    """Cut, re-calibrate and recover the chosen allocation; a trial outside the budget is not worth training."""
    plan = Plan.from_json(chosen.plan) if chosen.plan else Plan()
    network, proof = bench.cut(plan)
    original = bench.accuracy("original", bench.original)
    if not plan.edits:
        note = "The original is within the budget already; nothing was cut."
        return Tuned(network, plan, proof, Stages(original=original), warnings=(note,))
    cut = bench.accuracy("cut", network)
    with bench.watch("training"):
        recalibrate_batch_norm(network, bench.job.data, _RECALIBRATION_BATCHES)
    recalibrated = bench.accuracy("recalibrated", network)
    stages = Stages(original, cut, recalibrated)
    if not chosen.feasible:
        note = "The best network found is outside the budget, so it was not trained."
        return Tuned(network, plan, proof, stages, warnings=(note,))
    if not bench.job.choices.epochs:
        return Tuned(network, plan, proof, stages)
    epochs = _recover(bench, network)
    return Tuned(network, plan, proof, replace(stages, recovered=epochs[-1].accuracy), epochs)


def _recover(bench: Workbench, network: nn.Module) -> tuple[Epoch, ...]:
    settings = RecoverySettings(epochs=bench.job.choices.epochs, seed=bench.job.choices.seed)
    checkpoint = bench.folder.work / "recovery.checkpoint"
    guides = Guides(teacher=bench.original)
    with bench.watch("training"):
        history = recover(network, bench.job.data, settings, guides, checkpoint, bench.progress)
    return tuple(Epoch(record.loss, record.accuracy) for record in history.epochs)
