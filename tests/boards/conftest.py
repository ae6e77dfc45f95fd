from __future__ import annotations

import pytest

from tests.emulated_boards import arm64_board


@pytest.fixture(scope="session", params=["cortex-a72", "cortex-a76"])
def arm64(request, tmp_path_factory):
    """A board with real arm64 programs: once with the core of a Raspberry Pi 4, once with that of a 5."""
    with arm64_board(tmp_path_factory.mktemp("arm64"), request.param) as board:
        yield board
