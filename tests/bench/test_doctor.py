"""The doctor on a board over real ssh, whose kernel files are plain ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeprune.bench import doctor
from edgeprune.bench.board import Board, FileControl
from edgeprune.bench.doctor import diagnose, holding
from edgeprune.bench.target import Target
from edgeprune.errors import BoardError
from tests.waiting import until


@pytest.fixture
def governor(tmp_path):
    path = tmp_path / "governor"
    path.write_text("ondemand\n")
    return path


@pytest.fixture
def target(board, governor):
    control = FileControl("governor", (str(governor),), "a test", "performance")
    family = Board("a test", files=(control,))
    return Target("mine", "A board", "onnxruntime", "ssh", address=board.url, board=family)


def test_a_board_over_ssh_is_examined(target):
    diagnosis = diagnose(target)
    findings = {finding.check: finding for finding in diagnosis.findings}
    assert findings["connection"].message.startswith(target.address)
    assert findings["governor"].severity == "warning"
    assert findings["governor"].remedy == "Run: edgeprune doctor mine --fix"


def test_a_board_that_does_not_answer_is_a_finding(target, board):
    board.stop()
    try:
        diagnosis = diagnose(target)
    finally:
        board.start()
    assert not diagnosis.is_healthy
    assert "cannot be reached" in diagnosis.findings[0].message


def test_settings_are_held_and_put_back(target, governor):
    with holding(target) as held:
        assert (held.changed, held.problems) == (("governor",), ())
        assert governor.read_text() == "performance"
    until(lambda: governor.read_text() == "ondemand")


def test_a_lost_connection_puts_them_back_and_is_told(target, governor, board):
    def lose_the_connection():
        with holding(target):
            assert governor.read_text() == "performance"
            board.stop()
            until(lambda: governor.read_text() == "ondemand", limit_s=60.0)
            board.start()

    with pytest.raises(BoardError, match="put its settings back too early"):
        lose_the_connection()


def test_a_control_that_the_board_does_not_have_is_not_held(target, tmp_path):
    missing = FileControl("GPU clock", (str(tmp_path / "nothing"),), "a test", "1")
    family = replace(target.board, files=(*target.board.files, missing))
    with holding(replace(target, board=family)) as held:
        assert held.changed == ("governor",)


@pytest.mark.parametrize(("board_s", "skew_s"), [(10.0, 0.0), (12.0, 0.0), (14.0, 1.0), (9.0, -1.0)])
def test_a_slow_answer_is_no_skew(board_s, skew_s):
    assert doctor._skew_s(board_s, asked_s=10.0, answered_s=13.0) == skew_s


def test_two_do_not_hold_one_board(target):
    with (
        holding(target),
        pytest.raises(BoardError, match="another process holds the settings"),
        holding(target),
    ):
        pass
