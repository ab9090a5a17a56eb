"""What a shared tier answers."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from tiered_cache._entry import Entry
    from tiered_cache._news import News


class Claim(Enum):
    """When a reader wants the lease of a key."""

    MISSING = auto()
    """Where the tier holds no value."""
    ALWAYS = auto()
    """Whatever it holds: a value that is there is dead, or to be refreshed."""
    SEIZE = auto()
    """Even if another holds the lease, whose fill is then refused."""


class Right(Enum):
    """Who may fill a key."""

    UNASKED = auto()
    """Nobody asked for the lease: there is a value."""
    MINE = auto()
    TAKEN = auto()
    """Another holds the lease, and loads."""
    NONE = auto()
    """There is no lease to be had: the tier is out of reach, or takes no writes."""


class Filled(Enum):
    """What became of a fill."""

    KEPT = auto()
    REFUSED = auto()
    """The lease was lost: it ran out, or the key was invalidated meanwhile. No tier keeps the value."""
    NOT_KEPT = auto()
    """There was no lease, or the tier did not take it. L1 may keep the value."""


class Lease:
    """The right to fill one key, known by a random token. `held` while it is ours, as far as is known here."""

    __slots__ = ("held", "key", "seconds", "token")

    def __init__(self, key: str, token: bytes, seconds: float) -> None:
        self.key = key
        self.token = token
        self.seconds = seconds
        self.held = False

    def __repr__(self) -> str:
        return f"Lease(held={self.held}, seconds={self.seconds:g})"


class Reply(NamedTuple):
    """What the shared tier says of a key."""

    entry: Entry | None
    """What it holds, whatever its age; None if nothing, or nothing readable."""
    reached: bool
    """False if it could not be asked."""
    right: Right = Right.UNASKED
    """Whether the lease that was asked for is ours."""
    news: News | None = None
    """What the look that went along found; None where none was asked for, or it failed."""
    left: Entry | None = None
    """What a resumable load left that goes on: its handle is the value, and its time and birth are those of the load's
    beginning. Told to who wanted the lease, whether it was to be had or not.
    """


ABSENT = Reply(None, True)
UNREACHED = Reply(None, False, Right.NONE)
