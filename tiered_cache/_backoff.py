"""The pauses after failed loads, so that a dead origin is not asked by each call while a stale value is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiered_cache._forks import ForkSafe
from tiered_cache._rules import pause_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._flight import Key

MOST = 10_000
"""Keys remembered; beyond it the oldest is forgotten, which costs one more try."""


class Backoff(ForkSafe):
    """For each key whose last load failed: how often in a row, and until when none is tried."""

    def __init__(self, uniform: Callable[[], float]) -> None:
        super().__init__()
        self._uniform = uniform
        self._by_key: dict[Key, tuple[int, float, float]] = {}

    def note(self, key: Key, backoff: float, now: float) -> int:
        """A load of `key` failed at `now`, and a stale value was served; how often that was so in a row."""
        with self._lock:
            failures = self._by_key.pop(key, (0, 0.0, 0.0))[0] + 1
            self._by_key[key] = (failures, now, now + pause_after(failures, backoff, self._uniform()))
            if len(self._by_key) > MOST:
                del self._by_key[next(iter(self._by_key))]
        return failures

    def holds(self, key: Key, now: float) -> bool:
        """Whether no load of `key` is to be tried at `now`."""
        found = self._by_key.get(key)
        return found is not None and found[1] <= now < found[2]

    def forget(self, key: Key) -> None:
        """A load of `key` went well, or said that there is nothing."""
        if key in self._by_key:
            with self._lock:
                self._by_key.pop(key, None)
