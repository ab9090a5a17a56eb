"""Turns: of what one process writes to L2 and deletes there, nothing overtakes anything for the same key.

Otherwise a load that looked whether its key was deleted, and then wrote, could write after the deletion, for ever so
little: and the next to ask L2 would get what was deleted. Other processes are told by L2 itself.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

STRIPES = 32


class Turns:
    """Locks for keys; a few keys share one. They are held during calls to L2, each of which ends within its time limit."""

    def __init__(self) -> None:
        self._locks, self._pid = _locks(), os.getpid()

    def of(self, keys: Iterable[str]) -> Turn:
        """`with turns.of(keys):` nobody else writes or deletes them."""
        if self._pid != os.getpid():  # a fork took the locks along, but not the threads that would release them
            self._locks, self._pid = _locks(), os.getpid()
        stripes = sorted({hash(key) % STRIPES for key in keys})  # in order, so that no two wait for each other
        return Turn([self._locks[stripe] for stripe in stripes])


def _locks() -> list[threading.Lock]:
    return [threading.Lock() for _ in range(STRIPES)]


class Turn:
    """Some locks, held together."""

    def __init__(self, locks: Sequence[threading.Lock]) -> None:
        self._locks = locks

    def __enter__(self) -> None:
        for lock in self._locks:
            lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for lock in self._locks:
            lock.release()
