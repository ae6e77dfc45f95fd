"""The commands of a newcomer against real arm64 programs over real ssh: `python -m benchmarks.arm64_boards`.

Boards are the user-mode ones of deploy/emulated, as a Raspberry Pi 4 and a Raspberry Pi 5; needs root. On each, targets
are added and examined, an `.onnx` and a `.tflite` are measured twice, and the network of `edgeprune demo` is compressed
to half of its multiply-accumulates: for LiteRT on the first board, for ONNX Runtime on the second. What is compared are
outputs, with those of this machine on real samples. Times of these boards mean nothing, so measurements are kept as
short as can be. Writes results/arm64_boards.json and .md; with EDGEPRUNE_DATA a ResNet-20 on CIFAR-10 is compared too.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import emulated_boards
from benchmarks.data import data_file
from benchmarks.emulated_boards import EmulatedBoard
from benchmarks.loopback_board import environment
from benchmarks.sent_files import counting_sent
from benchmarks.short_measurements import measuring_like
from edgeprune import demo
from edgeprune.bench.measure import MeasureOptions, run_on_target
from edgeprune.bench.target import load_target
from edgeprune.commands.bench import bench, bench_distribution
from edgeprune.commands.compress import Place, compress
from edgeprune.commands.doctor import doctor
from edgeprune.commands.export import Asked, export
from edgeprune.commands.source import Source, load_source_data
from edgeprune.commands.targets import add_answer
from edgeprune.files import write_text
from edgeprune.network.data import example_inputs
from edgeprune.run.job import Choices
from edgeprune.terminal import TerminalProgress
from edgeprune.verdict.budget import Budget, Share

_RESULTS = Path(__file__).parent / "results" / "arm64_boards.json"


@dataclass(frozen=True)
class Pi:
    """A board: its core, its family, and the target for which the demo's network is compressed on it."""

    core: str
    family: str
    compressed_for: str


_BOARDS = (Pi("cortex-a72", "raspberry-pi-4", "pi-tflite"), Pi("cortex-a76", "raspberry-pi-5", "pi-onnx"))
_HERE = {"pi-onnx": "host", "pi-tflite": "host-litert"}  # the target of this machine with the same engine
_SAMPLES = 16
_SHORT = MeasureOptions(processes=2, blocks=1, block_s=0.0, block_runs=3, warmup_runs=2, warmup_s=0.0)
_MACS = 0.5
_TOLERANCE = 1e-5  # of the largest output
# The way into LiteRT that a core without LSE cannot go.
_TRAP = "from ai_edge_litert.compiled_model import CompiledModel as C; C.from_file('model.tflite')"
_KILLED = 128


@dataclass(frozen=True)
class Parity:
    """How far a board's outputs are from this machine's over all samples, and how often both say the same class."""

    board: str
    network: str
    artifact: str
    samples: int
    largest_output: float
    largest_difference: float
    same_answers: int

    @property
    def is_close(self) -> bool:
        """Whether the outputs are those of this machine."""
        return self.largest_difference <= _TOLERANCE * self.largest_output and self.same_answers == self.samples


@dataclass(frozen=True)
class Visit:
    """What the commands said on one board.

    `trap_status` is the exit status of LiteRT's other interface there, `trap` what the doctor says of it, if anything.
    `sent_bytes` are those of the files that the first benchmark sent, `sent_again_bytes` those of the second.
    """

    board: str
    doctor_status: int
    trap: str
    trap_status: int
    inferences: tuple[int, ...]
    sent_bytes: int
    sent_again_bytes: int
    compressed_for: str
    verdict: str
    kind: str
    macs_share: float
    accuracy: tuple[float | None, float | None]
    largest_difference: float  # of the artifact on the board from PyTorch
    seconds: float

    @property
    def is_well(self) -> bool:
        """Whether the commands came to what they must."""
        trapped = self.trap_status > _KILLED
        return (self.verdict, self.kind, self.sent_again_bytes, bool(self.trap)) == ("pass", "emulated", 0, trapped)


def main() -> None:
    """Visit every board and write the results, after each one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, help="keep trained weights and artifacts here, and use those that are there"
    )
    parser.add_argument(
        "--only",
        choices=[pi.family for pi in _BOARDS],
        help="visit this board, and keep what is known of the other one",
    )
    arguments = parser.parse_args()
    if (reason := emulated_boards.why_not("arm64")) is not None:
        raise SystemExit(reason)
    visited = [pi for pi in _BOARDS if arguments.only in (None, pi.family)]
    parities, visits = results_but({pi.family for pi in visited})
    with tempfile.TemporaryDirectory(prefix="edgeprune-arm64-") as name:
        folder = Path(name)
        work: Path = arguments.work or folder / "work"
        sources = networks(work)
        for pi in visited:
            with emulated_boards.running("arm64", folder / pi.core, pi.core) as board, known(board, pi, folder):
                visits.append(visit(board, pi, sources["digits"], work))
                for network, source in sources.items():
                    parities += [compared(pi, network, target, work / network, source) for target in _HERE]
            write_results(parities, visits)
    if not all(parity.is_close for parity in parities) or not all(each.is_well for each in visits):
        raise SystemExit("A board did not do what it must.")


def results_but(families: Set[str]) -> tuple[list[Parity], list[Visit]]:
    """Return what is known of other boards."""
    data = json.loads(_RESULTS.read_text()) if _RESULTS.exists() else {"parity": [], "visits": []}
    parities = [Parity(**one) for one in data["parity"]]
    visits = [Visit(**one) for one in data["visits"]]
    return [one for one in parities if one.board not in families], [one for one in visits if one.board not in families]


def networks(work: Path) -> dict[str, Source]:
    """Return the networks by name, each exported for every engine in a folder of its name."""
    progress = TerminalProgress()
    work.mkdir(parents=True, exist_ok=True)
    demo.write_digits(work / "digits.npz")
    if not (work / "digits.safetensors").exists():
        demo.train_digits(work / "digits.npz", work / "digits.safetensors", progress)
    sources = {"digits": Source(work / "digits.safetensors", demo.ARCH, data=str(work / "digits.npz"))}
    if "EDGEPRUNE_DATA" in os.environ:
        weights = data_file("cifar10-resnet20.pt")
        sources["resnet20"] = Source(weights, "benchmarks.networks:resnet20", data="benchmarks.data:cifar10_small")
    for network, source in sources.items():
        for target in _HERE:
            if not artifact_of(target, work / network).exists():
                export(source, Asked(_form(target)), work / network, progress)
    return sources


@contextmanager
def known(board: EmulatedBoard, pi: Pi, folder: Path) -> Iterator[None]:
    """Add a target for each engine to an inventory of its own, and keep measurements on this board short."""
    facts = {"address": board.url, "kind": "emulated", "threads": 1}
    with board.on_path(), environment({"XDG_CONFIG_HOME": str(folder / "config" / pi.core)}), measuring_like(_SHORT):
        add_answer("pi-tflite", pi.family, facts, project=False)
        add_answer("pi-onnx", "linux-arm64", facts, project=False)
        yield


def visit(board: EmulatedBoard, pi: Pi, source: Source, work: Path) -> Visit:
    """Examine the board, measure there twice, and compress."""
    begun_s = time.perf_counter()
    status, said = doctor("pi-tflite")
    traps = [found["message"] for found in said.data["findings"] if found["check"] == "known trap"]
    board.send(work / "digits" / "model.tflite")
    with counting_sent() as sent:
        inferences = tuple(benched(target, work / "digits") for target in _HERE)
        first_bytes = sum(sent)
        for target in _HERE:
            benched(target, work / "digits")
        again_bytes = sum(sent) - first_bytes
    place = Place(work / f"run-{pi.family}-{time.time_ns()}", progress=TerminalProgress())
    budget, choices = Budget(macs=Share(_MACS)), Choices("taylor", epochs=1)
    result = compress(source, [pi.compressed_for], budget, choices, place)
    return Visit(
        board=pi.family,
        doctor_status=status,
        trap=next((message for message in traps if "LSE" in message), ""),
        trap_status=board.ssh(f'python3 -I -c "{_TRAP}"; exit $?').returncode,
        inferences=inferences,
        sent_bytes=first_bytes,
        sent_again_bytes=again_bytes,
        compressed_for=_form(pi.compressed_for),
        verdict=result.verdict,
        kind=result.kind,
        macs_share=result.final.macs / result.original.macs,
        accuracy=(result.original.accuracy, result.final.accuracy),
        largest_difference=max(proof.max_abs or 0.0 for proof in result.proofs if "against PyTorch" in proof.what),
        seconds=time.perf_counter() - begun_s,
    )


def benched(target: str, folder: Path) -> int:
    """Measure an artifact and return how many inferences were timed."""
    answer = bench([artifact_of(target, folder)], target, None, TerminalProgress(), bench_distribution)
    return sum(len(block["samples_ns"]) for run in answer.data[0]["runs"] for block in run["blocks"])


def compared(pi: Pi, network: str, target: str, folder: Path, source: Source) -> Parity:
    """Run real samples there and here."""
    inputs = example_inputs(load_source_data(source), _SAMPLES)[0].numpy()
    samples = [[picture[None]] for picture in inputs]
    artifact = artifact_of(target, folder)
    targets = (load_target(target), load_target(_HERE[target]))
    there, here = (np.asarray(run_on_target(artifact, place, samples)[0], np.float64) for place in targets)
    return Parity(
        board=pi.family,
        network=network,
        artifact=artifact.suffix,
        samples=len(here),
        largest_output=float(np.abs(here).max()),
        largest_difference=float(np.abs(there - here).max()),
        same_answers=int((there.argmax(1) == here.argmax(1)).sum()),
    )


def artifact_of(target: str, folder: Path) -> Path:
    """Return the file that a target's engine runs."""
    return folder / f"model.{_form(target)}"


def _form(target: str) -> str:
    return target.removeprefix("pi-")


def write_results(parities: Sequence[Parity], visits: Sequence[Visit]) -> None:
    """Write the numbers, and tables of them."""
    data = {"parity": [asdict(parity) for parity in parities], "visits": [asdict(visit) for visit in visits]}
    write_text(_RESULTS, json.dumps(data, indent=1) + "\n")
    lines = [
        "# Boards of real arm64 programs",
        "",
        "A Raspberry Pi 4 and 5 in QEMU's user emulation, reached over real ssh. Their times mean nothing and are not",
        "shown. Regenerate with `python -m benchmarks.arm64_boards` (as root).",
        "",
        f"Outputs there and on this machine, on the same real samples; within {_TOLERANCE:g} of the largest output:",
        "",
        "| board | network | artifact | samples | largest output | largest difference | same answers |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
        *map(_parity_row, parities),
        "",
        "`targets add`, `doctor`, `bench` of the `.onnx` and the `.tflite` of `edgeprune demo`'s network, twice, and",
        f"`compress --macs {_MACS:.0%} --epochs 1` of that network:",
        "",
        "| board | inferences timed | files sent | sent again | compress | MACs left | accuracy | from PyTorch |",
        "| --- | --- | ---: | ---: | --- | ---: | --- | ---: |",
        *map(_visit_row, visits),
        "",
        "LiteRT's `CompiledModel` needs instructions that the core of a Raspberry Pi 4 lacks. The doctor says so, and",
        "edgeprune goes another way into LiteRT:",
        "",
        "| board | `CompiledModel` exits with | doctor exits with | what the doctor says | `bench` with LiteRT |",
        "| --- | ---: | ---: | --- | --- |",
        *(
            f"| {one.board} | {one.trap_status} | {one.doctor_status} | {one.trap or 'nothing'} "
            f"| {one.inferences[-1]} inferences |"
            for one in visits
        ),
    ]
    write_text(_RESULTS.with_suffix(".md"), "\n".join(lines) + "\n")


def _parity_row(one: Parity) -> str:
    return (
        f"| {one.board} | {one.network} | `{one.artifact}` | {one.samples} | {one.largest_output:.2f} "
        f"| {one.largest_difference:.1e} | {one.same_answers} |"
    )


def _visit_row(one: Visit) -> str:
    accuracy = " to ".join(f"{value:.2%}" for value in one.accuracy if value is not None)
    return (
        f"| {one.board} | {' and '.join(map(str, one.inferences))} | {one.sent_bytes / 1e6:.1f} MB "
        f"| {one.sent_again_bytes / 1e6:.1f} MB | {one.verdict} ({one.kind}), `.{one.compressed_for}` "
        f"| {one.macs_share:.1%} | {accuracy} | {one.largest_difference:.1e} |"
    )


if __name__ == "__main__":
    main()
