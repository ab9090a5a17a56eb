"""The protocol that keeps containers, L2 and the origin from bringing back what was invalidated, as a model.

One key, one tag that its entry carries, some containers, one invalidator. `moves` gives each step that may come next. A
step is one command or one script at a server, or what one thread does under L1's lock: between any two steps anything
else may happen. `Rule` names what the protocol asks for. Each can be taken away, and `explore` then shows what goes wrong.

The origin's value is its version, which grows with each change. Left out: time (whatever may expire does so at any
moment), values' windows, a second key. A lost log's ids begin anew, which is the worst that a server's clock could do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from world import Container, Entry, Flight, Log, Move, Position, Rule, Shared, Stage, Task, Thread, World

if TYPE_CHECKING:
    from collections.abc import Iterator


def moves(world: World, rules: frozenset[Rule]) -> Iterator[Move]:
    """Give every step that may come next."""
    yield from _invalidator(world, rules)
    yield from _server(world, rules)
    for number in range(len(world.containers)):
        yield from _container(world, number, rules)


# -- The invalidator ---------------------------------------------------------------------------------------------------


def _invalidator(world: World, rules: frozenset[Rule]) -> Iterator[Move]:
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
    yield from _record_tag(world, rules)


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
    yield Move("invalidator", f"{what}; the reply is lost", _with(world, 0, home._replace(l1=None)))
    home = home._replace(owed=log.recorded)  # the call has returned
    if Rule.NOTE_OWN in rules and home.position and home.position.epoch == log.epoch:
        home = home._replace(l1=None, named=log.end)
    elif Rule.NOTE_OWN in rules:
        home = _doubting(home)._replace(l1=None)
    yield Move("invalidator", what, _with(world, 0, home))


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


def _server(world: World, rules: frozenset[Rule]) -> Iterator[Move]:
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


# -- A container -------------------------------------------------------------------------------------------------------


def _container(world: World, number: int, rules: frozenset[Rule]) -> Iterator[Move]:
    """Begin a read, go on with one, join one, or look into the log in another thread."""
    here, who = world.containers[number], f"container {number}"
    if here.position is None:
        yield Move(who, "reads the log's end as its position", _with(world, number, _opened(here, world.log)))
        if Rule.POSITION_FIRST in rules:
            return
    elif here.position[:2] != (world.log.epoch, world.log.end):
        looked = _looked(here, world, number, rules)
        yield Move(who, "another thread catches up", _with(world, number, looked))
    if here.reads and None in here.flights:
        yield from _begin(world, Thread(number, here.flights.index(None)), rules)
    for thread, flight in enumerate(here.flights):
        if flight is not None:
            at = Thread(number, thread)
            yield _fly(world, at, flight, rules)
            if flight.due < here.owed and (Rule.JOIN_CHECK not in rules or _joinable(here, flight, rules)):
                yield Move(
                    str(at), "another caller joins the flight", _flown(world, at, here, flight._replace(due=here.owed))
                )


def _begin(world: World, at: Thread, rules: frozenset[Rule]) -> Iterator[Move]:
    """Begin a read that L1 does not answer: look and ask in either order, ask alone, or refresh."""
    here = world.containers[at.container]
    here = here._replace(reads=here.reads - 1)
    if here.position is None:
        yield _ask(world, at, here, Flight(Stage.OPEN, here.owed), rules)
        return
    looked = _looked(here, world, at.container, rules, marker=Rule.MARKER_WITH_LOG in rules)
    ahead = Flight(Stage.ASK, looked.owed)
    yield Move(str(at), "begins a read, catches up with log and marker", _flown(world, at, looked, ahead))
    yield _ask(world, at, here, Flight(Stage.LOOK, here.owed), rules)
    if here.covered:
        yield _ask(world, at, here, Flight(Stage.ASK, here.owed), rules)
    if world.l2.entry is not None:
        yield _lease(world, at, here, Flight(Stage.LEASE, here.owed), rules)


def _fly(world: World, at: Thread, flight: Flight, rules: frozenset[Rule]) -> Move:
    """Take the flight's next step."""
    here = world.containers[at.container]
    match flight.stage:
        case Stage.ASK:
            return _ask(world, at, here, flight, rules)
        case Stage.LOOK:
            return _look(world, at, flight, rules)
        case Stage.OPEN:
            here = here if here.position else _opened(here, world.log)
            after = _flown(world, at, here, _judged(here, flight, rules))
            return Move(str(at), "reads the log's end as its position", after)
        case Stage.LEASE:
            return _lease(world, at, here, flight, rules)
        case Stage.LOAD:
            return _load(world, at, here, flight)
        case Stage.FILL:
            return _fill(world, at, here, flight, rules)
        case Stage.WRITE:
            return _stored(world, at, here, flight)
        case Stage.KEEP:
            return _keep(world, at, here, flight, rules)


def _ask(world: World, at: Thread, here: Container, flight: Flight, rules: frozenset[Rule]) -> Move:
    """Ask L2 by one script: the value, or else the lease if it is free."""
    l2 = world.l2
    if l2.entry is not None:
        what, flight = f"reads version {l2.entry.version} from L2", flight._replace(entry=l2.entry)
    elif l2.lease is None:
        what, flight, l2 = "misses in L2 and takes the lease", flight._replace(leased=True), l2._replace(lease=at)
    elif here.unconfirmed is not None:
        stale = flight._replace(entry=here.unconfirmed)
        return _answered("misses in L2, finds the lease taken", world, at, here, stale)
    else:
        what = "misses in L2, finds the lease taken"
    if flight.stage is Stage.ASK:
        flight = _judged(here, flight, rules)
    return Move(str(at), what, _flown(world._replace(l2=l2), at, here, flight))


def _look(world: World, at: Thread, flight: Flight, rules: frozenset[Rule]) -> Move:
    """Catch up after asking, with the tag's marker; then judge what was read."""
    here = world.containers[at.container]
    if Rule.MARKER_WITH_LOG in rules or flight.entry is None:
        what, here = "catches up with log and marker", _looked(here, world, at.container, rules, marker=True)
    else:
        what, here = "reads the marker", _marked(here, world.log)
    after = here.flights[at.number]
    assert after is not None
    flight = _judged(here, after._replace(due=here.owed), rules)
    return Move(str(at), what, _flown(world, at, here, flight))


def _judged(here: Container, flight: Flight, rules: frozenset[Rule]) -> Flight:
    """Rule 4: go on with a living entry; without one, load. Where the marker is not known, look first."""
    if flight.entry is None:
        return _loading(here, flight, leased=flight.leased, rules=rules)
    if Rule.BORN_CHECK not in rules:
        return flight._replace(stage=Stage.KEEP)
    if not here.covered:
        return flight._replace(stage=Stage.LOOK)
    if flight.doubtful or _dead(here, flight.entry.born, rules):
        return Flight(Stage.LEASE, flight.due)
    return flight._replace(stage=Stage.KEEP)


def _lease(world: World, at: Thread, here: Container, flight: Flight, rules: frozenset[Rule]) -> Move:
    """Take the lease although a value may stand in L2: it is dead, or to be refreshed."""
    free = world.l2.lease is None
    if free:
        world = world._replace(l2=world.l2._replace(lease=at))
    what = "takes the lease" if free else "finds the lease taken"
    return Move(str(at), what, _flown(world, at, here, _loading(here, flight, leased=free, rules=rules)))


def _loading(here: Container, flight: Flight, *, leased: bool, rules: frozenset[Rule]) -> Flight:
    """Rule 1: what is loaded from now on is born at the container's position."""
    born = here.position if Rule.BORN_BEFORE_LOAD in rules else None
    return Flight(Stage.LOAD, flight.due, leased=leased, born=born)


def _load(world: World, at: Thread, here: Container, flight: Flight) -> Move:
    """Load from the origin."""
    stage = Stage.FILL if flight.leased else Stage.KEEP
    after = flight._replace(stage=stage, entry=Entry(world.origin, flight.born), born=None)
    what = f"loads version {world.origin}" + ("" if flight.leased else " without the lease")
    return Move(str(at), what, _flown(world, at, here, after))


def _fill(world: World, at: Thread, here: Container, flight: Flight, rules: frozenset[Rule]) -> Move:
    """Rule 3: store the value in L2 and give up the lease, in one script, only while the lease is one's own."""
    lease = world.l2.lease
    holds = lease == at if Rule.OWN_TOKEN in rules else lease is not None
    if Rule.FENCED_FILL in rules and not holds:
        return _answered("is refused the fill", world, at, here, flight)
    if Rule.FILL_AT_ONCE not in rules:
        return Move(str(at), "finds its lease in place", _flown(world, at, here, flight._replace(stage=Stage.WRITE)))
    return _stored(world, at, here, flight)


def _stored(world: World, at: Thread, here: Container, flight: Flight) -> Move:
    entry = _born(here, flight)
    after = flight._replace(stage=Stage.KEEP, entry=entry, leased=False)
    world = world._replace(l2=world.l2._replace(entry=entry, lease=None))
    return Move(str(at), f"fills L2 with version {entry.version}", _flown(world, at, here, after))


def _keep(world: World, at: Thread, here: Container, flight: Flight, rules: frozenset[Rule]) -> Move:
    """Rule 5: store into L1 what no record or gap, applied meanwhile, has killed; answer in any case."""
    entry = _born(here, flight)
    if Rule.RING_CHECK in rules and _dead(here, entry.born, rules):
        return _answered("does not keep it", world, at, here, flight)
    if Rule.GAP_CHECK in rules and flight.doubtful:
        return _answered("doubts, does not keep it", world, at, here, flight)
    return _answered("keeps it in L1", world, at, here._replace(l1=entry, unconfirmed=None), flight)


def _born(here: Container, flight: Flight) -> Entry:
    """Give the entry in hand; born now, if rule 1 did not see to it in time."""
    assert flight.entry is not None
    return flight.entry if flight.entry.born is not None else flight.entry._replace(born=here.position)


def _answered(what: str, world: World, at: Thread, here: Container, flight: Flight) -> Move:
    assert flight.entry is not None
    version = flight.entry.version
    return Move(str(at), f"{what}, answers version {version}", _flown(world, at, here, None), (version, flight.due))


# -- The log, as a container knows it ----------------------------------------------------------------------------------


def _opened(here: Container, log: Log) -> Container:
    """Begin at the log's end, without knowing any marker."""
    return here._replace(position=_end(log), owed=log.recorded)


def _looked(here: Container, world: World, number: int, rules: frozenset[Rule], *, marker: bool = False) -> Container:
    """Apply, in one step, what the log has that is new; with the tag's marker, where the tag is known."""
    log, position = world.log, here.position
    assert position is not None
    after = here._replace(position=_end(log), owed=log.recorded)
    lost, trimmed = position.epoch != log.epoch, position.id < log.kept_from - 1
    if lost or trimmed:
        after = _doubting(after)._replace(covered=False, named=0 if lost else here.named)
        if (Rule.UNCONFIRM_ON_LOSS if lost else Rule.UNCONFIRM_ON_TRIM) in rules:
            stale = None if Rule.UNCONFIRMED_IS_NOT_STALE in rules else after.l1
            after = after._replace(l1=None, unconfirmed=stale)
    if log.named > (0 if lost else position.id) and log.named >= log.kept_from:
        after = _applied(after, log, rules, own=world.at_home and number == 0)
    return _marked(after, log) if marker else after


def _marked(here: Container, log: Log) -> Container:
    """Note the tag's marker: from here on, each record that follows it will be seen."""
    return here._replace(named=max(here.named, log.marker), covered=True)


def _applied(here: Container, log: Log, rules: frozenset[Rule], *, own: bool) -> Container:
    """Rule 6: note the latest record that names the entry, and drop the entry if it is older."""
    if own and Rule.OWN_RECORDS not in rules:
        return here
    here = here._replace(named=log.named)
    if Rule.DROP_ON_APPLY in rules and here.l1 is not None and _dead(here, here.l1.born, rules):
        here = here._replace(l1=None)
    return here


def _doubting(here: Container) -> Container:
    """Mark what flights have in hand: nobody can tell any more what became of it."""
    return here._replace(flights=tuple(_doubted(flight) for flight in here.flights))


def _doubted(flight: Flight | None) -> Flight | None:
    nothing_in_hand = flight is None or flight.stage in {Stage.ASK, Stage.LEASE}
    return flight if nothing_in_hand else flight._replace(doubtful=True)


def _dead(here: Container, born: Position | None, rules: frozenset[Rule]) -> bool:
    """Whether a record or marker known here is younger than `born`, or the two cannot be compared."""
    assert born is not None
    assert here.position is not None
    foreign = Rule.EPOCH_IN_BORN in rules and born.epoch != here.position.epoch
    return foreign or born.id < here.named


def _joinable(here: Container, flight: Flight, rules: frozenset[Rule]) -> bool:
    """Rule 8: nothing that the flight has in hand, or is loading, has been invalidated as far as is known here."""
    born = flight.entry.born if flight.entry is not None else flight.born
    return not flight.doubtful and (born is None or not _dead(here, born, rules))


def _end(log: Log) -> Position:
    return Position(log.epoch, log.end, log.recorded)


def _with(world: World, number: int, here: Container) -> World:
    containers = world.containers
    return world._replace(containers=(*containers[:number], here, *containers[number + 1 :]))


def _flown(world: World, at: Thread, here: Container, flight: Flight | None) -> World:
    flights = here.flights
    flights = (*flights[: at.number], flight, *flights[at.number + 1 :])
    return _with(world, at.container, here._replace(flights=flights))
