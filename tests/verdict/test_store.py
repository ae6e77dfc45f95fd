import json
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgeprune.errors import StorageError, UsageError
from edgeprune.verdict.record import Record
from edgeprune.verdict.store import Revision, Store, matching

ROOT = Path(__file__).parents[2]


def record(number=0, **changes):
    facts = {"latency_p50_ms": 1.0 + number, "latency_interval_ms": (0.9 + number, 1.1 + number), **changes}
    return Record("runs/x", "net", "host", "real", "onnxruntime 1", 1000 + number, fingerprint="f1", **facts)


def add(path, numbers, branch="main"):
    for number in numbers:
        Store(path).add(record(number), "pass", Revision(f"{number:040x}", branch))


def sizes(path):
    return sorted(entry.size_bytes - 1000 for entry in Store(path).entries())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.sqlite"


def test_what_is_kept_comes_back_whole(path):
    add(path, [7])
    (entry,) = Store(path).entries("net", "host")
    assert entry.record() == replace(record(7), source="x")
    assert (entry.branch, entry.commit_sha, entry.verdict) == ("main", f"{7:040x}", "pass")
    assert Store(path).entries("other") == Store(path).entries("net", "pi") == []
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_branch_or_a_commit_is_found(path):
    add(path, [1, 2])
    Store(path).add(record(3), "fail", Revision("abcdef0123456789" + "0" * 24, "topic"))
    entries = Store(path).entries()
    assert [e.branch for e in matching(entries, "main", "")] == ["main", "main"]
    assert [e.branch for e in matching(entries, "abcdef01234", "")] == ["topic"]
    assert [e.branch for e in matching(entries, "v1", f"{2:040x}")] == ["main"]
    assert matching(entries, "000", "") == matching(entries, "elsewhere", "") == []


def test_there_is_nothing_in_a_store_that_is_not_there(path):
    assert Store(path).entries() == []
    assert not path.exists()


def test_concurrent_writers_lose_nothing(path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=add, args=(path, range(10 * n, 10 * n + 10))) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert sizes(path) == list(range(40))
    assert len((path.parent / "history.sqlite.journal").read_text().splitlines()) == 40


def test_a_killed_writer_loses_nothing_that_was_committed(path):
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]; from test_store import *; from pathlib import Path\n"
        "for number in range(10_000):\n"
        "    add(Path(sys.argv[3]), [number]); print(number, flush=True)"
    )
    arguments = [sys.executable, "-c", code, str(ROOT), str(Path(__file__).parent), str(path)]
    for _ in range(3):
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        said = [int(process.stdout.readline()) for _ in range(5)]
        time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        said += [int(line) for line in process.stdout.read().split()]
        process.wait()
        assert set(said) <= set(sizes(path))
    add(path, [77_777])
    assert 77_777 in sizes(path)


@pytest.mark.parametrize("damage", ["header", "middle", "cut", "empty", "gone", "wal"])
def test_a_damaged_database_is_made_again(path, damage):
    add(path, range(30))
    content = path.read_bytes()
    half = len(content) // 2
    spoilt = {
        "header": b"x" * 100 + content[100:],
        "middle": content[:half] + os.urandom(8192) + content[half + 8192 :],
        "cut": content[:half],
        "empty": b"",
    }
    if damage == "gone":
        path.unlink()
    elif damage == "wal":
        path.with_name("history.sqlite-wal").write_bytes(os.urandom(5000))
    else:
        path.write_bytes(spoilt[damage])
    assert sizes(path) == list(range(30))
    add(path, [30])
    assert sizes(path) == list(range(31))


def test_a_damaged_database_is_put_aside_and_said(path):
    add(path, range(3))
    path.write_bytes(b"x" * 100 + path.read_bytes()[100:])
    store = Store(path)
    assert len(store.entries()) == 3
    assert "was damaged; it was made again" in store.notes[0]
    assert [file.name for file in path.parent.glob("*.damaged-*")] != []


def test_a_damaged_journal_is_made_whole_from_the_database(path):
    journal = path.with_name("history.sqlite.journal")
    add(path, range(5))
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + os.urandom(200).replace(b"\n", b"") + b"\n" + lines[4][:50])
    add(path, [5])
    path.unlink()
    assert sizes(path) == list(range(6))


def test_a_file_that_is_no_store_is_left_alone(tmp_path):
    other = tmp_path / "gate.toml"
    other.write_text("[limits]\nsize = '<= 4MB'\n")
    with pytest.raises(UsageError, match="is no store of edgeprune"):
        add(other, [1])
    assert other.read_text().startswith("[limits]")


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another --store"):
        add(tmp_path / "file" / "history.sqlite", [1])


def test_the_journal_is_lines_of_json(path):
    add(path, range(2))
    lines = [json.loads(line) for line in path.with_name("history.sqlite.journal").read_text().splitlines()]
    assert [line["size_bytes"] for line in lines] == [1000, 1001]
