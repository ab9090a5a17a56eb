"""One life of a container: from the start of its processes until they are ended, as Lambda's own agent sees it.

The runtime and the extensions are known by what they ask: whoever sits in `next` has nothing to do. When all of them
sit there, nothing runs any more, and the container may be frozen.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiered_cache.local._lambda_api import Api
from tiered_cache.local._lambda_clock import new_clock, variables
from tiered_cache.local._lambda_errors import ContainerCrashed, InitFailed, LambdaError
from tiered_cache.local._lambda_http import ApiServer
from tiered_cache.local._lambda_participants import Extension, Seat

if TYPE_CHECKING:
    from tiered_cache.local._lambda_function import Function
    from tiered_cache.local._lambda_http import Line
    from tiered_cache.local._lambda_invocation import Invocation
    from tiered_cache.local._lambda_processes import Changes, Process, Processes

SIGTERM_GRACE = {"internal": 0.5, "external": 0.3, "managed": 0.6}
"""Seconds that the runtime has between SIGTERM and SIGKILL (Developer Guide, "Extensions API"; the emulator's source)."""
SHUTDOWN_GRACE = 2.0
"""Seconds that external extensions have from the beginning of the shutdown."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a container's processes live: folders, the file of their output, the stream's name, and the library of the
    still clock, if they are to have one.
    """

    number: int
    scratch: Path
    log: Path
    stream: str
    still_clock: Path | None

    def tail(self, characters: int = 2000) -> str:
        """The end of what the processes have written."""
        try:
            return self.log.read_text(errors="replace")[-characters:].strip()
        except FileNotFoundError:
            return ""

    def note(self, request_id: str, text: str) -> None:
        """Write a line of the platform's own after what the processes have written."""
        now = time.time()
        moment = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
        with self.log.open("a") as log:
            log.write(f"{moment} {request_id} {text}\n")


class Life:
    """The processes of a container and what they have asked for. `failure` is set when it cannot go on."""

    def __init__(self, function: Function, processes: Processes, place: Place, changes: Changes) -> None:
        self.function = function
        self.changes = changes
        self.extensions: dict[str, Extension] = {}
        self.invocations: dict[str, Invocation] = {}
        self.failure: LambdaError | None = None
        self.registration_open = True
        self.runtime: Process | None = None
        self.snapshot: asyncio.Future[None] | None = None
        """The runtime's call of `restore/next`, while it waits there."""
        self.farewell: dict[str, Any] | None = None
        """The SHUTDOWN event, once the extensions are told."""
        self.lost = 0
        """Workers of a Managed Instance that have died."""
        self.ready = False
        self._processes = processes
        self._place = place
        self._seats: list[Seat] = []
        self._externals: list[Process] = []
        self._frozen = 0.0
        self._frozen_since: float | None = None
        self._server = ApiServer(Api(self).answer)

    # Coming up

    async def come_up(self) -> None:
        """Start the extensions, then the runtime, and wait for all of them to ask for what comes next.

        Raises InitFailed. On SnapStart it returns where the snapshot would be taken.
        """
        await self._server.start()
        for command in self.function.extensions:
            self._externals.append(self._start(command))
        await self._until(lambda: sum(one.external for one in self.extensions.values()) == len(self._externals))
        self.runtime = self._start(self.function.command)
        await self._until(lambda: self.snapshot_waits or self._all_ask())
        self.ready = not self.snapshot_waits

    async def restore(self) -> None:
        """Let a runtime that waits in `restore/next` go on, and wait until it asks for an event. Raises InitFailed."""
        assert self.snapshot is not None
        self.snapshot.set_result(None)
        await self._until(self._all_ask)
        self.ready = True

    @property
    def snapshot_waits(self) -> bool:
        """True while the runtime waits to be restored."""
        waits = self.snapshot is not None and not self.snapshot.done()
        return waits and all(extension.waits for extension in self.extensions.values())

    def _start(self, command: Sequence[str]) -> Process:
        if self.failure is not None:  # it was ended meanwhile, with all that had been started by then
            raise self.failure
        place = self._place
        environment = self.function.variables(address=self._server.address, scratch=place.scratch, stream=place.stream)
        clock: Path | None = None
        if place.still_clock is not None:
            clock = new_clock(place.log.with_name(f"clock-{uuid.uuid4().hex}"))  # one each: each pauses by itself
            environment |= variables(place.still_clock, clock)
        return self._processes.start(
            command,
            environment=environment,
            directory=self.function.directory,
            log=place.log,
            changed=self._look,
            clock=clock,
        )

    def _look(self) -> None:
        """See whether a process could not be started, or has ended that should not have."""
        for process in (self.runtime, *self._externals):
            if process is not None and process.refused:
                self.fail("Runtime.InvalidEntrypoint", process.refused)
            elif process is not None and process.status is not None:
                kind, what = (
                    ("Runtime.ExitError", "Runtime") if process is self.runtime else ("Extension.Crash", "Extension")
                )
                self.fail(kind, f"{what} exited with {_said(process.status)}", status=process.status)
        self.changes.tell()

    def fail(self, kind: str, message: str, trace: Sequence[str] = (), *, status: int | None = None) -> None:
        """Nothing more can come of these processes. The first reason is the one that counts."""
        if self.failure is not None:
            return
        tail = self._place.tail()
        if self.ready:
            self._fail(ContainerCrashed(f"{kind}: {message}" + (f"\n{tail}" if tail else ""), status=status))
        else:
            self._fail(InitFailed(kind, message, trace or tail.splitlines()))

    def _fail(self, failure: LambdaError) -> None:
        self.failure = failure
        self._frozen, self._frozen_since = self.frozen_seconds, None
        self.changes.tell()

    async def _until(self, true: Callable[[], Any]) -> None:
        await self.changes.until(lambda: self.failure or true())
        if self.failure is not None:
            raise self.failure

    def register(self, name: str, events: frozenset[str], *, external: bool) -> Extension:
        """One more extension, which the container waits for from now on."""
        extension = Extension(name, events, external)
        self.extensions[extension.id] = extension
        self.changes.tell()
        return extension

    # Invocations

    def _all_ask(self) -> bool:
        wanted = self.function.concurrency - self.lost
        return len(self.seats) >= max(wanted, 1) and all(extension.waits for extension in self.extensions.values())

    async def exchange(self, invocation: Invocation) -> None:
        """Deliver the event, and wait until nothing runs any more. Raises what made that impossible.

        The caller is let go as soon as the runtime, its answer posted, asks for the next event: extensions may go on.
        """
        await self._until(lambda: self.seats)  # none where the runtime has hung up, whose end is told of next
        self._deliver(invocation)
        await self._until(lambda: invocation.answered and self.seats)
        if not self._all_ask():
            invocation.release()
            await self._until(self._all_ask)

    async def exchange_on_worker(self, invocation: Invocation) -> None:
        """Deliver the event to one worker of a Managed Instance, and wait for its answer or its end."""
        await self._until(lambda: self.seats or invocation.answered)
        if invocation.answered:  # its time was over before a worker was free
            return
        line = self._deliver(invocation)
        await self._until(lambda: invocation.answered or line.closed)
        if not invocation.answered:
            raise ContainerCrashed(f"Runtime.ExitError: a worker ended before its answer\n{self._place.tail()}".strip())

    @property
    def seats(self) -> list[Seat]:
        """Those on which an event can be given. One whose client has hung up is none, though it was not left yet."""
        return [seat for seat in self._seats if not seat.given.done()]

    def sit(self, seat: Seat) -> None:
        """The runtime asks for the next event. Now there are no more extensions to come."""
        self._seats.append(seat)
        self.registration_open = False
        self.changes.tell()

    def leave(self, seat: Seat) -> None:
        """The call of `next` on this seat is over: with an event, or since the runtime has hung up."""
        if seat in self._seats:
            self._seats.remove(seat)
            self.changes.tell()

    def worker_hung_up(self) -> None:
        """A process that has asked for events before has closed its connection: of a Managed Instance, a dead worker.

        Without workers nothing can come of it any more, though their parent may still be there.
        """
        self.lost += self.function.managed
        if self.lost == self.function.concurrency:
            self.fail("Runtime.ExitError", "every worker has ended")
        self.changes.tell()

    def _deliver(self, invocation: Invocation) -> Line:
        invocation.begin()
        self.invocations[invocation.request_id] = invocation
        seat = self.seats[0]
        self._seats.remove(seat)
        seat.given.set_result(invocation)
        event = {
            "eventType": "INVOKE",
            "deadlineMs": int(invocation.deadline * 1000),
            "requestId": invocation.request_id,
            "invokedFunctionArn": self.function.arn,
            "tracing": {"type": "X-Amzn-Trace-Id", "value": invocation.trace},
        }
        for extension in self.extensions.values():
            if "INVOKE" in extension.events:
                extension.give(event)
        return seat.line

    # Freeze and thaw

    @property
    def frozen(self) -> bool:
        """True if it is to stand still. What cannot go on is not: it has ended, or will."""
        return self._frozen_since is not None

    @property
    def still(self) -> bool:
        """True once it does: every process of it."""
        return self.frozen and all(process.still for process in self._all())

    @property
    def frozen_seconds(self) -> float:
        """For how long it has been frozen, in all."""
        since = self._frozen_since
        return self._frozen + (0.0 if since is None else time.monotonic() - since)

    def freeze(self) -> None:
        self._frozen_since = time.monotonic()
        for process in self._all():
            process.stop()

    def thaw(self) -> None:
        self._frozen, self._frozen_since = self.frozen_seconds, None
        for process in self._all():
            process.go_on()

    def _all(self) -> list[Process]:
        running = [*self._externals, *([] if self.runtime is None else [self.runtime])]
        return [process for process in running if process.status is None]

    # The end

    def kill(self) -> None:
        """SIGKILL to everything at once, as when the machine below is gone."""
        for process in self._all():
            process.signal("SIGKILL")

    async def end(self, reason: str) -> None:
        """End all processes with the graces that Lambda gives: after a `spindown` more than after a `timeout` or `failure`."""
        deadline = time.monotonic() + SHUTDOWN_GRACE
        if self.failure is None:  # whoever brings it up or waits for an answer goes no further
            self._fail(ContainerCrashed("the container was ended"))
        self.thaw()
        runtime = self.runtime
        if runtime is not None:
            if reason == "spindown" and (grace := self._runtime_grace()):
                await runtime.terminate()
                await self._gone([runtime], grace)
            runtime.signal("SIGKILL")
            await self._gone([runtime], None)
        if self._externals:
            self.farewell = event = {
                "eventType": "SHUTDOWN",
                "shutdownReason": reason,
                "deadlineMs": int((time.time() + SHUTDOWN_GRACE) * 1000),
            }
            for extension in self.extensions.values():
                extension.say_farewell(event)
            await self._gone(self._externals, deadline - time.monotonic())
        self.kill()
        await self._gone(self._externals, None)
        await self._server.stop()

    def _runtime_grace(self) -> float:
        if self.function.managed:
            return SIGTERM_GRACE["managed"]
        if self._externals:
            return SIGTERM_GRACE["external"]
        return SIGTERM_GRACE["internal"] if self.extensions else 0.0

    async def _gone(self, processes: list[Process], seconds: float | None) -> None:
        """Wait until all have ended, `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                await self.changes.until(lambda: all(process.status is not None for process in processes))
        except TimeoutError:
            pass


def _said(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
