"""Connections to one Redis or Valkey server, each call on them bounded from name resolution to the last byte.

redis-py bounds each receive and multiplies that by its retries: with its defaults and a 0.1 s timeout a frozen server
costs seconds. Here the time left is put on the socket at each send and receive; connecting happens in a worker that is
not waited for beyond the deadline; and a call is sent again only if a connection that had idled turned out to be dead.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from tiered_cache._l2.credentials import TOO_SLOW
from tiered_cache._l2.faults import Failure, Unavailable, classify, classify_connecting
from tiered_cache._l2.scripts import in_full

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from redis.connection import Connection

    from tiered_cache._l2.scripts import Command

IDLE_LIMIT = 60.0
"""Seconds of wall-clock time without use after which a connection is not trusted: it may have died during a freeze."""
SLACK = 0.05
"""The share of the timeout by which a call may end too early or too late, which spares two system calls for each."""
MOST_SLACK = 0.02
"""The same in seconds."""
LARGE = 16_384
"""Bytes from which a part of a command is sent as it is instead of being copied beside the others."""


class Deadline:
    """The end of the call under way on one connection, on the monotonic clock."""

    __slots__ = ("at", "slack")

    def __init__(self, timeout: float, at: float) -> None:
        self.at = at
        self.slack = min(timeout * SLACK, MOST_SLACK)


class DeadlineSocket:
    """A socket, plain or TLS, whose sends and receives together end at a deadline.

    redis-py sends by `sendall`, and its parsers receive by `recv` (Python) or `recv_into` (hiredis).
    """

    __slots__ = ("_deadline", "_sock", "_standing")

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline
        self._standing = sock.gettimeout() or 0.0

    def recv(self, size: int) -> bytes:
        """As `socket.recv`, within the time left."""
        self._bound()
        return self._sock.recv(size)

    def recv_into(self, buffer: bytearray) -> int:
        """As `socket.recv_into`, within the time left."""
        self._bound()
        return self._sock.recv_into(buffer)

    def sendall(self, data: bytes | memoryview) -> None:
        """As `socket.sendall`, within the time left; that of a TLS socket has as many timeouts as it has records."""
        while data:
            self._bound()
            data = memoryview(data)[self._sock.send(data) :]

    def _bound(self) -> None:
        """Put the time left on the socket, unless about that stands there. Raises TimeoutError where none is left."""
        deadline = self._deadline
        left = deadline.at - time.monotonic()
        if left <= 0.0:
            raise TimeoutError("the deadline of this L2 call has passed")
        if not -deadline.slack < left - self._standing < deadline.slack:
            self._sock.settimeout(left)
            self._standing = left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def deadline_connection(kind: type[Any]) -> type[Any]:
    """redis-py's connection class `kind`, with a DeadlineSocket under it."""

    class DeadlineConnection(kind):  # type: ignore[misc]  # the class is redis-py's, or one made from it
        deadline: Deadline
        made_at: float
        used_at: float
        home: deque[Any]

        def _connect(self) -> Any:
            return DeadlineSocket(super()._connect(), self.deadline)

    return DeadlineConnection


class Link:
    """The connections of one process to one server; as many as threads call at the same time, which is mostly one."""

    ordered = True
    """The commands of one call are executed in the order given."""

    def __init__(self, make: Callable[[], Connection], timeout: float, max_age: float = inf) -> None:
        self._make = make
        self._timeout = timeout
        self._max_age = max_age
        self._idle: deque[Any] = deque()
        self._connecting = threading.Lock()
        self._attempt: _Attempt | None = None  # the one under way, or the last that came to nothing
        self.connects = 0

    def call(self, commands: Sequence[Command], now: float, limit: float | None = None) -> list[Any]:
        """The replies to `commands`, sent in one go. An error reply stands in the list as the Unavailable that it is.

        `now`: wall-clock seconds, to tell how long a connection has idled. `limit`: seconds for all of it, where that is
        less than the timeout. Scripts that the server does not know are sent to it, in the same time. Raises Unavailable.
        """
        ends = time.monotonic() + (self._timeout if limit is None else min(limit, self._timeout))
        return self._completed(self._call(commands, now, ends), commands, now, ends)

    def begin(self, commands: Sequence[Command], now: float, ends: float) -> Any:
        """Send `commands` on a connection that is open, which is given for `finish`; None where none was, or it is dead.

        For who asks several servers at once: all are sent to before the first reply is waited for.
        """
        connection = self._checkout(now)
        if connection is not None:
            try:
                self._send(connection, commands, ends)
            except Exception:  # noqa: BLE001  # `call`, which is what to do then, finds out by itself
                self.drop()
                return None
        return connection

    def finish(self, connection: Any, commands: Sequence[Command], now: float, ends: float) -> list[Any]:
        """The replies to what `begin` sent, as `call` gives them. Raises Unavailable."""
        connection.deadline.at = ends
        try:
            replies = self._receive(connection, len(commands), now)
        except Exception as error:
            self.drop()
            raise classify(error) from error
        return self._completed(replies, commands, now, ends)

    def _completed(self, replies: list[Any], commands: Sequence[Command], now: float, ends: float) -> list[Any]:
        """The replies, once the scripts that the server did not know have been sent to it."""
        for unknown, reply in enumerate(replies):
            if is_unknown_script(reply):  # what came after it must come after it again
                rest = [in_full(command) for command in commands[unknown:]]
                return replies[:unknown] + self._call(rest, now, ends)
        return replies

    def _call(self, commands: Sequence[Command], now: float, ends: float) -> list[Any]:
        connection = self._checkout(now)
        try:
            if connection is not None:
                try:
                    return self._exchange(connection, commands, ends, now)
                except Exception as error:
                    self.drop()  # what befell it has befallen those that have idled for longer
                    if classify(error).failure is not Failure.RESET:
                        raise
            # There was none, or it died while it idled: a new one, once, in the time that is left.
            return self._exchange(self._connect(ends, now), commands, ends, now)
        except Unavailable:
            raise
        except Exception as error:
            raise classify(error) from error

    def drop(self) -> None:
        """Close all idle connections now, and those in use when their call has ended."""
        dropped, self._idle = self._idle, deque()
        while dropped:
            with suppress(IndexError):  # another thread was quicker
                dropped.pop().disconnect()

    def thawed(self, now: float) -> None:
        """The process may have been frozen until `now`: close what has idled for long, and wait for no attempt of before."""
        for connection in self._idle.copy():
            if self._is_old(connection, now):
                with suppress(ValueError):  # another thread has taken it, and will find out by itself
                    self._idle.remove(connection)
                    connection.disconnect()
        self._connecting = threading.Lock()

    def begin_anew(self) -> None:
        """As after the construction: for a copy of this process, whose sockets and locks are another's."""
        self._connecting = threading.Lock()
        self.drop()

    def _exchange(self, connection: Any, commands: Sequence[Command], ends: float, now: float) -> list[Any]:
        self._send(connection, commands, ends)
        return self._receive(connection, len(commands), now)

    def _send(self, connection: Any, commands: Sequence[Command], ends: float) -> None:
        connection.deadline.at = ends
        try:
            connection.send_packed_command(packed(commands), check_health=False)
        except BaseException:  # an interrupt too: the reply to half a command would be taken for that to the next
            connection.disconnect()
            raise

    def _receive(self, connection: Any, count: int, now: float) -> list[Any]:
        try:
            replies = _replies(connection, count)
        except BaseException:  # an interrupt too: the rest of the reply would be taken for that to the next call
            connection.disconnect()
            raise
        if connection.home is self._idle:
            connection.used_at = now
            self._idle.append(connection)
        else:
            connection.disconnect()
        return replies

    def _checkout(self, now: float) -> Any:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if not self._is_old(connection, now):
                return connection
            connection.disconnect()

    def _is_old(self, connection: Any, now: float) -> bool:
        """Whether it has idled for so long that it may have died unseen, or is to be closed for its age; or who knows."""
        return not (abs(now - connection.used_at) < IDLE_LIMIT and now - connection.made_at < self._max_age)

    def _connect(self, ends: float, now: float) -> Any:
        """A new connection, made by a worker, since name resolution has no timeout of its own. Raises Unavailable.

        One worker at a time may be stuck; while it is, there is no second attempt.
        """
        slot = self._connecting
        if not slot.acquire(timeout=max(0.0, ends - time.monotonic())):
            raise TimeoutError("an earlier attempt to connect hangs") if self._attempt is None else self._attempt.late()
        home = self._idle  # that of now: who drops all connections meanwhile means this one too
        self._attempt = attempt = _Attempt(self._make, Deadline(self._timeout, ends), slot)
        connection = attempt.result()
        if self._attempt is attempt:
            self._attempt = None
        connection.home, connection.made_at = home, now
        self.connects += 1
        return connection


def is_unknown_script(reply: Any) -> bool:
    """Whether a script was not run, since the server has been restarted, flushed or replaced since it was sent."""
    return isinstance(reply, Unavailable) and reply.failure is Failure.SCRIPT_MISSING


def packed(commands: Sequence[Command]) -> list[bytes]:
    """`commands` as Redis reads them (RESP), in pieces: a large part is a piece of its own, and is not copied."""
    pieces: list[bytes] = []
    small: list[bytes] = []
    for command in commands:
        small.append(b"*%d\r\n" % len(command))
        for part in command:
            if len(part) < LARGE:
                small.append(b"$%d\r\n%b\r\n" % (len(part), part))
            else:
                small.append(b"$%d\r\n" % len(part))
                pieces += (b"".join(small), part)
                small = [b"\r\n"]
    return [*pieces, b"".join(small)]


def _replies(connection: Any, count: int) -> list[Any]:
    """So many replies, by redis-py's parser itself: a connection's own way to read closes it after some errors only.

    Raises Unavailable if more has come than was asked for, which would be taken for the reply to the next call.
    """
    parser = connection._parser  # noqa: SLF001
    read = parser.read_response
    replies = [read(disable_decoding=True) for _ in range(count)]
    reader = getattr(parser, "_reader", None)
    if parser._buffer.unread_bytes() if reader is None else reader.has_data():  # noqa: SLF001
        raise Unavailable(Failure.PROTOCOL, "more came back than was asked for")
    return [classify(reply) if isinstance(reply, ResponseError) else reply for reply in replies]


class _Attempt:
    """One attempt to connect, in a thread of its own that frees `slot` at its end. What comes too late is closed."""

    def __init__(self, make: Callable[[], Any], deadline: Deadline, slot: threading.Lock) -> None:
        self._make = make
        self._deadline = deadline
        self._slot = slot
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._abandoned = False
        self._made: Any = None
        self._connection: Any = None  # the same, once it is open
        self._error: Unavailable | None = None
        try:
            threading.Thread(target=self._run, name="tiered_cache-connect", daemon=True).start()
        except BaseException:
            slot.release()
            raise

    def _run(self) -> None:
        connection = None
        try:
            connection = self._made = self._make()
            connection.deadline = self._deadline
            connection.connect()
            with self._lock:
                self._connection = connection
                if self._abandoned:
                    connection.disconnect()
        except Exception as error:  # noqa: BLE001  # raised again, as what it stands for, by who waits
            self._error = error if isinstance(error, Unavailable) else classify_connecting(error)
            if connection is not None:
                connection.disconnect()  # redis-py does it after errors of its own only
        finally:
            self._slot.release()
            self._done.set()

    def result(self) -> Any:
        """The connection, once there. Raises Unavailable, or TimeoutError where that is for the deadline."""
        if not self._done.wait(max(0.0, self._deadline.at - time.monotonic())):
            with self._lock:
                self._abandoned = self._connection is None
            if self._abandoned:
                raise self.late()
        if self._error is not None:
            raise self._error
        return self._connection

    def late(self) -> Exception:
        """What is to be raised by who can wait for it no longer."""
        if getattr(getattr(self._made, "credential_provider", None), "is_under_way", False):
            return Unavailable(Failure.TIMEOUT, TOO_SLOW)
        return TimeoutError("connecting takes longer than the timeout")
