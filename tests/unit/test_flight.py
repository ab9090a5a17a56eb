"""Single flight: one run per key, whatever arrives meanwhile, and no way to wait for ever."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest

from tiered_cache import LoadTimeout, MemoryTier, OriginError, ReentrantLoadError, TieredCache
from tiered_cache._flight import Flight, Flights, Limits
from tiered_cache._waits import WAITS

WAIT = 60.0
"""Seconds after which a thread that should have come is given up."""


def until(happened: Callable[[], bool]) -> None:
    """Return once that is so."""
    tick = threading.Event()
    for _ in range(int(WAIT / 0.002)):
        if happened():
            return
        tick.wait(0.002)
    raise AssertionError("it never happened")


def waiting(flights: Flights[Any], threads: int) -> None:
    """Return once that many threads wait for flights of these."""
    until(lambda: sum(flight in flights.under_way() for flight in list(WAITS.awaited.values())) >= threads)


def within(soft: float | None = None, hard: float | None = None) -> Limits:
    """The limits of a call that begins now."""
    return Limits(monotonic(), soft, hard)


def known(flight: Flight[Any]) -> Any:
    """What a caller may have who does not wait longer."""
    return flight.known


def run(flights: Flights[Any], *given: Any, **named: Any) -> tuple[Any, Flight[Any] | None]:
    """What came of it, and the flight that was joined."""
    result, flight, joined = flights.run(*given, **named)
    return result, flight if joined else None


class Runner:
    """Threads whose outcome, value or error, is kept."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []
        self.threads: list[threading.Thread] = []

    def start(self, work: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                self.outcomes.append(work())
            except BaseException as error:
                self.outcomes.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.threads.append(thread)

    def join(self) -> list[Any]:
        for thread in self.threads:
            thread.join(WAIT)
            assert not thread.is_alive()
        return self.outcomes


def test_a_thousand_threads_share_one_run() -> None:
    """All that ask while the work is under way get its result, and it runs once."""
    flights: Flights[object] = Flights()
    barrier, gate, runs = threading.Barrier(1000), threading.Event(), []
    result = object()

    def work(_: Flight[object]) -> object:
        runs.append(1)
        assert gate.wait(WAIT)
        return result

    def ask() -> tuple[object, Flight[object] | None]:
        barrier.wait(WAIT)
        return run(flights, "k", work)

    old = threading.stack_size(256 * 1024)
    try:
        runner = Runner()
        for _ in range(1000):
            runner.start(ask)
    finally:
        threading.stack_size(old)
    waiting(flights, 999)
    flight = flights._by_key["k"]
    gate.set()
    outcomes = runner.join()
    assert [1] == runs
    assert 1000 == sum(outcome[0] is result for outcome in outcomes)
    assert 999 == sum(joined is flight for _, joined in outcomes)
    assert 1 == sum(joined is None for _, joined in outcomes)
    assert {} == flights._by_key == WAITS.awaited


def test_many_threads_that_miss_the_same_key_load_it_once() -> None:
    """Through the cache: also who comes between another's miss and the end of its load does not load again."""
    cache = TieredCache(MemoryTier(ttl=60, sizer=len), refresh="inline")
    for round_ in range(50):
        barrier, loads = threading.Barrier(20), []

        def ask(key: str = str(round_), barrier: threading.Barrier = barrier, loads: list[int] = loads) -> str:
            barrier.wait(WAIT)
            return cache.get_or_load(key, lambda: loads.append(1) or "v")  # type: ignore[func-returns-value]

        with ThreadPoolExecutor(20) as pool:
            assert ["v"] * 20 == [future.result(WAIT) for future in [pool.submit(ask) for _ in range(20)]]
        assert [1] == loads


def test_a_failure_is_shared_by_all_who_wait() -> None:
    """Everybody gets the leader's very error, and the next caller tries anew."""
    flights: Flights[str] = Flights()
    gate, error = threading.Event(), ValueError("broken")

    def fail(_: Flight[str]) -> str:
        assert gate.wait(WAIT)
        raise error

    runner = Runner()
    for _ in range(10):
        runner.start(lambda: run(flights, "k", fail))
    waiting(flights, 9)
    gate.set()
    assert [error] * 10 == runner.join()
    assert ("fine", None) == run(flights, "k", lambda _: "fine")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_who_only_joined_does_not_get_the_leaders_interrupt(kind: type[BaseException]) -> None:
    """The leader's thread gets it; the others an OriginError that says what ended the load."""
    flights: Flights[str] = Flights()
    gate = threading.Event()

    def interrupted(_: Flight[str]) -> str:
        assert gate.wait(WAIT)
        raise kind("stop")

    runner = Runner()
    runner.start(lambda: run(flights, "k", interrupted))
    until(lambda: flights.busy("k"))
    runner.start(lambda: run(flights, "k", interrupted))
    waiting(flights, 1)
    gate.set()
    by_kind = {type(outcome): outcome for outcome in runner.join()}
    assert {kind, OriginError} == set(by_kind)
    assert f"the load that this call waited for was ended by {kind.__name__}" == str(by_kind[OriginError])


def test_a_loader_that_asks_for_its_own_key_is_told_so() -> None:
    """B27: an error instead of a deadlock; also when the load runs in a thread of its own, and when it is forced."""
    flights: Flights[str] = Flights()
    for options in ((), (within(hard=WAIT),)):
        with pytest.raises(
            ReentrantLoadError, match="^the loader of this key asks the cache for a key whose load waits for it"
        ):
            run(flights, "k", lambda _: run(flights, "k", lambda _: "never")[0], *options)
    with pytest.raises(ReentrantLoadError):
        run(flights, "k", lambda _: run(flights, "k", lambda _: "never", alone=True)[0])
    assert ("other", None) == run(flights, "k", lambda _: run(flights, "other", lambda f: f.key)[0])


@pytest.mark.parametrize("size", [2, 3])
def test_a_circle_of_loaders_over_threads_is_refused(size: int) -> None:
    """Each of the threads loads a key and asks for the next one's: one is told so, and the others get its error."""
    flights: Flights[str] = Flights()
    barrier = threading.Barrier(size)

    def load(number: int) -> Callable[[Flight[str]], str]:
        def work(_: Flight[str]) -> str:
            barrier.wait(WAIT)
            return run(flights, str((number + 1) % size), load(number + 1))[0]

        return work

    runner = Runner()
    for number in range(size):
        runner.start(lambda number=number: run(flights, str(number), load(number)))
    outcomes = runner.join()
    assert size == sum(isinstance(outcome, ReentrantLoadError) for outcome in outcomes)
    assert {} == flights._by_key == WAITS.awaited


def test_who_comes_after_a_detach_does_not_join() -> None:
    """What the detached flight brings is for those who waited before."""
    for detached in ("k", None):
        flights: Flights[str] = Flights()
        gate = threading.Event()
        runner = Runner()
        runner.start(lambda flights=flights, gate=gate: run(flights, "k", lambda _: str(gate.wait(WAIT))))
        until(lambda flights=flights: flights.busy("k"))
        flights.detach(detached)
        flights.detach("nobody's")
        assert not flights.busy("k")
        assert ("new", None) == run(flights, "k", lambda _: "new")
        gate.set()
        assert [("True", None)] == runner.join()


def test_a_detached_flight_does_not_end_the_one_that_took_its_place() -> None:
    """`alone` starts a flight beside one under way; the older one's end leaves it be."""
    flights: Flights[str] = Flights()
    old, new = threading.Event(), threading.Event()
    first, second = Runner(), Runner()
    first.start(lambda: run(flights, "k", lambda _: str(old.wait(WAIT))))
    until(lambda: flights.busy("k"))
    older = flights._by_key["k"]
    second.start(lambda: run(flights, "k", lambda _: str(new.wait(WAIT)), alone=True))
    until(lambda: flights._by_key["k"] is not older)
    old.set()
    first.join()
    assert flights.busy("k")
    new.set()
    second.join()
    assert not flights.busy("k")


def test_after_the_soft_limit_the_fallback_is_taken() -> None:
    """The caller gets it while the work goes on in its thread."""
    flights: Flights[str] = Flights()
    gate, set_up = threading.Event(), threading.Event()

    def work(flight: Flight[str]) -> str:
        flight.known = "instead"
        set_up.set()
        assert gate.wait(WAIT)
        return "late"

    runner = Runner()
    runner.start(lambda: run(flights, "k", work, within(hard=WAIT)))
    assert set_up.wait(WAIT)
    flight = flights._by_key["k"]
    assert ("instead", flight) == run(flights, "k", work, within(soft=0.001), fallback=known)
    assert ("instead", flight) == run(flights, "k", work, within(soft=0.001, hard=WAIT), fallback=known)
    assert ("instead", flight) == run(flights, "k", work, within(hard=0.001), fallback=known)
    gate.set()
    assert [("late", None)] == runner.join()


def test_without_a_fallback_the_soft_limit_waits_for_the_hard_one() -> None:
    """LoadTimeout says the limit, and that the work goes on; without a hard limit the result is waited for."""
    flights: Flights[str] = Flights()
    gate = threading.Event()
    with pytest.raises(
        LoadTimeout, match=r"^the load took longer than hard_timeout, 0\.02 s; it goes on, and its value"
    ):
        run(flights, "k", lambda _: str(gate.wait(WAIT)), within(soft=0.001, hard=0.02))
    runner = Runner()
    runner.start(lambda: run(flights, "k", lambda _: "never", within(soft=0.001)))
    waiting(flights, 1)
    flight = flights._by_key["k"]
    gate.set()
    assert [("True", flight)] == runner.join()


def test_work_that_ends_within_its_limits_is_as_without() -> None:
    """A soft limit of its own, a hard one, both, and a soft one that is no sooner than the hard one."""
    flights: Flights[str] = Flights()
    for soft, hard in ((WAIT, None), (None, WAIT), (1.0, WAIT), (WAIT, WAIT)):
        limits = within(soft, hard)
        assert ("k", None) == run(flights, "k", lambda flight: flight.key, limits)
        with pytest.raises(ZeroDivisionError):
            run(flights, "k", lambda _: str(1 / 0), limits)


def test_a_thread_that_cannot_be_started_ends_the_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets the error, and nobody waits for a flight that no one flies."""
    flights: Flights[str] = Flights()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            run(flights, "k", lambda _: "v", within(hard=1.0))
    assert {} == flights._by_key == WAITS.awaited
    assert ("v", None) == run(flights, "k", lambda _: "v", within(hard=WAIT))


def test_in_another_process_no_flight_is_joined() -> None:
    """The table is that of the process that made it."""
    flights: Flights[str] = Flights()
    gate = threading.Event()
    runner = Runner()
    runner.start(lambda: run(flights, "k", lambda _: str(gate.wait(WAIT))))
    until(lambda: flights.busy("k"))
    flights.forked()
    assert ("child's own", None) == run(flights, "k", lambda _: "child's own")
    gate.set()
    assert [("True", None)] == runner.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_while_a_load_is_under_way_leaves_a_cache_that_works() -> None:
    """The child does not wait for a load whose thread did not come along."""
    cache = TieredCache(MemoryTier(ttl=60, sizer=len), refresh="inline")
    gate, begun = threading.Event(), threading.Event()
    runner = Runner()
    runner.start(lambda: cache.get_or_load("k", lambda: begun.set() or str(gate.wait(WAIT))))  # type: ignore[func-returns-value]
    assert begun.wait(WAIT)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        cache.run_deferred()  # nor for all that the parent loads
        os._exit(0 if cache.get_or_load("k", lambda: "child's own", hard_timeout=WAIT) == "child's own" else 1)
    _, status = os.waitpid(child, 0)
    gate.set()
    assert ["True"] == runner.join()
    assert 0 == os.waitstatus_to_exitcode(status)


def test_a_circle_over_two_caches_is_told() -> None:
    """Each waits for a load of the other: one of the two gets an error, and neither hangs."""
    first, second = TieredCache(refresh="inline"), TieredCache(refresh="inline")
    both, found = threading.Barrier(2), []

    def ask(one: TieredCache, key: str, other: TieredCache, others_key: str) -> None:
        def load() -> Any:
            both.wait(WAIT)
            return other.get_or_load(others_key, lambda: "never asked")

        try:
            found.append(one.get_or_load(key, load))
        except ReentrantLoadError as error:
            found.append(type(error))

    threads = [
        threading.Thread(target=ask, args=(first, "x", second, "y"), daemon=True),
        threading.Thread(target=ask, args=(second, "y", first, "x"), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert [ReentrantLoadError] * 2 == found


def test_there_is_something_to_give_before_the_load_itself_has_begun() -> None:
    """A thread may get its turn late, and the caller's patience is over by then."""
    flights, gate = Flights[str](), threading.Event()
    assert ("old", None) == run(
        flights, "k", lambda _: str(gate.wait(WAIT)), within(soft=0.01, hard=WAIT), fallback=lambda _: "old"
    )
    gate.set()


def test_limits_are_those_of_the_call_and_not_of_each_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second flight, after one whose outcome was invalidated meanwhile, is waited for as long as the first has left."""
    flights, now, gate, never = Flights[str](), [1000.0], threading.Event(), threading.Event()
    monkeypatch.setattr("tiered_cache._flight.monotonic", lambda: now[0])

    def invalidated(flight: Flight[str]) -> str:
        assert gate.wait(WAIT)
        now[0] += 10 * WAIT
        flight.is_outdated = lambda: True
        return "old"

    leader, caller = Runner(), Runner()
    leader.start(lambda: run(flights, "k", invalidated))
    until(lambda: flights.busy("k"))
    caller.start(lambda: run(flights, "k", lambda _: str(never.wait(2 * WAIT)), Limits(now[0], hard=10 * WAIT)))
    waiting(flights, 1)
    gate.set()
    assert [("old", None)] == leader.join()
    (outcome,) = caller.join()
    assert isinstance(outcome, LoadTimeout)
    never.set()


def test_no_limit_is_too_long_to_wait_for() -> None:
    """A lock cannot be waited for as long as that."""
    for limits in (within(hard=1e12), within(soft=1e12), Limits(monotonic(), most=float("inf"))):
        assert ("v", None) == run(Flights[str](), "k", lambda _: "v", limits)
        assert all(seconds is None or seconds <= threading.TIMEOUT_MAX for seconds in [next(limits.waits(joined=True))])


@pytest.mark.parametrize("hard", [None, WAIT])
def test_who_has_no_patience_left_takes_what_becomes_known_later(hard: float | None) -> None:
    """Such as a stale value of which L2 tells the work when the soft limit is over already."""
    flights, asked, gate, told = Flights[str](), threading.Event(), threading.Event(), threading.Event()

    def work(flight: Flight[str]) -> str:
        assert asked.wait(WAIT)
        flight.known = "old"
        told.set()
        return str(gate.wait(WAIT))

    def fallback(flight: Flight[str]) -> str | None:
        known: str | None = flight.known
        asked.set()
        return known

    assert ("old", None) == run(flights, "k", work, within(0.001, hard), fallback=fallback)
    assert told.is_set()
    gate.set()
