"""What a method, a controller, a runtime and a transport must be. Read this first.

A plug-in is one file with exactly one public class of its contract; its file name, with `_` written as `-`,
is its name. Nothing is registered and nothing else is edited. What combines with what follows from the
properties declared here, never from the names of other plug-ins.

`Method` and `Controller` are base classes, because most of their hooks have a sensible default. `Runtime` is a
protocol: its file is also carried to a board, where nothing but the standard library of Python 3.8 is at hand, so
it must not import anything of edgeprune. The callers check what these contracts promise (original untouched, every
unit scored, counts kept exactly), so that a plug-in stays small.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from edgeprune.bench.layer_cost import LayerCosts
from edgeprune.network.groups import Allocation, Scores, Structure
from edgeprune.network.moments import Moment
from edgeprune.network.plan import Plan
from edgeprune.network.selection import plan_of_best

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from edgeprune.network.data import Data


# ---------------------------------------------------------------- methods: which units stay


@dataclass(frozen=True)
class Context:
    """What a method may look at: a private copy of the trained network, its structure, the data, a seed.

    `network` is in eval mode on the device of `example_inputs`; a method may change it, nobody reads it again.
    `data` is None where the user gave none.
    """

    network: nn.Module
    example_inputs: tuple[torch.Tensor, ...]
    structure: Structure
    data: Data | None
    seed: int


@dataclass(frozen=True)
class Step:
    """Where a training stands: the step from 0, how many there will be, and the learning rate of this one."""

    number: int
    total: int
    learning_rate: float


class Method(ABC):
    """Says which units stay, and may shape the training before the cut.

    A method that `trains` is asked twice. Before the search, `score` sees the network as it came: these scores
    choose the allocation. Then `prepare` begins a training of the whole network towards that allocation, the hooks
    run at every step, `finish` ends it, and `score` and `plan` are asked again on the trained network. All hooks get
    the network that `prepare` saw. A killed training goes on by `prepare` on the network as it came, `load_state_dict`.

    `scores_are_losses`: a score estimates how much the loss rises without the unit, so that scores of different groups
    compare and can be weighed against costs. `reconstructs`: `finish` fits the weights, also without a training.
    """

    buys: ClassVar[frozenset[str]] = frozenset({"latency", "size", "macs"})
    needs_data: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    scores_are_losses: ClassVar[bool] = False
    reconstructs: ClassVar[bool] = False

    def units(self, context: Context) -> Structure:
        """Return what the controller allocates: the coupled channels, or what this method takes in their place.

        A method that factorises returns groups of ranks, of layers that it leaves whole with a reason
        (`Structure.quarantined`) nothing. The structure that the other hooks see is this one.
        """
        return context.structure

    @abstractmethod
    def score(self, context: Context) -> Scores:
        """Return one importance per unit of every group; larger means keep, comparable across groups."""

    def plan(self, structure: Structure, scores: Scores, allocation: Allocation) -> Plan:
        """Return the edits that leave exactly the allocated counts; by default the best-scored units stay."""
        return plan_of_best(structure, scores, allocation)

    def prepare(self, context: Context, allocation: Allocation) -> None:
        """Get ready to shape the training of `context.network` towards an allocation (methods that train).

        Modules and parametrisations may be added to the network here; their parameters are trained with its own.
        """

    def before_step(self, network: nn.Module, step: Step) -> None:
        """Change weights before the forward of a step, and learn how far the training is."""

    def penalty(self, network: nn.Module) -> torch.Tensor | None:
        """Return what to add to the loss of this step, or None."""

    def after_backward(self, network: nn.Module) -> None:
        """Change gradients after backward and before the optimiser's step."""

    def after_step(self, network: nn.Module) -> None:
        """Change weights after the optimiser's step."""

    def finish(self, context: Context) -> None:
        """End the shaping of `context.network`, in eval mode: take out again whatever was added to it."""

    def state_dict(self) -> dict[str, Any]:
        """Return what must be saved to go on after a kill: tensors, numbers, strings, lists and dicts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""


# ---------------------------------------------------------------- controllers: how many units stay


@dataclass(frozen=True)
class Limits:
    """Upper limits in base units; None where the budget says nothing.

    `others` are the limits on the further targets of the run, in their order.
    """

    latency_ms: float | None = None
    size_bytes: float | None = None
    macs: float | None = None
    memory_bytes: float | None = None
    others: tuple[Limits, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a network turned out to cost; latency as measured on the target, with its interval.

    `memory_bytes` is how much more memory the process on the target takes at its peak than with a network that does
    nothing; None where no limit asks for it. `activation_bytes` is computed: what the tensors of one inference need
    at once. `others` is what the network costs on the further targets of the run, in their order.
    """

    latency_ms: float
    latency_interval_ms: tuple[float, float]
    size_bytes: int
    macs: int
    parameters: int
    memory_bytes: int | None = None
    activation_bytes: int = 0
    others: tuple[Outcome, ...] = ()


# A search should end at most this far up a limit: what is above is for the noise of the final measurement.
SAFE_UTILISATION = 0.975


def utilisation(outcome: Outcome, limits: Limits) -> float:
    """Return the largest used part of any limit on any target; at most 1 is feasible, 0 where there is no limit."""
    pairs = (
        (outcome.latency_ms, limits.latency_ms),
        (outcome.size_bytes, limits.size_bytes),
        (outcome.macs, limits.macs),
        (outcome.memory_bytes, limits.memory_bytes),
    )
    own = (value / limit for value, limit in pairs if limit is not None and value is not None)
    others = (utilisation(*pair) for pair in zip(outcome.others, limits.others, strict=True))
    return max((*own, *others), default=0.0)


def is_safe(outcome: Outcome, limits: Limits) -> bool:
    """Whether a network stays within the limits with all that the noise of its measurement may hide.

    Either its median leaves the usual room, or the upper end of its interval is within the limit and the median a
    hundredth below it; memory leaves the usual room. Sizes and multiply-accumulates are counted, and need no room.
    """
    if utilisation(outcome, limits) > 1 or not all(map(is_safe, outcome.others, limits.others)):
        return False
    if limits.memory_bytes is not None and (outcome.memory_bytes or 0) > SAFE_UTILISATION * limits.memory_bytes:
        return False
    if limits.latency_ms is None or outcome.latency_ms <= SAFE_UTILISATION * limits.latency_ms:
        return True
    upper_end = outcome.latency_interval_ms[1]
    return upper_end <= limits.latency_ms and outcome.latency_ms <= 0.99 * limits.latency_ms


@dataclass(frozen=True)
class Problem:
    """What a controller has to solve: units with scores, limits, and the original's cost.

    `moments` say what activations an allocation needs at once, for a controller that predicts memory.
    `costs` are the layers as measured alone on the target, where the controller needs them and latency is limited;
    `other_costs` those on the further targets of the run, in their order.
    """

    structure: Structure
    scores: Scores
    limits: Limits
    original: Outcome
    channel_multiple: int = 1
    scores_are_losses: bool = False
    max_rounds: int = 12
    moments: tuple[Moment, ...] = ()
    costs: LayerCosts | None = None
    other_costs: tuple[LayerCosts | None, ...] = ()


class Controller(ABC):
    """Says how many units stay, given limits and measurements; the caller owns the loop.

    A controller is a deterministic function of its problem and of what it was told, so that telling a new one
    the trials on disk continues a killed search. One that `needs_costs` works with the target's latency table.
    """

    needs_costs: ClassVar[bool] = False

    def __init__(self, problem: Problem) -> None:
        """Start on a problem; nothing has been measured yet but the original."""
        self.problem = problem

    @abstractmethod
    def ask(self) -> Allocation | None:
        """Return the next allocation to measure, or None when there is nothing more to learn."""

    @abstractmethod
    def tell(self, allocation: Allocation, outcome: Outcome) -> None:
        """Learn what an asked allocation cost."""

    def expected_ms(self, allocation: Allocation) -> float | None:
        """Return the latency that is predicted for an allocation before it is measured, None without a prediction."""
        return None

    def ending(self) -> str:
        """Return in a few words why the search ended, "" where there is nothing to say."""
        return ""


# ---------------------------------------------------------------- runtimes: build here, open there


@dataclass(frozen=True)
class BuildRequest:
    """What a runtime builds from: both exports of one network, real inputs, and what the target asks for.

    `samples` are the numpy arrays of one inference each: what a precision that needs ranges is calibrated with.
    """

    exported_program: Path | None  # None where torch.export could not follow the network
    onnx: Path
    samples: Sequence[tuple[Any, ...]]
    precision: str
    settings: Mapping[str, Any]


class Session(Protocol):
    """An opened artifact on the board."""

    version: str
    input_shapes: Sequence[tuple[int, ...]]
    input_types: Sequence[str]  # numpy names: "float32"
    facts: Mapping[str, Any]  # what the engine made of the artifact, for the reader: which provider, how many layers

    def run(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """One inference: numpy arrays in host memory in, numpy arrays in host memory out.

        An engine that is a program of its own times itself: its session also has `times_ns(inputs, runs, seconds)`,
        the nanoseconds of each of at least `runs` inferences over at least `seconds`, copies in and out included.
        """


class Runtime(Protocol):
    """An inference engine. `build` runs on the workstation; `open` on the board, with Python 3.8 and no edgeprune.

    The artifact is what is carried. An engine whose own files fit one board only makes them in `open`, from an artifact
    that fits all, and keeps them on the board.

    Two more attributes may be there. `companions` are modules that are carried too, in the order in which one imports
    the other; `from package.module import name` finds them on the board. `substitutes` says for a requirement which
    other package, or program by its path, will do.
    """

    format: str  # file suffix of the artifact, without the dot
    precisions: tuple[str, ...]
    requirements: tuple[str, ...]  # what pip must install on the board

    def unavailable(self) -> str:
        """Return why this machine cannot open artifacts and what to do about it, "" where it can."""

    def build(self, request: BuildRequest, out: Path) -> None:
        """Write the artifact to `out`; raise ValueError saying what the engine refused."""

    def open(self, artifact: str, settings: Mapping[str, Any]) -> Session:
        """Load an artifact; settings hold `threads`, `precision` and what the target adds."""

    def profile(self, artifact: str, settings: Mapping[str, Any], inputs: Sequence[Any]) -> Mapping[str, float]:
        """Return milliseconds per inference by layer, in execution order, from a separate profiled run."""


# ---------------------------------------------------------------- transports: reach a board


class Transport(ABC):
    """A way to reach a board: put files there, run a command there, stream its lines back.

    `kind` is what every board that it reaches is; None where only the target can say. A transport that
    `needs_address` cannot be used with a target that has none; one whose `runs_programs` is false answers the
    agent alone; one that `lasts` is its board, and serves all benchmarks of a session. Its first use opens the
    connection; when that breaks, LinkLostError is raised once, and the next call connects, and locks what was held.
    """

    kind: ClassVar[Literal["real", "icount", "emulated"] | None] = "real"
    needs_address: ClassVar[bool] = False
    runs_programs: ClassVar[bool] = True
    lasts: ClassVar[bool] = False

    def __init__(self, address: str | None, python: str | None = None) -> None:
        """Remember where the board is, and its interpreter where the target names one; nothing is contacted yet."""
        self.address = address
        self.python = python

    @abstractmethod
    def put(self, local: Path) -> str:
        """Make a file available on the board, once for the same content, and return its path there."""

    @abstractmethod
    def stream(self, arguments: Sequence[str], timeout_s: float) -> Iterator[str]:
        """Run Python on the board with these arguments and yield its output line by line; raise BoardError.

        The process ends with the connection, with the iterator, and after `timeout_s`; first it is asked to
        (SIGTERM), so that it can put back what it changed.
        """

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Hold the board for one benchmark at a time."""

    def clean(self) -> int:
        """Remove the files that were left on the board for the next time, and return their bytes."""
        return 0

    def close(self) -> None:
        """Let go of the board; the next use connects again."""
