"""The end of an invocation's time: a load that meets it, and loads that had better not be begun."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import redis
from functions.origin import Origin, WallClock, wait_until
from parts import HOUR, WAIT, ask, before, begin, clients, leases, told

from tiered_cache.local.awslambda import FunctionTimedOut

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from parts import Make, Record

    from tiered_cache.local import ValkeyServer

SHORT = 3.0
"""Of the invocation that is killed in mid-load, which has to come to its load in it."""
LONGEST_LEASE = 1000 * (SHORT - 0.3 + 1.0)
"""Milliseconds: the remaining time without the reserve, and a margin for the fill."""
RESERVE = 20.0
"""Long, so that a function that leaves no time for loads is not killed on a slow machine."""
WARM = [["get", "k"]]
"""In the init phase, so that the short invocation need not import and connect."""
SCRIPTS = ("eval", "evalsha")


@pytest.fixture
def origin(gates: Path) -> Origin:
    """Has "value" for the key k."""
    origin = Origin(gates)
    origin.put("k", "value")
    return origin


@contextmanager
def lasting(valkey: ValkeyServer) -> Iterator[None]:
    """The one lease that is held surely lasts until the end of this, and not much longer."""
    with redis.Redis(port=valkey.port) as admin:
        (lease,) = admin.scan_iter("tc1:*:lease")
        assert admin.pexpire(lease, 60_000)
        yield
        assert admin.pexpire(lease, 100)


# Killed in mid-load. (That no entry is torn by it, 500 times: tests/faults/test_processes.py, F61.)


@pytest.mark.fault("F61", "killed by the function's timeout in mid-load")
def test_a_container_that_is_killed_in_mid_load_leaves_a_lease_that_ends(
    function: Make, origin: Origin, valkey: ValkeyServer, record_property: Record
) -> None:
    """With its invocation's time; the next invocation, in a new process, waits for that and loads."""
    fn = function("steps.handler", before(valkey, INIT=WARM))
    origin.shut("k", 1)
    with pytest.raises(FunctionTimedOut):
        ask(fn, ["load", "k"], timeout=SHORT)
    left = leases(valkey)
    assert set(left) <= {"k"}
    assert all(milliseconds < LONGEST_LEASE for milliseconds in left.values())
    done = fn.invoke([["load", "k"]])
    after = told(done)
    assert [["value", "origin", "loaded"]] == after.answers
    assert (1, True, 1) == (done.container, done.cold, after.container["invocations"])
    first, second = origin.asked("k")
    assert first != second == done.pid
    assert {} == leases(valkey)
    record_property(
        "measured",
        f"leases left: {list(left.values())} ms; the next invocation had its value after {done.seconds:.2f} s",
    )


@pytest.mark.fault("F61", "killed by the function's timeout while others wait for its load")
def test_one_load_for_each_lease_though_its_holder_is_killed(
    function: Make, origin: Origin, valkey: ValkeyServer, record_property: Record
) -> None:
    """Of three containers one loads; once its lease has ended one of the others does, and both have the value."""
    fn = function("steps.handler", before(valkey, INIT=WARM), containers=3).start(3)
    origin.shut("k", 1)
    origin.shut("k", 2)
    holder = begin(fn, ["load", "k"], timeout=SHORT)
    origin.wait_asked("k", 1)
    with lasting(valkey):
        others = [begin(fn, ["load", "k"]) for _ in range(2)]
        with pytest.raises(FunctionTimedOut):
            holder.result(WAIT)
        wait_until(lambda: 2 == sum(client["cmd"] in SCRIPTS for client in clients(valkey)))  # they ask for the lease
    origin.wait_asked("k", 2)
    assert {"k"} == set(leases(valkey))
    origin.open("k", 2)
    answers = [told(one.result(WAIT)) for one in others]
    assert [[["value", "l2", "fresh"]], [["value", "origin", "loaded"]]] == sorted(one.answers for one in answers)
    assert [1, 1] == [one.origin["waited"] for one in answers]
    assert 2 == len(origin.asked("k"))
    record_property("measured", f"{len(origin.asked('k'))} loads under 2 leases, 2 of 3 callers with the value")


@pytest.mark.fault("F61", "killed by the function's timeout with a stale value about")
def test_nobody_who_has_a_stale_value_waits_for_the_dead(
    function: Make, gates: Path, origin: Origin, valkey: ValkeyServer
) -> None:
    """It is served while the lease lasts; when that has ended the next caller loads."""
    policy = before(valkey, INIT=WARM, L2={"ttl": "1h", "stale_if_error": "1d"})
    fn, other = function("steps.handler", policy), function("steps.handler", policy)
    ask(fn, ["load", "k"])
    WallClock(gates).go_ahead(2 * HOUR)
    origin.put("k", "new")
    origin.shut("k", 2)
    holder = begin(fn, ["load", "k"], timeout=SHORT)
    origin.wait_asked("k", 2)
    with lasting(valkey):
        with pytest.raises(FunctionTimedOut):
            holder.result(WAIT)
        assert [["value", "l2", "load_elsewhere"]] == ask(other, ["load", "k"]).answers
    wait_until(lambda: not leases(valkey))
    assert [["new", "origin", "loaded"]] == ask(other, ["load", "k"]).answers


# With little time left


@pytest.mark.fault("F62", "no time left beyond the reserve, and nothing held")
def test_no_load_is_begun_without_time(
    function: Make, origin: Origin, valkey: ValkeyServer, record_property: Record
) -> None:
    """LoadTimeout before the origin is asked, so that the handler can say so; the next invocation loads."""
    fn = function("steps.handler", before(valkey, INIT=WARM, HANDLER={"reserve": RESERVE}))
    late = ask(fn, ["spend", RESERVE - 0.1], ["load", "k"], timeout=RESERVE + 1)
    assert [None, "LoadTimeout"] == late.answers
    assert ([], 1) == (origin.asked("k"), late.origin["too_late"])
    assert {} == leases(valkey)
    assert [["value", "origin", "loaded"]] == ask(fn, ["load", "k"], timeout=2 * RESERVE).answers
    record_property("measured", f"0 loads, LoadTimeout; too_late {late.origin['too_late']}")


@pytest.mark.fault("F62", "less time left than the last load took")
def test_a_stale_value_is_served_at_once_without_time(
    function: Make, gates: Path, origin: Origin, valkey: ValkeyServer, record_property: Record
) -> None:
    """Whether none is left, or less than the last load took; with enough of it the value is loaded."""
    policy = {"ttl": "1h", "stale_if_error": "1d"}
    fn = function("steps.handler", before(valkey, L2=policy, HANDLER={"reserve": RESERVE}))
    origin.take("k", 0.5)
    ask(fn, ["load", "k"], timeout=2 * RESERVE)
    WallClock(gates).go_ahead(2 * HOUR)
    for left in (RESERVE - 0.1, RESERVE + 0.4):
        late = ask(fn, ["spend", left], ["load", "k"], timeout=RESERVE + 1)
        value, _, reason = late.answers[1]
        assert ("value", "no_time") == (value, reason)
    assert (1, 2) == (len(origin.asked("k")), late.origin["too_late"])
    assert [["value", "origin", "loaded"]] == ask(fn, ["load", "k"], timeout=2 * RESERVE).answers
    record_property("measured", f"stale twice, 0 loads; too_late {late.origin['too_late']}")


@pytest.mark.fault("F62", "a reserve longer than the function's time")
def test_the_reserve_is_ones_own(function: Make, origin: Origin, valkey: ValkeyServer) -> None:
    """What it leaves is what loads may take."""
    fn = function("steps.handler", before(valkey, HANDLER={"reserve": "30s"}))
    assert ["LoadTimeout"] == ask(fn, ["load", "k"], timeout=29).answers
    assert [] == origin.asked("k")
    assert [["value", "origin", "loaded"]] == ask(fn, ["load", "k"], timeout=60).answers


@pytest.mark.fault("F62", "time limits as shares of the remaining time")
@pytest.mark.parametrize("seconds", [20.0, 40.0])
def test_time_limits_are_shares_of_what_is_left(
    seconds: float, function: Make, gates: Path, origin: Origin, valkey: ValkeyServer
) -> None:
    """A stale value after `soft_timeout`; LoadTimeout after `hard_timeout` where there is none."""
    fn = function("steps.handler", before(valkey, L2={"ttl": "1h", "stale_if_error": "1d"}))
    origin.put("new", "value")
    ask(fn, ["load", "k"])
    WallClock(gates).go_ahead(2 * HOUR)
    origin.shut("k", 2)
    origin.shut("new", 1)
    for key, limit, expected in (
        ("k", "soft_timeout", ("value", "load_slow")),
        ("new", "hard_timeout", "LoadTimeout"),
    ):
        steps = ["monotonic", ["load", key, {limit: "2%"}], "monotonic", "remaining"]
        began, answer, ended, left = ask(fn, *steps, timeout=seconds).answers
        # The value as L1 has it, where L2 has not answered by then.
        assert expected == (answer if isinstance(answer, str) else (answer[0], answer[2]))
        assert ended - began >= 0.019 * (left - 0.3)  # there was more left when it began
