"""Every world that the protocol can reach, breadth first, held against the invariants.

`python tests/model/explore.py [--large] [RULE ...]` explores all scenarios without the rules named, and prints what it finds.
"""

from __future__ import annotations

import gc
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from protocol import moves
from world import ALL, Entry, Log, Move, Rule, World, start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Steps = dict[World, "tuple[World, str, str] | None"]
"""Each world that was reached: from which, by whom and by what, for the shortest way."""


class Found(NamedTuple):
    """What an exploration found."""

    states: int
    seconds: float
    done: frozenset[str]
    """What was done somewhere, without who and which version."""
    broken: str | None = None
    """The invariant that does not hold, as a sentence."""
    trace: tuple[tuple[str, str], ...] = ()
    """The shortest way there: who did what."""

    def __str__(self) -> str:
        size = f"{self.states:,} states in {self.seconds:.1f} s"
        if self.broken is None:
            return f"holds: {size}"
        lines = (f"{number:4}. {who}: {what}" for number, (who, what) in enumerate(self.trace, 1))
        return "\n".join((f"BROKEN: {self.broken} ({size})", *lines))


# -- Invariants of a world: each gives True where it holds --------------------------------------------------------------


def l2_holds_nothing_deleted(world: World) -> bool:
    """No living entry in L2 is older than the last invalidation that is complete there."""
    entry = world.l2.entry
    return entry is None or not _lives(entry, world.log) or entry.version >= world.l2.deleted


def l1_holds_nothing_older_than_applied(world: World) -> bool:
    """No L1 holds a value older than a record that its container has applied, or that came before its position."""
    return all(here.l1 is None or here.l1.version >= here.owed for here in world.containers)


def born_is_at_most_too_old(world: World) -> bool:
    """No entry in a tier claims to know of an invalidation that came after its load."""
    entries = (world.l2.entry, *(here.l1 for here in world.containers))
    return all(entry is None or entry.born is None or entry.version >= entry.born.truth for entry in entries)


def values_are_the_origins(world: World) -> bool:
    """No tier holds what the origin never was."""
    entries = (world.l2.entry, *(here.l1 for here in world.containers))
    return all(entry is None or 0 <= entry.version <= world.origin for entry in entries)


def a_lost_log_is_outlived(world: World) -> bool:
    """Once a container has looked into the log that took a lost one's place, its L1 holds nothing invalidated before."""
    return all(
        here.l1 is None or here.l1.version >= world.log.lost
        for here in world.containers
        if here.position is not None and here.position.epoch == world.log.epoch
    )


# -- Invariants of an answer --------------------------------------------------------------------------------------------


def answers_are_not_invalidated(move: Move) -> bool:
    """No answer is older than what its container knew to be invalidated when the call began, or learnt by its catch-up."""
    return move.answer is None or move.answer[0] >= move.answer[1]


def answers_are_the_origins(move: Move) -> bool:
    """Every answer was the origin's value at some moment."""
    return move.answer is None or 0 <= move.answer[0] <= move.world.origin


OF_WORLDS: tuple[Callable[[World], bool], ...] = (
    l2_holds_nothing_deleted,
    l1_holds_nothing_older_than_applied,
    born_is_at_most_too_old,
    values_are_the_origins,
    a_lost_log_is_outlived,
)
OF_ANSWERS: tuple[Callable[[Move], bool], ...] = (answers_are_not_invalidated, answers_are_the_origins)


def _lives(entry: Entry, log: Log) -> bool:
    """Whether a reader that knows all of the log, and follows rule 4, would take the entry."""
    return (
        entry.born is not None and not entry.expired and entry.born.epoch == log.epoch and entry.born.id >= log.marker
    )


def explore(world: World, rules: frozenset[Rule] = ALL) -> Found:
    """Reach every world from this one; stop at the first that breaks an invariant, which is one of the nearest."""
    gc.disable()  # tuples by the million, and no circles to be found among them
    try:
        return _explored(world, rules)
    finally:
        gc.enable()


def _explored(world: World, rules: frozenset[Rule]) -> Found:
    began = time.perf_counter()
    steps: Steps = {world: None}
    done: set[str] = set()
    ahead = deque([world])
    while ahead:
        here = ahead.popleft()
        for move in moves(here, rules):
            done.add(move.what)
            new = move.world not in steps
            if new:
                steps[move.world] = (here, move.who, move.what)
                ahead.append(move.world)
            broken = _broken(move, new=new)
            if broken:
                trace = (*_way(steps, here), (move.who, move.what))
                return Found(len(steps), time.perf_counter() - began, frozenset(done), broken, trace)
    return Found(len(steps), time.perf_counter() - began, frozenset(done))


def _broken(move: Move, *, new: bool) -> str | None:
    """Give what the first broken invariant says, if one is."""
    for answer in OF_ANSWERS:
        if move.answer is not None and not answer(move):
            return answer.__doc__
    for invariant in OF_WORLDS:
        if new and not invariant(move.world):
            return invariant.__doc__
    return None


def _way(steps: Steps, world: World) -> Iterable[tuple[str, str]]:
    """Give who did what from the start to `world`."""
    backwards: list[tuple[str, str]] = []
    step = steps[world]
    while step is not None:
        world, who, what = step
        backwards.append((who, what))
        step = steps[world]
    return reversed(backwards)


def reachable(world: World, rules: frozenset[Rule] = ALL) -> Iterator[World]:
    """Give each world that can be reached, nearest first."""
    seen, ahead = {world}, deque([world])
    while ahead:
        here = ahead.popleft()
        yield here
        for move in moves(here, rules):
            if move.world not in seen:
                seen.add(move.world)
                ahead.append(move.world)


SMALL = {
    "two reads": start((2, 1), 1),
    "two invalidations": start((1, 1), 2),
    "two flights in a container": start((2,), 2, threads=2),
    "the log trimmed": start((1, 1), 1, trims=1),
    "the log lost": start((1, 1), 1, losses=1),
    "the invalidator at home": start((2, 1), 1, at_home=True),
}
"""Half a million states in all."""

LARGE = {
    "two reads each": start((2, 2), 1),
    "two reads each, two invalidations": start((2, 2), 2),
    "two flights in each container": start((2, 1), 1, threads=2),
    "the log trimmed": start((2, 1), 1, trims=1),
    "the log lost": start((2, 1), 1, losses=1),
    "the invalidator at home": start((2, 1), 2, at_home=True),
}
"""Millions of states: some minutes, and some gigabytes."""


def main(given: list[str]) -> None:
    """Explore; `--large` for the large scenarios."""
    rules = ALL - {Rule[name] for name in given if name != "--large"}
    for name, world in (LARGE if "--large" in given else SMALL).items():
        print(f"{name}: {explore(world, rules)}", flush=True)  # noqa: T201  # this is its output


if __name__ == "__main__":
    main(sys.argv[1:])
