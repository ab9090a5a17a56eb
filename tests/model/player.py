"""Plays schedules with the real code and the model side by side: at each point one of the steps that may come next."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lockstep import ENDLESS, Answered, Lockstep
from world import Thread, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gates import Actor
    from stage import Stage


class Bounds(NamedTuple):
    """How much may happen in a schedule.

    opened: every container has looked into the log before.
    lockstep: each step is held against the model too; not where the stage has gates that the model does not have.
    """

    reads: int = 3
    catch_ups: int = 2
    invalidations: int = 2
    by: tuple[str, ...] = ("delete", "expire", "tag", "clear")
    expiries: int = 1
    trims: int = 0
    losses: int = 0
    threads: int = 1
    lockstep: bool = True
    opened: bool = True


_ANYBODY = ("container 0, anybody", "container 1, anybody")


class Step(NamedTuple):
    """A step that may come next. Its text is what a failing schedule shows."""

    text: str
    do: Callable[[], Sequence[Actor] | None]
    by: frozenset[str]

    def __repr__(self) -> str:
        return self.text


class Player:
    """One schedule under way. `choose` gives one of the steps that it is given."""

    def __init__(self, stage: Stage, bounds: Bounds, choose: Callable[[Sequence[Step]], Step]) -> None:
        self.stage, self.bounds, self.choose = stage, bounds, choose
        self.played: list[str] = []
        self._left = bounds._asdict()
        self._changed = False
        for number in range(len(stage.caches) if bounds.opened else 0):
            stage.finish(stage.catch_up(number))
        endless = (ENDLESS,) * len(stage.caches)
        world = start(
            endless,
            ENDLESS,
            threads=bounds.threads,
            trims=ENDLESS,
            losses=ENDLESS,
            at_home=stage.home is not None,
        )
        self._model = Lockstep(world) if bounds.lockstep and not stage.fine else None
        if self._model is not None and not self._model.follow(stage.seen, _ANYBODY, (), ()):
            raise AssertionError(f"the model does not begin so: {stage.seen}")

    def play(self) -> None:
        """Go on until nothing is left to be done, and then see what a new container would be given."""
        while steps := [*self._going_on(), *self._beginning(), *self._happening()]:
            self._take(self.choose(steps))
        self.end()

    def end(self) -> None:
        """What is still under way comes to its end, and a new container asks."""
        while live := self.stage.live():
            self._take(self._step(live[0]))
        self.stage.ask_anew()

    def take(self, who: str, *what: str) -> None:
        """Have `who` take the steps of these texts."""
        for text in what:
            steps = [*self._going_on(), *self._beginning(), *self._happening()]
            self._take(next(step for step in steps if step.text == f"{who}: {text}"))

    def _take(self, step: Step) -> None:
        stage, by = self.stage, set(step.by)
        waiting = [call for call in stage.calls() if call.state == "running"]
        by |= {str(call.who) for call in waiting}
        self.played.append(step.text)
        ended = step.do() or ()
        if self._model is None:
            return
        answered = [
            Answered(one.who, one.outcome.value, own=one.outcome.tier != "l1" and one not in waiting)
            for one in ended
            if isinstance(one.who, Thread)
        ]
        busy = {call.who for call in stage.calls() if isinstance(call.who, Thread)}
        before = self._model.worlds
        if not self._model.follow(stage.seen, by, answered, busy):
            lines = "\n".join(self.played)
            one = f"in the model one of {len(before)}: {next(iter(before))}"
            raise AssertionError(
                f"the model has no such step.\n{lines}\nseen: {stage.seen}\n{answered=}\n{busy=}\n{one}"
            )

    def _going_on(self) -> Iterable[Step]:
        return [self._step(actor) for actor in self.stage.live()]

    def _step(self, actor: Actor) -> Step:
        by = {str(actor.who)}
        if isinstance(actor.who, Thread):
            by.add(f"container {actor.who.container}, anybody")
        elif actor.who.startswith("container"):
            by = {f"{actor.who.partition(',')[0]}, anybody"}
        elif self.stage.home is not None:
            by.add("container 0, anybody")
        return Step(f"{actor.who}: {actor.gate}", lambda: self.stage.step(actor), frozenset(by))

    def _beginning(self) -> Iterable[Step]:
        stage, nobody = self.stage, frozenset[str]()
        taken = {call.who for call in stage.calls()}
        for container in range(len(stage.caches)):
            idle = [Thread(container, number) for number in range(self.bounds.threads)]
            thread = next((thread for thread in idle if thread not in taken), None)
            if self._left["reads"] and thread is not None:
                for looks in (True, False):
                    text = f"{thread}: begins to read" + (" in a new invocation" if looks else "")
                    yield Step(text, self._spending("reads", stage.read, thread, looks=looks), nobody)
            if self._left["catch_ups"] and f"container {container}, another thread" not in taken:
                text = f"container {container}, another thread: begins to catch up"
                yield Step(text, self._spending("catch_ups", stage.catch_up, container), nobody)
        if "invalidator" in taken:
            return
        if self._changed:
            for how in self.bounds.by:
                yield Step(f"invalidator: begins {how}", self._invalidating(how), nobody)
        elif self._left["invalidations"]:
            yield Step("invalidator: changes the origin", self._changing, frozenset({"invalidator"}))

    def _happening(self) -> Iterable[Step]:
        stage, by = self.stage, frozenset({"L2"})
        if stage.seen.lease is not None and self._left["expiries"]:
            yield Step("the lease expires", self._spending("expiries", stage.expire_lease), by)
        if self._left["trims"]:
            yield Step("the log is trimmed", self._spending("trims", stage.trim), by)
        if self._left["losses"] and stage.server.exists("tc1:{stage|}:log"):
            yield Step("the log is lost", self._spending("losses", stage.lose), by)

    def _spending(self, what: str, do: Callable[..., object], *args: object, **options: object) -> Callable[[], None]:
        def spend() -> None:
            self._left[what] -= 1
            do(*args, **options)

        return spend

    def _changing(self) -> None:
        self._left["invalidations"] -= 1
        self._changed = True
        self.stage.change()

    def _invalidating(self, how: str) -> Callable[[], None]:
        def begin() -> None:
            self._changed = False
            self.stage.invalidate(how)

        return begin
