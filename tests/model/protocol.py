"""The protocol that keeps containers, L2 and the origin from bringing back what was invalidated, as a model.

One key, one tag that its entry carries, some containers, one invalidator. `moves` gives each step that may come next. A
step is one command or one script at a server, or what one thread does under L1's lock: between any two steps anything
else may happen. `Rule` names what the protocol asks for. Each can be taken away, and `explore` then shows what goes wrong.

The origin's value is its version, which grows with each change. Left out: time (whatever may expire does so at any
moment), values' windows, a second key. A lost log's ids begin anew, which is the worst that a server's clock could do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from invalidator import invalidators_moves, servers_moves
from world import Container, Entry, Flight, Log, Move, Position, Rule, Stage, Thread, World, doubting, replaced

if TYPE_CHECKING:
    from collections.abc import Iterator


def moves(world: World, rules: frozenset[Rule]) -> Iterator[Move]:
    """Give every step that may come next."""
    yield from invalidators_moves(world, rules)
    yield from servers_moves(world, rules)
    for number in range(len(world.containers)):
        yield from containers_moves(world, number, rules)


# -- A container -------------------------------------------------------------------------------------------------------


def containers_moves(world: World, number: int, rules: frozenset[Rule]) -> Iterator[Move]:
    """Begin a read, go on with one, join one, or look into the log in another thread."""
    here, who = world.containers[number], f"container {number}"
    if here.position is None:
        yield Move(who, "reads the log's end as its position", replaced(world, number, _opened(here, world.log)))
        if Rule.POSITION_FIRST in rules:
            yield from (
                move for thread in range(len(here.flights)) for move in _ask_in_vain(world, Thread(number, thread))
            )
            return
    elif here.position[:2] != (world.log.epoch, world.log.end):
        looked = _looked(here, world, number, rules)
        yield Move(who, "another thread catches up", replaced(world, number, looked))
    for thread, flight in enumerate(here.flights):
        if flight is None:
            if here.reads:
                yield from _begin(world, Thread(number, thread), rules)
        else:
            at = Thread(number, thread)
            yield from _fly(world, at, flight, rules)
            if flight.due < here.owed and (Rule.JOIN_CHECK not in rules or _joinable(here, flight, rules)):
                yield Move(
                    str(at), "another caller joins the flight", _flown(world, at, here, flight._replace(due=here.owed))
                )


def _ask_in_vain(world: World, at: Thread) -> Iterator[Move]:
    """Ask along with the log's end, which is not told since there is no log: what L2 gave is thrown away, but the lease."""
    if world.l2.lease is None and world.l2.entry is None:
        yield Move(str(at), "takes the lease, and has no position", world._replace(l2=world.l2._replace(lease=at)))


def _begin(world: World, at: Thread, rules: frozenset[Rule]) -> Iterator[Move]:
    """Begin a read that L1 does not answer: look and ask, ask alone, ask for the lease too, or seize it."""
    here = world.containers[at.container]
    here = here._replace(reads=here.reads - 1)
    if here.position is None:
        yield _ask(world, at, here, Flight(Stage.OPEN, here.owed), rules)
        return
    flight = Flight(Stage.ASK, here.owed, held=here.l1)
    flying = _flown(world, at, here, flight).containers[at.container]
    looked = _looked(flying, world, at.container, rules, marker=Rule.MARKER_WITH_LOG in rules)
    ahead = looked.flights[at.number]
    assert ahead is not None
    after = _flown(world, at, looked, ahead._replace(due=looked.owed))
    yield Move(str(at), "begins a read, catches up with log and marker", after)
    yield _ask(world, at, here, flight, rules)
    yield from _insist(world, at, here, flight, rules)
    if world.l2.lease is not None:
        seized = world._replace(l2=world.l2._replace(lease=at))
        yield Move(
            str(at), "seizes the lease", _flown(seized, at, here, _loading(here, flight, leased=True, rules=rules))
        )


def _fly(world: World, at: Thread, flight: Flight, rules: frozenset[Rule]) -> Iterator[Move]:
    """Take the flight's next step."""
    here = world.containers[at.container]
    match flight.stage:
        case Stage.ASK:
            yield _ask(world, at, here, flight, rules)
        case Stage.LOOK:
            yield _look(world, at, flight, rules)
        case Stage.OPEN:
            here = here if here.position else _opened(here, world.log)
            after = _flown(world, at, here, _judged(here, flight, rules))
            yield Move(str(at), "reads the log's end as its position", after)
        case Stage.LEASE:
            yield from _insist(world, at, here, flight, rules)
            if here.l1 is not None:
                yield _answered("finds it in L1 meanwhile", world, at, here, flight._replace(entry=here.l1))
            yield from _wait(world, at, here, flight, rules)
        case Stage.LOAD:
            yield _load(world, at, here, flight)
            yield from _ask_again(world, at, here, flight, rules)
        case Stage.FILL:
            yield _fill(world, at, here, flight, rules)
            if flight.doubtful or _dead(here, _born(here, flight).born, rules):
                yield _answered("gives up its lease", _released(world, at), at, here, flight)
        case Stage.WRITE:
            yield _stored(world, at, here, flight)
        case Stage.KEEP:
            yield _keep(world, at, here, flight, rules)
            if here.l1 is not None:
                yield _kept("finds a later one in L1", world, at, here, flight)
        case Stage.RELEASE:
            yield _answered("gives up its lease", _released(world, at), at, here, flight)


def _wait(world: World, at: Thread, here: Container, flight: Flight, rules: frozenset[Rule]) -> Iterator[Move]:
    """Join the flight of another thread, in place of one's own."""
    for number, other in enumerate(here.flights):
        if number != at.number and other is not None and _joinable(here, other, rules):
            joined = other._replace(due=max(other.due, flight.due))
            after = _flown(world, Thread(at.container, number), here, joined)
            yield Move(str(at), "joins another's flight", _flown(after, at, after.containers[at.container], None))


def _released(world: World, at: Thread) -> World:
    """Give up the lease, in one script, if it is still one's own."""
    return world._replace(l2=world.l2._replace(lease=None)) if world.l2.lease == at else world


def _ask(world: World, at: Thread, here: Container, flight: Flight, rules: frozenset[Rule]) -> Move:
    """Ask L2 by one script: the value, or else the lease if it is free."""
    l2 = world.l2
    if l2.entry is not None:
        what, flight = f"reads version {l2.entry.version} from L2", flight._replace(entry=l2.entry)
    elif l2.lease in {None, at}:
        what, flight, l2 = "misses in L2 and takes the lease", flight._replace(leased=True), l2._replace(lease=at)
    else:
        what, flight = "misses in L2, finds the lease taken", flight._replace(refused=True)
    if flight.stage is Stage.ASK:
        return _went_on(what, world._replace(l2=l2), at, here, flight, rules)
    return Move(str(at), what, _flown(world._replace(l2=l2), at, here, flight))


def _ask_again(world: World, at: Thread, here: Container, flight: Flight, rules: frozenset[Rule]) -> Iterator[Move]:
    """Ask once more, by the same token, as who waits for another's load, or had to catch up first."""
    again = Flight(Stage.ASK, flight.due, held=flight.held)
    yield _ask(world, at, here, again, rules)
    yield from _insist(world, at, here, again, rules)


def _insist(world: World, at: Thread, here: Container, flight: Flight, rules: frozenset[Rule]) -> Iterator[Move]:
    """Ask L2 by one script: the value, and the lease if it is free, though there be a value: it is dead, or stale."""
    l2 = world.l2
    free = l2.lease in {None, at}
    after = world._replace(l2=l2._replace(lease=at)) if free else world
    what = "takes the lease" if free else "finds the lease taken"
    flight = flight._replace(entry=None, leased=free, refused=not free)
    yield _went_on(what, after, at, here, flight, rules)
    if l2.entry is not None:
        what = f"reads version {l2.entry.version} from L2, {what}"
        yield _went_on(what, after, at, here, flight._replace(entry=l2.entry), rules)


def _look(world: World, at: Thread, flight: Flight, rules: frozenset[Rule]) -> Move:
    """Catch up after asking, with the tag's marker; then judge what was read."""
    here = world.containers[at.container]
    if Rule.MARKER_WITH_LOG in rules:
        what, here = "catches up with log and marker", _looked(here, world, at.container, rules, marker=True)
    else:
        what, here = "reads the marker", _marked(here, world.log)
    after = here.flights[at.number]
    assert after is not None
    return _went_on(what, world, at, here, after._replace(due=here.owed), rules)


def _went_on(what: str, world: World, at: Thread, here: Container, flight: Flight, rules: frozenset[Rule]) -> Move:
    """Judge what L2 gave. Where that is nothing and another holds the lease, serve what L1 held, if it may be served."""
    after = _judged(here, flight, rules)
    if after.stage is Stage.LOAD and flight.refused:
        held = here.unconfirmed if flight.held is None else flight.held
        if held is not None and (Rule.HELD_CHECK not in rules or not _dead(here, held.born, rules)):
            return _answered(what, world, at, here, flight._replace(entry=held))
    return Move(str(at), what, _flown(world, at, here, after))


def _judged(here: Container, flight: Flight, rules: frozenset[Rule]) -> Flight:
    """Rule 4: go on with a living entry; without one, load. Where the marker is needed and not known, look first."""
    entry = flight.entry
    assert here.position is not None
    if entry is None:
        return _loading(here, flight, leased=flight.leased, rules=rules)
    if Rule.BORN_CHECK not in rules:
        return flight._replace(stage=Stage.KEEP, refused=False, held=None)
    assert entry.born is not None
    if entry.born.id < here.known_from and entry.born.epoch <= here.position.epoch:
        return flight._replace(stage=Stage.LOOK)
    if not (flight.doubtful or entry.expired or _dead(here, entry.born, rules)):
        return flight._replace(stage=Stage.KEEP, refused=False, held=None)
    if flight.leased or flight.refused:
        return _loading(here, flight, leased=flight.leased, rules=rules)
    return Flight(Stage.LEASE, flight.due, held=flight.held)


def _loading(here: Container, flight: Flight, *, leased: bool, rules: frozenset[Rule]) -> Flight:
    """Rule 1: what is loaded from now on is born at the container's position."""
    born = here.position if Rule.BORN_BEFORE_LOAD in rules else None
    return Flight(Stage.LOAD, flight.due, leased=leased, born=born, held=flight.held)


def _load(world: World, at: Thread, here: Container, flight: Flight) -> Move:
    """Load from the origin."""
    stage = Stage.FILL if flight.leased else Stage.KEEP
    after = flight._replace(stage=stage, entry=Entry(world.origin, flight.born), born=None, held=None)
    what = f"loads version {world.origin}" + ("" if flight.leased else " without the lease")
    return Move(str(at), what, _flown(world, at, here, after))


def _fill(world: World, at: Thread, here: Container, flight: Flight, rules: frozenset[Rule]) -> Move:
    """Rule 3: store the value in L2 and give up the lease, in one script, only while the lease is one's own."""
    lease = world.l2.lease
    holds = lease == at if Rule.OWN_TOKEN in rules else lease is not None
    if Rule.FENCED_FILL in rules and not holds:
        return _answered("is refused the fill", world, at, here._replace(l1=None), flight)
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
        what = "does not keep it"
    elif Rule.GAP_CHECK in rules and flight.doubtful:
        what = "doubts, does not keep it"
    else:
        what, here = "keeps it in L1", here._replace(l1=entry, unconfirmed=None)
    return _kept(what, world, at, here, flight)


def _kept(what: str, world: World, at: Thread, here: Container, flight: Flight) -> Move:
    if flight.leased:
        return Move(str(at), what, _flown(world, at, here, flight._replace(stage=Stage.RELEASE)))
    return _answered(what, world, at, here, flight)


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
    return here._replace(position=_end(log), known_from=log.end, owed=log.recorded)


def _looked(here: Container, world: World, number: int, rules: frozenset[Rule], *, marker: bool = False) -> Container:
    """Apply, in one step, what the log has that is new; with the tag's marker, where the tag is known."""
    log, position = world.log, here.position
    assert position is not None
    after = here._replace(position=_end(log), owed=log.recorded)
    lost, trimmed = position.epoch != log.epoch, position.id < log.kept_from - 1
    if lost or trimmed:
        after = doubting(after)._replace(known_from=log.end, named=0 if lost else here.named)
        if (Rule.UNCONFIRM_ON_LOSS if lost else Rule.UNCONFIRM_ON_TRIM) in rules:
            stale = None if Rule.UNCONFIRMED_IS_NOT_STALE in rules else after.l1
            after = after._replace(l1=None, unconfirmed=stale)
    if log.named > (0 if lost else position.id) and log.named >= log.kept_from:
        after = _applied(after, log, rules, own=world.at_home and number == 0)
    return _marked(after, log) if marker else after


def _marked(here: Container, log: Log) -> Container:
    """Note the tag's marker: from here on, each record that follows it will be seen."""
    return here._replace(named=max(here.named, log.marker), known_from=0)


def _applied(here: Container, log: Log, rules: frozenset[Rule], *, own: bool) -> Container:
    """Rule 6: note the latest record that names the entry, and drop the entry if it is older."""
    if own and Rule.OWN_RECORDS not in rules:
        return here
    here = here._replace(named=log.named)
    if Rule.DROP_ON_APPLY in rules and here.l1 is not None and _dead(here, here.l1.born, rules):
        here = here._replace(l1=None)
    return here


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


def _flown(world: World, at: Thread, here: Container, flight: Flight | None) -> World:
    flights = here.flights
    flights = (*flights[: at.number], flight, *flights[at.number + 1 :])
    return replaced(world, at.container, here._replace(flights=flights))
