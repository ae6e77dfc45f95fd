from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from edgeprune.bench.target import load_target
from edgeprune.cli import build_app
from edgeprune.errors import UnknownNameError, UsageError
from edgeprune.run.precision import check_precision
from tests.jobs import ARCH, write_job_files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_job_files(tmp_path_factory.mktemp("job"))


def edgeprune(*arguments):
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments])


def test_a_target_keeps_its_precision_unless_another_is_asked_for():
    host = load_target("host")
    assert check_precision(host) == host
    assert check_precision(host, "int8").precision == "int8"
    with pytest.raises(UnknownNameError, match=r"Unknown precision 'int4'. Did you mean 'int8'"):
        check_precision(host, "int4")


def test_what_the_engine_does_not_have_is_refused(monkeypatch):
    from edgeprune import registry

    monkeypatch.setattr(registry.load("runtimes", "onnxruntime"), "precisions", ("fp32",))
    with pytest.raises(UsageError, match=r"The engine onnxruntime builds fp32, not fp16\."):
        check_precision(load_target("host"), "fp16")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_export_lowers_and_proves(files, tmp_path, precision):
    model = (files.weights, "--arch", ARCH, "--data", files.data, "--to", "onnxruntime")
    done = edgeprune("export", *model, "--precision", precision, "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (tmp_path / f"model.{precision}.onnx").stat().st_size == answer["size_bytes"]
    assert answer["size_bytes"] < (tmp_path / "model.onnx").stat().st_size
    against = [proof["what"] for proof in answer["proofs"]]
    assert against == [
        f"model.{precision}.onnx in ONNX Runtime here against PyTorch",
        f"model.{precision}.onnx on host against ONNX Runtime here",
    ]
    assert answer["proofs"][0]["snr_db"] > 15


def test_int8_needs_real_inputs(files, tmp_path):
    model = (files.weights, "--arch", ARCH, "--input-size", "3x8x8")
    done = edgeprune("export", *model, "--to", "onnx", "--precision", "int8", "--out", tmp_path)
    assert done.exit_code == 2
    assert "give --calibration D (or --data D)" in done.output
    separate = edgeprune(
        "export", *model, "--to", "onnx", "--precision", "int8", "--calibration", files.data, "--out", tmp_path
    )
    assert separate.exit_code == 0, separate.output


@pytest.mark.slow
def test_a_run_at_int8_is_judged_by_what_the_artifact_answers(files, tmp_path):
    done = edgeprune(*files.arguments(tmp_path / "run", "--macs", "60%", "--epochs", "1", "--precision", "int8"))
    assert "points on 1,000 samples" in done.output, done.output
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    stages = result["stages"]
    assert result["final"]["accuracy"] == stages["exported"]
    assert abs(stages["exported"] - stages["recovered"]) <= 0.3
    assert (tmp_path / "run" / "model.int8.onnx").stat().st_size == result["final"]["size_bytes"]
    assert re.search(r"signal to noise", (tmp_path / "run" / "report.html").read_text())
    again = edgeprune(*files.arguments(tmp_path / "run", "--macs", "60%", "--epochs", "1", "--resume"))
    assert again.exit_code == 2
    assert "was begun with another precision: 'int8' then, 'fp32' now" in again.output
