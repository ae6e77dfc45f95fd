from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest

from edgeprune.bench.target import Target, list_families, list_targets, load_target
from edgeprune.errors import UnknownNameError, UsageError

GOOD = 'name = "mine"\ndescription = "My board"\nruntime = "onnxruntime"\n'


def written(folder, text):
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", sorted(list_families()))
def test_every_target_that_comes_along_loads(name):
    target = load_target(name)
    assert name in {target.name, *target.aliases}
    assert target.description
    assert target.engine_settings()["threads"] == target.threads


def test_a_file_is_a_target_too(tmp_path):
    target = load_target(written(tmp_path, GOOD + "threads = 4\n[settings]\nspin = true\n"))
    assert target == Target(
        name="mine", description="My board", runtime="onnxruntime", threads=4, settings={"spin": True}
    )
    assert target.engine_settings() == {"spin": True, "threads": 4, "precision": "fp32"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        target.threads = 1


BOARDS = sorted(name for name in list_families() if load_target(name).board)


def test_the_families_come_along():
    families = {"jetson-nano", "jetson-xavier-nx", "jetson-orin-nano", "jetson-agx-orin", "linux-arm64", "linux-x86_64"}
    families |= {"raspberry-pi-4", "raspberry-pi-5", "raspberry-pi-zero-2w"}
    assert families | {"jetson", "raspberry-pi"} <= set(BOARDS)


@pytest.mark.parametrize("name", BOARDS)
def test_everything_known_of_a_board_has_a_source(name):
    target = load_target(name)
    board = target.board
    assert target.transport == "ssh"
    assert target.channel_multiple > 1
    for fact in (board, *board.files, *board.commands, *board.traps):
        assert fact.source.startswith(("https://", "seen with "))
    for control in board.files:
        assert bool(control.value) != bool(control.like)
    for control in board.commands:
        assert re.compile(control.state).groups == 1
        assert bool(control.wanted) == any("{state}" in part for part in control.set)


def test_another_name_is_the_same_target():
    assert load_target("jetson") == load_target("jetson-orin-nano")
    assert list_targets()["raspberry-pi"].summary == "another name of raspberry-pi-5"


def test_no_two_targets_answer_to_one_name():
    targets = {load_target(name).name: load_target(name) for name in list_targets()}
    names = [name for target in targets.values() for name in (target.name, *target.aliases)]
    assert sorted(names) == sorted(list_targets())


def test_a_precision_that_the_board_lacks_is_refused(tmp_path):
    board = '[board]\nsource = "https://example.org"\nprecisions = ["fp32", "fp16"]\n'
    with pytest.raises(UsageError, match="this board computes in fp32, fp16, not in int8"):
        load_target(written(tmp_path, GOOD + 'precision = "int8"\n' + board))


def test_listing_imports_no_checker():
    code = (
        "import sys; from edgeprune.bench.target import list_targets; list_targets(); print('pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("name", "said"),
    [("hosst", "Unknown target 'hosst'. Did you mean 'host'?"), ("nowhere.toml", "no target file nowhere.toml")],
)
def test_an_unknown_target_is_refused(name, said):
    with pytest.raises(UsageError, match=said.replace("?", r"\?")):
        load_target(name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD + "thread = 2\n", "Unknown key in mine.toml 'thread'. Did you mean 'threads'?"),
        (GOOD + 'threads = "2"\n', "threads: Input should be a valid integer (found '2')"),
        (GOOD + "threads = 0\n", "threads is 0; it must be at least 1"),
        (GOOD + 'precision = "fp17"\n', "precision: Input should be 'fp32', 'fp16' or 'int8' (found 'fp17')"),
        (GOOD + 'kind = "fake"\n', "kind: Input should be 'real', 'icount' or 'emulated'"),
        ('name = "mine"\n', "description: Field required"),
        (GOOD + "[board]\nmodel = 'x'\n", "board.source: Field required"),
        (GOOD + "[board]\nsource = ''\nmodel = 'x'\n", "board.model: Unexpected keyword argument (found 'x')"),
        (GOOD.replace('"mine"', '"My Board"'), "'My Board' may hold small letters"),
        ("name = \n", "mine.toml cannot be read"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path, text, said):
    with pytest.raises(UsageError) as refused:
        load_target(written(tmp_path, text))
    assert said in str(refused.value)


def test_a_broken_target_stays_listed_with_its_reason(tmp_path, monkeypatch):
    from edgeprune.bench import target

    written(tmp_path, "name = ")
    monkeypatch.setattr(target, "_FOLDER", tmp_path)
    assert "cannot be read" in list_targets()["mine"].problem


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"Known: emulated-.*, host, host-litert, host-tensorrt, jetson"):
        load_target("zzz")
