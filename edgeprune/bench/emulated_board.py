"""A board as data: how long a network takes there when nothing disturbs it, exactly and without the board.

An engine first fuses operators, then runs each kernel in the fastest way it has. A kernel takes the longer of
computing (Williams et al., "Roofline", CACM 2009, https://doi.org/10.1145/1498765.1498785) and moving its data.
Three things make latency neither smooth nor additive, as on real boards: work is cut into tiles, padded to whole
ones and dealt out to the units in waves; weights stay in the cache only while the whole network fits into it; and
the processor hands out kernels while earlier ones run, so that a network of many small ones waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from edgeprune.bench.work import Kind, LayerWork, Precision
from edgeprune.errors import UsageError

_WIDTH_BYTES: Mapping[str, int] = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Way:
    """One way in which the engine computes some kinds of operators.

    It reaches `part` of the peak rate on whole tiles, and takes only channels that are multiples of `needs_in` and
    `needs_out`, and only kernels of that many weights a channel where `kernel` says so. One unit works on
    `position_tile` outputs of `out_tile` channels, over inputs padded to `in_tile`.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    kinds: tuple[Kind, ...]
    part: float
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    in_tile: int = 1
    out_tile: int = 1
    position_tile: int = 1
    needs_in: int = 1
    needs_out: int = 1
    kernel: int | None = None


@dataclass(frozen=True)
class Memory:
    """Rates in GB/s, of the memory and of the last-level cache, and how much the cache holds."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    gb_per_s: float
    cache_gb_per_s: float
    cache_bytes: int
    base_bytes: int  # what the process takes with the engine loaded and no network


@dataclass(frozen=True)
class Overhead:
    """Microseconds: on the unit for every kernel, on the processor that hands it out, and once an inference."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    kernel_us: float
    enqueue_us: float = 0.0
    inference_us: float = 0.0


@dataclass(frozen=True)
class Noise:
    """How inferences scatter: standard deviations of logarithms, and slow outliers.

    `within` is one process, whose neighbouring inferences correlate by `correlation`; `between` is the processes.
    A part `outliers` of the inferences takes longer, by `outlier_size` of the latency on average.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    within: float
    between: float
    correlation: float = 0.68
    outliers: float = 0.002
    outlier_size: float = 0.5


@dataclass(frozen=True)
class Heat:
    """How the board warms up and slows down.

    Its temperature approaches `busy_c` under load and `idle_c` at rest, e-fold in `settle_s`. Every degree over
    `idle_c` makes inferences slower by `slower_per_c`; at `throttle_c` the clock falls to `throttled_part` until
    the board is `hysteresis_c` cooler.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    idle_c: float
    busy_c: float
    settle_s: float
    throttle_c: float
    throttled_part: float
    slower_per_c: float = 0.0
    hysteresis_c: float = 5.0


@dataclass(frozen=True)
class Start:
    """The cold start: loading, the first inference as a multiple of the later ones, and how many still feel it."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    process_s: float
    open_ms: float
    first_factor: float
    felt_runs: float


@dataclass(frozen=True)
class EmulatedBoard:
    """An emulated board with its engine; see the modules of the parts for their units.

    `peak_gmacs` is the rate of all `units` together at each precision. `runs_as` names the precisions that the
    engine may choose from for an operator that the file holds at another one. `fuses` are the kinds that join the
    kernel of the operator before them. A process fails with the probability `failures`.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = {"extra": "forbid"}

    model: str
    engine: str
    units: int
    clock_mhz: float
    peak_gmacs: Mapping[Precision, float]
    ways: tuple[Way, ...]
    memory: Memory
    overhead: Overhead
    noise: Noise
    heat: Heat
    start: Start
    fuses: tuple[Kind, ...] = ()
    runs_as: Mapping[Precision, tuple[Precision, ...]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    failures: float = 0.0


def board_from_settings(settings: Mapping[str, Any]) -> EmulatedBoard:
    """Read the `[settings.emulated]` of a target; raises UsageError naming the key that does not fit."""
    import json

    from pydantic import TypeAdapter, ValidationError

    if "emulated" not in settings:
        raise UsageError("An emulated target describes its board under [settings.emulated]; this one has none.")
    try:
        return TypeAdapter(EmulatedBoard).validate_json(json.dumps(settings["emulated"]), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"The emulated board's settings.emulated.{place}: {first['msg']}.") from error


@dataclass(frozen=True)
class KernelTime:
    """One launched kernel: its operators by position in the works, and its milliseconds in this network."""

    layer: str
    works: tuple[int, ...]
    precision: Precision
    latency_ms: float


@dataclass(frozen=True)
class NetworkTime:
    """The undisturbed latency of one inference, what it consists of, and the most memory the process holds."""

    latency_ms: float
    kernels: tuple[KernelTime, ...]
    peak_memory_bytes: int

    def layers_ms(self) -> dict[str, float]:
        """Return milliseconds by layer in execution order; they do not add up to the latency of the network."""
        layers: dict[str, float] = {}
        for kernel in self.kernels:
            layers[kernel.layer] = layers.get(kernel.layer, 0.0) + kernel.latency_ms
        return layers


def true_latency_ms(works: Sequence[LayerWork], board: EmulatedBoard) -> float:
    """Return the milliseconds of one inference on a cool board that nothing disturbs."""
    return emulate(works, board).latency_ms


def emulate(works: Sequence[LayerWork], board: EmulatedBoard) -> NetworkTime:
    """Fuse the operators, time every kernel, and put the network together."""
    fused = fuse(works, board)
    weights = sum(_bytes(work.weight_elements, _cheapest(work, board)) for work in works)
    warm = min(1.0, board.memory.cache_bytes / max(weights, 1))
    kernels = tuple(_time(works, members, board, warm) for members in fused)
    busy_ms = sum(kernel.latency_ms for kernel in kernels)
    enqueue_ms = len(kernels) * board.overhead.enqueue_us / 1e3
    return NetworkTime(
        latency_ms=max(busy_ms, enqueue_ms) + board.overhead.inference_us / 1e3,
        kernels=kernels,
        peak_memory_bytes=board.memory.base_bytes + weights + _peak_activation_bytes(works, board),
    )


def fuse(works: Sequence[LayerWork], board: EmulatedBoard) -> list[tuple[int, ...]]:
    """Return the kernels as positions of their operators.

    An operator of a fusing kind joins the latest operator that it reads, where it is the only reader.
    """
    readers: dict[int, int] = {}
    for work in works:
        for source in work.reads:
            readers[source] = readers.get(source, 0) + 1
    kernels: list[list[int]] = []
    kernel_of: dict[int, int] = {}
    for index, work in enumerate(works):
        last = max(work.reads, default=None)
        alone = last is not None and readers[last] == 1 and not works[last].leaves
        if last is not None and alone and work.kind in board.fuses and kernels[kernel_of[last]][-1] == last:
            kernel_of[index] = kernel_of[last]
            kernels[kernel_of[last]].append(index)
        else:
            kernel_of[index] = len(kernels)
            kernels.append([index])
    return [tuple(kernel) for kernel in kernels if any(works[index].kind != "view" for index in kernel)]


def _time(works: Sequence[LayerWork], members: tuple[int, ...], board: EmulatedBoard, warm: float) -> KernelTime:
    head = works[members[0]]
    ways = [
        (max(_compute_ms(head, way, precision, board), _move_ms(works, members, precision, board, warm)), precision)
        for precision in board.runs_as.get(head.precision, (head.precision,))
        for way in board.ways
        if _fits(head, way, precision, board)
    ]
    if head.macs == 0:
        precision = _cheapest(head, board)
        ways = [(_move_ms(works, members, precision, board, warm), precision)]
    if not ways:
        raise UsageError(f"{board.model} has no way to compute {head.operator} {head.name!r} at {head.precision}.")
    latency_ms, precision = min(ways)
    return KernelTime(head.layer, members, precision, latency_ms + board.overhead.kernel_us / 1e3)


def _fits(work: LayerWork, way: Way, precision: Precision, board: EmulatedBoard) -> bool:
    return (
        work.kind in way.kinds
        and precision in way.precisions
        and precision in board.peak_gmacs
        and way.kernel in (None, work.kernel)
        and (work.in_channels // work.groups) % way.needs_in == 0
        and (work.out_channels // work.groups) % way.needs_out == 0
    )


def _compute_ms(work: LayerWork, way: Way, precision: Precision, board: EmulatedBoard) -> float:
    """Deal whole tiles to the units in waves; a depthwise convolution is tiled over its channels."""
    depthwise = work.kind == "depthwise"
    groups = 1 if depthwise else work.groups
    inputs = 1 if depthwise else work.in_channels // work.groups
    tiles = groups * math.ceil(work.positions / way.position_tile)
    tiles *= math.ceil(work.out_channels / groups / way.out_tile)
    depth = inputs if depthwise else math.ceil(inputs / way.in_tile) * way.in_tile
    tile_macs = way.position_tile * way.out_tile * depth * work.kernel
    unit_gmacs = board.peak_gmacs[precision] / board.units * way.part
    return math.ceil(tiles / board.units) * tile_macs / unit_gmacs / 1e6


def _move_ms(
    works: Sequence[LayerWork], members: tuple[int, ...], precision: Precision, board: EmulatedBoard, warm: float
) -> float:
    """Read inputs and weights and write the result of the last member; what fits into the cache comes from there."""
    inside = set(members)
    head, last = works[members[0]], works[members[-1]]
    elements = head.input_elements + last.output_elements
    for index in members[1:]:
        work = works[index]
        joined = sum(works[source].output_elements for source in work.reads if source in inside)
        elements += max(work.input_elements - joined, 0)
    moved = _bytes(elements, precision)
    weights = _bytes(sum(works[index].weight_elements for index in members), precision)
    near = moved * min(1.0, board.memory.cache_bytes / max(moved, 1)) + weights * warm
    return near / board.memory.cache_gb_per_s / 1e6 + (moved + weights - near) / board.memory.gb_per_s / 1e6


def _peak_activation_bytes(works: Sequence[LayerWork], board: EmulatedBoard) -> int:
    """Return the most bytes of results that are still to be read at any one time."""
    last_reader = {source: index for index, work in enumerate(works) for source in work.reads}
    held: dict[int, int] = {}
    peak = 0
    for index, work in enumerate(works):
        held[index] = _bytes(work.output_elements, _cheapest(work, board))
        peak = max(peak, sum(held.values()))
        held = {source: size for source, size in held.items() if last_reader.get(source, -1) > index}
    return peak


def _cheapest(work: LayerWork, board: EmulatedBoard) -> Precision:
    return min(board.runs_as.get(work.precision, (work.precision,)), key=lambda precision: _WIDTH_BYTES[precision])


def _bytes(elements: int, precision: Precision) -> int:
    return elements * _WIDTH_BYTES[precision]
