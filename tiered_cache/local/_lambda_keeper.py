"""The thread in which a local Lambda lives, and the one way into it from other threads."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tiered_cache.local._lambda_invocation import refuse_to_wait
from tiered_cache.local._needs import ServiceUnavailable

if TYPE_CHECKING:
    from tiered_cache.local._lambda_fleet import Fleet

T = TypeVar("T")


class Keeper:
    """A thread with a loop that opens a fleet and, in the end, closes it.

    Whoever asks something of it hears what became of that, in every order of asking and stopping: what comes in before
    the end begins is a task by then, and is over when that is; later, nothing comes in.
    """

    def __init__(self, make: Callable[[Path], Fleet]) -> None:
        self.ident = 0
        """The thread's, while it lives."""
        self.fleet: Fleet | None = None
        """From when it is open on."""
        self.shut = False
        """True once nothing more is let in."""
        self.stopping: asyncio.Event
        self._make = make
        self._started: Future[None] = Future()
        self._calls: set[asyncio.Task[Any]] = set()
        self._door = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="tiered_cache-lambda", daemon=True)

    def start(self) -> None:
        """Start the thread, and wait until the fleet is open. If that fails or is interrupted, it is to be stopped."""
        self._thread.start()
        self._started.result()

    def stop(self) -> None:
        """Let nothing more in, and wait for the end. Twice does no harm."""
        refuse_to_wait(self.ident)
        with self._door:
            self.shut = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self.stopping.set)  # after all that came in before
        if self._thread.ident is not None:  # else it could not be started
            self._thread.join()

    def ask(self, do: Callable[[], object]) -> None:
        """Have `do` called in the thread. Raises ServiceUnavailable where the end has begun."""
        with self._door:
            if self.shut or self._loop is None:
                raise _stopped()
            self._loop.call_soon_threadsafe(do)

    def call(self, do: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the coroutine returns or raises in the thread. Raises ServiceUnavailable where the end was quicker."""
        refuse_to_wait(self.ident)
        called: Future[T] = Future()

        def begin() -> None:
            task = asyncio.get_running_loop().create_task(do())
            self._calls.add(task)
            task.add_done_callback(hand_over)

        def hand_over(task: asyncio.Task[T]) -> None:
            self._calls.discard(task)
            if task.cancelled():
                called.set_exception(_stopped())
            elif (error := task.exception()) is not None:
                called.set_exception(error)
            else:
                called.set_result(task.result())

        self.ask(begin)
        return called.result()

    # In the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._live())
        finally:
            self.ident = 0  # another thread may get this one's number

    async def _live(self) -> None:
        directory = Path(tempfile.mkdtemp(prefix="tiered-cache-lambda-"))
        self.stopping = asyncio.Event()
        self.ident = threading.get_ident()
        try:
            fleet = self._make(directory)
            fleet.open()
            try:
                self._let_in()
                self.fleet = fleet
                self._started.set_result(None)
                await self.stopping.wait()
            finally:
                await fleet.close()
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)
        finally:
            with self._door:
                self.shut, self._loop = True, None
            shutil.rmtree(directory, ignore_errors=True)
            await asyncio.sleep(0)  # what has come in all the same is a task by then, and ends with the loop

    def _let_in(self) -> None:
        with self._door:
            self._loop = asyncio.get_running_loop()
            if self.shut:  # stopped before it could be told so
                self.stopping.set()


def _stopped() -> ServiceUnavailable:
    return ServiceUnavailable("this local Lambda was stopped, and its containers are gone")
