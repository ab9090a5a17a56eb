"""An HTTP server on loopback that answers by script: what AWS, or something in between, does on a bad day."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """One scripted answer. `length` announces another length than it has; `hang` waits until the server closes."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None
    closed: bool = False
    hang: bool = False


def json_reply(status: int = 200, /, **fields: Any) -> Reply:
    """An answer of DynamoDB or Athena."""
    return Reply(status, json.dumps(fields).encode(), (("Content-Type", "application/x-amz-json-1.0"),))


def json_error(code: str, status: int = 400, message: str = "secret-text") -> Reply:
    """An error of DynamoDB or Athena."""
    return json_reply(status, __type=f"com.amazonaws#{code}", message=message, Message=message)


def s3_object(body: bytes, **others: Any) -> Reply:
    """An object of S3."""
    headers = (("ETag", '"e1"'), ("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT"))
    return Reply(200, body, headers)._replace(**others)


def s3_error(code: str, status: int, *headers: tuple[str, str]) -> Reply:
    """An error of S3."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>secret-text</Message></Error>".encode()
    return Reply(status, body, (("Content-Type", "application/xml"), ("x-amz-request-id", "r1"), *headers))


HTML = Reply(200, b"<html><body>Please log in</body></html>", (("Content-Type", "text/html"),))
CLOSED = Reply(closed=True)
HANG = Reply(hang=True)


class FaultServer:
    """Answers each request by the next reply of the script, and the last reply again when the script is at its end."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self._script: deque[Reply] = deque()
        self._released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def script(self, *replies: Reply) -> None:
        """Answer with these from now on."""
        self._script = deque(replies)

    def bodies(self) -> list[Any]:
        """The requests' bodies, read as JSON."""
        return [json.loads(body) for _, _, _, body in self.requests]

    def next(self) -> Reply:
        """The reply to the next request."""
        return self._script.popleft() if len(self._script) > 1 else self._script[0]

    def came(self, number: int) -> None:
        """Wait until so many requests have come; who has sent one may have given up before it was read."""
        ends = time.monotonic() + 60
        while len(self.requests) < number:
            assert time.monotonic() < ends, "it did not come"
            time.sleep(0.01)

    def wait(self) -> None:
        """Wait until the server closes."""
        self._released.wait(60)

    def close(self) -> None:
        """End every request and the server."""
        self._released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Say nothing: a client that hangs up in the middle of an answer is part of the script."""


def _handler(faults: FaultServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            faults.requests.append((self.command, self.path, dict(self.headers.items()), content))
            reply = faults.next()
            if reply.hang:
                faults.wait()
            if reply.hang or reply.closed:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in reply.headers:
                self.send_header(name, value)
            if reply.status != 304:
                self.send_header("Content-Length", str(len(reply.body) if reply.length is None else reply.length))
            self.end_headers()
            if reply.status != 304 and self.command != "HEAD":
                self.wfile.write(reply.body)
            if reply.length is not None:
                self.close_connection = True

        do_GET = do_POST = do_HEAD = answer

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
