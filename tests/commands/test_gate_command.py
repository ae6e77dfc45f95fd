from __future__ import annotations

import json

import pytest
from gate_runs import BOARD, export, write_gate_run
from typer.testing import CliRunner

from edgeprune.cli import build_app


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return [export(folder, width) for width in (64, 70)]


@pytest.fixture
def place(tmp_path, monkeypatch, networks):
    """A project with a finished run of the first network and limits."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_SHA", "GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_SHA"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "gate.toml").write_text('[limits]\nlatency_regression = "<= 3%"\nsize = "<= 4MB"\n')
    write_gate_run(tmp_path / "runs" / "net", networks[0])
    return tmp_path


def run(*arguments):
    result = CliRunner().invoke(build_app(), [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    return result


def test_pass_fail_and_inconclusive_have_their_exit_codes(place, networks):
    gate = ("gate", "--limits", "gate.toml", "--target", BOARD, "--baseline", "runs/net", "--model", "network")
    passed = run(*gate, networks[0])
    assert passed.exit_code == 0
    assert "Passed: network on emulated-raspberry-pi-5-onnxruntime keeps all 2 limits." in passed.stdout
    failed = run(*gate, networks[1], "--junit", "out/gate.xml", "--markdown", "out/report.md", "--html", "out/r.html")
    assert failed.exit_code == 1
    assert "Changed: Layer blocks." in failed.stdout
    assert sorted(path.name for path in (place / "out").iterdir()) == ["gate.xml", "r.html", "report.md"]
    (place / "gate.toml").write_text('[limits]\naccuracy = ">= 92%"\n')
    assert run(*gate, networks[0]).exit_code == 3
    assert (place / ".edgeprune" / "history.sqlite").is_file()


def test_json_is_one_object_and_annotations_go_beside_it(place, networks, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    done = run("gate", networks[1], "--limits", "gate.toml", "--target", BOARD, "--baseline", "runs/net", "--json")
    assert json.loads(done.stdout)["verdict"] == "fail"
    assert "::error file=gate.toml,line=2,title=latency_regression" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("runs/net", "--limits", "gone.toml"), "Cannot read the limits gone.toml"),
        (("runs/net", "--limits", "gate.toml"), "needs something to compare with"),
        (("runs/gone", "--limits", "gate.toml"), "There is no runs/gone"),
        (("runs/net", "--limits", "gate.toml", "--baseline", "main"), "holds no result of 'main'"),
    ],
)
def test_a_mistake_is_exit_2_and_one_line(place, arguments, said):
    done = run("gate", *arguments)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert len(done.stderr.strip().splitlines()) == 1


def test_history_keeps_prints_and_draws(place):
    for _ in range(2):
        done = run("history", "--add", "runs/net")
    assert done.exit_code == 0
    assert "network on emulated-raspberry-pi-5-onnxruntime (emulated), board" in done.stdout
    assert done.stdout.count(" ms [") == 2
    drawn = run("history", "--model", "network", "--target", BOARD, "--out", "trend.svg", "--json")
    assert len(json.loads(drawn.stdout)["results"]) == 2
    assert (place / "trend.svg").read_text().startswith("<svg xmlns=")
    unknown = run("history", "--model", "other")
    assert unknown.exit_code == 2
    assert "holds no result of model other" in " ".join(unknown.output.split())
