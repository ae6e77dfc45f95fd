from __future__ import annotations

import pytest

from tests.emulated_boards import board_or_skip


@pytest.fixture(scope="session", params=["cortex-a72", "cortex-a76"])
def arm64(request, tmp_path_factory):
    """A board with real arm64 programs: once with the core of a Raspberry Pi 4, once with that of a 5."""
    with board_or_skip("arm64", tmp_path_factory.mktemp("arm64"), request.param) as board:
        yield board


@pytest.fixture(scope="session")
def icount(tmp_path_factory):
    """A board whose clock counts instructions."""
    with board_or_skip("icount", tmp_path_factory.mktemp("icount"), "cortex-a76") as board:
        yield board
