"""The invariants of a process: I9 memory, I10 no leaks, I11 secrecy. They say in sentences what violates them."""

from __future__ import annotations

import gc
import logging
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tiered_cache._stats import MemoryStats

OURS = "tiered_cache"


class Footing(NamedTuple):
    """What a process holds at a moment."""

    threads: frozenset[str]
    sockets: int


def footing() -> Footing:
    """The cache's own threads, and all open sockets where the system tells, but those of what is garbage already."""
    gc.collect()  # else one of another test's could go between two counts, and make up for one that was left
    sockets = 0
    descriptors = Path("/proc/self/fd")
    for descriptor in descriptors.iterdir() if descriptors.exists() else ():
        with suppress(OSError):  # the listing's own
            sockets += str(descriptor.readlink()).startswith("socket:")
    names = (thread.name for thread in threading.enumerate())
    return Footing(frozenset(name for name in names if name.startswith(OURS)), sockets)


def memory(stats: Iterable[MemoryStats], largest_entry: int = 0) -> Iterator[str]:
    """I9: L1 holds no more than its budget and one entry, whenever it was looked at."""
    for seen in stats:
        if seen.bytes > seen.max_bytes + largest_entry:
            yield f"I9 memory: {seen.bytes} bytes in L1, whose budget is {seen.max_bytes}"


def leaks(before: Footing, patience: float = 60.0) -> list[str]:
    """I10: within `patience` seconds after a run, its threads and sockets are gone."""
    ends = time.monotonic() + patience
    while (found := _left(before, footing())) and time.monotonic() < ends:
        time.sleep(0.02)
    return found


def _left(before: Footing, after: Footing) -> list[str]:
    found = [f"I10 leaks: a thread {name} is left" for name in sorted(after.threads - before.threads)]
    if after.sockets > before.sockets:
        found.append(f"I10 leaks: {after.sockets - before.sockets} sockets are left")
    return found


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def logged() -> Iterator[list[str]]:
    """What the cache logs meanwhile, line by line."""
    handler = _Lines()
    logger = logging.getLogger(OURS)
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)


def secrecy(lines: Iterable[str], secrets: Iterable[str]) -> Iterator[str]:
    """I11: no line that was written has a secret, or a part of a value, in it."""
    marks = list(secrets)
    for line in lines:
        for number, mark in enumerate(marks, 1):
            if mark in line:
                yield f"I11 secrecy: the secret no. {number} is in a line of {len(line)} characters that begins {line[:20]!r}"
