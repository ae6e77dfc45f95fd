"""Runs on the board for the doctor: says what state the board is in, and holds settings for the time of a benchmark.

    python checkup.py look --telemetry telemetry.py --board '{"files": [], "commands": []}' --packages '["numpy"]'
    python checkup.py hold --telemetry telemetry.py --board '{"files": [...], "commands": [...]}'

`hold` writes the settings, says so, and puts them back when it is ended, however it is ended: a second process,
the `guard`, which no signal to the first one reaches, waits for the end of the first and restores. What has to be put
back is on the disk before it is changed, so that the next `hold` makes up for a board that lost its power in between.
The standard library of Python 3.8 is enough.
"""

from __future__ import annotations

import argparse
import fcntl
import glob
import json
import os
import platform
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HEARTBEAT_S = 1.0
LOAD_WINDOW_S = 0.5
_PROGRAM_LIMIT_S = 20.0
_BUSIEST = 3


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description="Examine this board, or hold its settings.")
    parser.add_argument("mode", choices=("look", "hold", "guard"))
    parser.add_argument("--telemetry", help="what looks at clocks and temperatures, a Python file")
    parser.add_argument("--board", type=json.loads, default={}, help="JSON: the controls of this family of boards")
    parser.add_argument("--packages", type=json.loads, default=[], help="JSON: Python packages to look for")
    parser.add_argument("--ear", type=int, help="for the guard: the pipe that ends with the process it follows")
    parser.add_argument("--record", type=Path, help="for the guard: what has to be put back")
    arguments = parser.parse_args()
    if arguments.mode == "guard":
        guard(arguments.ear, arguments.record)
    elif arguments.mode == "hold":
        hold(controls_of(arguments.board))
    else:
        facts = look(arguments.telemetry, controls_of(arguments.board), arguments.packages)
        say({"event": "facts", "facts": facts})


def say(event: Mapping[str, Any]) -> None:
    """Write one line; fails when nobody listens any more."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


# ---------------------------------------------------------------- facts


def look(telemetry: str, controls: Sequence[Any], packages: Sequence[str]) -> dict[str, Any]:
    """Return everything that the doctor judges."""
    functions = runpy.run_path(telemetry)
    before, processes_before = functions["read"](), process_seconds()
    time.sleep(LOAD_WINDOW_S)
    state, processes = functions["read"](), process_seconds()
    disk = shutil.disk_usage(str(Path.home()))
    return {
        "time_s": time.time(),
        "kind": read_text("/etc/edgeprune-kind") or "real",
        "machine": platform.machine(),
        "bits": 64 if sys.maxsize > 2**32 else 32,
        "model": read_text("/sys/firmware/devicetree/base/model").strip("\0"),
        "cpu_features": cpu_features(),
        "system": system_name(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "python_path": sys.executable,
        "packages": {name: package_version(name) for name in packages},
        "disk_free_bytes": disk.free,
        "memory": memory(),
        "state": state,
        "look": functions["between"](before, state),
        "busiest": busiest(processes_before, processes),
        "tegrastats": functions["tegrastats"](),
        "throttles_at_c": throttles_at_c(),
        "controls": [control.facts() for control in controls],
    }


def cpu_features() -> list[str]:
    """Return the processor's features as /proc/cpuinfo of an Arm board names them."""
    found = re.search(r"^Features\s*:(.*)$", read_text("/proc/cpuinfo"), re.MULTILINE)
    return found.group(1).split() if found else []


def system_name() -> str:
    """Return what the system calls itself, on a Jetson with the release of its drivers."""
    names = re.findall(r'^PRETTY_NAME="?([^"\n]*)', read_text("/etc/os-release"), re.MULTILINE)
    jetson = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read_text("/etc/nv_tegra_release"))
    return " ".join([*names[:1], *(["L4T {}.{}".format(*jetson.groups())] if jetson else [])])


def package_version(name: str) -> str | None:
    """Return the version of an installed Python package, "there" for a program by its path, or None."""
    from importlib import metadata

    if name.startswith("/"):
        return "there" if os.access(name, os.X_OK) else None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def memory() -> dict[str, int]:
    """Return bytes of memory and swap."""
    wanted = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree")
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", read_text("/proc/meminfo"), re.MULTILINE))
    return {name: int(found[name]) * 1024 for name in wanted if name in found}


def process_seconds() -> dict[str, float]:
    """Return the processor seconds of every other process so far, by its number and name."""
    seconds = {}
    for path in glob.glob("/proc/[0-9]*/stat"):  # noqa: PTH207  # Path.glob is five times slower here
        fields = re.match(r"(\d+) \((.*)\) . (.*)", read_text(path))
        if fields and int(fields.group(1)) != os.getpid():
            numbers = fields.group(3).split()
            ticks = int(numbers[10]) + int(numbers[11])
            seconds[f"{fields.group(2)} ({fields.group(1)})"] = ticks / os.sysconf("SC_CLK_TCK")
    return seconds


def busiest(before: Mapping[str, float], after: Mapping[str, float]) -> list[str]:
    """Return the processes that worked most in between, the most first."""
    worked = {name: seconds - before.get(name, seconds) for name, seconds in after.items()}
    return [name for name in sorted(worked, key=lambda name: -worked[name])[:_BUSIEST] if worked[name] > 0]


def throttles_at_c() -> float | None:
    """Return the lowest temperature at which the kernel slows this board down, or None where it does not say."""
    temperatures = []
    for path in Path("/sys/class/thermal").glob("thermal_zone*/trip_point_*_type"):
        text = read_text(str(path)[: -len("type")] + "temp")
        if read_text(path) == "passive" and text.isdigit() and int(text) > 0:
            temperatures.append(int(text) / 1000)
    return min(temperatures) if temperatures else None


# ---------------------------------------------------------------- controls


class FileControl:
    """Kernel files that are to hold one value, or the value of a file beside them."""

    def __init__(self, name: str, files: Sequence[str], value: str, like: str) -> None:
        """Find the files; a board may have none of them."""
        self.name = name
        self.paths = sorted(path for pattern in files for path in glob.glob(pattern))  # noqa: PTH207  # absolute
        self._value, self._like = value, like

    def changes(self) -> Iterator[tuple[list[str], list[str]]]:
        """Yield how to set each file that is not as wanted, and how to put it back."""
        for path in self.paths:
            now, wanted = read_text(path), self._wanted(path)
            if wanted and now != wanted:
                yield ["write", path, wanted], ["write", path, now]

    def facts(self) -> dict[str, Any]:
        """Return the present values, and what would have to change."""
        now = {path: read_text(path) for path in self.paths}
        return {"name": self.name, "now": sorted(set(now.values())), "changes": [do for do, _ in self.changes()]}

    def _wanted(self, path: str) -> str:
        return read_text(Path(path).with_name(self._like)) if self._like else self._value


class CommandControl:
    """A setting that a program shows and changes."""

    def __init__(self, name: str, show: Sequence[str], state: str, wanted: str, change: Sequence[str]) -> None:
        """Remember the commands; nothing runs yet."""
        self.name = name
        self._show, self._state, self._wanted, self._change = show, state, wanted, change

    def now(self) -> str:
        """Return the present setting, or "" where the board has no such program or it says something else."""
        found = re.search(self._state, run(self._show))
        return found.group(1) if found else ""

    def changes(self) -> Iterator[tuple[list[str], list[str]]]:
        """Yield the command that sets it and the one that puts it back, where it is not as wanted."""
        now = self.now()
        if self._wanted and now and now != self._wanted:
            yield ["run", *self._with(self._wanted)], ["run", *self._with(now)]

    def facts(self) -> dict[str, Any]:
        """Return the present setting, and what would have to change."""
        now = self.now()
        return {"name": self.name, "now": [now] if now else [], "changes": [do for do, _ in self.changes()]}

    def _with(self, state: str) -> list[str]:
        return [part.replace("{state}", state) for part in self._change]


def controls_of(board: Mapping[str, Any]) -> list[Any]:
    """Return the controls of a board as the target describes them."""
    files = [FileControl(c["name"], c["files"], c["value"], c["like"]) for c in board.get("files", ())]
    commands = board.get("commands", ())
    return [*files, *(CommandControl(c["name"], c["show"], c["state"], c["wanted"], c["set"]) for c in commands)]


def carry_out(step: Sequence[str]) -> str:
    """Write a file or run a command, as root where that is allowed without a password; return the problem or ""."""
    if step[0] == "write":
        try:
            Path(step[1]).write_text(step[2], encoding="utf-8")
        except OSError:
            run(["tee", step[1]], given=step[2], as_root=True)
        return "" if read_text(step[1]) == step[2] else f"{step[1]} cannot be written by this user"
    # A board that wants to restart for a change asks first, and is told no.
    run(step[1:], given="NO\n", as_root=True)
    return ""


def run(command: Sequence[str], given: str = "", as_root: bool = False) -> str:
    """Return what a program prints, or "" where it is missing, fails or takes too long."""
    prefix = ["sudo", "-n"] if as_root and os.geteuid() != 0 else []
    try:
        done = subprocess.run(
            [*prefix, *command],
            input=given.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PROGRAM_LIMIT_S,
            check=False,
            env=dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin"),
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


# ---------------------------------------------------------------- holding


def hold(controls: Sequence[Any]) -> None:
    """Change what is not as wanted, and wait to be ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    path, lock = record()
    with lock:
        restore(path)  # what an earlier hold could not
        process, life = start_guard(path, lock.fileno())
        try:
            say({"event": "held", **change(controls, path)})
            while True:
                time.sleep(HEARTBEAT_S)
                say({"event": "holding"})  # the end of the connection is noticed here too
        except (KeyboardInterrupt, BrokenPipeError):
            pass
        finally:
            os.close(life)
            process.wait()


def change(controls: Sequence[Any], path: Path) -> dict[str, list[str]]:
    """Make all changes, each of them on record before it is made; return what was done and what could not be."""
    undo, changed, problems = [], [], []
    for control in controls:
        for do, back in control.changes():
            undo.append(back)
            path.write_text(json.dumps(undo), encoding="utf-8")
            if problem := carry_out(do):
                problems.append(problem)
        facts = control.facts()
        if facts["changes"]:
            problems.append(f"{control.name} is not as wanted yet")
        elif facts["now"]:
            changed.append(control.name)
    return {"changed": changed, "problems": sorted(set(problems))}


def start_guard(path: Path, lock: int) -> tuple[subprocess.Popen[bytes], int]:
    """Start the process that restores when this one has ended; return it and the pipe that tells it.

    Its environment is new, so that it is not taken for a part of what a dead connection leaves behind.
    """
    ear, life = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__).resolve()), "guard", "--ear", str(ear), "--record", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # it must not keep the connection open
        stderr=subprocess.DEVNULL,
        pass_fds=(ear, lock),
        env={"HOME": str(Path.home()), "PATH": os.environ.get("PATH", os.defpath)},
        start_new_session=True,
    )
    os.close(ear)
    return process, life


def guard(ear: int, path: Path) -> None:
    """Wait until the process at the other end of the pipe is gone, and restore."""
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    os.read(ear, 1)
    restore(path)
    path.unlink()


def restore(path: Path) -> None:
    """Put back what is on record, the last change first."""
    text = read_text(path)
    for step in reversed(json.loads(text) if text else []):
        carry_out(step)
    path.write_text("", encoding="utf-8")


def record() -> tuple[Path, IO[str]]:
    """Return the locked file that says what has to be put back; one process at a time may hold a board's settings."""
    path = Path.home() / ".cache" / "edgeprune" / "held.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another process holds the settings of this board; wait for it, or end it")
        if os.fstat(file.fileno()).st_nlink:
            return path, file
        file.close()  # somebody removed it before it was locked


def read_text(path: str | Path) -> str:
    """Return a file's text, or "" where the board has no such file or does not show it."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


if __name__ == "__main__":
    main()
