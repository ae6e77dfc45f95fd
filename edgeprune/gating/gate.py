"""Carries out a gate: reads what is given, finds the baseline, measures what has to be, decides, and remembers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeprune.bench.calibration import known_calibration, latest_calibration
from edgeprune.bench.target import Target, load_target
from edgeprune.errors import UsageError
from edgeprune.gating import baselines
from edgeprune.gating.estimates import Evidence, detectable, estimate_all
from edgeprune.gating.inputs import read_records, with_layers
from edgeprune.gating.measuring import Effort, measure_until_clear
from edgeprune.gating.revision import current_revision
from edgeprune.verdict import gate
from edgeprune.verdict.gate import GateResult, Judgement, judge_limits
from edgeprune.verdict.gate_limits import GateLimits, Limit, in_parts, read_limits
from edgeprune.verdict.gate_reasons import explain
from edgeprune.verdict.record import Record
from edgeprune.verdict.store import DEFAULT_STORE, Revision, Store
from edgeprune.verdict.trend import change_points, points_of

_TIMED = frozenset({"latency_p50", "latency_p90", "startup", "peak_memory"})
_TIMED_AGAINST_BASELINE = frozenset({"latency_regression", "memory_regression"})


@dataclass(frozen=True)
class GateRequest:
    """What a gate is asked: results, limits, and what to compare with.

    `baseline` is a result like the others, or a branch or commit that the store knows. `target` is where artifacts
    are measured, `model` the name that results go by. With `stored_only` nothing is measured. `store` is None where
    nothing is to be remembered; `revision` is what the results belong to, by default where the project stands.
    """

    results: tuple[Path, ...]
    limits: Path
    baseline: str | None = None
    target: str | None = None
    model: str | None = None
    stored_only: bool = False
    store: Path | None = DEFAULT_STORE
    revision: Revision | None = None
    effort: Effort = field(default_factory=Effort)


def run_gate(request: GateRequest) -> GateResult:
    """Judge every result by its limits.

    Raises UsageError for what cannot be read or compared, BuildError and BoardError like `bench.measure`.
    """
    limits = read_limits(request.limits)
    records = [record for path in request.results for record in _records(path, request)]
    if not records:
        raise UsageError("Name at least one result to judge: a run folder, a result.json or an artifact.")
    # Everything that can be refused is, before anything is measured.
    asked = [(record, limits.applying(record.model, record.target)) for record in records]
    for record, applying in asked:
        _check_baseline_given(request, record, applying)
    judge = _Judge(request, replace(request.effort, pairs=limits.pairs), limits)
    return GateResult(tuple(judge.judge(record, applying) for record, applying in asked), str(request.limits))


@dataclass(frozen=True)
class _Judge:
    request: GateRequest
    effort: Effort
    limits: GateLimits

    def judge(self, record: Record, limits: Sequence[Limit]) -> Judgement:
        """Judge one network, and remember it."""
        store = Store(self.request.store) if self.request.store is not None else None
        baseline = self._baseline(record, limits, store)
        evidence = Evidence.stored(with_layers(record), with_layers(baseline) if baseline is not None else None)
        foretold = self._too_tight(evidence, limits)
        for warning in foretold:
            self.effort.progress.say(warning)
        evidence, how = self._measured(evidence, limits, store)
        baselines.refuse_other_board(evidence, limits)
        estimates = estimate_all(evidence, limits)
        checks = judge_limits(limits, estimates.known, estimates.unknown, is_last=True)
        effort = gate.Effort(how, len(evidence.runs), self._detectable(evidence))
        why = explain(evidence.candidate, evidence.baseline)
        judgement = Judgement(evidence.candidate, evidence.baseline, checks, effort, why)
        warned = (*foretold, *evidence.candidate.warnings)
        if store is None:
            return replace(judgement, warnings=warned)
        store.add(evidence.candidate, judgement.verdict, self.request.revision or current_revision())
        points = points_of(store.entries(record.model, record.target), evidence.candidate.fingerprint)
        warned = (*warned, *store.notes)
        return replace(judgement, warnings=warned, trend=points, changes=change_points(points))

    def _baseline(self, record: Record, limits: Sequence[Limit], store: Store | None) -> Record | None:
        if self.request.baseline is None:
            return None
        return baselines.find(self.request.baseline, record, store, self.request.target)

    def _measured(self, evidence: Evidence, limits: Sequence[Limit], store: Store | None) -> tuple[Evidence, gate.How]:
        """Measure in turns where a limit needs it and both artifacts are at hand, else alone, else not at all."""
        candidate, baseline = evidence.candidate, evidence.baseline
        active = {limit.name for limit in limits if limit.level != "off"}
        needs_pair = baseline is not None and bool(active & _TIMED_AGAINST_BASELINE)
        is_open = self._is_open(evidence, limits)
        stored: gate.How = "stored samples" if evidence.runs else "stored numbers"
        if (
            self.request.stored_only
            or candidate.artifact_path is None
            or not active & (_TIMED | _TIMED_AGAINST_BASELINE)
        ):
            return evidence, stored
        if needs_pair and baseline is not None and baseline.artifact_path is not None:
            return measure_until_clear(evidence, limits, self._target(candidate), self.effort), "measured in turns"
        if not is_open:
            return evidence, stored
        return self._measured_alone(candidate, limits, store), "measured"

    def _measured_alone(self, candidate: Record, limits: Sequence[Limit], store: Store | None) -> Evidence:
        """Measure the candidate; once its board is known, measure more where its stored baseline asks for that."""
        target = self._target(candidate)
        alone = measure_until_clear(Evidence.stored(candidate, None), limits, target, self.effort)
        baseline = self._baseline(alone.candidate, limits, store)
        if baseline is None:
            return alone
        evidence = replace(alone, baseline=baseline, baseline_runs=Evidence.stored(candidate, baseline).baseline_runs)
        baselines.refuse_other_board(evidence, limits)
        relative = [limit for limit in limits if limit.name in _TIMED_AGAINST_BASELINE]
        estimates = estimate_all(evidence, relative)
        checks = judge_limits(relative, estimates.known, estimates.unknown, is_last=False)
        if all(check.outcome != "inconclusive" or check.estimate is None for check in checks):
            return evidence
        return measure_until_clear(evidence, limits, target, self.effort)

    def _is_open(self, evidence: Evidence, limits: Sequence[Limit]) -> bool:
        """Say whether measuring again could decide what the stored samples leave open."""
        if not evidence.runs:
            return True
        baseline = evidence.baseline
        is_same_board = baseline is not None and baseline.fingerprint == evidence.candidate.fingerprint
        names = _TIMED | _TIMED_AGAINST_BASELINE if is_same_board and evidence.baseline_runs else _TIMED
        timed = [limit for limit in limits if limit.name in names]
        estimates = estimate_all(evidence, timed)
        checks = judge_limits(timed, estimates.known, estimates.unknown, is_last=False)
        return any(check.outcome == "inconclusive" for check in checks)

    def _target(self, record: Record) -> Target:
        return load_target(self.request.target if self.request.target is not None else record.target)

    def _too_tight(self, evidence: Evidence, limits: Sequence[Limit]) -> tuple[str, ...]:
        """Return a sentence for each slow-down limit that is tighter than what the most measuring could show.

        Stored samples of the two networks say that best; where there are none, the calibration of the board.
        """
        smallest = detectable(evidence, self.effort.pairs)
        if smallest is None:
            record = evidence.candidate
            known = known_calibration(record.fingerprint) if record.fingerprint else latest_calibration(record.target)
            if known is None:
                return ()
            smallest = known.detectable(self.effort.pairs)
        return tuple(
            f"latency_regression {limit.text} is tighter than what {self.effort.pairs} processes of each can show on "
            f"{evidence.candidate.target}, {in_parts(smallest)}: raise the limit or pairs, or quiet the board."
            for limit in limits
            if limit.name == "latency_regression" and limit.level != "off" and limit.value < smallest
        )

    def _detectable(self, evidence: Evidence) -> float | None:
        return detectable(evidence, len(evidence.runs)) if len(evidence.runs) > 1 else None


def _records(path: Path, request: GateRequest) -> tuple[Record, ...]:
    """Return what a path holds of the target that was asked for, or of all; raises UsageError where it holds none."""
    records = read_records(path, request.target, request.model)
    if request.target is None:
        return records
    asked = load_target(request.target).name
    if found := tuple(record for record in records if record.target == asked):
        return found
    known = " and ".join(dict.fromkeys(record.target for record in records))
    raise UsageError(
        f"{records[0].source} is a result of target {known}, and --target says {asked}. Leave --target out, or give "
        "the artifact alone to have it measured there."
    )


def _check_baseline_given(request: GateRequest, record: Record, limits: Sequence[Limit]) -> None:
    relative = [limit.name for limit in limits if limit.metric.against_baseline and limit.level != "off"]
    if relative and request.baseline is None:
        raise UsageError(
            f"{request.limits} limits {relative[0]} of {record.model}, which needs something to compare with: "
            "give --baseline RESULT, or a branch that the store knows, such as --baseline main."
        )
