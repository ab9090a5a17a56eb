"""Work put off: until the answer is out, or until the next invocation begins."""

from __future__ import annotations

from collections import deque
from contextvars import copy_context
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from tiered_cache._forks import ForkSafe
from tiered_cache._log import log

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._stats import Counters

MOST = 10_000
"""Pieces of work that wait; what is put off beyond that is refused, which its giver learns at once."""


class Deferred(ForkSafe):
    """Work in the order in which it was put off, for whoever runs it; it is lost with the process alone."""

    lost_after = inf
    """Seconds after which what was submitted counts as lost: never, see `Owed`."""

    def __init__(self, counts: Counters) -> None:
        super().__init__()
        self._counts = counts
        self._work: deque[Callable[[], object]] = deque()

    def forked(self) -> None:
        """What waits is the parent's to do."""
        super().forked()
        self._work = deque()

    def __len__(self) -> int:
        return len(self._work)

    def submit(self, work: Callable[[], object], /) -> None:
        """Put `work` off, with the context variables of this moment. Raises OverflowError where too much waits."""
        with self._lock:
            if len(self._work) >= MOST:
                raise OverflowError(f"{MOST} pieces of work wait already, and nobody carries them out")
            self._work.append(partial(copy_context().run, work))  # tracing and log correlation go with it

    def run(self, remaining: Callable[[], float | None], share: float = 1.0) -> int:
        """Do what waits now, while time remains (seconds; None: no limit is known); how much is left to be done.

        share: of the time that remains now, for all of it. What is put off meanwhile waits for the next run.
        """
        kept = (1.0 - share) * (remaining() or 0.0)
        for _ in range(len(self._work)):
            left = remaining()
            if left is not None and left <= kept:
                self._counts["put_off"] += 1
                log().warning("%d pieces of work wait for the next invocation: there is no time left", len(self))
                break
            with self._lock:
                work = self._work.popleft() if self._work else None
            if work is None:
                break  # another thread was quicker
            work()
        return len(self._work)

    def abandon(self) -> None:
        """Nobody will run what waits: count it and say so."""
        with self._lock:
            lost, self._work = len(self._work), deque()
        if lost:
            self._counts["dropped"] += lost
            log().warning("%d pieces of work that were put off are never done: the cache was closed", lost)


def guarded(work: Callable[[], object], counts: Counters) -> Callable[[], None]:
    """`work` for a carrier: what it raises is counted, since nobody waits for it."""

    def run() -> None:
        try:
            work()
        except (Exception, SystemExit) as error:  # noqa: BLE001  # it may raise anything, and the rest is still to be done
            counts["deferred_failures"] += 1
            log().warning("deferred work failed: %s", type(error).__name__)  # its text may hold a key or a value
        counts["deferred_done"] += 1

    return run
