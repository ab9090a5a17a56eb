"""The parts of the tests of L2 that are no fixtures."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import pytest

from tiered_cache import Answer, MemoryTier, RedisTier, TieredCache
from tiered_cache._entry import START
from tiered_cache._news import Invalidation, Kind
from tiered_cache._reply import Claim, Filled, Lease
from tiered_cache.local._listeners import stop_listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tiered_cache._entry import Entry
    from tiered_cache._l2.store import RedisStore
    from tiered_cache._stats import SharedStats
    from tiered_cache.testing import FakeClock


STALL = 8.0
"""Seconds for which a busy machine may hold up what is to end in time. What nothing bounds lasts longer still."""


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return as soon as `true()`; fail after `seconds`."""
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "this did not come true in time"
        time.sleep(0.005)


@contextmanager
def pause_of(seconds: float) -> Iterator[Callable[[], float]]:
    """What is inside fails: the seconds, a tenth more, that a breaker's pause of `seconds` lasts, counted from before it; by a
    clock that stands still meanwhile.
    """
    began = ended = time.monotonic()
    yield lambda: 1.1 * seconds + ended - began
    ended = time.monotonic()


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """What is inside must end in time. For calls that would last many times as long if nothing bounded them."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds + STALL


_NOBODY = socket.socket()
"""Bound for as long as this process lives: the system gives its port to nobody else, in no process."""
_NOBODY.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # for a server of a test's own
_NOBODY.bind(("127.0.0.1", 0))


def free_port() -> int:
    """A port of loopback at which nobody listens, nor comes to listen by chance; always the same."""
    port: int = _NOBODY.getsockname()[1]
    return port


def leased(store: RedisStore, key: str, now: float) -> Lease:
    """The lease of `key`, whoever had it before."""
    lease = Lease(key, os.urandom(12), 60.0)
    store.ask(lease, Claim.SEIZE, now, None)
    return lease


def write(store: RedisStore, key: str, entry: Entry, now: float) -> Filled:
    """Keep `entry` as a load does, under a lease."""
    return store.fill(leased(store, key, now), entry, now)


def delete(store: RedisStore, *keys: str, now: float) -> bool:
    """Invalidate the keys; whether L2 took it."""
    return store.invalidate([Invalidation(Kind.KEY, key) for key in keys], START, now, None) is not None


class Naps:
    """The clock of who waits for another's load: it goes on in the naps between two looks alone, which take no time of ours.
    Put in place of the module `time` in `tiered_cache._load`. `then` is done after each.
    """

    def __init__(self, then: Callable[[], object] = bool) -> None:
        self.slept = 0.0
        self._then = then

    def monotonic(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self._then()


class Rig:
    """A cache whose L2 is at `address`, and another one beside it, straight at the server, that plants values in L2.

    Calls that are answered have all the time that a busy machine may need; `hurried` is for those that are not.
    """

    def __init__(self, address: Any, planter: str | None, clock: FakeClock, **options: Any) -> None:
        options = {"ttl": "1h", "jitter": 0, "timeout": 20} | options
        self.clock = clock
        self.tier = RedisTier(address, **options)
        self.cache = TieredCache(MemoryTier(ttl=60, jitter=0), self.tier, clock=clock, namespace="test")
        planter_tier = RedisTier(planter or address, **(options | {"timeout": 20, "credentials": None}))
        self.planter = TieredCache(MemoryTier(ttl=60), planter_tier, clock=clock, namespace="test")
        self._numbers = count()

    def plant(self, value: Any = None) -> str:
        """The key of a value that L2 holds, and L1 does not; by default the value is the key."""
        key = f"planted-{next(self._numbers)}"
        self.planter.set(key, key if value is None else value)
        return key

    def ask(self, key: str | None = None) -> Answer:
        """What the cache answers; "loaded" if it asks the origin."""
        return self.cache.get_entry_or_load(key or f"new-{next(self._numbers)}", lambda: "loaded")

    def reads_l2(self) -> bool:
        """Whether a value that is in L2 comes from there."""
        key = self.plant()
        answer = self.ask(key)
        assert answer.value in (key, "loaded")
        return answer.tier == "l2"

    @contextmanager
    def hurried(self, timeout: float = 0.25) -> Iterator[None]:
        """Calls to L2 end after `timeout`: it is such that none of them can be answered in time. Later ones are patient again."""
        self.tier.link()  # its connections take no longer, ever, than a call might when it was made
        patient, self.tier.timeout = self.tier.timeout, timeout
        try:
            yield
        finally:
            self.tier.timeout = patient

    def recovers(self) -> bool:
        """Whether L2 is used again after the longest pause of the breaker."""
        self.clock.advance(61)
        return self.reads_l2() and self.l2.breaker == "closed"

    @property
    def l2(self) -> SharedStats:
        found = self.cache.stats().l2
        assert found is not None
        return found

    @property
    def errors(self) -> dict[str, int]:
        return dict(self.l2.errors)

    def close(self) -> None:
        self.cache.close()
        self.planter.close()


def make_certificate(path: Path) -> Path:
    """Make a certificate for 127.0.0.1 with the command `openssl`."""
    if shutil.which("openssl") is None:
        pytest.skip("the command openssl is not installed")
    subject = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    out = ["-keyout", f"{path}.key", "-out", f"{path}.crt"]
    subprocess.run(["openssl", "req", "-x509", *key, *out, *subject], check=True, capture_output=True)
    with path.open("wb") as both:
        for part in (".key", ".crt"):
            both.write(path.with_name(path.name + part).read_bytes())
    return path


class LoopServer:
    """A server on loopback that handles each connection in an asyncio loop of its own thread."""

    def __init__(self, certificate: Path | None = None) -> None:
        self._context = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.port = 0
        self.connections = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        tasks: set[asyncio.Task[Any]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            with contextlib.suppress(OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
                await self.handle(reader, writer)
            writer.transport.abort()
            tasks.discard(task)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=self._context)
        self._loop.set_exception_handler(lambda *_: None)  # a handshake that fails is what some tests are about
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        await stop_listening(server)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


class TLSServer(LoopServer):
    """Ends TLS and passes on what is inside to `port`."""

    def __init__(self, certificate: Path, port: int) -> None:
        super().__init__(certificate)
        self._upstream = port

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replies, upstream = await asyncio.open_connection("127.0.0.1", self._upstream)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()
            sink.close()

        try:
            await asyncio.gather(pump(reader, upstream), pump(replies, writer))
        finally:
            upstream.transport.abort()


class ScriptedServer(LoopServer):
    """Answers every command with the same bytes: for states into which a real server is not easily brought."""

    def __init__(self, reply: bytes) -> None:
        super().__init__()
        self.reply = reply

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (line := await reader.readline()).startswith(b"*"):  # *2 $3 GET $n key
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                await reader.readexactly(size + 2)
            writer.write(self.reply)
            await writer.drain()
