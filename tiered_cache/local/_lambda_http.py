"""As much of an HTTP/1.1 server as Lambda's own APIs need: one answer at a time per connection, each in one piece.

An answer may take for ever (`next` does). A client that hangs up meanwhile has its answer cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import email
import http.client
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from tiered_cache.local._listeners import stop_listening
from tiered_cache.local._process import HOST, bind_somewhere

_LIMIT = 1 << 20
"""Bytes of the longest head: Lambda's runtime sends the cause of an error as a header of up to a megabyte."""


class Line:
    """A client's connection. When the client has hung up, `closed` is true and all in `on_close` have been called."""

    def __init__(self) -> None:
        self.closed = False
        self.on_close: set[Callable[[], None]] = set()

    def close(self) -> None:
        self.closed = True
        for call in self.on_close:
            call()


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: `headers` look names up in any case."""

    method: str
    path: str
    headers: Message
    body: bytes
    line: Line

    def json(self) -> Any:
        """The body as JSON. Raises ValueError where it is none."""
        return json.loads(self.body or b"null")


@dataclass(frozen=True, slots=True)
class Reply:
    """A status, a body that is sent as JSON unless it is bytes already, and headers of its own."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])

    def encode(self) -> bytes:
        """Head and body in one piece: two would cost 40 ms where Nagle's algorithm meets a delayed acknowledgement."""
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        headers = {"Content-Type": "application/json", **self.headers, "Content-Length": str(len(body))}
        lines = [f"HTTP/1.1 {self.status} {http.client.responses[self.status]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


Answer = Callable[[Request], Awaitable[Reply]]


class ApiServer:
    """Serves `answer` at a free port of loopback, on the running loop."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self.address = ""

    async def start(self) -> None:
        listening = bind_somewhere(lambda port: socket.create_server((HOST, port), backlog=128))
        self.address = f"{HOST}:{listening.getsockname()[1]}"
        self._server = await asyncio.start_server(self._accept, sock=listening, limit=_LIMIT, start_serving=False)
        await self._server.start_serving()  # not in one step: whoever stops it meanwhile must find it

    async def stop(self) -> None:
        """Listen no more, and cut every connection."""
        if self._server is not None:
            await stop_listening(self._server)
        for task in self._lines:
            task.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        line = Line()
        try:
            # OSError and IncompleteReadError: the client hung up. CancelledError: stop(); Python 3.11's streams would
            # log it as an error.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._converse(reader, writer, line)
        finally:
            line.close()
            if task.cancelling():
                writer.transport.abort()
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()  # until what was written is taken; stop() does not wait for that
            writer.transport.abort()
            self._lines.discard(task)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line) -> None:
        # The next head is read while an answer is made, since its failure tells that the client has hung up.
        head = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        answering: asyncio.Task[Reply] | None = None
        try:
            while True:
                try:
                    request = await _request(await head, reader, line)
                except ValueError as error:
                    writer.write(Reply(400, {"errorType": "BadRequest", "errorMessage": str(error)}).encode())
                    return
                head = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
                answering = asyncio.create_task(_coroutine(self._answer, request))
                await asyncio.wait((head, answering), return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    await head  # raises where the client has hung up; else it is early with its next request
                writer.write((await answering).encode())
                await writer.drain()
        finally:
            tasks: list[asyncio.Task[Any]] = [head, *([] if answering is None else [answering])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _coroutine(answer: Answer, request: Request) -> Reply:
    return await answer(request)


async def _request(head: bytes, reader: asyncio.StreamReader, line: Line) -> Request:
    first, _, rest = head.partition(b"\r\n")
    method, path, _ = first.decode("latin-1").split(" ", 2)
    headers = email.message_from_string(rest.decode("latin-1"))  # http.client's own parser stops at 64 KB a line
    if headers.get("Transfer-Encoding", "").lower() == "chunked":
        body = await _chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get("Content-Length", 0)))
    return Request(method, path, headers, body, line)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """A body whose length was not known when it was begun (RFC 9112, section 7.1)."""
    parts: list[bytes] = []
    while size := int((await reader.readline()).partition(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    while (await reader.readline()).strip():  # trailers
        pass
    return b"".join(parts)
