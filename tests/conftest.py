from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture
def data_folder() -> Path:
    """The folder with the real data and weights; tests that use it are marked `data`."""
    folder = os.environ.get("EDGEPRUNE_DATA")
    if not folder:
        pytest.skip("EDGEPRUNE_DATA is not set: it names the folder with the real data and weights")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _no_files_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No targets and calibrations of the user's own, and no latency tables but those that this process makes."""
    folder = tmp_path_factory.getbasetemp()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "edgeprune")
    with pytest.MonkeyPatch.context() as patch:
        # The file systems of emulated boards are made once, not in every session.
        patch.setenv("EDGEPRUNE_CACHE", os.environ.get("EDGEPRUNE_CACHE", str(cache)))
        for what in ("config", "cache", "data"):
            patch.setenv(f"XDG_{what.upper()}_HOME", str(folder / f"user-{what}"))
        yield


@pytest.fixture(scope="session")
def sshd_board(tmp_path_factory):
    """A real sshd on the loopback interface, with a home of its own."""
    from benchmarks import loopback_board

    if (missing := loopback_board.missing_program()) is not None:
        pytest.skip(f"{missing} is not installed (Debian: apt-get install openssh-server)")
    with loopback_board.running_board(tmp_path_factory.mktemp("board") / "b") as board:
        yield board


@pytest.fixture
def board(sshd_board, monkeypatch):
    """That board, with a lock of its own, so that measurements on this machine are not waited for."""
    from edgeprune import registry

    monkeypatch.setattr(registry.load("transports", "ssh"), "lock_path", str(sshd_board.lock_path))
    return sshd_board


@pytest.fixture(autouse=True)
def _same_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small networks gain nothing from more threads, and lose much where tests run side by side."""
    torch.set_num_threads(1)
