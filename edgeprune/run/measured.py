"""One network on every target of a run: built there, proven there, measured there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from edgeprune.bench.measurement import Measurement, measurement_to_dict
from edgeprune.contracts import Outcome
from edgeprune.verdict.result import Proof

if TYPE_CHECKING:
    from torch import nn

    from edgeprune.run.workbench import Workbench


@dataclass(frozen=True)
class Measured:
    """What a network costs on one target; `drift` is how much slower the board was than at the start."""

    target: str
    outcome: Outcome
    measurement: Measurement
    drift: float = 1.0
    proofs: tuple[Proof, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what stands of a further target in a trial."""
        return {
            "target": self.target,
            "drift": self.drift,
            "measurement": measurement_to_dict(self.measurement),
            "proofs": [asdict(proof) for proof in self.proofs],
        }


def measured_original(bench: Workbench) -> tuple[Measured, ...]:
    """Return the uncut network on the job's own target, then on each further one."""
    found = []
    for one in (bench, *bench.others):
        built, measurement = one.built_original, one.measure_original()
        found.append(Measured(one.job.target.name, one.outcome(built, measurement), measurement))
    return tuple(found)


def measured_candidate(bench: Workbench, network: nn.Module, original: Outcome) -> tuple[Measured, ...]:
    """Return a network of the search on the job's own target, then on each further one."""
    found = []
    for one, whole in zip((bench, *bench.others), (original, *original.others), strict=True):
        built = one.build(network, "candidate")
        measurement, drift = one.measure_candidate(built.artifact, whole.latency_ms)
        outcome = one.outcome(built, measurement, drift)
        found.append(Measured(one.job.target.name, outcome, measurement, drift, built.proofs))
    return tuple(found)


def on_all(found: Sequence[Measured]) -> Outcome:
    """Return the outcome on the first target, with those on the others."""
    return replace(found[0].outcome, others=tuple(one.outcome for one in found[1:]))
