"""Finds the fastest network whose accuracy stays inside the limit: an outer search over latencies.

Every attempt searches an allocation for one latency, with all networks that were measured before at hand, and
recovers it: shortly, with a tenth of the whole recovery's steps on a learning rate schedule of its own, or wholly.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from edgeprune.contracts import Method, Problem
from edgeprune.network.batches import FirstBatches, count_batches
from edgeprune.run.calibration import judged_as_built
from edgeprune.run.conclusion import Findings
from edgeprune.run.drop_search import Answer, Ask, DropSearch
from edgeprune.run.finetune import finetune
from edgeprune.run.problem import original_trial
from edgeprune.run.trial import Searched, Trial, best_of
from edgeprune.verdict.budget import Share

if TYPE_CHECKING:
    from edgeprune.run.job import Job
    from edgeprune.run.workbench import Workbench

Search = Callable[["Workbench", Method, Problem], Searched]

STAGE = "recovery"  # of the attempts, in `trials.jsonl`
_SHORT_PART = 0.1  # of the steps of the whole recovery


@dataclass(frozen=True)
class Attempt:
    """One recovered network; what depends on it is None where no network was that fast.

    `part` is the latency asked for, of the original's; `trial` the round of the search that was recovered;
    `accuracy` and `loss` (of accuracy) are between 0 and 1.
    """

    stage: str
    index: int
    part: float
    whole: bool
    trial: int | None = None
    latency_ms: float | None = None
    accuracy: float | None = None
    loss: float | None = None
    feasible: bool = False


class OuterSearch:
    """Searches and recovers at one latency after the other, in the folder of one run."""

    def __init__(self, bench: Workbench, method: Method, problem: Problem, search: Search) -> None:
        """Hold the parts; nothing runs yet."""
        self._bench, self._method, self._problem, self._search = bench, method, problem, search
        self._original = bench.accuracy("original", bench.original)
        floor = bench.job.budget.accuracy_floor(self._original)
        self._floor = 0.0 if floor is None else floor
        self._outer = DropSearch(self._original - self._floor, trains=bench.job.choices.epochs > 0)
        self._attempts: list[Attempt] = []

    def run(self) -> Findings:
        """Return the fastest network inside the accuracy limit, wholly recovered.

        Where none is inside, the original if it meets the other limits, else the network that lost least. A killed
        search goes on after its last finished attempt.
        """
        finished = deque(Attempt(**found) for found in self._bench.folder.trials(STAGE))
        while (ask := self._outer.ask()) is not None:
            attempt = finished.popleft() if finished else self._attempt(ask)
            self._attempts.append(attempt)
            self._outer.tell(Answer(ask.part, ask.whole, attempt.loss))
        best = self._outer.best
        if best is not None:
            return self._recovered(best)
        original = self._judged(original_trial(self._bench))
        if original.feasible:
            return self._findings(self._bench, original)
        if self._outer.mildest is not None:
            return self._recovered(self._outer.mildest)
        return self._findings(self._bench, self._judged(best_of(self._measured(), self._problem.limits)))

    def _attempt(self, ask: Ask) -> Attempt:
        attempt = Attempt(STAGE, len(self._attempts) + 1, ask.part, ask.whole)
        bench, problem = self._bench_of(attempt), self._problem_of(attempt)
        kind = "whole" if ask.whole else "short"
        bench.progress.say(f"attempt {attempt.index}: {ask.part:.1%} of the latency, then a {kind} recovery")
        self._search(bench, self._method, problem)
        chosen = best_of(self._measured(), problem.limits).judged(problem.limits)
        if chosen.feasible:
            tuned = finetune(bench, self._method, problem, chosen)
            judged = (judged_as_built(one, tuned).stages.reached for one in (bench, *bench.others))
            reached = min(0.0 if accuracy is None else accuracy for accuracy in judged)
            attempt = replace(
                attempt,
                trial=chosen.index,
                latency_ms=chosen.outcome.latency_ms,
                accuracy=reached,
                loss=self._original - reached,
                feasible=reached >= self._floor,
            )
        bench.folder.append_trial(asdict(attempt))
        bench.progress.say(_line(attempt))
        return attempt

    def _bench_of(self, attempt: Attempt) -> Workbench:
        job = _at(attempt, self._bench.job)
        job = job if attempt.whole else shortened(job, self._method)
        return self._bench.apart(f"attempt-{attempt.index}", job)

    def _problem_of(self, attempt: Attempt) -> Problem:
        budget = _at(attempt, self._bench.job).budget
        return replace(self._problem, limits=budget.limits(self._problem.original))

    def _measured(self) -> list[Trial]:
        searched = (Trial.from_json(trial) for trial in self._bench.folder.trials("search"))
        return [original_trial(self._bench), *searched]

    def _judged(self, trial: Trial) -> Trial:
        return trial.judged(self._problem.limits)

    def _recovered(self, answer: Answer) -> Findings:
        """Return a wholly recovered attempt; its training is finished and only read back."""
        attempt = next(found for found in self._attempts if found.whole and found.part == answer.part)
        chosen = next(trial for trial in self._measured() if trial.index == attempt.trial)
        return self._findings(self._bench_of(attempt), self._judged(chosen))

    def _findings(self, bench: Workbench, chosen: Trial) -> Findings:
        tuned = finetune(bench, self._method, self._problem, chosen)
        return Findings(self._problem, Searched(tuple(self._measured())), chosen, tuned, self._shortfall())

    def _shortfall(self) -> str:
        """Say how far the accuracy fell where no attempt stayed inside the limit."""
        mildest = self._outer.mildest
        if self._outer.best is not None or mildest is None:
            return ""
        return (
            f"No faster network stayed within the accuracy drop: the one that lost least, at {mildest.part:.0%} of the "
            f"original's latency, lost {100 * (mildest.loss or 0.0):.2f} points."
        )


def _at(attempt: Attempt, job: Job) -> Job:
    """Return the job at the attempt's latency, which is the same part of the original's on every target."""
    return replace(job, budget=replace(job.budget, latency_ms=Share(attempt.part)))


def shortened(job: Job, method: Method) -> Job:
    """Return the job with a short recovery: fewer epochs, and of each only the first batches."""
    epochs = job.choices.epochs * _SHORT_PART
    short = max(round(epochs), 2 if method.trains else 1)
    batches = math.ceil(round(count_batches(job.data.train) * min(epochs / short, 1.0), 6))
    calibration = job.data.train if job.data.calibration is None else job.data.calibration
    data = replace(job.data, train=FirstBatches(job.data.train, batches), calibration=calibration)
    return replace(job, choices=replace(job.choices, epochs=short, shape_epochs=None), data=data)


def _line(attempt: Attempt) -> str:
    if attempt.accuracy is None or attempt.latency_ms is None:
        return f"attempt {attempt.index}: no network was that fast"
    judged = "inside the accuracy limit" if attempt.feasible else "below the accuracy limit"
    return f"attempt {attempt.index}: {attempt.latency_ms:.3g} ms, accuracy {attempt.accuracy:.2%}: {judged}"
