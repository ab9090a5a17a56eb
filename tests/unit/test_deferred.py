"""Work put off: done when it delays nobody, in order, bounded by the time that is left, and never lost in silence."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import queue
import threading
from types import SimpleNamespace
from typing import Any

import pytest

import tiered_cache._deferred as module
from tiered_cache import ClosedError, LoadTimeout, MemoryTier, Reason, TieredCache
from tiered_cache._deferred import Deferred
from tiered_cache._flight import Flight
from tiered_cache._stats import Counters
from tiered_cache.aws_lambda import lambda_handler
from tiered_cache.local._process import poll
from tiered_cache.testing import FakeClock, InMemorySharedTier

WAIT = 60.0
T0 = 1_000_000.0


@pytest.fixture
def on_lambda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container of Lambda, as its environment says: frozen between invocations."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")


class Time:
    """Seconds that are left, of which each piece of work takes some."""

    def __init__(self, left: float) -> None:
        self.left = left

    def __call__(self) -> float:
        return self.left

    def spend(self, seconds: float) -> None:
        self.left -= seconds


def stale(refresh: Any, **options: Any) -> tuple[TieredCache, FakeClock, list[str]]:
    """A cache whose value of "k" is stale, and the loads made so far."""
    clock, loads = FakeClock(T0), ["v0"]
    cache = TieredCache(
        MemoryTier(ttl=10, stale_while_revalidate=1000, jitter=0), clock=clock, refresh=refresh, **options
    )
    cache.get_or_load("k", lambda: "v0")
    clock.advance(11)
    return cache, clock, loads


def loader(loads: list[str]) -> Any:
    def load() -> str:
        loads.append(f"v{len(loads)}")
        return loads[-1]

    return load


def test_work_is_done_in_order_and_once(caplog: pytest.LogCaptureFixture) -> None:
    """What it puts off is done too. What that puts off waits for the next run, so that a run ends, which the log says."""
    counts = Counters()
    work, done = Deferred(counts), []

    def again() -> None:
        done.append("again")
        work.submit(again)

    work.submit(lambda: (done.append("a"), work.submit(lambda: done.append("of a"))))
    work.submit(lambda: done.append("b"))
    assert (0, ["a", "b", "of a"]) == (work.run(lambda: None), done)
    assert ([], 0) == (caplog.messages, counts["put_off"])
    work.submit(again)
    done.clear()
    for rounds in (2, 4):
        assert (1, ["again"] * rounds) == (work.run(lambda: None), done)
    told = "1 pieces of work wait for the next invocation: it was put off while other work was done"
    assert ([told] * 2, 2) == (caplog.messages, counts["put_off"])


@pytest.mark.usefixtures("on_lambda")
def test_what_a_load_puts_off_that_outlived_its_caller_is_done() -> None:
    """After the response too, though it comes in when all else is done."""
    cache, done, gate = TieredCache(), [], threading.Event()

    def slow() -> str:
        assert gate.wait(WAIT)
        cache.after_response(done.append, "loaded")
        return "v"

    with cache.invocation(lambda: WAIT, works_after_response=True):
        with pytest.raises(LoadTimeout):
            cache.get_or_load("k", slow, hard_timeout=0.01)
        cache.after_response(gate.set)
    assert 0 == cache.run_deferred(lambda: WAIT)
    assert ["loaded"] == done


def test_no_work_is_begun_when_the_time_is_up(caplog: pytest.LogCaptureFixture) -> None:
    """It waits, in its order, and that is counted and said."""
    counts, time = Counters(), Time(2.5)
    work, done = Deferred(counts), []
    for number in range(5):
        work.submit(lambda number=number: (done.append(number), time.spend(1)))
    assert (2, [0, 1, 2]) == (work.run(time), done)
    assert 1 == counts["put_off"]
    assert ["2 pieces of work wait for the next invocation: there is no time left"] == caplog.messages
    time.left = 10
    assert (0, [0, 1, 2, 3, 4]) == (work.run(time), done)
    assert 1 == counts["put_off"]


@pytest.mark.parametrize("left", [0.2, 60.0, 1e300])
def test_work_that_outlives_the_time_is_told_while_it_runs(left: float, caplog: pytest.LogCaptureFixture) -> None:
    """Not afterwards, when the container may be gone; and only then."""
    work, time, late = Deferred(Counters()), Time(left), left < 1

    def begin() -> None:
        time.left = 0.05 if late else left
        assert not late or poll(lambda: caplog.messages, seconds=WAIT)

    for piece in (begin, list, list):
        work.submit(piece)
    work.run(time)
    said = (
        "work that was put off still runs, and the time is up: if that is the container's end, "
        "it is lost, and 2 pieces that wait behind it are never done"
    )
    assert [said] * late == caplog.messages
    assert poll(lambda: "tiered_cache-watch" not in {one.name for one in threading.enumerate()}, seconds=WAIT)


def test_an_invocation_that_begins_beside_the_work_gives_it_more_time(caplog: pytest.LogCaptureFixture) -> None:
    """What counts is the time that is left when the first is over."""
    work, asked, worker = Deferred(Counters()), threading.Event(), threading.current_thread()

    def remaining() -> float:
        if threading.current_thread() is worker:
            return 0.1
        asked.set()  # who watches looks once more
        return 60.0

    work.submit(lambda: asked.wait(WAIT))
    work.run(remaining)
    assert asked.is_set()
    assert [] == caplog.messages


def test_what_is_put_off_is_bounded_and_the_rest_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The giver is told, who counts it."""
    monkeypatch.setattr("tiered_cache._work_queue.MOST", 3)
    work = Deferred(Counters())
    for _ in range(3):
        work.submit(list)
    with pytest.raises(OverflowError, match="^3 pieces of work wait already"):
        work.submit(list)
    assert 3 == len(work)


@pytest.mark.parametrize("anywhere", ["on_lambda", None])
def test_work_sees_the_context_of_who_put_it_off(request: pytest.FixtureRequest, anywhere: str | None) -> None:
    """Tracing and log correlation go with it, to the end of the invocation as to a thread."""
    if anywhere:
        request.getfixturevalue(anywhere)
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("request")
    variable.set("first")
    cache, seen = TieredCache(), queue.Queue[str]()
    with cache.invocation():
        cache.after_response(lambda: seen.put(variable.get()))
        variable.set("second")
    assert "first" == seen.get(timeout=WAIT)


@pytest.mark.usefixtures("on_lambda")
def test_after_response_is_done_at_the_end_of_the_invocation_where_nobody_works_after_it() -> None:
    """With its arguments; also when the handler raised. What is given before the first invocation waits for it."""
    cache, done = TieredCache(), []
    cache.after_response(done.append, 0)

    @lambda_handler(cache)
    def handler(event: Any, context: Any) -> None:
        cache.after_response(lambda *given, **named: done.append((given, named)), 1, two=2)
        assert [] == done
        assert 2 == cache.stats().work.waiting
        raise KeyError

    with pytest.raises(KeyError):
        handler({}, None)
    assert [0, ((1,), {"two": 2})] == done
    assert (2, 2, 0, 0, 0, 0) == tuple(cache.stats().work)


@pytest.mark.usefixtures("on_lambda")
def test_who_promised_works_after_the_response() -> None:
    """Not at the end of the invocation, whose values are gone, but in the time that is then left."""
    cache, done = TieredCache(), []
    with cache.invocation(lambda: 3.0, works_after_response=True):
        cache.after_response(lambda: done.append(cache._invocation.remaining()))
    assert [] == done
    assert 0 == cache.run_deferred(lambda: 1.5)
    assert [1.5] == done
    assert cache._invocation.remaining() is None


def test_elsewhere_a_thread_does_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads go on there; on a Managed Instance too."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "lambda-managed-instances")
    cache, done = TieredCache(), threading.Event()
    with cache.invocation():
        cache.after_response(done.set)
        assert done.wait(WAIT)


@pytest.mark.usefixtures("on_lambda")
def test_failing_work_is_counted_and_the_rest_is_done(caplog: pytest.LogCaptureFixture) -> None:
    """Its text may hold a value: the log names its kind alone."""
    cache, done = TieredCache(), []

    def fail() -> None:
        raise ValueError("secret")

    with cache.invocation():
        cache.after_response(fail)
        cache.after_response(done.append, 1)
    assert [1] == done
    assert (2, 2, 1) == tuple(cache.stats().work)[:3]
    assert "deferred work failed: ValueError" in caplog.messages
    assert "secret" not in caplog.text


async def _coroutine() -> None:
    raise AssertionError


async def _async_generator() -> Any:
    yield None


class _Sender:
    async def __call__(self) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("work", "kind"),
    [
        (functools.partial(_coroutine), "coroutine"),
        (lambda: _coroutine(), "coroutine"),
        (_Sender(), "coroutine"),
        (lambda: (number for number in "ab"), "generator"),
        (lambda: _async_generator(), "async_generator"),
    ],
)
@pytest.mark.usefixtures("on_lambda")
def test_work_that_gives_what_somebody_would_have_to_run_has_failed(
    work: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Seen when it is called, where it could not be seen before; what can be iterated but has run has not failed."""
    cache = TieredCache()
    with cache.invocation():
        cache.after_response(work)
        cache.after_response(iter, "ab")
    assert (2, 2, 1) == tuple(cache.stats().work)[:3]
    assert f"deferred work failed: it gave a {kind}, which nobody runs: pass a plain function" in caplog.messages


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError])
@pytest.mark.usefixtures("on_lambda")
def test_work_that_exits_or_was_cancelled_costs_no_response(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """It is failed work like any other; the rest is done. Only Ctrl-C is for the one who runs it."""
    cache, done = TieredCache(), []

    def leave(error: BaseException) -> None:
        raise error

    @lambda_handler(cache)
    def handler(event: Any, context: Any) -> str:
        cache.after_response(leave, event["error"])
        cache.after_response(done.append, 1)
        return "answer"

    assert ("answer", [1]) == (handler({"error": kind()}, None), done)
    assert (2, 2, 1) == tuple(cache.stats().work)[:3]
    assert f"deferred work failed: {kind.__name__}" in caplog.messages
    with pytest.raises(KeyboardInterrupt):
        handler({"error": KeyboardInterrupt()}, None)


@pytest.mark.parametrize("kind", [SystemExit, asyncio.CancelledError])
@pytest.mark.usefixtures("on_lambda")
def test_a_refresh_that_exits_or_was_cancelled_costs_no_invocation(kind: type[BaseException]) -> None:
    """The next one serves what it holds; the failure is counted, and there is a pause."""
    cache, _, loads = stale("next_invocation")

    def leave() -> str:
        loads.append("try")
        raise kind

    for _ in range(3):
        with cache.invocation():
            assert "v0" == cache.get_or_load("k", leave)
    assert (["v0", "try"], 1) == (loads, cache.stats().origin.refresh_failures)


@pytest.mark.usefixtures("on_lambda")
def test_a_second_invocation_that_is_refused_leaves_the_promise_of_the_first() -> None:
    """What is put off is not done before the response for that."""
    cache, done = TieredCache(), []
    with cache.invocation(works_after_response=True):
        with pytest.raises(RuntimeError, match="running already"), cache.invocation():
            raise AssertionError
        cache.after_response(done.append, 1)
    assert [] == done
    assert 0 == cache.run_deferred()
    assert [1] == done


@pytest.mark.usefixtures("on_lambda")
def test_work_beside_the_next_invocation_leaves_its_time_alone() -> None:
    """Whether that began before the work or meanwhile."""
    cache, inner = TieredCache(), []
    with cache.invocation(works_after_response=True):
        cache.after_response(lambda: inner.append(cache._invocation.remaining()))
    with cache.invocation(lambda: 3.0):
        cache.run_deferred(lambda: 60.0)
        assert ([3.0], 3.0) == (inner, cache._invocation.remaining())
    following = cache.invocation(lambda: 5.0)
    with cache.invocation(works_after_response=True):
        cache.after_response(following.__enter__)
    cache.run_deferred(lambda: 60.0)
    assert 5.0 == cache._invocation.remaining()
    following.__exit__(None, None, None)


@pytest.mark.usefixtures("on_lambda")
def test_a_refresh_that_outlives_its_soft_timeout_ends_before_the_container_is_frozen() -> None:
    """Nobody takes the stale value that it falls back on; the load goes on in a thread, and is waited for."""
    cache, _, loads = stale("after_response", soft_timeout=0.01)
    begun, gate = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert gate.wait(WAIT)
        loads.append("v1")
        return "v1"

    with cache.invocation(works_after_response=True):
        assert "v0" == cache.get_or_load("k", slow)
    working = threading.Thread(target=cache.run_deferred)
    working.start()
    assert begun.wait(WAIT)
    working.join(0.2)
    assert working.is_alive()
    gate.set()
    working.join(WAIT)
    assert ["v0", "v1"] == loads


@pytest.mark.usefixtures("on_lambda")
def test_what_was_never_run_is_reported_when_the_cache_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """Counted and said; a closed cache takes no work."""
    cache = TieredCache()
    with cache.invocation(works_after_response=True):
        cache.after_response(list)
    cache.close()
    cache.close()
    assert (0, 1) == (cache.stats().work.waiting, cache.stats().work.dropped)
    assert ["1 pieces of work that were put off are never done: the cache was closed"] == caplog.messages
    with pytest.raises(ClosedError):
        cache.after_response(list)


def test_what_threads_leave_undone_is_reported_when_the_cache_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    """What waits is not begun any longer; what runs goes on, if the process does."""
    cache, gate, begun, ended = TieredCache(), threading.Event(), threading.Semaphore(0), threading.Semaphore(0)

    def work() -> None:
        begun.release()
        assert gate.wait(WAIT)
        ended.release()

    for number in range(12):
        cache.after_response(work)
        assert number >= 4 or begun.acquire(timeout=WAIT)
    cache.close()
    assert [
        "8 pieces of work that were put off are never done: the cache was closed",
        "4 pieces of work still run in threads while the cache is closed, and end with the process",
    ] == caplog.messages
    gate.set()
    assert all(ended.acquire(timeout=WAIT) for _ in range(4))
    assert poll(lambda: cache.stats().work.done == 4, seconds=WAIT)
    assert poll(lambda: cache._carriers._threads.running() == 0, seconds=WAIT)
    stats = cache.stats().work
    assert (12, 4, 0, 8) == (stats.deferred, stats.done, stats.waiting, stats.dropped)


@pytest.mark.usefixtures("on_lambda")
def test_work_that_is_refused_is_counted_and_the_handler_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The response is worth more; the log says what is lost."""
    monkeypatch.setattr("tiered_cache._work_queue.MOST", 1)
    cache, done = TieredCache(), []
    with cache.invocation():
        cache.after_response(done.append, 1)
        cache.after_response(done.append, 2)
    assert [1] == done
    assert (2, 1, 1) == (cache.stats().work.deferred, cache.stats().work.done, cache.stats().work.dropped)
    assert any(message.startswith("work for after the response was refused") for message in caplog.messages)


def test_work_for_threads_is_counted_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a thread, and what was refused; all the rest is done."""
    monkeypatch.setattr("tiered_cache._work_queue.MOST", 3)
    cache, gate, begun, done = TieredCache(), threading.Event(), threading.Semaphore(0), threading.Semaphore(0)

    def work() -> None:
        begun.release()
        assert gate.wait(WAIT)
        done.release()

    for _ in range(4):
        cache.after_response(work)
        assert begun.acquire(timeout=WAIT)
    for _ in range(5):
        cache.after_response(work)
    stats = cache.stats().work
    assert (9, 3, 2) == (stats.deferred, stats.waiting, stats.dropped)
    gate.set()
    assert all(done.acquire(timeout=WAIT) for _ in range(7))
    assert 0 == cache.stats().work.waiting


@pytest.mark.parametrize("bad", [None, "text", 5])
def test_what_is_no_function_is_refused_at_once(bad: Any) -> None:
    """And a coroutine function, which nobody would await."""

    async def coroutine() -> None:
        pass

    with pytest.raises(TypeError, match="^after_response needs a plain function; got"):
        TieredCache().after_response(bad)
    with pytest.raises(TypeError, match="after_response got a coroutine function"):
        TieredCache().after_response(coroutine)


@pytest.mark.usefixtures("on_lambda")
def test_a_stale_hit_is_answered_at_once_and_refreshed_after_the_response() -> None:
    """Once, however often it is hit; a freeze of an hour in between does not owe it twice."""
    cache, clock, loads = stale("after_response")
    with cache.invocation(lambda: 3.0, works_after_response=True):
        for _ in range(3):
            assert ("v0", Reason.REVALIDATING) == (
                (answer := cache.get_entry_or_load("k", loader(loads))).value,
                answer.reason,
            )
    clock.advance(900)
    with cache.invocation(lambda: 3.0, works_after_response=True):
        assert "v0" == cache.get_or_load("k", loader(loads))
    assert ["v0"] == loads
    assert (1, 1) == (cache.stats().origin.refreshes, cache.stats().work.waiting)
    cache.run_deferred(lambda: 2.0)
    assert ["v0", "v1"] == loads
    assert "v1" == cache.get_or_load("k", loader(loads))


@pytest.mark.parametrize("refresh", ["after_response", "next_invocation"])
@pytest.mark.usefixtures("on_lambda")
def test_where_nobody_marks_invocations_nothing_waits_for_one(
    refresh: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the decorator was forgotten: the refresh is done inline; work of one's own waits, and the log says for what."""
    monkeypatch.setattr("tiered_cache._log._SAID", set())
    cache, _, loads = stale(refresh)
    assert "v1" == cache.get_or_load("k", loader(loads))
    assert ([], 0) == (caplog.messages, cache.stats().work.waiting)
    for _ in range(2):
        cache.after_response(loads.append, "sent")
    said = "work was put off before any invocation: it waits for one that lambda_handler(cache) marks"
    assert ([said], 2) == (caplog.messages, cache.stats().work.waiting)
    with cache.invocation():
        pass
    assert ["v0", "v1", "sent", "sent"] == loads


@pytest.mark.usefixtures("on_lambda")
def test_auto_refreshes_after_the_response_where_that_was_asked_for_and_else_inline() -> None:
    """What is asked for is the promise to work then."""
    cache, _, loads = stale("auto")
    with cache.invocation(lambda: 3.0, works_after_response=True):
        assert "v0" == cache.get_or_load("k", loader(loads))
    assert ["v0"] == loads
    cache, _, loads = stale("auto")
    with cache.invocation(lambda: 3.0):
        assert "v1" == cache.get_or_load("k", loader(loads))


@pytest.mark.usefixtures("on_lambda")
def test_the_next_invocation_refreshes_before_its_handler_runs() -> None:
    """The one that met the stale value is not delayed at all."""
    cache, _, loads = stale("next_invocation")
    with cache.invocation(lambda: 3.0):
        assert "v0" == cache.get_or_load("k", loader(loads))
    assert ["v0"] == loads
    with cache.invocation(lambda: 3.0):
        assert ["v0", "v1"] == loads
        assert "v1" == cache.get_or_load("k", loader(loads))


@pytest.mark.usefixtures("on_lambda")
def test_what_an_invocation_takes_over_leaves_it_half_of_its_time() -> None:
    """The rest waits for the one after it."""
    cache, clock, _ = stale("next_invocation")
    loads: list[str] = []
    deadline = [0.0]

    def slow(key: str) -> Any:
        def load() -> str:
            loads.append(key)
            clock.advance(1)
            return key

        return load

    def left() -> float:
        return deadline[0] - clock()

    for key in "abcd":
        cache.get_or_load(key, lambda: "old")
    clock.advance(11)
    for expected in ("", "ab", "abcd"):
        deadline[0] = clock() + 4
        with cache.invocation(left):
            assert expected == "".join(loads)
            if not expected:
                for key in "abcd":
                    assert "old" == cache.get_or_load(key, slow(key))


@pytest.mark.usefixtures("on_lambda")
def test_the_counters_of_work_add_up() -> None:
    """Pieces that were given are done, failed ones too; refreshes are among what waits and what is never run."""
    cache, _, loads = stale("after_response")
    with cache.invocation(works_after_response=True):
        cache.after_response(lambda: 1 / 0)
        cache.after_response(list)
    assert 0 == cache.run_deferred()
    with cache.invocation(works_after_response=True):
        assert "v0" == cache.get_or_load("k", loader(loads))
        cache.after_response(list)
    work, origin = cache.stats().work, cache.stats().origin
    assert (3, 2, 1, 2, 0) == (work.deferred, work.done, work.failures, work.waiting, work.dropped)
    assert (1, 0) == (origin.refreshes, origin.refresh_failures)
    cache.close()
    work = cache.stats().work
    assert (3, 2, 1, 0, 2) == (work.deferred, work.done, work.failures, work.waiting, work.dropped)


@pytest.mark.usefixtures("on_lambda")
def test_a_refresh_that_has_no_time_is_owed_still() -> None:
    """It is not begun, and done after a later invocation."""
    cache, _, loads = stale("after_response")
    with cache.invocation(lambda: 3.0, works_after_response=True):
        cache.get_or_load("k", loader(loads))
    assert 1 == cache.run_deferred(lambda: 0.0)
    assert (["v0"], 1) == (loads, cache.stats().work.put_off)
    assert 0 == cache.run_deferred(lambda: 1.0)
    assert ["v0", "v1"] == loads


@pytest.mark.usefixtures("on_lambda")
def test_after_a_refresh_that_failed_there_is_a_pause_that_grows() -> None:
    """A denial too, though no stale value covers for one: an origin that denies is not asked after each response."""
    cache, clock, _ = stale("after_response", error_backoff=10)
    tries: list[float] = []

    def denied() -> str:
        tries.append(clock())
        raise PermissionError

    for _ in range(8):
        with cache.invocation(lambda: 3.0, works_after_response=True):
            assert "v0" == cache.get_or_load("k", denied)
        cache.run_deferred(lambda: 1.0)
        clock.advance(5)
    assert 7.5 <= tries[1] - tries[0] <= 10
    assert 15 <= tries[2] - tries[1] <= 20
    assert 3 == len(tries) == cache.stats().origin.refresh_failures


@pytest.mark.usefixtures("on_lambda")
@pytest.mark.parametrize(
    "mend",
    [
        lambda cache: cache.get_or_load("k", lambda: "new", force_refresh=True),
        lambda cache: cache.get_many_or_load(["k"], lambda keys: {"k": "new"}, force_refresh=True),
        lambda cache: cache.set("k", "new"),
        lambda cache: (cache.delete("k"), cache.get_or_load("k", lambda: "new")),
    ],
    ids=["load", "many", "set", "delete"],
)
def test_the_pause_after_a_refresh_that_failed_ends_with_what_succeeds(mend: Any) -> None:
    """Whoever does: the next refresh is not put off by what failed before."""
    cache, clock, loads = stale("next_invocation", error_backoff=60)

    def denied() -> str:
        raise PermissionError

    for _ in range(2):
        with cache.invocation():
            assert "v0" == cache.get_or_load("k", denied)
    assert 1 == cache.stats().origin.refresh_failures
    mend(cache)
    clock.advance(11)
    for expected in ("new", "v1"):
        with cache.invocation():
            assert expected == cache.get_or_load("k", loader(loads))


@pytest.mark.usefixtures("on_lambda")
def test_loads_that_go_on_in_threads_end_before_the_container_is_frozen() -> None:
    """Those that outlived a soft_timeout: whoever works after the response waits for them, in the time that is left."""
    cache, _, _ = stale("auto")
    gate = threading.Event()

    def slow() -> str:
        assert gate.wait(WAIT)
        return "v1"

    with cache.invocation(lambda: 30.0, works_after_response=True):
        answer = cache.get_entry_or_load("k", slow, soft_timeout=0.01, force_refresh=True)
        assert ("v0", Reason.LOAD_SLOW) == (answer.value, answer.reason)
    threading.Timer(0.05, gate.set).start()
    cache.run_deferred(lambda: WAIT)
    assert "v1" == cache.get_or_load("k", slow)


@pytest.mark.parametrize("left", [0.3, None])
@pytest.mark.usefixtures("on_lambda")
def test_a_load_that_hangs_is_waited_for_once(
    left: float | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither is one that begins beside it, as the next key of an origin that hangs; when it has ended, others are again."""
    monkeypatch.setattr(module, "LONGEST", 0.3 if left is None else WAIT)
    cache, gate, waited = TieredCache(MemoryTier(ttl=60), hard_timeout=0.01), threading.Event(), []
    waits = Flight.wait

    def wait(flight: Flight[Any], limit: float | None) -> bool:
        waited.append(flight.key)
        return waits(flight, limit)

    def invocation(key: str) -> None:
        waited.clear()
        with cache.invocation(works_after_response=True), pytest.raises(LoadTimeout):
            cache.get_or_load(key, lambda: gate.wait(WAIT))
        asked = len(waited)  # by the caller itself
        assert 0 == cache.run_deferred(None if left is None else lambda: left)
        del waited[:asked]

    monkeypatch.setattr(Flight, "wait", wait)
    for key, expected in (("hangs", ["hangs"]), ("hangs", []), ("other", [])):
        invocation(key)
        assert expected == waited
    (told,) = [message for message in caplog.messages if "outlived" in message]
    assert told.startswith("1 loads that outlived their callers still go on, and are waited for no longer")
    gate.set()
    assert poll(lambda: not cache._reads.flights.busy("hangs") and not cache._reads.flights.busy("other"), seconds=WAIT)
    gate.clear()
    invocation("third")
    assert ["third"] == waited
    gate.set()


# The handler.


class App:
    """A handler that is an object, as Mangum's are."""

    def __init__(self, cache: TieredCache) -> None:
        self.cache = cache

    def __call__(self, event: Any, context: Any) -> tuple[Any, float | None]:
        return event, self.cache._invocation.remaining()


class AsyncApp:
    async def __call__(self, event: Any, context: Any) -> None:
        pass


def test_a_handler_may_be_any_callable() -> None:
    """An object, a partial, a decorator that is a class; and a method, called in whatever way."""
    cache = TieredCache()
    context = SimpleNamespace(get_remaining_time_in_millis=lambda: 3300)

    class Service:
        @lambda_handler(cache)
        def handler(self, event: Any, context: Any) -> Any:
            assert isinstance(self, Service)
            return App(cache)(event, context)

        app = functools.partialmethod(handler)

    decorate = lambda_handler(cache)
    partial = functools.partial(lambda app, event, context: app(event, context), App(cache))
    for handler in (decorate(App(cache)), decorate(partial), Service().handler, Service().app):
        assert ({"a": 1}, pytest.approx(3.0)) == handler({"a": 1}, context)
    for by_name in (decorate(App(cache)), decorate(partial), Service().handler):
        assert ({"a": 1}, pytest.approx(3.0)) == by_name({"a": 1}, context=context)
        assert ({"a": 1}, pytest.approx(3.0)) == by_name(event={"a": 1}, context=context)
    assert cache is decorate(App(cache)).__wrapped__.cache


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (None, r"^lambda_handler needs a handler that can be called with \(event, context\); got None"),
        ({"a": 1}, r"^lambda_handler needs a handler .*; got an object of type dict"),
        (App, r"^lambda_handler needs a handler .*; got the class App itself"),
        (AsyncApp(), "^lambda_handler got a coroutine function"),
        (functools.partial(functools.partial(_coroutine)), "^lambda_handler got a coroutine function"),
        (functools.partial(AsyncApp()), "^lambda_handler got a coroutine function"),
    ],
)
def test_what_is_no_handler_is_refused_at_once(bad: Any, said: str) -> None:
    """At import, not in each invocation."""
    with pytest.raises(TypeError, match=said):
        lambda_handler(TieredCache())(bad)


# No load that cannot end (F62).


@pytest.mark.parametrize("left", [0.0, -5.0])
def test_without_time_no_load_is_begun(left: float) -> None:
    """What is stale is served; where there is nothing, the error says why."""
    cache, clock, loads = stale("inline")
    clock.advance(2000)  # past all windows: nothing may be served
    with cache.invocation(lambda: left), pytest.raises(LoadTimeout, match="^no load was begun: the invocation has no"):
        cache.get_or_load("k", loader(loads))
    cache, _, loads = stale("inline")
    with cache.invocation(lambda: left):
        answer = cache.get_entry_or_load("k", loader(loads))
    assert ("v0", True, Reason.NO_TIME) == (answer.value, answer.stale, answer.reason)
    assert (["v0"], 1) == (loads, cache.stats().origin.too_late)


def test_a_load_that_took_longer_last_time_is_not_begun_while_something_can_be_served() -> None:
    """With more time left it is, and where nothing can be served it is tried."""
    clock, loads = FakeClock(T0), ["v0"]
    cache = TieredCache(MemoryTier(ttl=10, stale_if_error=1000, jitter=0), clock=clock, refresh="inline")

    def slow() -> str:
        clock.advance(3)
        return "slow"

    cache.get_or_load("k", slow)
    clock.advance(20)
    with cache.invocation(lambda: 2.9):
        answer = cache.get_entry_or_load("k", loader(loads))
        assert ("slow", Reason.NO_TIME) == (answer.value, answer.reason)
        assert "v1" == cache.get_or_load("other", loader(loads))
        assert "v2" == cache.get_or_load("k", loader(loads), stale_ok=False)
    clock.advance(20)
    with cache.invocation(lambda: 3.1):
        assert "v3" == cache.get_or_load("k", loader(loads))


def test_many_keys_without_time_are_served_stale_or_not_at_all() -> None:
    """The batch loader is not begun for those that can be served."""
    clock = FakeClock(T0)
    cache = TieredCache(MemoryTier(ttl=10, stale_if_error=1000, jitter=0), clock=clock, refresh="inline")
    cache.get_many_or_load(["a", "b"], lambda keys: dict.fromkeys(keys, "old"))
    clock.advance(20)
    with cache.invocation(lambda: 0.0):
        assert {"a": "old", "b": "old"} == cache.get_many_or_load(["a", "b"], lambda keys: 1 / 0)  # type: ignore[arg-type, return-value]
        with pytest.raises(LoadTimeout):
            cache.get_many_or_load(["a", "c"], lambda keys: dict.fromkeys(keys, "new"))


@pytest.mark.usefixtures("on_lambda")
def test_a_key_among_many_is_refreshed_once() -> None:
    """However many calls have met it stale, with whatever other keys; what has come in meanwhile is not loaded again."""
    clock, loads = FakeClock(T0), []
    l1 = MemoryTier(ttl=10, stale_while_revalidate=1000, jitter=0)
    cache = TieredCache(l1, clock=clock, refresh="after_response")

    def batch(keys: Any) -> dict[str, int]:
        loads.append(tuple(sorted(keys)))
        return dict.fromkeys(keys, len(loads))

    cache.get_many_or_load(["a", "b", "c", "d"], batch)
    clock.advance(11)
    with cache.invocation(works_after_response=True):
        assert {"a": 1, "b": 1} == cache.get_many_or_load(["a", "b"], batch)
        assert {"a": 1, "c": 1, "d": 1} == cache.get_many_or_load(["a", "c", "d"], batch)
        assert 1 == cache.get_or_load("a", lambda: batch(["a"])["a"])
        cache.set("c", 0)
    assert 0 == cache.run_deferred()
    assert [("a", "b"), ("d",)] == loads[1:]
    assert {"a": 2, "b": 2, "c": 0, "d": 3} == cache.get_many_or_load(["a", "b", "c", "d"], batch)


@pytest.mark.usefixtures("on_lambda")
def test_the_pause_after_a_refresh_that_failed_holds_for_each_of_its_keys() -> None:
    """With whatever other keys it is asked for next."""
    clock, asked = FakeClock(T0), []
    l1 = MemoryTier(ttl=10, stale_while_revalidate=1000, jitter=0)
    cache = TieredCache(l1, clock=clock, refresh="after_response", error_backoff=100)

    def denied(keys: Any) -> dict[str, int]:
        asked.extend(keys)
        raise PermissionError

    cache.get_many_or_load(["hot", "1", "2", "3"], lambda keys: dict.fromkeys(keys, 1))
    clock.advance(11)
    for name in "123":
        with cache.invocation(works_after_response=True):
            assert {"hot": 1, name: 1} == cache.get_many_or_load(["hot", name], denied)
        cache.run_deferred()
    assert ["hot", "1", "2", "3"] == asked


# The container.


def test_the_container_is_counted_from_its_first_invocation() -> None:
    """Cold start, invocations, age, time between them, and a thaw after a minute."""
    clock = FakeClock(T0)
    cache = TieredCache(clock=clock)
    before = cache.stats().container
    assert (0, 0, 0, 0.0, 0.0, 0) == tuple(before)[1:]
    clock.advance(100)  # initialised ahead of need
    for pause in (5.0, 59.0, 60.0):
        with cache.invocation():
            clock.advance(1)
        clock.advance(pause)
    with cache.invocation():
        now = cache.stats().container
    assert before.id == now.id
    assert (1, 0, 4, 127.0, 124.0, 1) == tuple(now)[1:]
    assert now.id == TieredCache().stats().container.id


def test_a_copy_made_from_a_snapshot_is_a_container_of_its_own() -> None:
    """With another id and a cold start of its own; L1 is as old as it is."""
    clock = FakeClock(T0)
    cache = TieredCache(MemoryTier(ttl=1000, jitter=0), clock=clock)
    cache.get_or_load("k", lambda: "of the snapshot")
    before = cache.stats().container
    cache.before_snapshot()
    clock.advance(500)
    cache.after_restore()
    with cache.invocation():
        answer = cache.get_entry_or_load("k", lambda: "of the copy")
        assert ("of the snapshot", "l1", 500.0) == (answer.value, answer.tier, answer.age)
        assert "of the snapshot" == cache.get("k")
    after = cache.stats().container
    assert before.id != after.id
    assert (1, 1, 1, 0.0) == (after.cold_starts, after.restores, after.invocations, after.frozen)
    clock.advance(500)
    assert "of the copy" == cache.get_or_load("k", lambda: "of the copy")


@pytest.mark.usefixtures("on_lambda")
def test_what_waits_in_a_snapshot_is_told_and_each_copy_does_it(caplog: pytest.LogCaptureFixture) -> None:
    """With its first invocation, as every container does what was put off in its init phase."""
    cache, done = TieredCache(), []
    cache.before_snapshot()
    cache.after_response(done.append, "in the init phase")
    caplog.clear()
    cache.before_snapshot()
    assert ["1 pieces of work were put off before the snapshot: each copy of it will do them"] == caplog.messages
    cache.after_restore()
    with cache.invocation():
        assert [] == done
    assert ["in the init phase"] == done


@pytest.mark.parametrize("coherence", ["invocation", "ttl"])
def test_what_a_copy_holds_is_confirmed_by_l2_where_there_is_one(coherence: Any) -> None:
    """Before it is served, though L1's own time is not up."""
    clock = FakeClock(T0)
    l2 = InMemorySharedTier(ttl=1000, jitter=0)
    cache = TieredCache(MemoryTier(ttl=1000, jitter=0), l2, clock=clock, coherence=coherence)
    cache.get_or_load("k", lambda: "of the snapshot")
    cache.before_snapshot()
    clock.advance(500)
    cache.after_restore()
    for tier in ("l2", "l1"):
        answer = cache.get_entry_or_load("k", lambda: "of the copy")
        assert ("of the snapshot", tier) == (answer.value, answer.tier)


def test_a_cache_with_two_handlers_is_told_of_a_snapshot_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each copy is one container, and counts one restore."""
    snapshots = pytest.importorskip("snapshot_restore_py")
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start")
    cache, other = TieredCache(), TieredCache()
    for one in (cache, cache, other):
        lambda_handler(one)(lambda event, context: None)
    for function, args, _ in snapshots.get_after_restore():
        function(*args)
    assert (1, 1) == (cache.stats().container.restores, other.stats().container.restores)
