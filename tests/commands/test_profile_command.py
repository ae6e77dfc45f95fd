from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from safetensors.torch import save_file
from typer.testing import CliRunner

from edgeprune.cli import build_app
from tests.jobs import wide_network
from tests.small_networks import randomise

_ROOT = Path(__file__).parents[2]
BOARD = "emulated-raspberry-pi-5"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("model") / "weights.safetensors"
    save_file(randomise(wide_network()).state_dict(), path)
    return [str(path), "--arch", "tests.jobs:wide_network", "--input-size", "3x16x16"]


def run(*arguments):
    result = CliRunner().invoke(build_app(), ["profile", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result


def test_it_shows_where_a_cut_saves_time(model):
    result = run(*model, "--target", BOARD)
    assert result.exit_code == 0, result.output
    assert f"{BOARD} (emulated), board " in result.output
    assert "channels computed together: conv 8 out" in result.output
    assert "cutting 1 to 7 gives" in result.output


def test_json_holds_every_layer_and_group_and_out_the_table_and_a_picture(model, tmp_path):
    out = tmp_path / "shared.json"
    result = run(*model, "--target", BOARD, "--out", out, "--json")
    data = json.loads(result.stdout)
    assert data["kind"] == "emulated"
    assert {layer["name"] for layer in data["layers"]} >= {"stem", "linear"}
    assert all(layer["whole_ms"] > 0 and layer["over_outputs"] for layer in data["layers"])
    assert data["tiles"]["conv"]["outputs"] == 8
    assert all(group["stairs"] for group in data["groups"])
    assert json.loads(out.read_text())["fingerprint"] == data["fingerprint"]
    picture = ElementTree.parse(out.with_suffix(".svg")).getroot()
    assert picture.tag.endswith("svg")
    assert "var(" not in out.with_suffix(".svg").read_text()


def test_a_table_that_is_no_json_is_refused(model, tmp_path):
    result = run(*model, "--target", BOARD, "--out", tmp_path / "table.toml")
    assert result.exit_code == 2
    assert "name it" in result.output
    assert "table.json" in result.output


def test_a_killed_profile_measures_nothing_twice(model, tmp_path):
    cache = tmp_path / "cache"
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "edgeprune.cli", "profile", *model, "--target", BOARD, "--json"]
    process = subprocess.Popen(
        command,
        cwd=_ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (tables := list(cache.rglob("*.json"))):
        assert process.poll() is None, "the profile ended before it could be killed"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {json.dumps(row["shape"]): row["medians_ms"] for row in json.loads(tables[0].read_text())["layers"]}
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=True)
    after = {json.dumps(row["shape"]): row["medians_ms"] for row in json.loads(tables[0].read_text())["layers"]}
    assert json.loads(done.stdout)["table"] == str(tables[0])
    assert 0 < len(before) < len(after)
    assert all(after[shape] == medians for shape, medians in before.items())
