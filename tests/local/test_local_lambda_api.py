"""The local Lambda's servers, asked by hand: what the real runtime client never sends, and what others do."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import socket
import sys
from pathlib import Path

import pytest

from tiered_cache.local import LocalLambda, ServiceUnavailable
from tiered_cache.local._lambda_http import ApiServer, Line, Reply, Request
from tiered_cache.local._process import poll
from tiered_cache.local.awslambda import LambdaError

HANDLERS = Path(__file__).parent / "handlers"
WAIT = 60.0
"""Seconds that anything may take on a slow machine, if it is not what a test measures."""
RUNTIME = "/2018-06-01/runtime"
MOST = 1 << 26
"""More bytes than the kernel keeps for a client that does not read."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="awslambdaric runs on Linux only")


@pytest.fixture
def address(local_lambda) -> tuple[str, int]:
    """Where the APIs of a container are."""
    fn = local_lambda("plain.handler", directory=HANDLERS, timeout=WAIT, init_timeout=WAIT)
    host, port = fn.invoke({}).value["environment"]["AWS_LAMBDA_RUNTIME_API"].split(":")
    return host, int(port)


def ask(address, method, path, body=None, **options):
    connection = http.client.HTTPConnection(*address)
    connection.request(method, path, body, **options)
    reply = connection.getresponse()
    answer = reply.status, json.loads(reply.read())
    connection.close()
    return answer


def raw(address, text: bytes) -> bytes:
    """All that is answered to `text` until the connection is closed."""
    with socket.create_connection(address) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.mark.parametrize(
    "path", ["/", f"{RUNTIME}/invocation/next", f"{RUNTIME}/nothing", "/2020-01-01/extension/nothing"]
)
def test_what_is_not_there_is_404(address, path):
    """A POST, so that `next` is none either."""
    status, error = ask(address, "POST", path)
    assert (status, error["errorType"]) == (404, "NotFound")


def test_an_answer_for_an_unknown_request_is_refused(address):
    """In one piece or in chunks, with a trailer."""
    path = f"{RUNTIME}/invocation/unknown/response"
    assert ask(address, "POST", path, b"{}") == (
        400,
        {"errorType": "InvalidRequestID", "errorMessage": "Invalid request ID"},
    )
    chunked = ask(address, "POST", path, iter([b"{", b"}"]), encode_chunked=True)
    assert chunked[1]["errorType"] == "InvalidRequestID"
    with_trailer = f"POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{{}}\r\n0\r\nSum: 1\r\n\r\n"
    assert b"InvalidRequestID" in raw(address, with_trailer.encode())


def test_requests_one_after_the_other_on_one_connection(address):
    """The connection is kept, also where the second request is early."""
    one = f"GET {RUNTIME}/nothing HTTP/1.1\r\n\r\n".encode()
    assert raw(address, one * 3).count(b"HTTP/1.1 404 Not Found\r\n") == 3


@pytest.mark.parametrize("text", [b"nonsense\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n"])
def test_what_is_no_request_is_400(address, text):
    """And the connection is closed."""
    assert raw(address, text).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_hangs_up_takes_nothing_with_it(address):
    """A head that is cut off, a body that is cut off, a call of an extension's that nobody waits for."""
    for text in (b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n123"):
        assert raw(address, text) == b""
    status, _ = ask(address, "GET", "/still/there")
    assert status == 404


def test_ten_extensions_are_the_most(local_lambda):
    """An eleventh is refused, and so is one that waits already."""
    value = local_lambda("crowd.handler", directory=HANDLERS, timeout=WAIT, init_timeout=WAIT).invoke({}).value
    assert value["eleventh"]["errorType"] == "Extension.TooManyExtensions"
    assert value["twice"]["errorType"] == "Extension.InvalidExtensionState"


def test_when_the_process_that_holds_them_is_ended_the_callers_hear_of_it():
    """Somebody kills the warden: what runs fails, and the processes do not stay."""
    with LocalLambda("plain.handler", directory=HANDLERS, timeout=WAIT, init_timeout=WAIT, containers=2) as fn:
        pid = fn.invoke({}).pid
        running = [fn.invoke_async({"sleep": WAIT}) for _ in range(2)]
        assert poll(lambda: [one.state for one in fn.containers] == ["busy", "busy"], seconds=WAIT)
        fn._fleet._processes._warden.kill()
        for one in running:
            with pytest.raises(LambdaError):
                one.result(WAIT)
        with pytest.raises(LambdaError, match="ended by somebody") as caught:
            fn.invoke({})
        assert isinstance(caught.value.__cause__, ServiceUnavailable)
    assert poll(
        lambda: not Path(f"/proc/{pid}").exists() or "Z (zombie)" in Path(f"/proc/{pid}/status").read_text(),
        seconds=WAIT,
    )


# The server by itself


async def unanswered(_: Request) -> Reply:
    return await asyncio.get_running_loop().create_future()


def test_a_server_that_is_stopped_while_it_starts_does_not_listen():
    """At whichever step that comes."""

    async def stopped_after(steps: int) -> str:
        server = ApiServer(unanswered)
        starting = asyncio.create_task(server.start())
        for _ in range(steps):
            await asyncio.sleep(0)
        await server.stop()
        await starting
        return server.address

    for steps in range(1, 4):
        host, port = asyncio.run(stopped_after(steps)).split(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)))


def test_who_takes_no_more_is_cut_off_with_the_server(monkeypatch):
    """Its connection is over but for the rest of an answer, which it never reads: that is closed, too."""

    async def does_not_wait(_: asyncio.StreamWriter) -> None: ...

    monkeypatch.setattr(asyncio.StreamWriter, "drain", does_not_wait)  # as where the rest is below its limit
    hung_up: list[Line] = []

    async def long(request: Request) -> Reply:
        request.line.on_close.add(lambda: hung_up.append(request.line))
        return Reply(200, b"x" * MOST)

    async def main(client: socket.socket) -> None:
        server = ApiServer(long)
        await server.start()
        host, port = server.address.split(":")
        client.connect((host, int(port)))
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        while not hung_up:
            await asyncio.sleep(0.001)
        await server.stop()

    with socket.socket() as client:
        asyncio.run(main(client))
        gc.collect()  # what is open still is told of
        assert sum(map(len, iter(lambda: client.recv(1 << 20), b""))) < MOST
