"""All containers of one local function, and which of them gets an invocation."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from tiered_cache._units import shown
from tiered_cache.local._lambda_clock import build
from tiered_cache.local._lambda_environment import Environment
from tiered_cache.local._lambda_errors import LambdaError, Throttled
from tiered_cache.local._lambda_function import VERSION, Function
from tiered_cache.local._lambda_life import Place
from tiered_cache.local._lambda_processes import Changes, Processes

if TYPE_CHECKING:
    from tiered_cache.local._lambda_invocation import Invocation

T = TypeVar("T")
Choose: TypeAlias = Callable[[Sequence[Environment]], Environment]


def newest(idle: Sequence[Environment]) -> Environment:
    """The one that was made last."""
    return max(idle, key=lambda one: one.place.number)


def oldest(idle: Sequence[Environment]) -> Environment:
    """The one that was made first."""
    return min(idle, key=lambda one: one.place.number)


def recent(idle: Sequence[Environment]) -> Environment:
    """The one that became idle last."""
    return max(idle, key=lambda one: one.idle_since)


def rested(idle: Sequence[Environment]) -> Environment:
    """The one that has been idle longest, so that all take turns."""
    return min(idle, key=lambda one: one.idle_since)


RULES: dict[str, Choose] = {"newest": newest, "oldest": oldest, "recent": recent, "rested": rested}
ROUTING = (*RULES, "random")
"""The names of the rules, as the simulator has them."""


def chosen_by(routing: str, seed: int) -> Choose:
    """The rule of that name."""
    return random.Random(seed).choice if routing == "random" else RULES[routing]


def asked_of(routing: Callable[[list[T]], object], handle: Callable[[Environment], T]) -> Choose:
    """The rule that a user's `routing` is, which sees the handles of containers. It raises LambdaError."""
    name = f"the routing {getattr(routing, '__qualname__', type(routing).__qualname__)}"

    def choose(idle: Sequence[Environment]) -> Environment:
        handles = [handle(environment) for environment in idle]
        try:
            chosen = routing(list(handles))
        except Exception as error:
            raise LambdaError(f"{name} raised {error!r} when it was to choose one of {len(idle)} containers") from error
        for environment, one in zip(idle, handles, strict=True):
            if one is chosen:
                return environment
        raise LambdaError(f"{name} must return one of the containers it is given; it returned {shown(chosen)}")

    return choose


class Fleet:
    """The containers, made as they are needed. Used from the loop's thread alone."""

    def __init__(self, function: Function, directory: Path, choose: Choose) -> None:
        self.environments: list[Environment] = []
        self.changes = Changes()
        self._function = function
        self._directory = directory
        self._choose = choose
        self._processes = Processes(directory)
        self._made = 0
        self._still_clock: Path | None = None
        self._tasks: dict[asyncio.Task[None], Invocation | None] = {}
        self._closing = False

    def open(self) -> None:
        if self._function.still_clock:
            self._still_clock = build(self._directory)
        self._processes.open()

    def begin(self, invocation: Invocation, *, wait: bool) -> None:
        """Have a container handle the invocation. It is over when the task is that sees to it, whatever ends that."""
        self._go_on(self._handle(invocation, wait=wait), invocation)

    async def _handle(self, invocation: Invocation, *, wait: bool) -> None:
        environment = await self._found(invocation.tenant, wait=wait)
        await environment.serve(invocation)

    async def _found(self, tenant: str | None, *, wait: bool) -> Environment:
        """A container reserved for an invocation. Raises Throttled."""
        environment = self._taken(tenant)
        if environment is None and wait:
            found: list[Environment] = []

            def look() -> bool:
                if one := self._taken(tenant):
                    found.append(one)
                return bool(found)

            await self.changes.until(look)
            environment = found[0]
        if environment is None:
            raise Throttled(f"Rate exceeded: all {self._function.containers} containers are busy")
        return environment

    async def start_ahead(self, wanted: int) -> None:
        """Have at least `wanted` containers that are up."""
        self._check_open()
        while len(self._alive()) < wanted:
            self._make()
        failed: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as group:
                for environment in self._alive()[:wanted]:
                    if not environment.taken:
                        group.create_task(environment.start_ahead())
        except* LambdaError as errors:
            failed.extend(errors.exceptions)
        if failed:
            for environment in self._alive():
                if environment.pid is None and not environment.taken:
                    environment.kill()
            self._check_open()  # else that is the reason
            raise failed[0]

    def _go_on(self, coroutine: Any, invocation: Invocation | None) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks[task] = invocation
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task is over, which may have been cancelled before it began: so its invocation is over here and not in it."""
        invocation = self._tasks.pop(task)
        if invocation is None:
            return
        error = _stopped() if task.cancelled() else task.exception()
        if error is not None:
            invocation.abandon(error if isinstance(error, LambdaError) else LambdaError(f"not begun: {error!r}"))

    # Which one

    def _alive(self) -> list[Environment]:
        return [one for one in self.environments if not one.gone]

    def _taken(self, tenant: str | None) -> Environment | None:
        """A container reserved for an invocation, an idle one where there is any; None where all are busy."""
        self._check_open()
        free = [one for one in self._alive() if one.serves(tenant)]
        idle = [one for one in free if one.state != "starting"]
        if idle:
            environment = self._choose(idle)
        elif free:  # one that was started ahead, and is not up yet
            environment = free[0]
        elif self._room(tenant):
            environment = self._make()
        else:
            return None
        environment.take(tenant)
        return environment

    def _room(self, tenant: str | None) -> bool:
        """True if one more may be made. One that waits for another tenant goes for it: it is busy ones that are limited."""
        alive = self._alive()
        if len(alive) < self._function.containers:
            return True
        unused = [one for one in alive if not one.taken and not one.suits(tenant)]
        if unused:
            given_up = rested(unused)
            given_up.gone = True
            self._go_on(given_up.end(), None)
        return bool(unused)

    def _make(self) -> Environment:
        self._made += 1
        folder = self._directory / str(self._made)
        scratch = folder / "tmp"
        scratch.mkdir(parents=True)
        stream = f"{time.strftime('%Y/%m/%d', time.gmtime())}/[{VERSION}]{uuid.uuid4().hex}"
        place = Place(self._made, scratch, folder / "log", stream, self._still_clock)
        environment = Environment(self._function, self._processes, place, self.changes)
        self.environments.append(environment)
        return environment

    # The end

    def _check_open(self) -> None:
        """Nothing is begun once the end has. Raises LambdaError."""
        if self._closing:
            raise _stopped()

    async def close(self) -> None:
        """Let go whoever still waits, for an answer or for a container, and end every container with its graces."""
        self._closing = True
        try:
            for invocation in list(self._tasks.values()):
                if invocation is not None:
                    invocation.abandon(_stopped())
            self.changes.tell()
            await asyncio.gather(*(one.end() for one in self.environments))
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._processes.close()


def _stopped() -> LambdaError:
    return LambdaError("the local Lambda was stopped")
