"""Runs on the board beside the agent: clocks, temperatures and the load of other processes, before and after a block.

The standard library of Python 3.8 is enough. `read` must stay cheap: it is called around every block.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def read() -> dict[str, Any]:
    """Return clocks, temperatures and processor times now."""
    return {
        "wall_s": time.perf_counter(),
        "own_s": time.process_time(),
        "busy_s": busy_seconds(),
        "clock_mhz": clock_mhz(),
        "temperature_c": temperature_c(),
    }


def between(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the board did between two states; None where it does not say.

    `other_load` is in cores: how many were kept busy by anything but this process.
    """
    wall_s = after["wall_s"] - before["wall_s"]
    other_load = None
    if before["busy_s"] is not None and after["busy_s"] is not None and wall_s > 0:
        others_s = after["busy_s"] - before["busy_s"] - (after["own_s"] - before["own_s"])
        other_load = round(max(others_s / wall_s, 0.0), 3)
    return {
        "wall_s": round(wall_s, 4),
        "other_load": other_load,
        "clock_mhz": after["clock_mhz"],
        "temperature_c": after["temperature_c"],
    }


def busy_seconds() -> float | None:
    """Return the seconds that all cores together were not idle, or None."""
    fields = read_text("/proc/stat").partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def clock_mhz() -> float | None:
    """Return the fastest core's present clock, or None."""
    paths = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks = [int(text) / 1000 for text in map(read_text, paths) if text.isdigit()]
    clocks = clocks or [float(line.partition(":")[2]) for line in cpuinfo_lines("cpu MHz")]
    return round(max(clocks), 1) if clocks else None


def temperature_c() -> float | None:
    """Return the hottest thermal zone, or None."""
    texts = map(read_text, Path("/sys/class/thermal").glob("thermal_zone*/temp"))
    readings = [int(text) / 1000 for text in texts if text.lstrip("-").isdigit()]
    return max(readings) if readings else None


def cpuinfo_lines(key: str) -> list[str]:
    """Return the lines of /proc/cpuinfo that start with a key."""
    return [line for line in read_text("/proc/cpuinfo").splitlines() if line.startswith(key)]


def read_text(path: str | Path) -> str:
    """Return a file's text, or "" where the board has no such file or does not show it."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
