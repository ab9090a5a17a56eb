"""Containers that work: threads of a process that call a cache at random, invocation by invocation."""

from __future__ import annotations

import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from container import OPERATIONS, Container, alike, tag_of
from history import Policy
from process_checks import footing, leaks, logged, memory, secrecy

from tiered_cache import MemoryTier, RedisTier, TieredCache

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from chaos import Cell
    from history import Event, Load, Origin

THREADS = 8
KEYS = tuple(f"{kind}{number}" for kind in "abz" for number in range(6))
PASSWORD = "hunter2-in-the-address"
LEASES = "invalidate_tag" in OPERATIONS
TIMEOUT = 0.5
CALM = 20.0
"""The same where L2 answers all the time, however busy the machine is."""
INVOCATION = 6.0
"""Seconds that an invocation has: a caller waits half of what is left of them for another's load."""
LEFT_AT_LEAST = 2.0
"""Seconds that it has to the end: on a slow machine too its calls are not too late for a load."""
POLICY = Policy(
    fresh_for=1.0,
    stale_while_revalidate=0.5,
    stale_if_error=2.0,
    negative_ttl=0.4,
    l1_for=0.4,
    coherence="invocation" if LEASES else "ttl",
    longest=6.0,
    joining=2 * TIMEOUT,
    leases=LEASES,
)
CALLS = {"ask": 40, "hit": 40, "force": 1, "get": 8, "many": 6, "set": 1, "delete": 2, "absent": 0.5}
CALLS |= {
    name: weight for name, weight in {"expire": 1, "invalidate_tag": 0.5, "clear": 0.1}.items() if name in OPERATIONS
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a container has to say at the end."""

    events: list[Event]
    loads: list[Load]
    faults: list[str]
    errors: dict[str, int]
    stall: float


class Clock:
    """The wall clock of a host, set wrong by what is in a cell."""

    def __init__(self, offset: Cell) -> None:
        self._offset = offset

    def __call__(self) -> float:
        return time.time() + self._offset.value

    def monotonic(self) -> float:
        return time.monotonic()


def make_cache(number: int, port: int, clock: Clock, timeout: float) -> TieredCache:
    """The cache of one container. The last one has a namespace of its own; every other refreshes as on Lambda."""
    windows = {"stale_while_revalidate": POLICY.stale_while_revalidate, "stale_if_error": POLICY.stale_if_error}
    address = f"redis://default:{PASSWORD}@127.0.0.1:{port}"
    return TieredCache(
        MemoryTier(ttl=0.3, stale_while_revalidate=0.1, max_bytes=100_000),
        RedisTier(address, ttl=POLICY.fresh_for, timeout=timeout, **windows),
        namespace=namespace_of(number),
        negative_ttl=POLICY.negative_ttl,
        clock=clock,
        refresh="inline" if number % 2 else "thread",
        error_backoff=0.2,
    )


def namespace_of(number: int) -> str:
    return "other" if number == 3 else "orders"


class Left:
    """The seconds that an invocation has left: when it begins so many that L2 may take three of its timeouts."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._ends: float | None = None

    def begin(self) -> None:
        self._ends = time.monotonic() + INVOCATION

    def __call__(self) -> float:
        return 12 * self._timeout if self._ends is None else max(LEFT_AT_LEAST, self._ends - time.monotonic())


def live(
    number: int, port: int, origin: Origin, offset: Cell, *, seconds: float, seed: int, timeout: float = TIMEOUT
) -> Report:
    """Be a container for so long, now and then a new one, and tell what happened. `origin` may be in another process."""
    made: list[Container] = []
    seen = []
    stall = 0.0
    ends = time.monotonic() + seconds
    choose = random.Random(seed)
    with logged() as lines, ThreadPoolExecutor(THREADS, thread_name_prefix="worker") as pool:
        while time.monotonic() < ends:
            if not made or choose.random() < 0.05:
                made.append(begin(number, len(made), port, origin, offset, timeout))
                if len(made) > 1:
                    made[-2].cache.close()
            container, left = made[-1], Left(timeout)
            with container.invocation(left):
                left.begin()
                works = [pool.submit(work, container, choose.random(), choose.randint(1, 12)) for _ in range(THREADS)]
                for done in works:
                    stall = max(stall, done.result())
            seen.append(container.cache.stats().l1)
            time.sleep(choose.choice([0.0, 0.0, 0.02, 0.3]))
    made[-1].cache.close()
    errors: Counter[str] = Counter()
    for container in made:
        l2 = container.cache.stats().l2
        errors.update(l2.errors if l2 else {})
    return Report(
        events=[event for container in made for event in container.events],
        loads=[load for container in made for load in container.loads],
        faults=[*memory(seen), *secrecy(lines, [PASSWORD, origin.get_mark()])],
        errors=dict(errors),
        stall=stall,
    )


def begin(number: int, before: int, port: int, origin: Origin, offset: Cell, timeout: float) -> Container:
    """A container, in whose place so many have been."""
    cache = make_cache(number, port, Clock(offset), timeout)
    name = f"c{number}.{before}"
    return Container(name, namespace_of(number), cache, origin, now=time.monotonic, ahead=lambda: offset.value)


def work(container: Container, seed: float, calls: int) -> float:
    """Make so many calls at random; the longest that the machine let a short sleep last."""
    choose = random.Random(seed)
    stall = 0.0
    for kind in choose.choices(list(CALLS), list(CALLS.values()), k=calls):
        key = choose.choice(KEYS)
        perform(container, kind, key, choose)
        began = time.monotonic()
        time.sleep(0.008)
        stall = max(stall, time.monotonic() - began)
    return stall


def perform(container: Container, kind: str, key: str, choose: random.Random) -> None:
    """One call."""
    match kind:
        case "ask" | "hit":
            container.ask(key, plain=kind == "hit")
        case "force":
            container.ask(key, force_refresh=True)
        case "many":
            container.ask_many([other for other in KEYS if alike(other, key)][:4])
        case "absent":
            container.delete(key, absent=True)
        case "invalidate_tag":
            container.invalidate_tag(tag_of(key), KEYS)
        case "clear":
            container.clear(KEYS)
        case _:
            getattr(container, kind)(key)


def live_alone(number: int, port: int, origin: Origin, offset: Cell, report_to: Connection, **how: Any) -> None:
    """`live` as the work of a process of its own; nothing of the cache's may be left at its end."""
    origin.get_mark()  # the way to the origin is open: a socket that stays
    before = footing()
    report = live(number, port, origin, offset, **how)
    report_to.send(replace(report, faults=report.faults + leaks(before)))
