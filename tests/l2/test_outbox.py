"""Deletions that L2 did not take: what is said of them, when they are tried again, and what is not read meanwhile."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
import redis
from rig import free_port

from tiered_cache import InvalidationNotDelivered, MemoryTier, TieredCache
from tiered_cache import _shared as shared
from tiered_cache._entry import Entry
from tiered_cache._l1.invalidation import Invalidations
from tiered_cache._reply import UNREACHED
from tiered_cache._shared import Outbox
from tiered_cache.testing import FakeClock, InMemorySharedTier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rig import Rig

    from tiered_cache.local.proxy import FaultProxy
    from tiered_cache.local.valkey import ValkeyServer


@pytest.fixture
def queueing_of() -> Iterator[Callable[[Rig], TieredCache]]:
    """Makes caches on a rig's tier that queue what L2 does not take."""
    with ExitStack() as caches:

        def make(rig: Rig) -> TieredCache:
            local = MemoryTier(ttl=60, jitter=0)
            cache = TieredCache(local, rig.tier, clock=rig.clock, namespace="test", on_failure="queue")
            return caches.enter_context(cache)

        yield make


@pytest.fixture
def queueing(rig: Rig, queueing_of: Callable[[Rig], TieredCache]) -> TieredCache:
    return queueing_of(rig)


def test_a_deletion_that_l2_does_not_take_is_said(rig: Rig, proxy: FaultProxy) -> None:
    """InvalidationNotDelivered, and the local copy is gone all the same."""
    key = rig.plant()
    assert rig.ask(key).tier == "l2"
    proxy.reset()
    with pytest.raises(InvalidationNotDelivered, match="tried again at the next contact"):
        rig.cache.delete(key)
    assert rig.ask(key).value == "loaded"
    proxy.ok()


def test_a_deletion_may_be_queued_in_silence(rig: Rig, queueing: TieredCache, proxy: FaultProxy) -> None:
    """on_failure="queue": nothing is raised, and the rest is the same."""
    key = rig.plant()
    proxy.reset()
    queueing.delete(key)
    proxy.ok()
    rig.clock.advance(2)
    assert queueing.get(key, None) is None
    assert rig.planter.get_entry_or_load(key, lambda: "anew", force_refresh=False).value == key  # in its own L1
    rig.clock.advance(61)
    assert rig.planter.get_entry_or_load(key, lambda: "anew").value == "anew"


def test_a_key_with_an_undelivered_deletion_is_not_read(rig: Rig, queueing: TieredCache, proxy: FaultProxy) -> None:
    """While L2 is away, and at first contact, the old value does not come back; other keys are read again at once."""
    deleted, other = rig.plant(), rig.plant()
    proxy.reset()
    queueing.delete(deleted)
    assert queueing.get(deleted, None) is None
    proxy.ok()
    assert queueing.get(deleted, None) is None  # the breaker is open
    rig.clock.advance(2)
    assert queueing.get_many_or_load([deleted, other], lambda keys: dict.fromkeys(keys, "anew")) == {
        deleted: "anew",
        other: other,
    }


def test_a_deletion_is_delivered_before_its_key_is_read(rig: Rig, queueing: TieredCache, proxy: FaultProxy) -> None:
    """At the next contact all deletions that wait go out, in one round trip, whichever key is asked for."""
    keys = [rig.plant() for _ in range(5)]
    proxy.reset()
    for key in keys:
        queueing.delete(key)
    proxy.ok()
    rig.clock.advance(2)
    assert queueing.get("another key", None) is None
    store = rig.tier.bind("test")
    assert [store.read(key, rig.clock()).entry for key in keys] == [None] * 5
    stats = queueing.stats().l2
    assert stats is not None
    assert stats.deletes == 5


def test_a_server_that_refuses_deletions_and_not_reads(
    server: ValkeyServer, rig_of: Callable[..., Rig], queueing_of: Callable[[Rig], TieredCache]
) -> None:
    """On a replica the old value could be read well, and is not."""
    rig = rig_of(server.url)
    cache = queueing_of(rig)
    deleted, other = rig.plant(), rig.plant()
    with redis.Redis(port=server.port) as admin:
        admin.replicaof("127.0.0.1", str(free_port()))
        cache.delete(deleted)
        assert cache.get(deleted, None) is None
        assert cache.get(other) == other
        admin.replicaof("NO", "ONE")
        assert cache.get(deleted, None) is None
    assert rig.tier.bind("test").read(deleted, rig.clock()).entry is None


def test_warming_up_delivers_too(rig: Rig, queueing: TieredCache, proxy: FaultProxy) -> None:
    """Any contact will do."""
    key = rig.plant()
    proxy.reset()
    queueing.delete(key)
    proxy.ok()
    rig.clock.advance(2)
    assert queueing.warm_up()
    assert rig.tier.bind("test").read(key, rig.clock()).entry is None


def test_a_new_value_takes_the_place_of_a_deletion(rig: Rig, queueing: TieredCache, proxy: FaultProxy) -> None:
    """What is written after the deletion is not deleted by it."""
    key = rig.plant()
    proxy.reset()
    queueing.delete(key)
    proxy.ok()
    rig.clock.advance(2)
    queueing.set(key, "anew")
    assert queueing.warm_up()
    found = rig.tier.bind("test").read(key, rig.clock()).entry
    assert found is not None
    assert found.value == "anew"


def test_what_another_container_writes_after_a_deletion_is_kept(rig: Rig) -> None:
    """A deletion in this container does not keep L1 from holding what L2 has later."""
    key = rig.plant()
    rig.cache.delete(key)
    rig.planter.set(key, "anew")
    assert rig.ask(key).tier == "l2"
    assert rig.ask(key).tier == "l1"


def test_a_load_that_a_deletion_overtook_is_not_written(rig: Rig) -> None:
    """A value whose load began before the deletion goes to its caller, and to no tier."""
    deleted = threading.Event()

    def load() -> str:
        rig.cache.delete("key")
        deleted.set()
        return "from before"

    assert rig.cache.get_or_load("key", load) == "from before"
    assert deleted.is_set()
    assert rig.tier.bind("test").read("key", rig.clock()).entry is None
    assert rig.cache.get("key", None) is None


NOW = 1_800_000_000.0


class Box:
    """An outbox on a store in memory that can be taken away."""

    def __init__(self) -> None:
        self.tier = InMemorySharedTier(ttl=3600)
        self.store = self.tier.bind("test")
        self.outbox = Outbox(self.store, Invalidations())

    def holds(self, key: str, loaded_at: float = NOW) -> str:
        self.store.write(key, Entry(key, loaded_at=loaded_at, fresh_for=3600.0), loaded_at)
        return key

    def readable(self, key: str, now: float) -> bool:
        one, many = self.outbox.read(key, now), self.outbox.read_many([key], now)[key]
        assert (one.entry is None) == (many.entry is None)
        return one.entry is not None


def test_a_long_queue_is_delivered_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """No contact delivers more than MOST_AT_ONCE of them and the keys that it asks for, and none is lost."""
    monkeypatch.setattr(shared, "MOST_AT_ONCE", 10)
    box = Box()
    keys = [box.holds(f"key-{number}") for number in range(35)]
    box.tier.down = True
    assert not box.outbox.delete_many(keys, NOW)
    box.tier.down = False
    assert not box.readable(keys[-1], NOW)
    assert len(box.tier.entries) == 35 - 11 - 10
    box.outbox.warm_up(NOW)
    box.outbox.warm_up(NOW)
    assert box.tier.entries == {}
    assert box.outbox.delete_many(keys, NOW)


def test_what_there_is_no_room_to_remember_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit no entry from before that moment is read; later ones are."""
    monkeypatch.setattr(shared, "MOST_UNDELIVERED", 2)
    box = Box()
    keys = [box.holds(f"key-{number}") for number in range(4)]
    box.tier.down = True
    for key in keys[:3]:
        assert not box.outbox.delete(key, NOW + 5)
    assert not box.outbox.delete(keys[0], NOW + 5)
    box.tier.down = False
    assert [box.readable(key, NOW + 10) for key in keys] == [False] * 4
    box.holds(keys[2], NOW + 10)
    assert box.readable(keys[2], NOW + 10)
    assert box.outbox.read("nothing", NOW) != UNREACHED


def test_a_deletion_that_comes_in_during_a_delivery_is_delivered_too() -> None:
    """The success of an earlier deletion of a key is not taken for that of a later one."""
    box = Box()
    key = box.holds("key")
    box.tier.down = True
    box.outbox.delete(key, NOW)
    delete_many = box.store.delete_many

    def meanwhile(keys: list[str], now: float) -> bool:
        box.tier.down = False
        done = delete_many(keys, now)
        box.store.delete_many = delete_many
        box.holds(key)
        box.tier.down = True
        box.outbox.delete(key, now)  # by another thread
        return done

    box.store.delete_many = meanwhile
    assert box.outbox.read(key, NOW) == UNREACHED
    box.tier.down = False
    assert box.outbox.read(key, NOW).entry is None
    assert box.tier.entries == {}


def test_many_values_leave_out_what_is_undelivered_or_overtaken() -> None:
    """write_many writes neither a key whose deletion waits, nor a value from before a deletion."""
    invalidated = Invalidations()
    tier = InMemorySharedTier(ttl=60)
    outbox = Outbox(tier.bind("test"), invalidated)
    entries = [(key, Entry(key, loaded_at=NOW, fresh_for=60.0)) for key in ("waits", "overtaken", "fine")]
    tier.down = True
    outbox.delete("waits", NOW)
    tier.down = False
    invalidated.note_key("overtaken")
    outbox.write_many(entries, NOW)
    assert not outbox.write(*entries[1], NOW)
    assert [key for _, key in tier.entries] == ["fine"]


def test_a_cache_without_l2_has_all_methods_of_a_store() -> None:
    """No L2 holds nothing and takes every deletion; it has no counters."""
    with TieredCache(clock=FakeClock()) as cache:
        assert cache.get_many_or_load(["a", "b"], lambda keys: dict.fromkeys(keys, 1)) == {"a": 1, "b": 1}
        cache.delete("a")
        assert cache.get("a", None) is None
        assert cache.warm_up()
        assert cache.stats().l2 is None
    nothing = shared.NoSharedStore()
    assert nothing.read_many(["a"], NOW) == {"a": nothing.read("a", NOW)}
    assert nothing.write("a", Entry(1, loaded_at=NOW, fresh_for=1.0), NOW)
    assert nothing.delete_many(["a"], NOW)
    with pytest.raises(NotImplementedError):
        nothing.stats(NOW)
