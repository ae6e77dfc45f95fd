"""The end of a run: the files, the final measurement beside the original, the verdict, the result, the report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgeprune.bench.measure import profile_on_target
from edgeprune.contracts import Problem
from edgeprune.errors import BoardError, BuildError
from edgeprune.files import replacing, sha256_of, write_text
from edgeprune.network.weights import save_weights
from edgeprune.run.calibration import with_artifact_accuracy
from edgeprune.run.ends import Ends, measure_ends
from edgeprune.run.ranks import left_whole, ranked_layers
from edgeprune.run.slower import slower_cuts
from edgeprune.run.trial import Searched, Trial
from edgeprune.verdict.report import write_report
from edgeprune.verdict.result import (
    AskedBudget,
    Decision,
    LayerTime,
    LayerTimes,
    ModelOrigin,
    Result,
    Seconds,
    decide,
    write_result,
)

if TYPE_CHECKING:
    from pathlib import Path

    from edgeprune.run.building import Built
    from edgeprune.run.finetune import Tuned
    from edgeprune.run.workbench import Workbench

_FINAL_SAMPLES = 64


@dataclass(frozen=True)
class Findings:
    """What the search and the training left: the problem, what was tried, the chosen trial, the finished network.

    `shortfall` is a sentence on what no network reached, "" where the search found what was asked.
    """

    problem: Problem
    searched: Searched
    chosen: Trial
    tuned: Tuned
    shortfall: str = ""


def conclude(bench: Workbench, findings: Findings) -> Result:
    """Prove and measure the finished network, publish its files, and write the result and the report."""
    built = bench.build(findings.tuned.network, "final", samples=_FINAL_SAMPLES)
    findings = replace(findings, tuned=with_artifact_accuracy(bench, built, findings.tuned))
    _publish_network(bench, built, findings.tuned)
    ends = measure_ends(bench, built, findings.tuned, findings.chosen)
    result = _result(bench, built, ends, findings)
    write_result(result, bench.folder.file("result.json"))
    _complete_manifest(bench, ends)
    write_report(bench.folder.path)
    return result


def _publish_network(bench: Workbench, built: Built, tuned: Tuned) -> None:
    """Copy the finished network's files from the working folder to where the user looks, each in one step."""
    folder = bench.folder
    write_text(folder.file("plan.json"), tuned.plan.to_json() + "\n")
    with replacing(folder.file("weights.safetensors")) as partial:
        save_weights(tuned.network, partial)
    if tuned.whole is not bench.original:  # what the plan can be replayed on
        with replacing(folder.file("shaped.safetensors")) as partial:
            save_weights(tuned.whole, partial)
    for source in built.files:
        with replacing(folder.file(source.name)) as partial:
            shutil.copyfile(source, partial)


def _result(bench: Workbench, built: Built, ends: Ends, findings: Findings) -> Result:
    job, tuned = bench.job, findings.tuned
    floor = job.budget.accuracy_floor(tuned.stages.original or 0.0)
    decision = _explained(decide(ends.limits, floor, ends.final_costs), bench, findings)
    origin = job.model.origin
    layers, unprofiled = _layer_times(bench, built)
    sizes = {group.name: group.size for group in findings.problem.structure.groups}
    return Result(
        verdict=decision.verdict,
        violations=decision.violations,
        target=job.target.name,
        kind=ends.final.kind,
        runtime=f"{ends.final.runtime} {ends.final.runtime_version}",
        method=job.choices.method,
        controller=job.choices.controller,
        seed=job.choices.seed,
        command=job.command,
        model=ModelOrigin(origin.path.name, origin.sha256, origin.arch, origin.format),
        budget=_asked(bench, ends, floor),
        original=ends.original_costs,
        final=ends.final_costs,
        rounds=len(findings.searched.trials) - 1,
        allocation={**sizes, **findings.chosen.allocation},
        group_sizes=sizes,
        search_ended=findings.searched.ending,
        stages=tuned.stages,
        seconds=Seconds(**bench.watch.seconds()),
        shaping=tuned.shaping,
        recovery=tuned.recovery,
        proofs=(tuned.proof, *built.proofs),
        layers=layers,
        ranked_layers=ranked_layers(bench, findings.problem, findings.chosen.allocation),
        slower_cuts=slower_cuts(findings.problem, findings.chosen.allocation),
        warnings=_warnings(bench, (*decision.doubts, *ends.warnings, *built.warnings, *unprofiled), findings),
    )


def _asked(bench: Workbench, ends: Ends, floor: float | None) -> AskedBudget:
    limits, accuracy = ends.limits, ends.original_costs.accuracy
    return AskedBudget(
        as_asked=bench.job.budget.as_text(),
        latency_ms=limits.latency_ms,
        size_bytes=limits.size_bytes,
        macs=limits.macs,
        memory_bytes=limits.memory_bytes,
        accuracy_drop=None if floor is None or accuracy is None else accuracy - floor,
    )


def _explained(decision: Decision, bench: Workbench, findings: Findings) -> Decision:
    """Add to a budget that nothing measured could meet how far down the network goes on this target."""
    if findings.shortfall:
        decision = replace(decision, verdict="fail", violations=(*decision.violations, findings.shortfall))
    searched = findings.searched.trials[1:]
    if findings.chosen.feasible or not searched:
        return decision
    floor = min(searched, key=lambda trial: trial.outcome.latency_ms)
    kept = sum(floor.allocation.values()) / sum(group.size for group in findings.problem.structure.groups)
    sentence = (
        f"No smaller network met the budget: with {kept:.0%} of all units kept, the least that was tried, "
        f"{bench.job.target.name} still takes {floor.outcome.latency_ms:.4g} ms."
    )
    return replace(decision, verdict="fail", violations=(*decision.violations, sentence))


def _layer_times(bench: Workbench, built: Built) -> tuple[LayerTimes, tuple[str, ...]]:
    """Return where both networks spend their time, and a warning where the target would not say."""

    def times(artifact: Path) -> tuple[LayerTime, ...]:
        layers = profile_on_target(artifact, bench.job.target)
        return tuple(LayerTime(name, milliseconds) for name, milliseconds in layers.items())

    with bench.watch("measuring"):
        try:
            return LayerTimes(times(bench.built_original.artifact), times(built.artifact)), ()
        except (BoardError, BuildError) as error:  # a finished run is not lost over a table of its report
            return LayerTimes(), (f"No times by layer: {error}",)


def _warnings(bench: Workbench, found: Sequence[str], findings: Findings) -> tuple[str, ...]:
    everything = [
        *found,
        *findings.tuned.warnings,
        *left_whole(findings.problem.structure),
        *bench.job.model.notes,
        *bench.job.data.notes,
    ]
    return tuple(dict.fromkeys(everything))


def _complete_manifest(bench: Workbench, ends: Ends) -> None:
    names = [path.name for path in bench.folder.path.iterdir() if path.is_file() and not path.name.startswith(".")]
    hashes = {name: sha256_of(bench.folder.file(name)) for name in sorted(names) if name != "manifest.json"}
    environment = dict(ends.final.environment)
    bench.folder.add_facts({"files": hashes, "board": {"fingerprint": ends.final.fingerprint, **environment}})
