"""The main job on a board over real ssh: searched, cut, exported, measured there, and proven on its outputs.

The board runs real arm64 programs where this machine can; benchmarks/arm64_boards.py does the same for both engines on
a Raspberry Pi 4 and a 5. Elsewhere it is an sshd of this machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from benchmarks import emulated_boards
from benchmarks.sent_files import counting_sent
from benchmarks.short_measurements import measuring_like
from edgeprune.bench.measure import MeasureOptions
from edgeprune.cli import build_app
from tests.jobs import write_job_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SHORT = MeasureOptions(processes=1, blocks=1, block_s=0.0, block_runs=3, warmup_runs=1, warmup_s=0.0)


@dataclass(frozen=True)
class Lab:
    """Where the board is, and what it is like."""

    url: str
    family: str
    kind: str


@pytest.fixture
def lab(request, tmp_path):
    if emulated_boards.why_not("arm64") is not None:
        yield Lab(request.getfixturevalue("board").url, "linux-x86_64", "real")
        return
    with emulated_boards.running("arm64", tmp_path / "arm64", "cortex-a76") as board, board.on_path():
        yield Lab(board.url, "linux-arm64", "emulated")


def run(*arguments):
    result = CliRunner().invoke(build_app(), [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_network_is_compressed_on_the_board_and_nothing_is_sent_twice(lab, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    run("targets", "add", "lab", "--like", lab.family, "--address", lab.url, "--kind", lab.kind)
    limits = ("--target", "lab", "--macs", "50%", "--epochs", "0")
    with measuring_like(SHORT), counting_sent() as sent:
        result = run(*write_job_files(tmp_path).arguments(tmp_path / "run", *limits))
        artifacts = [tmp_path / "run" / name for name in ("model.onnx", "work/original/model.onnx")]
        assert sum(sent) > sum(path.stat().st_size for path in artifacts)
        sent.clear()
        (measured,) = run("bench", artifacts[0], "--target", "lab")
    assert (sent, measured["size_bytes"]) == ([], artifacts[0].stat().st_size)
    assert (result["verdict"], result["target"], result["kind"]) == ("pass", "lab", lab.kind)
    assert result["final"]["macs"] <= result["original"]["macs"] / 2
    proofs = [proof for proof in result["proofs"] if proof["what"].endswith("on lab against PyTorch")]
    assert proofs
    assert all(proof["max_abs"] < 1e-4 and proof["top1_agreement"] == 1.0 for proof in proofs)
