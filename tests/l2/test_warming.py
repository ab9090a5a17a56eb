"""`warm_up(wait=False)`: a thread connects, the first call joins it, and a freeze in the midst does no harm."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from rig import Rig, wait_until, within

from tiered_cache import MemoryTier, TieredCache
from tiered_cache.testing import InMemorySharedTier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiered_cache.local.valkey import ValkeyServer

    RigOf = Callable[..., Rig]

TIMEOUT = 0.5
"""Seconds after which a call ends that nothing answers."""
HOUR = 3600.0
WAIT = 30.0


class Gate:
    """Holds up the first who comes, until it is opened."""

    def __init__(self) -> None:
        self.reached, self._opened = threading.Event(), threading.Event()

    def pass_through(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            assert self._opened.wait(WAIT)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture(autouse=True)
def no_warm_up_is_left() -> Iterator[None]:
    """Each warm-up ends."""
    yield
    wait_until(lambda: not any(thread.name == "tiered_cache-warm-up" for thread in threading.enumerate()))


@pytest.fixture
def connecting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Before a name is resolved."""
    gate, resolve = Gate(), socket.getaddrinfo

    def held(*given: Any, **options: Any) -> Any:
        if given[0] == "localhost":
            gate.pass_through()
        return resolve(*given, **options)

    monkeypatch.setattr(socket, "getaddrinfo", held)
    yield gate
    gate.open()


def rig_at(rig_of: RigOf, valkey: ValkeyServer, **options: Any) -> Rig:
    return rig_of(f"redis://localhost:{valkey.port}", valkey.url, **options)


def warm_ups() -> int:
    return sum(thread.name == "tiered_cache-warm-up" for thread in threading.enumerate())


def test_the_first_call_has_its_connection(rig_of: RigOf, valkey: ValkeyServer) -> None:
    """The thread makes the only one."""
    rig = rig_at(rig_of, valkey)
    assert rig.cache.warm_up(wait=False)
    assert all(rig.reads_l2() for _ in range(3))
    assert (rig.l2.connects, rig.errors, rig.tier.warming) == (1, {}, None)


def test_a_warm_up_comes_back_at_once_and_begins_once(rig_of: RigOf, valkey: ValkeyServer, connecting: Gate) -> None:
    """However often it is asked for while it is under way; and the first call joins it."""
    rig = rig_at(rig_of, valkey)
    key = rig.plant()
    assert [rig.cache.warm_up(wait=False) for _ in range(3)] == [True] * 3
    assert connecting.reached.wait(WAIT)
    assert warm_ups() == 1
    threading.Timer(TIMEOUT / 5, connecting.open).start()
    assert rig.ask(key).tier == "l2"
    assert (rig.l2.connects, rig.l2.skipped, rig.errors) == (1, 0, {})


def test_a_call_waits_no_longer_than_its_own_time_for_a_connection(
    rig_of: RigOf, valkey: ValkeyServer, connecting: Gate
) -> None:
    """Then it goes without L2, makes no second attempt, and blames nobody; the warm-up itself is what times out."""
    rig = rig_at(rig_of, valkey)
    key = rig.plant()
    with rig.hurried(TIMEOUT), within(2 * TIMEOUT + 1):
        rig.cache.warm_up(wait=False)
        assert connecting.reached.wait(WAIT)
        assert rig.ask(key).tier == "origin"
    wait_until(lambda: warm_ups() == 0)  # or what is connected now might still be used by it, too late
    assert rig.errors == {"timeout": 1}
    connecting.open()
    assert rig.recovers()
    assert rig.l2.connects == 1


def test_the_wait_is_taken_from_the_invocations_budget(rig_of: RigOf, valkey: ValkeyServer, connecting: Gate) -> None:
    """A quarter of what the invocation has left is for L2, a warm-up that is waited for included."""
    rig = rig_of(f"redis://localhost:{valkey.port}", valkey.url, timeout=20)
    store = rig.tier.bind("test")
    store.warm_up(rig.clock(), wait=False)
    assert connecting.reached.wait(WAIT)
    store.allow(0.1)
    with within(10):
        assert not store.read("key", rig.clock(), None).reached
    assert store._calls._budget.left <= 0
    assert store.stats(rig.clock()).skipped == 1
    connecting.open()
    wait_until(lambda: warm_ups() == 0)
    assert not store.read("key", rig.clock(), None).reached
    assert store.stats(rig.clock()).over_budget == 1
    store.allow(None)
    assert store.read("key", rig.clock(), None).reached
    assert (rig.tier.connects, rig.errors) == (1, {})


def test_a_warm_up_that_waits_joins_the_other(rig_of: RigOf, valkey: ValkeyServer) -> None:
    """Whether L2 answered is known then."""
    rig = rig_at(rig_of, valkey)
    rig.cache.warm_up(wait=False)
    assert rig.cache.warm_up()
    assert rig.l2.connects == 1


def test_a_server_that_is_away_is_counted(rig_of: RigOf, valkey: ValkeyServer, nobody: int) -> None:
    """Nothing is raised in the init; the first call need not find out again."""
    rig = rig_of(f"redis://127.0.0.1:{nobody}", valkey.url)
    assert rig.cache.warm_up(wait=False)
    wait_until(lambda: warm_ups() == 0)
    assert rig.ask().tier == "origin"
    assert (rig.errors, rig.l2.breaker) == ({"refused": 1}, "open")


def test_where_no_thread_can_be_started_the_first_call_does_it_all(
    rig_of: RigOf, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process at its limit of threads goes on as if nothing had been asked for."""

    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    rig = rig_at(rig_of, valkey)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert rig.cache.warm_up(wait=False)
    assert (rig.l2.skipped, rig.l2.connects) == (1, 0)
    assert rig.reads_l2()


def test_caches_without_a_server_are_warm() -> None:
    """L1 alone, and the tier in memory."""
    assert TieredCache(MemoryTier(ttl=60)).warm_up(wait=False)
    tier = InMemorySharedTier(ttl=60)
    tier.down = True
    cache = TieredCache(MemoryTier(ttl=60), tier)
    assert cache.warm_up(wait=False)
    assert not cache.warm_up()


# A freeze in the midst


def test_a_freeze_after_a_warm_up(rig_of: RigOf, valkey: ValkeyServer) -> None:
    """Its connection has idled since, however new it is: it is not used."""
    rig = rig_at(rig_of, valkey)
    rig.cache.warm_up(wait=False)
    wait_until(lambda: warm_ups() == 0)
    assert rig.l2.connects == 1
    rig.clock.freeze(HOUR)
    assert rig.reads_l2()
    assert (rig.l2.connects, rig.errors) == (2, {})


def test_a_freeze_while_a_warm_up_connects(rig_of: RigOf, valkey: ValkeyServer, connecting: Gate) -> None:
    """The attempt is left to itself: the first call connects anew at once, and what comes late is not used."""
    rig = rig_at(rig_of, valkey)
    rig.cache.warm_up(wait=False)
    assert connecting.reached.wait(WAIT)
    rig.clock.freeze(HOUR)
    store = rig.tier.bind("test")
    assert store.read("key", rig.clock(), None).reached
    assert rig.l2.connects == 1
    assert store.stats(rig.clock()).skipped == 0
    connecting.open()
    wait_until(lambda: warm_ups() == 0)
    rig.clock.advance(2)
    assert rig.reads_l2()
    assert rig.l2.connects <= 2


def test_a_snapshot_while_a_warm_up_connects(rig_of: RigOf, valkey: ValkeyServer, connecting: Gate) -> None:
    """It is waited for in bounded time; and what it makes after the suspension is closed, and is no copy's."""
    rig = rig_at(rig_of, valkey)
    rig.cache.warm_up(wait=False)
    assert connecting.reached.wait(WAIT)
    with rig.hurried(TIMEOUT), within(TIMEOUT + 1):
        rig.tier.suspend()
    assert rig.tier.warming is None
    connecting.open()
    wait_until(lambda: warm_ups() == 0)
    assert not rig.tier.link()._idle
    rig.clock.advance(61)
    assert rig.reads_l2()


# Forks, and imports by two threads


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_a_warm_up_connects(rig_of: RigOf, valkey: ValkeyServer, connecting: Gate) -> None:
    """The child waits for no thread that it does not have."""
    rig = rig_at(rig_of, valkey)
    key = rig.plant()
    rig.cache.warm_up(wait=False)
    assert connecting.reached.wait(WAIT)
    child = os.fork()
    if child == 0:
        signal.alarm(int(WAIT))
        code = 1
        try:
            code = 0 if rig.tier.bind("test").read(key, rig.clock(), None).entry is not None else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    connecting.open()
    assert rig.recovers()


HANDLER = """
import threading
from tiered_cache import MemoryTier, RedisTier, TieredCache

cache = TieredCache(MemoryTier(ttl=60), RedisTier("{url}", ttl=60, timeout=20), namespace="init")
cache.warm_up(wait=False)
{imports}
early = cache.get_or_load("key", lambda: "loaded")  # within this module's own import


def handler():
    return early, cache.get_or_load("other", lambda: "loaded"), cache.stats().l2
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import redis",
        "import redis.asyncio, redis.cluster",
        "import asyncio, ssl, logging",
        "import boto3",
        "threading.Thread(target=__import__, args=('redis.cluster',)).start(); import msgpack",
    ],
)
def test_both_threads_may_import_the_same(imports: str, valkey: ValkeyServer, tmp_path: Any) -> None:
    """In a process of its own, in which a module that is being imported warms up, imports the same, and calls at once.

    With an import of redis in the warm-up's thread Python made the one of this module fail, as a deadlock.
    """
    (tmp_path / "app.py").write_text(HANDLER.format(url=valkey.url, imports=imports))
    code = """if True:
        import app
        early, later, l2 = app.handler()
        assert (early, later) == ("loaded", "loaded")
        assert (l2.connects, l2.skipped, dict(l2.errors)) == (1, 0, {}), l2
    """
    path = os.pathsep.join([str(tmp_path), *sys.path])
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            timeout=300,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert not done.stderr, done.stderr
        assert done.returncode == 0
