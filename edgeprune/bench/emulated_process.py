"""Plays a process on an emulated board: the events of the agent, in virtual time, with noise, heat and faults."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from edgeprune.bench.agent import is_steady
from edgeprune.bench.emulated_board import EmulatedBoard, NetworkTime


class VirtualClock:
    """The board's time and temperature; both go on from one process to the next."""

    def __init__(self, board: EmulatedBoard) -> None:
        """Start a board that has rested."""
        self._heat = board.heat
        self.now_s = 0.0
        self.temperature_c = board.heat.idle_c
        self.is_throttled = False

    def pass_time(self, seconds: float, busy: bool) -> None:
        """Let the board work or rest."""
        heat = self._heat
        goal_c = heat.busy_c if busy else heat.idle_c
        self.temperature_c = goal_c + (self.temperature_c - goal_c) * math.exp(-seconds / heat.settle_s)
        self.now_s += seconds
        release_c = heat.throttle_c - (heat.hysteresis_c if self.is_throttled else 0.0)
        self.is_throttled = self.temperature_c >= release_c

    def clock_part(self) -> float:
        """Return the part of the full clock at which the board runs now."""
        return self._heat.throttled_part if self.is_throttled else 1.0

    def slowdown(self) -> float:
        """Return how many times longer an inference takes now than on a cool board."""
        warmth_c = max(self.temperature_c - self._heat.idle_c, 0.0)
        return (1 + self._heat.slower_per_c * warmth_c) / self.clock_part()


class EmulatedProcess:
    """One process that opens a network; the same seed gives the same process."""

    def __init__(self, board: EmulatedBoard, network: NetworkTime, clock: VirtualClock, seed: str) -> None:
        """Draw how this process differs from others, and whether it will fail."""
        self._board, self._network, self._clock = board, network, clock
        self._random = random.Random(seed)
        self._level = math.exp(board.noise.between * self._random.gauss(0, 1))
        self._level_ms = network.latency_ms * self._level
        self._wander = self._random.gauss(0, 1)
        self._runs = 0
        self.fails = self._random.random() < board.failures
        self._fails_after = self._random.random()  # this part of its blocks

    def events(self, options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield what the agent writes in the mode `measure`; ends early where the process fails."""
        self._clock.pass_time(self._board.start.process_s, busy=False)
        state = {"temperature_c": round(self._clock.temperature_c, 1), "throttled": self._throttled()}
        facts = {"cpu": f"{self._board.model} (emulated)", **self._board.facts}
        yield {"event": "board", "facts": facts, "kind": "emulated", "state": state}
        open_ms = self._board.start.open_ms * math.exp(0.05 * self._random.gauss(0, 1))
        self._clock.pass_time(open_ms / 1e3, busy=True)
        first_ms = self._sample_ns() / 1e6
        yield {"event": "opened", "open_ms": open_ms, "first_ms": first_ms, "version": self._board.engine}
        yield {"event": "warmup", "samples_ns": self._warm_up(options)}
        blocks = int(options["blocks"])
        for _ in range(int(self._fails_after * blocks) if self.fails else blocks):
            yield {"event": "block", **self._block(options)}
        if self.fails:
            return
        yield {"event": "done", "peak_memory_bytes": self._network.peak_memory_bytes}

    def sweep(self, networks: Mapping[str, NetworkTime], options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield what the agent writes in the mode `sweep`; ends early where the process fails."""
        self._clock.pass_time(self._board.start.process_s, busy=False)
        yield {"event": "board", "facts": {"cpu": f"{self._board.model} (emulated)", **self._board.facts}}
        for index, (name, network) in enumerate(networks.items()):
            if self.fails and index >= self._fails_after * len(networks):
                return
            self._network, self._runs = network, 0
            self._level_ms = network.latency_ms * self._level
            self._clock.pass_time(self._board.start.open_ms / 1e3, busy=True)
            self._warm_up(options)
            yield {"event": "timed", "name": name, "version": self._board.engine, **self._block(options)}
        yield {"event": "done"}

    def profile_ms(self) -> dict[str, float]:
        """Return milliseconds by layer, each with the scatter of one inference."""
        noise = self._board.noise.within
        layers_ms = self._network.layers_ms()
        return {name: value_ms * math.exp(noise * self._random.gauss(0, 1)) for name, value_ms in layers_ms.items()}

    def _warm_up(self, options: Mapping[str, Any]) -> list[int]:
        started_s = self._clock.now_s
        samples: list[int] = []
        while True:
            samples.append(self._sample_ns())
            elapsed_s = self._clock.now_s - started_s
            if elapsed_s > options["warmup_limit_s"]:
                return samples
            enough = len(samples) >= options["warmup_runs"] and elapsed_s >= options["warmup_s"]
            if enough and is_steady(samples):
                return samples

    def _block(self, options: Mapping[str, Any]) -> dict[str, Any]:
        started_s = self._clock.now_s
        samples: list[int] = []
        while len(samples) < options["block_runs"] or self._clock.now_s < started_s + options["block_s"]:
            samples.append(self._sample_ns())
        telemetry = {
            "wall_s": round(self._clock.now_s - started_s, 4),
            "other_load": 0.0,
            "clock_mhz": round(self._board.clock_mhz * self._clock.clock_part(), 1),
            "temperature_c": round(self._clock.temperature_c, 1),
            "throttled": self._throttled(),
        }
        return {"samples_ns": samples, "telemetry": telemetry}

    def _throttled(self) -> list[str]:
        return ["temperature"] if self._clock.is_throttled else []

    def _sample_ns(self) -> int:
        """Return one inference; its neighbours resemble it, and the first ones are slow."""
        noise, start = self._board.noise, self._board.start
        fresh = math.sqrt(1 - noise.correlation**2) * self._random.gauss(0, 1)
        self._wander = noise.correlation * self._wander + fresh
        latency_ms = self._level_ms * math.exp(noise.within * self._wander) * self._clock.slowdown()
        latency_ms *= 1 + (start.first_factor - 1) * math.exp(-self._runs / start.felt_runs)
        if self._random.random() < noise.outliers:
            latency_ms *= 1 + noise.outlier_size * self._random.expovariate(1.0)
        self._runs += 1
        self._clock.pass_time(latency_ms / 1e3, busy=True)
        return round(latency_ms * 1e6)
