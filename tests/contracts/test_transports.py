"""One kit over every transport: those that need an address reach a real board on the loopback interface."""

from __future__ import annotations

import pytest

from edgeprune import registry
from edgeprune.contracts import Transport
from edgeprune.errors import BoardError, UsageError


@pytest.fixture(params=sorted(registry.entries("transports")))
def transport(request):
    transport_class = registry.load("transports", request.param)
    if transport_class.kind == "emulated":
        pytest.skip("a board that is data answers the agent alone")
    address = request.getfixturevalue("board").url if transport_class.needs_address else None
    transport = transport_class(address)
    yield transport
    transport.close()


@pytest.mark.parametrize("name", sorted(registry.entries("transports")))
def test_it_is_listed_whole(name):
    entry = registry.entries("transports")[name]
    assert entry.summary
    assert entry.problem == ""
    assert issubclass(registry.load("transports", name), Transport)
    assert registry.load("transports", name).kind in {"real", "icount", "emulated", None}


@pytest.mark.parametrize("name", sorted(registry.entries("transports")))
def test_an_address_is_asked_for_where_one_is_needed(name):
    transport_class = registry.load("transports", name)
    if transport_class.needs_address:
        with pytest.raises(UsageError, match="needs an address"):
            transport_class(None)
    else:
        assert transport_class(None).address is None


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


def test_a_stream_that_nobody_reads_on_leaves_the_board_ready(transport):
    lines = transport.stream(["-c", "import time; print('one', flush=True); time.sleep(60)"], 90.0)
    assert next(lines) == "one"
    lines.close()
    assert list(transport.stream(["-c", "print('two')"], 30.0)) == ["two"]


def test_a_process_that_is_ended_may_put_back_what_it_changed(transport, tmp_path):
    state = tmp_path / "state"
    code = (
        "import pathlib, signal, sys, time\n"
        "def restore(*_): pathlib.Path(sys.argv[1]).write_text('as before'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, restore)\n"
        "pathlib.Path(sys.argv[1]).write_text('changed'); print('ready', flush=True); time.sleep(60)"
    )
    lines = transport.stream(["-c", code, str(state)], 90.0)
    assert next(lines) == "ready"
    lines.close()
    assert state.read_text() == "as before"


def test_it_can_be_used_again_after_it_was_closed(transport):
    for _ in range(2):
        assert list(transport.stream(["-c", "print('here')"], 30.0)) == ["here"]
        transport.close()


def test_cleaning_leaves_nothing_to_clean(transport, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    transport.put(path)
    assert transport.clean() >= 0
    assert transport.clean() == 0


def test_the_lock_can_be_taken_again(transport):
    for _ in range(2):
        with transport.lock():
            pass
