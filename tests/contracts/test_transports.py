"""One kit over every transport that reaches a board without an address."""

from __future__ import annotations

import pytest

from edgeprune import registry
from edgeprune.contracts import Transport
from edgeprune.errors import BoardError, UsageError


def without_address(name):
    try:
        return registry.load("transports", name)(None)
    except UsageError as error:
        pytest.skip(f"{name} needs an address: {error}")


@pytest.fixture(params=sorted(registry.entries("transports")))
def transport(request):
    return without_address(request.param)


@pytest.mark.parametrize("name", sorted(registry.entries("transports")))
def test_it_is_listed_whole(name):
    entry = registry.entries("transports")[name]
    assert entry.summary
    assert entry.problem == ""
    assert issubclass(registry.load("transports", name), Transport)
    assert registry.load("transports", name).kind in {"real", "icount", "emulated"}


def test_a_file_that_was_put_can_be_read_there(transport, tmp_path):
    path = tmp_path / "a file with spaces; and 'quotes'.txt"
    path.write_text("content")
    there = transport.put(path)
    assert there == transport.put(path)
    lines = transport.stream(["-c", "import sys; print(open(sys.argv[1]).read())", there], 30.0)
    assert list(lines) == ["content"]


def test_the_bytes_of_a_put_file_are_those_given_last(transport, tmp_path):
    path = tmp_path / "file"
    for content in ("first", "second"):
        path.write_text(content)
        lines = transport.stream(["-c", "import sys; print(open(sys.argv[1]).read())", transport.put(path)], 30.0)
        assert list(lines) == [content]


def test_arguments_arrive_as_given(transport):
    given = ["", "a b", "$(touch x)", "'", '"', "\n", "ü"]
    lines = transport.stream(["-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *given], 30.0)
    import json

    assert json.loads("".join(lines)) == given


def test_a_command_that_fails_is_a_board_error_with_its_last_words(transport):
    with pytest.raises(BoardError, match="no luck today"):
        list(transport.stream(["-c", "import sys; sys.exit('no luck today')"], 30.0))


def test_a_command_that_hangs_is_ended(transport):
    with pytest.raises(BoardError):
        list(transport.stream(["-c", "import time; time.sleep(60)"], 0.5))


def test_the_lock_can_be_taken_again(transport):
    for _ in range(2):
        with transport.lock():
            pass
