"""Loaders that raise, hang or are slow, and invalidations that meet loads at every step."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest
from rig import Rig, wait_until

from tiered_cache import MemoryTier, NotFound, OriginError, RedisTier, TieredCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache.local.valkey import ValkeyServer
    from tiered_cache.testing import FakeClock

    RigOf = Callable[..., Rig]
    Measured = Callable[[str], None]


class Broken(Exception):
    """An origin's own error."""


def outcomes(cache: TieredCache, loader: Callable[[], Any], threads: int = 16) -> list[Any]:
    """What so many callers at once get for one key: values, or the types of what was raised."""

    def ask() -> Any:
        try:
            return cache.get_or_load("key", loader)
        except BaseException as error:
            return type(error)

    with ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(ask) for _ in range(threads)]]


@pytest.mark.parametrize("raised", [Broken, NotFound, KeyboardInterrupt, SystemExit, GeneratorExit, None])
@pytest.mark.fault("F57", "a loader that raises, or gives None")
def test_a_loader_raises(
    raised: type[BaseException] | None, valkey: ValkeyServer, rig_of: RigOf, measured: Measured
) -> None:
    """Those that wait share the outcome, no slot stays taken, and the next call loads.

    What ends a thread or the process ends the one caller that ran the loader; the others are told.
    """
    rig = rig_of(valkey.url)
    begun, calls = threading.Event(), []

    def load() -> None:
        calls.append(threading.get_ident())
        begun.wait(0.2)
        if raised is not None:
            raise raised("no")

    found = outcomes(rig.cache, load)
    tally = Counter(getattr(each, "__name__", str(each)) for each in found)
    measured(f"{raised and raised.__name__}: 16 callers, {len(calls)} load(s), outcomes {dict(tally)}")
    assert found.count(raised) == len(calls) or set(found) == {raised}
    assert set(found) <= {raised, OriginError}
    assert len(calls) < 16
    if raised is not None:
        assert rig.cache.get_or_load("key", lambda: "well") == "well"


@pytest.mark.fault("F58", "a loader that takes very long for one key")
def test_a_slow_key(valkey: ValkeyServer, rig_of: RigOf, measured: Measured) -> None:
    """Other keys do not wait for it, nor does it hold up a deletion."""
    rig = rig_of(valkey.url)
    go_on = threading.Event()
    slow = threading.Thread(target=lambda: rig.cache.get_or_load("slow", lambda: go_on.wait(60)))
    slow.start()
    wait_until(lambda: rig.cache._reads.flights.busy("slow"))
    began = time.perf_counter()
    answers = [rig.cache.get_or_load(f"key-{number}", lambda number=number: number) for number in range(500)]
    rig.cache.delete("key-7")
    took = time.perf_counter() - began
    assert slow.is_alive()
    go_on.set()
    slow.join()
    measured(f"500 other keys were loaded in {took:.3f} s while it ran")
    assert answers == list(range(500))


HOW: dict[str, Callable[[TieredCache], None]] = {
    "delete": lambda cache: cache.delete("key"),
    "expire": lambda cache: cache.expire("key"),
    "invalidate_tag": lambda cache: cache.invalidate_tag("tag"),
    "clear": lambda cache: cache.clear(),
}
STEPS = ("load", "invalidate", "set")
"""A load that began before the two others and ends now; and what the origin's change brings with it."""


def run_in_order(order: tuple[str, ...], how: str, loading: TieredCache, other: TieredCache) -> None:
    """The load's loader has read the old value when the first step is made."""
    begun, end, got = threading.Event(), threading.Event(), []

    def old() -> str:
        begun.set()
        end.wait(60)
        return "old"

    thread = threading.Thread(target=lambda: got.append(loading.get_or_load("key", old, tags=("tag",))))
    thread.start()
    begun.wait(60)
    for step in order:
        if step == "load":
            end.set()
            thread.join()
        elif step == "invalidate":
            HOW[how](other)
        else:
            other.set("key", "set", tags=("tag",))
    assert got == ["old"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.fault("F66", "an invalidation, a load and a set in every order")
def test_a_late_load(how: str, valkey: ValkeyServer, clock: FakeClock, measured: Measured) -> None:
    """A load that began first and ends at any point among the others never brings the old value back, to no container.

    One that is there from the first, another one, and one that comes when all is over.
    """
    schedules = [(order, containers) for order in permutations(STEPS) for containers in (1, 2)]
    for order, containers in schedules:
        valkey.flush()
        tiers = [RedisTier(valkey.url, ttl="1h", timeout=20) for _ in range(containers + 1)]
        *caches, newcomer = (TieredCache(MemoryTier(ttl=60), tier, namespace="race", clock=clock) for tier in tiers)
        run_in_order(order, how, caches[0], caches[-1])
        found = []
        for cache in (newcomer, *caches):
            with cache.invocation(lambda: 30.0):
                found.append(cache.get_or_load("key", lambda: "new"))
            cache.close()
        last = max(order, key=lambda step: (step != "load", order.index(step)))
        assert found == ["set" if last == "set" else "new"] * (containers + 1), (order, containers)
    measured(f"{how}: {len(schedules)} schedules, 0 old values after the last step")
