"""A shared tier in the memory of one process: for tests of code that uses a cache, without a server."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tiered_cache._errors import SerializationError
from tiered_cache._l2.codec import MsgpackCodec
from tiered_cache._l2.record import opened, sealed
from tiered_cache._reply import ABSENT, UNREACHED, Reply
from tiered_cache._rules import Freshness, kept_for
from tiered_cache._stats import Counters, SharedStats
from tiered_cache._units import Duration, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiered_cache._entry import Entry


class InMemorySharedTier:
    """Stands in for `RedisTier`; caches that are given the same one share it, as containers share a Redis.

    Values go through the same codec as with Redis, so that what cannot be carried is refused here too. `down = True`
    makes every call fail, as a Redis that is out of reach does.
    """

    def __init__(
        self,
        *,
        ttl: Duration,
        stale_while_revalidate: Duration = 0,
        stale_if_error: Duration = 0,
        jitter: float = 0.0,
    ) -> None:
        self.freshness = Freshness(
            seconds("ttl", ttl),
            seconds("stale_while_revalidate", stale_while_revalidate, zero=True),
            seconds("stale_if_error", stale_if_error, zero=True),
            jitter,
        )
        self.down = False
        self.entries: dict[tuple[str, str], bytes] = {}
        self.lock = threading.Lock()
        self.codec = MsgpackCodec()

    def bind(self, namespace: str) -> InMemorySharedStore:
        """The part of this tier that belongs to `namespace`."""
        return InMemorySharedStore(self, namespace)

    def __repr__(self) -> str:
        return f"InMemorySharedTier(ttl={self.freshness.ttl:g}, entries={len(self.entries)})"


class InMemorySharedStore:
    """One namespace of an `InMemorySharedTier`."""

    def __init__(self, tier: InMemorySharedTier, namespace: str) -> None:
        self._tier = tier
        self._namespace = namespace
        self._counts = Counters()

    def read(self, key: str, now: float) -> Reply:
        """What is held under `key`."""
        if not self._reached():
            return UNREACHED
        with self._tier.lock:
            found = self._tier.entries.get((self._namespace, key))
        entry = None if found is None else opened(key, found, self._tier.codec, max_bytes=len(found))
        if entry is None or now >= entry.loaded_at + kept_for(entry):
            self._counts["misses"] += 1
            return ABSENT
        self._counts["hits"] += 1
        return Reply(entry, True)

    def read_many(self, keys: Sequence[str], now: float) -> dict[str, Reply]:
        """What is held under `keys`."""
        return {key: self.read(key, now) for key in keys}

    def write(self, key: str, entry: Entry, now: float) -> bool:
        """Keep `entry`."""
        data = sealed(key, entry, self._tier.codec, compress_above=None)
        if now >= entry.loaded_at + kept_for(entry) or not self._reached():
            return False
        with self._tier.lock:
            self._tier.entries[self._namespace, key] = data
        self._counts["writes"] += 1
        return True

    def write_many(self, entries: Sequence[tuple[str, Entry]], now: float) -> None:
        """Keep `entries`."""
        for key, entry in entries:
            try:
                self.write(key, entry, now)
            except SerializationError:
                self._counts["unserializable"] += 1

    def delete(self, key: str, now: float) -> bool:
        """Forget `key`."""
        return self.delete_many((key,), now)

    def delete_many(self, keys: Sequence[str], now: float) -> bool:  # noqa: ARG002
        """Forget `keys`."""
        if not self._reached():
            return False
        with self._tier.lock:
            for key in keys:
                self._tier.entries.pop((self._namespace, key), None)
        self._counts["deletes"] += len(keys)
        return True

    def warm_up(self, now: float) -> bool:  # noqa: ARG002
        """Whether the tier is not down."""
        return self._reached()

    def stats(self, now: float) -> SharedStats:  # noqa: ARG002
        """The counters."""
        counts = self._counts
        return SharedStats(
            hits=counts["hits"],
            misses=counts["misses"],
            writes=counts["writes"],
            deletes=counts["deletes"],
            skipped=0,
            errors=counts.group("errors"),
            unreadable={},
            unserializable=counts["unserializable"],
            breaker="closed",
            connects=0,
        )

    def close(self) -> None:
        """Nothing to give back."""

    def _reached(self) -> bool:
        if self._tier.down:
            self._counts["errors.down"] += 1
        return not self._tier.down
