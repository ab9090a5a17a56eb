"""Invalidations that L2 did not take: what is said of them, when they are tried again, and what is not read meanwhile."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import redis
from rig import delete

from tiered_cache import InvalidationNotDelivered, MemoryTier, TieredCache
from tiered_cache import _shared as shared
from tiered_cache._coherence import Follower
from tiered_cache._entry import START, Birth, Entry
from tiered_cache._l1.memory import MemoryStore
from tiered_cache._news import EVERYTHING, Invalidation, Kind
from tiered_cache._reply import UNREACHED, Claim, Filled, Right
from tiered_cache._shared import NoShared, Shared
from tiered_cache._stats import Counters
from tiered_cache.testing import FakeClock, InMemorySharedTier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rig import Rig

    from tiered_cache._news import News
    from tiered_cache.local.proxy import FaultProxy
    from tiered_cache.local.valkey import ValkeyServer

NOW = 1_800_000_000.0
ACTS: dict[str, Callable[[TieredCache, str], None]] = {
    "delete": lambda cache, key: cache.delete(key),
    "expire": lambda cache, key: cache.expire(key),
    "invalidate_tag": lambda cache, key: cache.invalidate_tag(f"tag of {key}"),
    "clear": lambda cache, _: cache.clear(),
}
every_act = pytest.mark.parametrize("act", ACTS)


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


def plant(rig: Rig, key: str) -> str:
    """A key of which L2 holds a value, the key itself, with a tag of its own."""
    rig.planter.set(key, key, tags=[f"tag of {key}"])
    return key


def undelivered(cache: TieredCache) -> int:
    found = cache.stats().l2
    assert found is not None
    return found.undelivered


@every_act
def test_an_invalidation_that_l2_does_not_take_is_said(rig: Rig, proxy: FaultProxy, act: str) -> None:
    """InvalidationNotDelivered, and the local copy is gone all the same."""
    key = plant(rig, "key")
    assert rig.ask(key).tier == "l2"
    proxy.reset()
    with pytest.raises(InvalidationNotDelivered, match="tried again at the next contact"):
        ACTS[act](rig.cache, key)
    assert rig.cache.get(key, None) is None
    assert rig.ask(key).value == "loaded"
    assert rig.l2.undelivered == 1
    proxy.ok()


@every_act
def test_an_invalidation_may_be_queued_in_silence(rig: Rig, queueing: TieredCache, proxy: FaultProxy, act: str) -> None:
    """on_failure="queue": nothing is raised, and the rest is the same; others learn it once it is delivered."""
    key = plant(rig, "key")
    proxy.reset()
    ACTS[act](queueing, key)
    assert queueing.get(key, None) is None
    assert rig.planter.get_or_load(key, lambda: "anew") == key
    proxy.ok()
    rig.clock.advance(2)
    assert undelivered(queueing) == 1
    assert queueing.get(key, None) is None
    assert undelivered(queueing) == 0
    with rig.planter.invocation():
        assert rig.planter.get_or_load(key, lambda: "anew") == "anew"


@every_act
def test_what_has_an_undelivered_invalidation_is_not_read(
    server: ValkeyServer, rig_of: Callable[..., Rig], queueing_of: Callable[[Rig], TieredCache], nobody: int, act: str
) -> None:
    """On a replica, which refuses invalidations and not reads, the old value could be read well, and is not."""
    rig = rig_of(server.url)
    cache = queueing_of(rig)
    key, other = plant(rig, "key"), plant(rig, "other")
    rig.planter.set("plain", "plain")
    with redis.Redis(port=server.port) as admin:
        admin.replicaof("127.0.0.1", str(nobody))
        ACTS[act](cache, key)
        plain = "anew" if act == "clear" else "plain"
        assert cache.get_many_or_load(["plain"], lambda _: {"plain": "anew"}) == {"plain": plain}
        assert cache.get(key, None) is None
        assert cache.get(other, None) == (None if act == "clear" else other)
        assert cache.get_many_or_load([key], lambda keys: dict.fromkeys(keys, "anew")) == {key: "anew"}
        admin.replicaof("NO", "ONE")
        rig.clock.advance(2)
        cache._memory.drop(key)
        assert cache.get(key, None) is None
    assert undelivered(cache) == 0
    with TieredCache(MemoryTier(ttl=60), rig.tier, clock=rig.clock, namespace="test") as new:
        assert new.get(key, None) is None
        assert new.get(other, None) == (None if act == "clear" else other)


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


def test_invalidations_are_delivered_in_one_round_trip(rig: Rig, queueing: TieredCache, proxy: FaultProxy) -> None:
    """At the next contact all that wait go out before anything is read, whichever key is asked for."""
    keys = [rig.plant() for _ in range(5)]
    tagged = plant(rig, "tagged")
    proxy.reset()
    for key in keys:
        queueing.delete(key)
    queueing.invalidate_tag("tag of tagged", "nobody's")
    proxy.ok()
    rig.clock.advance(2)
    calls: list[list[bytes]] = []
    link = rig.tier.link()
    call = link.call

    def seen(commands: Sequence[tuple[bytes, ...]], *rest: Any) -> list[Any]:
        calls.append([command[0] for command in commands])
        return call(commands, *rest)

    link.call = seen
    assert queueing.get("another key", None) is None
    link.call = call
    assert calls[0] == [b"DEL"] * 5 + [b"EVALSHA", b"HMGET", b"XRANGE"]
    assert {name for names in calls[1:] for name in names} <= {b"XRANGE", b"HGET", b"GET"}
    store = rig.tier.bind("test")
    assert [store.read(key, rig.clock(), None).entry for key in keys] == [None] * 5
    stats = queueing.stats().l2
    assert stats is not None
    assert (stats.deletes, stats.undelivered) == (5, 0)
    with TieredCache(MemoryTier(ttl=60), rig.tier, clock=rig.clock, namespace="test") as new:
        assert new.get(tagged, None) is None


def test_warming_up_looks_and_any_read_delivers(rig: Rig, queueing: TieredCache, proxy: FaultProxy) -> None:
    """A lease is asked for after the delivery too."""
    key = rig.plant()
    proxy.reset()
    queueing.delete(key)
    proxy.ok()
    rig.clock.advance(2)
    assert queueing.warm_up()
    assert queueing.get_or_load("another key", lambda: 1) == 1
    assert rig.tier.bind("test").read(key, rig.clock(), None).entry is None


def test_a_new_value_takes_the_place_of_a_deletion(rig: Rig, queueing: TieredCache, proxy: FaultProxy) -> None:
    """What is set after the deletion is not deleted by it."""
    key = rig.plant()
    proxy.reset()
    queueing.delete(key)
    proxy.ok()
    rig.clock.advance(2)
    queueing.set(key, "anew")
    assert undelivered(queueing) == 0
    assert queueing.get("another key", None) is None
    found = rig.tier.bind("test").read(key, rig.clock(), None).entry
    assert found is not None
    assert found.value == "anew"


def test_a_value_set_while_l2_is_away(rig: Rig, queueing: TieredCache, proxy: FaultProxy) -> None:
    """L1 has it until the invalidation is delivered; then no tier brings the old one back."""
    key = rig.plant()
    proxy.reset()
    queueing.set(key, "anew")
    assert queueing.get(key) == "anew"
    assert undelivered(queueing) == 1
    proxy.ok()
    rig.clock.advance(2)
    assert queueing.get("another key", None) is None
    assert rig.tier.bind("test").read(key, rig.clock(), None).entry is None
    assert queueing.get_or_load(key, lambda: "anew") == "anew"


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
    assert rig.tier.bind("test").read("key", rig.clock(), None).entry is None
    assert rig.cache.get("key", None) is None


class Box:
    """What stands around a store in memory, which can be taken away."""

    def __init__(self) -> None:
        self.tier = InMemorySharedTier(ttl=3600)
        self.store = self.tier.bind("test")
        self.memory = MemoryStore(MemoryTier(ttl=60, jitter=0))
        self.counts = Counters()
        follower = Follower(self.memory, "ttl", lambda _: None, self.counts)
        self.shared = Shared(self.store, self.memory, follower, self.counts)

    def holds(self, key: str) -> str:
        """A key of which the tier holds a value that was loaded just now by another container."""
        lease = self.shared.lease(key, 60.0)
        down, self.tier.down = self.tier.down, False
        self.store.ask(lease, Claim.SEIZE, NOW, None)
        news = self.store.look(START, (), NOW)
        assert news is not None
        entry = Entry(key, loaded_at=NOW, fresh_for=3600.0, birth=Birth(news.end, 0))
        assert self.store.fill(lease, entry, NOW) is Filled.KEPT
        self.tier.down = down
        return key

    def delete(self, *keys: str) -> bool:
        return self.shared.invalidate([Invalidation(Kind.KEY, key) for key in keys], NOW)

    def readable(self, key: str) -> bool:
        one, many = self.shared.read(key, NOW), self.shared.read_many([key], NOW)[key]
        asked = self.shared.ask(self.shared.lease(key, 60.0), Claim.MISSING, NOW)
        assert (one.entry is None) == (many.entry is None) == (asked.entry is None)
        return one.entry is not None

    @property
    def undelivered(self) -> int:
        return self.shared.stats(NOW).undelivered


def test_a_long_queue_is_delivered_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """No contact delivers more than MOST_AT_ONCE of them, and none is lost."""
    monkeypatch.setattr(shared, "MOST_AT_ONCE", 10)
    box = Box()
    keys = [box.holds(f"key-{number}") for number in range(35)]
    box.tier.down = True
    assert not box.delete(*keys)
    box.tier.down = False
    assert box.shared.read(keys[-1], NOW) == UNREACHED
    assert (len(box.tier.entries), box.undelivered) == (25, 25)
    for _ in range(3):
        box.shared.read("another", NOW)
    assert (box.tier.entries, box.undelivered) == ({}, 0)
    assert box.delete(*keys)


def test_beyond_the_limit_everything_is_to_be_invalidated(monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no room to remember is not forgotten: nothing from before is read, and later values are."""
    monkeypatch.setattr(shared, "MOST_UNDELIVERED", 2)
    box = Box()
    keys = [box.holds(f"key-{number}") for number in range(4)]
    box.tier.down = True
    for number, key in enumerate(keys[:3], 1):
        assert not box.delete(key)
        assert box.undelivered == (number if number < 3 else 1)
    assert [*box.shared._undelivered] == [EVERYTHING]
    assert not box.delete(keys[0])
    box.tier.down = False
    assert [box.readable(key) for key in keys] == [False] * 4
    assert box.undelivered == 0
    box.holds(keys[2])
    assert box.readable(keys[2])


def test_no_more_than_ten_thousand_are_remembered() -> None:
    """The limit as it is."""
    box = Box()
    box.tier.down = True
    box.delete(*(str(number) for number in range(10_000)))
    assert box.undelivered == 10_000
    box.delete("one more")
    assert box.undelivered == 1


def test_a_deletion_that_comes_in_during_a_delivery_is_delivered_too() -> None:
    """The success of an earlier deletion of a key is not taken for that of a later one."""
    box = Box()
    key = box.holds("key")
    box.tier.down = True
    box.delete(key)
    invalidate = box.store.invalidate

    def meanwhile(*arguments: Any) -> News | None:
        box.tier.down = False
        done = invalidate(*arguments)
        box.store.invalidate = invalidate  # type: ignore[method-assign]
        box.holds(key)
        box.tier.down = True
        box.delete(key)  # by another thread
        return done

    box.store.invalidate = meanwhile  # type: ignore[method-assign]
    assert box.shared.read(key, NOW) == UNREACHED
    box.tier.down = False
    assert box.shared.read(key, NOW).entry is None
    assert (box.tier.entries, box.undelivered) == ({}, 0)


def test_a_delivery_that_fails_leaves_all_that_waits() -> None:
    """It is tried again at each contact."""
    box = Box()
    box.tier.down = True
    box.delete("a")
    for _ in range(3):
        assert box.shared.read("b", NOW) == UNREACHED
        assert box.shared.ask(box.shared.lease("b", 1.0), Claim.MISSING, NOW) == UNREACHED
    assert box.undelivered == 1


def test_all_that_waits_is_delivered_at_the_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """In as many round trips as it takes; where one fails there is no other."""
    monkeypatch.setattr(shared, "MOST_AT_ONCE", 10)
    box, away = Box(), Box()
    for one in (box, away):
        keys = [one.holds(f"key-{number}") for number in range(35)]
        one.tier.down = True
        assert not one.delete(*keys)
    box.tier.down = False
    box.shared.close(NOW)
    assert (box.tier.entries, box.undelivered) == ({}, 0)
    away.shared.close(NOW)
    assert (len(away.tier.entries), away.undelivered) == (35, 35)


def test_a_fork_gives_up_no_lease_of_its_parent() -> None:
    """Whose load goes on."""
    box = Box()
    lease = box.shared.lease("key", 60.0)
    assert box.shared.ask(lease, Claim.MISSING, NOW).right is Right.MINE
    box.shared.forked()
    box.shared.close(NOW)
    assert box.shared.fill(lease, Entry(1, loaded_at=NOW, fresh_for=60.0), NOW) is Filled.KEPT


def test_what_is_invalidated_is_forgotten_here_even_if_the_store_breaks() -> None:
    """An interrupt in the midst of the call leaves no old value in L1."""
    box = Box()
    box.memory.store("key", Entry("old", loaded_at=NOW, fresh_for=60.0, birth=box.memory.birth()))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    box.store.invalidate = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        box.delete("key")
    assert box.memory.look("key") is None


def test_a_lease_that_is_not_held_fills_and_releases_nothing() -> None:
    """The store is not even asked."""
    box = Box()
    lease = box.shared.lease("key", 60.0)
    entry = Entry(1, loaded_at=NOW, fresh_for=60.0)
    box.tier.down = True
    assert box.shared.fill(lease, entry, NOW) is Filled.NOT_KEPT
    assert box.shared.fill_many([(lease, entry)], NOW) == {}
    box.shared.release([lease], NOW, drop=True)
    assert box.shared.read_many([], NOW) == {}
    assert box.shared.stats(NOW).errors == {}


def test_a_fill_after_a_deletion_is_refused_and_counted() -> None:
    """One by one, and many at once."""
    box = Box()
    leases = [box.shared.lease(key, 60.0) for key in ("a", "b", "c")]
    assert {reply.right for reply in box.shared.ask_many(leases, Claim.MISSING, NOW).values()} == {Right.MINE}
    assert delete(box.store, "a", "b", now=NOW)
    entries = [Entry(1, loaded_at=NOW, fresh_for=60.0) for _ in leases]
    assert box.shared.fill(leases[0], entries[0], NOW) is Filled.REFUSED
    filled = box.shared.fill_many(list(zip(leases[1:], entries[1:], strict=True)), NOW)
    assert filled == {"b": Filled.REFUSED, "c": Filled.KEPT}
    assert box.shared.stats(NOW).refused == 2


def test_a_cache_without_l2_has_all_methods() -> None:
    """No L2 holds nothing and takes every invalidation; it has no counters."""
    with TieredCache(clock=FakeClock()) as cache:
        assert cache.get_many_or_load(["a", "b"], lambda keys: dict.fromkeys(keys, 1)) == {"a": 1, "b": 1}
        cache.delete("a")
        assert cache.get("a", None) is None
        assert cache.warm_up()
        assert cache.stats().l2 is None
    nothing = NoShared(MemoryStore(MemoryTier(ttl=60)))
    lease = nothing.lease("a", 1.0)
    entry = Entry(1, loaded_at=NOW, fresh_for=1.0)
    assert not nothing.catch_up(NOW)
    assert nothing.read_many(["a"], NOW) == {"a": nothing.read("a", NOW)}
    assert nothing.ask_many([lease], Claim.MISSING, NOW) == {"a": nothing.ask(lease, Claim.MISSING, NOW)}
    assert nothing.ask(lease, Claim.MISSING, NOW).right is Right.MINE
    assert nothing.fill_many([(lease, entry)], NOW) == {"a": nothing.fill(lease, entry, NOW)} == {"a": Filled.KEPT}
    assert nothing.invalidate([EVERYTHING], NOW)
    nothing.release([lease], NOW, drop=True)
    nothing.allow(1.0)
    nothing.close(NOW)
    with pytest.raises(NotImplementedError):
        nothing.stats(NOW)
