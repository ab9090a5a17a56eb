"""What stands around the shared tier: its absence, and the deletions that it has not taken yet."""

from __future__ import annotations

import threading
from math import inf
from typing import TYPE_CHECKING

from tiered_cache._reply import ABSENT, UNREACHED, Reply
from tiered_cache._rules import SKEW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiered_cache._entry import Entry, Position
    from tiered_cache._l1.invalidation import Invalidations
    from tiered_cache._stats import SharedStats
    from tiered_cache.interfaces import SharedStore

MOST_UNDELIVERED = 10_000
"""Deletions remembered. Beyond it, no entry is trusted whose load began before the last one that was not."""
MOST_AT_ONCE = 1_000
"""Deletions tried again in one round trip."""


class NoSharedStore:
    """No L2: it holds nothing, and takes every deletion."""

    def read(self, key: str, now: float) -> Reply:  # noqa: ARG002
        return ABSENT

    def read_many(self, keys: Sequence[str], now: float) -> dict[str, Reply]:  # noqa: ARG002
        return dict.fromkeys(keys, ABSENT)

    def write(self, key: str, entry: Entry, now: float) -> bool:  # noqa: ARG002
        return True

    def write_many(self, entries: Sequence[tuple[str, Entry]], now: float) -> None:  # noqa: ARG002
        return None

    def delete(self, key: str, now: float) -> bool:  # noqa: ARG002
        return True

    def delete_many(self, keys: Sequence[str], now: float) -> bool:  # noqa: ARG002
        return True

    def warm_up(self, now: float) -> bool:  # noqa: ARG002
        return True

    def stats(self, now: float) -> SharedStats:
        raise NotImplementedError(f"there is no L2 to have counters at {now}")

    def close(self) -> None:
        return None


class Outbox:
    """A shared store, and the deletions that it did not take: tried again before anything else at the next contact.

    What is read counts as born when the reading began, and what was invalidated since its load began is not written.
    """

    def __init__(self, store: SharedStore, invalidated: Invalidations) -> None:
        self._store = store
        self._invalidated = invalidated
        self._undelivered: dict[str, object] = {}  # a mark of its own for each deletion
        self._forgotten_until = -inf
        self._lock = threading.Lock()

    def read(self, key: str, now: float) -> Reply:
        """As the store; a key whose deletion is not delivered is not read."""
        if self._undelivered:
            self._deliver((key,), now)
            if key in self._undelivered:
                return UNREACHED
        born = self._invalidated.position
        return self._vouched(self._store.read(key, now), born)

    def read_many(self, keys: Sequence[str], now: float) -> dict[str, Reply]:
        """As the store; see `read`."""
        kept = keys
        if self._undelivered:
            self._deliver(keys, now)
            kept = [key for key in keys if key not in self._undelivered]
        born = self._invalidated.position
        replies = {key: self._vouched(reply, born) for key, reply in self._store.read_many(kept, now).items()}
        return replies if len(replies) == len(keys) else dict.fromkeys(keys, UNREACHED) | replies

    def write(self, key: str, entry: Entry, now: float) -> bool:
        """As the store. What is written takes the place of what was to be deleted."""
        if self._invalidated.kills(key, entry.tags, entry.born):
            return False
        mark = self._undelivered.get(key)
        written = self._store.write(key, entry, now)
        if written:
            self._settle(key, mark)
        return written

    def write_many(self, entries: Sequence[tuple[str, Entry]], now: float) -> None:
        """As the store; a key whose deletion is not delivered is left out."""
        kept = [(key, entry) for key, entry in entries if key not in self._undelivered]
        kills = self._invalidated.kills
        self._store.write_many([(key, entry) for key, entry in kept if not kills(key, entry.tags, entry.born)], now)

    def delete(self, key: str, now: float) -> bool:
        """As the store; remembers what it did not take."""
        return self.delete_many((key,), now)

    def delete_many(self, keys: Sequence[str], now: float) -> bool:
        """As the store; remembers what it did not take."""
        marks = [self._undelivered.get(key) for key in keys]
        if self._store.delete_many(keys, now):
            for key, mark in zip(keys, marks, strict=True):
                self._settle(key, mark)
            return True
        with self._lock:
            for key in keys:
                if key in self._undelivered or len(self._undelivered) < MOST_UNDELIVERED:
                    self._undelivered[key] = object()
                else:
                    self._forgotten_until = now + SKEW
        return False

    def warm_up(self, now: float) -> bool:
        """As the store."""
        if self._undelivered:
            self._deliver((), now)
        return self._store.warm_up(now)

    def stats(self, now: float) -> SharedStats:
        """As the store."""
        return self._store.stats(now)

    def close(self) -> None:
        """As the store."""
        self._store.close()

    def _deliver(self, first: Sequence[str], now: float) -> None:
        """Try again, in one round trip, `first` and what has waited longest. More waits for the next contact."""
        marks = {key: mark for key in first if (mark := self._undelivered.get(key)) is not None}
        marks |= list(self._undelivered.items())[:MOST_AT_ONCE]
        if self._store.delete_many(list(marks), now):
            for key, mark in marks.items():
                self._settle(key, mark)

    def _settle(self, key: str, mark: object) -> None:
        """This deletion is done, or has become pointless; one that came in meanwhile is not."""
        with self._lock:
            if mark is not None and self._undelivered.get(key) is mark:
                del self._undelivered[key]

    def _vouched(self, reply: Reply, born: Position) -> Reply:
        """`reply`, unless its entry may be one whose deletion there was no room to remember."""
        if reply.entry is None:
            return reply
        if reply.entry.loaded_at <= self._forgotten_until:
            return UNREACHED
        reply.entry.born = born
        return reply
