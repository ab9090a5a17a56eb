"""AsyncTieredCache: the same cache for code that runs in an event loop.

What L1 may answer is answered in the loop. For all else a thread goes the one way of a read that there is, and comes back
to the loop to await an asynchronous loader: so the loop waits for L2 only where an invocation carries out what was put off,
and freshness, leases and invalidation have one implementation. docs/decisions/0010-async.md weighs that.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from tiered_cache._cache import TieredCache
from tiered_cache._errors import OriginError
from tiered_cache._forks import ForkSafe
from tiered_cache._load import run_batch_loader
from tiered_cache._options import check_batch_loader, check_key, check_loader
from tiered_cache._values import MISSING
from tiered_cache._waits import WAITS, acting_for
from tiered_cache._whose import goes_on

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from concurrent.futures import Future
    from types import TracebackType
    from typing import ParamSpec, Self, Unpack

    from tiered_cache._cached import CachedFunction
    from tiered_cache._invocation import Running
    from tiered_cache._l1.tier import MemoryTier
    from tiered_cache._options import LoadOptions
    from tiered_cache._stats import Stats
    from tiered_cache._units import Duration
    from tiered_cache._values import Answer, BatchContext, LoadContext
    from tiered_cache.interfaces import BatchObjectLoader, SharedTier

    P = ParamSpec("P")
    R = TypeVar("R")

T = TypeVar("T")
LOOK = 1.0
"""Seconds after which a thread that waits for an event loop looks whether that still runs."""
STILL = 2
"""Looks in a row at a loop that stands still after which it is waited for no longer."""
MOST_IDLE = 8
"""Threads kept for the next call; more are started when all are busy, and end when there is no work for them."""
_BY_ITSELF = "the loader ended in CancelledError, by itself or by what it awaited"


class _Core(TieredCache):
    """The cache itself, whose `get_or_load` says `_MISSED` where the long way is to be gone."""

    def _long_way(self, key: str, loader: Any, options: dict[str, Any]) -> Any:  # noqa: ARG002
        return _MISSED


_Core.__name__ = "AsyncTieredCache"  # by which errors name it
_MISSED = object()


class AsyncTieredCache:
    """`TieredCache` for an event loop: the same options, and the same methods, awaited. Loaders may be asynchronous.

    `stats`, `invocation`, `after_response` and the hooks for snapshots are plain methods as there, and so is
    `run_deferred`, which is for threads without an event loop. Work that was put off until an invocation begins or ends is
    done as it does so, and the loop waits for it. A loader that is not asynchronous runs in a thread. An
    asynchronous one runs in the loop of the caller that leads the load; where that loop has ended, as for work after the
    response, in one of its own. Cancelling a caller does not cancel the load, which others may wait for, nor end the thread
    that waits for it: bound the wait by `hard_timeout`, which does, and not by `asyncio.wait_for` alone. A load that is to
    outlive its callers, as refreshes and those with a time limit are, and whose loop ends before it, begins once more, in
    a loop of its own. Any number of loops may use one cache, one after another or at once.
    """

    def __init__(self, l1: MemoryTier | None = None, l2: SharedTier | None = None, **options: Any) -> None:
        self._core = _Core(l1, l2, **options)
        self._names: dict[str, Any] = {}
        self.refresh = self._core.refresh
        self.stats: Callable[[], Stats] = self._core.stats
        self.invocation: Callable[..., Running] = self._core.invocation
        self.after_response = self._core.after_response
        self.before_snapshot = self._core.before_snapshot
        self.after_restore = self._core.after_restore

    async def get_or_load(self, key: str, loader: Any, **options: Unpack[LoadOptions]) -> Any:
        """As `TieredCache.get_or_load`; the loader may be a coroutine function, or have an asynchronous `load(context)`."""
        found = self._core.get_or_load(key, loader, **options)
        return (await self.get_entry_or_load(key, loader, **options)).value if found is _MISSED else found

    async def get_entry_or_load(self, key: str, loader: Any, **options: Unpack[LoadOptions]) -> Answer:
        """As `TieredCache.get_entry_or_load`."""
        check_key(key)
        check_loader(loader, asynchronous=True)
        bridge = Bridge(loader, asyncio.get_running_loop())
        return await _THREADS.run(partial(self._core.get_entry_or_load, key, bridge, **options))

    async def get_many_or_load(
        self,
        keys: Iterable[str],
        loader: Callable[[Sequence[str]], Any] | BatchObjectLoader,
        **options: Unpack[LoadOptions],
    ) -> dict[str, Any]:
        """As `TieredCache.get_many_or_load`; the loader may be a coroutine function."""
        check_batch_loader(loader)
        bridge = Bridge(loader, asyncio.get_running_loop())
        return await _THREADS.run(partial(self._core.get_many_or_load, keys, bridge, **options))

    def cached(
        self, key: str | Callable[..., str] | None = None, **options: Unpack[LoadOptions]
    ) -> Callable[[Callable[P, Awaitable[R]]], CachedFunction[P, Awaitable[R]]]:
        """As `TieredCache.cached`, for a coroutine function; a plain one runs in a thread, and is awaited all the same."""
        from tiered_cache._cached import decorator

        return decorator(self, self._names, key, options, asynchronous=True)

    async def get(self, key: str, default: Any = MISSING) -> Any:
        """As `TieredCache.get`."""
        return await _THREADS.run(partial(self._core.get, key, default))

    async def set(self, key: str, value: Any, *, ttl: Duration | None = None, tags: Iterable[str] = ()) -> None:
        """As `TieredCache.set`."""
        await _THREADS.run(partial(self._core.set, key, value, ttl=ttl, tags=tags))

    async def delete(self, key: str) -> None:
        """As `TieredCache.delete`."""
        await _THREADS.run(partial(self._core.delete, key))

    async def expire(self, key: str) -> None:
        """As `TieredCache.expire`."""
        await _THREADS.run(partial(self._core.expire, key))

    async def invalidate_tag(self, *tags: str) -> None:
        """As `TieredCache.invalidate_tag`."""
        await _THREADS.run(partial(self._core.invalidate_tag, *tags))

    async def clear(self) -> None:
        """As `TieredCache.clear`."""
        await _THREADS.run(self._core.clear)

    async def warm_up(self, *, wait: bool = True) -> bool:
        """As `TieredCache.warm_up`."""
        return await _THREADS.run(partial(self._core.warm_up, wait=wait))

    def run_deferred(self, remaining: Callable[[], float] | None = None) -> int:
        """As `TieredCache.run_deferred`. Raises RuntimeError in an event loop, for which that might wait."""
        if _is_in_a_loop():
            raise RuntimeError(
                "run_deferred waits for loads, and an event loop must not: await asyncio.to_thread(cache.run_deferred)"
            )
        return self._core.run_deferred(remaining)

    async def close(self) -> None:
        """As `TieredCache.close`."""
        await _THREADS.run(self._core.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{super(_Core, self._core).__repr__()}"


class _LoopEnded(Exception):
    """The event loop of a loader has ended, or stands still, before the loader did."""


class Bridge:
    """A user's loader, as one that a thread can run: what is awaitable is awaited in the loop that it came from."""

    def __init__(self, loader: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._loader = loader
        self._loop = loop
        self._loop_thread = threading.get_ident()  # it is made there
        self.resumable: bool = getattr(loader, "resumable", False)
        self.wait: object = getattr(loader, "wait", None)

    def load(self, context: LoadContext, /) -> Any:
        load = getattr(self._loader, "load", None)
        return self._landed(partial(load, context) if callable(load) else self._loader)

    def load_many(self, keys: Sequence[str], context: BatchContext, /) -> Any:
        return self._landed(partial(run_batch_loader, self._loader, keys, context))

    def _landed(self, call: Callable[[], Any]) -> Any:
        with acting_for(threading.get_ident()):
            try:
                return self._given(call)
            except asyncio.CancelledError as error:  # it would end the task of whoever waits, which nobody cancelled
                raise OriginError(_BY_ITSELF) from error

    def _given(self, call: Callable[[], Any]) -> Any:
        given = call()
        if not hasattr(type(given), "__await__"):
            return given
        try:
            return self._awaited(given)
        except _LoopEnded as error:
            if not goes_on():
                raise OriginError(str(error)) from error.__cause__
        return asyncio.run(_outcome(call()))  # begun once more, for it is to outlive those who began it

    def _awaited(self, given: Any) -> Any:
        """Its outcome. Raises _LoopEnded if its loop does before it, and what it raises."""
        outcome = _outcome(given)
        if _is_in_a_loop():  # which cannot go on before this returns: work put off, carried out in a coroutine
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(1) as aside:
                return aside.submit(copy_context().run, asyncio.run, outcome).result()
        if not self._loop.is_running():
            return asyncio.run(outcome)
        try:
            waiting = asyncio.run_coroutine_threadsafe(outcome, self._loop)
        except RuntimeError:  # it has been closed this very moment
            return asyncio.run(outcome)
        with WAITS.behind(self._loop_thread):
            self._wait_for(waiting)
        try:
            return waiting.result()
        except CancelledError as error:
            raise _LoopEnded("the event loop in which the loader ran has ended, or cancelled it") from error

    def _wait_for(self, waiting: Future[Any]) -> None:
        """Return once it has ended. Raises _LoopEnded if the loop has not, and does not go on."""
        still = 0
        while not _has_ended(waiting):
            if self._loop.is_closed():
                raise _LoopEnded("the event loop in which the loader ran was closed before it ended")
            still = 0 if self._loop.is_running() else still + 1
            if still == STILL:
                waiting.cancel()
                raise _LoopEnded("the event loop in which the loader ran was stopped before it ended")


def _is_in_a_loop() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _has_ended(waiting: Future[Any]) -> bool:
    """Whether it has, after a while; its own TimeoutError is not mistaken for ours."""
    with suppress(CancelledError, TimeoutError):
        waiting.exception(LOOK)
    return waiting.done()


async def _outcome(given: Any) -> Any:
    """What it gives. Raises CancelledError where it was cancelled from without alone, as by a loop that ends."""
    try:
        return await given
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise OriginError(_BY_ITSELF) from error


class Threads(ForkSafe):
    """Threads for calls from event loops: as many as there are calls at once, since one may wait for another. They serve
    all caches of the process, so that none leaves any behind.
    """

    def __init__(self) -> None:
        super().__init__()
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle = 0

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` gives, or raises, in a thread and in the context of the caller. It goes on if that is cancelled."""
        loop = asyncio.get_running_loop()
        landed: asyncio.Future[T] = loop.create_future()
        within = copy_context()
        self._submit(lambda: within.run(_do, work, loop, landed))
        return await landed

    def _submit(self, job: Callable[[], None]) -> None:
        with self._lock:
            is_idle = self._idle > 0
            self._idle -= is_idle
        if is_idle:
            self._jobs.put(job)
        else:
            threading.Thread(target=self._serve, args=(job,), name="tiered_cache-async", daemon=True).start()

    def _serve(self, job: Callable[[], None]) -> None:
        while True:
            job()
            del job  # and with it whatever it held
            with self._lock:
                if self._idle >= MOST_IDLE:
                    return
                self._idle += 1
            job = self._jobs.get()

    def forked(self) -> None:
        """The parent's threads did not come along."""
        super().forked()
        self._jobs, self._idle = SimpleQueue(), 0


_THREADS = Threads()


def _do(work: Callable[[], T], loop: asyncio.AbstractEventLoop, landed: asyncio.Future[T]) -> None:
    try:
        result = work()
    except StopIteration as error:  # which no future can carry
        _tell(loop, landed, partial(landed.set_exception, RuntimeError(f"the loader raised {error!r}")))
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is the caller's
        _tell(loop, landed, partial(landed.set_exception, error))
    else:
        _tell(loop, landed, partial(landed.set_result, result))


def _tell(loop: asyncio.AbstractEventLoop, landed: asyncio.Future[Any], land: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed, and nobody waits
        loop.call_soon_threadsafe(lambda: None if landed.done() else land())
