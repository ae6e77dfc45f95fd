"""Between the search and the cut: the method trains the whole network towards the allocation that was found."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeprune.contracts import Context
from edgeprune.errors import UsageError
from edgeprune.network.batches import count_batches
from edgeprune.network.plan import Plan
from edgeprune.network.shaping import Shaping
from edgeprune.network.training import Guides, RecoverySettings, recover
from edgeprune.run.problem import score_units
from edgeprune.run.ranks import note_energies
from edgeprune.verdict.result import Epoch

if TYPE_CHECKING:
    from torch import nn

    from edgeprune.contracts import Method, Problem
    from edgeprune.run.job import Choices
    from edgeprune.run.trial import Trial
    from edgeprune.run.workbench import Workbench


@dataclass(frozen=True)
class Shaped:
    """The network that is cut in the end, how it is cut, and what shaped it; `accuracy` is None where nothing did."""

    network: nn.Module
    plan: Plan
    accuracy: float | None = None
    epochs: tuple[Epoch, ...] = ()


def split_epochs(choices: Choices, method: Method) -> tuple[int, int]:
    """Return the epochs before and after the cut: half each for a method that trains, an odd one before.

    Raises UsageError where epochs before the cut are asked of a method that only scores.
    """
    if method.trains:
        before = (choices.epochs + 1) // 2 if choices.shape_epochs is None else choices.shape_epochs
        return before, choices.epochs - before
    if choices.shape_epochs:
        raise UsageError(
            f"The method {choices.method!r} only scores, so no epoch can shape the network before the cut. "
            f"Leave out --shape-epochs {choices.shape_epochs}, or choose a method that trains."
        )
    return 0, choices.epochs


def shape(bench: Workbench, method: Method, problem: Problem, chosen: Trial) -> Shaped:
    """Train or fit the whole network towards the chosen allocation, where the method does so; else the original."""
    plan = Plan.from_json(chosen.plan) if chosen.plan else Plan()
    epochs, _ = split_epochs(bench.job.choices, method)
    if not (epochs or method.reconstructs) or not plan.edits or not chosen.feasible:
        return Shaped(bench.original, plan)
    seed = bench.job.choices.seed
    context = Context(copy.deepcopy(bench.original), bench.job.example_inputs, problem.structure, bench.job.data, seed)
    steps = epochs * count_batches(bench.job.data.train)
    with bench.watch("training"):
        shaping = Shaping(method, context, chosen.allocation, steps)
        records = _train(bench, shaping, RecoverySettings(epochs=epochs, seed=seed)) if epochs else ()
        shaping.finish()
    accuracy = bench.accuracy("shaped", context.network)
    scores = score_units(bench, method, problem.structure, context.network)
    if problem.structure.factorisations:
        note_energies(bench, method, context.network)
    # The allocation was measured: training changes which units stay, never how many.
    return Shaped(context.network, method.plan(problem.structure, scores, chosen.allocation), accuracy, records)


def _train(bench: Workbench, shaping: Shaping, settings: RecoverySettings) -> tuple[Epoch, ...]:
    guides = Guides(teacher=bench.original, shaping=shaping)
    checkpoint = bench.folder.work / "shaping.checkpoint"
    history = recover(shaping.context.network, bench.job.data, settings, guides, checkpoint, bench.progress)
    return tuple(Epoch(record.loss, record.accuracy) for record in history.epochs)
