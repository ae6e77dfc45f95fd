"""Both ends of a run, the original and the result, measured interleaved, and the limits that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeprune.bench.measure import THOROUGH
from edgeprune.bench.measurement import Measurement, measurement_from_dict, measurement_to_dict
from edgeprune.contracts import Limits, Outcome, utilisation
from edgeprune.verdict.result import Costs, decide

if TYPE_CHECKING:
    from edgeprune.run.building import Built
    from edgeprune.run.finetune import Tuned
    from edgeprune.run.trial import Trial
    from edgeprune.run.workbench import Workbench

_MOST_MEASUREMENTS = 2


@dataclass(frozen=True)
class Ends:
    """The final measurements of both networks, what they cost, and the limits resolved against this original."""

    original: Measurement
    final: Measurement
    original_costs: Costs
    final_costs: Costs
    final_outcome: Outcome
    limits: Limits

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know of how the measurement went."""
        return (*self.original.warnings, *self.final.warnings)


def measure_ends(bench: Workbench, built: Built, tuned: Tuned, chosen: Trial) -> Ends:
    """Measure both ends, again and longer while the interval straddles the limit; once in the life of a run."""
    saved = bench.folder.remember("final-measurement", lambda: _measured_until_clear(bench, built, tuned))
    ends = _ends(bench, built, tuned, tuple(measurement_from_dict(found) for found in saved))
    if not bench.folder.trials("final"):
        bench.folder.append_trial(_final_trial(built, ends, chosen))
    return ends


def _measured_until_clear(bench: Workbench, built: Built, tuned: Tuned) -> list[dict[str, Any]]:
    options = THOROUGH
    for attempt in range(_MOST_MEASUREMENTS):
        bench.progress.say("measuring the original and the result side by side" + ", longer" * bool(attempt))
        pair = bench.measure_beside_original(built.artifact, options)
        ends = _ends(bench, built, tuned, pair)
        if not decide(ends.limits, None, ends.final_costs).doubts:
            break
        options = replace(options, processes=options.processes * 2)
    return [measurement_to_dict(measurement) for measurement in pair]


def _ends(bench: Workbench, built: Built, tuned: Tuned, pair: tuple[Measurement, ...]) -> Ends:
    original, final = pair
    stages = tuned.stages
    original_outcome = bench.outcome(bench.built_original, original)
    final_outcome = bench.outcome(built, final)
    return Ends(
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


def _final_trial(built: Built, ends: Ends, chosen: Trial) -> Mapping[str, Any]:
    outcome = ends.final_outcome
    trial = replace(
        chosen,
        stage="final",
        outcome=outcome,
        drift=1.0,
        feasible=utilisation(outcome, ends.limits) <= 1,
        measurement=measurement_to_dict(ends.final),
        proofs=tuple(asdict(proof) for proof in built.proofs),
    )
    return {**trial.to_json(), "original_measurement": measurement_to_dict(ends.original)}
