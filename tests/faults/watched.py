"""Calls under a fault, measured, and each answer compared with what the origin could have said."""

from __future__ import annotations

import threading
import time
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from rig import wait_until

from tiered_cache import MemoryTier, RedisTier, TieredCache

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis
    from rig import Rig

CALLS, ROUNDS = 2000, 20


class Outage(NamedTuple):
    """What calls cost while L2 is away."""

    first: float
    """Seconds of the call that found out."""
    later: float
    """Seconds of each call after it."""
    errors: dict[str, int]

    def __str__(self) -> str:
        return f"first call {self.first:.3f} s, then {1e6 * self.later:.1f} µs a call, errors {self.errors}"


def outage(rig: Rig, key: str | None = None) -> Outage:
    """Ask for `key`, or a new one, and then for many new ones, whose values the loader gives."""
    began = time.perf_counter()
    answer = rig.ask(key)
    first = time.perf_counter() - began
    assert answer.value in ("loaded", key)
    return Outage(first, per_call(rig.cache), rig.errors)


def per_call(cache: TieredCache) -> float:
    """Seconds of a call for a key that no tier has, with a loader that does nothing."""
    names = iter([f"later-{number}" for number in range(CALLS)])

    def ask() -> bool:
        name = next(names)
        return bool(cache.get_or_load(name, lambda: name) == name)

    return _best(ask)


def per_held(cache: TieredCache) -> float:
    """Seconds of a call for a value of L1 that is fresh, and that L2 was to confirm."""
    cache.get_or_load("held", lambda: 1)
    took = _best(lambda: cache.get_or_load("held", lambda: 2) == 1)
    assert cache.get_entry_or_load("held", lambda: 2).reason == "unconfirmed"
    return took


def _best(ask: Callable[[], bool]) -> float:
    """Seconds of one call of `ask`, in the best of several rounds: what else the machine does is not to count."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CALLS // ROUNDS):
            assert ask()
        rounds.append(time.perf_counter() - began)
    return min(rounds) / (CALLS // ROUNDS)


class Origin:
    """Values that tell their key and version; counts its calls, and how many of one key ran at a time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls: Counter[str] = Counter()
        self.most_at_once = 0
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()

    def loader(self, key: str) -> Callable[[], str]:
        def load() -> str:
            with self._lock:
                self.calls[key] += 1
                self._running[key] += 1
                self.most_at_once = max(self.most_at_once, self._running[key])
            time.sleep(self.seconds)
            with self._lock:
                self._running[key] -= 1
            return value_of(key)

        return load


def value_of(key: str) -> str:
    """The only right value of `key`."""
    return f"{key}:" + "v" * 200


def stored(key: str) -> str:
    """The name under which L2 has a key of the rig's namespace."""
    return f"tc1:{{test|{key}}}"


def leases(admin: redis.Redis) -> dict[bytes, int]:
    """The milliseconds that each lease has left."""
    left = {name: admin.pttl(name) for name in admin.scan_iter("tc1:*:lease")}
    assert -1 not in left.values()  # which would be one without an end
    return {name: milliseconds for name, milliseconds in left.items() if milliseconds > 0}


class Load:
    """Threads that ask for `keys` without end. L1 asks L2 again after a millisecond, so that L2 is in use all the time."""

    def __init__(self, urls: Sequence[str], keys: Sequence[str], *, threads: int = 4, **options: Any) -> None:
        options = {"ttl": "1h", "timeout": 20} | options
        self.caches = [
            TieredCache(MemoryTier(ttl=0.001), RedisTier(url, **options), namespace="load", refresh="inline")
            for url in urls
        ]
        self.origins = [Origin() for _ in urls]
        self.tiers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.raised: list[BaseException] = []
        self.longest = 0.0
        self._keys = keys
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(threads)]

    def _ask(self, thread: int) -> None:
        number = thread % len(self.caches)
        cache, origin = self.caches[number], self.origins[number]
        for step in count(thread):
            if self._stop.is_set():
                return
            key = self._keys[step % len(self._keys)]
            began = time.perf_counter()
            try:
                answer = cache.get_entry_or_load(key, origin.loader(key))
            except BaseException as error:
                self.raised.append(error)
                return
            self.longest = max(self.longest, time.perf_counter() - began)
            self.tiers[answer.tier] += 1
            if answer.value != value_of(key):
                self.wrong.append(key)

    def until(self, tier: str, times: int = 200) -> None:
        """Go on until that tier has answered so many times more."""
        goal = self.tiers[tier] + times
        wait_until(lambda: self.tiers[tier] >= goal or bool(self.raised))

    @property
    def errors(self) -> dict[str, int]:
        """What L2's failures were, over all caches."""
        found: Counter[str] = Counter()
        for cache in self.caches:
            shared = cache.stats().l2
            assert shared is not None
            found.update(shared.errors)
        return dict(found)

    @property
    def loads(self) -> int:
        return sum(sum(origin.calls.values()) for origin in self.origins)

    def check(self) -> str:
        """No call raised, none gave a wrong value, no key was loaded twice at a time. Says what was seen."""
        assert not self.raised
        assert not self.wrong
        assert max(origin.most_at_once for origin in self.origins) <= 1
        calls = sum(self.tiers.values())
        return (
            f"{calls} calls, 0 raised, 0 wrong, {self.loads} loads, longest {self.longest:.3f} s, errors {self.errors}"
        )

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for cache in self.caches:
            cache.close()
