"""The library in the caller's terms; the command line is a skin over the same loop."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeprune.bench.comparison import CompareOptions, Comparison
from edgeprune.bench.comparison import compare as compare_artifacts
from edgeprune.bench.measure import THOROUGH, MeasureOptions
from edgeprune.bench.measure import measure as measure_artifact
from edgeprune.bench.target import Target, load_target
from edgeprune.errors import UsageError
from edgeprune.loop import run_job
from edgeprune.network.data import Data, check_data, load_data
from edgeprune.network.model import Model, Origin
from edgeprune.progress import Progress, Silent
from edgeprune.run.job import Choices, Job
from edgeprune.run.precision import check_precision

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgeprune.bench.measurement import Measurement
    from edgeprune.contracts import Method
    from edgeprune.network.groups import Allocation
    from edgeprune.network.shaping import Shaping
    from edgeprune.verdict.budget import Budget
    from edgeprune.verdict.gate import GateResult
    from edgeprune.verdict.result import Result


def compress(  # noqa: PLR0913  # what people script against names everything it takes
    model: nn.Module | Model,
    example_inputs: torch.Tensor | Sequence[torch.Tensor],
    *,
    data: Data | str,
    target: Target | str | Sequence[Target | str],
    budget: Budget,
    out: str | Path,
    method: str = "taylor",
    controller: str = "knapsack",
    epochs: int = 3,
    shape_epochs: int | None = None,
    seed: int = 0,
    precision: str | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Find, train, export and prove the smaller network that meets the budget on the target; files go to `out`.

    With a method that trains, `shape_epochs` of the `epochs` go before the cut; half of them, if not given.
    The model itself is untouched. `example_inputs` are those of one inference. Several targets must each meet the
    budget. Raises EdgepruneError; one that cannot be met is the verdict "fail", with the best network found in `out`.
    """
    import torch

    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    source = model if isinstance(model, Model) else model_from_module(model)
    first, *others = _boards(target, precision)
    job = Job(
        model=source,
        example_inputs=inputs,
        data=check_data(load_data(data) if isinstance(data, str) else data, source.module),
        target=first,
        budget=budget,
        choices=Choices(method, controller, epochs, seed, shape_epochs=shape_epochs, precision=precision),
        out=Path(out),
        command=("edgeprune.compress",),
        others=tuple(others),
    )
    return run_job(job, progress or Silent(), resume)


def shape(  # noqa: PLR0913  # as above
    network: nn.Module,
    example_inputs: torch.Tensor | Sequence[torch.Tensor],
    *,
    method: str | Method,
    allocation: Allocation,
    steps: int,
    data: Data | None = None,
    seed: int = 0,
) -> Shaping:
    """Begin to shape the network, in place, towards an allocation in a training loop of your own.

    `method` is a name, or a method made with options of its own. `allocation` is the number of units that each named
    group will keep; `steps` is how many optimiser steps there will be. Make the optimiser after this call. Raises
    UsageError for a method that only scores.
    """
    import torch

    from edgeprune.contracts import Context
    from edgeprune.network.shaping import Shaping
    from edgeprune.network.structure import network_structure
    from edgeprune.run.joining import load_method

    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    network.eval()
    context = Context(network, inputs, network_structure(network, inputs), data, seed)
    chosen = load_method(method) if isinstance(method, str) else method
    units = chosen.units(replace(context, network=copy.deepcopy(network)))
    return Shaping(chosen, replace(context, structure=units), allocation, steps)


def measure(artifact: str | Path, target: Target | str = "host", options: MeasureOptions = THOROUGH) -> Measurement:
    """Measure one artifact on a target; raises BuildError when it does not load, BoardError for the board."""
    return measure_artifact(Path(artifact), _loaded(target), options)


def compare(
    artifact_a: str | Path,
    artifact_b: str | Path,
    target: Target | str = "host",
    options: CompareOptions | None = None,
) -> Comparison:
    """Measure two artifacts in turns until it is clear whether B is faster or slower than A, or neither.

    Raises BuildError when one does not load, BoardError for the board.
    """
    return compare_artifacts(Path(artifact_a), Path(artifact_b), _loaded(target), options)


def gate(
    *results: str | Path,
    limits: str | Path,
    baseline: str | Path | None = None,
    target: str | None = None,
    store: str | Path | None = None,
) -> GateResult:
    """Judge results (run folders, result.json files, artifacts) by a file of limits; see `verdict` of the answer.

    Artifacts are measured on `target`. Nothing is remembered without a `store`, which also knows branches as
    `baseline`. Raises UsageError for what cannot be read or compared, BuildError and BoardError like `measure`.
    """
    from edgeprune.gating.gate import GateRequest, run_gate

    request = GateRequest(
        results=tuple(Path(result) for result in results),
        limits=Path(limits),
        baseline=None if baseline is None else str(baseline),
        target=target,
        store=None if store is None else Path(store),
    )
    return run_gate(request)


def _boards(named: Target | str | Sequence[Target | str], precision: str | None) -> list[Target]:
    targets = (named,) if isinstance(named, Target | str) else named
    if not targets:
        raise UsageError("No target is named; name at least one, such as 'host'.")
    return [check_precision(_loaded(target), precision) for target in targets]


def _loaded(target: Target | str) -> Target:
    return load_target(target) if isinstance(target, str) else target


def model_from_module(module: nn.Module) -> Model:
    """Wrap a copy of a network that was built in Python; its hash is that of its names and values."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    origin = Origin(Path(type(module).__name__), digest.hexdigest(), None, "module")
    return Model(copy.deepcopy(module).eval(), origin)
