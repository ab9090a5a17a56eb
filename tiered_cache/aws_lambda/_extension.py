"""An internal extension: a thread of this process that Lambda waits for before it freezes the container.

The caller has its response as soon as the runtime has posted it; the container is frozen, and takes the next event, once
the runtime and each registered extension have asked for the next one. So what this thread does in between delays nobody's
response. It is billed as part of the invocation, and counts towards the function's timeout. (AWS Lambda Developer Guide,
"Using the Lambda Extensions API to create extensions", "Understanding the execution environment lifecycle".)
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any

from tiered_cache._deferred import LAST
from tiered_cache._log import log

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from email.message import Message

NAME = "tiered_cache"
LOOK = 0.005
"""Seconds between two looks at what the runtime does."""
POSTING = 1.0
"""Seconds for which work waits at most for the response to be posted."""
UNHANDLED = 0.1
"""Seconds for which the runtime must have waited for the next event before this one counts as not ours."""
TRIES = 3


class Extension:
    """The one extension of this process, for all its caches. `register` in the init phase; Lambda allows it only there."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._id = ""
        self._pid = 0
        self._event: object = ""  # the id of that whose handler has begun; "": none has, None: nobody knows which
        self._open: list[Callable[[], int]] = []  # of the handlers that run now, one or one within another: what waits
        self._work: list[Callable[[float | None], object]] = []  # of the handlers that have ended

    @property
    def is_registered(self) -> bool:
        """Whether work is done after the response; not in a forked process, where there is no thread for it."""
        return bool(self._id) and self._pid == os.getpid()

    def register(self) -> bool:
        """Register with the Extensions API, unless that was done before; whether it was or is. A failure is logged."""
        if self.is_registered:
            return True
        try:
            connection = _connection()
            headers, _ = _exchange(
                connection, "POST", "register", {"Lambda-Extension-Name": NAME}, {"events": ["INVOKE"]}
            )
        except (OSError, HTTPException) as error:
            log().warning("work after the response will be done before it: the extension was not registered: %s", error)
            return False
        self._id, self._pid = headers["Lambda-Extension-Identifier"] or NAME, os.getpid()
        threading.Thread(target=self._run, args=(connection,), name="tiered_cache-extension", daemon=True).start()
        return True

    @contextmanager
    def handling(
        self,
        event: object,
        waiting: Callable[[], int],
        work: Callable[[float | None], object] | None,
        deadline: Callable[[], float | None],
    ) -> Generator[None]:
        """Around a handler. `event`: the id of its event, or None where that is not known.

        waiting: how many pieces of work are put off, which are lost if the handler does not end in time.
        work: `work(deadline)` is to be done once the response is out; in wall-clock seconds, None: no deadline is known.
        deadline: that of its invocation. A handler that raises what is no Exception ends the process with this thread:
            no response will be out, and the work is done at once.
        """
        with self._changed:
            if event is not None or not self._open:  # one within another is of the same event
                self._event = event
            self._open.append(waiting)
        ends_process = False
        try:
            yield
        except BaseException as error:
            ends_process = not isinstance(error, Exception)
            raise
        finally:
            with self._changed:
                self._open.pop()
                if work is not None:
                    self._work.append(work)
                at_once = self._take_work() if ends_process else []
                self._changed.notify_all()
            _do(at_once, deadline)

    def _run(self, connection: HTTPConnection) -> None:
        failures = 0
        while failures < TRIES:
            try:
                _, body = _exchange(connection, "GET", "event/next", {"Lambda-Extension-Identifier": self._id})
                self._after(json.loads(body))
                failures = 0
            except (OSError, HTTPException, LookupError, ValueError) as error:
                failures += 1
                log().warning("the extension could not ask for the next event: %s", error)
                connection.close()
                time.sleep(LOOK)
        self._give_up(connection)

    def _after(self, event: dict[str, Any]) -> None:
        """Do what the invocation of `event` leaves behind, once its response is out."""
        deadline = event["deadlineMs"] / 1000
        while self._wait_for_end(event["requestId"], deadline):
            if self._wait_for_response():
                self._work_off(deadline)
                return

    def _work_off(self, deadline: float) -> None:
        with self._changed:
            work, self._event = self._take_work(), ""
        _do(work, lambda: deadline)

    def _take_work(self) -> list[Callable[[float | None], object]]:
        """The work of the handlers that have ended, which is nobody else's from now on; the lock is held."""
        work, self._work = self._work, []
        return work

    def _wait_for_response(self) -> bool:
        """Wait until it is out; False if another handler has begun meanwhile, as where one is called for each record."""
        ends = time.monotonic() + POSTING
        while not self._open and not _runtime_waits() and time.monotonic() < ends:
            time.sleep(LOOK)
        return not self._open

    def _wait_for_end(self, event: str, deadline: float) -> bool:
        """Wait for the end of the event's handler, if that tells; False if its time is up.

        What an earlier handler has left does not count as this one's: the two would drift apart by an invocation for good.
        """
        idle_since, said = None, False
        with self._changed:
            while self._open or self._event not in (event, None):
                if (left := deadline - time.time()) <= 0:
                    return False
                if left <= LAST and not said:
                    said = True
                    self._say_what_waits()
                if self._open or not _runtime_waits():
                    idle_since = None
                else:
                    idle_since = idle_since or time.monotonic()
                    if time.monotonic() - idle_since >= UNHANDLED:
                        return True
                self._changed.wait(UNHANDLED / 4)
        return True

    def _say_what_waits(self) -> None:
        """The function's time is nearly up, and its handler still runs: afterwards nobody can say what is lost."""
        if waiting := sum(count() for count in self._open):
            log().warning(
                "the handler still runs, and its time is up: if that is the container's end, "
                "%d pieces of work that wait for the response are lost",
                waiting,
            )

    def _give_up(self, connection: HTTPConnection) -> None:
        """Let Lambda know that nobody asks for events any longer, for else it would wait; it resets the container."""
        headers = {
            "Lambda-Extension-Identifier": self._id,
            "Lambda-Extension-Function-Error-Type": "Extension.NextFailed",
        }
        self._id = ""
        try:
            _exchange(connection, "POST", "exit/error", headers, {})
        except (OSError, HTTPException) as error:
            log().error("the extension has ended, and could not say so: %s", error)
        connection.close()


EXTENSION = Extension()


def _do(work: Sequence[Callable[[float | None], object]], deadline: Callable[[], float | None]) -> None:
    for one in work:
        try:
            one(deadline())
        except BaseException as error:  # noqa: BLE001  # such as SystemExit: without the thread the container hangs
            log().error("work after the response was ended by %s", type(error).__name__)


def _connection() -> HTTPConnection:
    address = os.environ.get("AWS_LAMBDA_RUNTIME_API", "")
    if not address:
        raise OSError("there is no AWS_LAMBDA_RUNTIME_API, so this is not Lambda")
    return HTTPConnection(address)  # without a timeout: the next event may be hours away


def _exchange(
    connection: HTTPConnection, method: str, path: str, headers: dict[str, str], sent: object = None
) -> tuple[Message, bytes]:
    """The headers and the body of the answer. Raises OSError for an answer that is not 2xx, HTTPException for none."""
    body = None if sent is None else json.dumps(sent)
    connection.request(method, f"/2020-01-01/extension/{path}", body, headers)
    answer = connection.getresponse()
    text = answer.read()
    if answer.status // 100 != 2:
        raise OSError(f"{answer.status} {text[:200].decode(errors='replace')}")
    return answer.headers, text


def _runtime_waits() -> bool:
    """Whether the runtime's client is asking for the next event, so that the last response is out.

    Seen from the main thread's stack, since Lambda tells an extension of the begin of an invocation, and not of its end.
    """
    main = threading.main_thread().ident
    frame = sys._current_frames().get(main or 0)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # documented
    while frame is not None:
        if frame.f_code.co_name == "wait_next_invocation":
            return True
        frame = frame.f_back
    return False
