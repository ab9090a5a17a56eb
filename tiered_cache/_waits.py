"""Who waits for whom, over all caches of this process: a circle would be a wait for ever."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from tiered_cache._errors import ReentrantLoadError
from tiered_cache._forks import ForkSafe

if TYPE_CHECKING:
    from collections.abc import Generator

    from tiered_cache._flight import Flight


class Behalf:
    """That of a thread which waits for what others do for it; of none once it has gone on."""

    __slots__ = ("thread",)

    def __init__(self, thread: int) -> None:
        self.thread: int | None = thread


_ACTING_FOR: ContextVar[Behalf] = ContextVar("tiered_cache_acting_for")


@contextmanager
def acting_for(thread: int) -> Generator[None]:
    """What runs in this context, in whatever threads, is done on behalf of `thread`, which waits for it."""
    behalf = Behalf(thread)
    before = _ACTING_FOR.set(behalf)
    try:
        yield
    finally:
        _ACTING_FOR.reset(before)
        behalf.thread = None  # a task may live on with a copy of this context, while the thread leads another load


class Waits(ForkSafe):
    """The flights that threads wait for. Those of a process that was forked are none: its threads did not come along."""

    def __init__(self) -> None:
        super().__init__()
        self.awaited: dict[int, Flight[Any]] = {}
        """By the thread that waits."""
        self._acts_for: dict[int, Behalf] = {}  # by the thread that works for another, which waits outside of a flight
        self._behind: dict[int, set[int]] = {}  # by the thread of an event loop: those that wait for what runs in it

    def forked(self) -> None:
        super().forked()
        self.awaited, self._acts_for, self._behind = {}, {}, {}

    @contextmanager
    def working(self) -> Generator[None]:
        """This thread works for whoever it acts for in this context, until this has ended."""
        behalf, me = _ACTING_FOR.get(None), threading.get_ident()
        if behalf is None or behalf.thread in (None, me) or me in self._acts_for:
            yield
            return
        self._acts_for[me] = behalf
        try:
            yield
        finally:
            self._acts_for.pop(me, None)

    @contextmanager
    def behind(self, loop_thread: int) -> Generator[None]:
        """This thread waits for what runs in the event loop of that thread, and so behind whatever holds that up."""
        me = threading.get_ident()
        with self._lock:
            waiting = self._behind.setdefault(loop_thread, set())
            waiting.add(me)
        try:
            yield
        finally:
            with self._lock:
                waiting.discard(me)
                if not waiting:
                    self._behind.pop(loop_thread, None)

    def begin(self, flight: Flight[Any]) -> None:
        """This thread is going to wait for `flight`, which it has begun itself."""
        with self._lock:
            self.awaited[threading.get_ident()] = flight

    def join(self, flight: Flight[Any], *, waits: bool) -> None:
        """This thread is going to wait for `flight`, if it says so. Raises ReentrantLoadError where that would be for ever."""
        me = threading.get_ident()
        with self._lock:
            self._refuse_circle(flight, self._chain(me, _ACTING_FOR.get(None)))
            if waits:
                self.awaited[me] = flight

    def end(self) -> None:
        """This thread waits no longer."""
        with self._lock:
            self.awaited.pop(threading.get_ident(), None)

    def mine(self) -> list[int]:
        """This thread, and all on whose behalf it works."""
        with self._lock:
            return self._chain(threading.get_ident(), _ACTING_FOR.get(None))

    def _refuse_circle(self, flight: Flight[Any], mine: list[int]) -> None:
        ahead, seen = [flight], [flight]
        while ahead:
            leader = ahead.pop().leader
            if leader in mine:
                raise ReentrantLoadError(
                    "the loader of this key asks the cache for a key whose load waits for it: "
                    "let the inner value have a key of its own, or call the inner loader directly"
                )
            for waiter, awaited in self.awaited.items():
                if awaited not in seen and leader in self._chain(waiter):
                    seen.append(awaited)
                    ahead.append(awaited)

    def _chain(self, thread: int, behalf: Behalf | None = None) -> list[int]:
        """The thread, the one on whose behalf it works, those behind it in an event loop that it holds up, and so on."""
        chain = [thread]
        if behalf is None and thread not in self._acts_for and thread not in self._behind:
            return chain  # nearly always
        for one in chain:  # which grows meanwhile
            behalf = (behalf if one == thread else None) or self._acts_for.get(one)
            following = [] if behalf is None or behalf.thread is None else [behalf.thread]
            chain += [other for other in (*following, *self._behind.get(one, ())) if other not in chain]
        return chain


WAITS = Waits()
