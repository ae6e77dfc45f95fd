"""What a network adds to the memory of the process that runs it: the peak, less that with a network of nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeprune.bench.measure import QUICK, measure
from edgeprune.errors import UsageError
from edgeprune.network.nothing import Nothing

if TYPE_CHECKING:
    from edgeprune.bench.measurement import Measurement
    from edgeprune.run.workbench import Workbench


def engine_memory_bytes(bench: Workbench) -> int:
    """Return the peak memory of the target's process with a network of nothing, measured once in the life of a run.

    Raises UsageError where the target does not say what a process takes.
    """

    def compute() -> int:
        bench.progress.say(f"measuring what {bench.job.target.runtime} itself takes of the memory")
        built = bench.build(Nothing(), "nothing", inputs=bench.job.example_inputs[:1])
        with bench.watch("measuring"):
            return measure(built.artifact, bench.job.target, QUICK, bench.progress).peak_memory_bytes

    peak = bench.folder.remember("engine-memory", compute)
    if not peak:
        raise UsageError(
            f"Target {bench.job.target.name} does not say how much memory a process takes; leave out --memory."
        )
    return peak


def network_memory_bytes(bench: Workbench, measurement: Measurement) -> int | None:
    """Return what the measured network added to the process, or None where no limit asks for it."""
    if bench.job.budget.memory_bytes is None:
        return None
    return max(measurement.peak_memory_bytes - engine_memory_bytes(bench), 0)
