"""The watch: wall-clock time, and how a step back of it is noticed."""

from __future__ import annotations

import os
import random
import sys
import time
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_cache import ClosedError
from tiered_cache._rules import SKEW
from tiered_cache._watch import Uniform, Watch
from tiered_cache.testing import FakeClock


def watch(clock: Any) -> tuple[Watch, list[float], list[float]]:
    steps: list[float] = []
    floors: list[float] = []
    return Watch(clock, steps.append, floors.append), steps, floors


def test_each_reading_becomes_the_moment_before_which_no_hit_is_plain() -> None:
    """`now()` gives the clock's time and tells the hit path."""
    clock = FakeClock(100.0)
    subject, steps, floors = watch(clock)
    assert 100.0 == subject.now()
    clock.advance(5)
    assert 105.0 == subject.now() == subject.last
    assert [100.0, 105.0] == floors
    assert [] == steps


@pytest.mark.parametrize("step", [-SKEW - 0.5, -30, -1e9])
def test_a_step_back_is_noticed_once_with_its_size(step: float, caplog: pytest.LogCaptureFixture) -> None:
    """Also if more time has passed since the last reading than was lost; one line is logged."""
    for passed in (0.0, 100.0):
        clock = FakeClock()
        subject, steps, _ = watch(clock)
        subject.now()
        clock.advance(passed)
        clock.step(step)
        subject.now()
        assert [-step] == pytest.approx(steps)
        clock.advance(1000)
        subject.now()
        assert 1 == len(steps)
    assert 2 == len(caplog.messages)
    assert caplog.messages[0].startswith("the wall clock stepped back by ")


def test_small_steps_add_up() -> None:
    """Each within the tolerance, together beyond it."""
    clock = FakeClock()
    subject, steps, _ = watch(clock)
    for _ in range(10):
        subject.now()
        clock.advance(10)
        clock.step(-0.4)
    subject.now()
    assert 3 == len(steps)
    assert all(SKEW < lost < SKEW + 0.4 for lost in steps)


def test_neither_a_freeze_nor_a_step_forward_is_a_step_back() -> None:
    """The wall clock alone goes on; a fast clock that is set right afterwards has then stepped back."""
    clock = FakeClock()
    subject, steps, _ = watch(clock)
    subject.now()
    clock.freeze(3600)
    subject.now()
    clock.step(60)
    subject.now()
    assert [] == steps
    clock.step(-60)
    subject.now()
    assert [60] == pytest.approx(steps)


def test_a_clock_without_a_monotonic_one_is_held_against_itself() -> None:
    """A reading well below the latest is a step back; less than was gone by since cannot be seen."""
    readings = iter([100.0, 99.5, 200.0, 150.0, 151.0])
    subject, steps, _ = watch(lambda: next(readings))
    for _ in range(5):
        subject.now()
    assert [50.0] == steps
    assert subject.steady() <= subject.steady()


def test_the_systems_clock_is_held_against_the_systems_monotonic_one() -> None:
    """`time.time` and `time.monotonic`; loads are timed by the latter."""
    subject, steps, _ = watch(time.time)
    before = time.monotonic()
    assert abs(time.time() - subject.now()) < 60
    assert before <= subject.steady() <= time.monotonic()
    subject.now()
    assert [] == steps


def test_a_load_is_timed_by_the_clock_that_no_correction_moves() -> None:
    """Steps and freezes do not count, the time of a running process does."""
    clock = FakeClock()
    subject, _, _ = watch(clock)
    started = subject.steady()
    clock.step(-500)
    clock.freeze(100)
    clock.advance(2)
    assert 2.0 == subject.steady() - started


def test_a_closed_watch_gives_no_time() -> None:
    """B40: the cache that it belongs to is closed."""
    subject, _, floors = watch(FakeClock())
    subject.closed = True
    with pytest.raises(ClosedError):
        subject.now()
    assert [] == floors
    assert -inf == subject.last


@given(st.lists(st.tuples(st.sampled_from(["advance", "freeze", "step"]), st.floats(0, 50)), max_size=30))
def test_what_goes_unnoticed_is_less_than_the_tolerance(events: list[tuple[str, float]]) -> None:
    """Without freezes: time lost and not reported never exceeds a second, however it was lost."""
    clock = FakeClock()
    subject, steps, _ = watch(clock)
    start = subject.now()
    true = 0.0
    for kind, amount in events:
        if kind == "advance":
            clock.advance(amount)
            true += amount
        elif kind == "step":
            clock.step(-amount)
        subject.now()
        wall = clock() - start
        assert true - wall - sum(steps) <= SKEW + 1e-3
        assert sum(steps) <= true - wall + 1e-3


def test_uniform_numbers_are_in_range_and_no_copy_of_the_modules() -> None:
    """They leave the state of `random` alone and differ between instances and after `renew`."""
    random.seed(5)
    state = random.getstate()
    one, other = Uniform(), Uniform()
    drawn = [one() for _ in range(100)]
    assert all(0 <= number < 1 for number in drawn)
    assert drawn[:3] != [other() for _ in range(3)]
    assert state == random.getstate()
    held = one._random
    one.renew()
    one()
    assert held is not one._random


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_draws_other_numbers() -> None:
    """Its jitter must not be its parent's."""
    uniform = Uniform()
    uniform()
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.write(write, repr(uniform()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    drawn = os.read(read, 100)
    os.close(read)
    os.close(write)
    assert drawn != repr(uniform()).encode()
