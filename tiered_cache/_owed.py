"""Owed work: the refreshes that stale hits leave behind, and who carries them out."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, cast

from tiered_cache._backoff import Backoff
from tiered_cache._errors import ConfigurationError, NotFound
from tiered_cache._forks import ForkSafe
from tiered_cache._log import log
from tiered_cache._units import shown
from tiered_cache._whose import context_to_go_on_in
from tiered_cache._work_queue import WorkQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Literal, TypeAlias

    from tiered_cache._deferred import Deferred
    from tiered_cache._flight import Key
    from tiered_cache._stats import Counters
    from tiered_cache._values import Answer
    from tiered_cache.interfaces import Carrier

    Refresh: TypeAlias = Literal["auto", "inline", "thread", "after_response", "next_invocation"] | Carrier

LOST_AFTER = 60.0
"""Seconds after which work that a carrier took and never ended is owed anew."""
MOST = 10_000
"""Keys remembered as owed; beyond it the oldest is forgotten."""


def is_frozen_between_invocations() -> bool:
    """Whether this is Lambda with one event at a time; a Managed Instance runs on between events."""
    on_lambda = "AWS_LAMBDA_RUNTIME_API" in os.environ
    return on_lambda and os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "lambda-managed-instances"


def for_carrier(carrier: Carrier, work: Callable[[], None]) -> Callable[[], None]:
    """`work` as `carrier` is to do it: in the context of this moment, with which tracing and log correlation go."""
    own_time = getattr(carrier, "in_its_own_time", not is_frozen_between_invocations())
    return partial(context_to_go_on_in(in_its_own_time=own_time).run, work)


class Carriers(ForkSafe):
    """Who can carry work: threads, where they are not frozen; who works after the response; the next invocation."""

    def __init__(self, later: Deferred, following: Deferred) -> None:
        super().__init__()
        self.later = later
        self.following = following
        self.works_after_response = False
        """Whether somebody promised to work off what is put off, once the response is out."""
        self.sees_invocations = False
        """Whether one was ever marked. Without, nobody would come by to do what was put off."""
        self._threads = ThreadCarrier()
        self._is_forked = False

    def forked(self) -> None:
        """Whoever comes by to do what was put off does so in the parent; here, nobody may before the process ends."""
        super().forked()
        self._is_forked = True
        self.works_after_response = self.sees_invocations = False

    def waiting(self) -> int:
        """How many pieces of work wait, for whomever."""
        return len(self.later) + len(self.following) + len(self._threads)

    def abandon(self, counts: Counters) -> None:
        """Nobody will run what waits, nor wait for what runs in threads: count it and say so."""
        running = self._threads.running()
        lost = sum(carrier.abandon() for carrier in (self.later, self.following, self._threads))
        counts["dropped"] += lost
        if lost:
            log().warning("%d pieces of work that were put off are never done: the cache was closed", lost)
        if running:
            log().warning(
                "%d pieces of work still run in threads while the cache is closed, and end with the process", running
            )

    def chosen(self, refresh: object) -> Callable[[], Carrier | None]:
        """Who carries refreshes out at each moment; None: the caller of the stale hit, at once.

        Raises ConfigurationError.
        """
        if refresh == "thread" and is_frozen_between_invocations():
            raise ConfigurationError(
                'refresh="thread" means nothing on Lambda, which freezes threads with their container: '
                'write "auto", "inline", "after_response" or "next_invocation"'
            )
        by_name: dict[str, Callable[[], Carrier | None]] = {
            "auto": self._best,
            "inline": lambda: None,
            "thread": lambda: self._threads,
            "after_response": lambda: self._if_worked_off(self.for_later()),
            "next_invocation": lambda: self._if_worked_off(self.following),
        }
        if isinstance(refresh, str) and refresh in by_name:
            return by_name[refresh]
        if callable(getattr(refresh, "submit", None)):
            return lambda: cast("Carrier", refresh)
        raise ConfigurationError(
            'refresh must be "auto", "inline", "thread", "after_response", "next_invocation" or an object with '
            f"submit(work); got {shown(refresh)}"
        )

    def for_later(self) -> Carrier:
        """Who does what need not be done before the answer. On Lambda it is put off to the end of the invocation, but in a
        forked process done at once until that has invocations of its own.
        """
        if not (self.works_after_response or is_frozen_between_invocations()):
            return self._threads
        return AT_ONCE if self._is_forked and not self.sees_invocations else self.later

    def _if_worked_off(self, carrier: Carrier) -> Carrier | None:
        return carrier if self.sees_invocations or carrier is self._threads else None

    def _best(self) -> Carrier | None:
        if self.works_after_response:
            return self.later
        return None if is_frozen_between_invocations() else self._threads


class AtOnce:
    """The caller itself."""

    in_its_own_time = False

    def submit(self, work: Callable[[], None], /) -> None:
        """Do `work`."""
        work()


AT_ONCE = AtOnce()


class ThreadCarrier(WorkQueue):
    """Daemon threads, started when there is work and gone when there is none. Not for a container that is frozen."""

    in_its_own_time = True
    """Threads go on: the deadline of the invocation that began their work is none of theirs."""

    def __init__(self, threads: int = 4) -> None:
        super().__init__()
        self._most = threads
        self._running = 0

    def forked(self) -> None:
        """The parent's threads did not come along either."""
        super().forked()
        self._running = 0

    def running(self) -> int:
        """How many threads work."""
        return self._running

    def submit(self, work: Callable[[], None], /) -> None:
        """Do `work` soon. Raises OverflowError where too much waits, RuntimeError where no thread is to be had."""
        with self._lock:
            self._add(work)
            if self._running >= self._most:
                return
            self._running += 1
        try:
            threading.Thread(target=self._run, name="tiered_cache-refresh", daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._running -= 1
                if self._running or work not in self._work:
                    return  # another thread will do it, or it is abandoned
                self._work.remove(work)
            raise

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except BaseException:  # such as a loader's SystemExit: it ends this thread, and another may start
                self._ended()
                raise

    def _next(self) -> Callable[[], object] | None:
        with self._lock:
            work = self._take()
            self._running -= work is None
            return work

    def _ended(self) -> None:
        with self._lock:
            self._running -= 1


class Owed(ForkSafe):
    """The refreshes owed by one cache, at most one per key. After one that failed there is a pause, which grows."""

    def __init__(
        self,
        carrier: Callable[[], Carrier | None],
        counts: Counters,
        uniform: Callable[[], float],
        last: Callable[[], float],
    ) -> None:
        super().__init__()
        self._carrier = carrier
        self._counts = counts
        self._last = last  # the latest reading of the clock
        self._since: dict[str, float] = {}
        self._pauses = Backoff(uniform)

    def forked(self) -> None:
        """What is owed the parent carries out; here it may be owed anew."""
        super().forked()
        self._since = {}

    def holds(self, key: str, now: float) -> bool:
        """Whether the refresh of `key` is owed already, or failed lately."""
        since = now - self._since.get(key, -inf)
        return 0 <= since < getattr(self._carrier(), "lost_after", LOST_AFTER) or self._pauses.holds(key, now)

    def forget(self, key: str) -> None:
        """Others have done it: the key's value is fresh, or gone. Nor does what failed before count any longer."""
        if key in self._since:
            self._settle((key,))
        self.forget_failures(key)

    def forget_failures(self, key: str) -> None:
        """A load of `key` came to a good end: the next refresh has no pause before it."""
        self._pauses.forget(key)

    def owe(self, key: Key, refresh: Callable[[], Answer | None], now: float, pause: float = 0.0) -> Answer | None:
        """Have `refresh` done. Its answer where it was done at once; None where it is under way, or owed already.

        key: or several, all of which it refreshes. pause: seconds until the next try if it fails with nobody waiting for it.
        """
        carrier: Any = self._carrier()
        keys = (key,) if isinstance(key, str) else key
        with self._lock:
            if any(self.holds(one, now) for one in keys):
                return None
            for one in keys:
                self._since.pop(one, None)
                self._since[one] = now
            while len(self._since) > MOST:
                del self._since[next(iter(self._since))]
        self._counts["refreshes"] += 1
        if carrier is None:
            try:
                return refresh()
            finally:
                self._settle(keys)
        try:
            carrier.submit(for_carrier(carrier, partial(self._carry, keys, refresh, pause)))
        except Exception as error:  # noqa: BLE001  # a carrier that fails owes no work, and the caller has its answer
            self._settle(keys)
            self._failed("the carrier of refreshes took no work", error)
        return None

    def _carry(self, keys: Sequence[str], refresh: Callable[[], Answer | None], pause: float) -> None:
        try:
            with suppress(NotFound):  # which is known now, and no failure
                refresh()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # nobody waits for it: it is counted, and a later stale hit tries again
            for key in keys:
                self._pauses.note(key, pause, self._last())
            self._failed("a refresh in the background came to nothing", error)
        else:
            for key in keys:
                self._pauses.forget(key)
        finally:
            self._settle(keys)

    def _settle(self, keys: Sequence[str]) -> None:
        with self._lock:
            for key in keys:
                self._since.pop(key, None)

    def _failed(self, what: str, error: BaseException) -> None:
        self._counts["refresh_failures"] += 1
        log().warning("%s: %s", what, type(error).__name__)  # its text may hold a key or a value
