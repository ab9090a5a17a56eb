"""The cache in event loops: the loop is never held up, loads are shared, and the rules are those of the other shell."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import os
import threading
from typing import Any

import pytest

from tiered_cache import (
    AsyncTieredCache,
    ConfigurationError,
    LoadContext,
    Loaded,
    LoadTimeout,
    MemoryTier,
    NotFound,
    OriginError,
    Reason,
    ReentrantLoadError,
    TieredCache,
)
from tiered_cache._waits import WAITS
from tiered_cache.local._process import poll
from tiered_cache.testing import FakeClock, InMemorySharedTier

WAIT = 60.0


def make(**options: Any) -> tuple[AsyncTieredCache, FakeClock]:
    clock = FakeClock()
    l1 = MemoryTier(ttl=60, stale_while_revalidate=600, jitter=0)
    return AsyncTieredCache(l1, clock=clock, **{"refresh": "inline"} | options), clock


def answering(value: Any, calls: list[Any] | None = None) -> Any:
    async def load() -> Any:
        await asyncio.sleep(0)
        if calls is not None:
            calls.append(value)
        return value

    return load


def test_it_has_every_method_of_the_other_shell() -> None:
    """Awaited, but for those that wait for nothing."""
    cache, _ = make()
    for name in (name for name in dir(TieredCache) if not name.startswith("_")):
        assert callable(getattr(cache, name)), name
    plain = {"stats", "invocation", "after_response", "run_deferred", "before_snapshot", "after_restore", "cached"}
    methods = {name for name in dir(TieredCache) if not name.startswith("_")}
    assert methods - plain == {name for name in methods if asyncio.iscoroutinefunction(getattr(cache, name))}


def test_its_methods_take_what_those_of_the_other_shell_take() -> None:
    """Under the same names, and as what they are there: by position or by name, with the same defaults."""
    cache, _ = make()
    for name in (name for name in dir(TieredCache) if not name.startswith("_")):
        ours, theirs = inspect.signature(getattr(cache, name)), inspect.signature(getattr(TieredCache(), name))
        assert list(ours.parameters) == list(theirs.parameters), name
        for parameter in ours.parameters:
            one, other = ours.parameters[parameter], theirs.parameters[parameter]
            assert (one.kind, one.default) == (other.kind, other.default), f"{name}: {parameter}"


def test_a_value_is_loaded_once_and_then_held() -> None:
    """By an asynchronous loader, a plain one, or an object with an asynchronous `load(context)`."""
    cache, _ = make()

    class Origin:
        async def load(self, context: LoadContext) -> Loaded:
            await asyncio.sleep(0)
            return Loaded(f"value of {context.key}", ttl=5)

    async def main() -> None:
        calls: list[Any] = []
        for _ in range(3):
            assert 1 == await cache.get_or_load("a", answering(1, calls))
        assert [1] == calls
        assert "plain" == await cache.get_or_load("b", lambda: "plain")
        assert "value of c" == await cache.get_or_load("c", Origin())
        answer = await cache.get_entry_or_load("c", Origin())
        assert ("value of c", "l1", Reason.FRESH) == (answer.value, answer.tier, answer.reason)

    asyncio.run(main())
    assert (3, 3) == (cache.stats().l1.hits, cache.stats().l1.misses)


def test_all_that_is_asked_of_the_other_shell() -> None:
    """Reading, writing and invalidating, with an L2 behind."""
    cache = AsyncTieredCache(MemoryTier(ttl=60), InMemorySharedTier(ttl=600, stale_if_error=600), clock=FakeClock())

    async def batch(keys: Any) -> dict[str, Any]:
        return {key: key.upper() for key in keys}

    async def main() -> None:
        async with cache:
            assert await cache.warm_up()
            assert await cache.warm_up(wait=False)
            await cache.set("k", 1, tags=("t",))
            assert 1 == await cache.get("k")
            await cache.expire("k")
            assert "none" == await cache.get("k", "none")
            await cache.set("k", 2, tags=("t",))
            await cache.invalidate_tag("t")
            assert "none" == await cache.get("k", "none")
            assert {"a": "A", "b": "B"} == await cache.get_many_or_load(["a", "b"], batch)
            assert {"b": "B", "c": "c"} == await cache.get_many_or_load(
                ["b", "c"], lambda keys: {key: key for key in keys}
            )
            await cache.delete("a")
            await cache.clear()
            assert {"b": "b"} == await cache.get_many_or_load(["b"], lambda keys: {key: key for key in keys})
        with pytest.raises(Exception, match="closed"):
            await cache.get("k")

    asyncio.run(main())


def test_the_loop_goes_on_while_the_cache_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are given up, which L2 may take its time for."""
    cache, goes_on = AsyncTieredCache(MemoryTier(ttl=60), InMemorySharedTier(ttl=600)), threading.Event()
    close = cache._core._shared.close

    def slow(now: float) -> None:
        assert goes_on.wait(10)
        close(now)

    monkeypatch.setattr(cache._core._shared, "close", slow)

    async def main() -> None:
        closing = asyncio.create_task(cache.close())
        await asyncio.sleep(0)
        goes_on.set()
        await closing

    asyncio.run(main())


def test_callers_share_one_load_and_the_loop_goes_on_meanwhile() -> None:
    """A hundred tasks, one load; the loader is let go by the loop itself, asynchronous or not."""
    cache, _ = make()
    calls: list[str] = []

    async def main() -> None:
        gate, plain_gate = asyncio.Event(), threading.Event()

        async def slow() -> str:
            calls.append("async")
            await gate.wait()
            return "a"

        def plain() -> str:
            calls.append("plain")
            assert plain_gate.wait(WAIT)
            return "p"

        tasks = [asyncio.create_task(cache.get_or_load("k", slow)) for _ in range(100)]
        others = [asyncio.create_task(cache.get_or_load("p", plain)) for _ in range(20)]
        while len(calls) < 2:
            await asyncio.sleep(0.001)
        gate.set()
        plain_gate.set()
        assert ["a"] * 100 == await asyncio.gather(*tasks)
        assert ["p"] * 20 == await asyncio.gather(*others)

    asyncio.run(main())
    assert ["async", "plain"] == sorted(calls)


def test_loads_within_loads_at_any_number_at_once() -> None:
    """More than any pool of threads has: none waits for a thread that waits for it."""
    cache, _ = make()

    async def leaf(number: int) -> int:
        return await cache.get_or_load(f"leaf:{number}", answering(number))

    async def main() -> list[int]:
        return await asyncio.gather(
            *(cache.get_or_load(f"node:{number}", lambda number=number: leaf(number)) for number in range(150))
        )

    assert list(range(150)) == asyncio.run(main())


def test_a_loader_that_waits_for_itself_is_told_so() -> None:
    """Directly, in a circle of two tasks, or behind a time limit: an error, and not a wait for ever."""
    cache, _ = make()

    async def own() -> Any:
        return await cache.get_or_load("k", own)

    async def limited() -> Any:
        return await cache.get_or_load("b", lambda: cache.get_or_load("a", limited), hard_timeout=WAIT)

    async def circle() -> None:
        both = asyncio.Barrier(2)

        async def of(other: str) -> Any:
            await both.wait()
            return await cache.get_or_load(other, answering("never asked"))

        found = await asyncio.gather(
            cache.get_or_load("x", lambda: of("y")), cache.get_or_load("y", lambda: of("x")), return_exceptions=True
        )
        assert any(isinstance(one, ReentrantLoadError) for one in found)

    async def main() -> None:
        with pytest.raises(ReentrantLoadError):
            await cache.get_or_load("k", own)
        with pytest.raises(ReentrantLoadError):
            await cache.get_or_load("a", limited)
        await asyncio.wait_for(circle(), WAIT)

    asyncio.run(main())


def test_two_inner_loads_may_share_a_third() -> None:
    """That is no circle: who leads the third waits for neither."""
    cache, _ = make()
    calls: list[Any] = []

    async def through(name: str) -> Any:
        return await cache.get_or_load(name, lambda: cache.get_or_load("shared", answering("s", calls)))

    async def outer() -> list[Any]:
        return list(
            await asyncio.gather(through("one"), through("two"), cache.get_or_load("shared", answering("s", calls)))
        )

    async def main() -> None:
        assert ["s", "s", "s"] == await cache.get_or_load("outer", outer)

    asyncio.run(main())
    assert ["s"] == calls


def test_a_task_that_outlives_its_loader_acts_for_nobody() -> None:
    """The thread that waited for the loader may lead another load by then, which the task may well wait for."""
    cache, _ = make()

    async def main() -> None:
        go_on, begun, gate, tasks = asyncio.Event(), asyncio.Event(), asyncio.Event(), []

        async def left_behind() -> Any:
            await go_on.wait()
            return await cache.get_or_load("other", answering("never asked"))

        async def load() -> str:
            tasks.append(asyncio.create_task(left_behind()))
            return "v"

        async def other() -> str:
            begun.set()
            await gate.wait()
            return "shared"

        await cache.get_or_load("k", load)
        await asyncio.sleep(0.1)  # its thread is idle
        first = asyncio.create_task(cache.get_or_load("other", other))
        await begun.wait()
        go_on.set()
        while cache.stats().origin.shared == 0 and not tasks[0].done():
            await asyncio.sleep(0.001)
            if WAITS.awaited:
                gate.set()
        assert ["shared", "shared"] == await asyncio.gather(first, *tasks)

    asyncio.run(asyncio.wait_for(main(), WAIT))


def test_cancelling_a_caller_does_not_cancel_the_load() -> None:
    """Others get its value, and it is held."""
    cache, _ = make()

    async def main() -> None:
        gate, begun = asyncio.Event(), asyncio.Event()

        async def slow() -> str:
            begun.set()
            await gate.wait()
            return "v"

        first = asyncio.create_task(cache.get_or_load("k", slow))
        await begun.wait()
        second = asyncio.create_task(cache.get_or_load("k", slow))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        gate.set()
        assert "v" == await second
        assert "v" == await cache.get("k")

    asyncio.run(main())


def test_errors_are_the_callers() -> None:
    """The loader's own, NotFound, and those of arguments; a StopIteration, which no future carries, is told as such."""
    cache, _ = make(negative_ttl=60)

    async def fails() -> None:
        raise KeyError("own")

    async def missing() -> None:
        raise NotFound("nothing")

    def stops() -> None:
        raise StopIteration

    async def main() -> None:
        with pytest.raises(KeyError, match="own"):
            await cache.get_or_load("k", fails)
        for _ in range(2):
            with pytest.raises(NotFound, match="nothing"):
                await cache.get_or_load("m", missing)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await cache.get_or_load("s", stops)
        with pytest.raises(TypeError, match="key must be a non-empty str"):
            await cache.get_or_load(5, fails)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="loader must be a callable"):
            await cache.get_or_load("k", 5)
        with pytest.raises(ConfigurationError, match="did you mean ttl"):
            await cache.get_or_load("k", fails, tll=5)  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="loader must be a callable of the missing keys"):
            await cache.get_many_or_load(["k"], 5)  # type: ignore[arg-type]

    asyncio.run(main())


def test_a_time_limit_is_the_callers_and_the_load_goes_on() -> None:
    """A stale value is served after soft_timeout; the value comes in when the load has ended."""
    cache, clock = make()

    async def main() -> None:
        await cache.get_or_load("k", answering("old"))
        clock.advance(61)
        gate = asyncio.Event()

        async def slow() -> str:
            await gate.wait()
            return "new"

        answer = await cache.get_entry_or_load("k", slow, soft_timeout=0.01)
        assert ("old", True) == (answer.value, answer.stale)
        gate.set()
        while await cache.get("k") != "new":
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), WAIT))


def test_one_cache_serves_a_thousand_loops() -> None:
    """One after another, as asyncio.run in each invocation makes them: no thread is left over for each, and none waits."""
    cache, _ = make()
    before = threading.active_count()

    async def main(number: int) -> tuple[int, int]:
        first = await cache.get_or_load("held", answering(-1))
        return first, await cache.get_or_load(f"k{number}", answering(number))

    for number in range(1000):
        assert (-1, number) == asyncio.run(main(number))
    assert threading.active_count() - before <= 80


def test_a_load_whose_loop_ends_fails_and_the_next_loop_loads() -> None:
    """asyncio.run cancels what is left when its main function returns."""
    cache, _ = make()
    begun = threading.Event()

    async def never() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def leave() -> None:
        task = asyncio.create_task(cache.get_or_load("k", never))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()

    asyncio.run(leave())
    assert "v" == asyncio.run(cache.get_or_load("k", answering("v"), force_refresh=True))


def test_who_waits_for_a_load_in_a_loop_that_ends_is_told() -> None:
    """From another loop, in another thread."""
    cache, _ = make()
    begun = threading.Event()

    async def never() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def leave() -> None:
        task = asyncio.create_task(cache.get_or_load("k", never))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        (flight,) = cache._core._reads.flights.under_way()
        while flight not in list(WAITS.awaited.values()):
            await asyncio.sleep(0.001)
        task.cancel()

    leaving = threading.Thread(target=lambda: asyncio.run(leave()))
    leaving.start()
    assert begun.wait(WAIT)
    with pytest.raises(OriginError, match="the event loop in which the loader ran has ended"):
        asyncio.run(asyncio.wait_for(cache.get_or_load("k", never), WAIT))
    leaving.join(WAIT)


async def awaits_what_was_cancelled() -> None:
    inner = asyncio.create_task(asyncio.Event().wait())
    inner.cancel()
    await inner


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def raises_that_of_a_pool() -> None:
    raise concurrent.futures.CancelledError


def raises_it_in_a_thread() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("load", "loads"),
    [(awaits_what_was_cancelled, 1), (cancels_itself, 2), (raises_that_of_a_pool, 1), (raises_it_in_a_thread, 1)],
)
@pytest.mark.parametrize("refresh", ["inline", "thread"])
def test_a_loader_that_is_cancelled_by_itself_has_failed(load: Any, loads: int, refresh: str) -> None:
    """It cancels nobody else, and what is stale covers; begun once more is only what may have been cut off by its loop."""
    cache, clock = make(refresh=refresh)
    begun: list[object] = []

    def counted() -> Any:
        begun.append(load)
        return load()

    async def main() -> None:
        await cache.get_or_load("k", answering("old"))
        with pytest.raises(OriginError, match="by itself or by what it awaited"):
            await cache.get_or_load("none", counted, hard_timeout=WAIT)
        assert (loads, 1) == (len(begun), cache.stats().origin.failures)
        clock.advance(61)
        assert "old" == await cache.get_or_load("k", counted, hard_timeout=WAIT)
        assert await asyncio.to_thread(poll, lambda: cache.stats().origin.failures == 2, seconds=WAIT)
        assert 2 * loads == len(begun)

    asyncio.run(main())


class Cut:
    """Its first load does not end before its loop does; the second gives "new"."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.loads = 0

    async def load(self, context: LoadContext) -> str:
        self.loads += 1
        if self.loads == 1:
            self.begun.set()
            await asyncio.Event().wait()
        return "new"

    async def load_many(self, keys: Any, context: Any) -> dict[str, str]:
        assert context.remaining() is None
        return dict.fromkeys(keys, await self.load(None))  # type: ignore[arg-type]


@pytest.mark.parametrize("many", [False, True])
def test_a_refresh_in_a_thread_outlives_the_loop_of_its_caller(*, many: bool) -> None:
    """As where each invocation has an asyncio.run of its own: it is begun once more, in a loop of its own."""
    cache, clock = make(refresh="thread")
    asyncio.run(cache.get_or_load("k", answering("old")))
    clock.advance(61)
    cut = Cut()

    async def handler() -> Any:
        if many:
            found = (await cache.get_many_or_load(["k"], cut))["k"]
        else:
            found = await cache.get_or_load("k", cut)
        assert await asyncio.to_thread(cut.begun.wait, WAIT)
        return found

    assert "old" == asyncio.run(handler())
    assert poll(lambda: asyncio.run(cache.get("k")) == "new", seconds=WAIT)
    assert (2, 0) == (cut.loads, cache.stats().origin.refresh_failures)


def test_a_load_that_took_longer_than_its_limit_outlives_the_loop_of_its_caller() -> None:
    """As the error says: it goes on, and its value will be kept."""
    cache, _ = make()
    cut = Cut()

    async def handler() -> None:
        with pytest.raises(LoadTimeout, match="it goes on, and its value will be kept$"):
            await cache.get_or_load("k", cut, hard_timeout=0.01)
        assert await asyncio.to_thread(cut.begun.wait, WAIT)

    asyncio.run(handler())
    assert poll(lambda: asyncio.run(cache.get("k", "none")) == "new", seconds=WAIT)
    assert (2, 0) == (cut.loads, cache.stats().origin.failures)


def test_who_waits_for_a_load_in_a_loop_that_was_stopped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that is kept between invocations: nobody else can say whether it ever goes on."""
    monkeypatch.setattr("tiered_cache._asynchronous.LOOK", 0.05)
    cache, clock = make()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(cache.get_or_load("k", answering("old")))
    clock.advance(61)
    begun, gate = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        begun.set()
        await gate.wait()
        return "new"

    async def handler() -> Any:
        found = await cache.get_or_load("k", slow, soft_timeout=0.01)
        await begun.wait()
        return found

    assert "old" == loop.run_until_complete(handler())
    assert 0 == cache.run_deferred()
    assert {} == cache._core._reads.flights._by_key
    gate.set()
    assert "newer" == loop.run_until_complete(cache.get_or_load("k", answering("newer"), force_refresh=True))
    loop.close()


def test_a_load_that_ends_while_its_waiter_looks_is_not_taken_for_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look has ended in a TimeoutError, and then the load does."""

    class Ending(concurrent.futures.Future[str]):
        def exception(self, timeout: float | None = None) -> BaseException | None:
            self.result(timeout)
            return None

        def result(self, timeout: float | None = None) -> str:
            if self.done():
                return super().result()
            self.set_result("v")
            raise TimeoutError

    def run(coroutine: Any, _: Any) -> Ending:
        coroutine.close()
        given.close()
        return Ending()

    cache, _ = make()
    given = answering("v")()
    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", run)
    assert "v" == asyncio.run(cache.get_or_load("k", lambda: given))


def test_a_refresh_put_off_runs_beside_the_loop_that_carries_it_out() -> None:
    """The loop of the coroutine in which an invocation begins waits for it, and cannot run it."""
    cache, clock = make(refresh="next_invocation")

    async def main() -> None:
        await cache.get_or_load("k", answering("old"))
        clock.advance(61)
        with cache.invocation():
            assert "old" == await cache.get_or_load("k", answering("new"))
        with cache.invocation():
            assert "new" == await cache.get("k")

    asyncio.run(asyncio.wait_for(main(), WAIT))


def test_to_work_off_in_an_event_loop_is_refused() -> None:
    """It would wait for loads that this very loop runs; the text says what to write."""
    cache, _ = make()

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"await asyncio\.to_thread\(cache\.run_deferred\)$"):
            cache.run_deferred()
        assert 0 == await asyncio.to_thread(cache.run_deferred)

    asyncio.run(main())


def test_no_cache_leaves_threads_behind() -> None:
    """They serve all caches of the process."""
    before = threading.active_count()

    async def main() -> None:
        for _ in range(50):
            cache, _ = make()
            async with cache:
                assert 1 == await cache.get_or_load("k", answering(1))

    asyncio.run(main())
    assert poll(lambda: threading.active_count() - before <= 8, seconds=WAIT)


def test_errors_name_the_class_that_was_called() -> None:
    """And not a part of it."""
    with pytest.raises(ConfigurationError, match="^AsyncTieredCache: rfresh is not an option; did you mean refresh"):
        AsyncTieredCache(rfresh="inline")


def test_a_refresh_after_the_response_runs_in_a_loop_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler's loop has ended by then."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    cache, clock = make(refresh="after_response")
    asyncio.run(cache.get_or_load("k", answering("old")))
    clock.advance(61)
    with cache.invocation(lambda: 3.0, works_after_response=True):
        assert "old" == asyncio.run(cache.get_or_load("k", answering("new")))
    assert 0 == cache.run_deferred(lambda: 3.0)
    assert "new" == asyncio.run(cache.get("k"))


def test_a_loader_sees_the_context_of_its_caller() -> None:
    """Tracing and log correlation go with the load."""
    cache, _ = make()
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request")

    async def load() -> str:
        return request.get()

    async def main() -> None:
        request.set("r1")
        assert "r1" == await cache.get_or_load("async", load)
        assert "r1" == await cache.get_or_load("plain", request.get)

    asyncio.run(main())


def test_a_decorated_coroutine_function_is_read_through_the_cache() -> None:
    """Its key is made as for a plain one; a plain function becomes awaitable."""
    cache, _ = make()
    calls: list[int] = []

    @cache.cached("customer:{number}")
    async def customer(number: int) -> str:
        calls.append(number)
        return f"c{number}"

    @cache.cached()
    def plain(number: int) -> int:
        return number + 1

    async def main() -> None:
        assert ["c7", "c7"] == [await customer(7), await customer(number=7)]
        assert 3 == await plain(2)  # type: ignore[misc]
        await cache.delete(customer.cache_key(7))
        await customer(7)

    asyncio.run(main())
    assert [7, 7] == calls


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    """Those of the parent did not come along."""
    cache, _ = make()
    asyncio.run(cache.get_or_load("before", answering(1)))
    child = os.fork()
    if child == 0:
        os._exit(0 if asyncio.run(cache.get_or_load("k", answering(1))) == 1 else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_the_text_of_it_is_short_and_safe() -> None:
    """As that of the other shell."""
    assert "AsyncTieredCache(namespace='default', l2=False)" == repr(make()[0])


def test_an_invocation_that_begins_in_a_loop_does_not_wait_for_batches_in_it() -> None:
    """Nor for the refresh of several keys that are being loaded."""
    cache, clock = make(refresh="next_invocation")

    async def main() -> None:
        gate = asyncio.Event()

        async def slow(keys: Any) -> dict[str, str]:
            await gate.wait()
            return dict.fromkeys(keys, "new")

        with cache.invocation():
            await cache.get_many_or_load(["a", "b"], lambda keys: dict.fromkeys(keys, "old"))
        clock.advance(61)
        with cache.invocation():
            await cache.get_many_or_load(["a", "b"], lambda keys: dict.fromkeys(keys, "never"))
        task = asyncio.create_task(cache.get_many_or_load(["a", "b"], slow, force_refresh=True))
        while not cache._core._reads.flights.busy(("a", "b")) or not WAITS._behind:
            await asyncio.sleep(0.002)
        with cache.invocation():
            assert (1, 0) == (cache.stats().origin.refreshes, cache.stats().origin.refresh_failures)
        gate.set()
        assert {"a": "new", "b": "new"} == await task

    asyncio.run(main())


@pytest.mark.parametrize("other", [False, True])
def test_an_invocation_that_begins_in_a_loop_does_not_wait_for_loads_in_it(*, other: bool) -> None:
    """They could not go on before it: a refresh of the same key is not needed, one that needs another has failed."""
    cache, clock = make(refresh="next_invocation")
    needs = "other" if other else "k"

    async def page() -> str:
        return await cache.get_or_load(needs, answering("never")) if other else "never"

    async def main() -> None:
        gate = asyncio.Event()

        async def slow() -> str:
            await gate.wait()
            return "new"

        with cache.invocation():
            await cache.get_or_load("k", answering("old"))
        clock.advance(61)
        with cache.invocation():
            assert Reason.REVALIDATING == (await cache.get_entry_or_load("k", page)).reason
        task = asyncio.create_task(cache.get_or_load(needs, slow, force_refresh=True))
        while not cache._core._reads.flights.busy(needs) or not WAITS._behind:
            await asyncio.sleep(0.002)
        with cache.invocation():
            assert other == cache.stats().origin.refresh_failures
        gate.set()
        assert "new" == await task

    asyncio.run(main())
    assert {} == WAITS._behind
