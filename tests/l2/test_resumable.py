"""Loads that go on elsewhere: their handles in L2, who takes them up, and what ends them. In memory, and on a real server."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from math import inf
from typing import TYPE_CHECKING, Any

import pytest
import redis
from rig import Naps, leased, wait_until, write

from tiered_cache import (
    AsyncTieredCache,
    InvalidationNotDelivered,
    LoadContext,
    Loaded,
    LoadPending,
    MemoryTier,
    NotFound,
    OriginError,
    Reason,
    RedisTier,
    SerializationError,
    TieredCache,
)
from tiered_cache._entry import START, Birth, Entry
from tiered_cache._l2.envelope import Unreadable
from tiered_cache._l2.record import opened_handle, sealed, sealed_handle
from tiered_cache._l2.scripts import Script
from tiered_cache._load import Patience
from tiered_cache._news import Invalidation, Kind
from tiered_cache._reply import Claim, Filled, Lease, Right
from tiered_cache._rules import pause_before_look
from tiered_cache.local.cluster import ValkeyCluster
from tiered_cache.testing import FakeClock, InMemorySharedTier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiered_cache.local.proxy import FaultProxy
    from tiered_cache.local.valkey import ValkeyServer

NOW = 1_800_000_000.0
WAIT = 60.0
TIMEOUT = 0.25
"""Seconds after which a call ends that nothing answers; all others have as long as a busy machine may need."""
VALUE, LEASE, PENDING = (f"tc1:{{n|k}}{end}" for end in ("", ":lease", ":pending"))


class Query:
    """A loader whose load goes on elsewhere until it is said to be done. Counts what is asked of it."""

    def __init__(self) -> None:
        self.value: Any = "old"
        self.started: list[Any] = []
        """What each execution will bring: the origin's value when it began."""
        self.looks = 0
        self.done = False
        self.tags: tuple[str, ...] = ()
        self.resumable = False
        self.wait: Any = None
        self.contexts: list[LoadContext] = []
        self.before_answer: Callable[[], object] = lambda: None

    def load(self, context: LoadContext) -> Any:
        self.contexts.append(context)
        handle = context.handle
        if handle is None:
            self.started.append(self.value)
            handle = str(len(self.started))
        else:
            self.looks += 1
        value = self.started[int(handle) - 1] if self.done else None
        self.before_answer()
        if isinstance(value, Exception):
            raise value
        return Loaded(value, tags=self.tags) if self.done else context.pending(handle)


class Fleet:
    """Makes containers, each a cache with a tier of its own, on a server or in the memory of this process."""

    def __init__(self, url: str | None, close: ExitStack) -> None:
        self.clock = FakeClock()
        self.url = url
        self._close = close
        self.policy: dict[str, Any] = {"ttl": 100, "stale_while_revalidate": 1000, "stale_if_error": 1000, "jitter": 0}
        self.memory = InMemorySharedTier(**self.policy)

    def tier(self, url: str | None = None) -> Any:
        where = url or self.url
        return self.memory if where is None else RedisTier(where, timeout=20, **self.policy)

    def container(self, url: str | None = None, **options: Any) -> TieredCache:
        options = {"namespace": "n", "refresh": "inline", "clock": self.clock, "error_backoff": 10} | options
        return self._close.enter_context(TieredCache(MemoryTier(ttl=1, jitter=0), self.tier(url), **options))

    def asynchronous(self) -> AsyncTieredCache:
        return AsyncTieredCache(MemoryTier(ttl=1, jitter=0), self.tier(), namespace="n", clock=self.clock)

    def store(self) -> Any:
        tier = self.tier()
        if self.url is not None:
            self._close.callback(tier.close)
        return tier.bind("n")

    def next_look(self, seconds: float = 20.0) -> None:
        """The pause before the next look is over, and so is the backing off."""
        self.clock.advance(seconds)
        if self.url is None:
            self.memory.leases.clear()
        else:
            with redis.Redis.from_url(self.url) as admin:
                admin.delete(LEASE)

    def hold(self) -> Callable[[], None]:
        """The pause does not end, until what is given is called."""
        store, hour = self.store(), Lease("k", b"hour", 3600.0)
        store.ask(hour, Claim.SEIZE, self.clock(), None)
        return lambda: store.release([hour], self.clock(), drop=False)

    def left(self) -> Entry | None:
        """What whoever asks is told of the load of "k"."""
        store = self.store()
        lease = Lease("k", b"asks", 60.0)
        left: Entry | None = store.ask(lease, Claim.ALWAYS, self.clock(), None).left
        if lease.held:
            store.release([lease], self.clock(), drop=False)
        return left

    @property
    def handle(self) -> str | None:
        left = self.left()
        return None if left is None else left.value


@pytest.fixture(params=["memory", "server"])
def fleet(request: pytest.FixtureRequest, valkey: ValkeyServer) -> Iterator[Fleet]:
    with ExitStack() as close:
        yield Fleet(None if request.param == "memory" else valkey.url, close)


@pytest.fixture
def served(valkey: ValkeyServer) -> Iterator[Fleet]:
    """On a server alone."""
    with ExitStack() as close:
        yield Fleet(valkey.url, close)


@pytest.fixture
def admin(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        yield client


def pends(cache: TieredCache, query: Query, **options: Any) -> None:
    with pytest.raises(LoadPending, match="ask again later"):
        cache.get_or_load("k", query, **options)


def begins(fleet: Fleet, cache: TieredCache, query: Query, *, stale: bool) -> None:
    """The load begins and goes on elsewhere, with a stale value to serve meanwhile, or with none."""
    if stale:
        cache.get_or_load("k", lambda: "stale")
        fleet.clock.advance(150)
        assert cache.get_entry_or_load("k", query).reason is Reason.LOAD_PENDING
    else:
        pends(cache, query)


def handle(value: Any = "q1", **facts: Any) -> Entry:
    return Entry(value, **({"loaded_at": NOW, "fresh_for": 60.0} | facts))


# The steps, at a store


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    with ValkeyCluster(node_timeout=60_000) as started:
        yield started


@pytest.fixture(params=["memory", "server", "cluster"])
def store(request: pytest.FixtureRequest, valkey: ValkeyServer) -> Iterator[Any]:
    if request.param == "memory":
        yield InMemorySharedTier(ttl=60).bind("n")
        return
    url = valkey.url if request.param == "server" else request.getfixturevalue("cluster").url
    tier = RedisTier(url, ttl=60, timeout=20)
    store = tier.bind("n")
    store.invalidate([Invalidation(Kind.KEY, "k")], START, NOW, None)
    yield store
    tier.close()


def asked(store: Any, claim: Claim = Claim.ALWAYS, now: float = NOW) -> Any:
    lease = Lease("k", b"another", 60.0)
    reply = store.ask(lease, claim, now, None)
    if lease.held:
        store.release([lease], now, drop=False)
    return reply


def test_a_handle_is_told_to_whoever_wants_the_lease(store: Any) -> None:
    """Whether the lease is to be had or not, with all that was known of the load; not to who only reads."""
    left = handle("q\udcff", tags=("t",), birth=Birth((7, 9), 3))
    lease = leased(store, "k", NOW)
    assert store.leave(lease, left, 60.0, NOW) is Filled.KEPT
    assert not lease.held
    reply = asked(store)
    assert reply.right is Right.TAKEN
    told = reply.left
    assert (told.value, told.loaded_at, told.tags, told.born, told.since) == ("q\udcff", NOW, ("t",), (7, 9), 0)
    assert asked(store, Claim.SEIZE).left.value == "q\udcff"
    assert asked(store)[:3] == (None, True, Right.MINE)
    assert asked(store).left.value == "q\udcff"
    assert store.read("k", NOW, None).left is None
    assert "q1" not in repr(handle())


def test_who_finds_a_value_is_told_of_no_load(store: Any) -> None:
    """The fast path of a script reads one key."""
    assert write(store, "k", handle("v"), NOW) is Filled.KEPT
    assert store.leave(leased(store, "k", NOW), handle(), 60.0, NOW) is Filled.KEPT
    found = asked(store, Claim.MISSING)
    assert (found.right, found.left) == (Right.UNASKED, None)


def test_the_lease_goes_on_as_the_pause(store: Any) -> None:
    """Then anybody may have it, and the handle is there still."""
    assert store.leave(leased(store, "k", NOW), handle(), 0.02, NOW) is Filled.KEPT
    wait_until(lambda: asked(store).right is Right.MINE)
    assert asked(store).left.value == "q1"


def test_a_handle_is_left_under_ones_own_lease_only(store: Any) -> None:
    """Lost to a deletion or to another: nothing is stored, and theirs stays."""
    mine = leased(store, "k", NOW)
    assert store.invalidate([Invalidation(Kind.KEY, "k")], START, NOW, None) is not None
    assert store.leave(mine, handle("mine"), 60.0, NOW) is Filled.REFUSED
    assert asked(store).left is None
    mine, theirs = leased(store, "k", NOW), leased(store, "k", NOW)
    assert store.leave(theirs, handle("theirs"), 60.0, NOW) is Filled.KEPT
    assert store.leave(mine, handle("mine"), 60.0, NOW) is Filled.REFUSED
    assert asked(store).left.value == "theirs"


def fill_in_vain(store: Any, lease: Lease) -> None:
    with pytest.raises(SerializationError):
        store.fill(lease, handle(object()), NOW)


ENDS: dict[str, Callable[[Any, Lease], object]] = {
    "a fill": lambda store, lease: store.fill(lease, handle("v"), NOW),
    "a failure": lambda store, lease: store.release([lease], NOW, drop=False, ended=True),
    "an absence": lambda store, lease: store.release([lease], NOW, drop=True),
    "delete": lambda store, _: store.invalidate([Invalidation(Kind.KEY, "k")], START, NOW, None),
    "expire": lambda store, _: store.invalidate([Invalidation(Kind.EXPIRED, "k")], START, NOW, None),
    "set": lambda store, lease: store.invalidate([Invalidation(Kind.KEY, "k")], START, NOW, lease),
    "a value that cannot be carried": lambda store, lease: fill_in_vain(store, lease),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_ends_a_load_forgets_its_handle(store: Any, end: str) -> None:
    """In the same step."""
    assert write(store, "k", handle("v"), NOW) is Filled.KEPT
    assert store.leave(leased(store, "k", NOW), handle(), 60.0, NOW) is Filled.KEPT
    ENDS[end](store, leased(store, "k", NOW))
    assert asked(store, Claim.SEIZE).left is None


def test_what_does_not_end_a_load_lets_its_handle_be(store: Any) -> None:
    """A release, one by who has lost the lease, and the invalidation of a tag, which tells no keys."""
    left = leased(store, "k", NOW)
    lost = Lease("k", left.token, 60.0)
    assert store.leave(left, handle(), 60.0, NOW) is Filled.KEPT
    store.release([leased(store, "k", NOW)], NOW, drop=False)
    store.release([lost], NOW, drop=True)
    assert store.fill(lost, handle("v"), NOW) is Filled.REFUSED
    assert store.invalidate([Invalidation(Kind.TAG, "t"), Invalidation(Kind.ALL)], START, NOW, None) is not None
    assert asked(store).left.value == "q1"


def test_a_handle_is_kept_as_long_as_its_value_would_be_and_an_hour_at_least(served: Fleet, admin: redis.Redis) -> None:
    """Counted from when the load began; what is past that is not stored."""
    store = served.store()
    for fresh_for, age, most in ((60.0, 0.0, 3600), (60.0, 600.0, 3000), (7200.0, 0.0, 7200)):
        left = handle(fresh_for=fresh_for, loaded_at=NOW - age)
        assert store.leave(leased(store, "k", NOW), left, 70.0, NOW) is Filled.KEPT
        assert most - 60 < admin.pttl(PENDING) / 1000 <= most
        assert 0 < admin.pttl(LEASE) <= 70_000
        assert admin.get(LEASE) is not None
    admin.delete(PENDING)
    assert store.leave(leased(store, "k", NOW), handle(loaded_at=NOW - 3600), 7.0, NOW) is Filled.NOT_KEPT
    assert admin.exists(PENDING) == 0
    memory = InMemorySharedTier(ttl=60).bind("n")
    assert memory.leave(leased(memory, "k", NOW), handle(), 7.0, NOW) is Filled.KEPT
    assert [asked(memory, now=NOW + age).left is None for age in (3599, 3600)] == [False, True]


def test_a_handle_that_l2_cannot_take_is_not_kept(served: Fleet, valkey: ValkeyServer, admin: redis.Redis) -> None:
    """Too large, of no possible time, or no room for it: counted, and nothing is raised; the lease is still ours."""
    tier = RedisTier(valkey.url, ttl=60, timeout=20, max_value_bytes=1000)
    store = tier.bind("n")
    lease = leased(store, "k", NOW)
    assert store.leave(lease, handle("q" * 1000), 7.0, NOW) is Filled.NOT_KEPT
    assert store.leave(lease, handle(loaded_at=-1.0, fresh_for=inf), 7.0, NOW) is Filled.NOT_KEPT
    assert lease.held
    stats = store.stats(NOW)
    assert (stats.errors, stats.unserializable) == ({"too_large": 1}, 1)
    admin.config_set("maxmemory", 1)
    assert store.leave(lease, handle(), 7.0, NOW) is Filled.NOT_KEPT
    admin.config_set("maxmemory", 0)
    assert lease.held
    assert admin.get(LEASE) == lease.token
    assert store.stats(NOW).errors == {"too_large": 1, "out_of_memory": 1}
    tier.close()


def spoilt(kind: str) -> bytes:
    whole = sealed_handle("n|k", handle())
    match kind:
        case "damaged":
            return whole[:-1]
        case "another key's":
            return sealed_handle("n|j", handle())
        case "a value":
            return sealed("n|k", handle(), InMemorySharedTier(ttl=1).codec, compress_above=None)
        case "no text":
            return sealed_handle("n|k", handle("\udcff")).replace(b"\xed\xb3\xbf", b"\xff\xff\xff")
    return b"foreign"


@pytest.mark.parametrize("kind", ["damaged", "another key's", "a value", "no text", "foreign"])
def test_a_handle_that_cannot_be_read_is_none(served: Fleet, admin: redis.Redis, kind: str) -> None:
    """And counted, like an entry; the load begins anew, and what it leaves takes its place."""
    admin.set(PENDING, spoilt(kind))
    cache, query = served.container(), Query()
    pends(cache, query)
    assert query.started == ["old"]
    assert sum(cache.stats().l2.unreadable.values()) == 1  # type: ignore[union-attr]
    assert served.handle == "1"


def test_no_byte_of_a_handle_can_change_unseen() -> None:
    """Two checksums cover all of it."""
    whole = sealed_handle("n|k", handle(tags=("t",), birth=Birth((7, 9), 3)))
    for place in range(len(whole)):
        with pytest.raises(Unreadable):
            opened_handle("n|k", whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], max_bytes=100)
    with pytest.raises(Unreadable):
        opened_handle("n|k", whole, max_bytes=1)


def test_a_handle_of_another_type_is_none(served: Fleet, admin: redis.Redis) -> None:
    """The value and the lease are told all the same."""
    admin.lpush(PENDING, "element")
    cache, query = served.container(), Query()
    pends(cache, query)
    assert cache.stats().l2.errors == {"reply": 1}  # type: ignore[union-attr]
    assert served.handle == "1"


def test_an_envelope_of_a_handle_is_no_value(served: Fleet, admin: redis.Redis) -> None:
    """Nor the other way round: under the key itself it is unreadable, and a miss."""
    assert opened_handle("n|k", sealed_handle("n|k", handle()), max_bytes=9).value == "q1"
    admin.set(VALUE, sealed_handle("n|k", handle()))
    cache = served.container()
    assert cache.get("k", None) is None
    assert cache.stats().l2.unreadable == {"codec": 1}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("going_on", "pause"), [(-5.0, 0.5), (0.0, 0.5), (4.0, 0.5), (20.0, 2.0), (99.0, 9.9), (1e9, 10.0)]
)
def test_the_pause_grows_with_the_load(going_on: float, pause: float) -> None:
    """A tenth of the time since it began, from 0.5 s to 10 s."""
    assert pause_before_look(going_on) == pytest.approx(pause)


# Across containers


def test_any_container_takes_the_load_up(fleet: Fleet) -> None:
    """One execution; what it brings is as old as its beginning, for all, and nothing is left of it."""
    one, two, three = (fleet.container() for _ in range(3))
    query = Query()
    pends(one, query)
    one.close()  # it is gone
    for cache in (two, three):
        fleet.next_look()
        pends(cache, query)
    query.done = True
    fleet.next_look()
    answer = two.get_entry_or_load("k", query)
    assert (answer.value, answer.tier, answer.age, answer.reason) == ("old", "origin", 60.0, Reason.LOADED)
    assert (query.started, query.looks) == (["old"], 3)
    assert fleet.handle is None
    answer = three.get_entry_or_load("k", query)
    assert (answer.value, answer.tier, answer.age) == ("old", "l2", 60.0)
    fleet.clock.advance(40)
    assert three.get_entry_or_load("k", query).reason is not Reason.FRESH
    stats = two.stats().origin
    assert (stats.pending, stats.resumed, stats.loads) == (1, 2, 1)


def test_a_stale_value_is_served_while_the_load_goes_on(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fleet looks once in each pause, whoever asks; everybody has an answer at once."""
    monkeypatch.setattr("tiered_cache._keeping.pause_before_look", lambda _: 600.0)
    caches = [fleet.container() for _ in range(5)]
    query = Query()
    caches[0].get_or_load("k", lambda: "stale")
    fleet.clock.advance(150)
    for round_ in range(3):
        for cache in caches:
            answer = cache.get_entry_or_load("k", query)
            assert (answer.value, answer.stale, answer.reason) == ("stale", True, Reason.LOAD_PENDING)
        assert (len(query.started), query.looks) == (1, round_)
        fleet.next_look()
    query.done = True
    assert caches[4].get_or_load("k", query) == "old"
    for cache in caches:
        fleet.clock.advance(2)
        assert cache.get_entry_or_load("k", query)[:2] == ("old", "l2")
    assert query.looks == 3


def test_who_has_nothing_waits_for_the_pause_and_takes_the_load_up(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With patience, as for any load elsewhere."""
    one, two, query = fleet.container(), fleet.container(), Query()
    pends(one, query)
    end_of_pause, wait = fleet.hold(), Patience.wait

    def till_it_is_over(patience: Patience, **told: bool) -> bool:
        end_of_pause()
        return wait(patience, **told)

    monkeypatch.setattr(Patience, "wait", till_it_is_over)
    query.done = True
    assert two.get_or_load("k", query) == "old"
    assert (query.started, query.looks, two.stats().origin.waited) == (["old"], 1, 1)


@pytest.mark.parametrize(("wait", "resumable"), [(0, True), (0.02, True), (0, False), ("long", True)])
def test_a_loader_may_say_how_long_to_wait_for_what_is_pending(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, wait: Any, resumable: bool
) -> None:
    """At most so long, in place of half of the time that is left; what says so but is not resumable means something else."""
    one, two, query = fleet.container(), fleet.container(), Query()
    pends(one, query)
    query.done, query.resumable, query.wait = True, resumable, wait
    end_of_pause = fleet.hold()
    if resumable and wait != "long":
        monkeypatch.setattr("tiered_cache._load.time", Naps())
        pends(two, query)
        assert (query.looks, two.stats().origin.waited) == (0, wait > 0)
    else:
        monkeypatch.setattr("tiered_cache._load.time", Naps(end_of_pause))
        assert two.get_or_load("k", query) == "old"
        assert query.contexts[-1].waited > 0
    assert query.contexts[0].waited == 0


def test_what_a_loader_says_of_waiting_counts_in_an_event_loop_too(fleet: Fleet) -> None:
    """The cache there runs it by way of another object, which says what it says."""
    query = Query()
    pends(fleet.container(), query)
    query.resumable, query.wait = True, 0
    fleet.hold()

    async def main() -> int:
        async with fleet.asynchronous() as cache:
            with pytest.raises(LoadPending):
                await cache.get_or_load("k", query)
            return cache.stats().origin.waited

    assert (asyncio.run(main()), query.looks) == (0, 0)


def test_a_load_that_is_not_known_to_be_pending_is_waited_for_as_any(fleet: Fleet) -> None:
    """Whatever its loader says of pending ones: this one has left nothing yet, and may end any moment."""
    one, query = fleet.container(), Query()
    told: list[float] = []

    def clock() -> float:
        told.append(fleet.clock())
        return told[-1]

    two = fleet.container(clock=clock)
    query.done, query.resumable, query.wait = True, True, 0
    tries = len(told) + 12  # `two` looks at the clock with each
    query.before_answer = lambda: wait_until(lambda: len(told) > tries)
    with ThreadPoolExecutor(1) as other:
        leader = other.submit(one.get_or_load, "k", query)
        wait_until(lambda: bool(query.started))
        assert two.get_or_load("k", query) == "old"
        assert leader.result(WAIT) == "old"
    assert (len(query.started), two.stats().origin.waited) == (1, 1)


@pytest.mark.parametrize("stale", [False, True])
def test_who_has_no_time_to_look_is_told_that_it_goes_on(fleet: Fleet, stale: bool) -> None:
    """Not that no load was begun: there is one. And the next one who comes looks."""
    one, two, query = fleet.container(), fleet.container(), Query()
    begins(fleet, one, query, stale=stale)
    query.done, left = True, [60.0]
    with two.invocation(lambda: left[0]):
        fleet.next_look()
        left[0] = 0.0
        if stale:
            assert two.get_entry_or_load("k", query).reason is Reason.LOAD_PENDING
        else:
            pends(two, query)
    assert (query.looks, two.stats().origin.too_late) == (0, 1)
    assert fleet.container().get_or_load("k", query) == "old"


def test_whose_patience_ends_leaves_the_look_to_who_has_the_lease(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoadPending, and neither a second execution nor a look of its own: a cold fleet looks once in each pause, too."""
    monkeypatch.setattr("tiered_cache._in_time.PATIENCE", 0.01)
    one, two, query = fleet.container(), fleet.container(), Query()
    pends(one, query)
    end_of_pause = fleet.hold()
    query.done = True
    fleet.clock.advance(20)
    with two.invocation(lambda: 60.0), pytest.raises(LoadPending) as raised:
        two.get_or_load("k", query)
    assert raised.value.retry_after == pytest.approx(2.0)
    assert (query.started, query.looks) == (["old"], 0)
    end_of_pause()
    assert two.get_or_load("k", query) == "old"
    assert (query.started, query.looks) == (["old"], 1)


@pytest.mark.parametrize("stale", [False, True])
def test_a_load_that_fails_is_not_asked_about_for_ever(fleet: Fleet, stale: bool) -> None:
    """One error, or the stale value and a back-off; then another container begins anew."""
    one, two, query = fleet.container(), fleet.container(), Query()
    begins(fleet, one, query, stale=stale)
    query.done, query.started[0] = True, OriginError("failed")
    fleet.next_look()
    if stale:
        assert two.get_entry_or_load("k", query).reason is Reason.LOAD_FAILED
    else:
        with pytest.raises(OriginError, match="failed"):
            two.get_or_load("k", query)
    assert fleet.handle is None
    query.done, query.value = False, "new"
    fleet.clock.advance(20)
    if stale:
        assert one.get_entry_or_load("k", query).reason is Reason.LOAD_PENDING
    else:
        pends(one, query)
    assert len(query.started) == 2


def test_a_load_that_finds_nothing_has_ended_too(fleet: Fleet) -> None:
    """Nothing is left of it; nor of one whose value no tier keeps."""
    cache, query = fleet.container(), Query()
    pends(cache, query)
    query.done, query.started[0] = True, NotFound("no")
    fleet.next_look()
    with pytest.raises(NotFound):
        cache.get_or_load("k", query)
    assert fleet.handle is None

    class Skips:
        def load(self, context: LoadContext) -> Any:
            return context.pending("q") if context.handle is None else context.skip(context.handle)

    with pytest.raises(LoadPending):
        cache.get_or_load("k", Skips())
    fleet.next_look()
    assert cache.get_or_load("k", Skips()) == "q"
    assert fleet.handle is None


def test_a_forced_load_begins_anew(fleet: Fleet) -> None:
    """It ignores what was left, and what it leaves takes its place."""
    one, two, query = fleet.container(), fleet.container(), Query()
    pends(one, query)
    query.value = "new"
    pends(two, query, force_refresh=True)
    assert (query.started, fleet.handle) == (["old", "new"], "2")
    fleet.next_look()
    query.done = True
    assert one.get_or_load("k", query) == "new"


def test_a_loader_that_finds_the_handle_of_no_use_begins_anew(fleet: Fleet) -> None:
    """What it gives is as old as this load, and not as the one that is lost."""

    class Anew:
        def load(self, context: LoadContext) -> Any:
            assert context.handle == "1"
            context.handle = None
            return "new"

    cache = fleet.container()
    pends(cache, Query())
    fleet.next_look(90)
    answer = cache.get_entry_or_load("k", Anew())
    assert (answer.value, answer.age, cache.stats().origin.resumed) == ("new", 0.0, 0)


class Once:
    """A loader that knows nothing of loads in parts. What it gives, or raises."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def load(self, context: LoadContext) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.mark.parametrize("loader", [lambda: "new", Once("new")], ids=["a function", "an object"])
@pytest.mark.parametrize("in_a_loop", [False, True])
def test_a_loader_that_never_looks_at_the_handle_begins_anew(fleet: Fleet, loader: Any, in_a_loop: bool) -> None:
    """As after a deploy that put it in the place of one that did."""
    pends(fleet.container(), Query())
    fleet.next_look(90)

    async def main() -> tuple[Any, Any]:
        async with fleet.asynchronous() as cache:
            return await cache.get_entry_or_load("k", loader), cache.stats()

    if in_a_loop:
        answer, stats = asyncio.run(main())
    else:
        cache = fleet.container()
        answer, stats = cache.get_entry_or_load("k", loader), cache.stats()
    assert (answer.value, answer.age, stats.origin.resumed) == ("new", 0.0, 0)
    assert fleet.handle is None


def test_an_absence_that_it_finds_is_as_old_as_its_own_load(fleet: Fleet) -> None:
    """And kept for as long as any."""
    pends(fleet.container(), Query())
    fleet.next_look(90)
    with pytest.raises(NotFound):
        fleet.container(negative_ttl=50).get_or_load("k", Once(NotFound("none")))
    with pytest.raises(NotFound, match="none"):
        fleet.container(negative_ttl=50).get_or_load("k", lambda: "new")


def test_one_that_says_that_it_can_be_resumed_goes_on_without_a_look(fleet: Fleet) -> None:
    """It finds its load by another name, such as the key: its value is as old as that load."""

    class ByKey:
        resumable = True
        is_done = False

        def load(self, context: LoadContext) -> Any:
            return "value" if self.is_done else context.pending(context.key)

    cache, loader = fleet.container(), ByKey()
    pends(cache, loader)
    fleet.next_look(30)
    pends(cache, loader)
    loader.is_done = True
    fleet.next_look(30)
    answer = cache.get_entry_or_load("k", loader)
    assert (answer.value, answer.age, cache.stats().origin.resumed) == ("value", 60.0, 2)


ACTS: dict[str, Callable[[TieredCache], None]] = {
    "delete": lambda cache: cache.delete("k"),
    "expire": lambda cache: cache.expire("k"),
    "invalidate_tag": lambda cache: cache.invalidate_tag("t"),
    "clear": lambda cache: cache.clear(),
}
every_act = pytest.mark.parametrize("act", ACTS)


@every_act
def test_without_l2_an_invalidation_and_a_failure_end_the_load_too(act: str) -> None:
    """The handle is known in this process alone, and judged the same way."""
    query = Query()
    with TieredCache(clock=FakeClock()) as cache:
        pends(cache, query, tags=["t"])
        ACTS[act](cache)
        pends(cache, query, tags=["t"])
        assert query.contexts[-1].handle is None
        query.done, query.started[1] = True, OriginError("failed")
        with pytest.raises(OriginError):
            cache.get_or_load("k", query)
        query.done = False
        pends(cache, query, tags=["t"])
        assert query.contexts[-1].handle is None
    assert len(query.started) == 3


@every_act
@pytest.mark.parametrize("whose", ["own", "another's", "a new container's"])
def test_an_invalidation_between_the_parts_begins_anew(fleet: Fleet, act: str, whose: str) -> None:
    """What began before it is nobody's any more, in whatever container the next part would run."""
    one, two, query = fleet.container(), fleet.container(), Query()
    pends(one, query, tags=["t"])
    query.value = "new"
    ACTS[act](one if whose == "own" else two)
    fleet.next_look()
    cache = fleet.container() if whose == "a new container's" else one
    with cache.invocation():
        pends(cache, query, tags=["t"])
    query.done = True
    fleet.next_look()
    assert two.get_or_load("k", query, tags=["t"]) == "new"
    assert query.started == ["old", "new"]


@every_act
def test_an_invalidation_between_the_resumption_and_its_fill(fleet: Fleet, act: str) -> None:
    """The caller has what was loaded, and no tier keeps it; the next load begins anew."""
    one, two, query = fleet.container(), fleet.container(), Query()
    pends(one, query, tags=["t"])
    query.done, query.value = True, "new"
    fleet.next_look()
    query.before_answer = lambda: ACTS[act](two)
    assert one.get_or_load("k", query, tags=["t"]) == "old"
    query.before_answer = lambda: None
    for cache in (one, two, fleet.container()):
        with cache.invocation():
            assert cache.get("k", None) is None
    fleet.next_look()
    with one.invocation():
        assert one.get_or_load("k", query, tags=["t"]) == "new"


@every_act
def test_an_invalidation_before_the_handle_is_left(fleet: Fleet, act: str) -> None:
    """By a key, the lease is lost: nothing is stored. By a tag or all, what is stored is dead."""
    one, two, query = fleet.container(), fleet.container(), Query()
    query.before_answer = lambda: ACTS[act](two)
    pends(one, query, tags=["t"])
    query.before_answer = lambda: None
    query.value = "new"
    fleet.next_look()
    with one.invocation():
        pends(one, query, tags=["t"])
    assert query.started == ["old", "new"]
    if act in ("delete", "expire"):
        assert one.stats().l2.refused == 1  # type: ignore[union-attr]


@every_act
def test_a_handle_that_outlived_its_invalidation_is_dead(fleet: Fleet, act: str) -> None:
    """As after a failover that lost the deletion, and not the record: by its birth, and not by its absence, it is judged."""
    one, two, query = fleet.container(), fleet.container(), Query()
    pends(one, query, tags=["t"])
    left = fleet.left()
    assert left is not None
    ACTS[act](one)
    store = fleet.store()
    assert store.leave(leased(store, "k", fleet.clock()), left, 0.01, fleet.clock()) is Filled.KEPT
    query.value = "new"
    fleet.next_look()
    for cache in (one, two, fleet.container()):
        with cache.invocation():
            pends(cache, query, tags=["t"])
        fleet.next_look()
    assert query.started == ["old", "new"]


def test_tags_that_come_with_the_value_were_invalidated_meanwhile(fleet: Fleet) -> None:
    """They are known with the load's end only, and the birth is that of its beginning: it is kept by nobody."""
    one, two, query = fleet.container(), fleet.container(), Query()
    query.tags = ("late",)
    pends(one, query)
    two.invalidate_tag("late")
    query.done = True
    fleet.next_look()
    with two.invocation():
        assert two.get_or_load("k", query) == "old"
    for cache in (two, fleet.container()):
        with cache.invocation():
            assert cache.get("k", None) is None


def test_a_lease_that_ran_out_before_the_handle_was_left(fleet: Fleet) -> None:
    """Another has it by then: what it leaves is the fleet's, for both."""
    one, two, query = fleet.container(), fleet.container(), Query()

    def overtaken() -> None:
        query.before_answer = lambda: None
        fleet.next_look()
        pends(two, query)

    query.before_answer = overtaken
    pends(one, query)
    assert (query.started, fleet.handle) == (["old", "old"], "2")
    fleet.next_look()
    pends(one, query)
    assert query.contexts[-1].handle == "2"


def test_a_load_in_parts_is_not_refused_for_want_of_time(fleet: Fleet) -> None:
    """The last one took longer than this invocation has: one that may go on elsewhere is begun, and taken up, all the same."""
    one, two, query = fleet.container(), fleet.container(), Query()
    one.get_or_load("k", lambda: (fleet.clock.advance(500), "stale")[1])
    fleet.clock.advance(150)

    def reason(cache: TieredCache) -> Reason:
        with cache.invocation(lambda: 200.0):  # of which L2 may take a quarter
            return cache.get_entry_or_load("k", query).reason

    assert reason(one) is Reason.NO_TIME
    query.resumable = True
    assert reason(one) is Reason.LOAD_PENDING
    query.resumable = False
    fleet.next_look()
    assert reason(two) is Reason.LOAD_PENDING
    assert (query.started, query.looks) == (["old"], 1)


def test_a_set_value_ends_the_load(fleet: Fleet) -> None:
    """It is what all are given, and when it is stale a new execution begins."""
    one, two, query = fleet.container(), fleet.container(), Query()
    pends(one, query)
    two.set("k", "set")
    assert fleet.handle is None
    assert two.get_or_load("k", query) == "set"
    fleet.clock.advance(150)
    assert one.get_entry_or_load("k", query)[:5:4] == ("set", Reason.LOAD_PENDING)
    assert query.started == ["old", "old"]


def test_a_handle_whose_log_was_lost_is_dead(served: Fleet, admin: redis.Redis) -> None:
    """Like an entry: nobody can tell what happened since."""
    one, query = served.container(), Query()
    pends(one, query)
    admin.delete("tc1:{n|}:log", "tc1:{n|}:marks")
    served.next_look()
    two = served.container()
    pends(two, query)
    assert query.started == ["old", "old"]
    assert two.stats().l2.dead == 1  # type: ignore[union-attr]


def test_a_handle_whose_tags_nobody_can_tell_of_is_not_taken_up(served: Fleet, proxy: FaultProxy) -> None:
    """The look at the markers comes to nothing: as an entry would not be served."""
    one, query = served.container(), Query()
    pends(one, query, tags=["t"])
    one.delete("another")  # so the log goes on, and a new container must ask what became of the tag
    served.next_look()
    two = served.container(f"redis://127.0.0.1:{proxy.port}")
    store: Any = two._shared._store  # type: ignore[union-attr]
    look = store.look
    store.look = lambda since, tags, now: None if tags else look(since, tags, now)
    pends(two, query, tags=["t"])
    assert query.started == ["old", "old"]


# L2 away


@pytest.fixture
def behind(served: Fleet, proxy: FaultProxy) -> Callable[[], TieredCache]:
    """Makes containers that reach the server through the proxy."""
    return lambda: served.container(f"redis://127.0.0.1:{proxy.port}", on_failure="queue")


def hang(proxy: FaultProxy, cache: TieredCache) -> Callable[[], None]:
    """Its calls to L2 are not answered any more, until what is given is called."""
    tier: Any = cache._shared._store._tier  # type: ignore[union-attr]
    patient, tier.timeout = tier.timeout, TIMEOUT
    proxy.hang()

    def answers_again() -> None:
        tier.timeout = patient
        proxy.ok()

    return answers_again


def test_without_l2_each_container_goes_on_with_what_it_knows(
    served: Fleet, proxy: FaultProxy, behind: Callable[[], TieredCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at the same time, of which one has never loaded: one execution, by the handle that both have seen."""
    monkeypatch.setattr("tiered_cache._keeping.pause_before_look", lambda _: 600.0)
    one, two, query = behind(), behind(), Query()
    one.get_or_load("k", lambda: "stale")
    served.clock.advance(150)
    for cache in (one, two):
        assert cache.get_entry_or_load("k", query).reason is Reason.LOAD_PENDING
    proxy.refuse()
    proxy.kill_all()
    barrier = threading.Barrier(2)
    query.before_answer = lambda: barrier.wait(WAIT)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(cache.get_entry_or_load, "k", query) for cache in (one, two)]
        assert {answer.result(WAIT).reason for answer in answers} == {Reason.LOAD_PENDING}
        assert (query.started, query.looks) == (["old"], 2)
        query.done = True
        served.clock.advance(2)
        answers = [pool.submit(cache.get_entry_or_load, "k", query) for cache in (one, two)]
        assert {answer.result(WAIT)[:2] for answer in answers} == {("old", "origin")}
    assert query.started == ["old"]
    proxy.ok()


def test_what_l2_refused_is_not_taken_up_without_it(
    served: Fleet, proxy: FaultProxy, behind: Callable[[], TieredCache]
) -> None:
    """The key was invalidated while its load began, and before that was known here L2 went away."""
    one, two, query = behind(), served.container(), Query()
    one.get_or_load("another", lambda: 1)
    query.before_answer = lambda: two.delete("k")
    pends(one, query)
    query.before_answer = lambda: None
    proxy.refuse()
    proxy.kill_all()
    pends(one, query)
    assert query.started == ["old", "old"]
    proxy.ok()


def test_a_handle_that_l2_never_took_is_not_lost(
    served: Fleet, proxy: FaultProxy, behind: Callable[[], TieredCache]
) -> None:
    """It was left while L2 was away; when that is back the fleet has it."""
    one, query = behind(), Query()
    one.get_or_load("another", lambda: 1)
    proxy.refuse()
    proxy.kill_all()
    pends(one, query)
    proxy.ok()
    served.clock.advance(61)
    one.get("a read, which closes the breaker", None)
    pends(one, query)
    assert (query.started, query.looks) == (["old"], 1)
    assert served.handle == "1"


def test_what_l2_says_to_have_ended_is_not_taken_up(served: Fleet) -> None:
    """Another container has seen it fail: who began it does not ask about it once more."""
    one, two, query = served.container(), served.container(), Query()
    pends(one, query)
    query.done, query.started[0] = True, OriginError("failed")
    served.next_look()
    with pytest.raises(OriginError):
        two.get_or_load("k", query)
    query.done = False
    pends(one, query)
    assert (len(query.started), query.contexts[-1].handle) == (2, None)


def test_a_reply_that_is_lost_when_the_handle_is_left(
    served: Fleet, proxy: FaultProxy, admin: redis.Redis, behind: Callable[[], TieredCache]
) -> None:
    """Whether L2 took it nobody knows: it did, all go on with it, and no lease is left behind."""
    one, two, query = behind(), served.container(), Query()
    for text in Script.by_hash.values():
        admin.script_load(text)  # one that must be sent again would not arrive
    one.get_or_load("another", lambda: 1)
    ends: list[Callable[[], None]] = []
    query.before_answer = lambda: ends.append(hang(proxy, one))
    pends(one, query)
    query.before_answer = lambda: None
    wait_until(lambda: bool(admin.exists(PENDING)))
    ends[0]()
    served.clock.advance(61)
    one.get("a read, which closes the breaker", None)
    one.get_or_load("yet another", lambda: 1)  # gives up what it may hold
    assert admin.exists(LEASE) == 0
    pends(two, query)
    served.next_look()
    query.done = True
    assert one.get_or_load("k", query) == "old"
    assert query.started == ["old"]


def test_a_handle_of_a_load_that_has_ended_elsewhere_is_not_taken_up_again(
    served: Fleet, proxy: FaultProxy, admin: redis.Redis, behind: Callable[[], TieredCache]
) -> None:
    """Its value is there, and what is stale by now is loaded anew."""
    one, two, query = behind(), served.container(), Query()
    for text in Script.by_hash.values():
        admin.script_load(text)  # one that must be sent again would not arrive
    one.get_or_load("another", lambda: 1)
    ends: list[Callable[[], None]] = []
    query.before_answer = lambda: ends.append(hang(proxy, one))
    pends(one, query)
    query.before_answer = lambda: None
    query.done = True
    wait_until(lambda: bool(admin.exists(PENDING)))
    served.next_look()
    assert two.get_or_load("k", query) == "old"
    ends[0]()
    served.clock.advance(150)
    one.get("a read, which closes the breaker", None)
    query.value = "new"
    assert one.get_or_load("k", query) == "new"


def test_what_an_undelivered_invalidation_names_is_not_taken_up(
    served: Fleet, proxy: FaultProxy, behind: Callable[[], TieredCache], valkey: ValkeyServer
) -> None:
    """L2 answers reads and takes no deletion: its handle is as dead as its value."""
    one, query = served.container(on_failure="raise"), Query()
    pends(one, query)
    store: Any = one._shared._store  # type: ignore[union-attr]
    invalidate = store.invalidate
    store.invalidate = lambda *_: None
    query.value = "new"
    with pytest.raises(InvalidationNotDelivered):
        one.delete("k")
    served.next_look()
    pends(one, query)
    assert query.started == ["old", "new"]
    store.invalidate = invalidate


# What a loader is told


def test_loads_with_an_invalidation_between_them_are_of_different_generations(fleet: Fleet) -> None:
    """And all others of the same one, in whatever container."""
    one, two, query = fleet.container(), fleet.container(), Query()
    generations: list[str] = []
    for act in (lambda _: None, *ACTS.values()):
        act(one)
        for cache in (one, two):
            with cache.invocation():
                pends(cache, query, force_refresh=True)
        first, second = query.contexts[-2:]
        assert first.generation == second.generation
        generations.append(first.generation)
    assert len(set(generations)) == len(generations)
    assert "" not in generations


def test_without_a_log_there_is_no_generation() -> None:
    """As in a context that a test makes."""
    query = Query()
    with TieredCache(clock=FakeClock()) as cache:
        pends(cache, query)
        pends(cache, query)
    assert [context.generation for context in query.contexts] == ["", ""]
    assert (query.started, query.looks) == (["old"], 1)
    assert LoadContext("k").generation == ""
