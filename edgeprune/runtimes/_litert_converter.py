"""The converter of the litert runtime as a process of its own, kept warm from one network to the next."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import IO, cast

_PROGRAM = Path(__file__).with_name("_litert_convert.py")


class Converter:
    """A process with the converter loaded; it ends when this object does, or the whole program."""

    def __init__(self) -> None:
        """Start the process; it loads while this one goes on."""
        # The file lives as long as the process, and holds the last words of one that dies.
        self._complaints: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            # -P: the program's own folder holds files with the names of engines, which must not be found as them.
            [sys.executable, "-P", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
        )
        self._orders = cast("IO[str]", self._process.stdin)
        self._answers = cast("IO[str]", self._process.stdout)
        weakref.finalize(self, _stop, self._process)

    @property
    def alive(self) -> bool:
        """Say whether it can still be given work."""
        return self._process.poll() is None

    def convert(
        self, program: Path, out: Path, limit_s: float, precision: str = "fp32", samples: Path | None = None
    ) -> None:
        """Write the artifact to `out`; raises ValueError saying what the converter refused.

        `samples` is the `.npz` with real inputs that "int8" takes its ranges from.
        """
        places = {"program": str(program.resolve()), "out": str(out.resolve())}
        order = {**places, "precision": precision, "samples": str(samples.resolve()) if samples else None}
        answer = self._ask(json.dumps(order), limit_s)
        if not answer:
            raise ValueError(f"the converter process ended: {self._last_words()}")
        problem = json.loads(answer)["problem"]
        if problem:
            raise ValueError(problem)

    def _ask(self, order: str, limit_s: float) -> str:
        """Return the answer to an order, or "" where the process has ended."""
        try:
            self._orders.write(order + "\n")
            self._orders.flush()
        except BrokenPipeError:
            return ""
        answered, _, _ = select.select([self._answers], [], [], limit_s)
        if not answered:
            _stop(self._process)
            raise ValueError(f"litert-torch did not finish in {limit_s:g} s")
        return self._answers.readline()

    def _last_words(self) -> str:
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.wait()}"


def _stop(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # an order that nobody will read
                pipe.close()
