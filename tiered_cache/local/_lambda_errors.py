"""What an invocation of the local Lambda may end with, other than an answer.

LambdaError (also RuntimeError)
├── HandlerError                         the handler raised; the same process goes on
├── FunctionTimedOut (also TimeoutError) no answer in time; the processes were killed, except on a Managed Instance
├── ContainerCrashed                     a process of the container ended, or an extension gave up
├── InitFailed                           the container did not come up
└── Throttled                            every container is busy
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tiered_cache._errors import TieredCacheError


class LambdaError(TieredCacheError, RuntimeError):
    """Base of these errors. `container`: the number of the container, `request_id`: of the invocation; None if none."""

    container: int | None = None
    request_id: str | None = None


class HandlerError(LambdaError):
    """The handler raised. `kind`: the exception's name; `message`: its text; `trace`: lines as the runtime sends them."""

    def __init__(self, kind: str, message: str, trace: Sequence[str] = ()) -> None:
        super().__init__("\n".join([f"{kind}: {message}", *(line.rstrip() for line in trace)]))
        self.kind = kind
        self.message = message
        self.trace = list(trace)


class FunctionTimedOut(LambdaError, TimeoutError):
    """The function's time was over. On Lambda: `Task timed out after 3.00 seconds`."""


class ContainerCrashed(LambdaError):
    """A process ended in mid-invocation, with this `status` (negative: a signal's number), or an extension gave up.

    The text ends with the last lines of the container's log.
    """

    def __init__(self, text: str, *, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class InitFailed(LambdaError):
    """The container did not come up: `kind` is what Lambda calls it, such as `Runtime.ImportModuleError`."""

    def __init__(self, kind: str, message: str, trace: Sequence[str] = ()) -> None:
        super().__init__("\n".join([f"{kind}: {message}", *(line.rstrip() for line in trace)]))
        self.kind = kind
        self.message = message
        self.trace = list(trace)


class Throttled(LambdaError):
    """Every container is busy, and no more may be made. On Lambda: 429, TooManyRequestsException."""


def described(body: Any) -> tuple[str, str, list[str]]:
    """Kind, message and trace of an error's body as a runtime or an extension posts it."""
    fields: dict[str, Any] = body if isinstance(body, dict) else {}
    trace = fields.get("stackTrace") or fields.get("trace") or []
    return str(fields.get("errorType", "Unknown")), str(fields.get("errorMessage", "")), [str(line) for line in trace]
