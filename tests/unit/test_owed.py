"""Owed work: carried out once, by whoever there is for it, and owed anew where it was lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

import tiered_cache._owed as module
from tiered_cache import ConfigurationError, MemoryTier, NotFound, TieredCache
from tiered_cache._backoff import Backoff
from tiered_cache._deferred import Deferred
from tiered_cache._owed import LOST_AFTER, Carriers, Owed, ThreadCarrier
from tiered_cache._stats import Counters
from tiered_cache.testing import FakeClock

WAIT = 60.0


class Kept:
    """A carrier that keeps the work until it is told."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def submit(self, work: Callable[[], None], /) -> None:
        self.work.append(work)


def owing(carrier: Any, counts: Counters) -> Owed:
    """The refreshes of a cache whose clock stands at 0."""
    return Owed(lambda: carrier, counts, lambda: 0.0, lambda: 0.0)


class Broken:
    def submit(self, work: Callable[[], None], /) -> None:
        raise OSError("secret")


def carriers() -> Carriers:
    counts = Counters()
    return Carriers(Deferred(counts), Deferred(counts))


def test_on_lambda_auto_is_inline_and_elsewhere_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread would be frozen with its container; a Managed Instance is not frozen. Who works after the response is best."""
    here = carriers()
    monkeypatch.delenv("AWS_LAMBDA_RUNTIME_API", raising=False)
    assert isinstance(here.chosen("auto")(), ThreadCarrier)
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    auto = here.chosen("auto")
    assert auto() is None
    here.works_after_response = True
    assert here.later is auto()
    here.works_after_response = False
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "lambda-managed-instances")
    assert isinstance(auto(), ThreadCarrier)
    assert here.chosen("inline")() is None
    following = here.chosen("next_invocation")
    assert following() is None  # nobody marks invocations, so that there would be no next one
    here.sees_invocations = True
    assert here.following is following()
    own = Kept()
    assert own is here.chosen(own)()


def test_what_is_for_after_the_response_is_put_off_where_threads_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere a thread does it, unless somebody promised to work then."""
    here = carriers()
    monkeypatch.delenv("AWS_LAMBDA_RUNTIME_API", raising=False)
    after = here.chosen("after_response")
    assert isinstance(after(), ThreadCarrier)
    here.works_after_response = here.sees_invocations = True
    assert here.later is after()
    here.works_after_response = False
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    assert here.later is after()
    here.sees_invocations = False
    assert after() is None
    assert here.later is here.for_later()  # for work that cannot be done at once


def test_threads_are_refused_where_they_would_be_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Lambda, when the cache is made; the text names what is allowed. Not on Managed Instances."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    with pytest.raises(ConfigurationError, match='^refresh="thread" means nothing on Lambda.* write "auto", "inline"'):
        TieredCache(refresh="thread")
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "lambda-managed-instances")
    TieredCache(refresh="thread").close()


def test_a_carrier_without_submit_is_refused() -> None:
    """The text lists the words and the interface."""
    with pytest.raises(ConfigurationError, match=r'^refresh must be "auto", .* or an object with submit\(work\)'):
        carriers().chosen(object())


def test_that_there_is_nothing_any_more_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is told of it but who asks next, and the next refresh has no pause before it."""
    counts, carrier = Counters(), Kept()
    owed = owing(carrier, counts)

    def refresh() -> Any:
        raise NotFound("gone")

    owed.owe("k", refresh, 0.0, 60.0)
    carrier.work.pop()()
    assert (0, False, "") == (counts["refresh_failures"], owed.holds("k", 0.0), caplog.text)


def test_inline_work_is_done_at_once_and_its_failure_is_the_callers() -> None:
    """Its answer is given back; nothing is owed afterwards, whether it went well or not."""
    counts = Counters()
    owed = owing(None, counts)
    assert "answer" == owed.owe("k", lambda: "answer", 0.0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ZeroDivisionError):
        owed.owe("k", lambda: 1 / 0, 0.0)  # type: ignore[arg-type, return-value]
    assert {} == owed._since
    assert (2, 0) == (counts["refreshes"], counts["refresh_failures"])


def test_work_is_owed_once_per_key_until_it_is_done() -> None:
    """Then it may be owed again."""
    carrier, counts, done = Kept(), Counters(), []
    owed = owing(carrier, counts)
    for _ in range(3):
        assert owed.owe("k", lambda: done.append("k"), 0.0) is None  # type: ignore[arg-type, return-value, func-returns-value]
    owed.owe("other", lambda: done.append("other"), 0.0)  # type: ignore[arg-type, return-value, func-returns-value]
    assert 2 == len(carrier.work)
    for work in carrier.work:
        work()
    assert ["k", "other"] == done
    owed.owe("k", lambda: done.append("again"), 1.0)  # type: ignore[arg-type, return-value, func-returns-value]
    assert 3 == len(carrier.work)
    assert 3 == counts["refreshes"]


def test_work_that_a_carrier_dropped_is_owed_anew_after_a_while() -> None:
    """Also when the clock has stepped back since."""
    carrier = Kept()
    owed = owing(carrier, Counters())
    for now, expected in ((100.0, 1), (100 + LOST_AFTER - 0.1, 1), (100 + LOST_AFTER, 2), (50.0, 3), (51.0, 3)):
        owed.owe("k", lambda: None, now)  # type: ignore[arg-type, return-value]
        assert expected == len(carrier.work)


@pytest.mark.parametrize(
    ("lambda_kind", "says", "is_in_time"),
    [
        (None, None, True),
        (None, False, False),
        ("lambda-managed-instances", None, True),
        ("on-demand", None, False),
        ("on-demand", True, True),
    ],
)
def test_the_deadline_of_an_invocation_is_a_carriers_where_it_would_be_frozen(
    monkeypatch: pytest.MonkeyPatch, lambda_kind: str | None, says: bool | None, *, is_in_time: bool
) -> None:
    """As with threads; unless the carrier says otherwise."""
    monkeypatch.delenv("AWS_LAMBDA_RUNTIME_API", raising=False)
    if lambda_kind is not None:
        monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
        monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", lambda_kind)
    carrier, clock = Kept(), FakeClock()
    if says is not None:
        carrier.in_its_own_time = says  # type: ignore[attr-defined]
    tier = MemoryTier(ttl=10, stale_while_revalidate=1000, jitter=0)
    cache = TieredCache(tier, clock=clock, refresh=carrier)
    cache.get_or_load("k", lambda: "old")
    clock.advance(11)
    with cache.invocation(lambda: 0.0):
        assert "old" == cache.get_or_load("k", lambda: "new")
        carrier.work.pop()()
    assert ("new" if is_in_time else "none") == cache.get("k", "none")
    assert (not is_in_time) == cache.stats().origin.too_late


def test_what_dropped_work_leaves_behind_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest keys are forgotten first."""
    monkeypatch.setattr(module, "MOST", 10)
    owed = owing(Kept(), Counters())
    for number in range(25):
        owed.owe(str(number), lambda: None, float(number))  # type: ignore[arg-type, return-value]
    assert [str(number) for number in range(15, 25)] == list(owed._since)


def test_a_carrier_that_raises_owes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """It is counted and logged without the error's text; the next stale hit tries again."""
    counts = Counters()
    owed = owing(Broken(), counts)
    for _ in range(2):
        assert owed.owe("k", lambda: None, 0.0) is None  # type: ignore[arg-type, return-value]
    assert (2, 2) == (counts["refreshes"], counts["refresh_failures"])
    assert ["the carrier of refreshes took no work: OSError"] * 2 == caplog.messages
    assert {} == owed._since


def test_a_refresh_that_fails_in_the_background_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """It leaves the carrier alone, and is not owed any longer."""
    carrier, counts = Kept(), Counters()
    owed = owing(carrier, counts)

    def fail() -> Any:
        raise ValueError("secret")

    owed.owe("k", fail, 0.0)
    carrier.work[0]()
    assert 1 == counts["refresh_failures"]
    assert ["a refresh in the background came to nothing: ValueError"] == caplog.messages
    assert {} == owed._since


def test_threads_come_and_go_with_the_work() -> None:
    """At most as many as were allowed, all work is done, and none stays."""
    carrier, lock, running, most, done = ThreadCarrier(threads=2), threading.Lock(), [0], [0], []
    gate, all_done = threading.Event(), threading.Event()

    def work() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        gate.wait(WAIT)
        with lock:
            running[0] -= 1
            done.append(1)
            if len(done) == 10:
                all_done.set()

    for _ in range(10):
        carrier.submit(work)
    gate.set()
    assert all_done.wait(WAIT)
    assert 1 <= most[0] <= 2
    idle(carrier)


def idle(carrier: ThreadCarrier) -> None:
    """Return once its threads have gone."""
    for thread in threading.enumerate():
        if thread.name == "tiered_cache-refresh":
            thread.join(WAIT)
    assert 0 == carrier._running


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_work_that_ends_its_thread_does_not_take_its_place_along() -> None:
    """SystemExit from a loader: later work finds a thread again."""
    carrier, done = ThreadCarrier(threads=1), threading.Event()

    def leave() -> None:
        raise SystemExit

    carrier.submit(leave)
    idle(carrier)
    carrier.submit(done.set)
    assert done.wait(WAIT)
    idle(carrier)


def test_a_thread_that_cannot_be_started_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error goes to who owes the work; later work is done."""
    carrier, done = ThreadCarrier(threads=1), threading.Event()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            carrier.submit(lambda: None)
    assert 0 == len(carrier)
    carrier.submit(done.set)
    assert done.wait(WAIT)
    idle(carrier)


def test_where_a_second_thread_cannot_be_started_the_first_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is refused that is then done."""
    carrier, gate, begun, done = ThreadCarrier(threads=2), threading.Event(), threading.Event(), threading.Event()
    carrier.submit(lambda: (begun.set(), gate.wait(WAIT)))  # type: ignore[arg-type, return-value]
    assert begun.wait(WAIT)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        carrier.submit(done.set)
    gate.set()
    assert done.wait(WAIT)
    idle(carrier)


def test_in_another_process_the_threads_of_the_first_do_not_count() -> None:
    """There is a place for a thread again, and the work of the first is not done twice."""
    carrier, gate, begun, done = ThreadCarrier(threads=1), threading.Event(), threading.Event(), threading.Event()
    carrier.submit(lambda: (begun.set(), gate.wait(WAIT)))  # type: ignore[arg-type, return-value]
    assert begun.wait(WAIT)
    carrier.submit(lambda: pytest.fail("the parent's own"))
    carrier.forked()
    carrier.submit(done.set)
    assert done.wait(WAIT)
    gate.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_after_a_fork_the_work_is_carried_by_threads_of_the_child() -> None:
    """Those of the parent did not come along."""
    carrier, gate, begun = ThreadCarrier(threads=1), threading.Event(), threading.Event()
    carrier.submit(lambda: (begun.set(), gate.wait(WAIT)))  # type: ignore[arg-type, return-value]
    assert begun.wait(WAIT)
    child = os.fork()
    if child == 0:
        done = threading.Event()
        carrier.submit(done.set)
        os._exit(0 if done.wait(WAIT) else 1)
    _, status = os.waitpid(child, 0)
    gate.set()
    idle(carrier)
    assert 0 == os.waitstatus_to_exitcode(status)


def test_a_back_off_grows_with_each_failure_and_ends_with_a_success() -> None:
    """1 s, 2 s, 4 s; after a success it begins anew."""
    backoff = Backoff(lambda: 1.0 - 1e-12)
    now = 1000.0
    for pause in (1.0, 2.0, 4.0):
        backoff.note("k", 1.0, now)
        assert backoff.holds("k", now)
        assert backoff.holds("k", now + pause * 0.99)
        assert not backoff.holds("k", now + pause)
        now += pause
    backoff.forget("k")
    backoff.forget("never failed")
    assert not backoff.holds("k", now)
    backoff.note("k", 1.0, now)
    assert not backoff.holds("k", now + 1.0)
    assert not backoff.holds("other", now)


def test_a_back_off_does_not_hold_in_the_past() -> None:
    """A clock that stepped back does not make it longer."""
    backoff = Backoff(lambda: 0.0)
    backoff.note("k", 1.0, 1000.0)
    assert not backoff.holds("k", 999.0)


def test_the_back_offs_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten first, which costs one more try."""
    monkeypatch.setattr("tiered_cache._backoff.MOST", 10)
    backoff = Backoff(lambda: 0.0)
    for number in range(25):
        backoff.note(str(number), 100.0, 0.0)
    assert [str(number) for number in range(15, 25)] == list(backoff._by_key)
