"""The TCP fault proxy: each mode does to replies what it says, and nothing more."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import socketserver
import threading
import warnings
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_cache._errors import ConfigurationError
from tiered_cache.local import FaultProxy, ServiceUnavailable
from tiered_cache.local._listeners import stop_listening
from tiered_cache.local._process import poll
from tiered_cache.local.proxy import _flipped

if TYPE_CHECKING:
    from collections.abc import Iterator

REPLY = bytes(range(200))
WAIT = 60.0
"""Seconds that anything may take on a slow machine."""


class Replies(socketserver.StreamRequestHandler):
    """Answers each line with the same 200 bytes."""

    def handle(self) -> None:
        while self.rfile.readline():
            self.server.asked.set()  # type: ignore[attr-defined]
            self.wfile.write(REPLY)


class Upstream(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: object, client_address: object) -> None:
        """The proxy resets connections; that is the point."""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A server whose replies are known; `asked` is set at each request."""
    with Upstream(("127.0.0.1", 0), Replies) as server:
        server.asked = threading.Event()  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[FaultProxy]:
    """A proxy before the server."""
    with FaultProxy("127.0.0.1", upstream.server_address[1]) as started:
        yield started


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[socket.socket]:
    """A connection through the proxy."""
    with socket.create_connection((proxy.host, proxy.port), WAIT) as connected:
        yield connected


def ask(client: socket.socket, size: int = len(REPLY)) -> bytes:
    """The reply to one request: up to `size` bytes, fewer if the connection ends."""
    client.sendall(b"ask\n")
    return read(client, size)


def read(client: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (piece := client.recv(size - len(got))):
        got += piece
    return got


def test_ok_changes_nothing(proxy: FaultProxy, client: socket.socket) -> None:
    """A fresh proxy passes replies on as they are."""
    assert ask(client) == REPLY
    assert proxy.accepted == 1


def test_latency_and_drip_deliver_everything(proxy: FaultProxy, client: socket.socket) -> None:
    """Slow replies are whole all the same."""
    proxy.latency(0.01)
    assert ask(client) == REPLY
    proxy.drip(chunk=50, pause=0.001)
    assert ask(client) == REPLY


def test_drip_delivers_in_pieces(proxy: FaultProxy, client: socket.socket) -> None:
    """The first piece comes alone; the rest follows when the mode ends."""
    proxy.drip(chunk=16, pause=600)
    client.sendall(b"ask\n")
    assert client.recv(1024) == REPLY[:16]
    proxy.ok()
    assert read(client, 184) == REPLY[16:]


def test_hang_holds_the_reply_though_the_request_arrived(
    proxy: FaultProxy, upstream: Upstream, client: socket.socket
) -> None:
    """The server was asked, the client hears nothing; afterwards the reply is delivered."""
    proxy.hang()
    client.sendall(b"ask\n")
    assert upstream.asked.wait(WAIT)  # type: ignore[attr-defined]
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    proxy.ok()
    client.settimeout(WAIT)
    assert read(client, len(REPLY)) == REPLY


def test_reset_answers_with_rst(proxy: FaultProxy, client: socket.socket) -> None:
    """The connection is reset in place of the reply."""
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        ask(client)


@pytest.mark.parametrize("after", [0, 1, 199, 200])
def test_truncate_cuts_after_so_many_bytes(proxy: FaultProxy, client: socket.socket, after: int) -> None:
    """The client gets that many bytes and then the end."""
    proxy.truncate(after)
    assert ask(client, 1000) == REPLY[:after]


def test_truncate_counts_from_its_own_beginning(proxy: FaultProxy, client: socket.socket) -> None:
    """Replies before the mode was set do not count."""
    assert ask(client) + ask(client) == 2 * REPLY
    proxy.truncate(5)
    assert ask(client, 1000) == REPLY[:5]


def test_garbage_has_the_replys_length_and_is_the_same_each_time(upstream: Upstream) -> None:
    """Two proxies with one seed give the same garbage, and it is not the reply."""
    got = []
    for _ in range(2):
        with FaultProxy("127.0.0.1", upstream.server_address[1], seed=7) as proxy:
            proxy.garbage()
            with socket.create_connection(("127.0.0.1", proxy.port), WAIT) as client:
                got.append(ask(client))
    assert got[0] == got[1] != REPLY
    assert len(got[0]) == len(REPLY)


def test_flip_changes_one_bit_once(proxy: FaultProxy, client: socket.socket) -> None:
    """Bit 9 is the second lowest of the second byte; the next reply is whole."""
    proxy.flip(9)
    assert ask(client) == REPLY[:1] + bytes([REPLY[1] ^ 2]) + REPLY[2:]
    assert ask(client) == REPLY


@given(st.binary(max_size=40), st.integers(-10, 400))
def test_flipping_twice_is_no_change(content: bytes, bit: int) -> None:
    """One flip differs in exactly one bit where the bit lies inside; two flips undo each other."""
    once = _flipped(content, bit)
    different = sum((a ^ b).bit_count() for a, b in zip(content, once, strict=True))
    assert different == (0 <= bit < 8 * len(content))
    assert _flipped(once, bit) == content


def test_blackhole_accepts_and_is_silent_until_the_next_mode(proxy: FaultProxy, upstream: Upstream) -> None:
    """New connections are taken and nothing reaches the server; when it ends, all of it does."""
    proxy.blackhole()
    with socket.create_connection((proxy.host, proxy.port), WAIT) as client:
        client.sendall(b"ask\n")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert not upstream.asked.is_set()  # type: ignore[attr-defined]
        proxy.ok()
        client.settimeout(WAIT)
        assert read(client, len(REPLY)) == REPLY


def test_refuse_turns_new_connections_away_and_keeps_open_ones(proxy: FaultProxy, client: socket.socket) -> None:
    """Nobody listens any more; the connection that is open goes on; afterwards the same port listens again."""
    assert ask(client) == REPLY
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, proxy.port), WAIT)
    assert ask(client) == REPLY
    proxy.ok()
    with socket.create_connection((proxy.host, proxy.port), WAIT) as again:
        assert ask(again) == REPLY


def test_kill_all_resets_every_open_connection(proxy: FaultProxy, client: socket.socket) -> None:
    """Open connections end with RST; a new one is served."""
    assert ask(client) == REPLY
    proxy.kill_all()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert poll(lambda: proxy.open_connections == 0, seconds=WAIT)
    with socket.create_connection((proxy.host, proxy.port), WAIT) as again:
        assert ask(again) == REPLY


def test_forget_all_silences_open_connections_and_no_new_one(
    proxy: FaultProxy, upstream: Upstream, client: socket.socket
) -> None:
    """Nothing arrives at either end, and neither is told; who connects anew is served."""
    assert ask(client) == REPLY
    upstream.asked.clear()  # type: ignore[attr-defined]
    proxy.forget_all()
    client.sendall(b"ask\n")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert not upstream.asked.is_set()  # type: ignore[attr-defined]
    with socket.create_connection((proxy.host, proxy.port), WAIT) as another:
        assert ask(another) == REPLY
        client.close()
        assert poll(lambda: proxy.open_connections == 1, seconds=WAIT)


def test_the_clients_end_reaches_the_server_and_its_last_reply_the_client(client: socket.socket) -> None:
    """A client that shuts its sending side still gets the reply, and then the end."""
    client.sendall(b"ask\n")
    client.shutdown(socket.SHUT_WR)
    assert read(client, 1000) == REPLY


def test_a_dead_server_ends_the_connection() -> None:
    """Where nobody is upstream, the client's connection is closed."""
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))  # so that nobody else listens there meanwhile
        with (
            FaultProxy("127.0.0.1", dead.getsockname()[1]) as proxy,
            socket.create_connection(("127.0.0.1", proxy.port), WAIT) as client,
        ):
            assert client.recv(1) == b""


def test_bad_numbers_and_use_before_the_start_are_clear_errors(proxy: FaultProxy) -> None:
    """Negative numbers, empty pieces and a proxy that is not started are named at once."""
    for use in (lambda: proxy.latency(-1), lambda: proxy.truncate(-1), lambda: proxy.drip(0, 1)):
        with pytest.raises(ConfigurationError):
            use()
    idle = FaultProxy("127.0.0.1", 1)
    idle.stop()
    for use in (lambda: idle.port, idle.ok):
        with pytest.raises(ServiceUnavailable):
            use()


def test_stopping_ends_held_connections_too(upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    """A proxy that holds a reply back can be stopped at once, and nothing is logged about it."""
    with FaultProxy("127.0.0.1", upstream.server_address[1]) as proxy:
        proxy.hang()
        client = socket.create_connection(("127.0.0.1", proxy.port), WAIT)
        client.sendall(b"ask\n")
        assert upstream.asked.wait(WAIT)  # type: ignore[attr-defined]
    with client, pytest.raises(ConnectionResetError):
        client.recv(1)
    assert caplog.text == ""


@pytest.mark.parametrize("turns", range(6))
def test_who_was_just_accepted_when_the_listening_stops_is_not_lost(turns: int) -> None:
    """After so many turns of the loop since the connection stood in the queue: it reaches the handler, or is refused."""
    handled: list[asyncio.StreamWriter] = []

    async def serve() -> None:
        server = await asyncio.start_server(lambda _, writer: handled.append(writer), "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname(), WAIT) as client:
            for _ in range(turns):
                await asyncio.sleep(0)
            await stop_listening(server)
            for writer in handled:
                writer.transport.abort()
            await asyncio.sleep(0)
            assert not server.is_serving()
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        asyncio.run(serve())
        gc.collect()
    assert [] == [str(one.message) for one in said]
    assert turns < 2 or handled
