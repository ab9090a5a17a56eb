"""What stands around the shared tier: its absence, and the deletions that it has not taken yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiered_cache._stats import SharedStats
from tiered_cache._reply import ABSENT, Reply

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiered_cache._entry import Entry
    from tiered_cache.interfaces import SharedStore

MOST_UNDELIVERED = 10_000


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

    def warm_up(self, now: float) -> bool:  # noqa: ARG002
        return True

    def stats(self, now: float) -> SharedStats:
        raise NotImplementedError(f"there is no L2 to have counters at {now}")

    def close(self) -> None:
        return None


class Outbox:
    """A shared store, and the deletions that it did not take: tried again before anything else at the next contact."""

    def __init__(self, store: SharedStore) -> None:
        self._store = store
        self._undelivered: dict[str, None] = {}

    def read(self, key: str, now: float) -> Reply:
        """As the store; a key whose deletion is not delivered is not read."""
        if self._undelivered:
            self._deliver(now)
            if key in self._undelivered:
                return Reply(None, False)
        return self._store.read(key, now)

    def read_many(self, keys: Sequence[str], now: float) -> dict[str, Reply]:
        """As the store; see `read`."""
        if self._undelivered:
            self._deliver(now)
            kept = [key for key in keys if key not in self._undelivered]
            return dict.fromkeys(keys, Reply(None, False)) | self._store.read_many(kept, now)
        return self._store.read_many(keys, now)

    def write(self, key: str, entry: Entry, now: float) -> bool:
        """As the store. What is written takes the place of what was to be deleted."""
        written = self._store.write(key, entry, now)
        if written:
            self._undelivered.pop(key, None)
        return written

    def write_many(self, entries: Sequence[tuple[str, Entry]], now: float) -> None:
        """As the store; a key whose deletion is not delivered is left out."""
        self._store.write_many([(key, entry) for key, entry in entries if key not in self._undelivered], now)

    def delete(self, key: str, now: float) -> bool:
        """As the store; remembers what it did not take."""
        if self._store.delete(key, now):
            self._undelivered.pop(key, None)
            return True
        if len(self._undelivered) < MOST_UNDELIVERED:
            self._undelivered[key] = None
        return False

    def warm_up(self, now: float) -> bool:
        """As the store."""
        return self._store.warm_up(now)

    def stats(self, now: float) -> SharedStats:
        """As the store."""
        return self._store.stats(now)

    def close(self) -> None:
        """As the store."""
        self._store.close()

    def _deliver(self, now: float) -> None:
        for key in list(self._undelivered):
            if not self._store.delete(key, now):
                return
            self._undelivered.pop(key, None)
