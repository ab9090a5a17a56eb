"""What is done to a fleet: faults out of a list, chosen by a seed, that begin and end at random for a bounded time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from history import Disturbance

from tiered_cache.local.valkey import ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from history import Origin

    from tiered_cache.local.proxy import FaultProxy
    from tiered_cache.local.valkey import ValkeyServer


class Cell(Protocol):
    """A number that a container's clock is ahead by."""

    value: float


class Target(NamedTuple):
    """One container as its surroundings see it. `freeze` and `thaw` only where it is a process of its own."""

    name: str
    proxy: FaultProxy
    offset: Cell
    freeze: Callable[[], None] | None = None
    thaw: Callable[[], None] | None = None


class Chaos:
    """Faults that come and go. `done` says what was done and when."""

    def __init__(self, seed: int, server: ValkeyServer, origin: Origin, targets: Sequence[Target]) -> None:
        self._random = random.Random(seed)
        self._server = server
        self._origin = origin
        self._targets = targets
        self._busy = threading.Lock()
        """Held while the server cannot take an order."""
        self.done: list[Disturbance] = []
        known = {name for name in FAULTS if name != "freeze" or targets[0].freeze is not None}
        self.chosen = self._random.sample(sorted(known), self._random.randint(2, 4))

    def run(self, seconds: float) -> None:
        """Inject the chosen faults, each on and off at random, and leave everything whole."""
        ends = time.monotonic() + seconds
        seeds = [self._random.random() for _ in self.chosen]
        threads = [
            threading.Thread(target=self._come_and_go, args=(name, random.Random(seed), ends))
            for name, seed in zip(self.chosen, seeds, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _come_and_go(self, name: str, choose: random.Random, ends: float) -> None:
        while (left := ends - time.monotonic()) > 0:
            time.sleep(min(left, choose.uniform(0.1, 1.2)))
            start = time.monotonic()
            with FAULTS[name](self, choose) as container:
                time.sleep(choose.uniform(0.05, 0.9))
            self.done.append(Disturbance(name=name, start=start, end=time.monotonic(), container=container))

    # The faults: contexts that give the container to which they are done, or ""

    @contextmanager
    def way(self, choose: random.Random, fault: str, *given: Any) -> Iterator[str]:
        target = choose.choice(self._targets)
        getattr(target.proxy, fault)(*given)
        if fault == "refuse":
            target.proxy.kill_all()
        yield target.name
        target.proxy.ok()

    @contextmanager
    def stopped(self, _choose: random.Random) -> Iterator[str]:
        with self._busy:
            self._server.pause()
            yield ""
            self._server.resume()

    @contextmanager
    def killed(self, _choose: random.Random) -> Iterator[str]:
        with self._busy:
            self._server.kill()
            yield ""
            self._server.start()

    @contextmanager
    def told(self, _choose: random.Random, *commands: str, after: str = "") -> Iterator[str]:
        for command in commands:
            self.order(command)
        yield ""
        if after:
            self.order(after)

    def order(self, command: str) -> None:
        """Have the server do what an operator might ask of it."""
        with self._busy, suppress(TimeoutError):
            ask(self._server.port, command, timeout=20.0)

    @contextmanager
    def origin(self, choose: random.Random, mode: str) -> Iterator[str]:
        if mode == "slow":
            self._origin.set_delay(choose.uniform(0, 0.15), choose.uniform(0, 0.15))
        else:
            self._origin.set_mode(mode)
        yield ""
        self._origin.set_mode("ok")
        self._origin.set_delay(0.0, 0.002)

    @contextmanager
    def clock(self, choose: random.Random) -> Iterator[str]:
        target = choose.choice(self._targets)
        self._set_clock(target, choose.choice([-3600.0, -5.0, -0.5, 0.5, 5.0, 3600.0]))
        yield target.name
        self._set_clock(target, 0.0)

    def _set_clock(self, target: Target, offset: float) -> None:
        start = time.monotonic()
        target.offset.value = offset
        self.done.append(Disturbance(name="clock is set", start=start, end=time.monotonic(), container=target.name))

    @contextmanager
    def freeze(self, choose: random.Random) -> Iterator[str]:
        target = choose.choice(self._targets)
        if target.freeze is not None and target.thaw is not None:
            target.freeze()
            yield target.name
            target.thaw()


Fault = Callable[[Chaos, random.Random], AbstractContextManager[str]]


def _way(fault: str, *given: Callable[[random.Random], Any]) -> Fault:
    return lambda chaos, choose: chaos.way(choose, fault, *(one(choose) for one in given))


def _told(*commands: str, after: str = "") -> Fault:
    return lambda chaos, choose: chaos.told(choose, *commands, after=after)


def _origin(mode: str) -> Fault:
    return lambda chaos, choose: chaos.origin(choose, mode)


FAULTS: dict[str, Fault] = {
    "hang": _way("hang"),
    "blackhole": _way("blackhole"),
    "refuse": _way("refuse"),
    "reset": _way("reset"),
    "latency": _way("latency", lambda choose: choose.uniform(0.02, 0.7)),
    "drip": _way("drip", lambda _: 16, lambda _: 0.05),
    "flip": _way("flip", lambda choose: choose.randrange(8 * 200)),
    "truncate": _way("truncate", lambda choose: choose.randrange(300)),
    "garbage": _way("garbage"),
    "stop": Chaos.stopped,
    "kill": Chaos.killed,
    "flush": _told("FLUSHALL"),
    "scripts": _told("SCRIPT FLUSH"),
    "pause": _told("CLIENT PAUSE 400 ALL"),
    "pause writes": _told("CLIENT PAUSE 400 WRITE"),
    "disconnect": _told("CLIENT KILL TYPE normal"),
    "full": _told("CONFIG SET maxmemory 1", after="CONFIG SET maxmemory 0"),
    "origin down": _origin("down"),
    "origin throttled": _origin("throttled"),
    "origin denied": _origin("denied"),
    "origin slow": _origin("slow"),
    "clock": Chaos.clock,
    "freeze": Chaos.freeze,
}
