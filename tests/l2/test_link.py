"""The socket with a deadline, and corners of the link that no server can be brought to show."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import redis
from rig import LoopServer, wait_until, within

from tiered_cache._l2.link import Deadline, DeadlineSocket, _Attempt, packed
from tiered_cache.local.cluster import _do, _Sentinel
from tiered_cache.local.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rig import Rig


PATIENT = ("down-after-milliseconds 60000", "failover-timeout 3000")
"""A Sentinel that gives up no primary which is slow, until it is told to."""


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        one.settimeout(5)
        yield one, other


def bounded(sock: socket.socket, seconds: float, timeout: float = 5.0) -> DeadlineSocket:
    return DeadlineSocket(sock, Deadline(timeout, time.monotonic() + seconds))


def test_a_socket_receives_either_way(pair: tuple[socket.socket, socket.socket]) -> None:
    """recv and recv_into, of which redis-py's two parsers use one each, and whatever else a socket has."""
    sock = bounded(pair[0], 5)
    pair[1].sendall(b"abcdef")
    buffer = bytearray(3)
    assert sock.recv(3) == b"abc"
    assert sock.recv_into(buffer) == 3
    assert buffer == b"def"
    assert sock.fileno() == pair[0].fileno()


@pytest.mark.parametrize("call", ["recv", "recv_into", "sendall"])
def test_past_the_deadline_a_socket_does_not_even_try(pair: tuple[socket.socket, socket.socket], call: str) -> None:
    """A call that comes too late is a TimeoutError, though the bytes may be there."""
    pair[1].sendall(b"abc")
    with pytest.raises(TimeoutError, match="deadline"):
        getattr(bounded(pair[0], -0.001), call)({"recv": 3, "recv_into": bytearray(3), "sendall": b"abc"}[call])


def test_the_next_call_has_its_whole_time_again(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one call took from the socket's timeout is given back to the next."""
    monkeypatch.setattr("tiered_cache._l2.link.time", SimpleNamespace(monotonic=lambda: 100.0))
    deadline = Deadline(5, 100.5)
    sock = DeadlineSocket(pair[0], deadline)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    assert pair[0].gettimeout() == 0.5
    deadline.at = 160.0
    pair[1].sendall(b"a")
    assert sock.recv(1) == b"a"
    assert pair[0].gettimeout() == 60.0


def test_a_send_that_is_taken_in_small_pieces_ends_at_the_deadline(pair: tuple[socket.socket, socket.socket]) -> None:
    """A peer that reads slowly does not prolong a send."""
    pair[0].settimeout(0.2)
    sock = bounded(pair[0], 0.2, timeout=0.2)
    ended = threading.Event()

    def read_slowly() -> None:
        while not ended.wait(0.02):
            pair[1].recv(4096)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    with within(1.2), pytest.raises(TimeoutError):
        sock.sendall(b"x" * 50_000_000)
    ended.set()
    pair[0].close()  # or the reader may wait for more
    reader.join()


def test_large_parts_are_sent_as_they_are() -> None:
    """Small parts go out in one piece; a large one is not copied beside them."""
    large = b"x" * 100_000
    assert packed([(b"GET", b"a"), (b"GET", b"bc")]) == [
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$2\r\nbc\r\n"
    ]
    pieces = packed([(b"SET", b"a", large, b"PX", b"5")])
    assert pieces[1] is large
    assert b"".join(pieces) == b"*5\r\n$3\r\nSET\r\n$1\r\na\r\n$100000\r\n%b\r\n$2\r\nPX\r\n$1\r\n5\r\n" % large


class SlowTLS(LoopServer):
    """Reads a little at a time, with pauses."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3000):
            await reader.read(20_000)
            await asyncio.sleep(0.02)


def test_a_tls_send_ends_at_the_deadline(certificate: Path) -> None:
    """Python's own sendall begins its timeout anew with each record of TLS."""
    context = ssl.create_default_context(cafile=f"{certificate}.crt")
    with SlowTLS(certificate) as slow:
        plain = socket.create_connection(("127.0.0.1", slow.port), 20)  # for the handshake, on a busy machine
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as sock, within(1.3), pytest.raises(TimeoutError):
            bounded(sock, 0.3, timeout=0.3).sendall(b"x" * 50_000_000)


def test_a_connection_that_is_made_at_the_last_moment_is_used() -> None:
    """A connection that is there when the deadline passes is neither closed nor lost."""
    freed, made = threading.Event(), threading.Event()

    class Made:
        def connect(self) -> None:
            """Nothing to do."""

    class SlowSlot:
        def release(self) -> None:
            made.set()
            freed.wait(60)

    connection = Made()
    attempt = _Attempt(lambda: connection, Deadline(1, time.monotonic()), SlowSlot())
    assert made.wait(60)
    assert attempt.result() is connection
    freed.set()


def test_threads_that_begin_together_share_one_link(rig: Rig) -> None:
    """Who waited while another made the link takes that one."""
    made = rig.tier.link()
    rig.tier._link = None

    class MadeMeanwhile:
        def __enter__(self) -> None:
            rig.tier._link = made

        def __exit__(self, *_: object) -> None:
            pass

    rig.tier.link_lock = MadeMeanwhile()
    assert rig.tier.link() is made


def test_connections_that_another_thread_closes(rig: Rig) -> None:
    """Threads that read while others drop all connections get their values, or a miss that is counted."""
    keys = [rig.plant() for _ in range(8)]
    ended = threading.Event()
    wrong: list[object] = []

    def drop() -> None:
        while not ended.wait(0.0005):
            rig.tier.close()

    def read() -> None:
        store = rig.tier.bind("test")
        for turn in range(150):
            found = store.read(keys[turn % 8], rig.clock(), None).entry
            if found is not None and found.value != keys[turn % 8]:
                wrong.append(found.value)

    threads = [threading.Thread(target=read) for _ in range(4)]
    dropper = threading.Thread(target=drop)
    for thread in [dropper, *threads]:
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    dropper.join()
    assert wrong == []
    rig.clock.advance(61)
    assert rig.reads_l2()


@pytest.fixture
def sentinel(server: ValkeyServer) -> Iterator[tuple[redis.Sentinel, ValkeyServer]]:
    """A Sentinel that watches over the test's server and the replica that it gives beside."""
    with ValkeyServer() as replica, redis.Redis(port=replica.port) as admin, _Sentinel() as watcher:
        admin.replicaof(server.host, server.port)
        wait_until(lambda: admin.info("replication").get("master_link_status") == "up")
        for order in (f"MONITOR main {server.host} {server.port} 1", *(f"SET main {option}" for option in PATIENT)):
            _do(watcher, f"SENTINEL {order}")
        with redis.Redis(port=watcher.port) as asked:
            wait_until(lambda: len(asked.execute_command("SENTINEL", "REPLICAS", "main")) == 1)
        watching = redis.Sentinel([(watcher.host, watcher.port)], socket_timeout=20)
        yield watching, replica
        for client in watching.sentinels:
            client.close()


def test_a_failover_by_sentinel(
    sentinel: tuple[redis.Sentinel, ValkeyServer], server: ValkeyServer, rig_of: Callable[..., Rig]
) -> None:
    """F38: a client made by Sentinel finds the primary, and after a failover the new one."""
    watching, replica = sentinel
    with watching.master_for("main") as client:
        rig = rig_of(client, replica.url)
        assert "redis.Redis at Sentinel's main" in repr(rig.tier)
        assert rig.ask().tier == "origin"
        assert (rig.l2.writes, rig.errors) == (1, {})
        server.kill()
        watching.sentinels[0].execute_command("SENTINEL", "SET", "main", "down-after-milliseconds", 300)
        assert rig.ask().tier == "origin"

        def healed() -> bool:
            rig.clock.advance(61)
            before = rig.l2.writes
            return rig.ask().tier == "origin" and rig.l2.writes > before

        wait_until(healed)
        assert rig.reads_l2()


def test_with_either_parser(valkey: ValkeyServer) -> None:
    """In a process of its own, with the parser that redis-py chooses: hiredis where that is installed."""
    code = f"""if True:
        from tiered_cache import RedisTier
        from tiered_cache._entry import Entry
        from tiered_cache._reply import Claim, Filled, Lease
        store = RedisTier("{valkey.url}", ttl=60, timeout=20).bind("test")
        value = ["x" * 200_000, 1]
        lease = Lease("key", b"token", 60.0)
        store.ask(lease, Claim.MISSING, 1.0, None)
        assert store.fill(lease, Entry(value, loaded_at=1.0, fresh_for=60.0), 1.0) is Filled.KEPT
        assert store.read("key", 1.0, None).entry.value == value
        parser = type(store._tier.link()._idle[0]._parser).__name__
        store.close()
        print(parser)
    """
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in {"_HiredisParser", "_RESP2Parser"}
