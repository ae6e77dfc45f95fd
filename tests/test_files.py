from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from edgeprune.errors import StorageError
from edgeprune.files import append_line, replacing, write_text


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_text(path, "one")
    write_text(path, "two")
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_without_space_is_one_clear_error() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with pytest.raises(StorageError, match=r"Could not write /dev/full: No space left on device\. Free space"):
        append_line(Path("/dev/full"), "line")


def write_half(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(command, check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    return tmp_path


def test_a_full_disk_leaves_nothing_half_written(small_disk: Path) -> None:
    try:
        write_text(small_disk / "kept", "kept")
        with pytest.raises(StorageError, match="No space left on device"):
            write_text(small_disk / "large", "x" * 200_000)
        assert [path.name for path in small_disk.iterdir()] == ["kept"]
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)
