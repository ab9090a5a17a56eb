"""Work that waits for who will do it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tiered_cache._forks import ForkSafe

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 10_000
"""Pieces of work that wait; what comes beyond that is refused, which its giver learns at once."""


class WorkQueue(ForkSafe):
    """Pieces of work in the order in which they came. They are lost with the process alone."""

    def __init__(self) -> None:
        super().__init__()
        self._work: deque[Callable[[], object]] = deque()

    def forked(self) -> None:
        """What waits is the parent's to do."""
        super().forked()
        self._work = deque()

    def __len__(self) -> int:
        return len(self._work)

    def abandon(self) -> int:
        """Forget what waits; how much that was. What runs goes on."""
        with self._lock:
            lost, self._work = len(self._work), deque()
        return lost

    def _add(self, work: Callable[[], object]) -> None:
        """Have `work` wait; the lock is held. Raises OverflowError where too much waits."""
        if len(self._work) >= MOST:
            raise OverflowError(f"{MOST} pieces of work wait already, and nobody carries them out")
        self._work.append(work)

    def _take(self) -> Callable[[], object] | None:
        """What has waited longest, which waits no more; the lock is held."""
        return self._work.popleft() if self._work else None
