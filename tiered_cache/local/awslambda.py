"""AWS Lambda on your own machine: the real runtime client in processes that are frozen between invocations.

    with LocalLambda("app.handler", directory=Path("src"), containers=3) as function:
        done = function.invoke({"user": "ann"})
        print(done.value, done.container, done.cold, done.seconds)

What is real: `awslambdaric`, the client that the managed Python runtimes have, drives your handler; it talks to the
Runtime API and the Extensions API that stand here. A container is made when none is idle. It is stopped (SIGSTOP, its
forked processes too) as soon as the runtime and every registered extension have asked for what comes next, and goes on
(SIGCONT) for the next event. Linux only, since the client exists for Linux only.

Where it is not Lambda, as far as is known:

- The Python is yours and so is the machine: no share of a CPU by `memory`, no limit on memory, a writable file system.
- `/tmp` is a folder of each container's own by the name in `TMPDIR`.
- SIGSTOP stops no clock. On Lambda `time.monotonic()` must be assumed to stand still; `still_clock=True` sees to that.
- With SnapStart each container runs its own init: its memory is not a copy of one snapshot.
- No permissions, no quotas, no queue for asynchronous events, no retries, no idle lifetime, no Logs or Telemetry API.
- `billed_seconds` has neither init nor rounding.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar

from tiered_cache._errors import ConfigurationError
from tiered_cache._options import flag
from tiered_cache._units import Duration, seconds, shown, whole
from tiered_cache.local import _lambda_options as checked
from tiered_cache.local._lambda_errors import (
    ContainerCrashed,
    FunctionTimedOut,
    HandlerError,
    InitFailed,
    LambdaError,
    Throttled,
)
from tiered_cache.local._lambda_fleet import ROUTING, Choose, Fleet, asked_of, chosen_by
from tiered_cache.local._lambda_function import Function, Initialization
from tiered_cache.local._lambda_invocation import Done, Invocation, refuse_to_wait
from tiered_cache.local._lambda_keeper import Keeper
from tiered_cache.local._needs import ServiceUnavailable

if TYPE_CHECKING:
    from types import TracebackType

    from tiered_cache.local._lambda_environment import Environment, State

__all__ = [
    "Container",
    "ContainerCrashed",
    "Done",
    "FunctionTimedOut",
    "HandlerError",
    "InitFailed",
    "LambdaError",
    "LocalLambda",
    "Throttled",
]

T = TypeVar("T")
Routing: TypeAlias = (
    'Literal["newest", "oldest", "recent", "rested", "random"] | Callable[[Sequence[Container]], Container]'
)


class Container:
    """A container as seen from outside. It stays readable after the container is gone."""

    def __init__(
        self, environment: Environment, call: Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
    ) -> None:
        self._environment = environment
        self._call = call

    @property
    def number(self) -> int:
        """1 for the first that was made. It stays over a reset by a timeout or a crash."""
        return self._environment.place.number

    @property
    def pid(self) -> int | None:
        """The runtime's process, the leader of its process group; None where there is none."""
        return self._environment.pid

    @property
    def state(self) -> State:
        """`starting`, `idle`, `busy`, `frozen` or `gone`. Busy until the extensions are done too."""
        return self._environment.state

    @property
    def log(self) -> str:
        """What its processes have written to stdout and stderr so far."""
        return self._environment.log

    @property
    def invocations(self) -> int:
        """Events that it was given."""
        return self._environment.invocations

    @property
    def frozen_seconds(self) -> float:
        """For how long it has stood still, in all."""
        return self._environment.frozen_seconds

    def kill(self) -> None:
        """End it at once, as when the machine below it fails. It never serves again; another is made when needed. Gone
        with the local Lambda: nothing.
        """
        with suppress(ServiceUnavailable):
            self._call(self._kill)

    async def _kill(self) -> None:
        self._environment.kill()

    def wait_frozen(self, timeout: Duration = 10.0) -> None:
        """Until it stands still. Raises TimeoutError; ServiceUnavailable once the local Lambda was stopped."""
        self._wait(("frozen",), timeout)

    def wait_idle(self, timeout: Duration = 10.0) -> None:
        """Until nothing runs in it, frozen or not. Raises as `wait_frozen` does."""
        self._wait(("idle", "frozen"), timeout)

    def _wait(self, states: Sequence[State], timeout: Duration) -> None:
        most = seconds("timeout", timeout, zero=True)

        async def until() -> None:
            async with asyncio.timeout(most):
                await self._environment.changes.until(lambda: self._environment.state in states)

        try:
            self._call(until)
        except TimeoutError:
            raise TimeoutError(f"{self!r} did not become {' or '.join(states)} within {most:g} s") from None

    def __repr__(self) -> str:
        return f"Container({self.number}, pid={self.pid}, state={self.state!r}, invocations={self.invocations})"


class LocalLambda:
    """A function `handler` ("module.function", found in `directory`) on a local Lambda.

    `containers`: how many at most, Lambda's reserved concurrency. `timeout`: seconds, or such as `"3s"`, 15 minutes at
    most. `memory`: megabytes, told to the function only. `environment`: variables on top of Lambda's, such as
    `services.environment()`; nothing but PATH, PYTHONPATH and the like comes from this process. Relative folders, there
    and as `directory`, are those of the working directory in which the function is made. `routing`: which idle
    container gets an event: `"newest"` or `"oldest"` made, most `"recent"` in use or most `"rested"`, `"random"` by
    `seed`, or a callable that chooses from a list of `Container`. AWS does not say which it is.

    `initialization`: with `"snap-start"` a container comes up to where the snapshot is taken, and the hooks after the
    restore run before its first event. With `"lambda-managed-instances"` a container has `processes` workers, takes as
    many events at once, is never frozen, and goes on after a timeout, of which its caller hears. An init that fails
    or takes longer than `init_timeout` is tried once more as a part of the invocation, on demand only.

    `freeze=False` leaves containers running. `still_clock`: the monotonic clock, and the waits that are reckoned by it,
    stand still in a freeze, by a library that is built with the C compiler and preloaded; `_still_clock.c` says which
    calls that covers: what Python itself uses for `time`, sleeps, locks, events, selectors and sockets.

    `extensions`: commands of external extensions, run in `directory`. `python_version`: what `AWS_EXECUTION_ENV` says,
    by which the client decides how it waits; this interpreter's where None. `name`: the function's.

    A context manager; or `start()` and `stop()`. Its processes end with it, and with this process whatever ends that.
    Raises ConfigurationError for an option that cannot be; ServiceUnavailable at start where there is no awslambdaric,
    or no C compiler for `still_clock`.
    """

    def __init__(
        self,
        handler: str,
        *,
        directory: str | os.PathLike[str] = ".",
        containers: int = 1,
        timeout: Duration = 3.0,
        memory: int = 128,
        environment: Mapping[str, str] | None = None,
        routing: Routing = "newest",
        seed: int = 0,
        initialization: Initialization = "on-demand",
        processes: int = 1,
        freeze: bool = True,
        still_clock: bool = False,
        extensions: Sequence[Sequence[str | os.PathLike[str]]] = (),
        python_version: str | None = None,
        init_timeout: Duration = 10.0,
        name: str = "local",
    ) -> None:
        self._function = Function(
            handler=handler,
            directory=checked.folder("directory", directory),
            containers=containers,
            timeout=checked.function_seconds("timeout", timeout),
            memory=memory,
            environment=checked.variables({} if environment is None else environment),
            inherited=checked.inherited(),
            initialization=initialization,
            processes=processes,
            freeze=freeze,
            still_clock=still_clock,
            extensions=checked.commands(extensions),
            python_version=python_version,
            init_timeout=checked.function_seconds("init_timeout", init_timeout),
            name=name,
        )
        if callable(routing):
            self._choose: Choose = asked_of(routing, self._handle)
        elif routing in ROUTING:
            self._choose = chosen_by(routing, seed)
        else:
            allowed = ", ".join(map(repr, ROUTING))
            raise ConfigurationError(f"routing must be one of {allowed} or a callable; got {shown(routing)}")
        self._handles: dict[Environment, Container] = {}
        self._keeper: Keeper | None = None

    def start(self, containers: int = 0) -> Self:
        """Start to serve, with that many containers initialised ahead. Running already: the containers alone.

        Raises ConfigurationError where that is more than `containers`, InitFailed where one does not come up.
        """
        whole("containers", containers, least=0, most=self._function.containers)
        if self._keeper is not None and not self._keeper.shut:
            self._start_ahead(containers)
            return self
        _check_runtime()
        self._keeper = Keeper(lambda directory: Fleet(self._function, directory, self._choose))
        self._handles = {}
        try:
            self._keeper.start()
            self._start_ahead(containers)
        except BaseException:  # there may be nobody to stop it: no block is entered yet
            self.stop()
            raise
        return self

    def _start_ahead(self, containers: int) -> None:
        if containers:
            keeper, fleet = self._running()
            keeper.call(lambda: fleet.start_ahead(containers))

    def stop(self) -> None:
        """End every container with the graces that Lambda gives, and remove their folders. Twice does no harm."""
        if self._keeper is not None:
            self._keeper.stop()

    def invoke(
        self,
        event: Any,
        *,
        tenant: str | None = None,
        timeout: Duration | None = None,
        client_context: Any = None,
        wait: bool = False,
    ) -> Done:
        """Invoke, and wait for the answer. From any number of threads at once.

        `tenant` goes to containers that serve that tenant alone. `timeout` is this invocation's, in place of the
        function's. With `wait` it waits for a container where all are busy, else it raises Throttled.
        Raises HandlerError, FunctionTimedOut, ContainerCrashed, InitFailed.

        It returns when the runtime, its answer posted, has asked for the next event. A container without
        extensions is idle by then; one with extensions may be busy for a while, see `settle`.
        """
        keeper, _ = self._running()
        refuse_to_wait(keeper.ident)  # before it is begun
        asked = self.invoke_async(event, tenant=tenant, timeout=timeout, client_context=client_context, wait=wait)
        return asked.result()

    def invoke_async(
        self,
        event: Any,
        *,
        tenant: str | None = None,
        timeout: Duration | None = None,
        client_context: Any = None,
        wait: bool = False,
    ) -> Future[Done]:
        """Like `invoke`, but gives at once a future of what that returns or raises.

        Its done-callbacks run in a thread that serves all invocations, as `routing` does: they may call `invoke_async`, and
        what waits raises RuntimeError there.
        """
        keeper, fleet = self._running()
        flag("wait", wait)
        invocation = Invocation(
            checked.encoded("event", event),
            timeout=self._function.timeout if timeout is None else checked.function_seconds("timeout", timeout),
            tenant=checked.tenant_id(tenant),
            client_context=checked.client_context(client_context),
            keeper=keeper.ident,
        )
        keeper.ask(lambda: fleet.begin(invocation, wait=wait))
        return invocation.answer

    @property
    def containers(self) -> list[Container]:
        """The containers that are not gone, in the order in which they were made."""
        environments = [] if self._fleet is None else list(self._fleet.environments)
        return [self._handle(environment) for environment in environments if not environment.gone]

    def settle(self, timeout: Duration = 10.0) -> None:
        """Until nothing runs in any container any more: no extension either, and all that freeze stand still.

        Raises TimeoutError, which names those that are not done.
        """
        (keeper, fleet), most = self._running(), seconds("timeout", timeout, zero=True)

        async def until() -> None:
            async with asyncio.timeout(most):
                await fleet.changes.until(lambda: all(one.settled for one in fleet.environments))

        try:
            keeper.call(until)
        except TimeoutError:
            raise TimeoutError(f"not settled within {most:g} s: {self.containers}") from None

    def _running(self) -> tuple[Keeper, Fleet]:
        keeper, fleet = self._keeper, self._fleet
        if keeper is None or fleet is None or keeper.shut:
            raise ServiceUnavailable(
                "this local Lambda is not started: use `with LocalLambda(...) as function:` or start()"
            )
        return keeper, fleet

    @property
    def _fleet(self) -> Fleet | None:
        return None if self._keeper is None else self._keeper.fleet

    def _handle(self, environment: Environment) -> Container:
        assert self._keeper is not None
        return self._handles.setdefault(environment, Container(environment, self._keeper.call))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"LocalLambda({self._function.handler!r}, containers={self.containers})"


def _check_runtime() -> None:
    if sys.platform != "linux":
        raise ServiceUnavailable(f"the local Lambda needs Linux, where awslambdaric runs; this is {sys.platform}")
    for module in ("awslambdaric", "runtime_client"):
        if find_spec(module) is None:
            raise ServiceUnavailable(
                f"the local Lambda needs {module!r} of the package awslambdaric: pip install 'tiered-cache[local]'"
            )
