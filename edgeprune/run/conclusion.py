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
from edgeprune.run.ends import Ends, Finished, measure_ends
from edgeprune.run.ranks import left_whole, ranked_layers
from edgeprune.run.slower import slower_cuts
from edgeprune.run.trial import Searched, Trial
from edgeprune.verdict.decision import Decision, by_target, decide, joined
from edgeprune.verdict.report import write_report
from edgeprune.verdict.result import (
    LayerTime,
    LayerTimes,
    ModelOrigin,
    Result,
    Seconds,
    write_result,
)

if TYPE_CHECKING:
    from pathlib import Path

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
    """Prove and measure the finished network on every target, publish its files, write the result and the report."""
    finished = tuple(_finished(one, findings.tuned) for one in (bench, *bench.others))
    findings = replace(findings, tuned=finished[0].tuned)
    _publish_network(finished)
    ends = measure_ends(finished, findings.chosen)
    result = _result(ends, findings)
    write_result(result, bench.folder.file("result.json"))
    _complete_manifest(bench, ends)
    write_report(bench.folder.path)
    return result


def _finished(bench: Workbench, tuned: Tuned) -> Finished:
    built = bench.build(tuned.network, "final", samples=_FINAL_SAMPLES)
    return Finished(bench, built, with_artifact_accuracy(bench, built, tuned))


def _publish_network(finished: Sequence[Finished]) -> None:
    """Copy the finished network's files from the working folders to where the user looks, each in one step."""
    bench, tuned = finished[0].bench, finished[0].tuned
    folder = bench.folder
    write_text(folder.file("plan.json"), tuned.plan.to_json() + "\n")
    with replacing(folder.file("weights.safetensors")) as partial:
        save_weights(tuned.network, partial)
    if tuned.whole is not bench.original:  # what the plan can be replayed on
        with replacing(folder.file("shaped.safetensors")) as partial:
            save_weights(tuned.whole, partial)
    named = {source.name: source for source in finished[0].built.files}
    named |= {one.name_elsewhere: one.built.artifact for one in finished[1:]}
    for name, source in named.items():
        with replacing(folder.file(name)) as partial:
            shutil.copyfile(source, partial)


def _result(ends: Sequence[Ends], findings: Findings) -> Result:
    own, tuned = ends[0], findings.tuned
    bench = own.finished.bench
    job, origin = bench.job, bench.job.model.origin
    floor = job.budget.accuracy_floor(tuned.stages.original or 0.0)
    decided = joined({end.finished.target: decide(end.limits, floor, end.final_costs) for end in ends})
    decision = _explained(decided, bench, findings)
    noted = by_target({end.finished.target: end.warnings for end in ends})
    layers, unprofiled = _layer_times(own.finished)
    sizes = {group.name: group.size for group in findings.problem.structure.groups}
    return Result(
        verdict=decision.verdict,
        violations=decision.violations,
        target=job.target.name,
        kind=own.final.kind,
        runtime=own.runtime,
        method=job.choices.method,
        controller=job.choices.controller,
        seed=job.choices.seed,
        command=job.command,
        model=ModelOrigin(origin.path.name, origin.sha256, origin.arch, origin.format),
        budget=own.asked(floor),
        original=own.original_costs,
        final=own.final_costs,
        rounds=len(findings.searched.trials) - 1,
        allocation={**sizes, **findings.chosen.allocation},
        group_sizes=sizes,
        search_ended=findings.searched.ending,
        stages=tuned.stages,
        seconds=Seconds(**bench.watch.seconds()),
        shaping=tuned.shaping,
        recovery=tuned.recovery,
        proofs=(tuned.proof, *(proof for end in ends for proof in end.finished.built.proofs)),
        layers=layers,
        ranked_layers=ranked_layers(bench, findings.problem, findings.chosen.allocation),
        slower_cuts=slower_cuts(findings.problem, findings.chosen.allocation),
        warnings=_warnings(bench, (*decision.doubts, *noted, *unprofiled), findings),
        further=tuple(end.as_further(floor) for end in ends[1:]),
    )


def _explained(decision: Decision, bench: Workbench, findings: Findings) -> Decision:
    """Add to a budget that nothing measured could meet how far down the network goes on its targets."""
    if findings.shortfall:
        decision = replace(decision, verdict="fail", violations=(*decision.violations, findings.shortfall))
    searched = findings.searched.trials[1:]
    if findings.chosen.feasible or not searched:
        return decision
    floor = min(searched, key=lambda trial: trial.outcome.latency_ms)
    kept = sum(floor.allocation.values()) / sum(group.size for group in findings.problem.structure.groups)
    latencies = " and ".join(
        f"{one.job.target.name} still takes {outcome.latency_ms:.4g} ms"
        for one, outcome in zip((bench, *bench.others), (floor.outcome, *floor.outcome.others), strict=True)
    )
    sentence = (
        f"No smaller network met the budget: with {kept:.0%} of all units kept, the least that was tried, {latencies}."
    )
    return replace(decision, verdict="fail", violations=(*decision.violations, sentence))


def _layer_times(finished: Finished) -> tuple[LayerTimes, tuple[str, ...]]:
    """Return where both networks spend their time, and a warning where the target would not say."""
    bench = finished.bench

    def times(artifact: Path) -> tuple[LayerTime, ...]:
        layers = profile_on_target(artifact, bench.job.target)
        return tuple(LayerTime(name, milliseconds) for name, milliseconds in layers.items())

    with bench.watch("measuring"):
        try:
            return LayerTimes(times(bench.built_original.artifact), times(finished.built.artifact)), ()
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


def _complete_manifest(bench: Workbench, ends: Sequence[Ends]) -> None:
    names = [path.name for path in bench.folder.path.iterdir() if path.is_file() and not path.name.startswith(".")]
    hashes = {name: sha256_of(bench.folder.file(name)) for name in sorted(names) if name != "manifest.json"}
    own, *others = [{"fingerprint": end.final.fingerprint, **dict(end.final.environment)} for end in ends]
    elsewhere = {"further_boards": others} if others else {}
    bench.folder.add_facts({"files": hashes, "board": own, **elsewhere})
