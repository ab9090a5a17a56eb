"""Several containers on one L2, in memory and on a server: what one invalidates no other serves, and one load is enough.

Each container is a cache of its own with a tier of its own; a load that is under way waits for an event.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from rig import Naps, wait_until, within

from tiered_cache import MISSING, LoadContext, Loaded, LoadPending, MemoryTier, NotFound, Reason, RedisTier, TieredCache
from tiered_cache._reply import Claim, Lease, Right
from tiered_cache.testing import FakeClock, InMemorySharedTier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tiered_cache.local.proxy import FaultProxy
    from tiered_cache.local.valkey import ValkeyServer

WAIT = 60.0
LEFT = 40.0


class Fleet:
    """Makes containers. `policy` is that of L2."""

    def __init__(self, make: Callable[..., Any], clock: FakeClock, close: ExitStack, policy: dict[str, Any]) -> None:
        self.clock = clock
        self._make = make
        self._policy = {"ttl": 100, "jitter": 0} | policy
        self._close = close

    def tier(self) -> Any:
        return self._make(**self._policy)

    def container(self, **options: Any) -> TieredCache:
        local = MemoryTier(ttl=options.pop("l1", 50), jitter=0)
        options = {"refresh": "inline", "clock": self.clock} | options
        return self._close.enter_context(TieredCache(local, self.tier(), **options))

    def lose_log(self) -> None:
        """As an eviction does, or a restart without persistence that left the values."""
        tier = self.tier()
        if isinstance(tier, InMemorySharedTier):
            tier.logs.clear()
        else:
            log, marks = b"tc1:{default|}:log", b"tc1:{default|}:marks"
            tier.link().call([(b"DEL", log, marks)], self.clock())

    def is_free(self, key: str) -> bool:
        """Whether nobody holds the key's lease."""
        store = self.tier().bind("default")
        lease = Lease(key, b"asks", 60.0)
        right = store.ask(lease, Claim.ALWAYS, self.clock(), None).right
        store.release([lease], self.clock(), drop=False)
        return right is Right.MINE


@pytest.fixture(params=["memory", "server"])
def fleet_of(request: pytest.FixtureRequest, clock: FakeClock, valkey: ValkeyServer) -> Iterator[Callable[..., Fleet]]:
    with ExitStack() as close:
        shared: list[InMemorySharedTier] = []

        def in_memory(**policy: Any) -> InMemorySharedTier:
            lease = policy.pop("lease", 300.0)
            if not shared:
                shared.append(InMemorySharedTier(**policy))
                shared[0].lease = lease
            return shared[0]

        def on_server(**policy: Any) -> RedisTier:
            tier = RedisTier(valkey.url, timeout=20, **policy)
            close.callback(tier.close)
            return tier

        make = in_memory if request.param == "memory" else on_server
        yield lambda **policy: Fleet(make, clock, close, policy)


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> Naps:
    """Who has 40 seconds left waits for half of them for another container, which takes no time of ours."""
    monkeypatch.setattr("tiered_cache._in_time.MOST_PATIENCE", LEFT)
    naps = Naps()
    monkeypatch.setattr("tiered_cache._load.time", naps)
    return naps


def go_by(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The budget for L2 goes by `clock` from now on; what is read of it."""
    readings: list[float] = []

    def monotonic() -> float:
        readings.append(clock.monotonic())
        return readings[-1]

    monkeypatch.setattr("tiered_cache._l2.calls.time", SimpleNamespace(monotonic=monotonic))
    return readings


@pytest.fixture
def fleet(fleet_of: Callable[..., Fleet]) -> Fleet:
    return fleet_of()


class Origin:
    """A loader that may be told to wait, to fail, or what to give. Its loads are counted."""

    def __init__(self, value: Any = "v1", *, waits: bool = False) -> None:
        self.value = value
        self.loads = 0
        self.begun = threading.Event()
        self.gate = threading.Event()
        if not waits:
            self.gate.set()

    def __call__(self, *keys: Any) -> Any:
        self.loads += 1
        self.begun.set()
        assert self.gate.wait(WAIT)
        if isinstance(self.value, Exception):
            raise self.value
        return dict.fromkeys(keys[0], self.value) if keys else self.value


class Asked:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._outcome: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._call()
        except BaseException as error:
            self._outcome = error

    def outcome(self) -> Any:
        self._thread.join(WAIT)
        assert not self._thread.is_alive()
        return self._outcome


def held_by(cache: TieredCache, key: str = "k") -> Any:
    """What an invocation that begins now finds, without loading."""
    with cache.invocation():
        return cache.get(key, None)


def l2(cache: TieredCache) -> Any:
    return cache.stats().l2


# Invalidations reach everybody

ACTS: dict[str, Callable[[TieredCache], None]] = {
    "delete": lambda cache: cache.delete("k"),
    "expire": lambda cache: cache.expire("k"),
    "tag of the call": lambda cache: cache.invalidate_tag("call"),
    "tag of the loader": lambda cache: cache.invalidate_tag("loader"),
    "several tags": lambda cache: cache.invalidate_tag("nobody's", "loader", "another"),
    "clear": lambda cache: cache.clear(),
}
every_act = pytest.mark.parametrize("act", ACTS)


def load(cache: TieredCache, value: str = "old", key: str = "k") -> str:
    """`key` with a tag of the call and one that the loader gives."""
    return cache.get_or_load(key, lambda: Loaded(value, tags=("loader",)), tags=("call",))


@every_act
def test_what_one_invalidates_no_other_serves(fleet: Fleet, act: str) -> None:
    """Not the one that does it, nor who holds it in L1, nor who comes new; and what is loaded then is served by all."""
    one, two, three = fleet.container(), fleet.container(), fleet.container()
    assert [load(cache) for cache in (one, two)] == ["old"] * 2
    assert one.get_or_load("other", lambda: "stays") == two.get("other") == "stays"
    ACTS[act](one)
    assert [one.get("k", None), held_by(two), three.get("k", None)] == [None] * 3
    assert [load(cache, "new") for cache in (two, one, three)] == ["new"] * 3
    assert l2(two).writes == 1
    others = [one.get("other", None), held_by(two, "other"), three.get("other", None)]
    assert others == [None if act == "clear" else "stays"] * 3


@every_act
def test_one_namespace_is_no_other(fleet: Fleet, act: str) -> None:
    """The same keys and tags mean nothing there."""
    one, other, new = fleet.container(), fleet.container(namespace="two"), fleet.container(namespace="two")
    load(one)
    load(other)
    ACTS[act](one)
    assert [one.get("k", None), held_by(other), new.get("k", None)] == [None, "old", "old"]


@every_act
@pytest.mark.parametrize("when", ["before the fill", "after it"])
def test_what_is_invalidated_while_it_is_loaded_is_kept_by_nobody(fleet: Fleet, act: str, when: str) -> None:
    """Whichever container does it: the caller has its value; L2 and L1 have it no more than that of before."""
    one, two, three = fleet.container(), fleet.container(), fleet.container()
    store = one._shared._store  # type: ignore[union-attr]
    fill = store.fill

    def overtaken(*arguments: Any) -> Any:
        if when == "before the fill":
            ACTS[act](two)
        filled = fill(*arguments)
        if when == "after it":
            ACTS[act](two)
        return filled

    store.fill = overtaken  # type: ignore[method-assign]
    assert load(one) == "old"
    store.fill = fill  # type: ignore[method-assign]
    assert [held_by(one), two.get("k", None), three.get("k", None)] == [None] * 3


def test_a_dead_value_in_l2_is_counted_and_replaced(fleet: Fleet) -> None:
    """By tag it still stands there; who finds it loads under the lease."""
    one, two = fleet.container(), fleet.container()
    load(one)
    one.invalidate_tag("loader")
    assert load(two, "new") == "new"
    assert (l2(two).dead, l2(two).leases, l2(two).writes) == (2, 1, 1)
    assert held_by(one) == "new"


def test_a_value_loaded_after_its_tag_was_invalidated_lives(fleet: Fleet) -> None:
    """In containers that knew the log before, and in those that did not."""
    one, two, three = fleet.container(), fleet.container(), fleet.container()
    one.invalidate_tag("loader")
    two.get("another key", None)
    assert load(one, "new") == "new"
    assert [held_by(two), three.get("k", None)] == ["new"] * 2
    assert l2(three).dead == 0


def test_what_one_sets_the_others_see(fleet: Fleet) -> None:
    """At their next look, in place of what they hold."""
    one, two, three = fleet.container(), fleet.container(), fleet.container()
    assert load(one) == load(two)
    one.set("k", "set", tags=("loader",))
    assert [one.get("k"), held_by(two), three.get("k")] == ["set"] * 3
    two.invalidate_tag("loader")
    assert [held_by(one), held_by(three)] == [None] * 2


def test_a_set_is_not_undone_by_a_load_from_before(fleet: Fleet) -> None:
    """Nor by its end."""
    one, two, origin = fleet.container(), fleet.container(), Origin("old", waits=True)
    asked = Asked(lambda: one.get_or_load("k", origin))
    assert origin.begun.wait(WAIT)
    two.set("k", "set")
    origin.gate.set()
    assert asked.outcome() == "old"
    assert [held_by(one), two.get("k"), fleet.container().get("k")] == ["set"] * 3


@every_act
def test_what_l1_holds_past_its_time_is_held_against_the_look_that_goes_along(fleet: Fleet, act: str) -> None:
    """Outside of invocations too, once L1 has to ask: it is neither given nor does it cover for a load."""
    one, two = fleet.container(), fleet.container()
    assert load(one) == load(two)
    ACTS[act](one)
    fleet.clock.advance(50)
    assert two.get("k", None) is None
    with pytest.raises(OSError, match="down"):
        two.get_or_load("k", fails)


@pytest.mark.parametrize("act", ["delete", "expire", "tag of the call", "clear"])
def test_a_resumable_load_that_was_invalidated_begins_anew(fleet: Fleet, act: str) -> None:
    """Its handle stands for what the origin said before."""
    one, two, handles = fleet.container(), fleet.container(), []

    class Resumed:
        def load(self, context: LoadContext) -> Any:
            handles.append(context.handle)
            return context.pending("handle")

    for _ in range(2):
        with one.invocation(), pytest.raises(LoadPending):
            one.get_or_load("k", Resumed(), tags=["call"])
    ACTS[act](two)
    with one.invocation(), pytest.raises(LoadPending):
        one.get_or_load("k", Resumed(), tags=["call"])
    assert handles == [None, "handle", None]


@pytest.mark.parametrize(
    ("may", "found"), [("+get +hget +hmget +xrange", "v"), ("+get +hget +xrange", None), ("+get", None)]
)
def test_who_cannot_look_takes_nothing(server: ValkeyServer, clock: FakeClock, may: str, found: str | None) -> None:
    """A value whose tag may have been invalidated is none; who may read the log need not be able to write."""
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~tc1:*", *may.split())
    tiers = [RedisTier(f"redis://{who}127.0.0.1:{server.port}", ttl=100, timeout=20) for who in ("", "reader:pw@")]
    writer, reader = (TieredCache(MemoryTier(ttl=50, jitter=0), tier, clock=clock) for tier in tiers)
    with writer, reader:
        writer.set("k", "v", tags=["t"])
        writer.set("dead", "v", tags=["dead"])
        writer.invalidate_tag("dead")
        assert [reader.get("k", None), reader.get("dead", None)] == [found, None]
        clock.advance(60)
        assert reader.get_many_or_load(["k"], lambda _: {"k": "loaded"}) == {"k": found or "loaded"}


# A log that is lost


def test_after_a_lost_log_what_l1_holds_is_asked_for_anew(fleet: Fleet) -> None:
    """What L2 holds is of before, too, and dead: it may have been invalidated, and nobody knows. It is loaded once."""
    one, two = fleet.container(), fleet.container()
    assert load(one) == load(two)
    fleet.lose_log()
    assert [held_by(one), held_by(two)] == [None] * 2
    assert [load(cache, "new") for cache in (two, one)] == ["new"] * 2
    assert (l2(one).gaps, l2(two).gaps, l2(two).writes) == (1, 1, 1)
    two.delete("k")
    assert held_by(one) is None


def test_a_tag_that_was_invalidated_before_the_log_was_lost_stays_so(fleet: Fleet) -> None:
    """In every container, those too that come when the markers are gone."""
    one, two = fleet.container(), fleet.container()
    load(one)
    one.invalidate_tag("loader")
    fleet.lose_log()
    assert [held_by(cache) for cache in (one, two, fleet.container())] == [None] * 3


class Later:
    """A carrier that leaves refreshes undone."""

    def submit(self, work: Callable[[], None], /) -> None:
        pass


def test_what_may_be_invalidated_is_not_served_as_stale(fleet_of: Callable[..., Fleet]) -> None:
    """After a lost log, while another container loads: who holds such a value waits for the new one."""
    fleet = fleet_of(stale_while_revalidate=50, stale_if_error=50)
    one, two, origin = fleet.container(), fleet.container(refresh=Later()), Origin("new", waits=True)
    load(one)
    load(two)
    one.delete("k")
    fleet.lose_log()
    fleet.clock.advance(105)
    first = Asked(lambda: one.get_or_load("k", origin))
    assert origin.begun.wait(WAIT)
    with two.invocation():
        asked = Asked(lambda: two.get_or_load("k", lambda: pytest.fail("ran")))
        wait_until(lambda: two._shared._store.stats(0.0).misses >= 3)  # type: ignore[union-attr]
        origin.gate.set()
        assert (first.outcome(), asked.outcome()) == ("new", "new")


def test_what_may_be_invalidated_does_not_cover_for_a_load_that_failed_before(fleet_of: Callable[..., Fleet]) -> None:
    """After a lost log no pause is kept in which it would be served."""
    fleet = fleet_of(stale_if_error=50)
    one, two = fleet.container(), fleet.container(error_backoff=30)
    load(one)
    load(two)
    fleet.clock.advance(105)
    assert two.get_entry_or_load("k", fails).reason is Reason.LOAD_FAILED
    one.delete("k")
    fleet.lose_log()
    with two.invocation(), pytest.raises(OSError, match="down"):
        two.get_or_load("k", fails)


def test_after_a_lost_log_what_is_fresh_is_served_where_l2_is_away(server: ValkeyServer, clock: FakeClock) -> None:
    """Nobody can vouch for it, and it says so; once it is stale it covers for nothing."""
    tier = RedisTier(server.url, ttl=100, jitter=0, stale_if_error=50, timeout=20)
    with TieredCache(MemoryTier(ttl=50, jitter=0), tier, clock=clock) as cache:
        load(cache)
        server.flush()
        with cache.invocation():
            server.kill()
            answer = cache.get_entry_or_load("k", lambda: pytest.fail("ran"))
            assert (answer.value, answer.tier) == ("old", "l1")
        server.restart()
        clock.advance(40)
        cache.get("another key", None)
        assert l2(cache).gaps == 1
        server.kill()
        assert cache.get_entry_or_load("k", lambda: pytest.fail("ran")).reason is Reason.UNCONFIRMED
        clock.advance(70)
        with pytest.raises(OSError, match="down"):
            cache.get_or_load("k", fails)


# To expire


def fails() -> Any:
    raise OSError("down")


@pytest.fixture(params=["this", "another", "a new one"])
def whose(request: pytest.FixtureRequest) -> str:
    """The container that asks after a value was expired."""
    return str(request.param)


def after_expire(fleet: Fleet, whose: str) -> TieredCache:
    one, two = fleet.container(), fleet.container()
    assert load(one) == load(two)
    one.expire("k")
    return {"this": lambda: one, "another": lambda: two, "a new one": fleet.container}[whose]()


def test_what_is_expired_covers_for_a_failing_load(fleet_of: Callable[..., Fleet], whose: str) -> None:
    """For stale_if_error from that moment on, and is served for nothing else, stale_while_revalidate or not."""
    fleet = fleet_of(stale_while_revalidate=500, stale_if_error=30)
    cache = after_expire(fleet, whose)
    with cache.invocation():
        assert cache.get("k") is MISSING
        answer = cache.get_entry_or_load("k", fails)
        assert (answer.value, answer.stale, answer.reason) == ("old", True, Reason.LOAD_FAILED)
        assert cache.get("k") is MISSING
    fleet.clock.advance(30)
    with pytest.raises(OSError, match="down"):
        cache.get_or_load("k", fails)


def test_what_is_expired_is_loaded_by_the_next_call(fleet_of: Callable[..., Fleet], whose: str) -> None:
    """Once for all."""
    fleet = fleet_of(stale_if_error=30)
    cache = after_expire(fleet, whose)
    with cache.invocation():
        answer = cache.get_entry_or_load("k", lambda: "new")
    assert (answer.value, answer.tier, answer.stale) == ("new", "origin", False)
    assert fleet.container().get("k") == "new"


@pytest.mark.parametrize("back", [0.5, 3, 90])
def test_what_is_expired_is_fresh_by_no_clock(fleet_of: Callable[..., Fleet], whose: str, back: float) -> None:
    """Neither by one that was set back since then."""
    fleet = fleet_of(stale_if_error=30)
    fleet.clock.advance(60)
    cache = after_expire(fleet, whose)
    fleet.clock.step(-back)
    with cache.invocation():
        assert cache.get("k") is MISSING
        assert cache.get_or_load("k", lambda: "new") == "new"


def test_without_a_window_what_is_expired_is_gone(fleet: Fleet, whose: str) -> None:
    """As if it had been deleted."""
    cache = after_expire(fleet, whose)
    with cache.invocation(), pytest.raises(OSError, match="down"):
        cache.get_or_load("k", fails)


@pytest.mark.parametrize("window", [0, 30])
def test_to_expire_without_l2(clock: FakeClock, window: float) -> None:
    """The same, by L1's own windows."""
    tier = MemoryTier(ttl=100, jitter=0, stale_if_error=window)
    with TieredCache(tier, clock=clock, refresh="inline") as cache:
        load(cache)
        cache.expire("k")
        assert cache.get("k") is MISSING
        if window:
            assert cache.get_entry_or_load("k", fails).reason is Reason.LOAD_FAILED
            clock.advance(window)
        with pytest.raises(OSError, match="down"):
            cache.get_or_load("k", fails)
        assert cache.get_or_load("k", lambda: "new") == "new"


def test_a_load_that_an_expire_overtook_is_not_kept(clock: FakeClock) -> None:
    """Without an L2 too."""
    with TieredCache(MemoryTier(ttl=100, jitter=0), clock=clock) as cache:

        def overtaken() -> str:
            cache.expire("k")
            return "old"

        assert cache.get_or_load("k", overtaken) == "old"
        assert cache.get("k") is MISSING


# One load for the fleet


def test_one_load_is_enough(fleet: Fleet) -> None:
    """Who comes while another container loads waits for it, and has it from L2."""
    one, two, origin = fleet.container(), fleet.container(), Origin(waits=True)
    first = Asked(lambda: one.get_entry_or_load("k", origin))
    assert origin.begun.wait(WAIT)
    second = Asked(lambda: two.get_entry_or_load("k", lambda: pytest.fail("ran")))
    wait_until(lambda: two._shared._store.stats(0.0).misses >= 2)  # type: ignore[union-attr]
    origin.gate.set()
    assert (first.outcome().tier, second.outcome().tier) == ("origin", "l2")
    assert second.outcome().value == "v1"
    assert (origin.loads, one.stats().origin.waited, two.stats().origin.waited) == (1, 0, 1)
    assert (l2(one).leases, l2(two).leases) == (1, 0)


@pytest.mark.parametrize("bound", ["hard_timeout", "invocation"])
def test_nobody_waits_for_longer_than_a_share_of_its_own_time(fleet: Fleet, naps: Naps, bound: str) -> None:
    """Then it loads by itself, and keeps that in its own L1; what the holder brings is what L2 keeps."""
    one, two, origin = fleet.container(), fleet.container(), Origin("holder's", waits=True)
    first = Asked(lambda: one.get_or_load("k", origin))
    assert origin.begun.wait(WAIT)
    with within(LEFT / 4), two.invocation((lambda: LEFT) if bound == "invocation" else None):
        options = {"hard_timeout": LEFT} if bound == "hard_timeout" else {}
        assert two.get_or_load("k", lambda: "own", **options) == "own"
    assert (two.stats().origin.waited, l2(two).leases, l2(two).writes) == (1, 0, 0)
    assert naps.slept == pytest.approx(LEFT / 2)
    assert two.get("k") == "own"
    origin.gate.set()
    assert first.outcome() == "holder's"
    assert fleet.container().get("k") == "holder's"


@pytest.mark.parametrize("age", [105, 115])
def test_who_has_something_stale_does_not_wait(fleet_of: Callable[..., Fleet], age: float) -> None:
    """One container refreshes; all others serve the stale value at once, and run no loader."""
    fleet = fleet_of(stale_while_revalidate=10, stale_if_error=50)
    one, two, three = fleet.container(), fleet.container(), fleet.container()
    load(one)
    load(two)
    fleet.clock.advance(age)
    origin = Origin("new", waits=True)
    first = Asked(lambda: one.get_or_load("k", origin))
    assert origin.begun.wait(WAIT)
    for cache in (two, three):
        answer = cache.get_entry_or_load("k", lambda: pytest.fail("ran"))
        assert (answer.value, answer.stale, answer.reason) == ("old", True, Reason.LOAD_ELSEWHERE)
        assert cache.stats().origin.waited == 0
    origin.gate.set()
    assert first.outcome() == "new"
    assert [cache.get_or_load("k", lambda: pytest.fail("ran")) for cache in (two, three)] == ["new"] * 2
    assert origin.loads == 1


def test_who_insists_on_fresh_waits(fleet_of: Callable[..., Fleet]) -> None:
    """stale_ok=False: the stale value is none."""
    fleet = fleet_of(stale_while_revalidate=50)
    one, two, origin = fleet.container(), fleet.container(), Origin("new", waits=True)
    load(one)
    fleet.clock.advance(105)
    first = Asked(lambda: one.get_or_load("k", origin))
    assert origin.begun.wait(WAIT)
    second = Asked(lambda: two.get_or_load("k", lambda: pytest.fail("ran"), stale_ok=False))
    wait_until(lambda: two._shared._store.stats(0.0).hits >= 2)  # type: ignore[union-attr]
    origin.gate.set()
    assert (first.outcome(), second.outcome()) == ("new", "new")


def test_a_holder_that_fails_lets_the_next_one_load(fleet: Fleet) -> None:
    """At once: the lease is given up with the failure."""
    one, two, origin = fleet.container(), fleet.container(), Origin(OSError("down"), waits=True)
    first = Asked(lambda: one.get_or_load("k", origin))
    assert origin.begun.wait(WAIT)
    second = Asked(lambda: two.get_entry_or_load("k", lambda: "v2"))
    wait_until(lambda: two._shared._store.stats(0.0).misses >= 2)  # type: ignore[union-attr]
    origin.gate.set()
    assert isinstance(first.outcome(), OSError)
    assert (second.outcome().value, second.outcome().tier) == ("v2", "origin")
    assert (two.stats().origin.waited, l2(two).writes) == (1, 1)


class Skipping:
    def load(self, context: LoadContext) -> Any:
        context.skip()
        return "v"


@pytest.mark.parametrize(
    ("loader", "error"),
    [
        (Origin("v"), None),
        (Origin(OSError()), OSError),
        (Origin(NotFound("no")), NotFound),
        (Skipping(), None),
        (lambda: iter("v"), TypeError),
    ],
    ids=["a value", "a failure", "absence", "skipped", "no value"],
)
def test_no_lease_outlives_its_load(fleet: Fleet, loader: Any, error: type[Exception] | None) -> None:
    """However it ends."""
    cache = fleet.container()
    if error is None:
        assert cache.get_or_load("k", loader) == "v"
    else:
        with pytest.raises(error):
            cache.get_or_load("k", loader)
    assert fleet.is_free("k")
    assert l2(cache).leases == 1


def test_a_lease_lasts_as_long_as_the_invocation_of_its_holder(fleet_of: Callable[..., Fleet]) -> None:
    """And a second for the fill; where no deadline is known, as long as the tier says."""
    fleet = fleet_of(lease=77.0)
    cache, asked = fleet.container(), []
    store = cache._shared._store  # type: ignore[union-attr]
    ask = store.ask

    def seen(lease: Lease, *rest: Any) -> Any:
        asked.append(lease.seconds)
        return ask(lease, *rest)

    store.ask = seen  # type: ignore[method-assign]
    cache.get_or_load("a", lambda: 1)
    with cache.invocation(lambda: 5.0):
        cache.get_or_load("b", lambda: 1)
    with cache.invocation():
        cache.get_or_load("c", lambda: 1)
    assert asked == [77.0, 6.0, 77.0]


def test_who_forces_a_load_takes_the_lease(fleet: Fleet) -> None:
    """It does not wait for one that began earlier, whose value is then kept nowhere."""
    one, two, origin = fleet.container(), fleet.container(), Origin("earlier", waits=True)
    first = Asked(lambda: one.get_or_load("k", origin))
    assert origin.begun.wait(WAIT)
    assert two.get_or_load("k", lambda: "forced", force_refresh=True) == "forced"
    origin.gate.set()
    assert first.outcome() == "earlier"
    assert l2(one).refused == 1
    assert [cache.get("k") for cache in (one, two, fleet.container())] == ["forced"] * 3


def test_a_load_that_outlives_its_lease_is_kept_nowhere(fleet_of: Callable[..., Fleet]) -> None:
    """Its caller has the value; what another has loaded meanwhile stays."""
    fleet = fleet_of(lease=0.02)
    one, two, origin = fleet.container(), fleet.container(), Origin("late", waits=True)
    first = Asked(lambda: one.get_or_load("k", origin))
    assert origin.begun.wait(WAIT)
    with two.invocation(lambda: 60.0):
        assert two.get_or_load("k", lambda: "v2") == "v2"
    origin.gate.set()
    assert first.outcome() == "late"
    assert l2(one).refused == 1
    assert one.get("k") == fleet.container().get("k") == "v2"


# Many keys at once


def test_one_batch_is_enough(fleet: Fleet) -> None:
    """Another container's batch of the same keys waits for it."""
    one, two, origin = fleet.container(), fleet.container(), Origin(1, waits=True)
    keys = ["a", "b", "c"]
    first = Asked(lambda: one.get_many_or_load(keys, origin))
    assert origin.begun.wait(WAIT)
    second = Asked(lambda: two.get_many_or_load(keys, lambda _: pytest.fail("ran")))
    wait_until(lambda: two._shared._store.stats(0.0).misses >= 9)  # type: ignore[union-attr]
    origin.gate.set()
    assert first.outcome() == second.outcome() == dict.fromkeys(keys, 1)
    assert (origin.loads, l2(one).leases, l2(two).leases) == (1, 3, 0)


def test_a_batch_loads_what_no_other_loads_and_waits_for_the_rest(fleet: Fleet) -> None:
    """Its own keys are loaded first, while the others are on their way."""
    one, two, origin = fleet.container(), fleet.container(), Origin("one's", waits=True)
    loaded: list[Sequence[str]] = []
    first = Asked(lambda: one.get_many_or_load(["a", "b"], origin))
    assert origin.begun.wait(WAIT)

    def own(keys: Sequence[str]) -> dict[str, str]:
        loaded.append(keys)
        origin.gate.set()
        return dict.fromkeys(keys, "two's")

    assert two.get_many_or_load(["b", "c"], own) == {"b": "one's", "c": "two's"}
    assert first.outcome() == {"a": "one's", "b": "one's"}
    assert loaded == [("c",)]
    assert fleet.container().get_many_or_load(list("abc"), lambda _: pytest.fail("ran")) == {
        "a": "one's",
        "b": "one's",
        "c": "two's",
    }


def test_a_batch_waits_for_a_load_of_one_key(fleet: Fleet) -> None:
    """The leases are the same."""
    one, two, origin = fleet.container(), fleet.container(), Origin("one's", waits=True)
    first = Asked(lambda: one.get_or_load("b", origin))
    assert origin.begun.wait(WAIT)

    def own(keys: Sequence[str]) -> dict[str, str]:
        origin.gate.set()
        return dict.fromkeys(keys, "two's")

    assert two.get_many_or_load(["a", "b"], own) == {"a": "two's", "b": "one's"}
    assert first.outcome() == "one's"


@pytest.mark.parametrize("age", [105, 115])
def test_a_batch_serves_what_is_stale_meanwhile(fleet_of: Callable[..., Fleet], age: float) -> None:
    """While another container loads it."""
    fleet = fleet_of(stale_while_revalidate=10, stale_if_error=50)
    one, two, origin = fleet.container(), fleet.container(), Origin("new", waits=True)
    keys = ["a", "b"]
    one.get_many_or_load(keys, Origin("old"))
    fleet.clock.advance(age)
    first = Asked(lambda: one.get_many_or_load(keys, origin))
    assert origin.begun.wait(WAIT)
    assert two.get_many_or_load(keys, lambda _: pytest.fail("ran")) == dict.fromkeys(keys, "old")
    origin.gate.set()
    assert first.outcome() == dict.fromkeys(keys, "new")
    assert two.get_many_or_load(keys, lambda _: pytest.fail("ran")) == dict.fromkeys(keys, "new")


@pytest.mark.usefixtures("naps")
def test_a_batch_waits_for_no_longer_than_a_share_of_its_time(fleet: Fleet) -> None:
    """Then it loads what others were to load, for itself."""
    one, two, origin = fleet.container(), fleet.container(), Origin("holder's", waits=True)
    first = Asked(lambda: one.get_many_or_load(["a", "b"], origin))
    assert origin.begun.wait(WAIT)
    with two.invocation(lambda: LEFT):
        assert two.get_many_or_load(["b", "c"], Origin("own")) == {"b": "own", "c": "own"}
    assert two.get("b") == "own"
    origin.gate.set()
    first.outcome()
    new = fleet.container()
    assert [new.get(key) for key in "abc"] == ["holder's", "holder's", "own"]


def test_no_lease_outlives_its_batch(fleet: Fleet) -> None:
    """Whether it fails, or leaves keys out, or says that they do not exist."""
    cache = fleet.container()
    with pytest.raises(OSError, match="down"):
        cache.get_many_or_load(["a", "b"], Origin(OSError("down")))
    assert fleet.is_free("a")
    assert cache.get_many_or_load(["a", "b", "c"], lambda _: {"a": NotFound, "b": 2}) == {"b": 2}
    assert [fleet.is_free(key) for key in "abc"] == [True] * 3
    assert l2(cache).leases == 5


def test_a_batch_replaces_what_is_dead_in_l2(fleet: Fleet) -> None:
    """In one more round trip for the leases, and no key that is alive is loaded."""
    one, two = fleet.container(), fleet.container()
    one.get_many_or_load(["a", "b"], Origin("old"), tags=["t"])
    one.get_many_or_load(["c"], Origin("fine"))
    one.invalidate_tag("t")
    origin = Origin("new")
    assert two.get_many_or_load(list("abc"), origin) == {"a": "new", "b": "new", "c": "fine"}
    assert (origin.loads, l2(two).leases) == (1, 2)
    assert fleet.container().get("a") == "new"


def test_what_is_deleted_during_a_batch_is_not_kept(fleet: Fleet) -> None:
    """The other keys are."""
    one, two = fleet.container(), fleet.container()

    def overtaken(keys: Sequence[str]) -> dict[str, str]:
        two.delete("a")
        return dict.fromkeys(keys, "old")

    assert one.get_many_or_load(["a", "b"], overtaken) == {"a": "old", "b": "old"}
    assert [one.get(key, None) for key in "ab"] == [None, "old"]
    assert l2(one).refused == 1
    new = fleet.container()
    assert [new.get(key, None) for key in "ab"] == [None, "old"]


def finds_nothing(cache: TieredCache, batch: bool) -> None:
    """A load of `cache` for which the origin says that there is no such thing."""
    if batch:
        assert cache.get_many_or_load(["k"], Origin(NotFound)) == {}
    else:
        with pytest.raises(NotFound):
            cache.get_or_load("k", Origin(NotFound("no")))


one_or_many = pytest.mark.parametrize("batch", [False, True], ids=["one key", "a batch"])


@one_or_many
def test_an_absence_takes_what_l2_has_along(fleet_of: Callable[..., Fleet], batch: bool) -> None:
    """It covers for no load any more, and no lease is left."""
    fleet = fleet_of(stale_if_error=50)
    load(fleet.container())
    fleet.clock.advance(105)
    finds_nothing(fleet.container(), batch)
    with pytest.raises(OSError, match="down"):
        fleet.container().get_or_load("k", fails)
    assert fleet.is_free("k")


@pytest.mark.usefixtures("naps")
@one_or_many
def test_an_absence_without_a_lease_is_its_callers_alone(fleet: Fleet, batch: bool) -> None:
    """Another container is loading the key, and what that brings counts."""
    one, two, origin = fleet.container(), fleet.container(), Origin("back again", waits=True)
    load(one)
    fleet.clock.advance(105)
    first = Asked(lambda: one.get_or_load("k", origin))
    assert origin.begun.wait(WAIT)
    with two.invocation(lambda: LEFT):
        finds_nothing(two, batch)
    origin.gate.set()
    assert first.outcome() == "back again"
    assert [held_by(cache) for cache in (one, two, fleet.container())] == ["back again"] * 3


# Names that do not stand in the server


@pytest.mark.parametrize(
    ("key", "tag", "hash_keys"),
    [("k", "t", True), ("k" * 513, "t" * 513, False), ("\u00e4" * 300, "\u00e4" * 300, False)],
    ids=["hash_keys", "long", "long in bytes"],
)
def test_what_is_hashed_is_invalidated_everywhere_too(
    valkey: ValkeyServer, clock: FakeClock, key: str, tag: str, hash_keys: bool
) -> None:
    """By key, by tag, and expired; in this container, in another one and in a new one."""
    with ExitStack() as close:

        def container() -> TieredCache:
            tier = RedisTier(valkey.url, ttl=100, jitter=0, stale_if_error=30, timeout=20, hash_keys=hash_keys)
            return close.enter_context(TieredCache(MemoryTier(ttl=50, jitter=0), tier, clock=clock))

        one, two = container(), container()
        for act in (lambda: one.delete(key), lambda: one.invalidate_tag(tag), lambda: one.expire(key)):
            values = [cache.get_or_load(key, lambda: "old", tags=[tag]) for cache in (one, two)]
            assert values == ["old"] * 2
            assert two.get_or_load("other", lambda: "stays") == "stays"
            act()
            assert [one.get(key, None), held_by(two, key), container().get(key, None)] == [None] * 3
            assert [held_by(two, "other"), container().get("other")] == ["stays"] * 2
        for cache in (one, two, container()):
            assert cache.get_entry_or_load(key, fails).reason is Reason.LOAD_FAILED


# The budget of an invocation


def test_l2_takes_no_more_than_its_share_of_an_invocation(server: ValkeyServer, clock: FakeClock) -> None:
    """On a frozen server one call is cut at a quarter of what is left, and none is made after; the next may again."""
    tier = RedisTier(server.url, ttl=100, timeout=60)
    with TieredCache(MemoryTier(ttl=50, jitter=0), tier, clock=clock) as cache:
        assert cache.get_or_load("k", lambda: 1) == 1
        server.pause()
        with within(30), cache.invocation(lambda: 0.4):
            assert cache.get_or_load("a", lambda: 2) == 2
            assert (l2(cache).errors, l2(cache).over_budget) == ({"timeout": 1}, 0)
            for number in range(3):
                clock.advance(61)  # past the breaker's pause
                assert cache.get_or_load(f"b{number}", lambda: 3) == 3
            assert l2(cache).errors == {"timeout": 1}
            assert l2(cache).over_budget == 3
        server.resume()
        clock.advance(61)
        with cache.invocation(lambda: 60.0):
            assert cache.get_or_load("c", lambda: 4) == 4  # the probe is a read
            assert cache.get_or_load("d", lambda: 5) == 5
        assert (l2(cache).over_budget, l2(cache).breaker, l2(cache).writes) == (3, "closed", 3)


def test_many_slow_calls_have_one_budget(
    valkey: ValkeyServer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them is too slow by itself."""
    tier = RedisTier(valkey.url, ttl=1000, timeout=60)
    with TieredCache(MemoryTier(ttl=500, jitter=0), tier, clock=clock) as cache:
        cache.warm_up()
        call = tier.link().call

        def slow(*given: Any) -> Any:
            clock.advance(4)
            return call(*given)

        monkeypatch.setattr(tier.link(), "call", slow)
        go_by(clock, monkeypatch)
        with cache.invocation(lambda: 400.0):  # of which L2 may take 100 s
            for number in range(40):
                assert cache.get_or_load(f"{number}", lambda: 1) == 1
        assert (l2(cache).errors, l2(cache).writes) == ({}, 12)  # a lease and a fill are two calls
        assert l2(cache).over_budget > 0


def test_calls_at_the_same_time_cost_the_budget_no_more_than_one(
    valkey: ValkeyServer, proxy: FaultProxy, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of the invocation's time, and not of that of its threads."""
    url = f"redis://127.0.0.1:{proxy.port}"
    with (
        TieredCache(MemoryTier(ttl=50), RedisTier(valkey.url, ttl=100, timeout=60), clock=clock) as other,
        TieredCache(MemoryTier(ttl=50), RedisTier(url, ttl=100, timeout=60), clock=clock) as cache,
        ThreadPoolExecutor(8) as threads,
    ):
        for number in range(9):
            other.set(f"{number}", number)
        cache.warm_up()
        with cache.invocation(lambda: 40.0):  # of which L2 may take 10 s
            readings = go_by(clock, monkeypatch)
            proxy.hang()
            reads = [threads.submit(cache.get, f"{number}") for number in range(8)]
            wait_until(lambda: len(readings) >= 8)
            clock.advance(3)
            proxy.ok()
            assert [read.result(30) for read in reads] == list(range(8))
            clock.advance(1)
            assert cache.get("8") == 8
        assert (l2(cache).errors, l2(cache).over_budget, l2(cache).hits) == ({}, 0, 9)


def test_an_invalidation_is_not_for_want_of_budget_undelivered(server: ValkeyServer, clock: FakeClock) -> None:
    """It has the tier's timeout, whatever is left."""
    tier = RedisTier(server.url, ttl=100, timeout=20)
    with TieredCache(MemoryTier(ttl=50, jitter=0), tier, clock=clock) as cache:
        cache.get_or_load("k", lambda: 1)
        with cache.invocation(lambda: 0.0):
            assert cache.get("other", None) is None
            assert l2(cache).over_budget > 0
            cache.delete("k")
            cache.expire("other")
            assert (l2(cache).deletes, l2(cache).undelivered) == (1, 0)


@pytest.mark.parametrize("then", ["nothing", "the next invocation"])
def test_a_call_that_outlasts_its_invocation(
    then: str, valkey: ValkeyServer, proxy: FaultProxy, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of a thread, as when the container is frozen in the middle: it succeeds, at the cost of no later invocation."""
    tier = RedisTier(f"redis://127.0.0.1:{proxy.port}", ttl=100, timeout=60)
    with TieredCache(MemoryTier(ttl=50, jitter=0), tier, clock=clock) as cache, ThreadPoolExecutor(1) as thread:
        cache.warm_up()
        readings = go_by(clock, monkeypatch)
        with cache.invocation(lambda: 80.0):
            proxy.hang()
            late = thread.submit(cache.get_or_load, "late", lambda: 1)
            wait_until(lambda: bool(readings))
            clock.advance(30)
        with nullcontext() if then == "nothing" else cache.invocation(lambda: 80.0):  # of which L2 may take 20 s
            proxy.ok()
            assert late.result(30) == 1
            assert cache.get_or_load("next", lambda: 2) == 2
        assert (l2(cache).errors, l2(cache).over_budget, l2(cache).writes) == ({}, 0, 2)


# Refreshes that are left to others


class Invokes:
    """A carrier that does not run the work it is given, but has another container load, or nobody."""

    def __init__(self) -> None:
        self.taken = 0

    def submit(self, work: Callable[[], None]) -> None:
        self.taken += 1


READS: dict[str, Callable[[TieredCache, Origin], Any]] = {
    "get_or_load": lambda cache, origin: cache.get_or_load("k", origin),
    "get_many_or_load": lambda cache, origin: cache.get_many_or_load(["k"], lambda _: {"k": origin()})["k"],
}


@pytest.mark.parametrize("read", READS)
def test_a_container_sees_what_others_have_refreshed_for_it(fleet_of: Callable[..., Fleet], read: str) -> None:
    """Once its own L1 time is up, while its refresh is owed still; then it owes anew when that is stale."""
    fleet, carrier = fleet_of(ttl=30, stale_while_revalidate=3600), Invokes()
    front, worker = fleet.container(l1=10, refresh=carrier), fleet.container()
    ask, origin = READS[read], Origin()
    assert ask(front, origin) == "v1"
    fleet.clock.advance(31)
    assert ask(front, origin) == "v1"
    worker.get_or_load("k", lambda: "v2", force_refresh=True)
    assert ask(front, origin) == "v2"
    assert (carrier.taken, origin.loads) == (1, 1)
    fleet.clock.advance(9)
    assert (ask(front, origin), carrier.taken) == ("v2", 1)
    fleet.clock.advance(22)
    assert (ask(front, origin), carrier.taken) == ("v2", 2)


def test_it_asks_no_more_often_than_l1_may_go_without(fleet_of: Callable[..., Fleet]) -> None:
    """While nobody has refreshed it, or L2 has lost it."""
    fleet, carrier = fleet_of(stale_while_revalidate=3600), Invokes()
    front, origin = fleet.container(refresh=carrier), Origin()
    front.get_or_load("k", origin)
    fleet.clock.advance(101)
    assert front.get_or_load("k", origin) == "v1"

    def asked() -> int:
        before = front.stats().l2
        assert before is not None
        for _ in range(5):
            assert front.get_entry_or_load("k", origin).reason is Reason.REVALIDATING
        after = front.stats().l2
        assert after is not None
        return after.hits + after.misses - before.hits - before.misses

    assert [asked(), asked()] == [1, 0]
    fleet.tier().bind("default").release([_seized(fleet, "k")], fleet.clock(), drop=True)
    fleet.clock.advance(49)
    assert asked() == 0
    fleet.clock.advance(2)
    assert [asked(), asked()] == [1, 0]
    assert origin.loads == 1


def test_nor_does_it_ask_while_its_own_refresh_is_under_way(fleet_of: Callable[..., Fleet]) -> None:
    """That will have asked L2, and gives the value soon."""
    fleet, origin = fleet_of(stale_while_revalidate=3600), Origin()
    front = fleet.container(refresh="thread")
    front.get_or_load("k", origin)
    fleet.clock.advance(101)
    origin.gate.clear()
    origin.begun.clear()
    assert front.get_or_load("k", origin) == "v1"
    assert origin.begun.wait(WAIT)
    before = front.stats().l2
    for _ in range(5):
        assert front.get_entry_or_load("k", origin).reason is Reason.REVALIDATING
    assert front.stats().l2 == before
    origin.gate.set()
    wait_until(lambda: front.stats().origin.loads == 2)


def _seized(fleet: Fleet, key: str) -> Lease:
    lease = Lease(key, b"seized", 60.0)
    fleet.tier().bind("default").ask(lease, Claim.SEIZE, fleet.clock(), None)
    return lease


@pytest.mark.parametrize("stale", ["while revalidating", "if an error"])
def test_nor_does_a_pause_after_a_failure_keep_it_from_what_others_have_loaded(
    fleet_of: Callable[..., Fleet], stale: str
) -> None:
    """The pause is of loads, and not of looks into L2."""
    window = {"stale_while_revalidate": 3600} if stale == "while revalidating" else {"stale_if_error": 3600}
    fleet = fleet_of(**window)
    front, worker, origin = fleet.container(error_backoff=1000), fleet.container(), Origin()
    front.get_or_load("k", origin)
    fleet.clock.advance(101)
    origin.value = OSError("down")
    assert front.get_entry_or_load("k", origin).reason is Reason.LOAD_FAILED
    assert front.get_entry_or_load("k", origin).reason is Reason.LOAD_FAILED
    worker.get_or_load("k", lambda: "v2", force_refresh=True)
    fleet.clock.advance(51)
    assert front.get_entry_or_load("k", origin)[:2] == ("v2", "l2")
    assert origin.loads == 2
