"""A warm-up beside the container's own init: a thread connects, and the first call joins it.

It imports nothing. Two threads that import one package may each hold the lock of a module that the other needs, whereupon
Python lets one of the imports fail: that of the user, perhaps. `import redis` in a thread beside another did so.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST = 60.0
"""Seconds of wall-clock time after which a warm-up that has not ended was frozen in the midst of it: as an idle connection,
the one that it is about to make is not trusted any more.
"""


class Warming:
    """One warm-up. `connects` counts what goes wrong, and raises nothing; `begins`: wall-clock seconds."""

    def __init__(self, connects: Callable[[], object], begins: float) -> None:
        self.begins = begins
        self._ended = threading.Event()

        def run() -> None:
            try:
                connects()
            finally:
                self._ended.set()

        threading.Thread(target=run, name="tiered_cache-warm-up", daemon=True).start()

    def joined(self, now: float, seconds: float) -> bool:
        """Whether a call may go on that has so many seconds: the warm-up has ended, or is to be left to itself."""
        return self.is_old(now) or self._ended.wait(seconds)

    def is_old(self, now: float) -> bool:
        """Whether it was frozen before it ended, so that its connection may be dead."""
        return not (self._ended.is_set() or abs(now - self.begins) < LONGEST)
