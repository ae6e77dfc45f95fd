"""The main loop on one page: ask, plan, cut, export, build, measure, tell; then shape, cut, train, prove and report."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from edgeprune import registry
from edgeprune.bench.measurement import measurement_to_dict
from edgeprune.contracts import Controller, Method, Problem, utilisation
from edgeprune.run.chains import slower_chains, without_ranks_from
from edgeprune.run.conclusion import Findings, conclude
from edgeprune.run.fastest import OuterSearch
from edgeprune.run.finetune import finetune
from edgeprune.run.joining import load_method
from edgeprune.run.measured import measured_candidate, on_all
from edgeprune.run.problem import original_trial, state_problem
from edgeprune.run.shaping import split_epochs
from edgeprune.run.trial import Searched, Trial, best_of, kept_score, key_of, objection
from edgeprune.run.workbench import Workbench
from edgeprune.run_dir import RunDir, Stopwatch

if TYPE_CHECKING:
    from edgeprune.network.groups import Allocation
    from edgeprune.progress import Progress
    from edgeprune.run.job import Job
    from edgeprune.verdict.result import Result


def run_job(job: Job, progress: Progress, resume: bool = False) -> Result:
    """Find the smaller network that fits the budget as measured, train it, prove it, and leave it in `job.out`.

    A killed run goes on with `resume`, without repeating a finished trial or epoch. Raises EdgepruneError;
    a budget that was not met is no error but the verdict of the result.
    """
    folder = RunDir(job.out)
    method = load_method(job.choices.method)
    split_epochs(job.choices, method)  # refuses what the method cannot do before anything is done
    with folder.claimed():
        folder.begin(job.identity(), job.facts(), resume)
        bench = Workbench(job, folder, Stopwatch(folder), progress)
        bench.accuracy("original", bench.original)
        problem = state_problem(bench, method)
        if job.budget.seeks_fastest:
            return conclude(bench, OuterSearch(bench, method, problem, search).run())
        searched = search(bench, method, problem)
        chosen = best_of(searched.trials, problem.limits)
        return conclude(bench, Findings(problem, searched, chosen, finetune(bench, method, problem, chosen)))


def search(bench: Workbench, method: Method, problem: Problem) -> Searched:
    """Ask, measure and tell until the controller is done; what was measured before is told, not repeated."""
    kind: type[Controller] = registry.load("controllers", bench.job.choices.controller)
    controller = kind(problem)
    finished = {trial.key: trial for trial in map(Trial.from_json, bench.folder.trials("search"))}
    trials = {key_of({}): original_trial(bench)}
    while (allocation := controller.ask()) is not None:
        if slower := slower_chains(bench, problem, allocation):
            problem = without_ranks_from(problem, slower)
            controller = kind(problem)  # what was measured is told again as it is asked for
            continue
        known = finished.get(key_of(allocation))
        trial = known or try_out(bench, method, problem, allocation, controller.expected_ms(allocation))
        controller.tell(allocation, trial.outcome)
        finished[trial.key] = trials[trial.key] = trial
    if controller.ending():
        bench.progress.say(f"the search ends: {controller.ending()}")
    return Searched(tuple(trials.values()), controller.ending())


def try_out(
    bench: Workbench, method: Method, problem: Problem, allocation: Allocation, expected_ms: float | None
) -> Trial:
    """Cut, prove, export, build, verify and measure one allocation, and put the trial on the disk."""
    index = len(bench.folder.trials("search")) + 1
    plan = method.plan(problem.structure, problem.scores, allocation)
    network, proof = bench.cut(plan)
    own, *others = found = measured_candidate(bench, network, problem.original)
    outcome = on_all(found)
    trial = Trial(
        stage="search",
        index=index,
        allocation=dict(allocation),
        outcome=outcome,
        drift=own.drift,
        kept_score=kept_score(problem.scores, allocation),
        feasible=utilisation(outcome, problem.limits) <= 1,
        expected_ms=expected_ms,
        rejected=objection(outcome, problem, expected_ms),
        plan=plan.to_json(),
        measurement=measurement_to_dict(own.measurement),
        proofs=tuple(map(asdict, (proof, *own.proofs))),
        elsewhere=tuple(other.to_json() for other in others),
    )
    bench.folder.append_trial(trial.to_json())
    bench.progress.say(trial.line(problem.limits))
    return trial
