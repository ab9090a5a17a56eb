"""A monotonic clock that stands still in a freeze, and the waits that are reckoned by it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tiered_cache.local import LocalLambda, ServiceUnavailable
from tiered_cache.local._lambda_clock import find_compiler

HANDLERS = Path(__file__).parent / "handlers"
WAIT = 60.0
"""Seconds that anything may take on a slow machine, if it is not what a test measures."""
FREEZE = 1.0
WAITS = ("sleep", "event", "condition", "lock", "select", "poll", "epoll", "socket", "timedwait", "clockwait")
TICK = 0.02
"""The coarse clock may be that late."""


def _why_not() -> str:
    if sys.platform != "linux":
        return "awslambdaric runs on Linux only"
    try:
        find_compiler()
    except ServiceUnavailable as error:
        return str(error)
    return ""


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "it can be built here")


def clocks(**options) -> LocalLambda:
    return LocalLambda("clocks.handler", directory=HANDLERS, **{"timeout": WAIT, "init_timeout": WAIT, **options})


def advance(fn: LocalLambda) -> tuple[dict[str, float], float]:
    """By how much each clock has gone on from one event to the next, with a freeze between them; and by how much at most
    one that stood still in it.
    """
    fn.invoke({})  # it is up
    fn.settle(WAIT)
    began = time.monotonic()
    before = fn.invoke({}).value["clocks"]
    fn.containers[0].wait_frozen(WAIT)
    time.sleep(FREEZE)
    after = fn.invoke({}).value["clocks"]
    beside_the_freeze = time.monotonic() - began - FREEZE
    return {name: after[name] - before[name] for name in before}, beside_the_freeze + TICK


def all_ended(fn: LocalLambda) -> dict[str, float]:
    """How long each of the handler's waits took, once all have ended."""
    for _ in range(200):
        if len(ended := fn.invoke({"sleep": 0.2}).value["ended"]) == len(WAITS):
            return ended
    raise AssertionError(f"some waits do not end: {ended}")


def test_the_monotonic_clocks_stand_still_and_the_others_do_not():
    """TTLs by time.monotonic() would be wrong on Lambda, and are wrong here."""
    with clocks(still_clock=True) as fn:
        for _ in range(2):  # pauses add up
            gone, most = advance(fn)
            assert all(0 <= gone[name] <= most for name in ("monotonic", "perf_counter", "raw", "coarse")), (gone, most)
            assert all(gone[name] >= FREEZE - TICK for name in ("wall", "boot")), gone


def test_without_it_every_clock_goes_on():
    """SIGSTOP stops no clock."""
    with clocks() as fn:
        gone, _ = advance(fn)
        assert all(seconds >= FREEZE - TICK for seconds in gone.values()), gone
        assert fn.invoke({}).value["preloaded"] == ""


def test_waits_end_by_the_clock_that_stood_still():
    """A wait that a freeze interrupts takes as long as it was to take, the freeze not counted, and never less."""
    with clocks(still_clock=True) as fn:
        fn.invoke({"wait": 1.5})
        fn.containers[0].wait_frozen(WAIT)
        time.sleep(2.0)
        ended = all_ended(fn)
        assert all(seconds >= 1.49 for seconds in ended.values()), (
            ended
        )  # what ends at the thaw is shorter by that clock


def test_waits_after_a_freeze_are_as_long_as_ever():
    """Their end lies in the past of the kernel's clock, but they do not return at once."""
    with clocks(still_clock=True) as fn:
        advance(fn)
        fn.invoke({"wait": 0.5})
        ended = all_ended(fn)
        assert all(seconds >= 0.49 for seconds in ended.values()), ended


def test_extensions_have_such_a_clock_of_their_own():
    """Each process's pauses are counted once."""
    extension = [sys.executable, "outside.py", "hear"]
    with clocks(still_clock=True, extensions=[extension]) as fn:
        gone, most = advance(fn)
        assert 0 <= gone["monotonic"] <= most


def test_without_a_compiler_the_error_says_so(monkeypatch):
    """Nothing is left running, and the text says what to install."""
    monkeypatch.setenv("PATH", "/no/such/folder")
    with pytest.raises(ServiceUnavailable, match="C compiler"):
        clocks(still_clock=True).start()
