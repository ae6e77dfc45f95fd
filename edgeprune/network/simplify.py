"""Runs onnxsim in its own process, because it can hang or take the process down with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx

_PROGRAM = """
import sys, onnx, onnxsim
model, passed = onnxsim.simplify(sys.argv[1])
if not passed:
    sys.exit("the simplified graph did not pass onnxsim's own check")
onnx.save(model, sys.argv[2])
"""


def simplify_onnx(source: Path, out: Path, time_limit_s: float) -> str:
    """Write the simplified graph to `out`; return why not, or "" when it is there and valid."""
    command = [sys.executable, "-c", _PROGRAM, str(source), str(out)]
    done = _run(command, time_limit_s) or _run(command, time_limit_s)  # it hangs at times, and not the next time
    if done is None:
        return f"onnxsim did not finish in {time_limit_s:g} s"
    if done.returncode != 0 or not out.is_file():
        lines = done.stderr.strip().splitlines()
        return f"onnxsim failed: {lines[-1] if lines else f'exit code {done.returncode}'}"
    try:
        onnx.checker.check_model(str(out), full_check=True)
    except onnx.checker.ValidationError as error:
        return f"onnxsim wrote an invalid graph: {str(error).strip().splitlines()[0]}"
    return ""


def _run(command: list[str], time_limit_s: float) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=time_limit_s, check=False)
    except subprocess.TimeoutExpired:
        return None
