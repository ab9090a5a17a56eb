"""What a container finds after a freeze: dead connections, a server that is back, values whose time went by."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from functions.origin import Origin, WallClock, wait_until
from parts import ASKS_L2, HOUR, WAIT, ask, before, clients, frozen

from tiered_cache.local import FaultProxy, ServiceUnavailable
from tiered_cache.local._lambda_clock import find_compiler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from parts import Make, Record

    from tiered_cache.local import LocalLambda, ValkeyServer

HANGS = 2.0
"""The timeout of L2 where a test waits for its end: so long that a server which is well answers in it."""


@pytest.fixture
def proxy(valkey: ValkeyServer) -> Iterator[FaultProxy]:
    """The way to the server."""
    with FaultProxy(valkey.host, valkey.port) as started:
        yield started


def ended_by_server(proxy: FaultProxy, valkey: ValkeyServer) -> None:
    """FIN, which the container's kernel hears while its processes stand still."""
    with redis.Redis(port=valkey.port) as admin:
        for client in clients(valkey):
            admin.client_kill_filter(_id=client["id"])
    at, fin_wait_2 = f":{proxy.port:04X}", "05"
    wait_until(lambda: [at, fin_wait_2] in [[line[1][8:], line[3]] for line in tcp_sockets()])


def tcp_sockets() -> list[list[str]]:
    """The fields of each: number, local address, remote address, state, ... (proc(5))."""
    return [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]


def reset(proxy: FaultProxy, valkey: ValkeyServer) -> None:
    proxy.kill_all()
    wait_until(lambda: proxy.open_connections == 0)


def half_open(proxy: FaultProxy, valkey: ValkeyServer) -> None:
    proxy.forget_all()


@pytest.mark.fault("F59", "a connection died while the container was frozen for an hour")
@pytest.mark.parametrize("end", [ended_by_server, reset, half_open])
def test_after_a_long_freeze_no_dead_connection_is_used(
    end: Any, function: Make, gates: Path, proxy: FaultProxy, valkey: ValkeyServer, record_property: Record
) -> None:
    """One connect and no error, whatever befell it: also where only a timeout would have told."""
    Origin(gates).put("k", "value")
    fn = function("steps.handler", before(proxy, L1=ASKS_L2))
    first = ask(fn, ["load", "k"])
    frozen(fn)
    end(proxy, valkey)
    WallClock(gates).go_ahead(HOUR)
    after = ask(fn, ["load", "k"], ["get", "k"])
    assert [["value", "origin", "loaded"]] == first.answers
    assert [["value", "l2", "fresh"], "value"] == after.answers
    assert (1, 2, 2) == (first.l2["connects"], after.l2["connects"], proxy.accepted)
    assert ({}, 0, "closed") == tuple(after.l2[name] for name in ("errors", "skipped", "breaker"))
    assert 1 == after.container["thaws"]
    assert HOUR < after.container["frozen"] < HOUR + 60
    record_property("measured", f"{end.__name__}: {after.l2['connects'] - 1} connect more, errors {after.l2['errors']}")


@pytest.mark.fault("F59", "a connection was closed while the container was frozen for a moment")
@pytest.mark.parametrize("end", [ended_by_server, reset])
def test_after_a_short_freeze_a_closed_connection_costs_one_connect(
    end: Any, function: Make, gates: Path, proxy: FaultProxy, valkey: ValkeyServer, record_property: Record
) -> None:
    """It is found out by using it, and the call is sent again on a new one in the same time."""
    Origin(gates).put("k", "value")
    fn = function("steps.handler", before(proxy, L1=ASKS_L2))
    ask(fn, ["load", "k"])
    frozen(fn)
    end(proxy, valkey)
    after = ask(fn, ["load", "k"], ["load", "k"])
    assert 2 * [["value", "l2", "fresh"]] == after.answers
    assert (2, 2) == (after.l2["connects"], proxy.accepted)
    assert ({}, 0, 0) == (after.l2["errors"], after.l2["skipped"], after.container["thaws"])
    record_property("measured", f"{end.__name__}: {after.l2['connects'] - 1} connect more, errors {after.l2['errors']}")


@pytest.mark.fault("F59", "a connection leads nowhere after a freeze of a moment")
def test_after_a_short_freeze_a_half_open_connection_costs_one_timeout(
    function: Make, gates: Path, proxy: FaultProxy, valkey: ValkeyServer, record_property: Record
) -> None:
    """Nothing tells it from one that is well. The caller has what L1 holds; the next call after the pause connects."""
    origin = Origin(gates)
    origin.put("k", "value")
    fn = function("steps.handler", before(proxy, L1=ASKS_L2, L2={"timeout": HANGS}))
    ask(fn, ["load", "k"])
    frozen(fn)
    half_open(proxy, valkey)
    first = ask(fn, ["load", "k"])
    frozen(fn)
    assert [["value", "l1", "unconfirmed"]] == first.answers
    assert ({"timeout": 1}, True) == (first.l2["errors"], first.l2["breaker"] != "closed")
    WallClock(gates).go_ahead(2)
    second = ask(fn, ["load", "k"])
    assert [["value", "l2", "fresh"]] == second.answers
    assert ({"timeout": 1}, "closed", 2) == tuple(second.l2[name] for name in ("errors", "breaker", "connects"))
    assert 1 == len(origin.asked("k"))
    connects = second.l2["connects"] - 1
    record_property("measured", f"errors {second.l2['errors']}, {connects} connect more, the value served unconfirmed")


@pytest.mark.fault("F59", "L2 recovers while the container is frozen")
def test_a_breaker_that_was_open_does_not_outlive_a_long_freeze(
    function: Make, gates: Path, proxy: FaultProxy, record_property: Record
) -> None:
    """The first call after the thaw tries L2, which is back, and finds its value there."""
    Origin(gates).put("k", "value")
    fn = function("steps.handler", before(proxy, L1=ASKS_L2, PAUSE=HOUR))  # the thaw alone ends it
    ask(fn, ["load", "k"])
    proxy.refuse()
    proxy.kill_all()
    away = ask(fn, ["load", "k"], ["load", "k"])
    frozen(fn)
    assert 2 * [["value", "l1", "unconfirmed"]] == away.answers
    assert ({"refused": 1}, "open") == (away.l2["errors"], away.l2["breaker"])
    proxy.ok()
    WallClock(gates).go_ahead(61)
    back = ask(fn, ["load", "k"])
    assert [["value", "l2", "fresh"]] == back.answers
    assert ({"refused": 1}, "closed", 1) == (back.l2["errors"], back.l2["breaker"], back.container["thaws"])
    assert away.l2["skipped"] == back.l2["skipped"]
    record_property(
        "measured", f"errors {back.l2['errors']}, {away.l2['skipped']} calls skipped before the freeze, 0 after"
    )


@pytest.mark.fault("F59", "the init phase ends, and the container is frozen, in the middle of a warm-up")
@pytest.mark.parametrize("seconds", [0, HOUR])
def test_a_warm_up_that_a_freeze_met_holds_nobody_up(
    seconds: float, function: Make, gates: Path, proxy: FaultProxy, record_property: Record
) -> None:
    """After an hour it is left to itself, and the first call connects; after a moment its connection is used."""
    Origin(gates).put("k", "value")
    proxy.hang()
    init = [["warm_up", {"wait": False}], ["wait_for", "connecting"]]
    fn = function("steps.handler", before(proxy, INIT=init, L2={"timeout": WAIT}))
    with ThreadPoolExecutor(1) as thread:
        started = thread.submit(fn.start, 1)
        wait_until(lambda: proxy.accepted == 1)
        (gates / "connecting").touch()
        started.result(WAIT)
    frozen(fn)
    if seconds:
        proxy.forget_all()
    proxy.ok()
    WallClock(gates).go_ahead(seconds)
    first = ask(fn, ["load", "k"])
    assert [["value", "origin", "loaded"]] == first.answers
    assert (1, {}, 0) == tuple(first.l2[name] for name in ("writes", "errors", "skipped"))
    assert (2 if seconds else 1) == proxy.accepted
    record_property(
        "measured", f"frozen for {seconds:.0f} s: {proxy.accepted} connections, errors {first.l2['errors']}"
    )


def why_no_still_clock() -> str:
    try:
        find_compiler()
    except ServiceUnavailable as error:
        return str(error)
    return ""


@pytest.fixture
def still(function: Make, gates: Path, valkey: ValkeyServer) -> Callable[..., LocalLambda]:
    """Makes a function whose monotonic clock stands still while it is frozen, and has it load "k"."""
    if reason := why_no_still_clock():
        pytest.skip(reason)

    def make(**options: Any) -> LocalLambda:
        Origin(gates).put("k", "value")
        fn = function("steps.handler", before(valkey, **options), still_clock=True)
        assert [["value", "origin", "loaded"]] == ask(fn, ["load", "k"]).answers
        return fn

    return make


def freeze(fn: LocalLambda, seconds: float) -> None:
    frozen(fn)
    time.sleep(seconds)


FREEZE = 1.0
"""Seconds of a freeze in which the monotonic clock stands still."""


@pytest.mark.fault("F63", "a monotonic clock that stands still in a real freeze")
@pytest.mark.parametrize(("tier", "found"), [("L1", ["value", "l2", "fresh"]), ("L2", ["value", "origin", "loaded"])])
def test_a_ttl_goes_by_while_the_monotonic_clock_stands_still(
    still: Callable[..., LocalLambda], gates: Path, tier: str, found: list[str], record_property: Record
) -> None:
    """Of L1, which then asks L2, and of the data, which are then loaded anew. (Not by a thaw: it is too short for one.)"""
    fn, ttl = still(**{tier: {"ttl": 40}}), 40
    began = time.monotonic()
    first = ask(fn, "monotonic", ["load", "k"])
    freeze(fn, FREEZE)
    WallClock(gates).go_ahead(ttl)  # as if the freeze had been that long
    after = ask(fn, "monotonic", ["load", "k"])
    ended = time.monotonic()
    went_on = after.answers[0] - first.answers[0]
    assert ["value", "l1", "fresh"] == first.answers[1]
    assert 0 <= went_on <= ended - began - FREEZE
    assert found == after.answers[1]
    record_property("measured", f"{tier}: a TTL of {ttl} s was over after {went_on:.2f} s of the monotonic clock")


@pytest.mark.fault("F63", "calls to L2 right after a freeze in which the monotonic clock stood still")
def test_deadlines_hold_after_a_thaw(
    still: Callable[..., LocalLambda], valkey: ValkeyServer, record_property: Record
) -> None:
    """A call does not end before it has begun, and one to a server that hangs ends at its timeout."""
    fn = still(L1=ASKS_L2, L2={"timeout": HANGS})
    freeze(fn, HANGS + 0.5)  # so that a deadline by the other clock is over before it has begun, or is far away
    well = ask(fn, ["load", "k"])
    assert ([["value", "l2", "fresh"]], {}) == (well.answers, well.l2["errors"])
    freeze(fn, 0.1)
    valkey.pause()
    hangs = ask(fn, "monotonic", ["load", "k"], "monotonic")
    valkey.resume()
    began, answer, ended = hangs.answers
    assert (["value", "l1", "unconfirmed"], {"timeout": 1}) == (answer, hangs.l2["errors"])
    assert ended - began >= 0.95 * HANGS
    cost = f"{ended - began:.2f} s of a timeout of {HANGS} s"
    record_property("measured", f"a frozen server cost {cost}, errors {hangs.l2['errors']}")
