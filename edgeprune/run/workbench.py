"""What stays the same from one candidate to the next: the original, its data, its target, the clock, the folder."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune import registry
from edgeprune.bench.measure import QUICK, THOROUGH, MeasureOptions, measure, measure_pair
from edgeprune.network.data import example_inputs
from edgeprune.network.evaluation import evaluate
from edgeprune.network.proof import check_plan
from edgeprune.network.stand_in import samples_of
from edgeprune.network.surgery import apply
from edgeprune.run.building import BuildOrder, Built, build_verified
from edgeprune.run.calibration import calibration_samples
from edgeprune.run.memory import network_memory_bytes
from edgeprune.verdict.budget import Share
from edgeprune.verdict.result import Proof

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeprune.bench.measurement import Measurement
    from edgeprune.contracts import Outcome, Runtime
    from edgeprune.network.plan import Plan
    from edgeprune.progress import Progress
    from edgeprune.run.building import Arrays
    from edgeprune.run.job import Job
    from edgeprune.run_dir import RunDir, Stopwatch

_SEARCH_SAMPLES = 4
_CALIBRATION_SAMPLES = 32


class Workbench:
    """Cuts, builds, measures and judges networks for one job; `others` are the benches of its further targets."""

    def __init__(self, job: Job, folder: RunDir, watch: Stopwatch, progress: Progress) -> None:
        """Hold the parts; nothing runs yet."""
        self.job, self.folder, self.watch, self.progress = job, folder, watch, progress
        self.original: nn.Module = job.model.module
        # NOTE: one for all rounds, because an engine may keep a converter warm.
        self._runtime: Runtime = registry.load("runtimes", job.target.runtime)()
        self.others: tuple[Workbench, ...] = tuple(
            Workbench(other, folder.on_target(other.target.name), watch, progress) for other in job.elsewhere()
        )

    def apart(self, name: str, job: Job) -> Workbench:
        """Return a bench for another job of this run, with working files of its own and the same measured original."""
        _ = self.built_original  # built once, for all of them
        other = copy.copy(self)
        other.job, other.folder = job, self.folder.apart(name)
        other.others = tuple(bench.apart(name, own) for bench, own in zip(self.others, job.elsewhere(), strict=True))
        return other

    @cached_property
    def built_original(self) -> Built:
        """The original as an artifact of the target, built once a session."""
        self.progress.say(f"exporting the original and building it for {self.job.target.name}")
        return self._built(self.original, "original", _SEARCH_SAMPLES, self.job.example_inputs)

    def cut(self, plan: Plan, whole: nn.Module | None = None) -> tuple[nn.Module, Proof]:
        """Return what a plan leaves of the original, or of a whole network with other weights, and the proof of it.

        The proof says that only the planned units are gone. Raises PlanError for a plan that breaks a constraint,
        VerificationError when the proof fails.
        """
        whole = self.original if whole is None else whole
        network = apply(plan, whole, self.job.example_inputs, via="auto")
        report = check_plan(whole, network, plan, self.job.example_inputs)
        name = "masked and low-rank" if plan.factorisations else "masked"
        return network, Proof(f"{name} equivalence of the cut", None, report.largest_difference, None, 1, report.exact)

    def build(
        self,
        network: nn.Module,
        name: str,
        samples: int = _SEARCH_SAMPLES,
        inputs: tuple[torch.Tensor, ...] | None = None,
    ) -> Built:
        """Build a network for the target and verify it there on real samples, in the working folder `name`.

        Its ONNX is simplified where the original's was, so that networks are compared that were built alike.
        """
        return self._built(network, name, samples, inputs or self.job.example_inputs, self.built_original.simplified)

    def _built(
        self,
        network: nn.Module,
        name: str,
        samples: int,
        inputs: tuple[torch.Tensor, ...],
        simplify: bool = True,
    ) -> Built:
        order = BuildOrder(
            target=self.job.target,
            runtime=self._runtime,
            example_inputs=inputs,
            samples=samples_of(example_inputs(self.job.data, samples)[: len(inputs)], len(inputs[0])),
            simplify=simplify,
            calibration=self._calibration(max(_CALIBRATION_SAMPLES, 2 * samples)),
        )
        return build_verified(network, order, self.folder.work / name, self.progress)

    def _calibration(self, count: int) -> list[Arrays]:
        """Return training inputs for a precision that needs ranges; fp32 and fp16 need none."""
        if self.job.target.precision != "int8":
            return []
        return calibration_samples(self.job.data, count, len(self.job.example_inputs[0]))

    def measure_original(self) -> Measurement:
        """Measure the original alone."""
        artifact = self.built_original.artifact
        with self.watch("measuring"):
            return measure(artifact, self.job.target, THOROUGH, self.progress)

    def measure_beside_original(self, artifact: Path, options: MeasureOptions) -> tuple[Measurement, Measurement]:
        """Measure the original and another artifact interleaved in one run."""
        original = self.built_original.artifact
        with self.watch("measuring"):
            return measure_pair(original, artifact, self.job.target, options, self.progress)

    def measure_candidate(self, artifact: Path, original_ms: float) -> tuple[Measurement, float]:
        """Measure a round of the search, and how much slower the board is than when the original took `original_ms`.

        A limit that is a share of the original is a statement about two networks at one time, so the original is
        measured beside the candidate; a limit in milliseconds is about the candidate alone, and its drift is 1.
        """
        if not isinstance(self.job.budget.latency_ms, Share):
            with self.watch("measuring"):
                return measure(artifact, self.job.target, QUICK, self.progress), 1.0
        original, candidate = self.measure_beside_original(artifact, QUICK)
        return candidate, original.latency_p50_ms / original_ms

    def outcome(self, built: Built, measurement: Measurement, drift: float = 1.0) -> Outcome:
        """Return what a built and measured network costs; `drift` as in `measure_candidate`."""
        return built.outcome(measurement, drift, network_memory_bytes(self, measurement))

    def accuracy(self, stage: str, network: nn.Module) -> float:
        """Return the accuracy (0..1) of the network at a stage, evaluated once in the life of a run."""

        def compute() -> float:
            accuracy = evaluate(network, self.job.data)
            self.progress.say(f"accuracy, {stage}: {accuracy:.2%}")
            return accuracy

        with self.watch("training"):
            return self.folder.remember(f"accuracy-{stage}", compute)
