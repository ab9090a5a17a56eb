"""Work put off: until the answer is out, or until the next invocation begins."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from math import inf
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

from tiered_cache._log import log
from tiered_cache._work_queue import WorkQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from tiered_cache._flight import Flight
    from tiered_cache._stats import Counters

LAST = 0.1
"""Seconds before the end of the time at which it is said what will not be done in it."""
LONGEST = 60.0
"""Seconds for which loads that go on when their callers have gone are waited for at most."""


class Deferred(WorkQueue):
    """Work that was put off, for whoever runs it."""

    lost_after = inf
    """Seconds after which what was submitted counts as lost: never, see `Owed`."""
    in_its_own_time = False
    """It is carried out as an invocation begins or ends, and has the time of that."""

    def __init__(self, counts: Counters) -> None:
        super().__init__()
        self._counts = counts

    def submit(self, work: Callable[[], object], /) -> None:
        """Put `work` off. Raises OverflowError where too much waits."""
        with self._lock:
            self._add(work)

    def run(
        self, remaining: Callable[[], float | None], share: float = 1.0, let_end: Callable[[], object] | None = None
    ) -> int:
        """Do what waits now, while time remains (seconds; None: no limit is known); how much is left to be done.

        share: of the time that remains now, for all of it. let_end: waits for what else may put work off.
        What is put off meanwhile is done too, and what that puts off in turn waits for the next run, so that a run ends.
        """
        if not self._work and let_end is None:
            return 0  # nearly always
        kept = (1.0 - share) * (remaining() or 0.0)
        in_time = self._do_what_waits(remaining, kept)
        if let_end is not None:
            let_end()
        in_time = in_time and self._do_what_waits(remaining, kept)
        if left := len(self):
            why = "it was put off while other work was done" if in_time else "there is no time left"
            self._counts["put_off"] += 1
            log().warning("%d pieces of work wait for the next invocation: %s", left, why)
        return left

    def _do_what_waits(self, remaining: Callable[[], float | None], kept: float) -> bool:
        """What waits now, and nothing that comes in meanwhile; False if there was no time for all of it."""
        if not (waiting := len(self._work)):
            return True
        with said_when_late(remaining, self.__len__):
            for _ in range(waiting):
                left = remaining()
                if left is not None and left <= kept:
                    return False
                with self._lock:
                    work = self._take()
                if work is None:
                    break  # another thread was quicker
                work()
        return True


class Lingering:
    """The loads that go on in threads after their callers have gone on, waited for before the container is frozen.

    Each is waited for once, and none beside one that did not end then: an origin that hangs costs no later invocation its time.
    """

    def __init__(self) -> None:
        self._given_up: set[Flight[Any]] = set()

    def wait(self, under_way: Iterable[Flight[Any]], remaining: Callable[[], float | None]) -> None:
        """Let those `under_way` end, while time remains (seconds; None: no limit is known) and for `LONGEST` at most."""
        flights = set(under_way)
        self._given_up &= flights
        if self._given_up or not flights:
            return
        left = remaining()
        ends = time.monotonic() + (LONGEST if left is None else min(left, LONGEST))
        self._given_up = {flight for flight in flights if not flight.wait(ends - time.monotonic())}
        if self._given_up:
            log().warning(
                "%d loads that outlived their callers still go on, and are waited for no longer: "
                "they are frozen with the container, and until they end no other load is waited for",
                len(self._given_up),
            )


@contextmanager
def said_when_late(remaining: Callable[[], float | None], waiting: Callable[[], int]) -> Generator[None]:
    """Have the log say that work runs, and how much is `waiting()`, when the time is nearly up and it has not ended.

    Lambda kills the container when the time is over, and afterwards nobody can say what is lost.
    """
    if (left := remaining()) is None:
        yield
        return
    ended = threading.Event()

    def watch(left: float | None) -> None:
        while left is not None and not ended.wait(min(max(left - LAST, LAST / 2), threading.TIMEOUT_MAX)):
            left = remaining()  # another invocation, which has a time of its own, may have begun
            if left is not None and left <= LAST:
                log().warning(
                    "work that was put off still runs, and the time is up: if that is the container's end, "
                    "it is lost, and %d pieces that wait behind it are never done",
                    waiting(),
                )
                return

    try:
        threading.Thread(target=watch, args=(left,), name="tiered_cache-watch", daemon=True).start()
    except RuntimeError as error:
        log().warning("what is lost at the end of the time will not be said: %s", error)
    try:
        yield
    finally:
        ended.set()


def guarded(work: Callable[[], object], counts: Counters) -> Callable[[], None]:
    """`work` for a carrier: what it raises is counted, since nobody waits for it; so is what it leaves undone."""

    def run() -> None:
        try:
            fault = _undone(work())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # such as CancelledError: the answer and the rest of the work stay
            fault = type(error).__name__  # its text may hold a key or a value
        if fault:
            counts["deferred_failures"] += 1
            log().warning("deferred work failed: %s", fault)
        counts["deferred_done"] += 1

    return run


def _undone(given: object) -> str:
    """What is wrong with work that gave this: a coroutine or a generator, of which nothing has run. Else ""."""
    if not hasattr(type(given), "__await__") and not isinstance(given, GeneratorType | AsyncGeneratorType):
        return ""
    close = getattr(given, "close", None)
    if callable(close):
        close()  # or Python warns of it at any time
    return f"it gave a {type(given).__name__}, which nobody runs: pass a plain function"
