"""The real code does what the model says: its steps under a scheduler, on a real server, by the model's own schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from explore import explore
from stage import LOG_KEY, MARKS_KEY, Stage
from test_protocol import NEEDED
from world import ALL, Rule, Thread

if TYPE_CHECKING:
    from stage import Actor

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
    "deletes the lease": "",
    "sets the tag's marker": "",
    "deletes": "delete",
    "appends": "record",
}
"""The gate that a step of the model is about; "": the code has done it along with the step before."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds the lease taken does not wait for it."""
    monkeypatch.setattr("tiered_cache._read_through.MOST_PATIENCE", 0.0)


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
        order = ("begin", "look", "delete", "seize", "ask", "record", "load", "fill", "keep", "release")
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
