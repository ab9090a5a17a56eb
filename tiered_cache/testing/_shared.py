"""A shared tier in the memory of one process: for tests of code that uses a cache, without a server."""

from __future__ import annotations

import threading
import time
from itertools import count
from typing import TYPE_CHECKING

from tiered_cache._entry import START, Position
from tiered_cache._errors import SerializationError
from tiered_cache._l2.codec import MsgpackCodec
from tiered_cache._l2.record import opened, opened_handle, sealed, sealed_handle
from tiered_cache._news import EVERYTHING, Invalidation, Kind, News
from tiered_cache._options import freshness
from tiered_cache._reply import ABSENT, UNREACHED, Claim, Filled, Lease, Reply, Right
from tiered_cache._rules import awaited_for, kept_for
from tiered_cache._stats import Counters, SharedStats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tiered_cache._entry import Entry
    from tiered_cache._units import Duration

_EPOCHS = count(1)


class _Log:
    """The log of one namespace, and its markers."""

    def __init__(self) -> None:
        epoch = next(_EPOCHS)
        self.end: Position = (epoch, 1)
        self.records: list[tuple[Position, Invalidation]] = []
        self.markers: dict[Invalidation, Position] = {}

    def append(self, what: Sequence[Invalidation]) -> None:
        self.end = (self.end[0], self.end[1] + 1)
        for one in what:
            self.records.append((self.end, one))
            if one.kind is Kind.TAG or one.kind is Kind.ALL:
                self.markers[one] = self.end

    def news(self, since: Position, tags: Sequence[str]) -> News:
        followed = since[0] == self.end[0]
        return News(
            since,
            self.end,
            followed,
            records=tuple(record for record in self.records if followed and record[0] > since),
            markers={tag: self.markers.get(Invalidation(Kind.TAG, tag), START) for tag in tags},
            cleared=self.markers.get(EVERYTHING, START),
        )


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
        self.freshness = freshness(ttl, stale_while_revalidate, stale_if_error, jitter)
        self.lease = 300.0
        self.down = False
        self.entries: dict[tuple[str, str], bytes] = {}
        self.leases: dict[tuple[str, str], tuple[bytes, float]] = {}
        self.handles: dict[tuple[str, str], bytes] = {}
        self.logs: dict[str, _Log] = {}
        self.lock = threading.RLock()
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

    def alias(self, name: str) -> str:
        """The name itself."""
        return name

    def read(self, key: str, now: float, since: Position | None, held: Entry | None = None) -> Reply:
        """What is held under `key`."""
        if not self._reached():
            return UNREACHED
        with self._tier.lock:
            news = None if since is None else self._log().news(since, ())
            found = self._tier.entries.get((self._namespace, key))
        entry = None if found is None else opened(key, found, self._tier.codec, max_bytes=len(found), held=held)
        if entry is None or now >= entry.loaded_at + kept_for(entry):
            self._counts["misses"] += 1
            return ABSENT._replace(news=news)
        self._counts["hits"] += 1
        return Reply(entry, True, news=news)

    def read_many(
        self, keys: Sequence[str], now: float, since: Position | None, held: Mapping[str, Entry] | None = None
    ) -> tuple[dict[str, Reply], News | None]:
        """What is held under `keys`."""
        news = None if since is None else self.look(since, (), now)
        known = held or {}
        return {key: self.read(key, now, None, known.get(key)) for key in keys}, news

    def ask(self, lease: Lease, claim: Claim, now: float, since: Position | None) -> Reply:
        """What is held under the lease's key, and the lease."""
        with self._tier.lock:
            reply = self.read(lease.key, now, since)
            if not reply.reached or (reply.entry is not None and claim is Claim.MISSING):
                return reply
            name = (self._namespace, lease.key)
            reply = reply._replace(left=self._left(lease.key, now))
            _, until = self._tier.leases.get(name, (b"", 0.0))
            if claim is not Claim.SEIZE and time.monotonic() < until:
                return reply._replace(right=Right.TAKEN)
            self._tier.leases[name] = (lease.token, time.monotonic() + lease.seconds)
        lease.held = True
        self._counts["leases"] += 1
        return reply._replace(right=Right.MINE)

    def ask_many(
        self, leases: Sequence[Lease], claim: Claim, now: float, since: Position | None
    ) -> tuple[dict[str, Reply], News | None]:
        """The same for several."""
        news = None if since is None else self.look(since, (), now)
        return {lease.key: self.ask(lease, claim, now, None) for lease in leases}, news

    def look(self, since: Position, tags: Sequence[str], now: float) -> News | None:  # noqa: ARG002
        """What is new in the log."""
        if not self._reached():
            return None
        with self._tier.lock:
            return self._log().news(since, tags)

    def fill(self, lease: Lease, entry: Entry, now: float) -> Filled:
        """Keep `entry`."""
        try:
            data = sealed(lease.key, entry, self._tier.codec, compress_above=None)
        except SerializationError:
            self._counts["unserializable"] += 1
            self.release([lease], now, drop=True)
            raise
        if now >= entry.loaded_at + kept_for(entry) or not self._reached():
            return Filled.NOT_KEPT
        with self._tier.lock:
            if not self._given_up(lease):
                return Filled.REFUSED
            self._tier.entries[self._namespace, lease.key] = data
            self._tier.handles.pop((self._namespace, lease.key), None)
        self._counts["writes"] += 1
        return Filled.KEPT

    def fill_many(self, filled: Sequence[tuple[Lease, Entry]], now: float) -> dict[str, Filled]:
        """The same for several."""
        outcomes: dict[str, Filled] = {}
        for lease, entry in filled:
            try:
                outcomes[lease.key] = self.fill(lease, entry, now)
            except SerializationError:
                outcomes[lease.key] = Filled.NOT_KEPT
        return outcomes

    def leave(self, lease: Lease, left: Entry, pause: float, now: float) -> Filled:  # noqa: ARG002
        """Keep the handle in `left`."""
        if not self._reached():
            return Filled.NOT_KEPT
        with self._tier.lock:
            if not self._given_up(lease):
                return Filled.REFUSED
            name = (self._namespace, lease.key)
            self._tier.handles[name] = sealed_handle(lease.key, left)
            self._tier.leases[name] = (lease.token, time.monotonic() + pause)
        return Filled.KEPT

    def release(self, leases: Sequence[Lease], now: float, *, drop: bool, ended: bool = False) -> None:  # noqa: ARG002
        """Give up the leases."""
        if not self._reached():
            return
        with self._tier.lock:
            for lease in leases:
                name = (self._namespace, lease.key)
                if not self._given_up(lease):
                    continue
                if drop or ended:
                    self._tier.handles.pop(name, None)
                if drop:
                    self._tier.entries.pop(name, None)

    def takes_writes(self, now: float) -> bool:  # noqa: ARG002
        """Always: there is no breaker."""
        return True

    def invalidate(self, what: Sequence[Invalidation], since: Position, now: float, lease: Lease | None) -> News | None:
        """Forget what is invalidated, and tell the others."""
        if not self._reached():
            return None
        with self._tier.lock:
            for kind, name in what:
                if kind is Kind.KEY:
                    self._tier.entries.pop((self._namespace, name), None)
                    self._counts["deletes"] += 1
                elif kind is Kind.EXPIRED:
                    self._expire(name, now)
                if kind is Kind.KEY or kind is Kind.EXPIRED:
                    self._tier.leases.pop((self._namespace, name), None)
                    self._tier.handles.pop((self._namespace, name), None)
            if lease is not None:
                self._tier.leases[self._namespace, lease.key] = (lease.token, time.monotonic() + lease.seconds)
                lease.held = True
            self._log().append(what)
            return self._log().news(since, ())

    def warm_up(self, now: float, *, wait: bool = True) -> bool:  # noqa: ARG002
        """Whether the tier is not down; True where that is not waited for."""
        return not wait or self._reached()

    def thawed(self, now: float) -> None:
        """There are no connections that could have died."""

    def suspend(self) -> None:
        """There are no connections to be closed."""

    def allow(self, seconds: float | None) -> None:
        """It takes no time."""

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
            leases=counts["leases"],
        )

    def close(self) -> None:
        """Nothing to give back."""

    def _log(self) -> _Log:
        return self._tier.logs.setdefault(self._namespace, _Log())

    def _left(self, key: str, now: float) -> Entry | None:
        """What a load has left that goes on."""
        found = self._tier.handles.get((self._namespace, key))
        left = None if found is None else opened_handle(key, found, max_bytes=len(found))
        return None if left is None or now >= left.loaded_at + awaited_for(left) else left

    def _given_up(self, lease: Lease) -> bool:
        """Whether the lease was still held; it is not any more."""
        lease.held = False
        token, until = self._tier.leases.get((self._namespace, lease.key), (b"", 0.0))
        if token != lease.token or time.monotonic() >= until:
            return False
        del self._tier.leases[self._namespace, lease.key]
        return True

    def _expire(self, key: str, now: float) -> None:
        found = self._tier.entries.get((self._namespace, key))
        if found is not None:
            entry = opened(key, found, self._tier.codec, max_bytes=len(found))
            entry.expire(now)
            self._tier.entries[self._namespace, key] = sealed(key, entry, self._tier.codec, compress_above=None)

    def _reached(self) -> bool:
        if self._tier.down:
            self._counts["errors.down"] += 1
        return not self._tier.down
