"""The way of a read, row by row of the table of freshness: what the caller gets, from where, how old, how stale and why."""

from __future__ import annotations

import contextlib
import contextvars
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tiered_cache import (
    MISSING,
    Answer,
    ClosedError,
    InvalidationNotDelivered,
    LoadContext,
    Loaded,
    LoadPending,
    LoadTimeout,
    MemoryTier,
    NotFound,
    OriginDenied,
    OriginError,
    Reason,
    ReentrantLoadError,
    SerializationError,
    TieredCache,
)
from tiered_cache._waits import WAITS
from tiered_cache.testing import FakeClock, InMemorySharedTier

WAIT = 60.0


class Origin:
    """A loader whose next outcomes are set: a value, an error to raise, or a function of the context."""

    def __init__(self, value: Any = "v1") -> None:
        self.value = value
        self.contexts: list[LoadContext] = []

    @property
    def loads(self) -> int:
        return len(self.contexts)

    def load(self, context: LoadContext) -> Any:
        self.contexts.append(context)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value(context) if callable(self.value) else self.value


class Carrier:
    """Keeps refreshes until told; may refuse or drop them."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []
        self.error: Exception | None = None

    def submit(self, work: Callable[[], None], /) -> None:
        if self.error is not None:
            raise self.error
        self.work.append(work)

    def carry_out(self) -> None:
        while self.work:
            self.work.pop(0)()


class World:
    """A cache with its clock, its L2 and an origin: without an L2, L1 has the policy that the L2 has otherwise."""

    def __init__(self, *, l2: bool, l1: dict[str, Any] | None = None, **options: Any) -> None:
        policy = {"ttl": 100, "stale_while_revalidate": 20, "stale_if_error": 50, "jitter": 0} | options.pop(
            "policy", {}
        )
        self.clock, self.origin = FakeClock(), Origin()
        self.l2 = InMemorySharedTier(**policy) if l2 else None
        tier = {"ttl": 10, "jitter": 0} | (l1 or {}) if l2 else policy | (l1 or {})
        options = {"refresh": "inline", "error_backoff": 4} | options
        self.cache = TieredCache(MemoryTier(**tier), self.l2, clock=self.clock, **options)
        self.tier, self.options = tier, options

    def get(self, key: str = "k", **options: Any) -> Answer:
        return self.cache.get_entry_or_load(key, self.origin, **options)

    def another(self, **options: Any) -> TieredCache:
        """Another container's cache on the same L2."""
        return TieredCache(MemoryTier(**self.tier), self.l2, clock=self.clock, **(self.options | options))

    def age(self, seconds: float) -> None:
        self.clock.advance(seconds)


def joined(world: World) -> None:
    """Return once a thread waits for a load under way in the world's cache."""
    while not any(flight in world.cache._reads.flights.under_way() for flight in list(WAITS.awaited.values())):
        time.sleep(0.002)


both = pytest.mark.parametrize("l2", [False, True], ids=["l1 alone", "with l2"])


# Fresh


@both
def test_a_miss_loads_and_a_hit_does_not(l2: bool) -> None:
    """The first answer is the origin's, the second L1's; both are fresh."""
    world = World(l2=l2)
    assert Answer("v1", "origin", 0.0, False, Reason.LOADED) == world.get()
    world.age(9)
    assert Answer("v1", "l1", 9.0, False, Reason.FRESH) == world.get()
    assert "v1" == world.cache.get_or_load("k", world.origin) == world.cache.get("k")
    assert 1 == world.origin.loads


def test_another_container_finds_it_in_l2() -> None:
    """And then holds it in its own L1; its age counts from the load."""
    world = World(l2=True)
    world.get()
    world.age(5)
    other = world.another()
    assert Answer("v1", "l2", 5.0, False, Reason.FRESH) == other.get_entry_or_load("k", world.origin)
    assert Answer("v1", "l1", 5.0, False, Reason.FRESH) == other.get_entry_or_load("k", world.origin)
    assert 1 == world.origin.loads


@both
def test_none_and_other_falsy_values_are_values(l2: bool) -> None:
    """They are cached like any other."""
    for key, value in (("none", None), ("zero", 0), ("empty", ""), ("false", False), ("list", [])):
        world = World(l2=l2)
        world.origin.value = lambda _, value=value: value
        for expected in ("origin", "l1"):
            answer = world.get(key)
            assert value == answer.value
            assert expected == answer.tier
        assert value == world.cache.get(key)
        assert 1 == world.origin.loads


# Unconfirmed


def test_when_l1s_time_is_up_l2_is_asked() -> None:
    """L2 vouches for the value, which L1 may then give for another while."""
    world = World(l2=True)
    world.get()
    world.age(10)
    assert Answer("v1", "l2", 10.0, False, Reason.FRESH) == world.get()
    world.age(9)
    assert Answer("v1", "l1", 19.0, False, Reason.FRESH) == world.get()
    assert 1 == world.origin.loads


def test_when_l1s_time_is_up_and_l2_is_down_the_fresh_value_is_given() -> None:
    """Marked unconfirmed, each time, until the data's own limit; the origin is left alone."""
    world = World(l2=True)
    world.get()
    assert world.l2 is not None
    world.l2.down = True
    for age in (10, 50, 99):
        world.clock.step(age - (world.clock() - 1_800_000_000))
        assert Answer("v1", "l1", float(age), False, Reason.UNCONFIRMED) == world.get()
        assert "v1" == world.cache.get("k")
    assert 1 == world.origin.loads


def test_what_l2_has_no_longer_is_loaded_anew() -> None:
    """It was reached, and does not vouch: another container has deleted it."""
    world = World(l2=True)
    world.get()
    world.another().delete("k")
    world.origin.value = "v2"
    world.age(10)
    assert MISSING is world.cache.get("k")
    assert Answer("v2", "origin", 0.0, False, Reason.LOADED) == world.get()


def test_what_another_container_loaded_later_wins() -> None:
    """L1's older value is replaced as soon as L2 is asked."""
    world = World(l2=True)
    world.get()
    world.age(5)
    world.another().get_or_load("k", lambda: "v2", force_refresh=True)
    world.age(5)
    assert Answer("v2", "l2", 5.0, False, Reason.FRESH) == world.get()


def test_what_l1_loaded_later_than_l2_wins() -> None:
    """L2 may have lost a write; it settles all the same that the key was not deleted."""
    world = World(l2=True)
    world.get()
    world.age(5)
    assert world.l2 is not None
    world.l2.down = True
    world.origin.value = "v2"
    world.get(force_refresh=True)
    world.l2.down = False
    world.age(10)
    assert Answer("v2", "l1", 10.0, False, Reason.FRESH) == world.get()


def test_l1s_own_stale_window_answers_while_l2_is_asked() -> None:
    """`MemoryTier(stale_while_revalidate=…)` in front of an L2: the caller does not wait; one look at L2 is owed."""
    carrier = Carrier()
    world = World(l2=True, l1={"stale_while_revalidate": 5}, refresh=carrier)
    world.get()
    world.age(12)
    assert Answer("v1", "l1", 12.0, True, Reason.REVALIDATING) == world.get()
    carrier.carry_out()
    assert Answer("v1", "l1", 12.0, False, Reason.FRESH) == world.get()
    assert 1 == world.origin.loads


# Stale, refreshing


@both
def test_inline_the_caller_that_finds_it_stale_refreshes_it(l2: bool) -> None:
    """It gets the new value."""
    world = World(l2=l2)
    world.get()
    world.age(110)
    world.origin.value = "v2"
    assert Answer("v2", "origin", 0.0, False, Reason.LOADED) == world.get()
    assert 2 == world.origin.loads


@both
def test_with_a_carrier_the_stale_value_is_given_and_one_refresh_is_owed(l2: bool) -> None:
    """However many ask; when it is carried out the new value is there."""
    carrier = Carrier()
    world = World(l2=l2, refresh=carrier)
    world.get()
    world.age(110)
    world.origin.value = "v2"
    for _ in range(3):
        assert Answer("v1", "l1", 110.0, True, Reason.REVALIDATING) == world.get()._replace(tier="l1")
    assert 1 == len(carrier.work)
    carrier.carry_out()
    assert Answer("v2", "l1", 0.0, False, Reason.FRESH) == world.get()
    assert 2 == world.origin.loads


def test_a_stale_value_of_l2_is_given_at_once_too() -> None:
    """A container that never had it does not wait either."""
    carrier = Carrier()
    world = World(l2=True, refresh=carrier)
    world.get()
    world.age(110)
    other = world.another()
    assert Answer("v1", "l2", 110.0, True, Reason.REVALIDATING) == other.get_entry_or_load("k", world.origin)
    assert 1 == len(carrier.work)


def test_a_refresh_looks_at_l2_before_the_origin() -> None:
    """Another container may have done it."""
    carrier = Carrier()
    world = World(l2=True, refresh=carrier)
    world.get()
    world.age(110)
    world.get()
    world.another().get_or_load("k", lambda: "v2", force_refresh=True)
    carrier.carry_out()
    assert Answer("v2", "l1", 0.0, False, Reason.FRESH) == world.get()
    assert 1 == world.origin.loads


def test_a_refresh_that_came_too_late_is_not_done_twice() -> None:
    """Two carriers' pieces of work for one key, the second when the value is fresh again."""
    carrier = Carrier()
    world = World(l2=False, refresh=carrier, policy={"stale_while_revalidate": 500})
    world.get()
    world.age(110)
    world.get()
    world.age(70)
    world.get()
    assert 2 == len(carrier.work)
    carrier.carry_out()
    assert 2 == world.origin.loads


def test_a_thread_refreshes_while_the_stale_value_is_given() -> None:
    """`refresh="thread"`: the call does not wait for the loader."""
    world = World(l2=False, refresh="thread")
    world.get()
    world.age(110)
    gate = threading.Event()

    def slow(_: LoadContext) -> str:
        assert gate.wait(WAIT)
        return "v2"

    world.origin.value = slow
    assert Reason.REVALIDATING is world.get().reason
    assert Reason.REVALIDATING is world.get().reason
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "tiered_cache-refresh":
            thread.join(WAIT)
    assert Answer("v2", "l1", 0.0, False, Reason.FRESH) == world.get()
    assert 2 == world.origin.loads


@both
def test_a_carrier_that_raises_does_not_reach_the_caller(l2: bool) -> None:
    """The stale value is given and the next call tries again."""
    carrier = Carrier()
    carrier.error = OSError("full")
    world = World(l2=l2, refresh=carrier)
    world.get()
    world.age(110)
    for _ in range(2):
        assert Reason.REVALIDATING is world.get().reason
    assert 2 == world.cache.stats().origin.refresh_failures
    carrier.error = None
    world.get()
    assert 1 == len(carrier.work)


def test_a_carrier_that_drops_the_work_is_asked_again_after_a_minute() -> None:
    """Owed work that did not finish is owed still."""
    carrier = Carrier()
    world = World(l2=False, refresh=carrier, policy={"stale_while_revalidate": 500})
    world.get()
    world.age(110)
    for seconds, expected in ((0, 1), (59, 1), (1, 2)):
        world.age(seconds)
        world.get()
        assert expected == len(carrier.work)


def test_a_refresh_that_fails_inline_gives_the_stale_value() -> None:
    """And the next call does not try again before the pause is over."""
    world = World(l2=False)
    world.get()
    world.age(110)
    world.origin.value = OSError("down")
    for _ in range(3):
        assert Answer("v1", "l1", 110.0, True, Reason.LOAD_FAILED) == world.get()
    assert 2 == world.origin.loads
    world.age(4)
    world.get()
    assert 3 == world.origin.loads


def test_a_refresh_in_the_background_that_fails_leaves_a_pause_too() -> None:
    """No further refresh is owed while it lasts."""
    carrier = Carrier()
    world = World(l2=True, refresh=carrier)
    world.get()
    world.age(110)
    world.get()
    world.origin.value = OSError("down")
    carrier.carry_out()
    assert Reason.LOAD_FAILED is world.get().reason
    assert [] == carrier.work


@both
def test_whoever_insists_on_fresh_gets_no_stale_value(l2: bool) -> None:
    """`stale_ok=False`: the load runs while the caller waits, and its failure reaches him."""
    world = World(l2=l2)
    world.get()
    world.age(110)
    world.origin.value = OSError("down")
    with pytest.raises(OSError, match="down"):
        world.get(stale_ok=False)
    world.origin.value = "v2"
    assert Answer("v2", "origin", 0.0, False, Reason.LOADED) == world.get(stale_ok=False)


# Stale, failing


@both
def test_a_stale_value_covers_for_a_failing_load(l2: bool) -> None:
    """Within `stale_if_error`, past `stale_while_revalidate`: the load runs, fails, and the value is given."""
    world = World(l2=l2)
    world.get()
    world.age(130)
    world.origin.value = OSError("down")
    assert Answer("v1", "l1", 130.0, True, Reason.LOAD_FAILED) == world.get()._replace(tier="l1")
    stats = world.cache.stats().origin
    assert (1, 1, 1) == (stats.loads, stats.failures, stats.covered)


def test_a_stale_value_of_l2_covers_too() -> None:
    """The answer says where it was found."""
    world = World(l2=True)
    world.get()
    world.age(130)
    world.origin.value = OSError("down")
    other = world.another()
    assert Answer("v1", "l2", 130.0, True, Reason.LOAD_FAILED) == other.get_entry_or_load("k", world.origin)
    assert Reason.LOAD_FAILED is other.get_entry_or_load("k", world.origin).reason
    assert 2 == world.origin.loads


@both
def test_the_pause_after_failures_grows_and_a_success_ends_it(l2: bool) -> None:
    """4 s, 8 s, 16 s, each cut by at most a quarter; during a pause no load is tried."""
    world = World(l2=l2, policy={"stale_if_error": 1000})
    world.get()
    world.age(130)
    world.origin.value = OSError("down")
    for number, pause in enumerate((4, 8, 16), 2):
        assert Reason.LOAD_FAILED is world.get().reason
        assert number == world.origin.loads
        world.age(pause * 0.74)
        assert Reason.LOAD_FAILED is world.get().reason
        assert number == world.origin.loads
        world.age(pause * 0.27)
    world.origin.value = "v2"
    assert Reason.LOADED is world.get().reason
    world.age(130)
    world.origin.value = OSError("down")
    world.get()
    world.age(4)
    world.get()
    assert 7 == world.origin.loads


def test_a_value_that_l2_has_lost_is_backed_off_from_too() -> None:
    """Fresh by its own limit, but nobody vouches: the failing load is not repeated by each call."""
    world = World(l2=True)
    world.get()
    assert world.l2 is not None
    world.l2.entries.clear()
    world.age(20)
    world.origin.value = OSError("down")
    for _ in range(3):
        assert Answer("v1", "l1", 20.0, True, Reason.LOAD_FAILED) == world.get()
    assert 2 == world.origin.loads


class ClientError(Exception):
    """As botocore's."""

    def __init__(self, response: Any) -> None:
        super().__init__("boto")
        self.response = response


DENIED = [
    OriginDenied("no"),
    PermissionError("no"),
    ClientError({"Error": {"Code": "AccessDenied"}}),
    ClientError({"Error": {"Code": "ExpiredToken"}}),
    ClientError({"Error": {"Code": "403"}}),
    ReentrantLoadError("circle"),
]


@both
@pytest.mark.parametrize("error", DENIED, ids=["ours", "permission", "denied", "expired", "head", "circle"])
def test_denied_is_never_covered(l2: bool, error: Exception) -> None:
    """Neither while refreshing inline nor while failing; the very error reaches the caller, and there is no pause."""
    world = World(l2=l2)
    world.get()
    world.origin.value = error
    for seconds in (110, 20):
        world.age(seconds)
        for _ in range(2):
            with pytest.raises(type(error)) as caught:
                world.get()
            assert error is caught.value
    assert 5 == world.origin.loads
    assert 0 == world.cache.stats().origin.covered


@pytest.mark.parametrize(
    "error",
    [
        OSError(),
        TimeoutError(),
        OriginError("5xx"),
        LoadTimeout("slow"),
        ClientError({"Error": {"Code": "SlowDown"}}),
        ClientError({"Error": "?"}),
        ClientError("?"),
    ],
    ids=["os", "timeout", "origin", "load timeout", "slow down", "odd", "odder"],
)
def test_a_passing_failure_is_covered(error: Exception) -> None:
    """Whatever is not a denial and not for people to mend."""
    world = World(l2=False)
    world.get()
    world.age(130)
    world.origin.value = error
    assert Reason.LOAD_FAILED is world.get().reason


# Gone


@both
def test_past_all_windows_the_failure_reaches_the_caller(l2: bool) -> None:
    """Unchanged; and nothing stale is given ever after."""
    world = World(l2=l2)
    world.get()
    world.origin.value = error = OSError("down")
    world.age(150)
    with pytest.raises(OSError) as caught:
        world.get()
    assert error is caught.value
    assert MISSING is world.cache.get("k")


@both
def test_a_load_that_fails_so_late_that_the_windows_have_passed_is_not_covered(l2: bool) -> None:
    """What counts is the moment at which the value would be given."""
    world = World(l2=l2)
    world.get()
    world.age(149)

    def slow(_: LoadContext) -> Any:
        world.age(2)
        raise OSError("down")

    world.origin.value = slow
    with pytest.raises(OSError):
        world.get()


@both
def test_without_windows_a_value_is_fresh_or_gone(l2: bool) -> None:
    """The default."""
    world = World(l2=l2, policy={"stale_while_revalidate": 0, "stale_if_error": 0})
    world.get()
    world.age(100)
    world.origin.value = OSError("down")
    with pytest.raises(OSError):
        world.get()


# Not found


@both
def test_not_found_is_remembered_for_negative_ttl(l2: bool) -> None:
    """It is raised again to callers with its text, here and in other containers, and asked anew afterwards."""
    world = World(l2=l2, negative_ttl=30)
    world.origin.value = NotFound("no customer 7")
    for _ in range(3):
        with pytest.raises(NotFound, match="^no customer 7$"):
            world.get()
    assert MISSING is world.cache.get("k")
    assert "d" == world.cache.get("k", "d")
    if l2:
        with pytest.raises(NotFound, match="^no customer 7$"):
            world.another().get_or_load("k", world.origin)
        with pytest.raises(KeyError):
            world.another().get_or_load("k", world.origin)
    assert 1 == world.origin.loads
    world.age(30)
    world.origin.value = "born"
    assert "born" == world.get().value
    assert 1 == world.cache.stats().origin.not_found


@both
def test_without_negative_ttl_each_call_asks(l2: bool) -> None:
    """The default; a text is found for an error without one."""
    world = World(l2=l2)
    world.origin.value = NotFound()
    for expected in (1, 2):
        with pytest.raises(NotFound):
            world.get()
        assert expected == world.origin.loads
    world.origin.value = NotFound()
    with pytest.raises(NotFound):
        world.get(negative_ttl=5)
    with pytest.raises(NotFound, match="^NotFound for this key$"):
        world.get()


@both
@pytest.mark.parametrize("negative_ttl", [None, 5])
def test_not_found_takes_the_place_of_a_stale_value(l2: bool, negative_ttl: float | None) -> None:
    """What has gone at the origin is not given as stale, whether its absence is remembered or not."""
    world = World(l2=l2, negative_ttl=negative_ttl)
    world.get()
    world.age(110)
    world.origin.value = NotFound("gone")
    with pytest.raises(NotFound):
        world.get()
    world.origin.value = OSError("down")
    world.age(5)
    with pytest.raises(OSError):
        world.get()
    if l2:
        with pytest.raises(OSError):
            world.another().get_or_load("k", world.origin)


def test_an_absence_that_l2_is_down_for_invalidates_nothing() -> None:
    """It is no invalidation: what other containers have is good by its TTL, and nothing waits to be delivered."""
    world = World(l2=True)
    world.get()
    world.age(110)
    assert world.l2 is not None
    world.l2.down = True
    world.origin.value = NotFound("gone")
    with pytest.raises(NotFound):
        world.get()
    assert world.cache.stats().l2.undelivered == 0


@both
def test_an_absence_never_covers_for_a_failing_load(l2: bool) -> None:
    """It has no stale windows."""
    world = World(l2=l2, negative_ttl=5)
    world.origin.value = NotFound("gone")
    with pytest.raises(NotFound):
        world.get()
    world.age(5)
    world.origin.value = OSError("down")
    with pytest.raises(OSError):
        world.get()


# Early refresh


@both
def test_a_fresh_value_is_refreshed_ahead_of_its_end(l2: bool) -> None:
    """XFetch with a great weight: of many keys that took 2 s to load, all are refreshed before they expire, all fresh."""
    carrier = Carrier()
    world = World(l2=l2, l1={"ttl": 100}, early_refresh=20, refresh=carrier)

    def slow(_: LoadContext) -> str:
        world.age(2)
        return "v"

    world.origin.value = slow
    keys = [str(number) for number in range(20)]
    for key in keys:
        world.get(key)
    world.origin.value = "v2"
    world.age(59)
    for key in keys:
        answer = world.get(key)
        assert Reason.FRESH is answer.reason
        assert not answer.stale
    assert 1 < len(carrier.work) <= 20  # those for whom more than half of the weight was drawn
    owed = len(carrier.work)
    carrier.carry_out()
    assert 20 + owed == world.origin.loads
    assert owed == sum(world.get(key).value == "v2" for key in keys)


@both
@pytest.mark.parametrize("stale_ok", [True, False], ids=["stale is ok", "fresh is insisted on"])
@pytest.mark.parametrize("batch", [False, True], ids=["one key", "a batch"])
@pytest.mark.parametrize("trouble", ["it fails", "there is no time", "it is slow"])
def test_an_early_refresh_that_comes_to_nothing_takes_no_fresh_value_away(
    l2: bool, stale_ok: bool, batch: bool, trouble: str
) -> None:
    """The value is given as what it is, and not as a stale one."""
    world = World(l2=l2, early_refresh=1, stale_ok=stale_ok, l1={"ttl": 90})
    gate = threading.Event()
    options = {"hard_timeout": 0.01} if trouble == "it is slow" and not batch else {}

    def slow(*_: Any) -> Any:
        world.age(2)
        return {"k": "v1"}

    def refreshed(*_: Any) -> Any:
        if trouble != "it is slow":
            raise OSError("down")
        assert gate.wait(0 if batch else WAIT), "the load of a batch has no limit"
        return "v2"

    assert {"k": "v1"} == world.cache.get_many_or_load(["k"], slow)
    held = world.cache._memory.look("k")
    assert held is not None
    held.early_at = world.clock()  # in place of a draw
    world.cache._memory.hot.clear()
    with world.cache.invocation((lambda: 0.0) if trouble == "there is no time" else None):
        if batch:
            assert {"k": "v1"} == world.cache.get_many_or_load(["k"], refreshed)
        else:
            answer = world.cache.get_entry_or_load("k", refreshed, **options)
            assert Answer("v1", answer.tier, 2.0, False, Reason.FRESH) == answer
    gate.set()
    stats = world.cache.stats()
    assert 0 == stats.l1.stale_hits
    assert (trouble == "it fails" or (batch and trouble == "it is slow")) == stats.origin.covered


def test_an_early_refresh_takes_what_another_container_has_loaded() -> None:
    """Only data that are as old as those to be refreshed send it to the origin; with L2 down it goes there too."""
    carrier = Carrier()
    world = World(l2=True, early_refresh=1, refresh=carrier)
    assert world.l2 is not None

    for newer, down, expected in ((True, False, 0), (False, False, 1), (False, True, 1)):
        key = f"{newer} {down}"
        world.get(key)
        loads = world.origin.loads
        world.age(1)
        if newer:
            world.another().get_or_load(key, lambda: "newer", force_refresh=True)
        world.l2.down = down
        held = world.cache._memory.look(key)
        assert held is not None
        held.early_at = world.clock()  # in place of a draw
        world.cache._memory.hot.clear()
        assert Reason.FRESH is world.get(key).reason
        carrier.carry_out()
        assert expected == world.origin.loads - loads


def test_without_weight_nothing_is_refreshed_early() -> None:
    """The default."""
    carrier = Carrier()
    world = World(l2=False, refresh=carrier)
    world.origin.value = lambda _: world.age(50)
    world.get()
    world.age(49)
    world.get()
    assert [] == carrier.work


# What one call may say


@both
def test_a_forced_load_runs_whatever_is_held(l2: bool) -> None:
    """It replaces what the tiers have; if it fails, what they have covers for it."""
    world = World(l2=l2)
    world.get()
    world.origin.value = "v2"
    assert Answer("v2", "origin", 0.0, False, Reason.LOADED) == world.get(force_refresh=True)
    world.origin.value = OSError("down")
    assert ("v2", Reason.LOAD_FAILED) == world.get(force_refresh=True)[::4]
    assert "v2" == world.get().value
    with pytest.raises(OSError):
        world.get(force_refresh=True, stale_ok=False)
    assert "v3" == world.cache.get_or_load("k", lambda: "v3", force_refresh=True)
    assert "v2" == world.cache.get_or_load("k", lambda: "v2", force_refresh=True)
    if l2:
        assert "v2" == world.another().get_or_load("k", world.origin)


@both
def test_a_forced_load_does_not_join_one_that_began_before(l2: bool) -> None:
    """And what the earlier one brings later does not take its place, in L1 or in L2."""
    world = World(l2=l2)
    gate, begun = threading.Event(), threading.Event()

    def slow(_: LoadContext) -> str:
        begun.set()
        assert gate.wait(WAIT)
        return "older"

    world.origin.value = slow
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(world.get().value))
    thread.start()
    assert begun.wait(WAIT)
    world.age(1)
    world.origin.value = "newer"
    assert "newer" == world.get(force_refresh=True).value
    gate.set()
    thread.join(WAIT)
    assert ["older"] == got
    assert "newer" == world.get().value
    if l2:
        assert "newer" == world.another().get_or_load("k", world.origin)


@pytest.mark.parametrize("limits", [{"soft_timeout": 0.01}, {"hard_timeout": 0.01}])
def test_who_joins_the_load_of_one_who_insists_on_fresh_may_have_the_stale_value(limits: dict[str, Any]) -> None:
    """Each caller's own options say what it takes in place of the load."""
    world, gate = World(l2=False), threading.Event()
    world.get()
    world.age(130)
    world.origin.value = lambda _: "v2" if gate.wait(WAIT) else ""
    thread = threading.Thread(target=lambda: world.get(stale_ok=False))
    thread.start()
    while world.origin.loads < 2:
        time.sleep(0.002)
    assert Answer("v1", "l1", 130.0, True, Reason.LOAD_SLOW) == world.get(**limits)
    gate.set()
    thread.join(WAIT)
    assert (2, 1) == (world.origin.loads, world.cache.stats().origin.timeouts)


def test_who_insists_on_fresh_waits_for_the_load_beside_one_who_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its `soft_timeout` there is nothing for it to take, and no second load is begun for it."""
    world, gate = World(l2=False), threading.Event()
    world.get()
    world.age(130)
    world.origin.value = lambda _: "v2" if gate.wait(WAIT) else ""
    got: list[Answer] = []
    threads = [threading.Thread(target=lambda: got.append(world.get()))]
    threads[0].start()
    while world.origin.loads < 2:
        time.sleep(0.002)
    threads.append(threading.Thread(target=lambda: got.append(world.get(stale_ok=False, soft_timeout=0.001))))
    reads, patience_is_over = world.cache._reads, threading.Event()
    instead = reads._instead

    def seen(*given: Any) -> Any:
        patience_is_over.set()
        return instead(*given)

    monkeypatch.setattr(reads, "_instead", seen)
    threads[1].start()
    assert patience_is_over.wait(WAIT)
    joined(world)
    gate.set()
    for thread in threads:
        thread.join(WAIT)
    assert ["v2", "v2"] == [answer.value for answer in got]
    assert (2, 0) == (world.origin.loads, world.cache.stats().origin.timeouts)


@pytest.mark.parametrize("many", [False, True])
def test_with_copies_no_caller_sees_what_another_does_to_the_value(*, many: bool) -> None:
    """Not even who joined the load, and makes its copy when the first has changed what it got."""
    changed = threading.Event()

    class Rows(dict[str, Any]):
        def __deepcopy__(self, _: object) -> Rows:
            if threading.current_thread().name == "who joins":
                assert changed.wait(WAIT)
            return Rows(self)

    world = World(l2=False, l1={"share": "copy"})

    def load(*_: object) -> Any:
        thread.start()
        joined(world)
        return {"k": Rows()} if many else Rows()

    def read() -> Any:
        return world.cache.get_many_or_load(["k"], load)["k"] if many else world.cache.get_or_load("k", load)

    others: list[Any] = []
    thread = threading.Thread(target=lambda: others.append(read()), name="who joins")
    ours = read()
    ours["mine"] = 1
    changed.set()
    thread.join(WAIT)
    assert [{}] == others
    assert {} == read()


def test_an_absence_in_l1_is_refreshed_as_a_value_is() -> None:
    """Where another container has found the thing meanwhile; where L2 says the same, it goes on being absent."""
    world = World(l2=True, l1={"stale_while_revalidate": 600}, policy={"ttl": 900}, negative_ttl=900, coherence="ttl")
    for key in ("k", "absent"):
        with pytest.raises(NotFound):
            world.cache.get_or_load(key, lambda: NotFound)
    world.age(15)
    world.another().get_or_load("k", world.origin, force_refresh=True)
    before = world.cache.stats().l1
    assert "v1" == world.get().value
    with pytest.raises(NotFound):
        world.get("absent")
    after = world.cache.stats().l1
    assert (0, 2) == (after.stale_hits - before.stale_hits, after.misses - before.misses)
    assert 1 == world.origin.loads


@pytest.mark.parametrize("many", [False, True])
def test_an_absence_in_l1_is_given_while_its_refresh_is_put_off(*, many: bool) -> None:
    """And counts once."""
    carrier = Carrier()
    world = World(l2=True, l1={"stale_while_revalidate": 600}, policy={"ttl": 900}, negative_ttl=900, refresh=carrier)
    with pytest.raises(NotFound):
        world.cache.get_or_load("k", lambda: NotFound)
    world.age(15)
    world.another().get_or_load("k", world.origin, force_refresh=True)
    before = world.cache.stats().l1
    if many:
        assert {} == world.cache.get_many_or_load(["k"], dict.fromkeys)
    else:
        with pytest.raises(NotFound):
            world.get()
    after = world.cache.stats().l1
    assert (1, 0) == (after.stale_hits - before.stale_hits, after.misses - before.misses)
    carrier.carry_out()
    assert "v1" == world.cache.get("k")


def test_who_insists_on_fresh_does_not_take_the_stale_answer_of_a_flight() -> None:
    """Whoever flew was content with it; the one who insists loads for himself."""
    world = World(l2=False)
    world.get()
    world.age(130)
    gate, begun, got = threading.Event(), threading.Event(), []

    def fails(_: LoadContext) -> str:
        begun.set()
        assert gate.wait(WAIT)
        world.origin.value = "v2"
        raise OSError("down")

    world.origin.value = fails
    threads = [threading.Thread(target=lambda: got.append(world.get()))]
    threads[0].start()
    assert begun.wait(WAIT)
    threads.append(threading.Thread(target=lambda: got.append(world.get(stale_ok=False))))
    threads[1].start()
    joined(world)
    gate.set()
    for thread in threads:
        thread.join(WAIT)
    assert {("v1", Reason.LOAD_FAILED), ("v2", Reason.LOADED)} == {(answer.value, answer.reason) for answer in got}


@both
def test_the_ttl_of_a_call_and_of_a_loader(l2: bool) -> None:
    """The call's wins over the tier's, the loader's over both; the stale windows follow."""
    for options, value, fresh_for in (
        ({"ttl": 5}, "v", 5),
        ({"ttl": 5}, Loaded("v", ttl="7s"), 7),
        ({}, Loaded("v"), 100),
    ):
        world = World(l2=l2, l1={"ttl": 1000} if l2 else None)
        world.origin.value = value
        world.get(**options)
        world.age(fresh_for - 0.1)
        assert Reason.FRESH is world.get().reason
        world.age(0.1)
        world.origin.value = OSError()
        assert Reason.LOAD_FAILED is world.get().reason


@both
def test_validators_tags_and_the_stale_value_reach_the_next_load(l2: bool) -> None:
    """What a loader said about its value is given back to it; the first load gets none of it."""
    world = World(l2=l2)
    world.origin.value = Loaded("v1", etag='"1"', last_modified="Mon", tags=("loader", "both"))
    world.get(tags=("call", "both"))
    assert ("call", "both", "loader") == world.cache._memory.look("k").tags  # type: ignore[union-attr]
    world.age(110)
    other = world.another() if l2 else world.cache
    other.get_or_load("k", world.origin)
    first, second = world.origin.contexts
    assert ("k", MISSING, None, None) == (first.key, first.stale, first.etag, first.last_modified)
    assert ("k", "v1", '"1"', "Mon") == (second.key, second.stale, second.etag, second.last_modified)
    assert "LoadContext(stale=True, validator=True)" == repr(second)


@both
def test_not_modified_makes_the_stale_value_fresh_again(l2: bool) -> None:
    """With its validators and tags, here and for others; it is counted."""
    world = World(l2=l2)
    world.origin.value = Loaded("v1", etag='"1"', tags=("t",))
    world.get()
    world.origin.value = lambda context: context.not_modified()
    for _ in range(3):
        world.age(110)
        assert Answer("v1", "origin", 0.0, False, Reason.LOADED) == world.get()
    assert '"1"' == world.origin.contexts[-1].etag
    assert Answer("v1", "l1", 0.0, False, Reason.FRESH) == world.get()
    assert 3 == world.cache.stats().origin.not_modified
    assert ("t",) == world.cache._memory.look("k").tags  # type: ignore[union-attr]


def test_not_modified_needs_a_value_to_vouch_for() -> None:
    """Without one, or where absence is what is known, the loader gets a ValueError."""
    world = World(l2=False, negative_ttl=5)
    world.origin.value = lambda context: context.not_modified()
    with pytest.raises(ValueError, match="^not_modified\\(\\) needs a stale value"):
        world.get()
    world.origin.value = NotFound()
    with pytest.raises(NotFound):
        world.get()
    world.origin.value = lambda context: context.not_modified()
    with pytest.raises(ValueError, match="^not_modified"):
        world.get(force_refresh=True)


@both
def test_a_skipped_value_is_given_and_kept_nowhere(l2: bool) -> None:
    """`context.skip(value)`."""
    world = World(l2=l2)
    world.origin.value = lambda context: context.skip("once")
    for expected in (1, 2):
        assert Answer("once", "origin", 0.0, False, Reason.LOADED) == world.get()
        assert expected == world.origin.loads
    assert MISSING is world.cache.get("k")


@both
@pytest.mark.parametrize("negative_ttl", [None, 30])
def test_an_absence_that_is_skipped_is_told_and_kept_nowhere(l2: bool, negative_ttl: int | None) -> None:
    """`context.skip(NotFound(...))`: what was held before is held still, here and in L2."""
    world = World(l2=l2, negative_ttl=negative_ttl, error_backoff=0)
    for value in ("v1", "v2"):
        world.origin.value = lambda context: context.skip(NotFound("not now"))
        with pytest.raises(NotFound, match="^not now$"):
            world.get()
        if value == "v2":
            world.origin.value = OSError()
            caches = [world.cache, world.another()] if l2 else [world.cache]
            assert {"v1"} == {cache.get_or_load("k", world.origin) for cache in caches}
        world.origin.value = value
        assert value == world.get().value
        world.age(130)


# Resumable loads


@both
def test_a_pending_load_is_taken_up_by_its_handle(l2: bool) -> None:
    """LoadPending without a stale value, the stale value otherwise; the handle is given back until a value comes."""
    world = World(l2=l2)
    world.origin.value = lambda context: context.pending("q1")
    for expected in (None, "q1"):
        with pytest.raises(LoadPending, match="goes on elsewhere, and no stale value may be served: ask again later$"):
            world.get()
        assert expected == world.origin.contexts[-1].handle
    world.origin.value = lambda context: f"v1 of {context.handle}"
    assert "v1 of q1" == world.get().value
    world.age(130)
    world.origin.value = lambda context: context.pending("q2")
    assert Answer("v1 of q1", "l1", 130.0, True, Reason.LOAD_PENDING) == world.get()._replace(tier="l1")
    assert world.origin.contexts[-1].handle is None


@both
def test_a_pending_load_says_when_to_come_again(l2: bool) -> None:
    """A tenth of the time that it takes so far, from half a second to ten: sooner nobody looks at it again."""
    world = World(l2=l2)
    world.origin.value = lambda context: context.pending("q1")
    told = []
    for seconds in (0, 20, 40, 300):
        world.age(seconds)
        with pytest.raises(LoadPending) as raised:
            world.get()
        told.append(round(raised.value.retry_after, 2))
    assert told == [0.5, 2.0, 6.0, 10.0]


def test_an_error_of_pending_survives_a_copy() -> None:
    """As it is made when it goes to another process."""
    copied = pickle.loads(pickle.dumps(LoadPending("later", retry_after=3.5)))
    assert (str(copied), copied.retry_after) == ("later", 3.5)
    assert LoadPending().retry_after > 0


def test_what_a_resumed_load_brings_is_as_old_as_its_first_part() -> None:
    """The data are those of the moment at which the query began; a new handle is a new beginning."""
    world = World(l2=False)
    for handle in ("q1", "q1", "q2", "q2"):
        world.origin.value = lambda context, handle=handle: context.pending(handle)
        with pytest.raises(LoadPending):
            world.get()
        world.age(20)
    world.origin.value = lambda context: f"v1 of {context.handle}"
    assert Answer("v1 of q2", "origin", 40.0, False, Reason.LOADED) == world.get()
    world.age(60)
    assert Reason.FRESH is not world.get().reason


@pytest.mark.parametrize("end", ["delete", "set", "not found"])
def test_the_handle_of_a_pending_load_goes_with_what_ends_it(end: str) -> None:
    """Otherwise a later load would take up one that began before the deletion."""
    world = World(l2=False)
    world.origin.value = lambda context: context.pending("q1")
    with pytest.raises(LoadPending):
        world.get()
    if end == "delete":
        world.cache.delete("k")
    elif end == "set":
        world.cache.set("k", "v")
    else:
        world.origin.value = NotFound()
        with pytest.raises(NotFound):
            world.get()
    world.origin.value = "new"
    world.get(force_refresh=True)
    assert world.origin.contexts[-1].handle is None


def test_handles_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten first."""
    monkeypatch.setattr("tiered_cache._handles.MOST", 3)
    world = World(l2=False)
    world.origin.value = lambda context: context.pending("q")
    for number in range(6):
        with pytest.raises(LoadPending):
            world.get(str(number))
    assert ["3", "4", "5"] == list(world.cache._reads._handles._by_key)


# Time limits


class Slow:
    """A loader that waits at a gate."""

    def __init__(self, value: Any = "late") -> None:
        self.gate, self.done, self.value = threading.Event(), threading.Event(), value

    def __call__(self, _: LoadContext) -> Any:
        assert self.gate.wait(WAIT)
        return self.value

    def finish(self) -> None:
        self.gate.set()
        for thread in threading.enumerate():
            if thread.name == "tiered_cache-load":
                thread.join(WAIT)


@both
def test_after_the_soft_timeout_the_stale_value_is_given(l2: bool) -> None:
    """The load goes on, and its value is kept."""
    world = World(l2=l2)
    world.get()
    world.age(130)
    world.origin.value = slow = Slow()
    assert Answer("v1", "l1", 130.0, True, Reason.LOAD_SLOW) == world.get(soft_timeout=0.01)._replace(tier="l1")
    assert 1 == world.cache.stats().origin.timeouts
    slow.finish()
    assert Answer("late", "l1", 0.0, False, Reason.FRESH) == world.get()


def test_after_the_hard_timeout_there_is_an_error_unless_something_stale_is_there() -> None:
    """Both are counted; the load goes on and its value is kept."""
    world = World(l2=False)
    world.origin.value = slow = Slow()
    with pytest.raises(LoadTimeout, match=r"hard_timeout, 0\.01 s"):
        world.get(hard_timeout=0.01)
    with pytest.raises(LoadTimeout):
        world.get(hard_timeout=0.01, soft_timeout=0.005)
    assert 2 == world.cache.stats().origin.timeouts
    slow.finish()
    assert "late" == world.get().value
    world.age(130)
    world.origin.value = slow = Slow("later")
    assert Reason.LOAD_SLOW is world.get(hard_timeout=0.01).reason
    with pytest.raises(LoadTimeout):
        world.get(hard_timeout=0.01, stale_ok=False)
    slow.finish()


def test_a_share_is_of_the_time_that_the_invocation_has_left() -> None:
    """Outside of one it is no limit."""
    world = World(l2=False, hard_timeout="50%")
    world.origin.value = slow = Slow()
    with world.cache.invocation(lambda: 0.02), pytest.raises(LoadTimeout, match=r"hard_timeout, 0\.01 s"):
        world.get()
    slow.finish()
    world.origin.value = "v"
    assert "v" == world.get("other").value


@pytest.mark.parametrize("limit", [30, "100%"])
def test_a_limit_that_was_cut_to_the_invocations_time_is_not_named_for_it(limit: Any) -> None:
    """Nobody has set one of so many seconds."""
    world = World(l2=False, hard_timeout=limit)
    world.origin.value = slow = Slow()
    left = iter(range(1000, 0, -1))
    with (
        world.cache.invocation(lambda: next(left) / 100_000),
        pytest.raises(LoadTimeout, match="^the load took longer than the invocation has time; it goes on"),
    ):
        world.get()
    slow.finish()


def test_an_inline_refresh_that_is_slow_gives_the_stale_value() -> None:
    """The soft timeout counts for it too."""
    world = World(l2=False, soft_timeout=0.01)
    world.get()
    world.age(110)
    world.origin.value = slow = Slow()
    assert ("v1", Reason.LOAD_SLOW) == world.get()[::4]
    assert Reason.REVALIDATING is world.get().reason
    slow.finish()
    assert "late" == world.get().value


# What L2 cannot carry


def test_a_value_that_l2_cannot_carry_stays_in_l1(caplog: pytest.LogCaptureFixture) -> None:
    """It is given and held, one line is logged, and what L2 had before is gone."""
    world = World(l2=True)
    world.get()
    value = object()
    world.origin.value = lambda _: value
    assert value is world.get(force_refresh=True).value is world.get().value
    assert 1 == len(caplog.messages)
    world.origin.value = "of another"
    assert "of another" == world.another().get_or_load("k", world.origin)


def test_setting_what_l2_cannot_carry_says_so() -> None:
    """L1 keeps it; L2 does not keep what was there before."""
    world = World(l2=True)
    world.get()
    value = object()
    with pytest.raises(SerializationError):
        world.cache.set("k", value)
    assert value is world.cache.get("k")
    assert MISSING is world.another().get("k")


# Deletions, sets, and loads under way


def in_between(world: World, act: Callable[[], None], value: Any = "old") -> Any:
    """What a load gives its caller during which `act` happens."""

    def slow(_: LoadContext) -> Any:
        act()
        if isinstance(value, Exception):
            raise value
        return value

    world.origin.value = slow
    return world.get().value


@both
def test_a_load_during_which_the_key_is_deleted_is_kept_nowhere(l2: bool) -> None:
    """Its caller gets the value; no tier brings it back."""
    world = World(l2=l2)
    assert "old" == in_between(world, lambda: world.cache.delete("k"))
    assert MISSING is world.cache.get("k")
    world.origin.value = "new"
    if l2:
        assert "new" == world.another().get_or_load("k", world.origin)
    assert "new" == world.get().value


@both
def test_a_stale_value_that_is_deleted_during_the_load_covers_for_nothing(l2: bool) -> None:
    """The load fails, and what it might have been covered with is gone."""
    world = World(l2=l2)
    world.get()
    world.age(130)
    with pytest.raises(OSError, match="down"):
        in_between(world, lambda: world.cache.delete("k"), OSError("down"))


@both
def test_a_load_that_came_in_meanwhile_is_used(l2: bool) -> None:
    """Between a caller's look into the tiers and its turn to load, another has loaded: it does not load again."""
    world = World(l2=l2)
    flights = world.cache._reads.flights
    run = flights.run

    def load_meanwhile(*arguments: Any, **limits: Any) -> Any:
        flights.run = run  # type: ignore[method-assign]
        thread = threading.Thread(target=lambda: world.cache.get_or_load("k", lambda: "another's"))
        thread.start()
        thread.join(WAIT)
        return run(*arguments, **limits)

    flights.run = load_meanwhile  # type: ignore[method-assign]
    assert ("another's", "l1", Reason.FRESH) == (world.get()[0], world.get().tier, world.get().reason)
    assert 0 == world.origin.loads


@both
def test_who_asks_after_a_deletion_does_not_join_a_load_from_before(l2: bool) -> None:
    """A flight that began before is nobody's to join."""
    world = World(l2=l2)
    inner: list[Any] = []

    def delete_and_ask() -> None:
        world.cache.delete("k")
        thread = threading.Thread(target=lambda: inner.append(world.cache.get_or_load("k", lambda: "new")))
        thread.start()
        thread.join(WAIT)

    assert "old" == in_between(world, delete_and_ask)
    assert ["new"] == inner
    assert "new" == world.get().value


@both
@pytest.mark.parametrize("outcome", ["old", NotFound("old")], ids=["value", "absence"])
@pytest.mark.parametrize("negative_ttl", [None, 5])
def test_what_is_set_during_a_load_stays(l2: bool, outcome: Any, negative_ttl: float | None) -> None:
    """Neither the value nor the absence that the load brings takes its place, even if the clock did not move."""
    world = World(l2=l2, negative_ttl=negative_ttl)
    with contextlib.suppress(NotFound):
        in_between(world, lambda: world.cache.set("k", "set"), outcome)
    assert "set" == world.cache.get("k")
    if l2:
        assert "set" == world.another().get("k")


@both
def test_the_last_of_two_sets_counts(l2: bool) -> None:
    """Also when the clock steps back a little in between."""
    world = World(l2=l2)
    world.cache.set("k", 1)
    world.clock.step(-0.5)
    world.cache.set("k", 2)
    assert 2 == world.cache.get("k")


@both
def test_a_set_value_lives_as_a_loaded_one(l2: bool) -> None:
    """With the tier's windows, or its own ttl; tags are kept."""
    world = World(l2=l2)
    world.cache.set("k", "set", ttl=5, tags=["t"])
    assert ("t",) == world.cache._memory.look("k").tags  # type: ignore[union-attr]
    world.age(5)
    assert MISSING is world.cache.get("k")
    world.origin.value = OSError()
    assert ("set", Reason.LOAD_FAILED) == world.get()[::4]


@both
def test_a_set_value_ends_a_pause(l2: bool) -> None:
    """What failed before does not hold up the next load."""
    world = World(l2=l2)
    world.get()
    world.age(130)
    world.origin.value = OSError()
    world.get()
    world.cache.set("k", "set", ttl=1)
    world.age(2)
    world.origin.value = "v2"
    assert "v2" == world.get().value


def test_a_set_that_l2_did_not_take_does_not_let_the_old_value_back() -> None:
    """L1 may forget it; what L2 has is older and is not read."""
    world = World(l2=True, l1={"ttl": 10, "max_entries": 1})
    world.get()
    assert world.l2 is not None
    world.l2.down = True
    world.cache.set("k", "set")
    world.cache.set("other", "pushes it out")
    world.l2.down = False
    world.age(1.1)
    assert MISSING is world.cache.get("k")
    assert MISSING is world.another().get("k")


@both
def test_a_deletion_reaches_both_tiers(l2: bool) -> None:
    """And is no error for a key that nobody has."""
    world = World(l2=l2)
    world.get()
    world.cache.delete("k")
    world.cache.delete("nobody's")
    assert MISSING is world.cache.get("k")
    if l2:
        assert MISSING is world.another().get("k")


@both
def test_a_tag_is_invalidated_in_both_tiers(l2: bool) -> None:
    """With all values that carry it, and no others; without a tag there is nothing to invalidate."""
    world = World(l2=l2)
    world.origin.value = Loaded("v1", tags=("given",))
    for key, tags in (("a", ("asked",)), ("b", ("other",)), ("c", ())):
        world.get(key, tags=tags)
    world.cache.set("d", "set", tags=["asked"])
    world.cache.invalidate_tag("asked", "nobody's")
    assert [MISSING, "v1", "v1", MISSING] == [world.cache.get(key) for key in "abcd"]
    world.cache.invalidate_tag("given")
    assert [MISSING] * 4 == [world.cache.get(key) for key in "abcd"]
    if l2:
        assert [MISSING] * 4 == [world.another().get(key) for key in "abcd"]
    with pytest.raises(TypeError, match=r"^invalidate_tag needs at least one tag; clear\(\) forgets everything$"):
        world.cache.invalidate_tag()


@both
def test_everything_is_forgotten_in_both_tiers(l2: bool) -> None:
    """Values, absences and handles; what is loaded then is kept."""
    world = World(l2=l2, negative_ttl=50)
    world.get("a")
    world.origin.value = NotFound("no")
    with pytest.raises(NotFound):
        world.get("b")
    world.origin.value = lambda context: context.pending("handle")
    with pytest.raises(LoadPending):
        world.get("c")
    world.cache.clear()
    assert 0 == world.cache.stats().l1.entries
    world.origin.value = lambda context: [context.stale is MISSING, context.handle]
    assert [[True, None]] * 3 == [world.get(key).value for key in "abc"]
    assert [True, None] == world.cache.get("a")
    if l2:
        assert [True, None] == world.another().get("a")


@both
@pytest.mark.parametrize("outcome", ["old", NotFound("old")], ids=["value", "absence"])
@pytest.mark.parametrize("batch", [False, True], ids=["one key", "a batch"])
def test_who_joined_a_load_gets_nothing_that_was_invalidated_meanwhile(l2: bool, outcome: Any, batch: bool) -> None:
    """By a tag, whose keys nobody knows before their loads have ended: it loads anew."""
    world = World(l2=l2)
    begun, gate = threading.Event(), threading.Event()

    def slow(*keys: Any) -> Any:
        begun.set()
        assert gate.wait(WAIT)
        if batch:
            return dict.fromkeys(keys[0], outcome)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def ask(loader: Any, answers: list[Any]) -> threading.Thread:
        def run() -> None:
            try:
                if batch:
                    answers.append(world.cache.get_many_or_load(["k"], loader, tags=["t"]).get("k"))
                else:
                    answers.append(world.cache.get_or_load("k", loader, tags=["t"]))
            except NotFound:
                answers.append(None)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    first, second = [], []  # type: ignore[var-annotated]
    threads = [ask(slow, first)]
    assert begun.wait(WAIT)
    threads.append(ask(lambda *keys: {"k": "new"} if keys else "new", second))
    joined(world)
    world.cache.invalidate_tag("t")
    gate.set()
    for thread in threads:
        thread.join(WAIT)
    assert [None if isinstance(outcome, NotFound) else "old"] == first
    assert ["new"] == second
    assert "new" == world.cache.get("k")


@both
@pytest.mark.parametrize("came", [149, 151], ids=["while its data may be served", "when they are past all windows"])
@pytest.mark.parametrize("outcome", ["old", OSError("old"), NotFound("old")], ids=["a value", "an error", "an absence"])
@pytest.mark.parametrize("batch", [False, True], ids=["one key", "a batch"])
def test_who_joins_a_load_gets_nothing_that_was_too_old_when_he_came(
    l2: bool, came: int, outcome: Any, batch: bool
) -> None:
    """As of a load that was frozen: then there is one load more. A load that takes long is shared, however old its value."""
    world = World(l2=l2)
    begun, gate = threading.Event(), threading.Event()

    def slow(*keys: Any) -> Any:
        begun.set()
        assert gate.wait(WAIT)
        if isinstance(outcome, OSError) or (isinstance(outcome, NotFound) and not batch):
            raise outcome
        return dict.fromkeys(keys[0], outcome) if batch else outcome

    def ask(loader: Any, answers: list[Any]) -> threading.Thread:
        def run() -> None:
            try:
                if batch:
                    answers.append(world.cache.get_many_or_load(["k"], loader).get("k", "none"))
                else:
                    answers.append(world.cache.get_or_load("k", loader))
            except NotFound:
                answers.append("none")
            except OSError:
                answers.append("error")

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    first, second = [], []  # type: ignore[var-annotated]
    threads = [ask(slow, first)]
    assert begun.wait(WAIT)
    world.age(came)
    threads.append(ask(lambda *keys: {"k": "new"} if keys else "new", second))
    joined(world)
    world.age(100)
    gate.set()
    for thread in threads:
        thread.join(WAIT)
    expected = {str: "old", OSError: "error", NotFound: "none"}[type(outcome)]
    assert [expected] == first
    assert ["new" if came > 150 else expected] == second


@pytest.mark.parametrize("held", [False, True], ids=["nothing held", "a stale value held"])
@pytest.mark.parametrize("batch", [False, True], ids=["one key", "a batch"])
def test_who_joins_a_load_waits_no_longer_than_the_invocation_lasts(held: bool, batch: bool) -> None:
    """An earlier call may have left it, and it may hang; the function would be killed."""
    world = World(l2=False)
    gate, begun = threading.Event(), threading.Event()

    def hangs(*keys: Any) -> Any:
        begun.set()
        assert gate.wait(WAIT)
        return dict.fromkeys(keys[0], "new") if batch else "new"

    def ask(loader: Any) -> Any:
        if batch:
            return world.cache.get_many_or_load(["k"], loader)["k"]
        return world.cache.get_or_load("k", loader)

    if held:
        world.cache.get_or_load("k", lambda: "v1")
        world.age(130)
    thread = threading.Thread(target=ask, args=(hangs,))
    thread.start()
    assert begun.wait(WAIT)
    with world.cache.invocation(lambda: 0.05):
        if held:
            assert "v1" == ask(lambda *_: pytest.fail("loaded"))
        else:
            with pytest.raises(LoadTimeout, match="^the load took longer than the invocation has time; it goes on"):
                ask(lambda *_: pytest.fail("loaded"))
    assert 1 == world.cache.stats().origin.timeouts
    gate.set()
    thread.join(WAIT)
    assert "new" == world.cache.get("k")


def test_a_deletion_that_l2_did_not_take_is_said_and_tried_again() -> None:
    """The local copy is gone in any case, the old value does not come back, and other containers learn it later."""
    for on_failure in ("raise", "queue"):
        world = World(l2=True, on_failure=on_failure)
        world.get()
        assert world.l2 is not None
        world.l2.down = True
        if on_failure == "raise":
            with pytest.raises(InvalidationNotDelivered, match="as fresh for at most 100 s$"):
                world.cache.delete("k")
        else:
            world.cache.delete("k")
        assert MISSING is world.cache.get("k")
        world.l2.down = False
        assert MISSING is world.cache.get("k")
        world.age(1.1)
        assert MISSING is world.cache.get("k")
        assert MISSING is world.another().get("k")


def test_after_a_deletion_what_another_container_loads_is_kept_in_l1_again() -> None:
    """What is read from L2 afterwards is not taken for something from before."""
    world = World(l2=True)
    world.get()
    world.cache.delete("k")
    world.another().get_or_load("k", lambda: "v2")
    assert ("v2", "l2") == world.get()[:2]
    assert ("v2", "l1") == world.get()[:2]


def test_a_value_read_from_l2_while_its_key_is_deleted_is_not_kept() -> None:
    """The reader that began before the deletion gets it, L1 does not."""
    world = World(l2=True)
    world.get()
    other = world.another()
    store = other._reads._shared
    read = store.read

    def delete_meanwhile(key: str, now: float, held: Any) -> Any:
        reply = read(key, now, held)
        other.delete(key)
        return reply

    store.read = delete_meanwhile  # type: ignore[method-assign]
    assert "v1" == other.get("k")
    store.read = read  # type: ignore[method-assign]
    assert MISSING is other.get("k")


@pytest.mark.parametrize("by", ["this container", "another"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_deletion_around_the_write_of_a_load_leaves_nothing_of_it(by: str, when: str) -> None:
    """Before it, L2 refuses the write; after it, L2 forgets it, and what another container deletes is seen at a look."""
    world = World(l2=True)
    other, store = world.another(), world.cache._reads._shared._store  # type: ignore[union-attr]
    fill = store.fill

    def overtaken(*arguments: Any) -> Any:
        if when == "before":
            (world.cache if by == "this container" else other).delete("k")
        filled = fill(*arguments)
        if when == "after":
            (world.cache if by == "this container" else other).delete("k")
        return filled

    store.fill = overtaken  # type: ignore[method-assign]
    assert "v1" == world.get().value
    store.fill = fill  # type: ignore[method-assign]
    assert MISSING is world.another().get("k")
    if (when, by) == ("after", "another"):
        with world.cache.invocation():
            assert MISSING is world.cache.get("k")
    else:
        assert MISSING is world.cache.get("k")
    assert (1 if when == "before" else 0) == world.cache.stats().l2.refused  # type: ignore[union-attr]


# Clocks


@both
def test_a_value_does_not_grow_younger_when_the_clock_steps_back(l2: bool) -> None:
    """What was held has aged by what the clock lost as soon as that is noticed; without an L2 nobody vouches for it."""
    world = World(l2=l2, l1={"ttl": 100})
    world.get()
    world.age(90)
    world.clock.step(-60)
    world.get("another key, whose miss notices it")
    world.origin.value = OSError("down")
    answer = world.get()
    if l2:
        assert Reason.FRESH is answer.reason  # L2 has a stamp of its own, and its time is that of the other hosts
    else:
        assert (90.0, Reason.LOAD_FAILED) == (answer.age, answer.reason)
    world.age(60)
    if not l2:
        with pytest.raises(OSError):
            world.get()


def test_a_load_during_which_the_clock_steps_back_is_not_of_the_future() -> None:
    """It counts as begun when it did, on the clock as it now goes."""
    world = World(l2=False)

    def slow(_: LoadContext) -> str:
        world.age(5)
        world.clock.step(-1000)
        return "v"

    world.origin.value = slow
    assert Answer("v", "origin", 5.0, False, Reason.LOADED) == world.get()
    world.age(94)
    assert Answer("v", "l1", 99.0, False, Reason.FRESH) == world.get()
    world.age(1)
    world.origin.value = OSError()
    assert world.get().stale


def test_after_a_step_back_plain_hits_end() -> None:
    """A clock that reads earlier than the last long way is looked into, though the value seems fresh."""
    world = World(l2=False)
    world.cache.get_or_load("k", world.origin)
    world.clock.step(-30)
    world.origin.value = "v2"
    assert "v2" == world.cache.get_or_load("k", world.origin)


@both
def test_during_a_freeze_values_age(l2: bool) -> None:
    """The monotonic clock stands, the wall clock does not, and it is what counts."""
    world = World(l2=l2)
    world.get()
    world.clock.freeze(150)
    world.origin.value = "v2"
    assert Answer("v2", "origin", 0.0, False, Reason.LOADED) == world.get()


@pytest.mark.parametrize("begins_first", [True, False], ids=["the next invocation runs", "it has not begun"])
@both
def test_for_how_long_a_load_was_frozen_is_not_held_against_the_next(
    monkeypatch: pytest.MonkeyPatch, l2: bool, begins_first: bool
) -> None:
    """Not even where the monotonic clock went on: there is time for a load of 3 s, and it is not `too_late` for good."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    world = World(l2=l2, refresh="inline", policy={"stale_while_revalidate": 1000})
    inside, gate = threading.Event(), threading.Event()

    def held(_: LoadContext) -> str:
        inside.set()
        assert gate.wait(WAIT)
        world.age(2)
        return "v1"

    world.origin.value = held
    with world.cache.invocation(lambda: 5.0):
        with pytest.raises(LoadTimeout):
            world.get(hard_timeout=0.01)
        assert inside.wait(WAIT)
        world.age(1)
    (flight,) = world.cache._reads.flights.under_way()
    world.age(80)  # frozen
    with world.cache.invocation(lambda: 5.0) if begins_first else contextlib.nullcontext():
        gate.set()
        assert flight.wait(WAIT)
    assert 3.0 - (not begins_first) * 2 == world.cache.stats().origin.seconds
    world.age(200)
    world.origin.value = "v2"
    with world.cache.invocation(lambda: 5.0):
        assert "v2" == world.get().value
    other = world.another()
    world.age(200)
    world.origin.value = "v3"
    with other.invocation(lambda: 5.0):
        assert "v3" == other.get_or_load("k", world.origin)


def test_a_load_between_invocations_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of a decorator outside of the handler's: the process is seen to run."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    world = World(l2=False, refresh="inline")
    with world.cache.invocation(lambda: 5.0):
        pass
    world.age(60)  # frozen

    def slow(_: LoadContext) -> str:
        world.age(3)
        return "v1"

    world.origin.value = slow
    world.get()
    assert 3.0 == world.cache.stats().origin.seconds


@both
def test_a_load_that_takes_longer_than_its_value_is_fresh_gives_it_as_stale(l2: bool) -> None:
    """Freshness counts from when the load began."""
    world = World(l2=l2)

    def slow(_: LoadContext) -> str:
        world.age(105)
        return "v"

    world.origin.value = slow
    assert Answer("v", "origin", 105.0, True, Reason.LOADED) == world.get()
    assert Reason.FRESH is not world.get().reason


# The rest


@both
def test_peeking_runs_no_loader_and_gives_nothing_stale(l2: bool) -> None:
    """`get`: fresh from L1 or L2, else the default."""
    world = World(l2=l2)
    assert MISSING is world.cache.get("k")
    assert "d" == world.cache.get("k", "d")
    world.get()
    world.age(20)
    assert "v1" == world.cache.get("k")
    if l2:
        assert "v1" == world.another().get("k")
    world.age(90)
    assert MISSING is world.cache.get("k")
    assert 1 == world.origin.loads


class Removed(NotFound):
    """A user's own."""


@both
@pytest.mark.parametrize("absence", [NotFound, NotFound("no such thing"), Removed, Removed("gone")])
@pytest.mark.parametrize("scope", ["container", "invocation"])
def test_a_loader_may_return_not_found(l2: bool, absence: Any, scope: Any) -> None:
    """It is an absence as one that was raised is, and no value."""
    world = World(l2=l2, negative_ttl=30)
    kind = absence if isinstance(absence, type) else type(absence)
    with world.cache.invocation():
        with pytest.raises(kind) as caught:
            world.cache.get_or_load("k", lambda: absence, scope=scope)
        assert isinstance(absence, type) or absence is caught.value
        if scope == "container":
            with pytest.raises(NotFound):
                world.cache.get_or_load("k", lambda: pytest.fail("ran"))
            assert 1 == world.cache.stats().origin.not_found
    assert MISSING is world.cache.get("k")
    assert {} == world.cache.get_many_or_load(["m"], lambda _: {"m": absence})


@both
@pytest.mark.parametrize("inner", [Loaded(1), NotFound, NotFound("k"), LoadContext("k", stale=1).not_modified()])
def test_what_is_no_bare_value_is_refused_as_a_value(l2: bool, inner: Any) -> None:
    """Inside of `Loaded`, and by `set`; nothing is kept."""
    world = World(l2=l2)
    with pytest.raises(TypeError, match="^a value must be the bare value; got an object of type "):
        world.cache.get_or_load("k", lambda: Loaded(inner))
    with pytest.raises(TypeError, match="^a value must be the bare value; got an object of type "):
        world.cache.get_many_or_load(["k"], lambda _: {"k": Loaded(inner)})
    with pytest.raises(TypeError, match="^value must be the bare value|^a value must be the bare value"):
        world.cache.set("k", inner)
    assert MISSING is world.cache.get("k")


@both
def test_a_loader_that_gives_an_awaitable_is_refused(l2: bool) -> None:
    """It is closed, so that nobody is warned of it later."""

    async def value() -> int: ...

    class Future:
        def __await__(self) -> Any: ...

    world = World(l2=l2)
    for given in (lambda: value(), lambda: Future()):
        with pytest.raises(TypeError, match="^loader gave an awaitable, and this cache is synchronous"):
            world.cache.get_or_load("k", given)


@both
def test_a_loader_may_load_other_keys(l2: bool) -> None:
    """And is told when it asks for its own."""
    world = World(l2=l2)
    cache = world.cache
    assert "a of b" == cache.get_or_load("a", lambda: "a of " + cache.get_or_load("b", lambda: "b"))
    with pytest.raises(ReentrantLoadError):
        cache.get_or_load("c", lambda: cache.get_or_load("c", int))
    with pytest.raises(ReentrantLoadError):
        cache.get_or_load("c", lambda: cache.get_or_load("c", int, force_refresh=True))


@both
def test_a_cache_closed_during_a_load_keeps_nothing(l2: bool) -> None:
    """The caller is told."""
    world = World(l2=l2)
    with pytest.raises(ClosedError):
        in_between(world, world.cache.close)
    assert 0 == world.cache.stats().l1.entries


def test_the_counters_say_what_happened() -> None:
    """Hits, stale hits and misses of L1, L2's own, the origin's."""
    carrier = Carrier()
    world = World(l2=True, refresh=carrier)
    with world.cache as cache:
        assert cache.warm_up()
        world.get()
        world.get()
        cache.get_or_load("k", world.origin)
        world.age(110)
        world.get()
        carrier.carry_out()
        stats = cache.stats()
    assert (2, 1, 1, 1) == (stats.l1.hits, stats.l1.stale_hits, stats.l1.misses, stats.l1.entries)
    assert stats.l2 is not None
    assert (1, 1, 2) == (stats.l2.hits, stats.l2.misses, stats.l2.writes)
    assert (2, 1, 0) == (stats.origin.loads, stats.origin.refreshes, stats.origin.refresh_failures)
    assert world.cache.stats().l2 is not None
    assert World(l2=False).cache.stats().l2 is None
    assert "TieredCache(namespace='default', l2=True)" == repr(world.cache)


@both
@pytest.mark.parametrize("batch", [False, True], ids=["one key", "a batch"])
def test_where_a_refresh_gives_the_answer_it_was_a_miss(l2: bool, batch: bool) -> None:
    """And no stale hit: nobody got the stale value."""
    world = World(l2=l2, l1={"ttl": 100})
    for count in range(4):
        if batch:
            assert {"k": count} == world.cache.get_many_or_load(["k"], lambda _, count=count: {"k": count})
        else:
            assert count == world.cache.get_or_load("k", lambda count=count: count)
        world.age(105)
    assert (0, 0, 4) == world.cache.stats().l1[:3]
    assert 3 == world.cache.stats().origin.refreshes


@pytest.mark.parametrize("batch", [False, True], ids=["one key", "a batch"])
def test_a_refresh_that_falls_back_on_the_stale_value_gives_it_to_nobody(batch: bool) -> None:
    """It counts for the callers alone."""
    carrier = Carrier()
    world = World(l2=False, refresh=carrier)
    world.get()
    world.age(105)
    for count in range(1, 4):
        if batch:
            assert {"k": "v1"} == world.cache.get_many_or_load(["k"], lambda _: 1 / 0)
        else:
            assert "v1" == world.cache.get_or_load("k", lambda: 1 / 0)
        carrier.carry_out()
        assert (0, count, 1) == world.cache.stats().l1[:3]
    assert 1 == world.cache.stats().origin.covered


def test_a_subclass_may_change_how_a_value_is_got() -> None:
    """Its own get_or_load is not passed by on a hit."""

    class Shouting(TieredCache):
        def get_or_load(self, key: str, loader: Any, **options: Any) -> Any:
            return super().get_or_load(key, loader, **options).upper()

    cache = Shouting(MemoryTier(ttl=60), refresh="inline")
    assert "A" == cache.get_or_load("k", lambda: "a") == cache.get_or_load("k", lambda: "b")


def test_not_modified_may_say_for_how_long() -> None:
    """Without, the life is that of the cache; with, it is what the loader says."""
    for ttl, fresh_for in ((None, 100), ("200s", 200)):
        world = World(l2=False, policy={"ttl": 100, "stale_if_error": 1000})
        world.origin.value = Loaded("v1", ttl=10, etag="e")
        world.get()
        world.clock.advance(11)
        world.origin.value = lambda context, ttl=ttl: context.not_modified(ttl)
        assert "v1" == world.get().value
        world.clock.advance(fresh_for - 1)
        assert Reason.FRESH is world.get().reason
        world.clock.advance(2)
        world.get()
        assert 3 == world.origin.loads


@pytest.mark.parametrize("error", [ImportError("no module"), ClosedError("closed"), PermissionError("no")])
def test_what_only_people_can_mend_is_not_covered(error: Exception) -> None:
    """A stale value would hide it for as long as the windows are."""
    world = World(l2=False)
    world.get()
    world.clock.advance(125)
    world.origin.value = error
    with pytest.raises(type(error)):
        world.get()


def test_the_first_covered_failure_is_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    """One line with the type of the error, for it may be a fault in the loader; not one for each try, and no text of it."""
    world = World(l2=False)
    world.get()
    world.clock.advance(125)
    world.origin.value = NameError("customer 7")
    for _ in range(3):
        assert world.get().stale
        world.clock.advance(5)
    assert ["a value held covers for a load that failed: NameError"] == [r.getMessage() for r in caplog.records]


@pytest.mark.parametrize("value", [iter([1]), (x for x in "ab"), Loaded(iter("ab"))])
def test_a_value_that_can_be_used_but_once_is_refused(value: Any) -> None:
    """A stream that is cached would be empty for the next caller."""
    world = World(l2=False)
    world.origin.value = lambda context: value
    with pytest.raises(TypeError, match="only once"):
        world.get()
    assert MISSING is world.cache.get("k")


def test_set_takes_the_bare_value() -> None:
    """`Loaded` is for loaders, and a stream is for nobody."""
    cache = World(l2=False).cache
    with pytest.raises(TypeError, match="Loaded is for loaders"):
        cache.set("k", Loaded(1))
    with pytest.raises(TypeError, match="only once"):
        cache.set("k", iter([1]))


def test_a_load_in_a_thread_has_the_callers_context() -> None:
    """What tracing and logging keep in context variables goes along, with a time limit and in a refresh."""
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    world = World(l2=False, refresh="thread")
    world.origin.value = lambda context: request.get()
    request.set("first")
    assert "first" == world.get(hard_timeout=WAIT).value
    world.clock.advance(105)
    request.set("second")
    assert "first" == world.get().value
    ends = time.monotonic() + WAIT
    while world.cache.get("k") != "second":
        assert time.monotonic() < ends


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_process_is_not_kept_waiting_by_a_write_of_its_parent() -> None:
    """A fork takes along the locks of a thread that waits for L2, but not the thread."""
    world = World(l2=True)
    inside, gate = threading.Event(), threading.Event()

    class Slow:
        """A shared tier takes its time with what it carries."""

        id = 2

        def encode(self, value: Any) -> bytes:
            inside.set()
            gate.wait(WAIT)
            return b""

    assert world.l2 is not None
    world.l2.codec = Slow()  # type: ignore[assignment]
    writer = threading.Thread(target=world.cache.set, args=("k", 1))
    writer.start()
    inside.wait(WAIT)
    child = os.fork()
    if child == 0:  # pragma: no cover  # in a process of its own
        signal.alarm(int(WAIT))
        with contextlib.suppress(InvalidationNotDelivered):
            world.cache.delete("k")
        os._exit(0)
    gate.set()
    writer.join(WAIT)
    assert 0 == os.waitpid(child, 0)[1]
