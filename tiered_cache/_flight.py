"""Single flight: in one process at most one load per key runs, and whoever asks meanwhile shares its outcome."""

from __future__ import annotations

import threading
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from tiered_cache._errors import LoadTimeout, OriginError
from tiered_cache._forks import ForkSafe
from tiered_cache._waits import WAITS
from tiered_cache._whose import context_to_go_on_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
Key: TypeAlias = str | tuple[str, ...]
"""What a flight brings: the value of one key, or those of several."""


LOOK = 0.05
"""Seconds between two looks of one whose patience is over, and for whom there is nothing to take yet."""


def _nothing(_: object) -> None:
    return None


class Limits(NamedTuple):
    """How long a caller waits for flights, one after another if it comes to that: in seconds from `began`."""

    began: float
    """On the monotonic clock."""
    soft: float | None = None
    """After these it takes its fallback, where there is one."""
    hard: float | None = None
    """After these it takes that, or gets LoadTimeout. The work goes on."""
    most: float | None = None
    """Where `hard` does not say: those for which the work of another caller is waited for."""

    def waits(self, *, joined: bool) -> Iterator[float | None]:
        """The seconds for which who `joined` a flight, or leads it, waits at a time; after each it takes what there is.

        After the soft limit it looks again and again: L2 may tell the work of a stale value only then.
        """
        last = self.hard if self.hard is not None or not joined else self.most
        if self.soft is None:
            yield self._left(last)
            return
        yield self._left(self.soft if last is None else min(self.soft, last))
        while (left := self._left(last)) is None or left > 0:
            yield LOOK if left is None else min(LOOK, left)

    def _left(self, limit: float | None) -> float | None:
        return None if limit is None else min(max(0.0, self.began + limit - monotonic()), threading.TIMEOUT_MAX)


UNLIMITED = Limits(0.0)


class Flight(Generic[T]):
    """One run of the work for a key. `known`: what the work has found so far, for the fallbacks of those who wait for it.

    `is_outdated` says whether its outcome has been invalidated meanwhile, and so is not for those who joined. `ends`: the
    moment on the wall clock from which its outcome is too old, as a value is that is past all windows. `is_shared`: whether
    others than its leader have joined it.
    """

    __slots__ = ("_latch", "ends", "error", "is_outdated", "is_shared", "key", "known", "leader", "result")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.leader = 0
        self.known: Any = None
        self.is_shared = False
        self.is_outdated: Callable[[], bool] = bool
        self.ends = inf
        self.result: T | None = None
        self.error: BaseException | None = None
        self._latch = threading.Lock()  # held until the flight has landed: an Event costs ten times as much to make
        self._latch.acquire()

    def perform(self, work: Callable[[Flight[T]], T]) -> None:
        """Do the work in this thread and keep its outcome, whatever that is."""
        self.leader = threading.get_ident()
        try:
            self.result = work(self)
        except BaseException as error:  # noqa: BLE001  # each caller raises it again: see `outcome`
            self.error = error

    def land(self) -> None:
        """Wake all who wait."""
        self.leader = 0
        self._latch.release()

    def wait(self, limit: float | None) -> bool:
        """True once the flight has landed; False if it has not after `limit` seconds."""
        landed = self._latch.acquire(timeout=-1 if limit is None else max(0.0, limit))
        if landed:
            self._latch.release()  # for the next who waits
        return landed

    def outcome(self, *, joined: bool) -> T:
        """The result, or the error raised. Who only joined does not get the leader's KeyboardInterrupt."""
        if self.error is None:
            return self.result  # type: ignore[return-value]  # landed without an error: there is a result
        if joined and not isinstance(self.error, Exception):
            kind = type(self.error).__name__
            raise OriginError(f"the load that this call waited for was ended by {kind}") from self.error
        raise self.error


class Flights(ForkSafe, Generic[T]):
    """The flights of a cache by key."""

    def __init__(self) -> None:
        super().__init__()
        self._by_key: dict[Key, Flight[T]] = {}

    def forked(self) -> None:
        """The threads that would land the parent's flights did not come along."""
        super().forked()
        self._by_key = {}

    def busy(self, key: Key) -> bool:
        """Whether a load of this key is under way in this process."""
        return key in self._by_key

    def under_way(self) -> list[Flight[T]]:
        """The flights of this moment that anybody may join."""
        return list(self._by_key.values())

    def waits_for_itself(self, key: str, own: Flight[T]) -> bool:
        """Whether this thread is loading `key` already, in another flight than `own`, and so must not wait for it."""
        mine = WAITS.mine()
        return any(
            flight.leader in mine and flight is not own and (name == key or (type(name) is tuple and key in name))
            for name, flight in list(self._by_key.items())
        )

    def run(
        self,
        key: Key,
        work: Callable[[Flight[T]], T],
        limits: Limits = UNLIMITED,
        *,
        since: float = -inf,
        alone: bool = False,
        fallback: Callable[[Flight[T]], T | None] = _nothing,
    ) -> tuple[T, Flight[T], bool]:
        """What `work` gives for `key`, the flight that gave it, and whether that is another caller's, which was joined.

        The first caller does the work, in a thread of its own if that has a soft or a hard limit.
        `since`: when this call began; an error that was too old by then, as `ends` says, is not for it. `alone`: what began
        before this call would not do, so a flight of its own takes the place of any other. `fallback`: gives what this
        caller may have of a flight for which it will not wait longer, or None.
        Raises ReentrantLoadError where waiting would be for ever, since the work waits for this very caller.
        """
        with WAITS.working():
            return self._run(key, work, limits, since=since, alone=alone, fallback=fallback)

    def _run(
        self,
        key: Key,
        work: Callable[[Flight[T]], T],
        limits: Limits,
        *,
        since: float,
        alone: bool,
        fallback: Callable[[Flight[T]], T | None],
    ) -> tuple[T, Flight[T], bool]:
        while True:
            flight, joined = self._join_or_start(key, alone=alone)
            if not joined:
                return self._lead(flight, work, limits, fallback), flight, False
            try:
                result = self._wait(flight, limits, fallback, joined=True)
            except Exception as error:
                is_over = error is flight.error and since >= flight.ends
                if not is_over and not flight.is_outdated():
                    raise
            else:
                if not flight.is_outdated():
                    return result, flight, True

    def _lead(
        self,
        flight: Flight[T],
        work: Callable[[Flight[T]], T],
        limits: Limits,
        fallback: Callable[[Flight[T]], T | None],
    ) -> T:
        if limits.soft is None and limits.hard is None:
            self._perform(flight, work)
            return flight.outcome(joined=False)
        self._launch(flight, work)
        return self._wait(flight, limits, fallback, joined=False)

    def detach(self, key: str | None = None) -> None:
        """Let no later caller join the flight of `key`, or of any key: what it brings is of before an invalidation."""
        with self._lock:
            if key is None:
                self._by_key.clear()
            else:
                for name in [name for name in self._by_key if name == key or (type(name) is tuple and key in name)]:
                    del self._by_key[name]

    def _join_or_start(self, key: Key, *, alone: bool) -> tuple[Flight[T], bool]:
        with self._lock:
            flight = self._by_key.get(key)
            if flight is not None:
                WAITS.join(flight, waits=not alone)
                if not alone:
                    flight.is_shared = True
                    return flight, True
            flight = self._by_key[key] = Flight(key)
            flight.leader = threading.get_ident()
            return flight, False

    def _perform(self, flight: Flight[T], work: Callable[[Flight[T]], T]) -> None:
        try:
            flight.perform(work)
        finally:
            self._end(flight)

    def _end(self, flight: Flight[T]) -> None:
        with self._lock:
            if self._by_key.get(flight.key) is flight:
                del self._by_key[flight.key]
        flight.land()

    def _launch(self, flight: Flight[T], work: Callable[[Flight[T]], T]) -> None:
        WAITS.begin(flight)
        within = context_to_go_on_in()  # tracing and log correlation go with the load
        thread = threading.Thread(
            target=within.run, args=(self._perform, flight, work), name="tiered_cache-load", daemon=True
        )
        flight.leader = 0  # until the thread says who it is
        try:
            thread.start()
        except RuntimeError as error:  # no more threads are to be had, and nobody else would land the flight
            flight.error = error
            self._end(flight)

    def _wait(self, flight: Flight[T], limits: Limits, fallback: Callable[[Flight[T]], T | None], *, joined: bool) -> T:
        try:
            for seconds in limits.waits(joined=joined):
                if flight.wait(seconds):
                    return flight.outcome(joined=joined)
                if (instead := fallback(flight)) is not None:
                    return instead
        finally:
            WAITS.end()
        is_cut = limits.hard is None or (limits.most is not None and limits.most <= limits.hard)
        what = "than the invocation has time" if is_cut else f"than hard_timeout, {limits.hard:g} s"
        raise LoadTimeout(f"the load took longer {what}; it goes on, and its value will be kept")
