"""Runs on the board beside the agent: clocks, temperatures, throttling, power, and the load of other processes.

The standard library of Python 3.8 is enough. `read` is called around every block and must stay cheap: it reads files
of the kernel, and starts a program only where a Raspberry Pi has no such file. `root` is where the files lie.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Bits of `vcgencmd get_throttled`; the same ones 16 places higher mean "has happened since the board was started".
# https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
THROTTLE_BITS = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
_SINCE_START = 16
# Cooling devices that slow something down; others are fans and screens.
_SLOWING = re.compile("cpu|processor|gpu|devfreq|gv11b|ga10b", re.IGNORECASE)
_GPU = re.compile(r"gpu|ga10b|gv11b|gp10b|gm20b", re.IGNORECASE)
_PROGRAM_LIMIT_S = 5.0


def read(root: str = "/") -> dict[str, Any]:
    """Return what the board says now; what it does not say is None, or empty."""
    at = Path(root)
    throttled = throttle_bits(at)
    return {
        "wall_s": time.perf_counter(),
        "own_s": time.process_time(),
        "waited_s": waited_seconds(at),
        "busy_s": busy_seconds(at),
        "clock_mhz": clock_mhz(at),
        "gpu_clock_mhz": gpu_clock_mhz(at),
        "temperature_c": temperature_c(at),
        "throttled": [*throttle_names(throttled), *slowed(at)],
        "throttle_history": throttle_history(throttled),
        "overcurrent_events": overcurrent_events(at),
        "memory_available_bytes": memory_available_bytes(at),
        "power_mw": power_mw(at),
    }


def between(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the board did between two states; None where it does not say.

    `other_load` is in cores: how many were kept busy by anything but this process. `waiting` is how many of those this
    process was ready to use: threads of its own that wait for one another are not counted. `throttled` also holds what
    happened in between and is over again.
    """
    wall_s = after["wall_s"] - before["wall_s"]
    other_load = waiting = None
    if before["busy_s"] is not None and after["busy_s"] is not None and wall_s > 0:
        others_s = after["busy_s"] - before["busy_s"] - (after["own_s"] - before["own_s"])
        other_load = round(max(others_s / wall_s, 0.0), 3)
    if before["waited_s"] is not None and after["waited_s"] is not None and other_load is not None:
        waited_s = after["waited_s"] - before["waited_s"]
        waiting = round(min(max(waited_s / wall_s, 0.0), other_load), 3)
    happened = [name for name in after["throttle_history"] if name not in before["throttle_history"]]
    if after["overcurrent_events"] > before["overcurrent_events"]:
        happened.append("over-current")
    return {
        "wall_s": round(wall_s, 4),
        "other_load": other_load,
        "waiting": waiting,
        "clock_mhz": after["clock_mhz"],
        "gpu_clock_mhz": after["gpu_clock_mhz"],
        "temperature_c": after["temperature_c"],
        "throttled": sorted({*before["throttled"], *after["throttled"], *happened}),
        "memory_available_bytes": after["memory_available_bytes"],
        "power_mw": after["power_mw"],
    }


# ---------------------------------------------------------------- processors


def busy_seconds(root: Path) -> float | None:
    """Return the seconds that all cores together were not idle, or None."""
    fields = read_text(root / "proc/stat").partition("\n")[0].split()
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def waited_seconds(root: Path) -> float | None:
    """Return how long the threads of this process have been ready to run while others had the cores, or None.

    The second number of https://docs.kernel.org/scheduler/sched-stats.html#proc-pid-schedstat, of each thread.
    """
    fields = [read_text(path).split() for path in (root / "proc/self/task").glob("*/schedstat")]
    waited_ns = [int(each[1]) for each in fields if len(each) == 3]
    return sum(waited_ns) / 1e9 if waited_ns else None


def clock_mhz(root: Path) -> float | None:
    """Return the fastest core's present clock, or None."""
    clocks = numbers(root, "sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq")
    clocks = clocks or numbers(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    in_mhz = [clock / 1000 for clock in clocks]
    cpuinfo = read_text(root / "proc/cpuinfo").splitlines()
    in_mhz = in_mhz or [float(line.partition(":")[2]) for line in cpuinfo if line.startswith("cpu MHz")]
    return round(max(in_mhz), 1) if in_mhz else None


def gpu_clock_mhz(root: Path) -> float | None:
    """Return the clock of an integrated GPU, or None."""
    paths = sorted((root / "sys/class/devfreq").glob("*/cur_freq"))
    clocks = [int(text) for text in (read_text(path) for path in paths if _GPU.search(path.parent.name)) if text]
    return round(max(clocks) / 1e6, 1) if clocks else None


def memory_available_bytes(root: Path) -> int | None:
    """Return what a process could still get without swapping, or None."""
    found = re.search(r"^MemAvailable:\s+([0-9]+) kB", read_text(root / "proc/meminfo"), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


# ---------------------------------------------------------------- heat and power


def temperature_c(root: Path) -> float | None:
    """Return the hottest thermal zone, or None; a sensor that is switched off says -256."""
    readings = [reading / 1000 for reading in numbers(root, "sys/class/thermal/thermal_zone*/temp")]
    readings = [reading for reading in readings if reading > -100]
    return max(readings) if readings else None


def throttle_bits(root: Path) -> int:
    """Return the throttle bits of a Raspberry Pi, 0 elsewhere."""
    for path in (root / "sys/devices/platform").glob("soc*/soc*firmware/get_throttled"):
        return parse_throttled(read_text(path))
    return parse_throttled(output_of("vcgencmd", "get_throttled")) if str(root) == "/" else 0


def parse_throttled(text: str) -> int:
    """Read `throttled=0x50005`, or the bare hexadecimal number of the kernel's file; 0 for anything else."""
    found = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]+)", text.strip())
    return int(found.group(1), 16) if found else 0


def throttle_names(bits: int) -> list[str]:
    """Return what slows the board down now."""
    return [name for bit, name in THROTTLE_BITS.items() if bits >> bit & 1]


def throttle_history(bits: int) -> list[str]:
    """Return what has slowed the board down since it was started."""
    return throttle_names(bits >> _SINCE_START)


def slowed(root: Path) -> list[str]:
    """Return the parts that the kernel slows down against heat."""
    names = []
    for folder in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind, state = read_text(folder / "type"), read_text(folder / "cur_state")
        if _SLOWING.search(kind) and state.isdigit() and int(state) > 0:
            names.append(kind + " slowed")
    return names


def overcurrent_events(root: Path) -> int:
    """Return how often a Jetson has slowed down for current since it was started."""
    return sum(numbers(root, "sys/class/hwmon/hwmon*/oc*_event_cnt"))


def power_mw(root: Path) -> dict[str, float]:
    """Return the power of each rail that has a sensor, by the board's own names."""
    rails: dict[str, float] = {}
    if str(root) == "/" and read_text("/sys/firmware/devicetree/base/model").startswith("Raspberry Pi 5"):
        rails.update(parse_pmic(output_of("vcgencmd", "pmic_read_adc")))
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if read_text(folder / "name").startswith("ina3221"):
            rails.update(_rails_of(folder))
    for path in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*/rail_name_*")):  # JetPack 4
        index, name = path.name[len("rail_name_") :], read_text(path)
        power = read_text(path.with_name(f"in_power{index}_input"))
        if power.isdigit() and name != "NC":
            rails[name] = float(power)
    return rails


def _rails_of(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield name and milliwatts of the three channels of a sensor; channel 7 is the sum of its shunts."""
    for channel in (1, 2, 3):
        name = read_text(folder / f"in{channel}_label")
        millivolts = read_text(folder / f"in{channel}_input")
        milliamperes = read_text(folder / f"curr{channel}_input")
        if name not in ("", "NC") and millivolts.isdigit() and milliamperes.isdigit():
            yield name, int(millivolts) * int(milliamperes) / 1000


def parse_pmic(text: str) -> dict[str, float]:
    """Read `vcgencmd pmic_read_adc`: milliwatts of each rail of which it says both current and voltage.

    VDD_CORE_A current(7)=1.11625000A
    VDD_CORE_V volt(15)=0.74944980V
    """
    lines = re.findall(r"^\s*(\w+)_([AV]) (?:current|volt)\(\d+\)=([0-9.]+)[AV]\s*$", text, re.MULTILINE)
    amperes = {name: float(value) for name, unit, value in lines if unit == "A"}
    volts = {name: float(value) for name, unit, value in lines if unit == "V"}
    return {name: round(amperes[name] * volts[name] * 1000, 1) for name in amperes if name in volts}


# ---------------------------------------------------------------- tegrastats


def tegrastats() -> dict[str, float]:
    """Return what a Jetson's own monitor says and its files do not; empty on other boards. Takes 0.1 s."""
    path = shutil.which("tegrastats")
    if path is None:
        return {}
    command = ["timeout", str(_PROGRAM_LIMIT_S), path, "--interval", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        line = process.stdout.readline() if process.stdout else b""
        process.terminate()
    return parse_tegrastats(line.decode("utf-8", "replace"))


def parse_tegrastats(line: str) -> dict[str, float]:
    """Read one line: loads in percent, clocks in MHz; several clusters of a GPU count as their fastest.

    `GR3D_FREQ 12%@[1300,1300]` (JetPack 7), `10%@1300` and `0%@[510]` (5, 6), `@[1000,1000]` (Thor), `0%` (not root).
    """
    found: dict[str, float] = {}
    for name, key in (("GR3D_FREQ", "gpu"), ("EMC_FREQ", "memory")):
        match = re.search(name + r" (?:(\d+)%)?(?:@\[?([\d,]+)\]?)?", line)
        load, clocks = match.groups() if match else (None, None)
        if load is not None:
            found[key + "_load_percent"] = float(load)
        if clocks is not None:
            found[key + "_clock_mhz"] = float(max(int(clock) for clock in clocks.split(",")))
    return found


# ---------------------------------------------------------------- reading


def numbers(root: Path, pattern: str) -> list[int]:
    """Return the whole numbers in the files of a pattern; what is no number is left out."""
    texts = [read_text(path) for path in sorted(root.glob(pattern))]
    return [int(text) for text in texts if re.fullmatch("-?[0-9]+", text)]


def read_text(path: str | Path) -> str:
    """Return a file's text, or "" where the board has no such file or does not show it."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def output_of(program: str, *arguments: str) -> str:
    """Return what a program of the board prints, or "" where it is missing, fails or takes too long."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PROGRAM_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""
