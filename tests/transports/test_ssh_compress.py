"""The main job on a board over real ssh: searched, cut, exported, measured there, and proven on its outputs."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from benchmarks.short_measurements import measuring_like
from edgeprune import registry
from edgeprune.bench.measure import MeasureOptions
from edgeprune.cli import build_app
from tests.jobs import write_job_files

pytestmark = pytest.mark.slow
SHORT = MeasureOptions(processes=2, blocks=2, block_s=0.02, warmup_s=0.05)


@pytest.fixture
def sent(monkeypatch):
    """The bytes of files that were sent, piece by piece."""
    counts = []
    transport = registry.load("transports", "ssh")
    count = transport._count

    def counting(self, size_bytes):
        counts.append(size_bytes)
        count(self, size_bytes)

    monkeypatch.setattr(transport, "_count", counting)
    return counts


def run(*arguments):
    result = CliRunner().invoke(build_app(), [*map(str, arguments), "--json"])
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


def test_a_network_is_compressed_on_the_board_and_nothing_is_sent_twice(board, sent, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    run("targets", "add", "lab", "--like", "linux-x86_64", "--address", board.url)
    files = write_job_files(tmp_path)
    limits = ("--target", "lab", "--macs", "50%", "--epochs", "0")
    with measuring_like(SHORT):
        result = run(*files.arguments(tmp_path / "run", *limits))
        assert (result["target"], result["kind"]) == ("lab", "real")
        assert result["final"]["macs"] <= result["original"]["macs"] / 2
        artifacts = [tmp_path / "run" / name for name in ("model.onnx", "work/original/model.onnx")]
        assert sum(sent) > sum(path.stat().st_size for path in artifacts)
        sent.clear()
        measured = run("bench", *artifacts, "--target", "lab")
    assert [entry["size_bytes"] for entry in measured] == [path.stat().st_size for path in artifacts]
    assert sent == []
