"""One load for the fleet, whatever becomes of the one who runs it."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import redis
from children import NAMESPACE, Child, CountingOrigin, cache_at
from rig import STALL, wait_until
from watched import leases

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

    from tiered_cache.local.proxy import FaultProxy
    from tiered_cache.local.valkey import ValkeyServer

    Measured = Callable[[str], None]

PROCESSES, THREADS = 20, 50
REMAINING = 60.0
"""Seconds that a holder's invocation has left, so that its lease is there when a slow machine comes to look for it."""
TIMEOUT = 0.5
"""Of calls that nothing answers."""


@pytest.fixture
def admin(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=valkey.port) as client:
        yield client


@pytest.fixture
def cache(valkey: ValkeyServer) -> Iterator[TieredCache]:
    """A container beside the others."""
    with cache_at(valkey.url) as made:
        yield made


def swarm(stack: ExitStack, url: str, origin: CountingOrigin, **options: Any) -> list[dict[str, Any]]:
    """What all the processes' threads got that asked for one key at the same moment."""
    given = {"url": url, "origin": origin.port, "threads": THREADS} | options
    children = [stack.enter_context(Child("swarm", **given)) for _ in range(PROCESSES)]
    assert [child.says() for child in children] == ["ready"] * PROCESSES
    for child in children:
        child.tell()
    return [child.says() for child in children]


def about_to_end(admin: redis.Redis) -> int:
    """Let the one lease that is held last a second more; how many milliseconds it had left."""
    ((name, left),) = leases(admin).items()
    assert left <= 1000 * (REMAINING + 1)  # with a margin for the fill
    admin.pexpire(name, 1000)
    return left


def answers(said: list[dict[str, Any]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in said:
        assert each["raised"] == []
        for value, times in each["answers"].items():
            total[value] = total.get(value, 0) + times
    return total


@pytest.mark.faults
@pytest.mark.fault("F65", "20 processes of 50 threads on one cold key")
def test_a_stampede(valkey: ValkeyServer, stack: ExitStack, measured: Measured) -> None:
    """The origin is asked exactly once."""
    origin = stack.enter_context(CountingOrigin(0.5))
    said = swarm(stack, valkey.url, origin)
    longest = max(each["longest"] for each in said)
    measured(
        f"{origin.asked} load for {sum(answers(said).values())} calls; longest {longest:.2f} s, the load's 0.5 s in it"
    )
    assert answers(said) == {"loaded": PROCESSES * THREADS}
    assert origin.asked == 1


@pytest.mark.faults
@pytest.mark.fault("F65", "20 processes of 50 threads on one stale key")
def test_a_stampede_on_a_stale_key(
    valkey: ValkeyServer, admin: redis.Redis, stack: ExitStack, measured: Measured
) -> None:
    """The origin is asked exactly once, and nobody waits for it: it answers when all of them have been served."""
    options = {"ttl": 0.05, "stale_while_revalidate": 3600, "jitter": 0}
    with cache_at(valkey.url, **options) as cache:
        cache.set("key", "stale")
    time.sleep(0.1)
    origin = stack.enter_context(CountingOrigin())
    said = swarm(stack, valkey.url, origin, **options)
    longest = max(each["longest"] for each in said)
    wait_until(lambda: origin.asked > 0)
    origin.answers.set()
    wait_until(lambda: not leases(admin))  # the refresh is done
    measured(f"{origin.asked} load for {sum(answers(said).values())} calls; longest call {longest:.2f} s")
    assert answers(said) == {"stale": PROCESSES * THREADS}
    assert origin.asked == 1


@pytest.mark.faults
@pytest.mark.fault("F41", "a holder frozen past its lease")
def test_a_frozen_holder(valkey: ValkeyServer, admin: redis.Redis, cache: TieredCache, measured: Measured) -> None:
    """Another loads when the lease is over; what the first brings when it thaws is its caller's alone."""
    with Child("holder", url=valkey.url, remaining=REMAINING) as frozen:
        assert frozen.says() == "loading"
        lease = about_to_end(admin)
        frozen.send(signal.SIGSTOP)
        wait_until(lambda: not leases(admin))
        assert cache.get_or_load("key", lambda: "new") == "new"
        frozen.send(signal.SIGCONT)
        frozen.tell()
        late, then = frozen.says(), frozen.says()
    with cache_at(valkey.url) as reader:
        found = reader.get("key", None)
    measured(f"a lease of {lease} ms; the thawed one's caller got {late['value']!r}, then {then!r}; L2 has {found!r}")
    assert (late["value"], then, found) == ("old", "new", "new")


@pytest.mark.fault("F41", "a holder that is killed")
def test_a_killed_holder(valkey: ValkeyServer, admin: redis.Redis, cache: TieredCache, measured: Measured) -> None:
    """The others wait for its lease at most, and one of them loads."""
    with Child("holder", url=valkey.url, remaining=REMAINING) as child:
        assert child.says() == "loading"
        child.send(signal.SIGKILL)
        lease = about_to_end(admin)
        began = time.monotonic()
        assert cache.get_or_load("key", lambda: "new") == "new"
        took = time.monotonic() - began
    measured(f"a lease of {lease} ms was left; the next caller had its value after {took:.2f} s")


@pytest.mark.fault("F17", "the reply lost that gave the lease")
def test_the_reply_to_a_lease_is_lost(
    valkey: ValkeyServer, proxy: FaultProxy, admin: redis.Redis, cache: TieredCache, measured: Measured
) -> None:
    """Who does not know that it holds the lease goes on without L2, and no one else waits longer than it lasts."""
    tier = RedisTier(f"redis://127.0.0.1:{proxy.port}", ttl="1h", timeout=20)
    with TieredCache(MemoryTier(ttl=60), tier, namespace=NAMESPACE) as unlucky:
        unlucky.get_or_load("another key", lambda: 1)
        tier.timeout = TIMEOUT
        proxy.hang()
        began = time.monotonic()
        assert unlucky.get_or_load("key", lambda: "first") == "first"
        first = time.monotonic() - began
        left = leases(admin)
        with cache.invocation(lambda: 4.0):
            began = time.monotonic()
            assert cache.get_or_load("key", lambda: "second") == "second"
            second = time.monotonic() - began
        proxy.ok()
    measured(
        f"leases left: {list(left.values())} ms; the first caller's call took {first:.2f} s, "
        f"that of one in another container with 4 s left {second:.2f} s"
    )
    assert len(left) == 1
    assert first < TIMEOUT + STALL
    with cache_at(valkey.url) as reader:
        assert reader.get("key", None) is None  # neither held the lease when it had its value


@pytest.mark.fault("F22", "a lease evicted while its holder loads")
def test_a_lease_is_evicted(server: ValkeyServer, measured: Measured) -> None:
    """The older of two loads does not win: its fill is refused."""
    begun, end, got = threading.Event(), threading.Event(), []

    def old() -> str:
        begun.set()
        end.wait(60)
        return "old"

    with redis.Redis(port=server.port) as admin, cache_at(server.url) as first, cache_at(server.url) as second:
        loading = threading.Thread(target=lambda: got.append(first.get_or_load("key", old)))
        loading.start()
        begun.wait(60)
        held = leases(admin)
        admin.config_set("maxmemory", admin.info("memory")["used_memory"] + 500_000)
        admin.config_set("maxmemory-policy", "allkeys-lru")
        for number in range(4000):
            admin.set(f"other-{number}", "x" * 2000)
        left = leases(admin)
        admin.config_set("maxmemory", 0)
        assert second.get_or_load("key", lambda: "new") == "new"
        end.set()
        loading.join()
        with cache_at(server.url) as reader:
            found = reader.get("key", None)
    measured(f"{len(held)} lease held, {len(left)} after 4,000 writes; the late fill was refused: L2 has {found!r}")
    assert (len(held), len(left)) == (1, 0)
    assert (got, found) == (["old"], "new")


@pytest.mark.fault("F17", "the reply lost that gave the lease, then 16 threads at once")
def test_all_threads_give_back_a_lost_lease(valkey: ValkeyServer, proxy: FaultProxy, measured: Measured) -> None:
    """Whoever comes first gives it back; nobody stumbles over another who does the same."""
    clock = FakeClock()
    tier = RedisTier(f"redis://127.0.0.1:{proxy.port}", ttl="1h", timeout=20)
    with TieredCache(MemoryTier(ttl=60), tier, clock=clock) as cache, ThreadPoolExecutor(16) as pool:
        cache.get_or_load("another key", lambda: 1)
        proxy.hang()
        tier.timeout = TIMEOUT
        cache.get_or_load("lost", lambda: 1)
        tier.timeout = 20
        proxy.latency(0.02)  # so that all of them are on their way at once
        clock.advance(61)
        cache.set("the breakers close", 1)
        calls = [pool.submit(cache.get_or_load, f"key-{number}", lambda: 1) for number in range(16)]
        raised = [call.exception() for call in calls if call.exception() is not None]
        measured(f"{len(calls) - len(raised)} of 16 calls had their value")
        assert not raised
