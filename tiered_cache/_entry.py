"""What L1 holds under a key: a value, what is known about it, and the times that matter."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, final

from tiered_cache._rules import Freshness, early_at, expired, fresh_until, jittered

if TYPE_CHECKING:
    from collections.abc import Callable

Position: TypeAlias = tuple[int, int]
"""A place in an invalidation log: (epoch, sequence), the two halves of its records' ids. Another epoch is another log."""

START: Position = (0, 0)


class Birth(NamedTuple):
    """When a load or a reading began: `born` in the log that containers share, `since` on the local clock."""

    born: Position
    since: int


UNBORN = Birth(START, 0)


@final
class Entry:
    """A value with its times, validators and tags. They never change; what L1 adds to them is set by `held`.

    `negative`: the origin said NotFound, and the value is the text of that error.
    `born`: the position in the invalidation log before its load began.
    `since`: when its load or reading began here, on the local clock of `Invalidations`.
    `doubtful`: the log could not be followed since: it may have been invalidated, and no one here knows.
    `checksum`: that of its envelope in the shared tier, by which it is known again; 0 where it has not been there.
    `value_size`: bytes that the value takes in memory; 0 where nobody has measured it yet.
    """

    __slots__ = (
        "born",
        "checksum",
        "confirmed_at",
        "doubtful",
        "early_at",
        "etag",
        "fresh_for",
        "hits",
        "last_modified",
        "load_time",
        "loaded_at",
        "local_stale",
        "local_ttl",
        "negative",
        "settled",
        "since",
        "size",
        "stale_if_error",
        "stale_while_revalidate",
        "tags",
        "value",
        "value_size",
    )

    def __init__(
        self,
        value: Any,
        *,
        loaded_at: float,
        fresh_for: float,
        stale_while_revalidate: float = 0.0,
        stale_if_error: float = 0.0,
        load_time: float = 0.0,
        etag: str | None = None,
        last_modified: str | None = None,
        tags: tuple[str, ...] = (),
        negative: bool = False,
        birth: tuple[Position, int] = UNBORN,
        value_size: int = 0,
    ) -> None:
        self.value = value
        self.value_size = value_size
        self.loaded_at = loaded_at
        self.fresh_for = fresh_for
        self.stale_while_revalidate = stale_while_revalidate
        self.stale_if_error = stale_if_error
        self.load_time = load_time
        self.etag = etag
        self.last_modified = last_modified
        self.tags = tags
        self.negative = negative
        self.born, self.since = birth
        self.checksum = 0
        self.doubtful = False
        self.confirmed_at = loaded_at
        self.local_ttl = inf  # where there is no next tier to be asked
        self.local_stale = 0.0
        self.early_at = inf
        self.hits = 0
        self.settled = 0
        self.size = 0

    def held(
        self, local: Freshness | None, confirmed_at: float, early_refresh: float, uniform: Callable[[], float]
    ) -> Entry:
        """This entry as L1 holds it from `confirmed_at` on; `local` is L1's policy where an L2 stands behind it."""
        if local is not None:
            self.confirmed_at = confirmed_at
            self.local_ttl = jittered(local.ttl, local.jitter, uniform())
            self.local_stale = local.stale_while_revalidate
        expiry = self.loaded_at + self.fresh_for
        self.early_at = early_at(expiry, self.load_time, early_refresh, 1.0 - uniform()) if early_refresh else inf
        return self

    @property
    def is_recognizable(self) -> bool:
        """Whether a header in the shared tier may tell that it is still there. What is doubtful gives way to what is read."""
        return self.checksum != 0 and not self.negative and not self.doubtful

    def is_of(self, other: Entry) -> bool:
        """Whether both are one envelope's."""
        return (
            self.checksum == other.checksum != 0
            and self.loaded_at == other.loaded_at
            and self.fresh_for == other.fresh_for
            and self.stale_if_error == other.stale_if_error
            and self.born == other.born
        )

    def read_again(self) -> Entry:
        """The same data, as read anew."""
        again = Entry(
            self.value,
            loaded_at=self.loaded_at,
            fresh_for=self.fresh_for,
            stale_while_revalidate=self.stale_while_revalidate,
            stale_if_error=self.stale_if_error,
            load_time=self.load_time,
            etag=self.etag,
            last_modified=self.last_modified,
            tags=self.tags,
            birth=(self.born, 0),
            value_size=self.value_size,
        )
        again.checksum = self.checksum
        return again

    def expire(self, now: float) -> None:
        """Let it be fresh no longer, nor served while it is refreshed; it may still cover for a failing load."""
        self.fresh_for, self.stale_if_error = expired(self.loaded_at, self.fresh_for, self.stale_if_error, now)
        self.stale_while_revalidate = 0.0

    def hit_until(self) -> float:
        """Until when a plain hit may answer with this entry."""
        return min(fresh_until(self), self.early_at)

    def __repr__(self) -> str:
        return f"Entry(<{type(self.value).__name__}>, loaded_at={self.loaded_at:.3f}, fresh_for={self.fresh_for:g})"


def newest_of(held: Entry | None, shared: Entry | None) -> Entry | None:
    """Of what L1 and L2 hold, that which was loaded last; L2's if they are the same."""
    if held is None or shared is None:
        return shared or held
    return held if held.loaded_at > shared.loaded_at else shared
