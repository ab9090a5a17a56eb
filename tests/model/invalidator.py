"""The invalidator's part of the protocol, and what happens to L2 by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from world import Log, Move, Rule, Shared, Task, World, doubting, replaced

if TYPE_CHECKING:
    from collections.abc import Iterator

# -- The invalidator ---------------------------------------------------------------------------------------------------


def invalidators_moves(world: World, rules: frozenset[Rule]) -> Iterator[Move]:
    """Change the origin; then invalidate by the key or by the tag."""
    match world.task:
        case Task.REST if world.invalidations:
            left = world._replace(invalidations=world.invalidations - 1)
            if Rule.ORIGIN_FIRST in rules:
                yield _invalidates("changes the origin", left, Task.CHANGED, origin=world.origin + 1)
            else:
                yield from _by_key_or_tag(left, rules)
        case Task.CHANGED:
            yield from _by_key_or_tag(world, rules)
        case Task.HALF_DELETED:
            l2 = world.l2._replace(lease=None, deleted=_target(world, rules))
            yield _invalidates("deletes the lease", world, Task.DELETED, l2=l2)
        case Task.DELETED:
            yield from _record(world, rules, then=_last_task(rules))
        case Task.RECORDED:
            yield _delete(world, rules, then=_last_task(rules))
        case Task.UNMARKED:
            l2 = world.l2._replace(deleted=_target(world, rules))
            log = world.log._replace(marker=world.log.end)
            yield _invalidates("sets the tag's marker", world, _last_task(rules), l2=l2, log=log)
        case Task.TOLD:
            yield _invalidates("changes the origin", world, Task.REST, origin=world.origin + 1)


def _by_key_or_tag(world: World, rules: frozenset[Rule]) -> Iterator[Move]:
    """Begin an invalidation: of the key in two steps, of the tag in one."""
    if Rule.DELETE_BEFORE_RECORD in rules:
        yield _delete(world, rules, then=Task.DELETED)
    else:
        yield from _record(world, rules, then=Task.RECORDED)
    if Rule.DELETE_BEFORE_RECORD in rules and world.l2.entry is not None:
        yield _expire(world, rules)
    yield from _record_tag(world, rules)


def _expire(world: World, rules: frozenset[Rule]) -> Move:
    """Say in the value's header that it is fresh no longer, and delete the lease, in one script."""
    assert world.l2.entry is not None
    lease = None if Rule.DELETE_LEASE in rules else world.l2.lease
    l2 = Shared(world.l2.entry._replace(expired=True), lease, _target(world, rules))
    return _invalidates("expires the value, deletes the lease", world, Task.DELETED, l2=l2)


def _delete(world: World, rules: frozenset[Rule], *, then: Task) -> Move:
    """Delete value and lease in one script."""
    if Rule.DELETE_AT_ONCE not in rules:
        return _invalidates("deletes the value", world, Task.HALF_DELETED, l2=world.l2._replace(entry=None))
    lease = None if Rule.DELETE_LEASE in rules else world.l2.lease
    what = "deletes value and lease" if Rule.DELETE_LEASE in rules else "deletes the value"
    return _invalidates(what, world, then, l2=Shared(None, lease, _target(world, rules)))


def _record(world: World, rules: frozenset[Rule], *, then: Task) -> Iterator[Move]:
    """Append the key's record."""
    log = _appended(world, rules)
    yield from _noted("appends the key's record", world._replace(log=log, task=then), rules)


def _record_tag(world: World, rules: frozenset[Rule]) -> Iterator[Move]:
    """Append the tag's record and set its marker, in one script."""
    log = _appended(world, rules)
    if Rule.MARKER_WITH_RECORD not in rules:
        yield from _noted("appends the tag's record", world._replace(log=log, task=Task.UNMARKED), rules)
        return
    l2 = world.l2._replace(deleted=_target(world, rules))
    after = world._replace(log=log._replace(marker=log.end), l2=l2, task=_last_task(rules))
    yield from _noted("appends the tag's record and sets its marker", after, rules)


def _noted(what: str, world: World, rules: frozenset[Rule]) -> Iterator[Move]:
    """Note an own record at home. Where the reply is lost its id is unknown: only the local copy is gone."""
    if not world.at_home:
        yield Move("invalidator", what, world)
        return
    home, log = world.containers[0], world.log
    yield Move("invalidator", f"{what}; the reply is lost", replaced(world, 0, home._replace(l1=None)))
    home = home._replace(owed=log.recorded)  # the call has returned
    if Rule.NOTE_OWN in rules and home.position and home.position.epoch == log.epoch:
        home = home._replace(l1=None, named=log.end)
    elif Rule.NOTE_OWN in rules:
        home = doubting(home)._replace(l1=None)
    yield Move("invalidator", what, replaced(world, 0, home))


def _appended(world: World, rules: frozenset[Rule]) -> Log:
    log = world.log
    return log._replace(end=log.end + 1, named=log.end + 1, recorded=_target(world, rules))


def _target(world: World, rules: frozenset[Rule]) -> int:
    """Give the version that the invalidation makes way for."""
    return world.origin if Rule.ORIGIN_FIRST in rules else world.origin + 1


def _last_task(rules: frozenset[Rule]) -> Task:
    return Task.REST if Rule.ORIGIN_FIRST in rules else Task.TOLD


def _invalidates(what: str, world: World, task: Task, **changes: object) -> Move:
    return Move("invalidator", what, world._replace(task=task, **changes))


# -- What happens to L2 by itself --------------------------------------------------------------------------------------


def servers_moves(world: World, rules: frozenset[Rule]) -> Iterator[Move]:
    """Let the lease expire; trim the log; lose the log with all markers, the entry surviving in a slot of its own."""
    log = world.log
    if world.l2.lease is not None:
        yield Move("L2", "lets the lease expire", world._replace(l2=world.l2._replace(lease=None)))
    if world.trims:
        trimmed = log._replace(end=log.end + 1, kept_from=log.end + 1)
        yield Move("L2", "trims the log to a record of another key", world._replace(log=trimmed, trims=world.trims - 1))
    if world.losses:
        empty = Log(epoch=log.epoch + 1, recorded=log.recorded, lost=log.recorded)
        yield Move("L2", "loses log and markers", world._replace(log=empty, losses=world.losses - 1))
    if log.marker and Rule.MARKER_STAYS not in rules:
        yield Move("L2", "lets the tag's marker expire", world._replace(log=log._replace(marker=0)))
