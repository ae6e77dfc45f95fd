"""What a run came to: the numbers people script against, the verdict, and `result.json` that holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgeprune.errors import UsageError
from edgeprune.files import write_text

SCHEMA = 1

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class ModelOrigin:
    """Where the trained network came from; `format` is how it was read ("state dict", "pt2", ...)."""

    path: str
    sha256: str
    arch: str | None
    format: str


@dataclass(frozen=True)
class AskedBudget:
    """The budget in the user's words, and resolved to base units against the original.

    `accuracy_drop` is the largest admitted absolute drop of an accuracy between 0 and 1.
    """

    as_asked: Mapping[str, str]
    latency_ms: float | None = None
    size_bytes: float | None = None
    macs: float | None = None
    accuracy_drop: float | None = None
    memory_bytes: float | None = None


@dataclass(frozen=True)
class Costs:
    """What one network costs on the target; `accuracy` is 0 to 1, None where nothing was evaluated.

    `memory_bytes` is what the network adds to the process on the target at its peak, None where no limit asked for
    it; `activation_bytes` is computed, not measured: what the tensors of one inference need at once.
    """

    latency_p50_ms: float
    latency_interval_ms: tuple[float, float]
    latency_p90_ms: float | None
    size_bytes: int
    macs: int
    parameters: int
    accuracy: float | None
    memory_bytes: int | None = None
    activation_bytes: int | None = None


@dataclass(frozen=True)
class Stages:
    """Accuracy (0 to 1) after each step; None where the step did not happen or nothing was evaluated."""

    original: float | None = None
    cut: float | None = None
    recalibrated: float | None = None
    recovered: float | None = None
    exported: float | None = None
    shaped: float | None = None  # after the original, where the method trains before the cut

    @property
    def reached(self) -> float | None:
        """The accuracy after the last step that happened."""
        steps = (self.exported, self.recovered, self.recalibrated, self.cut, self.original)
        return next((accuracy for accuracy in steps if accuracy is not None), None)


@dataclass(frozen=True)
class Epoch:
    """One epoch of training, before or after the cut: the mean loss, and the accuracy (0 to 1) after it, if known."""

    loss: float
    accuracy: float | None = None


@dataclass(frozen=True)
class Seconds:
    """Where the time of the run went."""

    training: float
    measuring: float
    rest: float


@dataclass(frozen=True)
class Proof:
    """One comparison of two versions of a network; `exact` where they must agree to rounding.

    Differences are None where only shapes, counts and finite outputs could be compared; `snr_db`, how far the
    difference lies below the output, also where nothing differs.
    """

    what: str
    max_abs: float | None
    max_rel: float | None
    top1_agreement: float | None
    samples: int
    exact: bool
    snr_db: float | None = None


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of one layer per inference, from a separate profiled run."""

    name: str
    milliseconds: float


@dataclass(frozen=True)
class LayerTimes:
    """Layers of both networks in execution order; empty where the runtime gives no profile."""

    original: tuple[LayerTime, ...] = ()
    final: tuple[LayerTime, ...] = ()


@dataclass(frozen=True)
class RankedLayer:
    """One layer that the method can factorise, and what became of it.

    It is "factorised", left "whole" because its ranks are worth more than their time, or "slower" because no chain of
    it was measured to be faster on all targets. `chain_ms` is that of the rank that was taken, else of the fastest one;
    both times are of the layers alone on `target`, the one on which the chain gains least, None where latency was not
    limited. `width` are the inputs and outputs at which
    they were measured, None for all of them. `units` are the ranks of the `group` that stay, all where the layer stays
    whole. `energies` are the parts of the layer's energy by rank, before and after the method shaped the network (the
    latter empty where it does not); `kept_energy` is what the rank holds of the latest of them.
    """

    layer: str
    scheme: str
    state: Literal["factorised", "whole", "slower"]
    rank: tuple[int, ...]
    units: int
    layer_ms: float | None
    chain_ms: float | None
    kept_energy: float
    energies: tuple[float, ...]
    trained_energies: tuple[float, ...] = ()
    width: tuple[int, int] | None = None
    group: str = ""
    target: str = ""


@dataclass(frozen=True)
class SlowerCut:
    """Fewer channels of a layer, which were measured to take longer than all of them, and therefore were not chosen.

    Both times are of the layer alone on the target; of a depthwise layer both numbers of channels are the same.
    """

    layer: str
    inputs: int
    outputs: int
    cut_ms: float
    layer_ms: float


@dataclass(frozen=True)
class FurtherTarget:
    """Both networks on a further target of the run, the limits there, and the file that it loads."""

    target: str
    kind: Literal["real", "icount", "emulated"]
    runtime: str
    budget: AskedBudget
    original: Costs
    final: Costs
    artifact: str


@dataclass(frozen=True)
class Result:
    """All of `result.json`; `kind` is how the target measures: "real", "icount" or "emulated".

    `allocation` holds the kept units of each group, `group_sizes` the units it had; `search_ended` says in a few words
    why no further round was measured, "" where the controller does not say. `further` are the targets besides the
    first; the verdict is on all of them.
    """

    verdict: Verdict
    violations: tuple[str, ...]
    target: str
    kind: Literal["real", "icount", "emulated"]
    runtime: str
    method: str
    controller: str
    seed: int
    command: tuple[str, ...]
    model: ModelOrigin
    budget: AskedBudget
    original: Costs
    final: Costs
    rounds: int
    allocation: Mapping[str, int]
    group_sizes: Mapping[str, int]
    stages: Stages
    seconds: Seconds
    shaping: tuple[Epoch, ...] = ()
    recovery: tuple[Epoch, ...] = ()
    proofs: tuple[Proof, ...] = ()
    layers: LayerTimes = field(default_factory=LayerTimes)
    ranked_layers: tuple[RankedLayer, ...] = ()
    slower_cuts: tuple[SlowerCut, ...] = ()
    warnings: tuple[str, ...] = ()
    search_ended: str = ""
    further: tuple[FurtherTarget, ...] = ()
    schema: int = SCHEMA


def result_to_dict(result: Result) -> dict[str, Any]:
    """Return the result as what `json` writes, `schema` first."""
    return {"schema": result.schema, **asdict(result)}


def write_result(result: Result, path: Path) -> None:
    """Write `result.json` whole or not at all; raises UsageError for values that are no finite number."""
    try:
        text = json.dumps(result_to_dict(result), indent=1, allow_nan=False)
    except ValueError as error:
        raise UsageError(f"The result for {path} holds a number that is not finite: {error}.") from error
    write_text(path, text + "\n")


def read_result(path: Path) -> Result:
    """Read a `result.json`; raises UsageError naming what is missing, damaged or of another schema."""
    from pydantic import TypeAdapter, ValidationError

    data = _read_json(path)
    schema = data.get("schema")
    if schema != SCHEMA:
        raise UsageError(f"{path} has schema {schema!r}; this version reads schema {SCHEMA}. {_REMEDY}")
    try:
        result = TypeAdapter(Result).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path} is no result: {where}: {first['msg']}. {_REMEDY}") from error
    _check(result, path)
    return result


_REMEDY = "Give the result.json of a finished run, or run again with --resume."


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}. {_REMEDY}") from error
    except ValueError as error:
        raise UsageError(f"{path} is damaged or cut short: {error}. {_REMEDY}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds a {type(data).__name__}, not a result. {_REMEDY}")
    return data


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _check(result: Result, path: Path) -> None:
    ends = [("original", result.original), ("final", result.final)]
    for one in result.further:
        ends += [(f"original {one.target}", one.original), (f"final {one.target}", one.final)]
    for label, costs in ends:
        low, high = costs.latency_interval_ms
        if not 0 <= low <= costs.latency_p50_ms <= high < math.inf:
            median = costs.latency_p50_ms
            raise UsageError(
                f"{path}: the {label} latency {median} ms is not inside its interval [{low}, {high}]. {_REMEDY}"
            )
    for group, kept in result.allocation.items():
        size = result.group_sizes.get(group)
        if size is None or not 0 <= kept <= size:
            raise UsageError(f"{path}: group {group!r} keeps {kept} of {size} units. {_REMEDY}")
