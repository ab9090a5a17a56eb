"""Processes with a cache each: what a container is to the others. They are told what to do by lines, and answer in JSON."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Self

from watched import value_of

from tiered_cache import MemoryTier, RedisTier, TieredCache

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMESPACE = "fleet"
LEASE = 0.2
VICTIMS_KEYS = [f"key-{number}" for number in range(4)]


class Child:
    """A process that plays one of the ROLES."""

    def __init__(self, role: str, *, under: Sequence[str] = (), **given: Any) -> None:
        self._process = subprocess.Popen(
            [*under, sys.executable, __file__, role, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def says(self) -> Any:
        """The next thing that it says. Fails where it ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process ended: {self._process.wait(10)}"
        return json.loads(line)

    def tell(self, word: str = "go") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class CountingOrigin:
    """An origin at a port of loopback: counts those who ask, and answers after a while, or when it is told to."""

    def __init__(self, seconds: float | None = None, value: str = "loaded") -> None:
        self.seconds, self.value, self.asked, self.answers = seconds, value, 0, threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=2000)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if not self._open:
                client.close()
                return
            self.asked += 1
            threading.Thread(target=self._answer, args=(client,)).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            self.answers.wait(self.seconds)
            client.sendall(self.value.encode())

    def __enter__(self) -> Self:
        self._open = True
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self.answers.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._listener.close()


def asked(port: int) -> str:
    """What the origin at `port` answers."""
    with socket.create_connection(("127.0.0.1", port)) as origin:
        parts = []
        while part := origin.recv(1000):
            parts.append(part)
    return b"".join(parts).decode()


def cache_at(url: str, *, l1: float = 60, **options: Any) -> TieredCache:
    tier = RedisTier(url, **({"ttl": "1h", "timeout": 20} | options))
    return TieredCache(MemoryTier(ttl=l1), tier, namespace=NAMESPACE)


# What the processes do


def say(fact: Any) -> None:
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


def wait() -> str:
    line = sys.stdin.readline()
    if not line:
        sys.exit()
    return line.strip()


def swarm(url: str, origin: int, threads: int, **options: Any) -> None:
    """So many threads ask for one key at once."""
    cache = cache_at(url, **options)
    cache.warm_up()
    go, answers, took, raised = threading.Event(), Counter[str](), [], []

    def ask() -> None:
        go.wait()
        began = time.perf_counter()
        try:
            answers[cache.get_or_load("key", lambda: asked(origin))] += 1
        except BaseException as error:
            raised.append(repr(error))
        took.append(time.perf_counter() - began)

    all_of_them = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in all_of_them:
        thread.start()
    say("ready")
    wait()
    go.set()
    for thread in all_of_them:
        thread.join()
    say({"answers": answers, "longest": max(took), "raised": raised})
    wait()


def holder(url: str, remaining: float, **options: Any) -> None:
    """Loads a key in an invocation with so much time left, and is stopped while it does."""
    cache = cache_at(url, **options)

    def load() -> str:
        say("loading")
        wait()
        return "old"

    with cache.invocation(lambda: remaining):
        value = cache.get_or_load("key", load)
    say({"value": value, "l2": cache.stats().l2.errors, "in_l1": cache.stats().l1.entries})
    with cache.invocation(lambda: remaining):
        say(cache.get_or_load("key", lambda: "loaded again"))
    wait()


def live_for_ever(url: str) -> None:
    """Calls of every kind on few keys, until killed."""
    cache = cache_at(url, l1=0.001, lease=LEASE)
    chance = random.Random(os.urandom(8))
    while True:
        key = chance.choice(VICTIMS_KEYS)
        call = chance.random()
        if call < 0.8:
            assert cache.get_or_load(key, lambda key=key: value_of(key), tags=("all",)) == value_of(key)
        elif call < 0.9:
            cache.set(key, value_of(key))
        else:
            chance.choice((cache.delete, cache.expire))(key)


def victims(url: str, kills: int, seed: int) -> None:
    """Forks processes that live for ever, and kills each of them, with SIGKILL, within 20 ms."""
    chance = random.Random(seed)
    with cache_at(url) as cache:  # so that the children need not import
        cache.get_or_load("warm", lambda: 1)
    for _ in range(kills):
        pid = os.fork()
        if pid == 0:
            try:
                live_for_ever(url)
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0.001, 0.02))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        say(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1)
        wait()


def clones(url: str, copies: int) -> None:
    """Copies of one process with a warm cache, as a snapshot makes them: each loads a key of its own."""
    cache = cache_at(url, jitter=0.9)
    cache.get_or_load("warm", lambda: 1)
    go_on, go = os.pipe()
    pids = []
    for number in range(copies):
        pid = os.fork()
        if pid == 0:
            try:
                wait_in_loader(cache, f"clone-{number}", go_on)
            finally:
                os._exit(0)
        pids.append(pid)
    wait()
    os.write(go, b"." * copies)
    for pid in pids:
        os.waitpid(pid, 0)
    say("done")


def wait_in_loader(cache: TieredCache, key: str, go_on: int) -> None:
    """Load `key`; the loader says so, and waits for a byte."""

    def load() -> str:
        say(key)
        os.read(go_on, 1)
        return value_of(key)

    assert cache.get_or_load(key, load) == value_of(key)


def reader(url: str, keys: list[str], **options: Any) -> None:
    """Says what it finds, how long that took, and what the monotonic clock shows."""
    cache = cache_at(url, **options)
    began = time.perf_counter()
    found = [cache.get(key, None) for key in keys]
    took = time.perf_counter() - began
    shared = cache.stats().l2
    assert shared is not None
    say({"found": found, "took": took, "errors": dict(shared.errors), "monotonic": time.monotonic()})


ROLES = {role.__name__: role for role in (swarm, holder, victims, clones, reader)}

if __name__ == "__main__":
    ROLES[sys.argv[1]](**json.loads(sys.argv[2]))
