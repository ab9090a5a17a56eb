"""One container of the local Lambda: what stays the same while its processes come and go."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal, TypeAlias

from tiered_cache.local._lambda_errors import ContainerCrashed, FunctionTimedOut, InitFailed, LambdaError
from tiered_cache.local._lambda_life import Life, Place

if TYPE_CHECKING:
    from tiered_cache.local._lambda_function import Function
    from tiered_cache.local._lambda_invocation import Invocation
    from tiered_cache.local._lambda_processes import Changes, Processes

State: TypeAlias = Literal["starting", "idle", "busy", "frozen", "gone"]

RESTORE_TIMEOUT = 10.0
"""Seconds for the after-restore hooks of SnapStart (Developer Guide, "Lambda SnapStart runtime hooks")."""


class Environment:
    """An execution environment: a place, the life that its processes are at, and the invocations it has taken.

    What it serves is taken from the loop's thread alone. After a timeout or a crash its processes are gone, while its
    number, its scratch folder and its log stay; the next invocation starts new ones.
    """

    def __init__(self, function: Function, processes: Processes, place: Place, changes: Changes) -> None:
        self.place = place
        self.changes = changes
        self.taken = 0
        self.invocations = 0
        self.bound = False
        self.tenant: str | None = None
        self.gone = False
        self.idle_since = 0.0
        self._function = function
        self._processes = processes
        self._life: Life | None = None
        self._lives = 0
        self._coming_up = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None
        self._init_seconds = 0.0
        self._last_log: str | None = None
        self._frozen = 0.0
        """Seconds, of the lives before this one."""

    # What can be seen

    @property
    def state(self) -> State:
        if self.gone:
            return "gone"
        if self._coming_up.locked():
            return "starting"
        if self.taken:
            return "busy"
        return "frozen" if self._life is not None and self._life.still else "idle"

    @property
    def settled(self) -> bool:
        """True when nothing runs in it and, if it is to be frozen, it stands still."""
        state = self.state
        return state in ("frozen", "gone") or (state == "idle" and not (self._life is not None and self._life.frozen))

    @property
    def pid(self) -> int | None:
        return (self._life.runtime.pid or None) if self._usable and self._life and self._life.runtime else None

    @property
    def log(self) -> str:
        return self._last_log if self._last_log is not None else self.place.tail(1 << 30)

    @property
    def frozen_seconds(self) -> float:
        return self._frozen + (0.0 if self._life is None else self._life.frozen_seconds)

    @property
    def _usable(self) -> bool:
        return self._life is not None and self._life.failure is None

    # Taking part in routing

    def serves(self, tenant: str | None) -> bool:
        """True if an invocation for `tenant` can be given to it now."""
        lost = self._life.lost if self._life is not None and self._usable else 0
        return not self.gone and self.taken < self._function.concurrency - lost and self.suits(tenant)

    def suits(self, tenant: str | None) -> bool:
        """An environment is bound to the first tenant it has served, and to none by an invocation without one."""
        return not self.bound or self.tenant == tenant

    def take(self, tenant: str | None) -> None:
        """Reserve it for one invocation, which `serve` then gives back."""
        self.taken += 1
        self.bound, self.tenant = True, tenant

    # Serving

    async def serve(self, invocation: Invocation) -> None:
        """Handle one invocation from beginning to end. What becomes of it is in the invocation."""
        try:
            life = await self._made_ready(invocation)
            self.invocations += 1
            invocation.container = self.place.number
            invocation.pid = life.runtime.pid if life.runtime else 0
            if self._function.managed:
                await self._serve_on_worker(life, invocation)
            else:
                async with asyncio.timeout(invocation.left):
                    await life.exchange(invocation)
        except TimeoutError:
            await self._reset("timeout")
            invocation.take_error(error := _timed_out(invocation))
            self.place.note(invocation.request_id, str(error))
        except LambdaError as error:
            if not self._usable:
                await self._reset("failure")
            invocation.take_error(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller hears of it
            invocation.abandon(_not_served(error))
        except BaseException as error:
            invocation.abandon(_not_served(error))
            raise
        finally:
            invocation.container = self.place.number
            self.taken -= 1
            self._rest()
            invocation.finish()

    async def _serve_on_worker(self, life: Life, invocation: Invocation) -> None:
        def tell_caller() -> None:
            invocation.take_error(_timed_out(invocation))
            invocation.release()

        invocation.begin()
        # The time is not enforced: the caller hears of it, the code goes on (Developer Guide, Managed Instances).
        timer = asyncio.get_running_loop().call_later(invocation.left, tell_caller)
        try:
            await life.exchange_on_worker(invocation)
        finally:
            timer.cancel()

    def _rest(self) -> None:
        """Freeze, if nothing runs and it is the function's way."""
        self.idle_since = time.monotonic()
        if self._function.freezes and self._usable and not self.taken and not self.gone:
            assert self._life is not None
            self._life.freeze()
        self.changes.tell()

    def _thaw(self) -> None:
        if self._life is not None and self._life.frozen:
            self._life.thaw()

    # Coming up

    async def start_ahead(self) -> None:
        """Come up without an invocation, as far as its way of initialisation goes. Up already: nothing."""
        async with self._coming_up:
            if not self._usable:
                await self._come_up(self._function.init_timeout)
        self._rest()

    async def _made_ready(self, invocation: Invocation) -> Life:
        self._thaw()
        async with self._coming_up:
            if not self._usable:
                invocation.cold = True
                await self._come_up_for(invocation)
                invocation.init_seconds = self._init_seconds
            assert self._life is not None
            if self._life.snapshot_waits:
                invocation.cold = True
                invocation.restore_seconds = await self._restore(self._life)
        invocation.begin()
        return self._life

    async def _come_up_for(self, invocation: Invocation) -> None:
        """Init as a phase of its own; where that has failed, once more as a part of the invocation, as Lambda does."""
        if self._lives == 0:
            try:
                await self._come_up(self._function.init_timeout)
            except InitFailed:
                if self._function.initialization != "on-demand":
                    raise
            else:
                return
        invocation.begin()
        async with asyncio.timeout(invocation.left):
            await self._come_up(None)

    async def _come_up(self, limit: float | None) -> None:
        begun = time.monotonic()
        await self._end_life("failure")
        if self.gone:
            raise ContainerCrashed("the container was killed before it was up", status=-9)
        life = self._life = Life(self._function, self._processes, self.place, self.changes)
        self._lives += 1
        try:
            async with asyncio.timeout(limit):
                await life.come_up()
        except TimeoutError as error:
            await self._end_life("timeout")
            raise InitFailed("Sandbox.Timedout", f"init was not over within {limit:g} s", self._log()) from error
        except BaseException:
            await self._end_life("failure")
            raise
        self._init_seconds = time.monotonic() - begun

    async def _restore(self, life: Life) -> float:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(RESTORE_TIMEOUT):
                await life.restore()
        except TimeoutError as error:
            await self._end_life("timeout")
            text = f"the hooks after the restore were not done within {RESTORE_TIMEOUT:g} s"
            raise InitFailed("SnapStartTimeoutException", text, self._log()) from error
        except InitFailed:
            await self._end_life("failure")
            raise
        return time.monotonic() - begun

    def _log(self) -> list[str]:
        return self.place.tail().splitlines()

    # The end

    def kill(self) -> None:
        """End everything at once, and never serve again."""
        self.gone = True
        if self._life is not None:
            self._life.fail("Runtime.ExitError", "the container was killed", status=-9)
            self._life.kill()
            self._begin_end("failure")
        self.changes.tell()

    async def end(self, reason: str = "spindown") -> None:
        """End its processes with Lambda's graces, and never serve again."""
        self.gone = True
        self.changes.tell()
        await self._end_life(reason)
        self._last_log = self.log  # its file goes with the function

    async def _reset(self, reason: str) -> None:
        await self._end_life(reason)
        self.changes.tell()

    async def _end_life(self, reason: str) -> None:
        """End it, or wait until it has ended for whoever asked first. It ends to the end, though they be cancelled."""
        self._begin_end(reason)
        if self._ending is not None:
            await asyncio.shield(self._ending)

    def _begin_end(self, reason: str) -> None:
        self._frozen = self.frozen_seconds
        life, self._life = self._life, None
        if life is not None:
            self._ending = asyncio.create_task(life.end(reason))


def _not_served(error: BaseException) -> LambdaError:
    trouble = LambdaError(f"not served: {error!r}")
    trouble.__cause__ = error
    return trouble


def _timed_out(invocation: Invocation) -> FunctionTimedOut:
    return FunctionTimedOut(f"Task timed out after {invocation.timeout:.2f} seconds")
