"""Threads that the freeze meets in the middle of a load, and what comes of it in a later invocation."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from functions.origin import Origin, WallClock
from parts import HOUR, ask, before, frozen, told

from tiered_cache.local import FaultProxy

if TYPE_CHECKING:
    from pathlib import Path

    from parts import Make, Record

    from tiered_cache.local import LocalLambda, ValkeyServer

L2 = {"ttl": "1h", "stale_if_error": "1d"}
SOFT = {"soft_timeout": 0.3}
FREEZES = 40


class Scene:
    """A container that is frozen while a thread of it loads: it has read "old" at the origin, which has "new" since."""

    def __init__(self, function: Make, gates: Path, valkey: ValkeyServer) -> None:
        self.origin = Origin(gates)
        self.clock = WallClock(gates)
        self.frozen: LocalLambda = function("steps.handler", before(valkey, L2=L2))
        self.other: LocalLambda = function("steps.handler", before(valkey, L2=L2))
        self.origin.put("k", "oldest")
        ask(self.frozen, ["load", "k"])
        frozen(self.frozen)
        self.clock.go_ahead(2 * HOUR)
        self.origin.put("k", "old")
        self.origin.shut("k", 2)
        (value, _, reason), _ = ask(self.frozen, ["load", "k", SOFT], ["wait_asked", "k", 2]).answers
        assert ("oldest", "load_slow") == (value, reason)  # as L1 has it, where L2 has not answered by then
        frozen(self.frozen)
        self.origin.put("k", "new")


@pytest.fixture
def scene(function: Make, gates: Path, valkey: ValkeyServer) -> Scene:
    return Scene(function, gates, valkey)


@pytest.mark.fault("F60", "frozen in a background load, and another container invalidates and loads anew")
@pytest.mark.parametrize("ends", ["before the next answer", "after it"])
def test_what_was_invalidated_meanwhile_is_kept_nowhere(scene: Scene, ends: str, record_property: Record) -> None:
    """The late result is refused by L2 and L1, and who asks after the invalidation has the new value."""
    elsewhere = ask(scene.other, ["delete", "k"], ["load", "k"])
    assert [None, ["new", "origin", "loaded"]] == elsewhere.answers
    if ends == "before the next answer":
        scene.origin.open("k", 2)
        after = ask(scene.frozen, "wait_for_loads", ["load", "k"])
        assert [None, ["new", "l2", "fresh"]] == after.answers
        assert 1 == after.l2["refused"]
    else:
        assert [["new", "l2", "fresh"]] == ask(scene.frozen, ["load", "k", SOFT]).answers
        scene.origin.open("k", 2)
        after = ask(scene.frozen, "wait_for_loads", ["load", "k"])
        assert [None, ["new", "l1", "fresh"]] == after.answers
    assert "new" == ask(scene.other, ["get", "k"]).answers[0]
    assert 3 == len(scene.origin.asked("k"))
    record_property("measured", f"ended {ends}: {after.l2['refused']} fill refused by L2, 'new' everywhere, 3 loads")


@pytest.mark.fault("F60", "frozen in a background load, and another container invalidates")
def test_what_was_invalidated_meanwhile_is_loaded_again(scene: Scene) -> None:
    """Also where nobody has loaded since."""
    ask(scene.other, ["delete", "k"])
    scene.origin.open("k", 2)
    after = ask(scene.frozen, "wait_for_loads", ["get", "k"], ["load", "k"])
    assert [None, None, ["new", "origin", "loaded"]] == after.answers
    assert ["new", "l2", "fresh"] == ask(scene.other, ["load", "k"]).answers[0]
    assert 1 == after.l2["refused"]


@pytest.mark.fault("F60", "frozen in a background load for longer than the TTL")
def test_a_late_result_is_as_old_as_its_load(scene: Scene) -> None:
    """L2 takes it while the lease holds, with the age that it has: it is fresh no longer, and is loaded again."""
    scene.clock.go_ahead(2 * HOUR)
    scene.origin.open("k", 2)
    after = ask(scene.frozen, "wait_for_loads", ["get", "k"], ["load", "k"])
    assert [None, None, ["new", "origin", "loaded"]] == after.answers
    assert (0, 2) == (after.l2["refused"], after.origin["loads"] - 1)
    assert ["new", "l2", "fresh"] == ask(scene.other, ["load", "k"]).answers[0]


@pytest.mark.fault("F60", "frozen in a background load for less than the TTL")
def test_a_late_result_that_nothing_has_overtaken_is_kept(scene: Scene) -> None:
    """It is fresh for what is left of its time."""
    scene.clock.go_ahead(HOUR / 2)
    scene.origin.open("k", 2)
    after = ask(scene.frozen, "wait_for_loads", ["load", "k"])
    assert [None, ["old", "l2", "fresh"]] == after.answers
    assert ["old", "l2", "fresh"] == ask(scene.other, ["load", "k"]).answers[0]
    scene.clock.go_ahead(HOUR / 2)
    assert ["new", "origin", "loaded"] == ask(scene.other, ["load", "k"]).answers[0]


@pytest.mark.fault("F60", "frozen at any instant while a thread calls the cache, and its connections die")
def test_a_freeze_at_any_instant_leaves_nothing_that_hangs(
    function: Make, gates: Path, valkey: ValkeyServer, record_property: Record
) -> None:
    """A thread may stand still with a lock in its hands, or in mid-reply: each invocation answers, and rightly."""
    chance, clock = random.Random(1), WallClock(gates)
    options = {"L1": {"ttl": 0.01, "max_entries": 4}, "L2": {"timeout": 0.5}, "CACHE": {"on_failure": "queue"}}
    with FaultProxy(valkey.host, valkey.port) as proxy:
        fn = function("churned.handler", before(proxy, **options))
        for _ in range(FREEZES):
            after = told(fn.invoke({"sleep": chance.uniform(0, 0.02)}))
            assert 8 * [True] == after.answers
            frozen(fn)
            chance.choice([proxy.kill_all, proxy.forget_all, lambda: None])()
            clock.go_ahead(chance.choice([0, 2, HOUR]))
        after = told(fn.invoke({"sleep": 0, "calls": FREEZES}))
    assert (FREEZES + 1, 0, 0) == (after.container["invocations"], after.wrong, after.raised)
    assert 8 * [True] == after.answers
    assert not set(after.l2["errors"]) - {"timeout", "reset"}
    record_property(
        "measured", f"{FREEZES} freezes, {after.calls} calls of the thread, 0 wrong, errors {after.l2['errors']}"
    )
