"""Counts what the ssh transport sends of files, for tests and benchmarks that say how much that was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgeprune import registry


@contextmanager
def counting_sent() -> Iterator[list[int]]:
    """Yield a list to which the bytes of every piece of a file that this process sends are added."""
    sent: list[int] = []
    transport = registry.load("transports", "ssh")
    count = transport._count

    def counting(self: Any, size_bytes: int) -> None:
        sent.append(size_bytes)
        count(self, size_bytes)

    transport._count = counting
    try:
        yield sent
    finally:
        transport._count = count
