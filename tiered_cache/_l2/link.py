"""Connections to one Redis or Valkey server, each call on them bounded from name resolution to the last byte.

redis-py bounds each receive and multiplies that by its retries: with its defaults and a 0.1 s timeout a frozen server
costs seconds. Here the time left is put on the socket at each receive, connecting happens in a worker that is not
waited for beyond the deadline, and a call is sent a second time only if a connection that had idled turned out dead.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from tiered_cache._l2.faults import Failure, Unavailable, classify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from redis.connection import Connection

IDLE_LIMIT = 60.0
"""Seconds of wall-clock time without use after which a connection is not trusted: it may have died during a freeze."""


class Deadline:
    """The end of the call under way on one connection, on the monotonic clock."""

    __slots__ = ("at", "timeout", "untouched")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.at = 0.0
        self.untouched = True

    def start(self, at: float) -> None:
        self.at = at
        self.untouched = True

    def left(self) -> float:
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of this L2 call has passed")
        return left


class DeadlineSocket:
    """A socket whose sends and receives together end at a deadline."""

    __slots__ = ("_deadline", "_recv", "_sock")

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        sock.settimeout(deadline.timeout)
        self._sock = sock
        self._recv = sock.recv
        self._deadline = deadline

    def recv(self, size: int) -> bytes:
        """As `socket.recv`, within the time left."""
        deadline = self._deadline
        if deadline.untouched:  # the first receive of a call: the standing timeout is the time left
            deadline.untouched = False
            return self._recv(size)
        self._sock.settimeout(deadline.left())
        try:
            return self._recv(size)
        finally:
            self._sock.settimeout(deadline.timeout)

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """As `socket.recv_into`, within the time left (for the hiredis parser)."""
        self._sock.settimeout(self._deadline.left())
        return self._sock.recv_into(buffer, nbytes, flags)

    def sendall(self, data: bytes) -> None:
        """As `socket.sendall`, which bounds the whole of it."""
        self._sock.sendall(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def deadline_connection(kind: type[Any]) -> type[Any]:
    """redis-py's connection class `kind`, with a DeadlineSocket under it."""

    class DeadlineConnection(kind):  # type: ignore[misc]  # the class is redis-py's, or one made from it
        deadline: Deadline
        used_at: float

        def _connect(self) -> Any:
            return DeadlineSocket(super()._connect(), self.deadline)

    return DeadlineConnection


class Link:
    """The connections of one process to one server; as many as threads call at the same time, which is mostly one."""

    def __init__(self, make: Callable[[], Connection], timeout: float) -> None:
        self._make = make
        self._timeout = timeout
        self._idle: deque[Any] = deque()
        self._connecting = threading.Lock()
        self._pid = os.getpid()
        self.connects = 0

    def call(self, commands: Sequence[tuple[Any, ...]], now: float) -> list[Any]:
        """The replies to `commands`, sent in one go. An error reply stands in the list as the exception it is.

        `now`: wall-clock seconds, to tell how long a connection has idled. Raises Unavailable.
        """
        ends = time.monotonic() + self._timeout
        connection = self._checkout(now)
        reused = connection is not None
        try:
            if connection is None:
                connection = self._connect(ends)
            try:
                return self._exchange(connection, commands, ends, now)
            except Exception as error:
                failure = classify(error)
                if not (reused and failure.failure is Failure.RESET):
                    raise failure from error
            connection = self._connect(ends)  # it died while it idled; a new one, once, in the time that is left
            return self._exchange(connection, commands, ends, now)
        except Unavailable:
            raise
        except Exception as error:
            raise classify(error) from error

    def warm_up(self, now: float) -> None:
        """Have one connection ready. Raises Unavailable."""
        if not self._idle:
            try:
                connection = self._connect(time.monotonic() + self._timeout)
            except Exception as error:
                raise classify(error) from error
            self._checkin(connection, now)

    def drop(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().disconnect()

    def _exchange(self, connection: Any, commands: Sequence[tuple[Any, ...]], ends: float, now: float) -> list[Any]:
        connection.deadline.start(ends)
        if len(commands) == 1:
            packed = connection.pack_command(*commands[0])
        else:
            packed = connection.pack_commands(commands)
        connection.send_packed_command(packed, check_health=False)
        replies = [self._reply(connection) for _ in commands]
        self._checkin(connection, now)
        return replies

    @staticmethod
    def _reply(connection: Any) -> Any:
        try:
            return connection.read_response(disable_decoding=True)
        except Exception as error:
            from redis.exceptions import ResponseError

            if isinstance(error, ResponseError):
                return error  # an answer all the same: the connection is in step
            raise

    def _checkout(self, now: float) -> Any:
        if self._pid != os.getpid():  # after a fork the sockets are the parent's
            self._idle, self._pid, self._connecting = deque(), os.getpid(), threading.Lock()
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread was quicker
                return None
            if 0 <= now - connection.used_at < IDLE_LIMIT:
                return connection
            connection.disconnect()
        return None

    def _checkin(self, connection: Any, now: float) -> None:
        connection.used_at = now
        self._idle.append(connection)

    def _connect(self, ends: float) -> Any:
        """A new connection, or TimeoutError at `ends`: name resolution has no timeout of its own, so a worker does it.

        One worker at a time may be stuck; while it is, there is no second attempt.
        """
        if not self._connecting.acquire(timeout=max(0.0, ends - time.monotonic())):
            raise TimeoutError("an earlier attempt to connect still hangs")
        attempt = _Attempt(self._make, self._timeout, self._connecting)
        connection = attempt.result(ends)
        self.connects += 1
        return connection


class _Attempt:
    """One attempt to connect, in a thread of its own. One that comes too late is closed again."""

    def __init__(self, make: Callable[[], Any], timeout: float, slot: threading.Lock) -> None:
        self._make = make
        self._timeout = timeout
        self._slot = slot
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._abandoned = False
        self._connection: Any = None
        self._error: Exception | None = None
        threading.Thread(target=self._run, name="tiered_cache-connect", daemon=True).start()

    def _run(self) -> None:
        try:
            connection = self._make()
            connection.deadline = Deadline(self._timeout)
            connection.deadline.start(time.monotonic() + self._timeout)
            connection.connect()
            with self._lock:
                self._connection = connection
                if self._abandoned:
                    connection.disconnect()
        except Exception as error:  # noqa: BLE001  # raised again by who waits
            self._error = error
        finally:
            self._slot.release()
            self._done.set()

    def result(self, ends: float) -> Any:
        """The connection, once there. Raises what connecting raised, or TimeoutError at `ends`."""
        if not self._done.wait(max(0.0, ends - time.monotonic())):
            with self._lock:
                self._abandoned = self._connection is None
            if self._abandoned:
                raise TimeoutError("connecting took longer than the timeout")
        if self._error is not None:
            raise self._error
        return self._connection
