"""Whether what the real code does is something that the model may do: each of its steps against the model's own moves."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from invalidator import invalidators_moves, servers_moves
from protocol import containers_moves
from stage import Held, Known, Seen
from world import ALL, Thread

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from world import Container, Entry, Move, World

ENDLESS = 1_000
MOST_MOVES = 4
"""Moves of the model that one step of the real code may be: one exchange, and all that a thread does until the next."""
ANYBODYS = {"another thread catches up", "reads the log's end as its position"}
"""What any thread of a container does in the container's name."""


class Answered(NamedTuple):
    """A call that has ended."""

    thread: Thread
    version: int
    own: bool
    """Not from L1, nor by another caller's flight."""


class Lockstep:
    """All worlds of the model in which the real one may be, as far as can be seen."""

    def __init__(self, world: World) -> None:
        self.worlds = {world}

    def follow(self, seen: Seen, by: Collection[str], answered: Iterable[Answered], busy: Collection[Thread]) -> bool:
        """Go on to the worlds that are like what is seen now, by moves of `by` alone; False where there is none.

        busy: the threads that are in a call; in the model, no other has a flight.
        """
        answers = frozenset(answered)
        ahead = {(world, answers) for world in self.worlds}
        reached, found = set(ahead), set()
        for _ in range(MOST_MOVES + 1):
            found |= {world for world, left in ahead if _fits(world, seen, left, busy)}
            ahead = {after for world, left in ahead for after in _after(world, left, by, busy)} - reached
            reached |= ahead
        self.worlds = {_endless(world) for world in found}
        return bool(found)


def seen_in(world: World) -> Seen:
    """What can be seen of a world of the model."""
    return Seen(
        _held(world.l2.entry),
        world.l2.lease,
        (world.log.epoch, world.log.end),
        world.log.marker,
        tuple(_known(here) for here in world.containers),
    )


def _endless(world: World) -> World:
    """With as much left as ever, and no answer due: the stage says how much may happen, and what is due."""
    containers = tuple(
        here._replace(reads=ENDLESS, flights=tuple(flight and flight._replace(due=0) for flight in here.flights))
        for here in world.containers
    )
    return world._replace(containers=containers, invalidations=ENDLESS, trims=ENDLESS, losses=ENDLESS)


def _known(here: Container) -> Known:
    return Known(_held(here.l1), None if here.position is None else here.position[:2])


def _held(entry: Entry | None) -> Held | None:
    return None if entry is None or entry.born is None else Held(entry.version, entry.born[:2], entry.expired)


def _fits(world: World, seen: Seen, left: frozenset[Answered], busy: Collection[Thread]) -> bool:
    flying = (
        Thread(container, number)
        for container, here in enumerate(world.containers)
        for number, flight in enumerate(here.flights)
        if flight is not None
    )
    return not any(answer.own for answer in left) and seen_in(world) == seen and set(flying) <= set(busy)


def _after(
    world: World, left: frozenset[Answered], by: Collection[str], busy: Collection[Thread]
) -> Iterator[tuple[World, frozenset[Answered]]]:
    going_on = {str(thread) for thread in busy} | {str(answer.thread) for answer in left}
    for move in _moves(world, frozenset(name.partition(",")[0] for name in by)):
        mine = move.who in by and (move.who in going_on or not move.who.startswith("container"))
        if not mine and not (move.what in ANYBODYS and f"{move.who}, anybody" in by):
            continue
        if move.answer is None:
            yield move.world, left
        else:
            yield from ((move.world, left - {one}) for one in left if _is_told(move, one))


@lru_cache(maxsize=20_000)
def _moves(world: World, by: frozenset[str]) -> tuple[Move, ...]:
    """The moves of those named: the invalidator, L2, or containers."""
    found: list[Move] = []
    found += invalidators_moves(world, ALL) if "invalidator" in by else ()
    found += servers_moves(world, ALL) if "L2" in by else ()
    for number in range(len(world.containers)):
        if f"container {number}" in by:
            found += (*containers_moves(world, number, ALL), *_from_behind(world, number))
    return tuple(found)


def _from_behind(world: World, number: int) -> Iterator[Move]:
    """Looks that began when the container was further back, and cannot follow: as if the log were trimmed for them alone.

    They cost L1 what it holds, and no more: the model has trims that lead to the same.
    """
    trimmed = world._replace(log=world.log._replace(kept_from=world.log.end + 1))
    for move in containers_moves(trimmed, number, ALL):
        if move.what == "another thread catches up":
            yield move._replace(world=move.world._replace(log=world.log))


def _is_told(move: Move, answered: Answered) -> bool:
    return move.answer is not None and move.who == str(answered.thread) and move.answer[0] == answered.version
