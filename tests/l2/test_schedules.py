"""Races that a review of the protocol found, each forced into the order of steps in which it went wrong.

Each container is a cache of its own with a tier of its own. An order is forced by a step put around one real method.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
import redis
from rig import wait_until

from tiered_cache import (
    ClosedError,
    LoadContext,
    Loaded,
    LoadPending,
    LoadTimeout,
    MemoryTier,
    NotFound,
    RedisTier,
    TieredCache,
)
from tiered_cache._l2.faults import Failure, Unavailable
from tiered_cache._l2.scripts import RELEASE
from tiered_cache._l2.store import MOST_STRAYS
from tiered_cache._load import Patience
from tiered_cache._reply import Lease
from tiered_cache.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tiered_cache.local.proxy import FaultProxy
    from tiered_cache.local.valkey import ValkeyServer

    Make = Callable[..., TieredCache]

WAIT = 60.0
TIMEOUT = 0.25
"""Seconds after which a call ends that nothing answers; all others have as long as a busy machine may need."""
LOG, MARKS = "tc1:{n|}:log", "tc1:{n|}:marks"


@pytest.fixture
def container(valkey: ValkeyServer, clock: FakeClock) -> Iterator[Make]:
    """Makes containers, of one namespace of the session's server where nothing else is said."""
    with ExitStack() as close:

        def make(url: str = valkey.url, *, l1: float = 3600, hash_keys: bool = False, **options: Any) -> TieredCache:
            tier = RedisTier(url, ttl=7200, jitter=0, hash_keys=hash_keys, timeout=20)
            options = {"namespace": "n", "refresh": "inline", "clock": clock} | options
            return close.enter_context(TieredCache(MemoryTier(ttl=l1, jitter=0), tier, **options))

        yield make


@pytest.fixture
def admin(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as client:
        yield client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


@pytest.fixture
def behind(container: Make, proxy: FaultProxy) -> TieredCache:
    """A container that reaches the session's server through the proxy, and has done so."""
    cache = container(f"redis://127.0.0.1:{proxy.port}", on_failure="queue")
    assert cache.warm_up()
    return cache


class Slow:
    """A loader that waits until it may go on."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> Any:
        self.begun.set()
        assert self.go.wait(WAIT)
        return self._value


def store_of(cache: Any) -> Any:
    return cache._shared._store


def l2(cache: TieredCache) -> Any:
    return cache.stats().l2


def holds(admin: redis.Redis, key: str) -> bool:
    """Whether the server has a lease of `key`, whoever took it."""
    return bool(admin.exists(f"tc1:{{n|{key}}}:lease"))


READS: dict[str, Callable[[TieredCache], Any]] = {
    "get_or_load": lambda cache: cache.get_or_load("k", lambda: "new"),
    "get_many_or_load": lambda cache: cache.get_many_or_load(["k", "j"], lambda keys: dict.fromkeys(keys, "new"))["k"],
    "get": lambda cache: cache.get("k", "nothing"),
}
every_read = pytest.mark.parametrize("read", READS)
ACTS: dict[str, Callable[[TieredCache, str, str], None]] = {
    "delete": lambda cache, key, _: cache.delete(key),
    "invalidate_tag": lambda cache, _, tag: cache.invalidate_tag(tag),
    "clear": lambda cache, *_: cache.clear(),
}
by_tag_or_all = pytest.mark.parametrize("act", ["invalidate_tag", "clear"])


# A copy that the very call learns to be dead


@every_read
@pytest.mark.parametrize("ahead", [0, 10])
def test_a_copy_that_a_calls_own_look_kills_is_not_served(
    container: Make, clock: FakeClock, read: str, ahead: int
) -> None:
    """Nor where its holder's clock is ahead, so that it seems to be loaded later than what L2 has."""
    fast = FakeClock(clock() + ahead)
    one, two = container(clock=fast, l1=1), container()
    one.get_or_load("k", lambda: "old")
    two.delete("k")
    two.get_or_load("k", lambda: "new")
    fast.advance(2)
    assert READS[read](one) == "new"
    assert l2(one).applied == 1


@pytest.mark.parametrize("read", ["get_or_load", "get_many_or_load"])
def test_it_is_not_served_while_another_loads(
    container: Make, clock: FakeClock, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """The load is waited for, as by one who holds nothing."""
    one, two, loader = container(l1=1), container(), Slow("new")
    one.get_or_load("k", lambda: "old")
    two.delete("k")
    loading = pool.submit(two.get_or_load, "k", loader)
    assert loader.begun.wait(WAIT)

    def until_loaded(_: Patience, **_known: bool) -> bool:
        loader.go.set()
        return bool(loading.result(WAIT))

    monkeypatch.setattr(Patience, "wait", until_loaded)
    clock.advance(2)
    value = READS[read](one)
    loader.go.set()
    assert value == loading.result(WAIT) == "new"


def test_what_is_doubtful_gives_way_to_what_l2_has(container: Make, clock: FakeClock, admin: redis.Redis) -> None:
    """After a gap, though the clock of its holder was ahead: `get` does not arm it anew."""
    fast = FakeClock(clock() + 10)
    one, two = container(clock=fast), container()
    one.get_or_load("k", lambda: "old")
    two.delete("k")
    admin.delete(LOG)
    container().get_or_load("k", lambda: "new")
    fast.advance(2)
    with one.invocation():
        assert one.get("k") == "new"
    assert l2(one).gaps == 1
    assert one.get_or_load("k", lambda: pytest.fail("ran")) == "new"


@pytest.mark.parametrize("read", ["get_or_load", "get_many_or_load"])
def test_a_value_whose_tag_cannot_be_looked_for_is_not_taken(
    container: Make, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """It came well, and then the connection went, before it could be told whether the tag was invalidated."""
    one, two = container(), container()
    two.set("k", "old", tags=["t"])
    two.delete("another")
    one.get("another", None)
    link = one._shared._store._tier.link()  # type: ignore[union-attr]
    call = link.call

    def without_looks(commands: Sequence[tuple[bytes, ...]], *rest: Any) -> Any:
        if commands[0][0] == b"HMGET":
            raise Unavailable(Failure.RESET, "closed")
        return call(commands, *rest)

    monkeypatch.setattr(link, "call", without_looks)
    assert READS[read](one) == "new"


@pytest.mark.parametrize("read", ["get_or_load", "get_many_or_load"])
def test_what_l2_vouches_for_is_doubtful_no_longer(container: Make, admin: redis.Redis, read: str) -> None:
    """After a gap, as where the log was cut for its length: it is asked for once, and L1 answers by itself again."""
    one, two = container(), container()
    one.get_or_load("k", lambda: "old")
    for number in range(3):
        two.delete(f"another {number}")
    admin.xtrim(LOG, 1, approximate=False)
    with one.invocation():
        assert READS[read](one) == "old"
        hits = l2(one).hits
        assert one.get_or_load("k", lambda: pytest.fail("ran")) == "old"
    assert (l2(one).gaps, l2(one).hits) == (1, hits)


def test_an_entry_that_becomes_doubtful_in_hand_is_not_armed(
    container: Make, clock: FakeClock, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the judgement and the arming for plain hits another thread's look meets a gap."""
    one, two = container(), container()
    one.get_or_load("k", lambda: "old")
    memory = one._memory
    memory.hot.clear()
    rearm = memory.rearm

    def after_a_gap(*arguments: Any) -> None:
        monkeypatch.setattr(memory, "rearm", rearm)
        two.delete("k")
        admin.delete(LOG)
        clock.advance(2)
        one.get("other", None)
        rearm(*arguments)

    monkeypatch.setattr(memory, "rearm", after_a_gap)
    one.get_or_load("k", lambda: "new")
    assert l2(one).gaps == 1
    assert one.get_or_load("k", lambda: "new") == "new"


# Resumable loads


class Query:
    """A resumable load of what the origin holds when it begins."""

    def __init__(self, *tags: str) -> None:
        self.value = "old"
        self.begun: list[str] = []
        self._tags = tags

    def load(self, context: LoadContext) -> Any:
        if context.handle is None:
            self.begun.append(self.value)
            return context.pending(str(len(self.begun)))
        return Loaded(self.begun[int(context.handle) - 1], tags=self._tags)


@pytest.mark.parametrize(
    ("key", "tag", "hash_keys"),
    [("k", "t", False), ("k", "t", True), ("k" * 513, "t" * 513, False)],
    ids=["plain", "hash_keys", "long"],
)
@pytest.mark.parametrize("whose", ["own", "another's"])
@pytest.mark.parametrize("act", ACTS)
def test_a_handle_goes_with_what_is_invalidated(
    container: Make, key: str, tag: str, hash_keys: bool, whose: str, act: str
) -> None:
    """The load begins anew, and all get what that brings."""
    one, two = container(hash_keys=hash_keys), container(hash_keys=hash_keys)
    query = Query()
    with pytest.raises(LoadPending):
        one.get_or_load(key, query, tags=[tag])
    query.value = "new"
    ACTS[act](one if whose == "own" else two, key, tag)
    with one.invocation():
        with pytest.raises(LoadPending):
            one.get_or_load(key, query, tags=[tag])
        assert one.get_or_load(key, query, tags=[tag]) == "new"
    assert query.begun == ["old", "new"]
    with two.invocation():
        assert two.get(key) == "new"


@pytest.mark.parametrize("act", ACTS)
def test_without_l2_a_handle_goes_too(act: str) -> None:
    """By a tag of the call, as by the key."""
    cache, query = TieredCache(clock=FakeClock()), Query()
    with pytest.raises(LoadPending):
        cache.get_or_load("k", query, tags=["t"])
    query.value = "new"
    ACTS[act](cache, "k", "t")
    with pytest.raises(LoadPending):
        cache.get_or_load("k", query, tags=["t"])
    assert cache.get_or_load("k", query, tags=["t"]) == cache.get("k") == "new"


def test_what_a_resumed_load_brings_is_of_when_it_began(container: Make) -> None:
    """Its tags are known with its end only, and one of them was invalidated on the way: it is kept by nobody."""
    one, two, query = container(), container(), Query("t")
    with pytest.raises(LoadPending):
        one.get_or_load("k", query)
    two.invalidate_tag("t")
    with one.invocation():
        assert one.get_or_load("k", query) == "old"
        assert one.get("k", None) is None
    assert container().get("k", None) is None


# Looks that fail


@every_read
@pytest.mark.parametrize("fault", ["hang", "reset"])
def test_where_the_look_at_its_tags_fails_an_entry_is_not_served(
    container: Make, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, read: str, fault: str
) -> None:
    """The connection is lost between the reading of a dead entry and the look that would tell so."""
    one = container()
    for key in ("k", "j"):
        one.get_or_load(key, lambda: "old", tags=["t"])
    one.invalidate_tag("t")
    cold = container(f"redis://127.0.0.1:{proxy.port}")
    store = store_of(cold)
    look = store.look

    def spoilt(since: Any, tags: Sequence[str], now: float) -> Any:
        if tags:
            getattr(proxy, fault)()
            monkeypatch.setattr(store._tier, "timeout", TIMEOUT)
        return look(since, tags, now)

    monkeypatch.setattr(store, "look", spoilt)
    value = READS[read](cold)
    proxy.ok()
    assert value == ("nothing" if read == "get" else "new")
    assert l2(cold).look_failures > 0


@every_read
@by_tag_or_all
def test_who_may_not_look_is_served_nothing_that_may_be_dead(
    container: Make, server: ValkeyServer, read: str, act: str
) -> None:
    """An ACL without HMGET: values can be read, and the log cannot."""
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "blind", "on", ">pw", "~*", "+@all", "-hmget")
    one = container(server.url)
    for key in ("k", "j"):
        one.get_or_load(key, lambda: "old", tags=["t"])
    ACTS[act](one, "k", "t")
    blind = container(f"redis://blind:pw@127.0.0.1:{server.port}")
    assert READS[read](blind) == ("nothing" if read == "get" else "new")
    assert l2(blind).errors["permission"] > 0


def test_thousands_of_tags_in_one_batch(container: Make) -> None:
    """One was invalidated: its key is loaded anew, and no other."""
    keys = [f"k{number}" for number in range(1000)]
    tagged = {key: Loaded("old", tags=[f"{key} {number}" for number in range(9)]) for key in keys}
    one, two = container(), container()
    one.get_many_or_load(keys, lambda _: tagged)
    one.invalidate_tag("k500 8")
    asked: list[Sequence[str]] = []

    def load(missing: Sequence[str]) -> dict[str, str]:
        asked.append(missing)
        return dict.fromkeys(missing, "new")

    found = two.get_many_or_load(keys, load)
    assert [key for key in keys if found[key] != "old"] == ["k500"]
    assert asked == [("k500",)]


def test_a_look_from_before_the_invocation_does_not_count_for_it(
    container: Make, clock: FakeClock, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was answered, and then the container was frozen: plain hits wait for a look of the invocation's own."""
    one, two = container(), container()
    one.get_or_load("k", lambda: "old")
    store = store_of(one)
    look_and = store._look_and
    answered, go = threading.Event(), threading.Event()

    def held_back(*arguments: Any) -> Any:
        replies = look_and(*arguments)
        if not answered.is_set():
            answered.set()
            assert go.wait(WAIT)
        return replies

    monkeypatch.setattr(store, "_look_and", held_back)
    clock.advance(2)
    background = pool.submit(one.get_or_load, "other", lambda: 1)
    assert answered.wait(WAIT)
    clock.freeze(600)
    two.delete("k")
    with one.invocation():
        go.set()
        assert background.result(WAIT) == 1
        assert one.get_or_load("k", lambda: "new") == "new"


def test_scripts_that_are_unknown_do_not_reorder_what_is_asked(
    container: Make, admin: redis.Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What follows such a script in a pipeline is asked for again after it."""
    link = store_of(container())._tier.link()
    call = link._call
    admin.script_flush()
    admin.set("x", "before")

    def meanwhile(commands: Sequence[tuple[bytes, ...]], *rest: Any) -> Any:
        if commands[0][0] == b"EVAL":
            admin.set("x", "after")
        return call(commands, *rest)

    monkeypatch.setattr(link, "_call", meanwhile)
    assert link.call([RELEASE((b"v", b"l"), b"t", b"keep"), (b"GET", b"x")], clock())[1] == b"after"


# Leases


def leave_a_stray(behind: TieredCache, proxy: FaultProxy, admin: redis.Redis, clock: FakeClock, lost: str) -> None:
    """A lease of "k" that nobody here knows to be held: the reply that gave it was lost, or the release was."""

    def fails() -> Any:
        proxy.refuse()
        proxy.kill_all()
        raise OSError("down")

    assert behind.get_or_load("for the server to know the scripts", lambda: 1) == 1
    tier = store_of(behind)._tier
    patient = tier.timeout
    if lost == "its reply":
        proxy.hang()
        tier.timeout = TIMEOUT
        assert behind.get_or_load("k", lambda: 1) == 1
    elif lost == "replies of a batch":
        asked = store_of(behind).ask_many

        def hangs(*arguments: Any) -> Any:
            proxy.hang()
            tier.timeout = TIMEOUT
            return asked(*arguments)

        store_of(behind).ask_many = hangs
        assert behind.get_many_or_load(["k", "j"], lambda keys: dict.fromkeys(keys, 1)) == {"k": 1, "j": 1}
        store_of(behind).ask_many = asked
    else:
        with pytest.raises(OSError, match="down"):
            behind.get_or_load("k", fails)
    tier.timeout = patient
    proxy.ok()
    wait_until(lambda: holds(admin, "k"))
    clock.advance(61)
    behind.get("a read, which closes the breaker", None)


@pytest.mark.parametrize("lost", ["its reply", "its release", "replies of a batch"])
def test_a_lease_that_was_lost_is_given_up_with_the_next(
    behind: TieredCache, proxy: FaultProxy, admin: redis.Redis, clock: FakeClock, lost: str
) -> None:
    """Otherwise all containers would wait for nobody until it runs out."""
    leave_a_stray(behind, proxy, admin, clock, lost)
    assert behind.get_or_load("another", lambda: 1) == 1
    assert not holds(admin, "k")
    assert not holds(admin, "another")


def test_two_threads_may_give_up_the_same_lost_lease(
    behind: TieredCache, proxy: FaultProxy, admin: redis.Redis, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither call fails for that."""
    leave_a_stray(behind, proxy, admin, clock, "its release")
    store = store_of(behind)
    look_and = store._look_and

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(store, "_look_and", look_and)
        replies = look_and(*arguments)
        assert behind.get_or_load("another", lambda: 1) == 1
        return replies

    monkeypatch.setattr(store, "_look_and", overtaken)
    assert behind.get_or_load("one", lambda: 1) == 1
    assert not holds(admin, "k")


def test_no_more_than_so_many_lost_leases_are_remembered(clock: FakeClock, nobody: int) -> None:
    """The rest ends by itself."""
    store = RedisTier(f"redis://127.0.0.1:{nobody}", ttl=1).bind("n")
    store.release([Lease(str(number), b"t", 1.0) for number in range(MOST_STRAYS + 50)], clock(), drop=False)
    assert [lease.key for lease in store._strays] == [str(number) for number in range(50, MOST_STRAYS + 50)]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[Patience]:
    """Who was about to wait for another's load, and did not."""
    asked: list[Patience] = []

    def refuses(patience: Patience, **_known: bool) -> bool:
        asked.append(patience)
        return False

    monkeypatch.setattr(Patience, "wait", refuses)
    return asked


def test_a_batch_loader_that_asks_for_its_own_keys_does_not_wait_for_itself(
    container: Make, waits: list[Patience]
) -> None:
    """The lease is its own, and what the inner load brings is what the outer one gives."""
    cache = container()
    found = cache.get_many_or_load(["x", "y"], lambda keys: {key: cache.get_or_load(key, lambda: 1) for key in keys})
    assert (found, waits) == ({"x": 1, "y": 1}, [])


def test_a_loader_that_asks_for_its_own_key_in_a_batch_does_not_wait_for_itself(
    container: Make, waits: list[Patience]
) -> None:
    """The other way round."""
    cache = container()
    assert cache.get_or_load("z", lambda: cache.get_many_or_load(["z"], lambda _: {"z": 1})["z"]) == 1
    assert waits == []


def test_keys_that_a_batch_loader_left_out_keep_no_lease(
    container: Make, admin: redis.Redis, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the batch waits for what another container loads."""
    one, two, loader = container(), container(), Slow(1)
    loading = pool.submit(two.get_or_load, "k2", loader)
    assert loader.begun.wait(WAIT)
    held: list[bool] = []

    def until_loaded(_: Patience, **_known: bool) -> bool:
        held.append(holds(admin, "k1"))
        loader.go.set()
        return bool(loading.result(WAIT))

    monkeypatch.setattr(Patience, "wait", until_loaded)
    assert one.get_many_or_load(["k1", "k2"], lambda _: {}) == {"k2": 1}
    assert held == [False]


@pytest.mark.parametrize("batch", [False, True], ids=["one key", "a batch"])
def test_after_a_refused_forced_load_l1_holds_nothing_older(container: Make, batch: bool) -> None:
    """Another container forced a load too, and took the lease: its load failed."""
    one, two = container(), container()
    one.get_or_load("k", lambda: "v0")

    def fails() -> Any:
        raise OSError("down")

    def load(*keys: Any) -> Any:
        assert two.get_or_load("k", fails, force_refresh=True) == "v0"
        return {"k": "v1"} if keys else "v1"

    if batch:
        assert one.get_many_or_load(["k"], load, force_refresh=True) == {"k": "v1"}
    else:
        assert one.get_or_load("k", load, force_refresh=True) == "v1"
    assert (l2(one).refused, one.stats().l1.entries) == (1, 0)


def test_a_cache_that_is_closed_during_a_load_connects_no_more(container: Make, pool: ThreadPoolExecutor) -> None:
    """Its caller is told, and no tier keeps what it brings."""
    one, loader = container(), Slow("v")
    loading = pool.submit(one.get_or_load, "k", loader)
    assert loader.begun.wait(WAIT)
    one.close()
    connects = l2(one).connects
    loader.go.set()
    with pytest.raises(ClosedError):
        loading.result(WAIT)
    assert (l2(one).connects, one.stats().l1.entries) == (connects, 0)
    assert container().get("k", None) is None


def batch_of(loader: Slow) -> Callable[[Sequence[str]], dict[str, Any]]:
    return lambda keys: dict.fromkeys(keys, loader())


def left_to_itself(cache: TieredCache, loader: Slow) -> Any:
    """The load goes on in a thread that nobody waits for."""
    with pytest.raises(LoadTimeout):
        cache.get_or_load("k", loader, hard_timeout=0.01)
    raise ClosedError("as the others")


LOADS: dict[str, Callable[[TieredCache, Slow], Any]] = {
    "get_or_load": lambda cache, loader: cache.get_or_load("k", loader),
    "get_many_or_load": lambda cache, loader: cache.get_many_or_load(["j", "k"], batch_of(loader)),
    "hard_timeout": left_to_itself,
}


@pytest.mark.parametrize("load", LOADS)
def test_a_cache_that_is_closed_during_a_load_gives_up_its_lease(
    container: Make, pool: ThreadPoolExecutor, admin: redis.Redis, load: str
) -> None:
    """The next container loads at once, while that load still goes on, of which no tier keeps anything."""
    one, two, loader = container(), container(), Slow("lost")
    loading = pool.submit(LOADS[load], one, loader)
    assert loader.begun.wait(WAIT)
    assert holds(admin, "k")
    one.close()
    assert not holds(admin, "k")
    assert not holds(admin, "j")
    assert two.get_or_load("k", lambda: "v") == "v"
    assert l2(two).leases == 1
    loader.go.set()
    with pytest.raises(ClosedError):
        loading.result(WAIT)
    assert container().get("k", None) == "v"


@pytest.mark.parametrize(
    ("step", "call"),
    [
        ("ask", lambda cache: cache.get_or_load("k", lambda: "lost")),
        ("ask_many", lambda cache: cache.get_many_or_load(["k"], lambda keys: dict.fromkeys(keys, "lost"))),
        ("invalidate", lambda cache: cache.set("k", "lost")),
    ],
)
def test_a_lease_that_is_granted_while_the_cache_is_closed_is_given_up(
    container: Make, admin: redis.Redis, monkeypatch: pytest.MonkeyPatch, step: str, call: Callable[[TieredCache], Any]
) -> None:
    """close() cannot know of it yet; and no connection is left of giving it up."""
    one = container()
    store = store_of(one)
    granting = getattr(store, step)

    def meanwhile(*arguments: Any) -> Any:
        granted = granting(*arguments)
        assert holds(admin, "k")
        one.close()
        return granted

    monkeypatch.setattr(store, step, meanwhile)
    with pytest.raises(ClosedError):
        call(one)
    assert not holds(admin, "k")
    assert not store._tier.link()._idle


@pytest.mark.parametrize("lost", ["its reply", "its release"])
def test_what_may_be_held_unknown_is_given_up_with_the_cache(
    behind: TieredCache, proxy: FaultProxy, admin: redis.Redis, clock: FakeClock, lost: str
) -> None:
    """As a lease whose answer was lost."""
    leave_a_stray(behind, proxy, admin, clock, lost)
    behind.close()
    assert not holds(admin, "k")


@every_read
def test_a_call_that_connects_after_the_cache_was_closed_leaves_no_connection(
    container: Make, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """It was under way, and had not come to L2 yet."""
    one = container()
    link = store_of(one)._tier.link()
    call = link.call

    def late(*arguments: Any) -> Any:
        one.close()
        return call(*arguments)

    monkeypatch.setattr(link, "call", late)
    with suppress(ClosedError):
        READS[read](one)
    assert link.connects > 0
    assert not link._idle


def test_a_warm_up_that_ends_after_the_cache_was_closed_leaves_no_connection(
    container: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on in its thread."""
    one, go = container(), threading.Event()
    tier = store_of(one)._tier
    link = tier.link()
    call = link.call

    def late(*arguments: Any) -> Any:
        assert go.wait(WAIT)
        return call(*arguments)

    monkeypatch.setattr(link, "call", late)
    assert one.warm_up(wait=False)
    warming = tier.warming
    assert warming is not None
    one.close()
    go.set()
    assert warming.joined(warming.begins, WAIT)
    assert link.connects == 1
    assert not link._idle


def test_what_waits_is_delivered_when_the_cache_is_closed(
    behind: TieredCache, container: Make, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """However long the breaker would have waited still, since there will be no other contact."""
    one = container()
    one.get_or_load("k", lambda: "old")
    proxy.reset()
    behind.delete("k")
    proxy.ok()
    assert (l2(behind).undelivered, l2(behind).breaker) == (1, "open")
    behind.close()
    assert l2(behind).undelivered == 0
    assert "never will be" not in caplog.text
    with one.invocation():
        assert one.get_or_load("k", lambda: "new") == "new"


def test_what_is_lost_with_the_cache_is_said(
    behind: TieredCache, proxy: FaultProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """How many invalidations, once; a second close() says and does nothing."""
    proxy.reset()
    behind.delete("k")
    behind.invalidate_tag("t")
    for _ in range(2):
        behind.close()
    said = [record.getMessage() for record in caplog.records if "never will be" in record.getMessage()]
    assert [message.partition(" were not delivered")[0] for message in said] == ["2 invalidations"]
    proxy.ok()


# Invalidations that wait to be delivered


def test_what_is_not_found_while_l2_is_away_invalidates_nothing(behind: TieredCache, proxy: FaultProxy) -> None:
    """Reads of what does not exist would else clear the namespace once L2 is back."""

    def finds_nothing() -> Any:
        raise NotFound("nothing")

    proxy.reset()
    with pytest.raises(NotFound):
        behind.get_or_load("k", finds_nothing)
    assert behind.get_many_or_load(["k", "j"], lambda keys: dict.fromkeys(keys, NotFound)) == {}
    assert l2(behind).undelivered == 0
    proxy.ok()


def refuse_writes(admin: redis.Redis, how: str) -> None:
    if how == "no right":
        admin.execute_command("ACL", "SETUSER", "narrow", "-xadd")
    else:
        admin.config_set("maxmemory-policy", "noeviction")
        admin.config_set("maxmemory", 1)


@pytest.mark.parametrize(("how", "failure"), [("no right", "permission"), ("no room", "out_of_memory")])
@pytest.mark.parametrize(
    "pause",
    [
        pytest.param(0, id="within the pause"),
        pytest.param(61, id="after it"),
    ],
)
def test_a_refused_delivery_is_not_repeated_with_each_read(
    container: Make, server: ValkeyServer, clock: FakeClock, how: str, failure: str, pause: float
) -> None:
    """Each try would delete what others have loaded since. The class of the error is that of what refused it."""
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "narrow", "on", ">pw", "~*", "+@all")
        one = container(f"redis://narrow:pw@127.0.0.1:{server.port}", on_failure="queue")
        two = container(server.url)
        one.set("held", 1)
        refuse_writes(admin, how)
        one.delete("k")
        assert (l2(one).undelivered, l2(one).errors) == (1, {failure: 1})
        admin.config_set("maxmemory", 0)
        two.get_or_load("k", lambda: "another's")
        if how == "no room":
            refuse_writes(admin, how)
        clock.advance(pause)
        admin.config_resetstat()
        for number in range(10):
            one.get(f"{number}", None)
        assert admin.info("commandstats").get("cmdstat_del", {"calls": 0})["calls"] <= (1 if pause else 0)
        assert l2(one).undelivered == 1
        assert bool(pause) or container(server.url).get("k") == "another's"


def test_to_expire_a_foreign_type_is_delivered(container: Make, admin: redis.Redis) -> None:
    """It is deleted: nothing there may be served."""
    one = container()
    admin.rpush("tc1:{n|k}", 1)
    one.expire("k")
    assert l2(one).undelivered == 0
    assert not admin.exists("tc1:{n|k}")


def test_a_thousand_expires_are_delivered_in_one_round_trip(
    behind: TieredCache, proxy: FaultProxy, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As deletions, which need no look at what is there."""
    proxy.reset()
    for number in range(1000):
        behind.expire(f"k{number}")
    assert l2(behind).undelivered == 1000
    proxy.ok()
    clock.advance(61)
    link = store_of(behind)._tier.link()
    call = link.call
    calls: list[list[bytes]] = []

    def seen(commands: Sequence[tuple[bytes, ...]], *rest: Any) -> Any:
        calls.append([command[0] for command in commands])
        return call(commands, *rest)

    monkeypatch.setattr(link, "call", seen)
    behind.get("another", None)
    assert calls[0] == [b"DEL"] * 1000 + [b"EVALSHA", b"HMGET", b"XRANGE"]
    assert not any(b"DEL" in names for names in calls[1:])
    assert l2(behind).undelivered == 0


@by_tag_or_all
def test_what_is_set_after_an_undelivered_invalidation_is_kept(
    container: Make, behind: TieredCache, proxy: FaultProxy, clock: FakeClock, act: str
) -> None:
    """That goes out first, and so does not kill what came after it."""
    proxy.reset()
    ACTS[act](behind, "k", "t")
    assert l2(behind).undelivered == 1
    proxy.ok()
    clock.advance(61)
    behind.set("k", "set after it", tags=["t"])
    assert behind.get("another", None) is None
    assert behind.get("k") == container().get("k") == "set after it"
    assert l2(behind).undelivered == 0


# A log that has lost its end


def test_a_log_that_ends_before_ones_own_position_is_a_gap(
    container: Make, clock: FakeClock, admin: redis.Redis
) -> None:
    """A failover lost the last record, and the new primary's clock is behind: its next record is before that one."""
    one, two = container(), container()
    one.get_or_load("k", lambda: "old")
    log, marks = admin.dump(LOG), admin.dump(MARKS)
    two.delete("x")
    clock.advance(2)
    one.get("a look", None)
    for name, before in ((LOG, log), (MARKS, marks)):
        admin.restore(name, 0, before, replace=True)
    last = admin.xrevrange(LOG, count=1)[0][0].decode()
    epoch, _, sequence = last.partition("-")
    deleted = f"{epoch}-{int(sequence) + 1}"
    admin.delete("tc1:{n|k}")
    admin.xadd(LOG, {"p": last, "k": "k"}, id=deleted)
    admin.hset(MARKS, "end", deleted)
    with one.invocation():
        assert one.get_or_load("k", lambda: "new") == "new"
    assert l2(one).gaps == 1
