"""Both ends of a run, the original and the result, measured interleaved on every target, and what limits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeprune.bench.measure import THOROUGH
from edgeprune.bench.measurement import Measurement, measurement_from_dict, measurement_to_dict
from edgeprune.contracts import Limits, Outcome, utilisation
from edgeprune.run.measured import Measured, on_all
from edgeprune.verdict.decision import decide
from edgeprune.verdict.result import AskedBudget, Costs, FurtherTarget

if TYPE_CHECKING:
    from edgeprune.run.building import Built
    from edgeprune.run.finetune import Tuned
    from edgeprune.run.trial import Trial
    from edgeprune.run.workbench import Workbench

_MOST_MEASUREMENTS = 2


@dataclass(frozen=True)
class Finished:
    """The finished network as one target runs it: its files, and its accuracy there."""

    bench: Workbench
    built: Built
    tuned: Tuned

    @property
    def target(self) -> str:
        """The name of the target."""
        return self.bench.job.target.name

    @property
    def name_elsewhere(self) -> str:
        """What the artifact is called in the run's folder where the target is a further one: `model.TARGET.onnx`."""
        return f"{self.built.artifact.stem}.{self.target}{self.built.artifact.suffix}"


@dataclass(frozen=True)
class Ends:
    """The final measurements of both networks on one target, what they cost, and the limits for this original."""

    finished: Finished
    original: Measurement
    final: Measurement
    original_costs: Costs
    final_costs: Costs
    final_outcome: Outcome
    limits: Limits

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know of the building and of how the measurement went."""
        return (*self.original.warnings, *self.final.warnings, *self.finished.built.warnings)

    @property
    def runtime(self) -> str:
        """The engine with its version."""
        return f"{self.final.runtime} {self.final.runtime_version}"

    def asked(self, accuracy_floor: float | None) -> AskedBudget:
        """Return the budget on this target in the user's words and in numbers."""
        limits, accuracy = self.limits, self.original_costs.accuracy
        own = replace(self.finished.bench.job.budget, other_latencies_ms=())
        return AskedBudget(
            as_asked=own.as_text(),
            latency_ms=limits.latency_ms,
            size_bytes=limits.size_bytes,
            macs=limits.macs,
            memory_bytes=limits.memory_bytes,
            accuracy_drop=None if accuracy_floor is None or accuracy is None else accuracy - accuracy_floor,
        )

    def as_further(self, accuracy_floor: float | None) -> FurtherTarget:
        """Return what the result says of a target that is not the first."""
        return FurtherTarget(
            target=self.finished.target,
            kind=self.final.kind,
            runtime=self.runtime,
            budget=self.asked(accuracy_floor),
            original=self.original_costs,
            final=self.final_costs,
            artifact=self.finished.name_elsewhere,
        )


def measure_ends(finished: Sequence[Finished], chosen: Trial) -> tuple[Ends, ...]:
    """Measure both ends on every target, again and longer while an interval straddles its limit; once in a run."""
    ends = tuple(_both_ends(one) for one in finished)
    folder = finished[0].bench.folder
    if not folder.trials("final"):
        folder.append_trial(_final_trial(ends, chosen))
    return ends


def _both_ends(one: Finished) -> Ends:
    saved = one.bench.folder.remember("final-measurement", lambda: _measured_until_clear(one))
    return _ends(one, tuple(measurement_from_dict(found) for found in saved))


def _measured_until_clear(one: Finished) -> list[dict[str, Any]]:
    options = THOROUGH
    for attempt in range(_MOST_MEASUREMENTS):
        where = f" on {one.target}" + ", longer" * bool(attempt)
        one.bench.progress.say(f"measuring the original and the result side by side{where}")
        pair = one.bench.measure_beside_original(one.built.artifact, options)
        ends = _ends(one, pair)
        if not decide(ends.limits, None, ends.final_costs).doubts:
            break
        options = replace(options, processes=options.processes * 2)
    return [measurement_to_dict(measurement) for measurement in pair]


def _ends(one: Finished, pair: tuple[Measurement, ...]) -> Ends:
    original, final = pair
    bench, stages = one.bench, one.tuned.stages
    original_outcome = bench.outcome(bench.built_original, original)
    final_outcome = bench.outcome(one.built, final)
    return Ends(
        finished=one,
        original=original,
        final=final,
        original_costs=_costs(original, original_outcome, stages.original),
        final_costs=_costs(final, final_outcome, stages.reached),
        final_outcome=final_outcome,
        limits=bench.job.budget.limits(original_outcome),
    )


def _costs(measurement: Measurement, outcome: Outcome, accuracy: float | None) -> Costs:
    return Costs(
        latency_p50_ms=measurement.latency_p50_ms,
        latency_interval_ms=measurement.latency_interval_ms,
        latency_p90_ms=measurement.latency_p90_ms,
        size_bytes=outcome.size_bytes,
        macs=outcome.macs,
        parameters=outcome.parameters,
        accuracy=accuracy,
        memory_bytes=outcome.memory_bytes,
        activation_bytes=outcome.activation_bytes,
    )


def _final_trial(ends: Sequence[Ends], chosen: Trial) -> Mapping[str, Any]:
    found = [
        Measured(end.finished.target, end.final_outcome, end.final, proofs=end.finished.built.proofs) for end in ends
    ]
    originals = [{"original_measurement": measurement_to_dict(end.original)} for end in ends]
    trial = replace(
        chosen,
        stage="final",
        outcome=on_all(found),
        drift=1.0,
        feasible=all(utilisation(end.final_outcome, end.limits) <= 1 for end in ends),
        measurement=measurement_to_dict(found[0].measurement),
        proofs=tuple(asdict(proof) for proof in found[0].proofs),
        elsewhere=tuple({**one.to_json(), **beside} for one, beside in zip(found[1:], originals[1:], strict=True)),
    )
    return {**trial.to_json(), **originals[0]}
