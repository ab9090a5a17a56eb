"""The checks themselves: a good history passes, and each check catches the bad ones that are made for it."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import replace
from typing import Any

import pytest
from checks import CHECKS, violations
from history import NEVER, Disturbance, Event, History, Load, Policy
from process_checks import footing, leaks, memory, secrecy

from tiered_cache import MemoryTier, TieredCache

POLICY = Policy(fresh_for=10, stale_while_revalidate=2, stale_if_error=5, negative_ttl=3, l1_for=4, longest=1)
FLEET = replace(POLICY, leases=True, one_for_all=True, coherence="invocation")


def load(nonce: str, began: float, **facts: Any) -> Load:
    """A load of version 1 of `a` that took half a second."""
    given = {"namespace": "n", "key": "a", "version": 1, "container": "c", "ended": began + 0.5} | facts
    value = nonce if given.get("outcome") == "absent" else ("n", given["key"], given["version"], nonce, nonce)
    return Load(nonce=nonce, began=began, **({"value": value} | given))


def answer(source: Load, start: float, **facts: Any) -> Event:
    """An answer with the value of `source`, from L1."""
    given = {"namespace": "n", "container": "c", "keys": ("a",), "operation": "get_entry_or_load", "end": start + 0.1}
    given |= {"value": source.value, "tier": "l1", "stale": False, "reason": "fresh", "age": start - source.began}
    return Event(start=start, **(given | facts))


def call(does: str, start: float, **facts: Any) -> Event:
    given = {"namespace": "n", "container": "c", "keys": ("a",), "operation": does, "end": start + 0.1}
    return Event(start=start, **(given | facts))


def failed(error: str, start: float, **facts: Any) -> Event:
    return call("get_entry_or_load", start, error=error, **facts)


def a_history(events: list[Event], loads: list[Load], changed: list[float] | None = None, **facts: Any) -> History:
    return History(events, loads, {("n", "a"): [NEVER, *(changed or [])]}, **({"policy": POLICY} | facts))


FIRST = load("v1", 1.0)
SECOND = load("v2", 6.0, version=2)
SET = load("v3", 1.0, outcome="set", ended=1.0)
ABSENT = load("none", 1.0, outcome="absent")
DOWN = load("x", 8.0, outcome="OriginDown")
LOG_LOST = Disturbance(name="flush", start=4, end=4)

GOOD: dict[str, History] = {
    "a load and its value": a_history([answer(FIRST, 1.0, tier="origin"), answer(FIRST, 5.0)], [FIRST]),
    "a new version after a deletion": a_history(
        [answer(FIRST, 2.0), call("delete", 5.1), answer(SECOND, 6.0)],
        [FIRST, SECOND],
        [5.0],
    ),
    "an old version while a deletion goes on": a_history(
        [call("delete", 5.1, end=6.1), answer(FIRST, 6.0)], [FIRST], [5.0]
    ),
    "an old version in another container": a_history(
        [call("delete", 5.1), answer(FIRST, 6.0, container="d")], [FIRST], [5.0]
    ),
    "an expired value, marked": a_history(
        [call("expire", 5.1), answer(FIRST, 6.0, stale=True, reason="load_failed")],
        [FIRST],
        [5.0],
    ),
    "a stale value within its window": a_history([answer(FIRST, 13.0, stale=True, reason="revalidating")], [FIRST]),
    "a clock that is behind": a_history([answer(FIRST, 13.0, ahead=-3.0, age=9.0)], [FIRST]),
    "a slow load": a_history(
        [answer(load("v1", 1.0, ended=30), 1.0, end=1.9, tier="origin")], [load("v1", 1.0, ended=30)]
    ),
    "an absence": a_history([failed("NotFound", 2.0, value="none")], [ABSENT]),
    "an absence in a batch": a_history([failed("NotFound", 2.0, operation="get_many_or_load")], [ABSENT]),
    "an origin that is down": a_history([failed("OriginDown", 8.0)], [DOWN]),
    "a denied origin, though something is held": a_history(
        [answer(FIRST, 2.0), failed("OriginDenied", 8.0)],
        [FIRST, replace(DOWN, outcome="OriginDenied")],
    ),
    "an invalidation that L2 did not take": a_history(
        [call("delete", 2.0, error="InvalidationNotDelivered", trouble=1)], []
    ),
    "a frozen container": a_history(
        [call("delete", 2.0, end=7.0)], [], disturbances=[Disturbance(name="freeze", start=2.5, end=6.9)]
    ),
    "a deletion between two loads": a_history([call("delete", 1.2)], [FIRST, load("v2", 1.4)]),
    "a load of its own": a_history(
        [call("get_or_load", 1.1, end=1.2, alone=True)],
        [FIRST, load("v2", 1.1, ended=1.2, alone=True), load("v4", 1.4)],
    ),
    "loads in two containers, without leases": a_history([], [FIRST, load("v2", 1.4, container="d")]),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_history(name: str) -> None:
    """What the guarantees allow is not held against a run."""
    assert violations(GOOD[name]) == []


BAD: dict[str, tuple[str, History]] = {
    "from nowhere": ("I1", a_history([answer(FIRST, 2.0, value="made up")], [FIRST])),
    "of another shape": ("I1", a_history([answer(FIRST, 2.0, value=17)], [FIRST])),
    "of another key": ("I1", a_history([answer(FIRST, 2.0, keys=("b",))], [FIRST])),
    "torn": ("I1", a_history([answer(FIRST, 2.0, value=(*FIRST.value[:4], "v1v"))], [FIRST])),
    "of a failed load": ("I1", a_history([answer(DOWN, 9.0, age=1.0)], [DOWN])),
    "from the future": ("I1", a_history([answer(SECOND, 2.0, age=0.0)], [SECOND], [1.0])),
    "of a version not yet current": ("I1", a_history([answer(SECOND, 7.0)], [SECOND], [9.0])),
    "of a version no longer current": ("I1", a_history([answer(FIRST, 3.0)], [FIRST], [0.5])),
    "too old to be fresh": ("I2", a_history([answer(FIRST, 11.1)], [FIRST])),
    "too old to be stale": ("I2", a_history([answer(FIRST, 16.1, stale=True, reason="load_failed")], [FIRST])),
    "too old for a call that does not tell": ("I2", a_history([answer(FIRST, 16.1, stale=None, age=None)], [FIRST])),
    "too old by the container's clock": ("I2", a_history([answer(FIRST, 9.0, ahead=3.0, age=11.0)], [FIRST])),
    "an absence too old": ("I2", a_history([failed("NotFound", 4.1, value="none")], [ABSENT])),
    "from the future by the clock": (
        "I2",
        a_history([answer(FIRST, 2.0, ahead=-4.0, age=0.0, tier="l2", container="d")], [FIRST]),
    ),
    "a false age": ("I2", a_history([answer(FIRST, 5.0, age=1.0)], [FIRST])),
    "after a deletion": ("I3", a_history([call("delete", 2.0), answer(FIRST, 3.0)], [FIRST], [1.9])),
    "after a deletion that failed": (
        "I3",
        a_history(
            [call("delete", 2.0, error="InvalidationNotDelivered", trouble=1), answer(FIRST, 3.0)], [FIRST], [1.9]
        ),
    ),
    "a load begun before a deletion": (
        "I3",
        a_history([call("delete", 1.2), answer(FIRST, 1.4, end=1.6, tier="origin", reason="loaded")], [FIRST], [1.1]),
    ),
    "an absence after a deletion": (
        "I3",
        a_history([call("delete", 2.0), failed("NotFound", 3.0, value="none")], [ABSENT], [1.9]),
    ),
    "after a tag": ("I3", a_history([call("invalidate_tag", 2.0), answer(FIRST, 3.0)], [FIRST], [1.9])),
    "after clear": ("I3", a_history([call("clear", 2.0), answer(FIRST, 3.0)], [FIRST], [1.9])),
    "after expire, as fresh": ("I3", a_history([call("expire", 2.0), answer(FIRST, 3.0)], [FIRST], [1.9])),
    "a set value after a deletion": ("I3", a_history([call("delete", 2.0), answer(SET, 3.0)], [SET], [1.9])),
    "a load after a set": (
        "I3",
        a_history(
            [call("set", 2.0, value=("n", "a", 2, "v9", "v9")), answer(FIRST, 3.0)],
            [FIRST, load("v9", 1.95, version=2, outcome="set", ended=1.96)],
            [1.9],
        ),
    ),
    "in another container, in a later invocation": (
        "I3",
        a_history(
            [call("delete", 2.0), answer(FIRST, 3.0, container="d", invocation=2.5)], [FIRST], [1.9], policy=FLEET
        ),
    ),
    "in another container, after so many seconds": (
        "I3",
        a_history(
            [call("delete", 2.0), answer(FIRST, 4.0, container="d")],
            [FIRST],
            [1.9],
            policy=replace(FLEET, coherence=1.5),
        ),
    ),
    "in another container, after L1's time": (
        "I3",
        a_history(
            [call("delete", 2.0), answer(FIRST, 6.2, container="d")],
            [FIRST],
            [1.9],
            policy=replace(FLEET, coherence="ttl"),
        ),
    ),
    "an error of L2": ("I4", a_history([failed("ConnectionError", 2.0)], [])),
    "an error of another time": ("I4", a_history([failed("OriginDown", 2.0)], [DOWN])),
    "an error of an invalidation": ("I4", a_history([call("delete", 2.0, error="TimeoutError")], [])),
    "an error that a value covers for": (
        "I4",
        a_history([answer(FIRST, 2.0), failed("OriginDown", 8.0)], [FIRST, DOWN]),
    ),
    "too long": ("I5", a_history([call("delete", 2.0, end=3.2)], [])),
    "too long, and frozen only in part": (
        "I5",
        a_history([call("delete", 2.0, end=7.0)], [], disturbances=[Disturbance(name="freeze", start=4, end=6)]),
    ),
    "two loads in a container": ("I6", a_history([], [FIRST, load("v2", 1.4)])),
    "two loads after an earlier deletion": ("I6", a_history([call("delete", 0.5)], [FIRST, load("v2", 1.4)])),
    "two loads in a container that has looked": (
        "I6",
        a_history([call("get", 0.5, invocation=0.4)], [FIRST, load("v2", 1.4)], policy=FLEET),
    ),
    "two loads in a fleet": ("I6", a_history([], [FIRST, load("v2", 1.4, container="d")], policy=FLEET)),
    "an absence that was a failure": ("I7", a_history([failed("NotFound", 8.0)], [DOWN])),
    "an absence of another key": ("I7", a_history([failed("NotFound", 2.0, keys=("b",))], [ABSENT])),
    "an absence of long ago": ("I7", a_history([failed("NotFound", 6.0)], [ABSENT])),
    "of another namespace": ("I8", a_history([answer(FIRST, 2.0, namespace="m")], [FIRST])),
    "stale, and not said so": ("I12", a_history([answer(FIRST, 5.0, reason="load_failed")], [FIRST])),
    "fresh, and said to be stale": ("I12", a_history([answer(FIRST, 5.0, stale=True)], [FIRST])),
    "undelivered, and not counted": ("I12", a_history([call("delete", 2.0, error="InvalidationNotDelivered")], [])),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_history(name: str) -> None:
    """What a guarantee forbids is found, by the check of that guarantee."""
    invariant, history = BAD[name]
    found = [sentence for sentence in violations(history) if sentence.startswith(f"{invariant} ")]
    assert len(found) == 1


def test_each_check_can_fail() -> None:
    """There is a bad history for each check."""
    assert {name.split()[0] for name in CHECKS} == {invariant for invariant, _ in BAD.values()}


@pytest.mark.parametrize(
    "excuse",
    [
        {"disturbances": [Disturbance(name="flip", start=2.0, end=2.2, container="d")]},
        {"events": [answer(FIRST, 2.6, container="d", trouble=1)]},
        {"events": [call("get", 3.2, container="d", trouble=1)]},
    ],
)
def test_other_containers_need_an_l2_that_answers(excuse: dict[str, Any]) -> None:
    """What was garbled, or could not be asked, excuses a container that has not heard of a deletion."""
    seen = answer(FIRST, 3.0, container="d", invocation=2.5, trouble=len(excuse.get("events", ())))
    events = [call("delete", 2.0), seen, *excuse.get("events", ())]
    disturbances = excuse.get("disturbances", ())
    assert violations(a_history(events, [FIRST], [1.9], policy=FLEET, disturbances=disturbances)) == []


def test_a_gap_excuses_a_second_load() -> None:
    """The same where the container itself has counted a gap."""
    looked = call("get", 0.5, invocation=0.4)
    loads = [load("v1", 3.9), load("v2", 4.2)]
    assert len(violations(a_history([looked], loads, policy=FLEET))) == 1
    assert violations(a_history([looked, call("get", 4.1, invocation=0.4, gaps=1)], loads, policy=FLEET)) == []


def test_a_lost_log_excuses_a_second_load() -> None:
    """A container that cannot follow the log does not join a load that began before."""
    loads = [load("v1", 3.9), load("v2", 4.2)]
    assert violations(a_history([], loads, disturbances=[LOG_LOST])) == []
    assert len(violations(a_history([], loads))) == 1


# The process


def test_memory_over_budget() -> None:
    """I9 is caught, and a cache within its budget passes."""
    with TieredCache(MemoryTier(ttl=60, max_bytes=10_000)) as cache:
        for number in range(100):
            cache.set(f"k{number}", "x" * 500)
        seen = cache.stats().l1
    assert list(memory([seen])) == []
    assert len(list(memory([seen._replace(bytes=seen.max_bytes + 1)]))) == 1


def test_leaks() -> None:
    """I10: a socket and a thread that stay are caught."""
    before = footing()
    assert leaks(before) == []
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait, name="tiered_cache-load")
    thread.start()
    with socket.socket():
        assert len(leaks(before, patience=0.1)) == 2
    ends.set()
    thread.join()
    assert leaks(before) == []


class Ring:
    """Garbage that holds a socket: it goes with the next collection, and not before."""

    def __init__(self) -> None:
        self.descriptor = socket.socket().detach()
        self.itself = self

    def __del__(self) -> None:
        os.close(self.descriptor)


def test_what_was_garbage_before_hides_no_leak() -> None:
    """Such as a socket of another test, which goes meanwhile."""
    Ring()
    before = footing()
    with socket.socket():
        assert leaks(before, patience=0.1) == ["I10 leaks: 1 sockets are left"]
    Ring()
    assert leaks(before) == []


def test_secrets() -> None:
    """I11: a value in a log line is caught, and the finding does not tell it."""
    found = list(secrecy(["all is well", "the value v0123-7 is bad"], ["password", "v0123-"]))
    assert len(found) == 1
    assert "v0123-" not in found[0].replace("the value v0123-7 is", "")
