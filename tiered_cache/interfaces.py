"""What can be exchanged: the protocols that the cache asks of its parts.

Each docstring states the implementer's duties. All methods may be called from several threads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from tiered_cache._news import Invalidation, Kind, News
from tiered_cache._reply import Claim, Filled, Lease, Reply, Right
from tiered_cache._values import BatchContext, LoadContext

if TYPE_CHECKING:
    from tiered_cache._entry import Entry, Position
    from tiered_cache._rules import Freshness
    from tiered_cache._stats import SharedStats

__all__ = [
    "BatchContext",
    "BatchLoader",
    "BatchObjectLoader",
    "Carrier",
    "Claim",
    "Clock",
    "Filled",
    "Invalidation",
    "Kind",
    "Lease",
    "LoadContext",
    "News",
    "ObjectLoader",
    "Reply",
    "Right",
    "SharedStore",
    "SharedTier",
]


class Clock(Protocol):
    """Wall-clock seconds since 1970, as `time.time` gives them. May have a method `monotonic` to be held against."""

    def __call__(self) -> float: ...


class ObjectLoader(Protocol):
    """A loader that wants to know more; every adapter's request is one.

    One that may answer 'pending' says so by an attribute `resumable` that is true: it is run however little time is left,
    since its load goes on elsewhere. By a number `wait` beside it, it may say how many seconds a caller with nothing to
    serve is to wait for a load that is pending already; without, it waits as for any load.

    `load` may be called from any thread, several at once for different keys. It returns the value, a `Loaded`, or what
    one of the context's verbs returns; it raises `NotFound` only where the origin surely has no such thing.
    """

    def load(self, context: LoadContext, /) -> Any: ...


class BatchObjectLoader(Protocol):
    """A batch loader that wants to know how long it may take, as `DynamoDBOrigin.items` gives.

    `load_many` gets the keys that no tier has, and returns a mapping from keys to values; see `get_many_or_load`. It may be
    called from any thread.
    """

    def load_many(self, keys: Sequence[str], context: BatchContext, /) -> Mapping[str, Any]: ...


BatchLoader: TypeAlias = Callable[[Sequence[str]], Mapping[str, Any]] | BatchObjectLoader


class Carrier(Protocol):
    """Takes owed work to be done later: a thread pool, a queue, whatever has `submit`.

    `submit(work)` must call `work()` at most once, or drop it; it must not block on it for long. What `work` raises is
    counted by the cache and never leaves `work`.

    Two attributes may say more. `lost_after`: seconds after which work that was not run is owed anew, 60 without it.
    `in_its_own_time`: whether the deadline of the invocation that runs is none of the work's; without it that is so where
    nothing is frozen between invocations, off Lambda and on Managed Instances.
    """

    def submit(self, work: Callable[[], None], /) -> object: ...


class SharedTier(Protocol):
    """A tier that many containers share, such as `RedisTier`."""

    @property
    def freshness(self) -> Freshness:
        """How long data live: the policy that is stamped into entries."""
        ...

    @property
    def lease(self) -> float:
        """Seconds for which a lease is taken where no invocation's deadline is known."""
        ...

    def bind(self, namespace: str) -> SharedStore:
        """The part of the tier that belongs to one namespace. Must not do any I/O."""
        ...


class SharedStore(Protocol):
    """One namespace in a shared tier: entries, a lease for each key, and a log of invalidations with markers for tags.

    No method but `fill` raises; each ends within the tier's own time limit, and counts what goes wrong. What must be one
    step, with nothing of any other container between, is said so; docs/decisions/0006-protocol.md says why.
    """

    def alias(self, name: str) -> str:
        """What stands in the log for a key or a tag: itself, or a text that begins with # where names are hashed."""
        ...

    def read(self, key: str, now: float, since: Position | None, held: Entry | None = None) -> Reply:
        """What the tier holds under `key`. Trouble of any kind is a miss.

        since: if not None, a look into the log goes along, as by `look`, and comes before the reading.
        held: what L1 holds under it; where the tier holds the same load's value, that of `held` may be given in its place.
        """
        ...

    def read_many(
        self, keys: Sequence[str], now: float, since: Position | None, held: Mapping[str, Entry] | None = None
    ) -> tuple[dict[str, Reply], News | None]:
        """The same for several keys, in as few round trips as the tier allows."""
        ...

    def ask(self, lease: Lease, claim: Claim, now: float, since: Position | None) -> Reply:
        """As `read`, for the lease's key; and take the lease as `claim` says, if it is to be had, in the same step.

        Whoever wants the lease is told what `leave` has kept, too.
        Sets `lease.held`. A lease ends by itself `lease.seconds` later, and may end at any time before.
        """
        ...

    def ask_many(
        self, leases: Sequence[Lease], claim: Claim, now: float, since: Position | None
    ) -> tuple[dict[str, Reply], News | None]:
        """The same for several leases, one step each, in as few round trips as the tier allows."""
        ...

    def look(self, since: Position, tags: Sequence[str], now: float) -> News | None:
        """What is new in the log after `since`, and the markers of `tags`, in one step; None if it cannot be told.

        A log or markers that were lost are replaced by new ones of another epoch.
        """
        ...

    def fill(self, lease: Lease, entry: Entry, now: float) -> Filled:
        """Keep `entry` until it is past all its windows, and give up the lease, if that is still held by its token.

        One step. Raises SerializationError, and nothing else, if the value cannot be carried; then, and where the value is
        too large, what is older is forgotten.
        """
        ...

    def fill_many(self, filled: Sequence[tuple[Lease, Entry]], now: float) -> dict[str, Filled]:
        """The same for several. What cannot be carried is counted, not raised."""
        ...

    def leave(self, lease: Lease, left: Entry, pause: float, now: float) -> Filled:
        """Keep what a load left that goes on, and let the lease end after `pause`, if that is still held by its token.

        One step. `left` has the handle as its value, and is kept as long as an entry, but for an hour at least; any fill
        or invalidation of the key forgets it in its own step.
        """
        ...

    def release(self, leases: Sequence[Lease], now: float, *, drop: bool, ended: bool = False) -> None:
        """Give up each lease that is still held by its token; `ended`: and forget what its load has left; `drop`: and the
        value under its key too.

        There may be none, before the store is closed: it may have been granted some without having heard of it.
        """
        ...

    def takes_writes(self, now: float) -> bool:
        """Whether a write is worth a try, as far as is known without asking: not just after one was refused."""
        ...

    def invalidate(self, what: Sequence[Invalidation], since: Position, now: float, lease: Lease | None) -> News | None:
        """Invalidate: each key's value, lease and handle in one step, and only then the records in the log, with tags' markers.

        Gives what is new in the log after `since`, with the own records; None if any of it may not have been done.
        lease: is taken, whoever holds it, in the step that forgets the value.
        """
        ...

    def warm_up(self, now: float, *, wait: bool = True) -> bool:
        """Import and connect ahead of need; whether the tier answered.

        `wait=False`: import here, connect elsewhere, such as in a thread that the first call joins, and return True.
        """
        ...

    def thawed(self, now: float) -> None:
        """The container may have been frozen for long until `now`: use no connection that may have died meanwhile, and try
        again what failed before. Must not do any I/O beyond closing.
        """
        ...

    def suspend(self) -> None:
        """A snapshot is about to be taken: close connections, and keep nothing that copies of this process must not share.

        Must not do any I/O beyond closing. Whatever is called later begins anew.
        """
        ...

    def allow(self, seconds: float | None) -> None:
        """All calls together may take so many seconds from now on, and none is made after; None: no limit."""
        ...

    def stats(self, now: float) -> SharedStats:
        """The counters."""
        ...

    def close(self) -> None:
        """Give back connections. May be called twice. A call under way then, or made later, leaves none open at its end."""
        ...
