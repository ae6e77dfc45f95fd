"""States the problem before anything is cut: coupled channels, their scores, the original's measured cost, limits."""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from edgeprune import registry
from edgeprune.bench.layer_cost import costs_from_dict
from edgeprune.bench.measurement import measurement_to_dict
from edgeprune.contracts import Context, Controller, Method, Problem, utilisation
from edgeprune.errors import StepError, UsageError
from edgeprune.network.activations import activation_moments
from edgeprune.network.structure import network_structure
from edgeprune.run.measured import measured_original, on_all
from edgeprune.run.profiling import profile_network
from edgeprune.run.ranks import faster_ranks
from edgeprune.run.trial import Trial

if TYPE_CHECKING:
    from torch import nn

    from edgeprune.bench.layer_cost import LayerCosts
    from edgeprune.network.groups import Scores, Structure
    from edgeprune.run.workbench import Workbench


def state_problem(bench: Workbench, method: Method) -> Problem:
    """Measure the original, find its coupled channels, and score them; raises UsageError when nothing can be cut."""
    job = bench.job
    coupled = network_structure(bench.original, job.example_inputs)
    network = copy.deepcopy(bench.original)
    structure = method.units(Context(network, job.example_inputs, coupled, job.data, job.choices.seed))
    if not structure.groups:
        reasons = "; ".join(f"{found.name}: {found.reason}" for found in structure.quarantined[:3])
        raise UsageError(f"Nothing in this network can be pruned ({reasons}). Look at it with: edgeprune inspect")
    original = original_trial(bench).outcome
    problem = Problem(
        structure=structure,
        scores=score_units(bench, method, structure),
        limits=job.budget.limits(original),
        original=original,
        channel_multiple=math.lcm(*(target.channel_multiple for target in (job.target, *job.others))),
        scores_are_losses=method.scores_are_losses,
        max_rounds=job.choices.max_rounds,
        # What a chain holds between its layers is in no moment.
        moments=() if structure.factorisations else activation_moments(bench.original, job.example_inputs),
    )
    return _with_costs(bench, problem)


def _with_costs(bench: Workbench, problem: Problem) -> Problem:
    """Add the costs of the single layers where the controller or the method works with them and latency counts.

    They come from the latency table of each target, which is added to; a resumed run takes the same costs again. A
    layer can be factorised only where its chain was measured to be faster on every target; raises UsageError where
    none is.
    """
    controller: type[Controller] = registry.load("controllers", bench.job.choices.controller)
    needed = controller.needs_costs or problem.structure.factorisations
    limited = problem.limits.latency_ms is not None or bench.job.budget.seeks_fastest
    if not needed or not limited:
        return problem

    costs, *others = (_layer_costs(one, problem.structure) for one in (bench, *bench.others))
    return faster_ranks(bench, replace(problem, costs=costs, other_costs=tuple(others)))


def _layer_costs(bench: Workbench, structure: Structure) -> LayerCosts:
    def compute() -> dict[str, Any]:
        bench.progress.say(f"profiling the layers on {bench.job.target.name}")
        inputs, target = bench.job.example_inputs, bench.job.target
        return asdict(profile_network(bench.original, inputs, target, None, bench.progress, structure).costs)

    with bench.watch("measuring"):
        return costs_from_dict(bench.folder.remember("layer-costs", compute))


def original_trial(bench: Workbench) -> Trial:
    """Return the trial of the uncut network, measured once in the life of a run."""
    finished = bench.folder.trials("original")
    if finished:
        return Trial.from_json(finished[0])
    own, *others = found = measured_original(bench)
    outcome = on_all(found)
    trial = Trial(
        stage="original",
        index=0,
        allocation={},
        outcome=outcome,
        drift=1.0,
        kept_score=1.0,
        feasible=utilisation(outcome, bench.job.budget.limits(outcome)) <= 1,
        plan="",
        measurement=measurement_to_dict(own.measurement),
        elsewhere=tuple(other.to_json() for other in others),
    )
    bench.folder.append_trial(trial.to_json())
    return trial


def score_units(bench: Workbench, method: Method, structure: Structure, shaped: nn.Module | None = None) -> Scores:
    """Score the units of the original, or of the network that the method shaped, each once in the life of a run."""
    job = bench.job
    bench.progress.say(f"{_kinds(structure)}; scoring them with {job.choices.method}")

    def compute() -> dict[str, list[float]]:
        network = copy.deepcopy(bench.original if shaped is None else shaped)
        context = Context(network, job.example_inputs, structure, job.data, job.choices.seed)
        scores = method.score(context)
        _check_scores(job.choices.method, structure, scores)
        return {name: list(values) for name, values in scores.items()}

    with bench.watch("training"):
        saved = bench.folder.remember("scores" if shaped is None else "scores-shaped", compute)
    return {name: tuple(values) for name, values in saved.items()}


def _kinds(structure: Structure) -> str:
    ranks = sum(group.kind == "rank" for group in structure.groups)
    channels = len(structure.groups) - ranks
    counted = ((channels, "groups of coupled channels"), (ranks, "layers with ranks"))
    return " and ".join(f"{count} {what}" for count, what in counted if count)


def _check_scores(method: str, structure: Structure, scores: Scores) -> None:
    for group in structure.groups:
        values = scores.get(group.name, ())
        if len(values) != group.size:
            raise StepError(
                f"The method {method!r} gave {len(values)} scores for the {group.size} units of {group.name}."
            )
        if not all(map(math.isfinite, values)):
            raise StepError(f"The method {method!r} gave a score of {group.name} that is not finite: {values}.")
