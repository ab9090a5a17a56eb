"""The real code does what the model says: its steps under a scheduler, on a real server, by the model's own schedules."""

from __future__ import annotations

import os
from itertools import count
from typing import TYPE_CHECKING

import pytest
from explore import explore
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from player import Bounds, Player
from stage import LOG_KEY, MARKS_KEY, Stage
from test_protocol import NEEDED
from world import ALL, Rule, Thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gates import Actor
    from player import Step

    from tiered_cache.local.valkey import ValkeyServer

NOT_OF_THE_CODE = {
    Rule.ORIGIN_FIRST: "it is the caller who changes the origin, and then invalidates",
    Rule.MARKER_STAYS: "no marker ever expires: the next test sees to it",
}
"""Rules that the code cannot break: their traces have a step that it does not have."""

GATES = {
    "begins a read": "look",
    "misses in L2": "ask",
    "reads version": "ask",
    "takes the lease": "ask",
    "finds the lease taken": "ask",
    "reads the marker": "look",
    "catches up with log and marker": "look",
    "loads version": "load",
    "finds its lease": "",
    "fills L2": "fill",
    "is refused": "fill",
    "keeps it": "keep",
    "does not keep": "keep",
    "doubts": "keep",
    "finds a later one": "keep",
    "gives up its lease": "release",
    "seizes the lease": "ask",
    "joins another's flight": "",
    "deletes the lease": "",
    "sets the tag's marker": "",
    "deletes": "delete",
    "appends": "record",
}
"""The gate that a step of the model is about; "": the code has done it along with the step before."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds the lease taken does not wait for it."""
    monkeypatch.setattr("tiered_cache._in_time.MOST_PATIENCE", 0.0)


class Script:
    """Does on a stage what the model's trace says, step by step, as far as the real code has such a step."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._calls: dict[Thread, Actor] = {}
        self._invalidation: Actor | None = None

    def play(self, who: str, what: str) -> None:
        stage = self.stage
        match who, what:
            case "L2", "lets the lease expire":
                stage.expire_lease()
            case "L2", "trims the log to a record of another key":
                stage.trim()
            case "L2", "loses log and markers":
                stage.lose()
            case "invalidator", "changes the origin":
                stage.change()
            case "invalidator", _:
                self._invalidate(what)
            case _, "reads the log's end as its position" | "another thread catches up":
                stage.finish(stage.catch_up(int(who.split()[1].strip(","))))
            case _, "another caller joins the flight":
                stage.step(stage.read(Thread(int(who.split()[1]), 1), looks=False))
            case _:
                self._read(Thread(int(who.split()[1]), 0), what)

    def _invalidate(self, what: str) -> None:
        if self._invalidation is None or self._invalidation.state == "done":
            self._invalidation = self.stage.invalidate("tag" if "tag" in what else "delete")
        self._invalidation.lose_reply = what.endswith("the reply is lost")
        self._reach(self._invalidation, self._gate(what))

    def _read(self, thread: Thread, what: str) -> None:
        call = self._calls.get(thread)
        if call is None or call.state == "done":
            call = self._calls[thread] = self.stage.read(thread, looks=what.startswith("begins a read, catches up"))
        self._reach(call, self._gate(what))

    @staticmethod
    def _gate(what: str) -> str:
        return next(gate for begins, gate in GATES.items() if what.startswith(begins))

    def _reach(self, actor: Actor, gate: str) -> None:
        """Let the actor go until it is past the gate; where it is past it already, the step was done with another."""
        order = (
            "begin",
            "open",
            "look",
            "delete",
            "seize",
            "ask",
            "record",
            "load",
            "loaded",
            "fill",
            "keep",
            "release",
        )
        while actor.state == "parked" and order.index(actor.gate.removeprefix("back from ")) <= order.index(
            gate or "begin"
        ):
            self.stage.step(actor)


@pytest.mark.parametrize("rule", [rule for rule in Rule if rule not in NOT_OF_THE_CODE], ids=lambda rule: rule.name)
@pytest.mark.parametrize("fine", [False, True], ids=["by exchanges", "by commands"])
def test_what_goes_wrong_without_a_rule_does_not_go_wrong_in_the_code(
    valkey: ValkeyServer, rule: Rule, fine: bool
) -> None:
    """The model's counterexample to each rule, played with the real code: every invariant holds at each step."""
    world = NEEDED[rule]
    with Stage(valkey.url, at_home=world.at_home, fine=fine) as stage:
        script = Script(stage)
        for who, what in explore(world, ALL - {rule}).trace:
            script.play(who, what)


def test_no_marker_expires(valkey: ValkeyServer) -> None:
    """Neither the markers nor the log have an end of their own, so that they outlive every entry."""
    with Stage(valkey.url) as stage:
        stage.change()
        stage.finish(stage.invalidate("tag"))
        assert stage.seen.marker == 1
        assert [stage.server.ttl(name) for name in (MARKS_KEY, LOG_KEY)] == [-1, -1]


SCHEDULES = settings(
    max_examples=int(os.environ.get("TIERED_CACHE_SCHEDULES", "25")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""`TIERED_CACHE_SCHEDULES=1000` plays a thousand of each kind.

One in some hundred of those with a log that is trimmed and lost has a step that the model does not know: a load without
the lease that looks twice, since another thread has looked meanwhile. What it keeps is born later than the model says, at
the moment when the load begins, and is right.
"""
ALL_WAYS = ("delete", "expire", "tag", "clear", "set")


def _play(
    valkey: ValkeyServer, data: st.DataObject, bounds: Bounds, *, at_home: bool = False, fine: bool = False
) -> None:
    valkey.flush()
    with Stage(valkey.url, at_home=at_home, fine=fine) as stage:
        Player(stage, bounds, lambda steps: data.draw(st.sampled_from(steps))).play()


@pytest.mark.parametrize(
    ("bounds", "at_home"),
    [(Bounds(), False), (Bounds(), True), (Bounds(trims=1, losses=1), False)],
    ids=["the invalidator elsewhere", "the invalidator at home", "the log trimmed and lost"],
)
@SCHEDULES
@given(data=st.data())
def test_each_step_of_the_code_is_one_of_the_models(
    valkey: ValkeyServer, bounds: Bounds, at_home: bool, data: st.DataObject
) -> None:
    """What L2, its lease, the log, and each container's L1 and position become, the model's own moves lead to as well."""
    _play(valkey, data, bounds, at_home=at_home)


@pytest.mark.parametrize("fine", [False, True], ids=["by exchanges", "by commands"])
@pytest.mark.parametrize("at_home", [False, True], ids=["elsewhere", "at home"])
@SCHEDULES
@given(data=st.data())
def test_no_schedule_breaks_an_invariant(valkey: ValkeyServer, at_home: bool, fine: bool, data: st.DataObject) -> None:
    """Two threads in each of two new containers, every way to invalidate, and a log that is trimmed and lost."""
    bounds = Bounds(reads=4, by=ALL_WAYS, trims=1, losses=1, threads=2, opened=False, lockstep=False)
    _play(valkey, data, bounds, at_home=at_home, fine=fine)


WHOLE_READ = ("begins to read", "begin", "ask", "load", "loaded", "fill", "keep")
WHOLE_CATCH_UP = ("begins to catch up", "begin", "ask", "look")


def test_ones_own_invalidation_counts_though_another_thread_was_the_first_to_look(valkey: ValkeyServer) -> None:
    """A container invalidates before it knows the log; another thread looks meanwhile; a read after that gets nothing old."""
    with Stage(valkey.url, at_home=True) as stage:
        player = Player(stage, Bounds(by=("clear",), opened=False, lockstep=False), choose=min)
        player.take("container 1", *WHOLE_READ)
        player.take("invalidator", "changes the origin", "begins clear", "begin")
        player.take("container 0, another thread", *WHOLE_CATCH_UP)
        player.take("invalidator", "record")
        player.take("container 0", "begins to read", "begin", "ask")
        player.end()


def test_a_look_counts_though_another_thread_was_the_first_to_look(valkey: ValkeyServer) -> None:
    """A read looks along with its question, and another thread looked before: what was invalidated since is not given."""
    with Stage(valkey.url) as stage:
        player = Player(stage, Bounds(by=("clear",), opened=False, lockstep=False), choose=min)
        player.take("container 0", *WHOLE_READ)
        player.take("container 1", "begins to read in a new invocation", "begin")
        player.take("container 1, another thread", *WHOLE_CATCH_UP)
        player.take("invalidator", "changes the origin", "begins clear", "begin", "record")
        player.take("container 1", "ask")
        player.end()


@pytest.mark.parametrize("trimmed", [False, True], ids=["", "and the log is trimmed"])
@pytest.mark.parametrize("how", ALL_WAYS)
def test_what_was_read_before_an_invalidation_is_not_kept_after_it(
    valkey: ValkeyServer, how: str, trimmed: bool
) -> None:
    """A reply of L2 is in hand while the key is invalidated and another thread looks: the checks of the stage see to it."""
    with Stage(valkey.url, fine=True) as stage:
        player = Player(stage, Bounds(by=(how,), trims=1), choose=min)
        stage.finish(stage.read(Thread(0, 0), looks=False))
        assert stage.seen.entry is not None
        player.take("container 1", "begins to read", "begin", "ask")
        stage.change()
        stage.finish(stage.invalidate(how))
        if trimmed:
            stage.trim()
        stage.finish(stage.catch_up(1))
        assert "container 1: back from ask" in {f"{actor.who}: {actor.gate}" for actor in stage.live()}
        player.end()


@pytest.mark.parametrize("how", ALL_WAYS)
def test_what_was_loaded_without_the_lease_is_not_kept_after_an_invalidation(valkey: ValkeyServer, how: str) -> None:
    """Another container holds the lease, so nothing at the server refuses the value: what the container learnt does."""
    with Stage(valkey.url) as stage:
        player = Player(stage, Bounds(lockstep=False), choose=min)
        player.take("container 1", "begins to read", "begin", "ask")
        player.take("container 0", "begins to read", "begin", "ask", "load")
        stage.change()
        stage.finish(stage.invalidate(how))
        stage.finish(stage.catch_up(0))
        player.end()


def test_no_fill_comes_between_the_halves_of_a_set(valkey: ValkeyServer) -> None:
    """A load from before is about to be kept when the key is set: it is refused from the first of the two commands on."""
    with Stage(valkey.url, fine=True) as stage:
        player = Player(stage, Bounds(), choose=min)
        player.take("container 0", "begins to read", "begin", "ask", "back from ask", "load", "loaded")
        stage.change()
        setting = stage.invalidate("set")
        while stage.seen.lease == Thread(0, 0) and stage.seen.entry is None and stage.deleted < stage.target:
            stage.step(setting)
        player.take("container 0", "fill")
        player.end()


@pytest.mark.parametrize("how", ALL_WAYS)
def test_every_order_of_a_read_and_an_invalidation(valkey: ValkeyServer, how: str) -> None:
    """One container reads while another invalidates: all interleavings, and then a new container asks."""
    played = 0
    bounds = Bounds(reads=1, catch_ups=0, invalidations=1, expiries=0, by=(how,), lockstep=False)
    for order in _orders():
        valkey.flush()
        with Stage(valkey.url) as stage:
            Player(stage, bounds, order).play()
        played += 1
    assert played > 50


def _orders() -> Iterator[Callable[[Sequence[Step]], Step]]:
    """Each schedule once, by depth first search: gives who chooses, who is to be asked until the schedule ends."""
    taken: list[tuple[int, int]] = []
    more = True
    while more:
        at = count()

        def choose(steps: Sequence[Step], at: count[int] = at) -> Step:
            steps = [step for step in steps if not step.text.startswith("container 1") and " new " not in step.text]
            if any(step.text.endswith(": begin") for step in steps):  # so far nothing is done, and when does not matter
                return next(step for step in steps if step.text.endswith(": begin"))
            depth = next(at)
            if depth == len(taken):
                taken.append((0, len(steps)))
            return steps[taken[depth][0]]

        yield choose
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        more = bool(taken)
        if more:
            taken[-1] = (taken[-1][0] + 1, taken[-1][1])
