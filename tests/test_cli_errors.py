"""Bad input: one clear line with the value and the remedy, the exit code of its branch, nothing left behind."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from edgeprune.cli import build_app
from tests.jobs import ARCH, JobFiles, network, write_job_files


@pytest.fixture
def files(tmp_path: Path) -> JobFiles:
    return write_job_files(tmp_path)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Result]:
    def run(*arguments: str | Path) -> Result:
        out = tmp_path / "out"
        result = CliRunner().invoke(build_app(), [*map(str, arguments), "--out", str(out)])
        assert "Traceback" not in result.output
        assert not out.exists() or not any(path.name.endswith(".partial") for path in out.rglob("*"))
        return result

    return run


def refused(result: Result, exit_code: int, pattern: str) -> None:
    text = " ".join(result.output.split())
    assert result.exit_code == exit_code, text
    assert re.search(pattern, text), text


BUDGET = ("--latency", "60%")


def test_missing_model_file(run: Callable[..., Result], files: JobFiles) -> None:
    result = run("compress", "nowhere.pt", "--arch", ARCH, "--data", files.data, *BUDGET)
    refused(result, 2, "nowhere.pt does not exist")


@pytest.mark.parametrize(
    ("arch", "pattern"),
    [
        ("tests.jobs:netwrk", "netwrk.*Did you mean 'network'"),
        ("tests.nothing:network", "tests.nothing"),
        ("tests.jobs:JobFiles", "tests.jobs:JobFiles"),
        ("network", "package.module:factory"),
    ],
)
def test_wrong_arch(run: Callable[..., Result], files: JobFiles, arch: str, pattern: str) -> None:
    refused(run("compress", files.weights, "--arch", arch, "--data", files.data, *BUDGET), 2, pattern)


def test_weights_without_arch(run: Callable[..., Result], files: JobFiles) -> None:
    refused(run("compress", files.weights, "--data", files.data, *BUDGET), 2, "weights only. Add --arch")


def test_a_state_dict_that_does_not_fit_names_the_first_keys(run: Callable[..., Result], files: JobFiles) -> None:
    weights = load_file(files.weights)
    weights["stem.weigth"] = weights.pop("stem.weight")
    save_file(weights, files.weights)
    result = run("compress", files.weights, "--arch", ARCH, "--data", files.data, *BUDGET)
    refused(result, 2, r"stem\.weight.*stem\.weigth")


def test_weights_that_are_no_numbers(run: Callable[..., Result], files: JobFiles) -> None:
    weights = load_file(files.weights)
    weights["blocks.0.conv1.weight"][0, 0, 0, 0] = float("nan")
    save_file(weights, files.weights)
    result = run("compress", files.weights, "--arch", ARCH, "--data", files.data, *BUDGET)
    refused(result, 2, r"blocks\.0\.conv1\.weight.*NaN")


def data_error(files: JobFiles, run: Callable[..., Result], **arrays: np.ndarray) -> Result:
    np.savez(files.data, **arrays)
    return run("compress", files.weights, "--arch", ARCH, "--data", files.data, *BUDGET)


def test_empty_data(run: Callable[..., Result], files: JobFiles) -> None:
    result = data_error(files, run, images=np.zeros((0, 8, 8, 3), np.uint8), labels=np.zeros(0, np.int64))
    refused(result, 2, "no (images|pictures|samples)|empty|holds 0")


def test_labels_out_of_range(run: Callable[..., Result], files: JobFiles) -> None:
    result = data_error(files, run, images=np.zeros((40, 8, 8, 3), np.uint8), labels=np.arange(40) % 10)
    refused(result, 2, r"label \d is out of range: the network has 4 classes")


def test_images_of_the_wrong_shape(run: Callable[..., Result], files: JobFiles) -> None:
    result = data_error(files, run, images=np.zeros((40, 8, 8, 1), np.uint8), labels=np.arange(40) % 4)
    refused(result, 2, r"\(1, 8, 8\).*expects 3 channels")


def test_missing_data(run: Callable[..., Result], files: JobFiles) -> None:
    refused(
        run("compress", files.weights, "--arch", ARCH, "--data", "nowhere.npz", *BUDGET),
        2,
        r"nowhere\.npz does not exist",
    )
    refused(run("compress", files.weights, "--arch", ARCH, *BUDGET), 2, "--data FILE.npz")


@pytest.mark.parametrize(
    ("flags", "pattern"),
    [
        (["--latency", "0"], "'0' has no known unit"),
        (["--latency", "0ms"], "'0ms' is not above zero"),
        (["--latency", "8"], "'8' has no known unit"),
        (["--latency", "fast"], "'fast' is not a number with a unit"),
        (["--latency", "150%"], "150%.*at most 100%"),
        (["--size", "4Mb"], "'4Mb' has no known unit"),
        ([], "Say what to reach: --latency 8ms"),
        (["--latency", "60%", "--max-drop", "1"], "'1' has no known unit; write it as 1% or 0.5pt"),
        (["--latency", "60%", "--epochs", "-1"], "-1 epochs"),
        (["--latency", "60%", "--target", "hots"], "Unknown target 'hots'. Did you mean 'host'?"),
        (["--latency", "60%", "--method", "tayler"], "Unknown method 'tayler'. Did you mean 'taylor'?"),
        (["--latency", "60%", "--controller", "bisekt"], "Did you mean 'bisect'?"),
        (["--latncy", "60%"], "No such option: --latncy.*--latency"),
    ],
)
def test_flags(run: Callable[..., Result], files: JobFiles, flags: list[str], pattern: str) -> None:
    result = run("compress", files.weights, "--arch", ARCH, "--data", files.data, *flags)
    refused(result, 2, pattern.replace("?", r"\?"))


def test_a_pickle_is_not_loaded_without_the_flag(run: Callable[..., Result], files: JobFiles, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (mark,))

    bomb = tmp_path / "model.pt"
    bomb.write_bytes(pickle.dumps(Bomb()))
    refused(run("compress", bomb, "--arch", ARCH, "--data", files.data, *BUDGET), 2, "--trust-pickle")
    torch.save(network(), bomb)
    refused(run("compress", bomb, "--data", files.data, *BUDGET), 2, "--trust-pickle")
    assert not mark.exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(
    run: Callable[..., Result], files: JobFiles, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text('{"request": {}}')
    result = run("compress", files.weights, "--arch", ARCH, "--data", files.data, *BUDGET)
    refused(result, 2, "already holds a run. Add --resume")


def test_an_unknown_kind_of_plugin() -> None:
    refused(CliRunner().invoke(build_app(), ["list", "method"]), 2, "Unknown kind 'method'. Did you mean 'methods'")


def test_an_artifact_that_is_none(tmp_path: Path) -> None:
    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(b"no model")
    refused(CliRunner().invoke(build_app(), ["bench", str(damaged)]), 5, r"model\.onnx")
    refused(CliRunner().invoke(build_app(), ["bench", str(tmp_path / "nowhere.onnx")]), 2, r"nowhere\.onnx")
