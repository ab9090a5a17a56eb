"""A TCP proxy on loopback that passes bytes on, and spoils the replies in the way a test asks for."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias
from weakref import WeakSet

from tiered_cache._errors import ConfigurationError
from tiered_cache.local._listeners import stop_listening
from tiered_cache.local._needs import ServiceUnavailable
from tiered_cache.local._process import HOST, bind_somewhere

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

Kind: TypeAlias = Literal[
    "ok", "latency", "hang", "reset", "truncate", "garbage", "flip", "drip", "blackhole", "refuse"
]


class _Mode:
    """What is done to replies until `over` is set. Offsets count from its beginning, on each connection."""

    def __init__(self, kind: Kind, *, number: int = 0, seconds: float = 0.0) -> None:
        self.kind = kind
        self.number = number
        self.seconds = seconds
        self.over = asyncio.Event()

    async def wait(self, seconds: float | None = None) -> None:
        """Until this mode is over, at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), seconds)


class _CutError(Exception):
    """This connection is to end now."""


class _Connection:
    """A client's connection, and how far the current mode has come on it."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.forgotten = False
        self._mode: _Mode | None = None
        self._passed = 0

    def passed(self, mode: _Mode) -> int:
        """Bytes of replies that this connection has got since `mode` began."""
        if self._mode is not mode:
            self._mode, self._passed = mode, 0
        return self._passed

    async def send(self, data: bytes, mode: _Mode) -> None:
        self._passed = self.passed(mode) + len(data)
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """End with RST instead of FIN, what was not sent yet thrown away."""
        raw = self.writer.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class FaultProxy:
    """Stands between a client and the server at `upstream_host:upstream_port`, at a free port of loopback.

    It begins by passing everything on. Each method named for a fault sets what is done from then on, on open
    connections and new ones; it is in force when the method returns. Requests are passed on as they are; it is replies
    that suffer, so the server has done what it was asked. `seed` makes the garbage the same in each run.

    A context manager; or `start()` and `stop()`.

        with FaultProxy("127.0.0.1", server.port) as proxy:
            proxy.latency(0.05)
    """

    def __init__(self, upstream_host: str, upstream_port: int, *, seed: int = 0) -> None:
        self._upstream = (upstream_host, upstream_port)
        self._random = random.Random(seed)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._port: int | None = None
        self._started = threading.Event()
        self._stopping: asyncio.Event
        self._mode: _Mode
        self._listener: asyncio.Server | None = None
        self._writers: WeakSet[asyncio.StreamWriter] = WeakSet()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.accepted = 0
        """Connections that clients have opened so far."""

    def start(self) -> Self:
        """Begin to listen. Running already: nothing."""
        if self._thread is None:
            listening = _listening(self._port)
            self._port = int(listening.getsockname()[1])
            self._started.clear()
            self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(listening)), daemon=True)
            self._thread.start()
            self._started.wait()
        return self

    def stop(self) -> None:
        """Reset all connections and end. Twice does no harm."""
        thread, self._thread = self._thread, None
        if thread is not None:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._stopping.set)
            thread.join()

    @property
    def host(self) -> str:
        """The loopback address."""
        return HOST

    @property
    def port(self) -> int:
        """The port that clients are to connect to. Raises ServiceUnavailable before the start."""
        if self._port is None:
            raise ServiceUnavailable("this proxy was never started: use `with FaultProxy(host, port) as proxy:`")
        return self._port

    # The faults

    def ok(self) -> None:
        """Pass on everything again, what was held back too."""
        self._switch("ok")

    def latency(self, seconds: float) -> None:
        """Hold each piece of a reply back for `seconds`."""
        self._switch("latency", seconds=seconds)

    def hang(self) -> None:
        """Hold replies back until the next mode, which then applies to them."""
        self._switch("hang")

    def reset(self) -> None:
        """Answer the next reply with RST, on each connection."""
        self._switch("reset")

    def truncate(self, after: int) -> None:
        """Pass on `after` bytes of replies on each connection, then close it (FIN)."""
        self._switch("truncate", number=after)

    def garbage(self) -> None:
        """Put random bytes, as many, in the place of the reply's."""
        self._switch("garbage")

    def flip(self, bit: int) -> None:
        """Flip one bit, number `bit` of the replies on each connection (bit 0 is the lowest of the first byte)."""
        self._switch("flip", number=bit)

    def drip(self, chunk: int, pause: float) -> None:
        """Pass on replies in pieces of `chunk` bytes with `pause` seconds after each."""
        if chunk < 1:
            raise ConfigurationError(f"chunk must be at least one byte; got {chunk}")
        self._switch("drip", number=chunk, seconds=pause)

    def blackhole(self) -> None:
        """Accept connections and pass on nothing, in either direction; held bytes go on with the next mode."""
        self._switch("blackhole")

    def refuse(self) -> None:
        """Refuse new connections; open ones are served as they are."""
        self._switch("refuse")

    def kill_all(self) -> None:
        """Reset every open connection now. The mode stays."""
        self._call(self._kill())

    def forget_all(self) -> None:
        """Let every open connection lead nowhere from now on, in either direction, as when a NAT has forgotten it: neither
        end is told. New connections are served by the mode.
        """
        self._call(self._forget())

    @property
    def open_connections(self) -> int:
        """Clients' connections that are open now."""
        return len(self._connections)

    # Everything below `_call` runs in the loop's thread

    def _switch(self, kind: Kind, *, number: int = 0, seconds: float = 0.0) -> None:
        if number < 0 or not 0 <= seconds < float("inf"):
            raise ConfigurationError(f"{kind}: numbers must be zero or more, and finite; got {number}, {seconds}")
        self._call(self._change(kind, number, seconds))

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._loop is None or self._thread is None:
            coroutine.close()
            raise ServiceUnavailable("this proxy is not started")
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            await stop_listening(listener)

    async def _serve(self, listening: socket.socket) -> None:
        self._loop, self._stopping, self._mode = asyncio.get_running_loop(), asyncio.Event(), _Mode("ok")
        self._listener = await asyncio.start_server(self._accept, sock=listening)
        self._started.set()
        await self._stopping.wait()
        await self._stop_listening()
        await self._kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()  # one that waits for its peer to read would stay
        await asyncio.sleep(0)

    async def _change(self, kind: Kind, number: int, seconds: float) -> None:
        before, self._mode = self._mode, _Mode(kind, number=number, seconds=seconds)
        if kind == "refuse":
            await self._stop_listening()
        elif self._listener is None:
            self._listener = await asyncio.start_server(self._accept, sock=_listening(self._port))
        before.over.set()

    async def _kill(self) -> None:
        for connection in self._connections:
            connection.reset()

    async def _forget(self) -> None:
        for connection in self._connections:
            connection.forgotten = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        connection = _Connection(writer)
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(connection)
        self._tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError):  # by stop(); Python 3.11's streams would log it as an error
            await self._stand_between(reader, connection)
        self._connections.discard(connection)
        self._tasks.discard(task)

    async def _stand_between(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        upstream: asyncio.StreamWriter | None = None
        try:
            while self._mode.kind == "blackhole":
                await self._mode.wait()
            replies, upstream = await asyncio.open_connection(*self._upstream)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump_requests(reader, upstream, connection))
                pumps.create_task(self._pump_replies(replies, connection))
        except* (OSError, _CutError):
            pass
        finally:
            connection.writer.close()
            if upstream is not None:
                upstream.close()

    async def _pump_requests(
        self, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter, connection: _Connection
    ) -> None:
        while data := await reader.read(1 << 16):
            while self._mode.kind == "blackhole":
                await self._mode.wait()
            if not connection.forgotten:
                upstream.write(data)
                await upstream.drain()
        upstream.write_eof()

    async def _pump_replies(self, replies: asyncio.StreamReader, connection: _Connection) -> None:
        while data := await replies.read(1 << 16):
            while data and not connection.forgotten:
                data = await self._deliver(data, connection)
        if not connection.forgotten:
            connection.writer.write_eof()

    async def _deliver(self, data: bytes, connection: _Connection) -> bytes:
        """Do to `data` what the mode says; gives what is left of it when the mode ended on the way."""
        mode = self._mode
        match mode.kind:
            case "ok" | "refuse":
                await connection.send(data, mode)
            case "latency":
                await mode.wait(mode.seconds)
                await connection.send(data, mode)
            case "hang" | "blackhole":
                await mode.wait()
                return data
            case "reset":
                connection.reset()
                raise _CutError
            case "truncate":
                left = mode.number - connection.passed(mode)
                await connection.send(data[:left], mode)
                if len(data) >= left:
                    raise _CutError
            case "garbage":
                await connection.send(self._random.randbytes(len(data)), mode)
            case "flip":
                await connection.send(_flipped(data, mode.number - 8 * connection.passed(mode)), mode)
            case "drip":
                await connection.send(data[: mode.number], mode)
                await mode.wait(mode.seconds)
                return data[mode.number :]
            case _:
                raise AssertionError(mode.kind)
        return b""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        mode = self._mode.kind if self._thread is not None else "stopped"
        return f"FaultProxy(port={self._port}, upstream={self._upstream[0]}:{self._upstream[1]}, mode={mode})"


def _flipped(data: bytes, bit: int) -> bytes:
    if not 0 <= bit < 8 * len(data):
        return data
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _listening(port: int | None) -> socket.socket:
    """A socket that listens at `port`, or at a free one where None."""

    def listen(at: int) -> socket.socket:
        return socket.create_server((HOST, at), backlog=512)

    return bind_somewhere(listen) if port is None else listen(port)
