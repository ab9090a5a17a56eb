"""Gates in the way of the real code: a call waits at each until it is let go."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from tiered_cache import RedisTier
from tiered_cache._l2.faults import Failure, Unavailable
from tiered_cache._l2.scripts import ASK, FILL, LOG, RELEASE, REWRITE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stage import Stage
    from world import Thread

    from tiered_cache._l2.scripts import Command

_SCRIPTS = {script(())[1]: name for script, name in ((ASK, "ask"), (FILL, "fill"), (RELEASE, "release"))}
_SCRIPTS |= {REWRITE(())[1]: "delete", LOG(())[1]: "open"}
_COMMANDS = {
    b"GET": "ask",
    b"HGET": "look",
    b"HMGET": "look",
    b"XRANGE": "look",
    b"DEL": "delete",
    b"SET": "seize",
    b"GETRANGE": "header",
}
_acting: ContextVar[Actor | None] = ContextVar("acting", default=None)


def gate_of(command: Command) -> str:
    """What a command does, in a word."""
    if command[0] != b"EVALSHA":
        return _COMMANDS[command[0]]
    name = _SCRIPTS[command[1]]
    return "record" if name == "open" and len(command) > len(LOG((b"", b""))) else name


class Actor:
    """One call of a thread: runs to the next gate when it is let go."""

    def __init__(self, stage: Stage, who: Thread | str, work: Callable[[Actor], Any]) -> None:
        self._stage, self._work = stage, work
        self.who = who
        self.gate = "begin"
        self.state = "parked"
        self.lose_reply = False
        """The next exchange with the server is made, and its reply does not arrive."""
        self.due = 0
        """The version than which the answer must not be older."""
        self.asked = False
        """Whether it has been at the server or the origin itself, rather than answered from L1 or by another's flight."""
        self.outcome: Any = None
        self._go = threading.Semaphore(0)
        self.thread = threading.Thread(target=self._run, name=f"{who}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        _acting.set(self)
        self._go.acquire()
        try:
            self.outcome = self._work(self)
        except BaseException as error:  # the scheduler looks at it
            self.outcome = error
        self._stage.changed(self, "done")

    def pause(self, gate: str) -> None:
        """Wait at a gate; called in the actor's own thread."""
        self.gate, self.asked = gate, True
        self._stage.changed(self, "parked")
        self._go.acquire()

    def let_go(self) -> None:
        self.state = "running"
        self._go.release()


class _GatedLink:
    """A link that waits at a gate before each part of a call. `fine`: each command is a part; else what reads is one."""

    ordered = True

    def __init__(self, link: Any, stage: Stage) -> None:
        self._link, self._stage = link, stage

    def call(self, commands: Sequence[Command], now: float, limit: float | None = None) -> list[Any]:
        actor = _acting.get()
        if actor is None:
            return self._link.call(commands, now, limit)
        replies: list[Any] = []
        for gate, part in self._parts(commands):
            actor.pause(gate)
            replies += self._link.call(part, now, limit)
            self._stage.done(actor, gate, part)
            if actor.lose_reply:
                actor.lose_reply = False
                raise Unavailable(Failure.TIMEOUT, "the reply was lost")
            if gate == "fill" or self._stage.fine:
                actor.pause("keep" if gate == "fill" else f"back from {gate}")
        return replies

    def _parts(self, commands: Sequence[Command]) -> Iterator[tuple[str, list[Command]]]:
        parts: list[tuple[str, list[Command]]] = []
        for command in commands:
            gate = gate_of(command)
            if not parts or self._stage.fine or gate == "record":
                parts.append((gate, [command]))
            else:
                before, part = parts[-1]
                parts[-1] = ("record" if before == "record" else gate, [*part, command])
        return iter(parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


class GatedTier(RedisTier):
    """A RedisTier whose exchanges with the server wait at gates."""

    stage: Stage

    def link(self) -> Any:
        return _GatedLink(super().link(), self.stage)
