"""What can be exchanged: the protocols that the cache asks of its parts.

Each docstring states the implementer's duties. All methods may be called from several threads at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tiered_cache._reply import Reply
from tiered_cache._values import LoadContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiered_cache._entry import Entry
    from tiered_cache._rules import Freshness
    from tiered_cache._stats import SharedStats

__all__ = ["Carrier", "Clock", "LoadContext", "ObjectLoader", "Reply", "SharedStore", "SharedTier"]


class Clock(Protocol):
    """Wall-clock seconds since 1970, as `time.time` gives them. May have a method `monotonic` to be held against."""

    def __call__(self) -> float: ...


class ObjectLoader(Protocol):
    """A loader that wants to know more; every adapter's request is one.

    `load` may be called from any thread, several at once for different keys. It returns the value, a `Loaded`, or what
    one of the context's verbs returns; it raises `NotFound` only where the origin surely has no such thing.
    """

    def load(self, context: LoadContext, /) -> Any: ...


class Carrier(Protocol):
    """Takes owed work to be done later: a thread pool, a queue, whatever has `submit`.

    `submit(work)` must call `work()` at most once, or drop it; it must not block on it for long. What `work` raises is
    counted by the cache and never leaves `work`.
    """

    def submit(self, work: Callable[[], None], /) -> object: ...


class SharedTier(Protocol):
    """A tier that many containers share, such as `RedisTier`."""

    @property
    def freshness(self) -> Freshness:
        """How long data live: the policy that is stamped into entries."""
        ...

    def bind(self, namespace: str) -> SharedStore:
        """The part of the tier that belongs to one namespace. Must not do any I/O."""
        ...


class SharedStore(Protocol):
    """One namespace in a shared tier. No method but `write` raises; each ends within the tier's own time limit."""

    def read(self, key: str, now: float) -> Reply:
        """What the tier holds under `key`. Trouble of any kind is a miss, counted."""
        ...

    def read_many(self, keys: Sequence[str], now: float) -> dict[str, Reply]:
        """The same for several keys, in as few round trips as the tier allows."""
        ...

    def write(self, key: str, entry: Entry, now: float) -> bool:
        """Keep `entry` until it is past all its windows; whether the tier took it.

        Raises SerializationError, and nothing else, if the value cannot be carried.
        """
        ...

    def write_many(self, entries: Sequence[tuple[str, Entry]], now: float) -> None:
        """Keep several entries, in as few round trips as the tier allows. What cannot be carried is counted, not raised."""
        ...

    def delete(self, key: str, now: float) -> bool:
        """Forget `key`; whether the tier did."""
        ...

    def delete_many(self, keys: Sequence[str], now: float) -> bool:
        """Forget `keys`, in as few round trips as the tier allows; whether it forgot all of them."""
        ...

    def warm_up(self, now: float) -> bool:
        """Import and connect ahead of need; whether the tier answered."""
        ...

    def stats(self, now: float) -> SharedStats:
        """The counters."""
        ...

    def close(self) -> None:
        """Give back connections. May be called twice."""
        ...
