"""Real inputs for a precision that takes its ranges from them, and what a precision does to the accuracy."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeprune.bench.measure import run_on_target
from edgeprune.network.batches import as_inputs
from edgeprune.network.data import Data, calibration_batches, example_inputs
from edgeprune.network.evaluation import evaluate
from edgeprune.network.stand_in import FirstSamples, StandIn, samples_of

if TYPE_CHECKING:
    from edgeprune.run.building import Arrays, Built
    from edgeprune.run.finetune import Tuned
    from edgeprune.run.workbench import Workbench

# What judges an artifact: enough to see half a point, and seconds on most boards; fewer where that takes longer.
_JUDGED_SAMPLES = 1000
_LEAST_JUDGED_SAMPLES = 64
_JUDGING_LIMIT_S = 240.0
_TRIED_SAMPLES = 4


def calibration_samples(data: Data, count: int, batch: int) -> list[Arrays]:
    """Return `count` training inputs without augmentation, or all where there are fewer, `batch` an inference."""
    samples: list[Arrays] = []
    for inputs, _ in calibration_batches(data, count):
        samples += samples_of([tensor.cpu() for tensor in as_inputs(inputs)], batch)
        if len(samples) * batch >= count:
            break
    return samples[: -(-count // batch)]


def judged_as_built(bench: Workbench, tuned: Tuned) -> Tuned:
    """Build a recovered network where its precision is not the one that was trained in, and add the accuracy then."""
    if bench.job.target.precision == "fp32":
        return tuned
    return with_artifact_accuracy(bench, bench.build(tuned.network, "judged"), tuned)


def with_artifact_accuracy(bench: Workbench, built: Built, tuned: Tuned) -> Tuned:
    """Add the accuracy of the artifact on its target, where its precision is not the one that was trained in.

    It is the accuracy on the whole validation set, moved by what the artifact changes on its first samples.
    """
    target = bench.job.target
    before = tuned.stages.reached
    if target.precision == "fp32" or before is None:
        return tuned

    def compute() -> float:
        batch = len(bench.job.example_inputs[0])
        count = _affordable_samples(bench, built)
        data = replace(bench.job.data, validation=FirstSamples(bench.job.data.validation, count))
        artifact = StandIn(lambda samples: run_on_target(built.artifact, target, samples), batch)
        change = evaluate(artifact, data) - evaluate(tuned.network, data)
        bench.progress.say(f"accuracy at {target.precision}: {change * 100:+.2f} points on {count:,} samples")
        return min(max(before + change, 0.0), 1.0)

    with bench.watch("measuring"):
        exported = bench.folder.remember("accuracy-exported", compute)
    return replace(tuned, stages=replace(tuned.stages, exported=exported))


def _affordable_samples(bench: Workbench, built: Built) -> int:
    """Return how many samples the target runs in the time for judging, by how long it takes for a few."""
    batch = len(bench.job.example_inputs[0])
    tried = max(_TRIED_SAMPLES, batch)
    started = time.perf_counter()
    run_on_target(built.artifact, bench.job.target, samples_of(example_inputs(bench.job.data, tried), batch))
    sample_s = (time.perf_counter() - started) / tried
    return max(min(int(_JUDGING_LIMIT_S / sample_s), _JUDGED_SAMPLES), _LEAST_JUDGED_SAMPLES)
