"""The circuit breaker."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tiered_cache._l2.breaker import FIRST_PAUSE, LONGEST_PAUSE, MISCONFIGURED_PAUSE, Breaker
from tiered_cache._l2.faults import MISCONFIGURED, Failure

NOW = 1_800_000_000.0
failures = st.sampled_from(list(Failure))


def opened(now: float = NOW) -> Breaker:
    breaker = Breaker()
    assert breaker.allows(now)
    assert breaker.failed(Failure.TIMEOUT, now)
    return breaker


def test_a_closed_breaker_allows_every_call() -> None:
    """Closed: no call is refused, and a success is nothing new."""
    breaker = Breaker()
    assert all(breaker.allows(NOW) for _ in range(3))
    assert not breaker.succeeded()
    assert breaker.state(NOW) == "closed"


def test_one_failure_opens_it() -> None:
    """After one failure all calls are refused until the pause is over."""
    breaker = opened()
    assert breaker.state(NOW) == "open"
    assert not breaker.allows(NOW)
    assert not breaker.allows(NOW + 0.99 * FIRST_PAUSE)
    assert breaker.state(NOW + FIRST_PAUSE) == "half-open"


def test_the_pause_begins_when_the_call_has_failed() -> None:
    """However long that took; whoever asks meanwhile by the time at which it began is refused, too."""
    breaker = Breaker()
    assert breaker.allows(NOW)
    assert breaker.failed(Failure.TIMEOUT, NOW, took=5.0)
    for later in (0.0, 4.0, 5.0, 5.99):
        assert breaker.state(NOW + later) == "open"
        assert not breaker.allows(NOW + later)
    assert breaker.allows(NOW + 6)
    assert not breaker.failed(Failure.TIMEOUT, NOW + 6, took=3.0)
    assert not breaker.allows(NOW + 10.99)
    assert breaker.allows(NOW + 11)


def test_a_clock_that_steps_back_ends_a_pause_that_began_late() -> None:
    """More is left than there was at first."""
    breaker = Breaker()
    assert breaker.allows(NOW)
    assert breaker.failed(Failure.TIMEOUT, NOW, took=5.0)
    assert not breaker.allows(NOW - 0.9)
    assert breaker.allows(NOW - 1.1)


def test_one_probe_at_a_time() -> None:
    """After the pause one call gets through, and the others wait for what it finds."""
    breaker = opened()
    now = NOW + FIRST_PAUSE
    assert [breaker.allows(now) for _ in range(3)] == [True, False, False]
    assert breaker.succeeded()
    assert not breaker.succeeded()
    assert [breaker.allows(now) for _ in range(3)] == [True, True, True]


def test_a_probe_that_never_reports_is_replaced() -> None:
    """A probe lost with its thread does not keep the breaker open for ever."""
    breaker = opened()
    assert breaker.allows(NOW + 1)
    assert not breaker.allows(NOW + 1.9)
    assert breaker.allows(NOW + 2)


def test_the_pause_doubles_up_to_a_limit() -> None:
    """Each failed probe doubles the pause, from FIRST_PAUSE up to LONGEST_PAUSE."""
    breaker, now = opened(), NOW
    for pause in (1, 2, 4, 8, 16, 30, 30):
        assert not breaker.allows(now + pause - 0.01)
        now += pause
        assert breaker.allows(now)
        assert not breaker.failed(Failure.TIMEOUT, now)
    assert breaker.allows(now + LONGEST_PAUSE)


def test_calls_that_fail_together_count_once() -> None:
    """Sixteen threads on a frozen server make one pause of the first length, not one of the longest."""
    breaker = Breaker()
    started = [NOW + i / 1000 for i in range(16)]
    assert all(breaker.allows(now) for now in started)
    assert [breaker.failed(Failure.TIMEOUT, now) for now in started] == [True] + [False] * 15
    assert breaker.allows(NOW + FIRST_PAUSE + 0.1)


def test_a_misconfiguration_pauses_for_long_and_is_news() -> None:
    """What only people can mend is tried once a minute, and said even where the breaker was open already."""
    for failure in MISCONFIGURED:
        breaker = opened()
        assert breaker.allows(NOW + 1)
        assert breaker.failed(failure, NOW + 1)
        assert not breaker.allows(NOW + MISCONFIGURED_PAUSE)
        assert breaker.allows(NOW + 1 + MISCONFIGURED_PAUSE)
        assert not breaker.failed(failure, NOW + 1 + MISCONFIGURED_PAUSE)


def test_half_open_lets_one_probe_through_at_once() -> None:
    """After a thaw the next call may try, whatever the pause; if it fails the pause goes on growing."""
    breaker = opened()
    breaker.half_open()
    assert breaker.state(NOW) == "half-open"
    assert [breaker.allows(NOW), breaker.allows(NOW)] == [True, False]
    breaker.failed(Failure.RESET, NOW)
    assert not breaker.allows(NOW + 1.5)
    assert breaker.allows(NOW + 2)


def test_half_open_leaves_a_closed_breaker_closed() -> None:
    """A thaw changes nothing where nothing was wrong."""
    breaker = Breaker()
    breaker.half_open()
    assert breaker.state(NOW) == "closed"


def test_a_call_that_finds_it_closed_after_all_is_allowed() -> None:
    """Who waited for the lock while another's success closed the breaker is no probe."""
    breaker = opened()

    class ClosedMeanwhile:
        def __enter__(self) -> None:
            breaker._pause = 0.0

        def __exit__(self, *_: object) -> None:
            pass

    breaker._lock = ClosedMeanwhile()
    assert [breaker.allows(NOW), breaker.allows(NOW)] == [True, True]
    assert breaker.state(NOW) == "closed"


@given(failures, st.floats(2, 1e9))
def test_a_clock_that_steps_back_ends_the_pause(failure: Failure, back: float) -> None:
    """However far the clock steps back, a probe gets through at once instead of waiting for the old time."""
    breaker = Breaker()
    breaker.failed(failure, NOW)
    assert breaker.allows(NOW - back)
    assert not breaker.allows(NOW - back)


@given(st.lists(st.tuples(st.sampled_from(["call", "success", "failure", "thaw"]), st.floats(0, 40), failures)))
def test_no_sequence_locks_it_or_lets_two_probes_through(steps: list[tuple[str, float, Failure]]) -> None:
    """Whatever happens, no two probes get through within a pause, and after two minutes one always does."""
    breaker, now, probe = Breaker(), NOW, None
    for step, seconds, failure in steps:
        now += seconds
        if step == "thaw":
            breaker.half_open()
            probe = None
        closed = breaker.state(now) == "closed"
        allowed = breaker.allows(now)
        assert allowed or not closed
        if allowed and not closed:
            assert probe is None or now - probe >= FIRST_PAUSE
            probe = now
        if allowed and step == "failure":
            breaker.failed(failure, now)
            probe = None
            assert not breaker.allows(now)
        elif allowed and step == "success":
            breaker.succeeded()
            probe = None
            assert breaker.state(now) == "closed"
    assert breaker.allows(now + 2 * MISCONFIGURED_PAUSE)


@given(st.lists(st.floats(-100, 100), min_size=1), failures)
def test_a_wandering_clock_locks_it_for_no_longer_than_a_pause(moves: list[float], failure: Failure) -> None:
    """Whatever the clock does meanwhile, standing still for a pause from any moment on is enough for a probe."""
    breaker, now = Breaker(), NOW
    for move in moves:
        now += move
        if breaker.allows(now):
            breaker.failed(failure, now)
    assert any(breaker.allows(now + later) for later in (0, 1.5 * MISCONFIGURED_PAUSE, 3 * MISCONFIGURED_PAUSE))
