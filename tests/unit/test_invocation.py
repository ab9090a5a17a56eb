"""The invocation: what must not outlive it does not, and its remaining time is known to loads."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import pytest

from tiered_cache import (
    AsyncTieredCache,
    ConfigurationError,
    LoadContext,
    Loaded,
    LoadTimeout,
    MemoryTier,
    NotFound,
    Reason,
    TieredCache,
)
from tiered_cache.aws_lambda import RESERVE, lambda_handler
from tiered_cache.local._process import poll
from tiered_cache.testing import FakeClock, InMemorySharedTier

WAIT = 60.0


class Context:
    """Lambda's context object, as far as it matters."""

    def __init__(self, milliseconds: int) -> None:
        self.milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


class Remaining:
    def load(self, context: LoadContext) -> float | None:
        return context.remaining()


class Wants:
    """A loader that answers by one of the context's verbs."""

    def __init__(self, verb: str) -> None:
        self.verb = verb

    def load(self, context: LoadContext) -> Any:
        return context.skip("skipped") if self.verb == "skip" else context.pending("handle")


def make(**options: Any) -> tuple[TieredCache, FakeClock, InMemorySharedTier]:
    clock, l2 = FakeClock(), InMemorySharedTier(ttl=600)
    return TieredCache(MemoryTier(ttl=60), l2, clock=clock, refresh="inline", **options), clock, l2


def test_a_value_of_the_invocation_is_gone_when_it_ends() -> None:
    """It is loaded once within, never seen by L2 or by calls without the scope, and loaded anew in the next one."""
    cache, _, l2 = make()
    loads: list[str] = []

    def card() -> str:
        loads.append("load")
        return "4111"

    for expected in (1, 2):
        with cache.invocation():
            first = cache.get_entry_or_load("card", card, scope="invocation")
            second = cache.get_entry_or_load("card", card, scope="invocation")
        assert ("origin", Reason.LOADED) == (first.tier, first.reason)
        assert ("4111", "l1", 0.0, False, Reason.FRESH) == tuple(second)
        assert expected == len(loads)
    assert {} == l2.entries
    assert 0 == cache.stats().l1.entries
    assert "other" == cache.get_or_load("card", lambda: "other")


def test_it_is_gone_too_when_the_handler_raises() -> None:
    """The invocation ends however its handler does."""
    cache, _, _ = make()

    @lambda_handler(cache)
    def handler(event: Any, context: Any) -> Any:
        value = cache.get_or_load("k", lambda: event, scope="invocation")
        if event == "bad":
            raise ValueError
        return value

    with pytest.raises(ValueError):
        handler("bad", Context(3000))
    assert "good" == handler("good", None) == handler.__wrapped__.__name__.replace("handler", "good")  # type: ignore[attr-defined]


def test_outside_of_an_invocation_the_scope_is_refused() -> None:
    """Nobody would say when it ends; the text says what to write."""
    cache, _, _ = make()
    with pytest.raises(ConfigurationError, match=r'^scope="invocation" needs an invocation: decorate the handler with'):
        cache.get_or_load("k", int, scope="invocation")


def test_invocations_do_not_nest() -> None:
    """An execution environment serves one event after another; the outer one goes on."""
    cache, _, _ = make()
    with cache.invocation():
        with (
            pytest.raises(RuntimeError, match="running already: decorate only the outermost"),
            cache.invocation(),
        ):
            raise AssertionError
        assert "v" == cache.get_or_load("k", lambda: "v", scope="invocation")
    with cache.invocation():
        pass


def test_within_the_invocation_values_still_grow_old() -> None:
    """The outermost tier's ttl, the call's or the loader's says how long they are fresh; forced, they are loaded anew."""
    cache, clock, _ = make()
    values = iter(range(10))
    with cache.invocation():

        def get(**options: Any) -> int:
            return cache.get_or_load("k", lambda: next(values), scope="invocation", **options)

        assert [0, 0, 1, 1] == [get(), get(), get(force_refresh=True), get()]
        clock.advance(600)
        assert 2 == get(ttl=5)
        clock.advance(5)
        assert 3 == get()
        assert 4 == cache.get_or_load("k", lambda: Loaded(4, ttl=1), scope="invocation", force_refresh=True)
        clock.advance(1)
        assert 4 == get()


def test_delete_reaches_the_invocations_values() -> None:
    """In all tiers means here too."""
    cache, _, _ = make()
    with cache.invocation():
        cache.get_or_load("k", lambda: "old", scope="invocation")
        cache.delete("k")
        assert "new" == cache.get_or_load("k", lambda: "new", scope="invocation")


def test_a_skipped_value_is_not_kept_for_the_invocation() -> None:
    """And a load that gives no value is refused, since nothing older is held."""
    cache, _, _ = make()
    with cache.invocation():
        assert "skipped" == cache.get_or_load("k", Wants("skip"), scope="invocation")
        assert "v" == cache.get_or_load("k", lambda: "v", scope="invocation")
        with pytest.raises(TypeError, match=r'^with scope="invocation" a loader must give the value'):
            cache.get_or_load("p", Wants("pending"), scope="invocation")


def test_a_resumable_loader_is_refused_before_it_begins_anything() -> None:
    """What it begins may outlive the invocation, be it ever so quick this time; in an event loop, too."""

    class Query:
        resumable = True
        loads = 0

        def load(self, context: LoadContext) -> str:
            self.loads += 1
            return "rows"

    query, refused = (
        Query(),
        pytest.raises(ConfigurationError, match=r'^scope="invocation" is not for a resumable loader'),
    )
    cache, _, _ = make()
    with cache.invocation(), refused:
        cache.get_or_load("k", query, scope="invocation")
    other = AsyncTieredCache()
    with other.invocation(), refused:
        asyncio.run(other.get_or_load("k", query, scope="invocation"))
    assert query.loads == 0


def test_a_loader_that_still_runs_at_the_end_does_not_fill_the_next_invocation() -> None:
    """What it gives goes to its caller alone."""
    cache, _, _ = make()
    running = cache.invocation()
    running.__enter__()

    def slow() -> str:
        running.__exit__(None, None, None)
        return "of the first"

    assert "of the first" == cache.get_or_load("k", slow, scope="invocation")
    with cache.invocation():
        assert "of the second" == cache.get_or_load("k", lambda: "of the second", scope="invocation")


def test_loads_learn_the_remaining_time() -> None:
    """The smaller of the invocation's and of `hard_timeout`; None where neither is known."""
    cache, _, _ = make()
    assert cache.get_or_load("a", Remaining()) is None
    with cache.invocation(lambda: 250.0):
        assert 250.0 == cache.get_or_load("b", Remaining())
        assert 100 < cache.get_or_load("c", Remaining(), hard_timeout="60%") <= 150
        assert 200 < cache.get_or_load("d", Remaining(), hard_timeout=1000) <= 250
    assert 900 < cache.get_or_load("f", Remaining(), hard_timeout=1000) <= 1000


def test_the_handlers_remaining_time_is_lambdas_less_a_reserve() -> None:
    """A context that cannot tell it sets no limit; further arguments are passed on."""
    cache, _, _ = make()

    @lambda_handler(cache)
    def handler(event: str, context: Any, *more: Any, **named: Any) -> Any:
        return cache.get_or_load(event, Remaining()), more, named

    assert (3.0 - RESERVE, (1,), {"a": 2}) == handler("a", Context(3000), 1, a=2)
    assert (None, (), {}) == handler("b", object()) == handler("c")
    with pytest.raises(LoadTimeout, match="^no load was begun: the invocation has no time left"):
        handler("d", Context(100))


def test_a_value_of_the_invocation_is_not_loaded_without_time_either() -> None:
    """One that is held is served; else LoadTimeout, before the load."""
    cache, _, _ = make()
    left = [3.0]
    with cache.invocation(lambda: left[0]):
        assert "v" == cache.get_or_load("held", lambda: "v", scope="invocation")
        left[0] = 0.0
        assert "v" == cache.get_or_load("held", lambda: "w", scope="invocation")
        with pytest.raises(LoadTimeout, match="^no load was begun"):
            cache.get_or_load("k", lambda: "v", scope="invocation")
    assert 1 == cache.stats().origin.too_late


def test_a_remaining_time_that_is_no_number_is_refused() -> None:
    """As that of a mock in place of Lambda's context; the text says whose it is, and the next invocation begins."""
    cache, _, _ = make()
    with (
        pytest.raises(
            TypeError, match="^remaining must be a function that gives the seconds left as a number; it gave"
        ),
        cache.invocation(lambda: None),  # type: ignore[arg-type, return-value]
    ):
        raise AssertionError
    with pytest.raises(TypeError, match="as a number; got 5$"), cache.invocation(5):  # type: ignore[arg-type]
        raise AssertionError
    for bad, says in ((5, "got 5"), (lambda: "5", "it gave '5'")):
        with pytest.raises(TypeError, match=f"^remaining must be a function that gives .*; {says}$"):
            cache.run_deferred(bad)  # type: ignore[arg-type]
    handler = lambda_handler(cache)(lambda event, context: "answer")
    for mock in (MagicMock(), Context(None)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^context\.get_remaining_time_in_millis\(\) must give a number; got"):
            handler({}, mock)
    assert "answer" == handler({}, Context(3000))


def test_at_the_start_of_an_invocation_a_step_of_the_clock_is_noticed() -> None:
    """Before that, plain hits cannot see it; from then on no value is taken for younger than it is."""
    clock = FakeClock()
    cache = TieredCache(MemoryTier(ttl=50, jitter=0), clock=clock)
    cache.get_or_load("k", lambda: "old")
    clock.advance(40)
    clock.step(-30)
    with cache.invocation():
        clock.advance(11)
        assert "new" == cache.get_or_load("k", lambda: "new")


@pytest.mark.parametrize(
    "option",
    [
        {"hard_timeout": 1},
        {"soft_timeout": 1},
        {"early_refresh": 1.0},
        {"negative_ttl": 1},
        {"error_backoff": 1},
        {"stale_ok": False},
        {"tags": ("a",)},
    ],
    ids=lambda option: next(iter(option)),
)
def test_options_that_it_would_ignore_are_refused(option: dict[str, Any]) -> None:
    """Beside scope="invocation" they mean nothing, and the error names them."""
    cache, _, _ = make()
    with (
        cache.invocation(),
        pytest.raises(ConfigurationError, match=f"^{next(iter(option))} means nothing with scope="),
    ):
        cache.get_or_load("k", int, scope="invocation", **option)


def test_a_handler_decorated_wrongly_is_refused_at_once() -> None:
    """Without the cache, with its class, or as a coroutine: at import, not in each invocation."""
    cache, _, _ = make()

    async def coroutine(event: Any, context: Any) -> None:
        pass

    with pytest.raises(TypeError, match=r"write @lambda_handler\(cache\)"):
        lambda_handler(coroutine)  # type: ignore[arg-type]
    with pytest.raises(
        TypeError, match=r"^lambda_handler needs a cache, such as TieredCache\(\), .* the class itself$"
    ):
        lambda_handler(TieredCache)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="coroutine"):
        lambda_handler(cache)(coroutine)


class Scene:
    """A handler for several users, whose loader of what all share asks for what is the invocation's alone."""

    def __init__(self, refresh: Any, **options: Any) -> None:
        self.clock, self.work = FakeClock(), []  # type: ignore[var-annotated]
        self.cache = TieredCache(
            MemoryTier(ttl=10, stale_while_revalidate=1000, stale_if_error=1000, jitter=0),
            clock=self.clock,
            refresh=self if refresh == "own" else refresh,
        )
        self.options = options
        self.gate, self.loaded = threading.Event(), threading.Event()
        self.gate.set()
        self.seen: list[str] = []

    def submit(self, work: Any, /) -> None:
        self.work.append(work)

    def card(self, user: str) -> str:
        return self.cache.get_or_load("card", lambda: f"card of {user}", scope="invocation")

    def rates(self, user: str) -> str:
        def load() -> str:
            assert self.gate.wait(WAIT)
            self.seen.append(self.card(user))
            self.loaded.set()
            return f"rates of {user}"

        return self.cache.get_or_load("rates", load, **self.options)

    def grow_stale(self) -> None:
        with self.cache.invocation():
            self.rates("nobody")
        self.clock.advance(11)
        self.gate.clear()
        self.loaded.clear()

    def go_on(self) -> None:
        """Let the load go on that was begun in an earlier invocation, to its end."""
        self.gate.set()
        for work in self.work:
            work()
        assert self.loaded.wait(WAIT)


@pytest.mark.parametrize(
    ("refresh", "options"),
    [("thread", {}), ("own", {}), ("inline", {"soft_timeout": 0.01})],
    ids=["thread", "own", "soft"],
)
def test_a_load_that_goes_on_in_the_next_invocation_is_no_part_of_it(refresh: Any, options: dict[str, Any]) -> None:
    """A refresh in a thread or by a carrier of one's own, or a load that a time limit left behind: neither user's value
    reaches the other.
    """
    scene = Scene(refresh, **options)
    scene.grow_stale()
    with scene.cache.invocation():
        scene.rates("ann")
        assert "card of ann" == scene.card("ann")
    with scene.cache.invocation():
        scene.go_on()
        assert "card of bob" == scene.card("bob")
    assert ["card of nobody", "card of ann"] == scene.seen


def test_a_load_that_began_in_a_thread_of_ones_own_is_of_that_invocation_too() -> None:
    """The thread itself goes by what runs at the moment; what it leaves behind, by what ran then."""
    scene = Scene("inline", soft_timeout=0.01)
    scene.grow_stale()
    with ThreadPoolExecutor(1) as pool:
        with scene.cache.invocation():
            assert "card of ann" == scene.card("ann") == pool.submit(scene.card, "another").result(WAIT)
            pool.submit(scene.rates, "ann").result(WAIT)
        with scene.cache.invocation():
            scene.go_on()
            assert "card of bob" == pool.submit(scene.card, "bob").result(WAIT)
    assert "card of ann" == scene.seen[-1]


def test_a_load_that_began_outside_of_any_invocation_is_of_none() -> None:
    """Not of that either in which it goes on."""
    scene = Scene("inline", soft_timeout=0.01)
    scene.grow_stale()
    scene.rates("nobody")
    with scene.cache.invocation():
        scene.gate.set()
        assert poll(lambda: scene.cache.stats().origin.failures == 1, seconds=WAIT)
        assert "card of bob" == scene.card("bob")


def test_a_refresh_at_the_next_invocation_is_no_part_of_it() -> None:
    """It belongs to the one that owes it."""
    scene = Scene("next_invocation")
    scene.grow_stale()
    scene.gate.set()
    with scene.cache.invocation():
        scene.rates("ann")
    with scene.cache.invocation():
        assert ["card of nobody", "card of ann"] == scene.seen
        assert "card of bob" == scene.card("bob")


@pytest.mark.parametrize("promised", [True, False])
def test_work_after_the_handler_may_ask_for_values_of_the_invocation(
    monkeypatch: pytest.MonkeyPatch, *, promised: bool
) -> None:
    """It gets what it loads itself, and leaves nothing behind."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    scene = Scene("after_response")
    scene.grow_stale()
    scene.gate.set()
    with scene.cache.invocation(works_after_response=promised):
        scene.rates("ann")
    scene.cache.run_deferred()
    assert ["card of nobody", "card of ann"] == scene.seen
    assert 0 == scene.cache.stats().origin.refresh_failures
    with scene.cache.invocation():
        assert "card of bob" == scene.card("bob")


def test_a_task_that_outlives_its_invocation_in_a_kept_loop_is_no_part_of_the_next() -> None:
    """It loads for itself."""
    cache, loop, tasks = AsyncTieredCache(), asyncio.new_event_loop(), []

    async def ask(user: str) -> str:
        return await cache.get_or_load("card", lambda: f"card of {user}", scope="invocation")

    async def handler(user: str) -> str:
        async def later() -> str:
            await gate.wait()
            return await ask("ann")

        if user == "ann":
            tasks.append(asyncio.create_task(later()))
            return await ask(user)
        gate.set()
        assert "card of ann" == await tasks[0]
        return await ask(user)

    gate = asyncio.Event()
    for user in ("ann", "bob"):
        with cache.invocation():
            assert f"card of {user}" == loop.run_until_complete(handler(user))
    loop.close()


@pytest.mark.parametrize("forget", [lambda cache: cache.delete("k"), lambda cache: cache.clear()], ids=["key", "all"])
def test_a_load_under_way_does_not_undo_an_invalidation(forget: Any) -> None:
    """What it gives goes to its caller alone; other values stay."""
    cache, _, _ = make()

    def load() -> str:
        forget(cache)
        return "old"

    with cache.invocation():
        assert "old" == cache.get_or_load("k", load, scope="invocation")
        assert "new" == cache.get_or_load("k", lambda: "new", scope="invocation")
        cache.delete("another")
        assert "new" == cache.get_or_load("k", lambda: "newer", scope="invocation")


def test_a_load_is_kept_though_another_key_is_set_or_deleted_meanwhile() -> None:
    """Its own key alone matters."""
    cache, _, _ = make()
    loads: list[str] = []

    def load() -> str:
        loads.append("load")
        cache.set("audit", len(loads))
        cache.delete("another")
        return "card"

    with cache.invocation():
        assert ["card"] * 3 == [cache.get_or_load("k", load, scope="invocation") for _ in range(3)]
    assert ["load"] == loads


class Telling:
    """A lock that says when somebody waits for it."""

    def __init__(self) -> None:
        self.lock, self.somebody_waits = threading.Lock(), threading.Event()

    def __enter__(self) -> None:
        if not self.lock.acquire(blocking=False):
            self.somebody_waits.set()
            self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class Key(str):
    """A key that says when it is looked for."""

    looked: Any = staticmethod(lambda: None)
    __slots__ = ()
    __eq__ = str.__eq__

    def __hash__(self) -> int:
        Key.looked()
        return super().__hash__()


def test_a_deletion_at_whatever_moment_after_a_load_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes before the value is kept, or after that, and not in between."""
    for moment in itertools.count(1):
        cache = TieredCache()
        cache._invocation._lock = lock = Telling()
        looks = itertools.count(1)

        def delete(cache: TieredCache = cache, lock: Telling = lock) -> None:
            cache.delete("k")
            lock.somebody_waits.set()

        deletion = threading.Thread(target=delete)

        def looked() -> None:
            if next(looks) == moment:
                deletion.start()
                assert lock.somebody_waits.wait(WAIT)  # or it is done

        def load() -> str:
            monkeypatch.setattr(Key, "looked", looked)
            return "old"

        with cache.invocation():
            assert "old" == cache.get_or_load(Key("k"), load, scope="invocation")
            monkeypatch.undo()
            if deletion.ident is None:
                break
            deletion.join(WAIT)
            assert "new" == cache.get_or_load("k", lambda: "new", scope="invocation")
    assert moment > 2


def test_its_loads_are_counted_by_how_they_end() -> None:
    """As all others are, with the seconds they took; what is answered without a load is not."""
    cache, clock, _ = make()

    def load(given: Any) -> Any:
        clock.advance(2)
        if isinstance(given, type):
            raise given
        return given

    with cache.invocation():
        for _ in range(2):
            assert 1 == cache.get_or_load("a", partial(load, 1), scope="invocation")
        for error in (ConnectionError, NotFound, KeyboardInterrupt):
            with pytest.raises(error):
                cache.get_or_load("b", partial(load, error), scope="invocation")
        with pytest.raises(TypeError, match="^with scope="):
            cache.get_or_load("c", Wants("pending"), scope="invocation")
    origin = cache.stats().origin
    assert (1, 2, 1, 8.0) == (origin.loads, origin.failures, origin.not_found, origin.seconds)
    assert 0 == cache.stats().l1.hits == cache.stats().l1.misses


def test_by_copy_each_caller_has_a_value_of_its_own() -> None:
    """As elsewhere in L1; by reference all have one."""
    for share in ("reference", "copy"):
        cache = TieredCache(MemoryTier(ttl=60, share=share))  # type: ignore[arg-type]
        with cache.invocation():
            values = [cache.get_or_load("k", lambda: [1], scope="invocation") for _ in range(3)]
            values[0].append(2)
            values[1].append(3)
            values.append(cache.get_or_load("k", list, scope="invocation"))
        expected = [[1, 2, 3]] * 4 if share == "reference" else [[1, 2], [1, 3], [1], [1]]
        assert expected == values


def test_of_two_loads_at_once_the_later_is_kept() -> None:
    """It began when the earlier one had been reading for a while."""
    cache, _, _ = make()
    gates = [threading.Event(), threading.Event()]
    begun = [threading.Event(), threading.Event()]

    def load(number: int) -> int:
        begun[number].set()
        assert gates[number].wait(WAIT)
        return number

    with cache.invocation(), ThreadPoolExecutor(2) as pool:
        loads = []
        for number in range(2):
            loads.append(pool.submit(cache.get_or_load, "k", partial(load, number), scope="invocation"))
            assert begun[number].wait(WAIT)
        for number in (1, 0):
            gates[number].set()
            assert number == loads[number].result(WAIT)
        assert 1 == cache.get_or_load("k", lambda: 2, scope="invocation")


def test_a_tag_that_is_invalidated_ends_what_the_loader_put_it_on() -> None:
    """Which values of the invocation had it is not kept: all are loaded anew."""
    cache, _, _ = make()
    with cache.invocation():
        cache.get_or_load("k", lambda: Loaded("old", tags=["t"]), scope="invocation")
        cache.invalidate_tag("t")
        assert "new" == cache.get_or_load("k", lambda: "new", scope="invocation")


def test_a_refresh_in_a_thread_has_no_deadline_of_an_invocation() -> None:
    """A thread goes on: neither that of the invocation that owes the refresh counts, nor that of a later one."""
    scene, left = Scene("thread"), []

    class Rates:
        def load(self, context: LoadContext) -> str:
            assert scene.gate.wait(WAIT)
            left.append(context.remaining())
            scene.loaded.set()
            return "new"

    scene.cache.get_or_load("k", lambda: "old")
    scene.clock.advance(11)
    scene.gate.clear()
    with scene.cache.invocation(lambda: 1.0):
        assert "old" == scene.cache.get_or_load("k", Rates())
    with scene.cache.invocation(lambda: 0.0):
        scene.go_on()
    assert [None] == left
    assert (1, 0) == (scene.cache.stats().origin.refreshes, scene.cache.stats().origin.too_late)


def test_a_refresh_in_a_thread_is_not_refused_for_want_of_time() -> None:
    """The invocation that owes it has less time than the last load took."""
    scene = Scene("thread")

    def load() -> str:
        scene.loaded.set()
        return "new"

    scene.cache.get_or_load("k", lambda: "old")
    scene.clock.advance(11)
    with scene.cache.invocation(lambda: 0.0):
        assert "old" == scene.cache.get_or_load("k", load)
        assert scene.loaded.wait(WAIT)
    assert 0 == scene.cache.stats().origin.too_late
