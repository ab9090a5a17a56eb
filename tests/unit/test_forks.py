"""A process that is forked while other threads are in the middle of things works, from its first call on."""

from __future__ import annotations

import os
import threading

import pytest

from tiered_cache import MemoryTier, TieredCache
from tiered_cache._l2.calls import Budget
from tiered_cache.testing import FakeClock, InMemorySharedTier

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]
WAIT = 60.0


def in_child(work: object) -> int:
    """Run `work` in a forked process, which has so many seconds; its exit code: 0 if it gave something true."""
    child = os.fork()
    if child == 0:
        threading.Timer(WAIT, os._exit, (7,)).start()  # in place of a hang
        os._exit(0 if work() else 1)  # type: ignore[operator]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def cache() -> TieredCache:
    return TieredCache(MemoryTier(ttl=60), InMemorySharedTier(ttl=600), refresh="thread")


def locks(cache: TieredCache) -> dict[str, object]:
    """Every lock of a cache's own."""
    reads = cache._reads
    owners = {
        "memory": cache._memory,
        "watch": cache._watch,
        "follower": cache._follower,
        "shared": cache._shared,
        "flights": reads.flights,
        "backoff": reads._backoff,
        "owed": reads._owed,
        "later": cache._carriers.later,
        "invocation": cache._invocation,
    }
    return {name: owner._lock for name, owner in owners.items()}


@pytest.mark.parametrize(
    "held", ["memory", "watch", "follower", "shared", "flights", "backoff", "owed", "later", "invocation"]
)
def test_a_lock_that_another_thread_held_is_free_in_the_child(cache: TieredCache, held: str) -> None:
    """Else the child's first call would wait for ever for a thread that it does not have."""
    cache.get_or_load("k", lambda: 1)
    lock, begun, gate = locks(cache)[held], threading.Event(), threading.Event()

    def hold() -> None:
        with lock:  # type: ignore[attr-defined]
            begun.set()
            gate.wait(WAIT)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(WAIT)

    def work() -> bool:
        cache.after_response(list)
        cache.delete("k")
        return bool(cache.get_or_load("k", lambda: 2) == 2 == cache.get_or_load("k", lambda: 3))

    try:
        assert 0 == in_child(work)
    finally:
        gate.set()
        thread.join(WAIT)
    cache.close()


def test_what_was_being_changed_is_not_relied_on(cache: TieredCache) -> None:
    """L1 is empty in a child that was forked in the middle of a change, and full in another."""
    cache.get_or_load("k", lambda: 1)
    assert 0 == in_child(lambda: cache.stats().l1.entries == 1)
    begun, gate = threading.Event(), threading.Event()

    def hold() -> None:
        with cache._memory._lock:
            begun.set()
            gate.wait(WAIT)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(WAIT)
    try:
        assert 0 == in_child(lambda: cache.stats().l1.entries == 0 and cache.get_or_load("k", lambda: 2) in (1, 2))
    finally:
        gate.set()
        thread.join(WAIT)


def test_a_load_of_the_parent_is_none_of_the_childs(cache: TieredCache) -> None:
    """Nobody would land it there."""
    begun, gate = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        gate.wait(WAIT)
        return "parent"

    thread = threading.Thread(target=cache.get_or_load, args=("k", slow))
    thread.start()
    assert begun.wait(WAIT)
    try:
        assert 0 == in_child(lambda: not cache._reads.flights.busy("k"))
    finally:
        gate.set()
        thread.join(WAIT)


def test_what_the_parent_owes_is_owed_anew_in_the_child() -> None:
    """By the parent's queue it is not done there, and no time would end the wait for it."""
    clock, loads = FakeClock(), ["v0"]
    tier = MemoryTier(ttl=10, stale_while_revalidate=10_000, jitter=0)
    cache = TieredCache(tier, refresh="next_invocation", clock=clock)

    def load() -> str:
        loads.append(f"v{len(loads)}")
        return loads[-1]

    with cache.invocation():
        cache.get_or_load("k", lambda: "v0")
        clock.advance(11)
        assert "v0" == cache.get_or_load("k", load)

    def work() -> bool:
        with cache.invocation():
            stale = cache.get_or_load("k", load)
        with cache.invocation():
            return bool(stale == "v0" and cache.get_or_load("k", load) == "v1")

    assert 0 == in_child(work)
    with cache.invocation():
        assert "v1" == cache.get_or_load("k", load)
    assert ["v0", "v1"] == loads


def test_a_child_may_have_an_invocation_of_its_own(cache: TieredCache) -> None:
    """Though it was forked within one of its parent, whose value it sees until then, and whose end it comes by."""

    def card(value: str) -> str:
        return cache.get_or_load("card", lambda: value, scope="invocation")

    def work() -> bool:
        with cache.invocation():
            own = card("the child's")
        return own == "the child's"

    with cache.invocation():
        assert "the parent's" == card("the parent's")
        assert 0 == in_child(lambda: card("another") == "the parent's" and work())
        assert "the parent's" == card("another")
    running = cache.invocation()
    running.__enter__()
    assert 0 == in_child(lambda: running.__exit__(None, None, None) is None and work())
    running.__exit__(None, None, None)


def test_what_a_child_puts_off_on_lambda_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends without an invocation of its own, as one of multiprocessing does, and nobody else would do it."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    clock, done = FakeClock(), []
    cache = TieredCache(MemoryTier(ttl=10, stale_while_revalidate=10_000, jitter=0), refresh="auto", clock=clock)
    cache.get_or_load("k", lambda: "old")
    clock.advance(11)

    def fail() -> None:
        raise ValueError

    def work() -> bool:
        before = cache.stats().work
        cache.after_response(done.append, "at once")
        cache.after_response(fail)
        work = cache.stats().work
        counts = [work.deferred - before.deferred, work.done, work.failures, work.waiting]
        return [["at once"], [2, 2, 1, 0], "new"] == [done, counts, cache.get_or_load("k", lambda: "new")]

    def work_with_invocations() -> bool:
        with cache.invocation():
            cache.after_response(done.append, "later")
            waited = not done
        return waited and ["later"] == done

    with cache.invocation(works_after_response=True):
        cache.after_response(done.append, "the parent's")
        assert 0 == in_child(work)
    assert 0 == in_child(work_with_invocations)
    assert 0 == cache.run_deferred()
    assert ["the parent's"] == done


def test_a_child_has_an_id_and_randomness_of_its_own(cache: TieredCache) -> None:
    """A name that two processes share tells nothing, and a jitter that they share is none."""
    identity, number = cache.stats().container.id, cache._uniform()
    assert 0 == in_child(lambda: cache.stats().container.id != identity and cache._uniform() != number)


def test_a_child_has_neither_the_deadline_nor_the_budget_of_its_parents_invocation() -> None:
    """A worker that is kept outlives it by far."""
    clock = FakeClock()
    shared = InMemorySharedTier(ttl=600)
    cache = TieredCache(MemoryTier(ttl=60), shared, refresh="inline", clock=clock)
    with cache.invocation(lambda: 0.0):
        assert 0 == in_child(lambda: cache.get_or_load("k", lambda: "v") == "v")


def test_the_budget_for_l2_of_the_parents_invocation_is_none_of_the_childs() -> None:
    """Else a worker that is kept would go without L2 for good."""
    budget = Budget(0.0)
    with budget as left:
        assert left <= 0.0
        assert 0 == in_child(lambda: budget.__enter__() > WAIT)
