"""What asynchronous replication loses: acknowledged writes and deletions. The origin is the truth; the TTL bounds the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from lossy import LossyRelay, needs_loss
from rig import wait_until

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.local.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from tiered_cache.testing import FakeClock

    Measured = Callable[[str], None]

TTL = 600
AT_ONCE = ("--repl-diskless-sync-delay", "0")
KEYS = [f"key-{number}" for number in range(100)]


class Origin:
    """The truth: every key has the current version as its value."""

    def __init__(self) -> None:
        self.version = 1
        self.loads = 0

    def loader(self) -> int:
        self.loads += 1
        return self.version


class Pair:
    """A primary and its replica, the line between them, and the way of the clients, which can be led to the other."""

    def __init__(self, stack: ExitStack, clock: FakeClock) -> None:
        self._stack, self._clock = stack, clock
        self.primary, self.replica = (stack.enter_context(ValkeyServer(config=AT_ONCE)) for _ in range(2))
        self.admins = {
            server: stack.enter_context(redis.Redis(port=server.port, retry=None))
            for server in (self.primary, self.replica)
        }
        self.way = stack.enter_context(LossyRelay(self.primary.port))
        self.line = stack.enter_context(LossyRelay(self.primary.port))
        self.origin = Origin()
        self.follow(self.replica, self.primary)

    def follow(self, server: ValkeyServer, primary: ValkeyServer) -> None:
        """Let `server` be a replica of `primary`, and wait until it has all that the other has."""
        self.line.upstream = primary.port
        self.admins[server].replicaof("127.0.0.1", str(self.line.port))
        wait_until(lambda: self.admins[server].info("replication").get("master_link_status") == "up")
        self.settle(primary)

    def settle(self, primary: ValkeyServer) -> None:
        """Wait until the other has all that was written so far."""
        assert self.admins[primary].wait(1, 60_000) >= 1

    def cache(self, url: str) -> TieredCache:
        tier = RedisTier(url, ttl=TTL, stale_if_error=TTL, jitter=0, timeout=20)
        cache = TieredCache(MemoryTier(ttl=60, jitter=0), tier, namespace="test", clock=self._clock)
        self._stack.callback(cache.close)
        return cache

    def versions(self, cache: TieredCache) -> list[int]:
        """What the cache says of each key, in an invocation of its own."""
        with cache.invocation(lambda: 30.0):
            return [cache.get_or_load(key, self.origin.loader) for key in KEYS]


@pytest.fixture
def pair(stack: ExitStack, clock: FakeClock) -> Pair:
    return Pair(stack, clock)


@pytest.mark.fault("F39", "acknowledged writes lost in a failover")
def test_acknowledged_writes_are_lost(pair: Pair, clock: FakeClock, measured: Measured) -> None:
    """Values are loaded again. A deletion that is lost brings the old value back, until its TTL and never after it."""
    needs_loss()
    writer = pair.cache(pair.way.url)
    assert pair.versions(writer) == [1] * 100
    pair.settle(pair.primary)
    pair.line.lose(1)  # the replica is cut off, and nobody has noticed
    clock.advance(1)
    pair.origin.version = 2
    for key in KEYS[:50]:
        writer.delete(key)  # acknowledged
    assert pair.versions(writer)[:50] == [2] * 50
    pair.primary.kill()
    pair.admins[pair.replica].replicaof("NO", "ONE")
    pair.way.upstream = pair.replica.port

    clock.advance(61)
    reader = pair.cache(pair.way.url)
    after = pair.versions(reader)
    clock.advance(TTL - 63)
    before_the_end = pair.versions(reader)
    clock.advance(2)
    at_the_end = pair.versions(reader)
    measured(
        f"of 50 acknowledged deletions {after[:50].count(1)} were lost: the old value was served again, "
        f"{before_the_end[:50].count(1)} one second before its TTL of {TTL} s was over, {at_the_end.count(1)} one second after"
    )
    assert at_the_end == [2] * 100
    assert writer.stats().l2.errors.keys() <= {"refused", "reset"}


@pytest.mark.fault("F40", "two primaries at once")
def test_two_primaries(pair: Pair, clock: FakeClock, measured: Measured) -> None:
    """On both sides each value is one that the origin had, none beyond its TTL; healed, the lost side's writes are gone."""
    other_way = pair._stack.enter_context(LossyRelay(pair.replica.port))
    here, there = pair.cache(pair.way.url), pair.cache(other_way.url)
    assert pair.versions(here) == [1] * 100
    pair.settle(pair.primary)
    pair.admins[pair.replica].replicaof("NO", "ONE")  # what Sentinel does where it cannot see the primary
    assert pair.versions(there) == [1] * 100
    clock.advance(1)
    pair.origin.version = 2
    for key in KEYS[:50]:
        here.delete(key)
    for key in KEYS[50:]:
        there.delete(key)
    sides = pair.versions(here) + pair.versions(there)
    assert set(sides) <= {1, 2}
    assert pair.versions(here)[:50] == [2] * 50
    assert pair.versions(there)[50:] == [2] * 50
    split = sides.count(1)

    pair.follow(pair.primary, pair.replica)  # and its writes are thrown away
    pair.way.upstream = pair.replica.port
    pair.way.cut()
    clock.advance(61)
    healed = pair.versions(here) + pair.versions(there)
    clock.advance(TTL - 61)
    late = pair.versions(here) + pair.versions(there)
    measured(
        f"{split} of 200 answers old while split, {healed.count(1)} after it, {late.count(1)} after the TTL of {TTL} s; "
        "0 that the origin never had"
    )
    assert set(healed) <= {1, 2}
    assert late == [2] * 200
