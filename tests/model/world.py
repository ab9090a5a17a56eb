"""What the protocol's model is made of: the rules, and a world as frozen values.

Fields marked *ghost* are not in the protocol: they remember the truth, so that invariants can be told.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple


class Rule(Enum):
    """What the protocol asks for. The numbers are those of `docs/decisions/0006-protocol.md`."""

    BORN_BEFORE_LOAD = "1: born is the log position read before the load begins, not after it"
    ORIGIN_FIRST = "2: the origin has changed before the invalidation begins"
    DELETE_LEASE = "2: a deletion takes the lease too"
    DELETE_AT_ONCE = "2: value and lease are deleted in one script"
    DELETE_BEFORE_RECORD = "2: the record is appended after the deletion"
    MARKER_WITH_RECORD = "2: a tag's record and marker are written in one script"
    MARKER_STAYS = "2: a tag's marker outlives the entries that carry the tag"
    FENCED_FILL = "3: a fill needs its lease"
    OWN_TOKEN = "3: a fill needs its own lease, told by its token"
    FILL_AT_ONCE = "3: a fill checks and stores in one script"
    BORN_CHECK = "4: an entry read from L2 is held against records and markers"
    MARKER_WITH_LOG = "4: markers are read in one script with the log's news, so both are of one epoch"
    EPOCH_IN_BORN = "4: an entry born in another epoch of the log is dead"
    HELD_CHECK = "4: what L1 held is held against what was learnt meanwhile before it is served while another loads"
    RING_CHECK = "5: a store into L1 is held against the records applied meanwhile"
    GAP_CHECK = "5: a gap in the log, noticed meanwhile, counts as a record"
    DROP_ON_APPLY = "6: applying a record drops the L1 entry it names"
    OWN_RECORDS = "6: a container applies its own records too"
    NOTE_OWN = "6: the container that invalidates notes it before its call returns"
    POSITION_FIRST = "7: a new container reads its position before anything else"
    UNCONFIRM_ON_TRIM = "7: a log trimmed past the position leaves L1 unconfirmed"
    UNCONFIRM_ON_LOSS = "7: a log of another epoch leaves L1 unconfirmed"
    UNCONFIRMED_IS_NOT_STALE = "7: an unconfirmed value is no stale value to serve while another loads"
    JOIN_CHECK = "8: a flight is joined only while what it holds is not invalidated"


ALL = frozenset(Rule)


class Thread(NamedTuple):
    """A thread of a container, by the numbers of both."""

    container: int
    number: int

    def __str__(self) -> str:
        return f"container {self.container}" + (f", thread {self.number}" if self.number else "")


class Position(NamedTuple):
    """A place in the log."""

    epoch: int
    id: int
    truth: int
    """Ghost: the version of the latest record up to here."""


class Entry(NamedTuple):
    """A value in L1, in L2, or in a thread's hands."""

    version: int
    born: Position | None
    """None only where it is determined too late, for want of a rule."""
    expired: bool = False
    """Kept in L2 to cover for a load that fails, and otherwise as good as nothing."""


class Log(NamedTuple):
    """The namespace's log and, beside it in the same slot, the tag's marker."""

    epoch: int = 0
    end: int = 0
    """Id of the latest record."""
    kept_from: int = 0
    """Older records have been trimmed."""
    named: int = 0
    """Id of the latest record that names the key or the tag."""
    marker: int = 0
    recorded: int = 0
    """Ghost: the version of the latest invalidation that has a record, in any epoch."""
    lost: int = 0
    """Ghost: the same, in the epochs before this one."""


class Shared(NamedTuple):
    """What L2 holds under the key."""

    entry: Entry | None = None
    lease: Thread | None = None
    """The token: whose it is, since a thread has at most one."""
    deleted: int = 0
    """Ghost: the version of the latest invalidation that is complete in L2."""


class Stage(Enum):
    """What a flight does next."""

    ASK = auto()
    LOOK = auto()
    OPEN = auto()
    LEASE = auto()
    LOAD = auto()
    FILL = auto()
    WRITE = auto()
    KEEP = auto()
    RELEASE = auto()

    __hash__ = object.__hash__  # Enum's own is written in Python, and a world holds several


class Flight(NamedTuple):
    """A read that L1 does not answer."""

    stage: Stage
    due: int
    """Ghost: the answer must not be older than this version."""
    entry: Entry | None = None
    leased: bool = False
    refused: bool = False
    """Another holds the lease."""
    held: Entry | None = None
    """What L1 held when the read began, past its time there."""
    born: Position | None = None
    doubtful: bool = False
    """A gap in the log was noticed while something was in hand."""


class Container(NamedTuple):
    """One container: L1, what it knows of the log, and a flight for each thread that loads.

    Beyond these, other threads look into the log and join flights.
    """

    reads: int
    """How many more reads may begin."""
    l1: Entry | None = None
    position: Position | None = None
    named: int = 0
    """Id of the latest record or marker known to name the key or its tag."""
    known_from: int = 0
    """Entries born from there on need no marker: no record since was missed. 0 once the marker was read."""
    owed: int = 0
    """Ghost: the version of the latest invalidation that this container is held to know."""
    flights: tuple[Flight | None, ...] = (None,)
    unconfirmed: Entry | None = None
    """What stays of L1 when the log cannot be followed, where a rule is missing."""


class Task(Enum):
    """What the invalidator does next."""

    REST = auto()
    CHANGED = auto()
    HALF_DELETED = auto()
    DELETED = auto()
    RECORDED = auto()
    UNMARKED = auto()
    TOLD = auto()

    __hash__ = object.__hash__


class World(NamedTuple):
    """Everything there is."""

    containers: tuple[Container, ...]
    invalidations: int
    """How many more may begin."""
    trims: int
    losses: int
    at_home: bool
    """The invalidator is a thread of container 0; else it is elsewhere."""
    task: Task = Task.REST
    origin: int = 0
    l2: Shared = Shared()
    log: Log = Log()


class Move(NamedTuple):
    """One step: who does what, the world after it, and what a caller got by it."""

    who: str
    what: str
    world: World
    answer: tuple[int, int] | None = None
    """Version, and the version that it must not be older than."""


def start(
    reads: tuple[int, ...],
    invalidations: int,
    *,
    threads: int = 1,
    trims: int = 0,
    losses: int = 0,
    at_home: bool = False,
) -> World:
    """Give a world with one new container for each number of reads, which so many threads share."""
    containers = tuple(Container(most, flights=(None,) * threads) for most in reads)
    return World(containers, invalidations, trims, losses, at_home)


def doubting(here: Container) -> Container:
    """Mark what flights have in hand: nobody can tell any more what became of it, nor of what L1 held."""
    return here._replace(flights=tuple(_doubted(flight) for flight in here.flights))


def _doubted(flight: Flight | None) -> Flight | None:
    if flight is None:
        return None
    return flight._replace(doubtful=flight.stage not in {Stage.ASK, Stage.LEASE}, held=None)


def replaced(world: World, number: int, here: Container) -> World:
    """Put a container in the place of that number."""
    containers = world.containers
    return world._replace(containers=(*containers[:number], here, *containers[number + 1 :]))
