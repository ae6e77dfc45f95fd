"""What the gate says about a finished run in every state that a pull request may leave it.

`edgeprune demo --out FOLDER`, then `python -m benchmarks.gate_states FOLDER/run`. It writes results/gate_states.md, and
ends with exit 1 where an exit code is not the one that belongs to the state. Nothing is measured: limits come from the
run's own numbers, and the states from copies of it that are spoilt one by one.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeprune.files import write_text
from edgeprune.gating.estimates import Evidence, estimate_all
from edgeprune.gating.inputs import read_records, with_layers
from edgeprune.verdict.gate_limits import METRICS, Limit

_RESULTS = Path(__file__).parent / "results"
_FILES = ("result.json", "trials.jsonl", "manifest.json", "model.onnx")
_WORSE = 0.8  # what a better baseline has of each number of the run
_RELATIVE = {
    "latency_regression": "3%",
    "size_regression": "1%",
    "memory_regression": "5%",
    "accuracy_regression": "1%",
}

Spoil = Callable[["Copy"], object]


@dataclass(frozen=True)
class Copy:
    """A copy of the run."""

    path: Path

    def edit_result(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change result.json."""
        file = self.path / "result.json"
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))

    def edit_measurement(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the measurement of the final network."""
        file = self.path / "trials.jsonl"
        trials = [json.loads(line) for line in file.read_text().splitlines()]
        change(next(trial for trial in reversed(trials) if trial["stage"] == "final")["measurement"])
        file.write_text("".join(json.dumps(trial) + "\n" for trial in trials))

    def edit_blocks(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change every block of samples of the final network."""
        self.edit_measurement(lambda m: [change(block) for run in m["runs"] for block in run["blocks"]])


@dataclass(frozen=True)
class State:
    """What is given to the gate, and the exit code that belongs to it.

    `limits` are names and texts, or the whole file. `baseline` is a copy that was changed so, or the text of the flag.
    """

    name: str
    exit_code: int
    limits: Mapping[str, str] | str
    spoil: Spoil = lambda run: None
    baseline: Spoil | str | None = None


@dataclass(frozen=True)
class Answer:
    """What the gate said: its exit code, and the first line of what it printed."""

    exit_code: int
    sentence: str
    lines: int


def states_of(run: Path) -> list[State]:
    """Return every state of a finished run."""
    holds, breaks = _absolute_limits(run, 2.0), _absolute_limits(run, 0.5)
    return [
        State("pass, every limit", 0, {**holds, **_against_baseline()}, baseline=_make_worse),
        *(State(f"fail, {name}", 1, {name: text}) for name, text in breaks.items() if name != "accuracy_drop"),
        State("fail, accuracy_drop", 1, {"accuracy_drop": "<= 0.5pt"}, _raise_original_accuracy),
        *(State(f"fail, {name}", 1, {name: text}, baseline=_make_better) for name, text in _against_baseline().items()),
        State("warning only", 0, f'[limits]\nsize = {{ limit = "{breaks["size"]}", level = "warn" }}\n'),
        *_inconclusive_states(run),
        *_damaged_states(holds),
        *_asked_wrongly(),
    ]


def ask(state: State, run: Path, folder: Path) -> Answer:
    """Give a state to the gate, on its command line."""
    from typer.testing import CliRunner

    from edgeprune.cli import build_app

    limits = folder / "gate.toml"
    limits.write_text(state.limits if isinstance(state.limits, str) else _toml(state.limits))
    judged = _copied(run, folder / "run", state.spoil)
    arguments = ["gate", str(judged), "--limits", str(limits), "--stored", "--store", str(folder / "history.sqlite")]
    if state.baseline is not None:
        given = state.baseline if isinstance(state.baseline, str) else _copied(run, folder / "base", state.baseline)
        arguments += ["--baseline", str(given)]
    done = CliRunner().invoke(build_app(), arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    said = (done.stdout if done.exit_code in (0, 1, 3) else done.stderr).strip().splitlines()
    return Answer(done.exit_code, said[0].replace(f"{folder}/", ""), len(said))


def ask_all(run: Path) -> Iterator[tuple[State, Answer]]:
    """Give every state to the gate."""
    for state in states_of(run):
        with tempfile.TemporaryDirectory() as folder:
            yield state, ask(state, run, Path(folder))


def table(asked: list[tuple[State, Answer]]) -> str:
    """Return states and answers as Markdown."""
    lines = ["# What the gate says about the demo's run", "", "| state | exit | what it says |", "| --- | ---: | --- |"]
    lines += [f"| {state.name} | {answer.exit_code} | {_cell(answer.sentence)} |" for state, answer in asked]
    return "\n".join(lines) + "\n"


def _absolute_limits(run: Path, factor: float) -> dict[str, str]:
    """Return a limit for everything that is known of a run, so many times what it has; an accuracy above it fails."""
    (record,) = read_records(run, None, None)
    units = {"latency_p50": "ms", "latency_p90": "ms", "startup": "ms", "size": "B", "peak_memory": "B"}
    wanted = [Limit(name, "", 0.0) for name, metric in METRICS.items() if not metric.against_baseline]
    known = estimate_all(Evidence.stored(with_layers(record), None), wanted).known
    found = {name: f"<= {factor * known[name].value:.6f}{units.get(name, '')}" for name in known}
    accuracy = known["accuracy"].value
    return {**found, "accuracy": f">= {100 * (1 - (1 - accuracy) * factor):.4f}%", "accuracy_drop": "<= 50%"}


def _against_baseline() -> dict[str, str]:
    return {name: f"<= {text}" for name, text in _RELATIVE.items()}


def _inconclusive_states(run: Path) -> list[State]:
    (record,) = read_records(run, None, None)
    middle = {"latency_p50": f"<= {record.latency_p50_ms:.6f}ms"}
    busy = State("inconclusive, the board was busy", 3, {"latency_regression": "<= 3%"}, _keep_waiting, _make_worse)
    return [
        State("inconclusive, the limit is the latency itself", 3, middle),
        State("inconclusive, nothing was evaluated", 3, {"accuracy": ">= 90%"}, _forget_accuracy),
        busy,
    ]


def _damaged_states(holds: Mapping[str, str]) -> list[State]:
    """Return the states that are no result at all."""

    def change_final(**values: object) -> Spoil:
        return lambda run: run.edit_result(lambda result: result["final"].update(values))

    damaged: dict[str, Spoil] = {
        "result.json cut short": lambda run: _overwrite(run, lambda content: content[:700]),
        "result.json of rubbish": lambda run: _overwrite(run, lambda content: bytes(range(256))),
        "result.json missing": lambda run: (run.path / "result.json").unlink(),
        "NaN in result.json": change_final(latency_p50_ms=float("nan")),
        "negative times in result.json": change_final(latency_p50_ms=-1.0, latency_interval_ms=[-2.0, 0.0]),
        "NaN among the samples": lambda run: run.edit_measurement(lambda m: m.update(latency_p50_ms=float("nan"))),
        "empty samples": lambda run: run.edit_blocks(lambda block: block.update(samples_ns=[])),
        "negative times among the samples": lambda run: run.edit_blocks(lambda block: block.update(samples_ns=[-5])),
    }
    return [State(name, 2, holds, spoil) for name, spoil in damaged.items()]


def _asked_wrongly() -> list[State]:
    """Return the states in which the run is whole, and the question is not."""
    slow_down = {"latency_regression": "<= 3%"}
    return [
        State("baseline of another board", 2, slow_down, baseline=_change_board),
        State("baseline of another target", 2, slow_down, baseline=_change_target),
        State("no baseline given", 2, slow_down),
        State("baseline missing", 2, slow_down, baseline="runs/gone"),
        State("branch without a result", 2, slow_down, baseline="main"),
        State("unknown limit", 2, {"latency_p5": "<= 8ms"}),
        State("unit missing", 2, {"latency_p50": "<= 8"}),
        State("wrong unit", 2, {"latency_p50": "<= 8MB"}),
        State("sign missing", 2, {"latency_p50": "8ms"}),
        State("unknown level", 2, '[limits]\nsize = { limit = "<= 4MB", level = "eror" }\n'),
        State("every limit off", 2, '[limits]\nsize = "off"\n'),
    ]


def _make_better(run: Copy) -> None:
    """Make a baseline of which the run falls short everywhere."""
    _scale(run, _WORSE)
    run.edit_result(lambda result: result["final"].update(accuracy=min(1.0, result["final"]["accuracy"] / 0.95)))


def _make_worse(run: Copy) -> None:
    """Make a baseline that is no better anywhere, so that a run keeps every limit against it."""
    _scale(run, 1 / _WORSE)


def _scale(run: Copy, factor: float) -> None:
    def of_measurement(measurement: dict[str, Any]) -> None:
        for process in measurement["runs"]:
            process["peak_memory_bytes"] = round(process["peak_memory_bytes"] * factor)

    run.edit_measurement(of_measurement)
    run.edit_blocks(lambda block: block.update(samples_ns=[round(ns * factor) for ns in block["samples_ns"]]))
    run.edit_result(lambda result: result["final"].update(size_bytes=round(result["final"]["size_bytes"] * factor)))


def _raise_original_accuracy(run: Copy) -> None:
    run.edit_result(lambda result: result["original"].update(accuracy=min(1.0, result["final"]["accuracy"] + 0.01)))


def _forget_accuracy(run: Copy) -> None:
    run.edit_result(lambda result: result["final"].update(accuracy=None))


def _keep_waiting(run: Copy) -> None:
    run.edit_blocks(lambda block: block["telemetry"].update(waiting=0.5))


def _change_board(run: Copy) -> None:
    run.edit_measurement(lambda measurement: measurement.update(fingerprint="0" * 16))
    run.edit_measurement(lambda measurement: measurement["environment"].update(cpu="another"))


def _change_target(run: Copy) -> None:
    run.edit_result(lambda result: result.update(target="raspberry-pi-5"))
    run.edit_measurement(lambda measurement: measurement.update(target="raspberry-pi-5"))


def _overwrite(run: Copy, change: Callable[[bytes], bytes]) -> None:
    file = run.path / "result.json"
    file.write_bytes(change(file.read_bytes()))


def _copied(run: Path, to: Path, spoil: Spoil) -> Path:
    to.mkdir()
    for name in _FILES:
        shutil.copy(run / name, to)
    spoil(Copy(to))
    return to


def _toml(limits: Mapping[str, str]) -> str:
    return "[limits]\n" + "".join(f"{name} = {text!r}\n" for name, text in limits.items())


def _cell(text: str) -> str:
    return text.replace("|", "&#124;").replace("<", "&lt;")


def main(run: Path) -> int:
    """Write the table; return 1 where an answer is not the right one."""
    asked = list(ask_all(run))
    write_text(_RESULTS / "gate_states.md", table(asked))
    wrong = [f"{state.name}: {answer}" for state, answer in asked if answer.exit_code != state.exit_code]
    print("\n".join(wrong) or f"{len(asked)} states, each with its exit code")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
