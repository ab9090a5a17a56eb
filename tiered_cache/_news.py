"""What containers tell each other: invalidations, and what a look into the log brings. Frozen values."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from tiered_cache._entry import START, Position

if TYPE_CHECKING:
    from collections.abc import Mapping


class Kind(StrEnum):
    """What an invalidation is about. The letters stand in the log."""

    KEY = "k"
    """A key: its value is gone."""
    EXPIRED = "e"
    """A key: its value is no longer fresh, and may still cover for a failing load."""
    TAG = "t"
    """All values that carry the tag."""
    ALL = "c"
    """All values of the namespace."""

    __hash__ = str.__hash__  # Enum's own is written in Python, and each read looks some names up


class Invalidation(NamedTuple):
    """One invalidation. `name` is the key or the tag, or what stands for it in the log where names are hashed."""

    kind: Kind
    name: str = ""


EVERYTHING: Final = Invalidation(Kind.ALL)


class News(NamedTuple):
    """What one atomic look into the log and at the markers beside it found."""

    since: Position
    """The position from which was looked; START if there was none."""
    end: Position
    """The log's last record."""
    followed: bool
    """Whether `records` are all records after `since`. If not, the log was trimmed, lost, or is seen for the first time."""
    records: tuple[tuple[Position, Invalidation], ...] = ()
    """Oldest first."""
    markers: Mapping[str, Position] = {}
    """For each tag that was asked for, its last invalidation; START where there was none."""
    came_first: bool = True
    """Whether the look was before whatever was read along with it, for sure."""
    cleared: Position = START
    """When everything was invalidated last; told where the log is not followed."""
