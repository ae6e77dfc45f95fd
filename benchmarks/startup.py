"""How long the command line takes to answer, in fresh processes: `python -m benchmarks.startup`.

Writes results/startup.json beside this file: medians with their spread, next to an interpreter that does nothing,
taken in turns, so that a busy moment of the machine hits all alike.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from edgeprune.files import write_text

_RESULTS = Path(__file__).parent / "results" / "startup.json"
_CASES: dict[str, tuple[str, ...]] = {
    "python -c pass": ("-c", "pass"),
    "edgeprune --help": ("-m", "edgeprune.cli", "--help"),
    "edgeprune list methods": ("-m", "edgeprune.cli", "list", "methods"),
    "edgeprune compress --help": ("-m", "edgeprune.cli", "compress", "--help"),
}
_HEAVY = ("torch", "onnx", "onnxruntime", "matplotlib", "scipy", "numpy", "pydantic", "jinja2")
_LIMIT_S = 0.3


def seconds_of(arguments: Sequence[str]) -> float:
    """Return the wall-clock seconds of one fresh Python process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def heavy_imports(arguments: Sequence[str]) -> list[str]:
    """Return which heavy packages a fresh process imported, as Python itself reports them."""
    report = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], check=True, capture_output=True, text=True
    ).stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in report.splitlines()}
    return [name for name in _HEAVY if name in imported]


def measure(repeats: int) -> dict[str, dict[str, object]]:
    """Return median, quartiles and heavy imports of every case."""
    samples: dict[str, list[float]] = {name: [] for name in _CASES}
    for arguments in _CASES.values():
        seconds_of(arguments)  # the first one writes byte code and fills the disk cache
    for _ in range(repeats):
        for name, arguments in _CASES.items():
            samples[name].append(seconds_of(arguments))
    return {name: _summary(values, heavy_imports(_CASES[name])) for name, values in samples.items()}


def _summary(values: Sequence[float], imports: list[str]) -> dict[str, object]:
    low, median, high = statistics.quantiles(values, n=4)
    rounded = {name: round(value, 4) for name, value in (("median_s", median), ("q1_s", low), ("q3_s", high))}
    return {**rounded, "slowest_s": round(max(values), 4), "processes": len(values), "heavy_imports": imports}


def main() -> int:
    """Measure, write the file, print a table; 1 when the promise of 0.3 s or of no torch is broken."""
    cases = measure(repeats=int(sys.argv[1]) if len(sys.argv) > 1 else 21)
    facts = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        # Other work on the machine makes every process slower, the one that does nothing too.
        "load_average": round(os.getloadavg()[0], 2),
        "limit_s": _LIMIT_S,
    }
    write_text(_RESULTS, json.dumps({**facts, "cases": cases}, indent=1) + "\n")
    kept = True
    for name, case in cases.items():
        fast = float(str(case["median_s"])) < _LIMIT_S and "torch" not in str(case["heavy_imports"])
        kept = kept and fast
        print(f"{name:28} {case['median_s']} s ({case['q1_s']} to {case['q3_s']}) imports {case['heavy_imports']}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
