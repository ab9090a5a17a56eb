"""The Runtime API and the Extensions API of one life of a container: what may be asked, and what is answered.

After the Developer Guide ("Using the Lambda runtime API", "Using the Lambda Extensions API to create extensions"); kinds
and texts of the errors are those of AWS's own runtime interface emulator.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

from tiered_cache.local._lambda_errors import HandlerError, described
from tiered_cache.local._lambda_function import ACCOUNT, VERSION
from tiered_cache.local._lambda_http import Reply, Request
from tiered_cache.local._lambda_participants import Seat

if TYPE_CHECKING:
    from tiered_cache.local._lambda_life import Life
    from tiered_cache.local._lambda_participants import Extension

RUNTIME = "/2018-06-01/runtime/"
EXTENSION = "/2020-01-01/extension/"
MOST_EXTENSIONS = 10
MOST_BYTES = (6 << 20) + 100
"""Of an answer."""

_ACCEPTED = Reply(202, {"status": "OK"})


class Api:
    """Answers for one life, whose state it reads and changes."""

    def __init__(self, life: Life) -> None:
        self._life = life

    async def answer(self, request: Request) -> Reply:
        path = request.path.partition("?")[0]
        if path.startswith(RUNTIME):
            return await self._runtime(request, path.removeprefix(RUNTIME).split("/"))
        if path.startswith(EXTENSION):
            return await self._extension(request, path.removeprefix(EXTENSION))
        return Reply(404, _error("NotFound", f"there is nothing at {path}"))

    # The runtime's

    async def _runtime(self, request: Request, parts: list[str]) -> Reply:
        match request.method, parts:
            case "GET", ["invocation", "next"]:
                return await self._next(request)
            case "POST", ["invocation", request_id, "response" | "error" as what]:
                return self._result(request, request_id, what)
            case "POST", ["init" | "restore", "error"]:
                kind, message, trace = described(_json_or_none(request))
                self._life.fail(request.headers.get("Lambda-Runtime-Function-Error-Type", kind), message, trace)
                return _ACCEPTED
            case "GET", ["restore", "next"]:
                return await self._restore_next()
            case _:
                return Reply(404, _error("NotFound", f"there is nothing at {request.path}"))

    async def _next(self, request: Request) -> Reply:
        life = self._life
        seat = Seat(request.line, asyncio.get_running_loop().create_future())
        request.line.on_close.add(life.worker_hung_up)  # once for each connection
        life.sit(seat)
        try:
            invocation = await seat.given
        finally:
            life.leave(seat)
        return Reply(200, invocation.event, invocation.headers(life.function.arn))

    def _result(self, request: Request, request_id: str, what: str) -> Reply:
        invocation = self._life.invocations.pop(request_id, None)
        if invocation is None:
            return Reply(400, _error("InvalidRequestID", "Invalid request ID"))
        if what == "response" and len(request.body) > MOST_BYTES:
            text = f"Response payload size exceeded maximum allowed payload size ({MOST_BYTES} bytes)."
            invocation.take_error(HandlerError("Function.ResponseSizeTooLarge", text))
            self._life.changes.tell()
            return Reply(413, _error("RequestEntityTooLarge", text))
        if what == "response":
            invocation.take(request.body)
        else:
            invocation.take_error(HandlerError(*described(_json_or_none(request))))
        self._life.changes.tell()
        return _ACCEPTED

    async def _restore_next(self) -> Reply:
        life = self._life
        life.snapshot = asyncio.get_running_loop().create_future()
        life.registration_open = False
        life.changes.tell()
        await life.snapshot
        return Reply(200)

    # The extensions'

    async def _extension(self, request: Request, what: str) -> Reply:
        if (request.method, what) == ("POST", "register"):
            return self._register(request)
        if (request.method, what) not in (("GET", "event/next"), ("POST", "init/error"), ("POST", "exit/error")):
            return Reply(404, _error("NotFound", f"there is nothing at {request.path}"))
        id_ = request.headers.get("Lambda-Extension-Identifier", "")
        if not id_:
            return _forbidden("MissingExtensionIdentifier", "Missing Lambda-Extension-Identifier header")
        extension = self._life.extensions.get(id_)
        if extension is None:
            return _forbidden("UnknownExtensionIdentifier", f"Unknown extension {id_}")
        if what == "event/next":
            return await self._event_next(extension)
        return self._gives_up(request, extension, what)

    def _register(self, request: Request) -> Reply:
        life = self._life
        name = request.headers.get("Lambda-Extension-Name", "")
        external = life.runtime is None  # the runtime is started when every external extension has registered
        try:
            events = frozenset(_events(request))
        except ValueError as error:
            return Reply(403, _error("InvalidRequestFormat", str(error)))
        allowed = _allowed(external=external, managed=life.function.managed)
        names = {extension.name for extension in life.extensions.values()}
        for refused, kind, text in (
            (not name, "InvalidExtensionName", "Empty extension name"),
            (
                not events <= allowed,
                "InvalidEventType",
                f"{', '.join(sorted(events - allowed))}: ErrorInvalidEventType",
            ),
            (not life.registration_open, "RegistrationClosed", "Extension registration closed already"),
            (name in names, "InvalidExtensionState", "Extension with this name already registered"),
            (len(names) >= MOST_EXTENSIONS, "TooManyExtensions", f"Extension limit ({MOST_EXTENSIONS}) reached"),
        ):
            if refused:
                return _forbidden(kind, text)
        extension = life.register(name, events, external=external)
        body = {
            "functionName": life.function.name,
            "functionVersion": VERSION,
            "handler": life.function.handler,
            "accountId": ACCOUNT,
        }
        if "accountId" not in request.headers.get("Lambda-Extension-Accept-Feature", ""):
            del body["accountId"]
        return Reply(200, body, {"Lambda-Extension-Identifier": extension.id})

    async def _event_next(self, extension: Extension) -> Reply:
        if extension.waits:
            return _forbidden("InvalidExtensionState", f"extension {extension.id} waits for an event already")
        seat = extension.seat = asyncio.get_running_loop().create_future()
        if self._life.farewell is not None:  # it was busy when the others were told
            extension.say_farewell(self._life.farewell)
        self._life.changes.tell()
        event = await seat
        return Reply(200, event, {"Lambda-Extension-Event-Identifier": str(uuid.uuid4())})

    def _gives_up(self, request: Request, extension: Extension, what: str) -> Reply:
        kind = request.headers.get("Lambda-Extension-Function-Error-Type", "")
        if not kind:
            return _forbidden("MissingHeader", "Lambda-Extension-Function-Error-Type not found")
        when = "InitError" if what == "init/error" else "ExitError"
        _, message, _ = described(_json_or_none(request))
        self._life.fail(f"Extension.{when}", f"{extension.name}: {kind} {message}".rstrip())
        return _ACCEPTED


def _allowed(*, external: bool, managed: bool) -> frozenset[str]:
    """The events an extension may ask for. With several invocations at once there is no event for each (emulator)."""
    return frozenset(({"SHUTDOWN"} if external else set()) | (set() if managed else {"INVOKE"}))


def _events(request: Request) -> list[str]:
    body = request.json()
    events = body.get("events") if isinstance(body, dict) else None
    if not isinstance(events, list) or not all(isinstance(event, str) for event in events):
        raise ValueError('the body must be {"events": [...]}')
    return events


def _json_or_none(request: Request) -> Any:
    try:
        return request.json()
    except ValueError:
        return None


def _error(kind: str, message: str) -> dict[str, str]:
    return {"errorType": kind, "errorMessage": message}


def _forbidden(kind: str, message: str) -> Reply:
    return Reply(403, _error(f"Extension.{kind}", message))
