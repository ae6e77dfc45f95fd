"""The table of methods: every kind of entrant ends at the same size, and a finished one is not run again."""

from __future__ import annotations

import pytest
import torch

from benchmarks import methods
from benchmarks.entrants import channel_methods
from benchmarks.method_rows import Row, comparison, finished_rows, table
from benchmarks.peer_pruning import COUNTERPARTS, peers
from edgeprune.network.data import Data, cross_entropy, top1


@pytest.fixture
def mode() -> methods.Mode:
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 3, 32, 32, generator=generator), torch.arange(8)) for _ in range(2)]
    return methods.Mode(lambda _: Data(batches, batches, cross_entropy, top1, "made", (3, 32, 32)), 2, "cpu")


def entry_of(name: str, mode: methods.Mode, out) -> methods.Entry:
    return methods.Entry("resnet20", name, 0, mode, mode.data(0), out)


@pytest.mark.data
def test_ours_and_the_peers_end_at_the_same_size_and_are_run_once(data_folder, mode, tmp_path):
    pytest.importorskip("torch_pruning", reason="the extra `peers` is not installed")
    rows = [
        methods.run_entry(entry_of(name, mode, tmp_path))
        for name in ("magnitude", "growing-reg", "torch-pruning: Taylor", "torch-pruning: growing reg")
    ]
    assert len({row.macs for row in rows}) == 1
    assert 0.48 < rows[0].macs < 0.52
    assert [row.shaped is None for row in rows] == [True, False, True, False]
    assert len({row.original for row in rows}) == 1
    assert not list(tmp_path.glob("*.checkpoint"))
    again = methods.run_entry(entry_of("growing-reg", mode, tmp_path))
    assert again == rows[1]
    assert "| resnet20 | growing-reg | 1 | 50." in table(rows)
    assert sorted(finished_rows(tmp_path), key=str) == sorted(rows, key=str)


def row(method: str, recovered: float, seed: int = 0) -> Row:
    return Row("resnet20", method, seed, 0.5, 0.9, None, 0.2, 0.5, recovered, 1.0, 0.0, 10.0)


def test_the_peer_is_compared_with_the_same_criterion_where_both_have_run():
    rows = [row("taylor", 0.8), row("taylor", 0.1, 1), row("torch-pruning: Taylor", 0.7), row("torch-pruning: L1", 0.6)]
    lines = comparison(rows).splitlines()
    assert lines[2:] == [
        "| taylor | Taylor | 1 | 50.00% | 50.00% | 80.00% | 70.00% | +10.00 pt |",
        "| all |  | 1 | 50.00% | 50.00% | 80.00% | 70.00% | +10.00 pt |",
    ]
    assert comparison(rows[:2]) == ""
    assert set(COUNTERPARTS.values()) <= set(channel_methods())
    assert set(peers()) in (set(), set(COUNTERPARTS))


def test_methods_that_train_get_half_before_the_cut_or_their_own(mode):
    method = methods.registry.load("methods", "growing-reg")()
    scoring = methods.registry.load("methods", "magnitude")()
    assert mode.schedule("growing-reg", method) == methods.Schedule(1, 1)
    assert mode.schedule("magnitude", scoring) == methods.Schedule(0, 2)
    full = methods._MODES["full"]
    assert full.schedule("centripetal-sgd", method) == methods.Schedule(600, 0, 0.03)
    assert full.schedule("growing-reg", method) == methods.Schedule(100, 100)
    assert set(full.own) <= set(channel_methods())


def test_the_command_line_knows_every_entrant(capsys):
    arguments = methods.parser().parse_args(["--mode", "full", "--seeds", "3"])
    assert set(arguments.methods) == {*channel_methods(), *peers()}
    with pytest.raises(SystemExit):
        methods.parser().parse_args(["--mode", "short", "--methods", "taylr"])
    assert "taylr" in capsys.readouterr().err
