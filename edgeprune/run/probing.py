"""What latency a network can reach on a target by cutting, measured on a few cut variants, without any training."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgeprune import registry
from edgeprune.bench.measure import QUICK, measure
from edgeprune.contracts import Context, Controller, Limits, Method, Outcome, Problem
from edgeprune.errors import UsageError
from edgeprune.network.activations import activation_moments
from edgeprune.network.equivalence import check_masked_equivalence
from edgeprune.network.selection import allowed_counts
from edgeprune.network.stand_in import samples_of
from edgeprune.network.structure import network_structure
from edgeprune.network.surgery import apply
from edgeprune.run.building import BuildOrder, build_verified
from edgeprune.run.floor import BudgetVerdict, FloorPart, floor_parts, judge_budget
from edgeprune.run.profiling import Profile, profile_network
from edgeprune.run.trial import kept_score
from edgeprune.verdict.budget import Share

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeprune.bench.measurement import Measurement
    from edgeprune.bench.target import Target
    from edgeprune.network.groups import Allocation, Group, Structure
    from edgeprune.progress import Progress

How = Literal["original", "uniform", "planned", "smallest"]

_UNIFORM_PARTS = (0.8, 0.5, 0.25)
_PLANNED_PARTS = (0.8, 0.6, 0.4)
# No network is that fast: what is planned for it is the smallest that can be planned.
_OUT_OF_REACH = 1e-3
_SMALLEST_KEPT_PART = 0.1


@dataclass(frozen=True)
class Variant:
    """One measured network: how it was cut, which part (0 to 1) of units and importance is left, what was predicted."""

    how: How
    label: str
    allocation: Allocation
    kept_part: float
    kept_score: float
    outcome: Outcome
    expected_ms: float | None = None

    @property
    def latency_ms(self) -> float:
        """The measured median."""
        return self.outcome.latency_ms


@dataclass(frozen=True)
class Probe:
    """Everything that was measured, the fastest of it with what it consists of, and the verdict on a budget."""

    target: str
    kind: str
    fingerprint: str
    variants: tuple[Variant, ...]
    parts: tuple[FloorPart, ...]
    verdict: BudgetVerdict | None
    warnings: tuple[str, ...]

    @property
    def original(self) -> Variant:
        """The uncut network."""
        return self.variants[0]

    @property
    def floor(self) -> Variant:
        """The fastest network."""
        return min(self.variants, key=lambda variant: variant.latency_ms)


@dataclass(frozen=True)
class Question:
    """What is asked: the target, the latency that would be wanted, and which plug-ins cut."""

    target: Target
    latency_ms: float | Share | None
    method: str
    controller: str
    seed: int = 0


def probe_network(
    network: nn.Module, example_inputs: tuple[torch.Tensor, ...], question: Question, progress: Progress
) -> Probe:
    """Profile the layers, then measure the network cut alike everywhere and cut as planned, and judge the budget.

    Raises UsageError when nothing can be cut or the method needs data, BuildError and BoardError.
    """
    profile = profile_network(network, example_inputs, question.target, None, progress)
    if not profile.structure.groups:
        raise UsageError("Nothing in this network can be cut. Look at it with: edgeprune inspect")
    with tempfile.TemporaryDirectory(prefix="edgeprune-probe-") as folder:
        bench = _Bench(network, example_inputs, question, Path(folder), progress)
        original = bench.measured("original", "the original", {})
        variants = [original]
        for part in _UNIFORM_PARTS:
            variants.append(bench.measured("uniform", f"{part:.0%} of every group", uniform(profile.structure, part)))
        planner = _Planner(bench, profile, original.outcome)
        variants += planner.measured("smallest", "the smallest", _OUT_OF_REACH, variants)
        for part in _PLANNED_PARTS:
            variants += planner.measured("planned", f"planned for {part:.0%}", part, variants)
    return _probe(profile, question, tuple(variants), bench)


def uniform(structure: Structure, part: float) -> dict[str, int]:
    """Return the allocation that leaves about the same part of every group."""
    return {group.name: _nearest(group, part * group.size) for group in structure.groups}


def _nearest(group: Group, wanted: float) -> int:
    least = max(1, math.ceil(_SMALLEST_KEPT_PART * group.size))
    counts = [count for count in allowed_counts(group) if count >= least]
    return min(counts, key=lambda count: abs(count - wanted))


def _probe(profile: Profile, question: Question, variants: tuple[Variant, ...], bench: _Bench) -> Probe:
    original, floor = variants[0], min(variants, key=lambda variant: variant.latency_ms)
    parts = floor_parts(profile.structure, profile.costs, floor.allocation, floor.latency_ms)
    limit = question.latency_ms
    limit_ms = limit.part * original.latency_ms if isinstance(limit, Share) else limit
    verdict = None
    if limit_ms is not None:
        verdict = judge_budget(limit_ms, floor.latency_ms, floor.outcome.latency_interval_ms, parts)
    return Probe(
        target=profile.table.target,
        kind=profile.table.kind,
        fingerprint=profile.table.fingerprint,
        variants=variants,
        parts=parts,
        verdict=verdict,
        warnings=tuple(dict.fromkeys(bench.warnings)),
    )


class _Bench:
    """Cuts, builds and measures one variant after the other."""

    def __init__(
        self, network: nn.Module, inputs: tuple[torch.Tensor, ...], question: Question, folder: Path, progress: Progress
    ) -> None:
        self.network, self.question, self._folder, self._progress = network, question, folder, progress
        self.inputs = tuple(tensor[:1] for tensor in inputs)
        self._samples = samples_of(inputs, 1)
        self.structure = network_structure(network, self.inputs)
        self.warnings: list[str] = []
        self._runtime = registry.load("runtimes", question.target.runtime)()
        method: type[Method] = registry.load("methods", question.method)
        if method.needs_data:
            raise UsageError(
                f"The method {question.method!r} needs data, and a probe has none; use --method magnitude."
            )
        self._method = method()
        context = Context(copy.deepcopy(network), self.inputs, self.structure, None, question.seed)
        self.scores = self._method.score(context)

    def measured(self, how: How, label: str, allocation: Allocation, expected_ms: float | None = None) -> Variant:
        network: Any = self.network
        if allocation:
            plan = self._method.plan(self.structure, self.scores, allocation)
            network = apply(plan, self.network, self.inputs, via="auto")
            check_masked_equivalence(self.network, network, plan, self.inputs)
        order = BuildOrder(self.question.target, self._runtime, self.inputs, self._samples, calibration=self._samples)
        built = build_verified(network, order, self._folder / "network", self._progress)
        found: Measurement = measure(built.artifact, self.question.target, QUICK, self._progress)
        self.warnings += found.warnings
        outcome = built.outcome(found)
        low, high = outcome.latency_interval_ms
        self._progress.say(
            f"{label}: {outcome.latency_ms:.4g} ms [{low:.4g}, {high:.4g}], {outcome.macs / 1e6:.1f} M MACs"
        )
        units = sum(group.size for group in self.structure.groups)
        left = sum(allocation.get(group.name, group.size) for group in self.structure.groups)
        return Variant(how, label, allocation, left / units, kept_score(self.scores, allocation), outcome, expected_ms)


class _Planner:
    """Asks a controller for the best network at a latency, after it was told all that is known."""

    def __init__(self, bench: _Bench, profile: Profile, original: Outcome) -> None:
        self._bench, self._profile, self._original = bench, profile, original

    def measured(self, how: How, label: str, part: float, known: Sequence[Variant]) -> list[Variant]:
        """Return what is planned for a part of the original's latency; nothing where a known variant is as good."""
        bench = self._bench
        controller_class: type[Controller] = registry.load("controllers", bench.question.controller)
        problem = Problem(
            structure=bench.structure,
            scores=bench.scores,
            limits=Limits(latency_ms=part * self._original.latency_ms),
            original=self._original,
            channel_multiple=bench.question.target.channel_multiple,
            moments=activation_moments(bench.network, bench.inputs),
            costs=self._profile.costs,
        )
        controller = controller_class(problem)
        # NOTE: what is cut alike everywhere may be as fast as asked, and still is not the best network of that latency.
        for variant in known:
            if variant.how in ("planned", "smallest"):
                controller.tell(variant.allocation, variant.outcome)
        allocation = controller.ask()
        if allocation is None:
            return []
        return [bench.measured(how, label, allocation, controller.expected_ms(allocation))]
