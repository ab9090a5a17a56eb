"""Managed Instances: several processes at once in one environment that is never frozen, each with a cache of its own."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
import redis
from functions.origin import Origin, WallClock, wait_until
from parts import HOUR, WAIT, ask, before, begin, clients, leases, told

from tiered_cache.local.awslambda import ContainerCrashed, FunctionTimedOut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from parts import Make

    from tiered_cache.local import LocalLambda, ValkeyServer

WORKERS = 3
STALE = {"ttl": "1h", "stale_while_revalidate": "3h", "stale_if_error": "1d"}


@pytest.fixture
def origin(gates: Path) -> Origin:
    """Has "value" for the key k."""
    origin = Origin(gates)
    origin.put("k", "value")
    return origin


@pytest.fixture
def managed(function: Make, valkey: ValkeyServer) -> Callable[..., LocalLambda]:
    def make(*, processes: int = WORKERS, **options: object) -> LocalLambda:
        kind = {"initialization": "lambda-managed-instances", "processes": processes}
        return function("steps.handler", before(valkey, **options), **kind)

    return make


def test_each_process_has_a_cache_and_a_connection_of_its_own(
    managed: Callable[..., LocalLambda], origin: Origin, valkey: ValkeyServer
) -> None:
    """Three invocations at once share one load by its lease, and nothing else."""
    fn = managed()
    origin.shut("k", 1)
    at_once = [begin(fn, ["load", "k"]) for _ in range(WORKERS)]
    origin.wait_asked("k", 1)
    wait_until(lambda: len(clients(valkey)) == WORKERS)
    origin.open("k", 1)
    workers = [told(one.result(WAIT)) for one in at_once]
    assert WORKERS == len({one.pid for one in workers}) == len({one.container["id"] for one in workers})
    assert WORKERS * [1] == [one.l2["connects"] for one in workers]
    assert WORKERS * [1] == [one.l1["entries"] for one in workers]
    assert 1 == len(origin.asked("k")) == sum(one.answers == [["value", "origin", "loaded"]] for one in workers)
    assert 2 == sum(one.answers == [["value", "l2", "fresh"]] for one in workers)


def test_threads_run_on_when_the_response_is_out(
    managed: Callable[..., LocalLambda], gates: Path, origin: Origin, valkey: ValkeyServer
) -> None:
    """A refresh, work of one's own, and a load that took longer than its caller would wait; no invocation follows."""
    clock = WallClock(gates)
    fn = managed(
        processes=1, L2=STALE, HANDLER={"after_response": True}
    )  # which has it all in L1, and need not wait for L2
    for key in ("slow", "k"):
        clock.go_ahead(5 * HOUR)
        origin.put(key, "old")
        ask(fn, ["load", key])
        origin.put(key, "new")
        origin.shut(key, 2)
    clock.go_ahead(2 * HOUR)
    told = ask(fn, ["load", "k"], ["load", "slow", {"soft_timeout": 0.3}], ["after_response", "done"])
    assert [["old", "revalidating"], ["old", "load_slow"]] == [[value, why] for value, _, why in told.answers[:2]]
    wait_until((gates / "done").exists)
    for key in ("k", "slow"):
        origin.wait_asked(key, 2)
        origin.open(key, 2)
    wait_until(lambda: not leases(valkey))
    elsewhere = ask(managed(L2=STALE), ["load", "k"], ["load", "slow"])
    assert 2 * [["new", "l2", "fresh"]] == elsewhere.answers
    (container,) = fn.containers
    assert ("idle", 0) == (container.state, container.frozen_seconds)
    assert 3 == container.invocations


def test_the_limits_hold_where_the_timeout_is_not_enforced(
    managed: Callable[..., LocalLambda], gates: Path, origin: Origin
) -> None:
    """The caller hears of the timeout and the code goes on, beyond its time: no load is begun there."""
    fn = managed()
    with pytest.raises(FunctionTimedOut):
        ask(fn, ["spend", -0.3], ["load", "k"], ["touch", "went on"], timeout=0.5)
    wait_until((gates / "went on").exists)
    assert [] == origin.asked("k")
    answers = [told(one.result(WAIT)).answers for one in [begin(fn, ["load", "k"], wait=True) for _ in range(WORKERS)]]
    assert WORKERS * ["value"] == [value for ((value, _, _),) in answers]


def test_a_worker_that_is_killed_in_mid_load_leaves_the_others_working(
    managed: Callable[..., LocalLambda], origin: Origin, valkey: ValkeyServer
) -> None:
    """Its lease ends, at the latest with its invocation's time; another loads, and what each holds in L1 it has still."""
    fn = managed(INIT=[["get", "k"]])
    origin.put("held", "value")
    before_it = {told(one.result(WAIT)).pid for one in [begin(fn, ["load", "held"]) for _ in range(WORKERS)]}
    origin.shut("k", 1)
    victim = begin(fn, ["load", "k"], timeout=WAIT)
    origin.wait_asked("k", 1)
    (killed,) = origin.asked("k")
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(ContainerCrashed):
        victim.result(WAIT)
    with redis.Redis(port=valkey.port) as admin:
        (lease,) = admin.scan_iter("tc1:*:lease")
        assert 0 < admin.pttl(lease) <= 1000 * (WAIT - 0.3 + 1.0)  # without the reserve, with a margin for the fill
        admin.pexpire(lease, 500)
    others = [
        told(one.result(WAIT)) for one in [begin(fn, ["load", "k"], ["load", "held"]) for _ in range(WORKERS - 1)]
    ]
    assert before_it - {killed} == {one.pid for one in others}
    for one in others:
        (value, _, _), held = one.answers
        assert ("value", ["value", "l1", "fresh"]) == (value, held)
    assert 2 == len(origin.asked("k"))
    assert 1 == len(origin.asked("held"))
