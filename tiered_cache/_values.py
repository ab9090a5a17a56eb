"""The values that cross the library's border: what a loader gets and gives, and what a caller gets back."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Callable


class Missing(Enum):
    """The type of `MISSING`: one member, so that type checkers narrow on `is MISSING`."""

    MISSING = "missing"

    def __repr__(self) -> str:
        return "MISSING"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing.MISSING
"""Stands for 'no value', since `None` is an ordinary value that is cached."""

Tier: TypeAlias = Literal["l1", "l2", "origin"]


class Reason(StrEnum):
    """Why a caller got the answer it got."""

    FRESH = "fresh"
    """A tier held it and vouches for it."""
    LOADED = "loaded"
    """The origin was asked, by this call or by one that this call joined."""
    REVALIDATING = "revalidating"
    """Stale, within `stale_while_revalidate`; a refresh is owed or under way."""
    UNCONFIRMED = "unconfirmed"
    """L1's own time is up, and L2 cannot be asked or another container is loading; the data are fresh by their own limit."""
    LOAD_FAILED = "load_failed"
    """Stale, within `stale_if_error`: the load failed for a passing reason, just now or so lately that it is not tried."""
    LOAD_SLOW = "load_slow"
    """Stale: the load took longer than `soft_timeout`; it goes on in a thread."""
    LOAD_ELSEWHERE = "load_elsewhere"
    """Stale: another container is loading the key, and who has a stale value does not wait for it."""
    NO_TIME = "no_time"
    """Stale: the invocation has less time left than the last load took, so none is begun."""
    LOAD_PENDING = "load_pending"
    """Stale, while a resumable load goes on."""


class Answer(NamedTuple):
    """A value and its provenance, as `get_entry_or_load` gives it."""

    value: Any
    """What the loader gave, or an equal copy of it."""
    tier: Tier
    """Where it was found: `"l1"`, `"l2"` or `"origin"`."""
    age: float
    """Seconds since its load began."""
    stale: bool
    """True if it is past its freshness."""
    reason: Reason
    """Why this is the answer."""

    def __repr__(self) -> str:
        kind = type(self.value).__name__  # a value may be personal, and long
        return f"Answer(<{kind}>, tier={self.tier!r}, age={self.age:.3f}, stale={self.stale}, reason={self.reason.value!r})"


@final
class Loaded:
    """What a loader may return in place of the bare value, to set facts about it.

    `ttl`: how long these data are fresh, in any duration form; the cache's own where None.
    `tags`: names kept with the entry in every tier, by which `cache.invalidate_tag` finds it.
    `etag`, `last_modified`: validators as the origin wrote them, given back to the loader at the next load.
    """

    __slots__ = ("etag", "last_modified", "tags", "ttl", "value")

    def __init__(
        self,
        value: Any,
        ttl: Any = None,
        tags: tuple[str, ...] | list[str] | set[str] | frozenset[str] = (),
        etag: str | None = None,
        last_modified: str | None = None,
    ) -> None:
        from tiered_cache._options import checked_tags
        from tiered_cache._units import seconds

        _check_text("etag", etag or "")
        _check_text("last_modified", last_modified or "")
        self.value = value
        self.ttl: float | None = None if ttl is None else seconds("ttl", ttl)
        self.tags: tuple[str, ...] = checked_tags(tags)
        self.etag = etag
        self.last_modified = last_modified

    def __repr__(self) -> str:
        return f"Loaded(<{type(self.value).__name__}>, ttl={self.ttl}, tags={len(self.tags)})"


class Outcome(Enum):
    """What a loader says instead of giving a value, by way of its context."""

    NOT_MODIFIED = "not_modified"


@final
class Pending(NamedTuple):
    """A load that goes on elsewhere under `handle`; made by `LoadContext.pending`."""

    handle: str


def _check_text(name: str, given: object) -> None:
    """Refuse what the shared tier could not keep beside a value."""
    if not isinstance(given, str):
        raise TypeError(f"{name} must be a str; got {type(given).__qualname__}")


class LoadContext:
    """What a loader that wants it gets: an object loader's `load(context)` is called with one.

    key: the key as the caller wrote it.
    stale: the value held so far, though no longer fresh, or `MISSING`; with `MemoryTier(share="copy")` a copy for this load.
    etag, last_modified: its validators, or None.
    handle: what an earlier `pending(handle)` left for this key, in whatever container, or None. A loader that finds it of
        no use and begins anew sets it to None: what it gives is then as old as this load, and not as that one. So it is
        for a loader that never looks at it, unless that has `resumable = True`.
    generation: how far this container knows the log of invalidations, as text; "" without a log. A load that begins after
        an invalidation, and knows of it, has another one than any that began before it.
    waited: seconds for which this call has waited already for another container's load of the key.
    """

    __slots__ = (
        "_handle",
        "_own",
        "_remaining",
        "_stale",
        "etag",
        "generation",
        "handle_read",
        "key",
        "last_modified",
        "renewed_ttl",
        "skipped",
        "waited",
    )

    def __init__(
        self,
        key: str,
        *,
        stale: Any = MISSING,
        etag: str | None = None,
        last_modified: str | None = None,
        handle: str | None = None,
        generation: str = "",
        waited: float = 0.0,
        remaining: Callable[[], float | None] = lambda: None,
        own: Callable[[Any], Any] | None = None,
    ) -> None:
        self.key = key
        self._stale = stale
        self._own = own
        self.etag = etag
        self.last_modified = last_modified
        self._handle = handle
        self.handle_read = False
        self.generation = generation
        self.waited = waited
        self.skipped = False
        self.renewed_ttl: float | None = None
        self._remaining = remaining

    @property
    def stale(self) -> Any:
        if self._own is not None:  # the first look: most loaders never look, and need no copy
            self._stale, self._own = self._own(self._stale), None
        return self._stale

    @property
    def handle(self) -> str | None:
        self.handle_read = True
        return self._handle

    @handle.setter
    def handle(self, handle: str | None) -> None:
        self._handle = handle

    def remaining(self) -> float | None:
        """Seconds this load may still take: until `hard_timeout` or the invocation's deadline. None: no limit is known."""
        return self._remaining()

    def not_modified(self, ttl: Any = None) -> Outcome:
        """`return context.not_modified()`: the origin vouches for the stale value, which becomes fresh again.

        ttl: for how long, in any duration form; the call's or the cache's own where None, as for a bare value.

        Raises ValueError where there is no stale value to vouch for.
        """
        if self._stale is MISSING:
            raise ValueError("not_modified() needs a stale value, and this key has none: return the value")
        from tiered_cache._units import seconds

        self.renewed_ttl = None if ttl is None else seconds("ttl", ttl)
        return Outcome.NOT_MODIFIED

    def skip(self, value: Any = None) -> Any:
        """`return context.skip(value)`: the caller gets the value, or the NotFound, and no tier keeps it."""
        self.skipped = True
        return value

    def pending(self, handle: str) -> Pending:
        """`return context.pending(handle)`: the load goes on elsewhere, and a later call takes it up by `handle`."""
        _check_text("handle", handle)
        return Pending(handle)

    def __repr__(self) -> str:
        return f"LoadContext(stale={self._stale is not MISSING}, validator={bool(self.etag or self.last_modified)})"


@final
class BatchContext:
    """What a batch loader that wants it gets: an object loader's `load_many(keys, context)` is called with one."""

    __slots__ = ("_remaining",)

    def __init__(self, *, remaining: Callable[[], float | None] = lambda: None) -> None:
        self._remaining = remaining

    def remaining(self) -> float | None:
        """Seconds this load may still take: until the invocation's deadline. None: no limit is known."""
        return self._remaining()
