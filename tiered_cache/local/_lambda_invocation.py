"""One invocation on its way through the local Lambda, and what its caller gets."""

from __future__ import annotations

import json
import secrets
import threading
import time
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tiered_cache.local._lambda_errors import HandlerError, LambdaError

T = TypeVar("T")


def refuse_to_wait(keeper: int) -> None:
    """Raise RuntimeError in the thread `keeper`, which alone can bring what would be waited for."""
    if threading.get_ident() == keeper:
        raise RuntimeError(
            "this is the thread of the local Lambda itself, in which done-callbacks and `routing` run: "
            "to wait here would be for ever. Call invoke_async, or wait in another thread"
        )


class Promise(Future[T]):
    """A future that the thread `keeper` sets. To wait for it there raises RuntimeError."""

    def __init__(self, keeper: int) -> None:
        super().__init__()
        self._keeper = keeper
        self.set_running_or_notify_cancel()

    def result(self, timeout: float | None = None) -> T:
        """As Future.result."""
        if not self.done():
            refuse_to_wait(self._keeper)
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As Future.exception."""
        if not self.done():
            refuse_to_wait(self._keeper)
        return super().exception(timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """An answer, and what it took.

    `value`: what the handler returned. `container`: the container's number, from 1. `pid`: its process; on a Managed
    Instance the process that forked the workers. `cold`: whether this invocation waited for a container to come up,
    which took `init_seconds` (0.0 if not), with SnapStart `restore_seconds` more. `seconds`: from the event's delivery
    until the answer was posted.
    """

    value: Any
    container: int
    pid: int
    request_id: str
    cold: bool
    init_seconds: float
    restore_seconds: float
    seconds: float
    _finished: Future[tuple[float, LambdaError | None]] = field(repr=False)

    @property
    def billed_seconds(self) -> float:
        """From the event's delivery until the runtime and all extensions had asked for the next. Waits until they have.

        Raises LambdaError where the local Lambda was stopped before that.
        """
        return self._finished.result()[0]

    @property
    def failure(self) -> LambdaError | None:
        """What ended the container before all that followed the answer was done: FunctionTimedOut, ContainerCrashed.

        None: all was done. Waits, and raises, as `billed_seconds` does.
        """
        return self._finished.result()[1]


class Invocation:
    """An event to be handled by `deadline` (seconds of `time.time`), and its two ends: the answer, and what is billed.

    The loop's thread, which is `keeper`, alone changes it; the caller waits for `answer`.
    """

    def __init__(
        self, event: bytes, *, timeout: float, tenant: str | None, client_context: bytes | None, keeper: int
    ) -> None:
        self.event = event
        self.timeout = timeout
        self.tenant = tenant
        self.client_context = client_context
        self.request_id = str(uuid.uuid4())
        self.trace = f"Root=1-{int(time.time()):08x}-{secrets.token_hex(12)};Parent={secrets.token_hex(8)};Sampled=0"
        self.answer: Promise[Done] = Promise(keeper)
        self.finished: Promise[tuple[float, LambdaError | None]] = Promise(keeper)
        self.container = 0
        self.pid = 0
        self.cold = False
        self.init_seconds = self.restore_seconds = 0.0
        self.deadline = 0.0
        self.answered = False
        self._seconds = 0.0
        self._value: Any = None
        self._error: LambdaError | None = None
        self._failure: LambdaError | None = None
        self._begun = 0.0
        self._due = 0.0

    def begin(self) -> None:
        """The function's time counts from now. A second time does nothing: then a failed init is a part of it."""
        if not self._begun:
            self._begun = time.monotonic()
            self._due = self._begun + self.timeout
            self.deadline = time.time() + self.timeout

    @property
    def left(self) -> float:
        """Seconds left of the function's time."""
        return self._due - time.monotonic()

    def headers(self, arn: str) -> dict[str, str]:
        """What goes with the event to the runtime."""
        headers = {
            "Lambda-Runtime-Aws-Request-Id": self.request_id,
            "Lambda-Runtime-Deadline-Ms": str(int(self.deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": arn,
            "Lambda-Runtime-Trace-Id": self.trace,
        }
        if self.tenant is not None:
            headers["Lambda-Runtime-Aws-Tenant-Id"] = self.tenant
        if self.client_context is not None:
            headers["Lambda-Runtime-Client-Context"] = self.client_context.decode()
        return headers

    def take(self, body: bytes) -> None:
        """The runtime has posted an answer. What is not JSON is refused as Lambda refuses it."""
        self._seconds, self.answered = time.monotonic() - self._begun, True
        try:
            self._value = json.loads(body) if body else None
        except ValueError:
            self._error = HandlerError("Runtime.InvalidResponse", "the answer is not JSON")

    def take_error(self, error: LambdaError) -> None:
        """The runtime has posted an error, or there can be no answer any more. After an answer: `Done.failure`."""
        if self.answered:
            self._failure = error
        else:
            self._seconds, self.answered, self._error = time.monotonic() - self._begun, True, error

    def release(self) -> None:
        """Let the caller go, who gets what was taken. A second time does nothing."""
        if self.answer.done():
            return
        if self._error is not None:
            self._say_where(self._error)
            self.answer.set_exception(self._error)
            return
        done = Done(
            value=self._value,
            container=self.container,
            pid=self.pid,
            request_id=self.request_id,
            cold=self.cold,
            init_seconds=self.init_seconds,
            restore_seconds=self.restore_seconds,
            seconds=self._seconds,
            _finished=self.finished,
        )
        self.answer.set_result(done)

    def finish(self) -> None:
        """The container has done all it had to do for it."""
        self.release()
        if self._failure is not None:
            self._say_where(self._failure)
        if not self.finished.done():
            self.finished.set_result((time.monotonic() - self._begun, self._failure))

    def _say_where(self, error: LambdaError) -> None:
        error.container, error.request_id = self.container or None, self.request_id

    def abandon(self, error: LambdaError) -> None:
        """There will be no more, since the local Lambda stops. Over already: nothing."""
        if self.finished.done():
            return
        self.take_error(error)
        self.release()
        if not self.finished.done():
            self.finished.set_exception(error)
