"""Between the cache and L2: names, slow lines, and replies that are spoilt on their way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from namespaces import seen_in_namespaces
from rig import wait_until

from tiered_cache import MemoryTier, RedisTier, TieredCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from rig import Rig

    from tiered_cache.local.proxy import FaultProxy
    from tiered_cache.local.valkey import ValkeyServer
    from tiered_cache.testing import FakeClock

    RigOf = Callable[..., Rig]
    Measured = Callable[[str], None]


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(
            "silent_resolver", marks=[pytest.mark.faults, pytest.mark.fault("F06", "a resolver that is silent")]
        ),
        pytest.param("refusing_resolver", marks=pytest.mark.fault("F07", "a resolver that is not there")),
        pytest.param("no_such_name", marks=pytest.mark.fault("F07", "a name that nobody knows")),
        pytest.param("slow_link", marks=pytest.mark.fault("F14", "a line of 2 Mbit/s, a value of 200 kB")),
    ],
)
def test_in_a_network_of_its_own(scenario: str, measured: Measured) -> None:
    """In namespaces, with the system's own resolver and queues: cut at the timeout, with its class, and it heals."""
    measured(seen_in_namespaces(scenario))


@pytest.mark.faults
@pytest.mark.fault("F10", "idle connections closed by the server")
def test_idle_connections_are_closed(server: ValkeyServer, rig_of: RigOf, measured: Measured) -> None:
    """The server closes what idles for a second; the next call connects anew, within its own time."""
    rig = rig_of(server.url)
    assert rig.reads_l2()
    key = rig.plant()
    with redis.Redis(port=server.port) as admin:
        admin.config_set("timeout", 1)
        wait_until(lambda: admin.info("clients")["connected_clients"] == 1)
    assert rig.ask(key).tier == "l2"
    measured(f"the next read came from L2; {rig.l2.connects} connections in all, errors {rig.errors}")
    assert (rig.errors, rig.l2.connects) == ({}, 2)


@pytest.mark.fault("F11", "a reply cut at every byte")
def test_replies_are_cut(proxy: FaultProxy, valkey: ValkeyServer, rig_of: RigOf, measured: Measured) -> None:
    """Wherever a reply ends too early it is a miss, and never a part of a value."""
    rig = rig_of(f"redis://127.0.0.1:{proxy.port}", valkey.url)
    found = None
    for offset in range(1000):
        if offset % 20 == 0:  # within its hour
            rig.planter.set("key", "some value")
        proxy.truncate(offset)
        found = rig.cache.get("key", None)
        proxy.ok()
        rig.clock.advance(61)
        if found is not None:
            break
    measured(f"{offset} places: {offset} misses, errors {rig.errors}; then the whole of it: {found!r}")
    assert offset > 150
    assert found == "some value"
    assert rig.errors == {"reset": offset}
    assert rig.recovers()


@pytest.mark.faults
@pytest.mark.fault("F13", "a reply with one bit flipped, each in turn")
def test_bits_are_flipped(proxy: FaultProxy, valkey: ValkeyServer, clock: FakeClock, measured: Measured) -> None:
    """The value is right or it is a miss with a counter."""
    tier = RedisTier(f"redis://127.0.0.1:{proxy.port}", ttl="30d", timeout=0.5)
    with (
        redis.Redis(port=valkey.port) as admin,
        TieredCache(MemoryTier(ttl="30d"), tier, namespace="test", coherence="ttl", clock=clock) as cache,
        TieredCache(
            MemoryTier(ttl=60), RedisTier(valkey.url, ttl="30d", timeout=20), namespace="test", clock=clock
        ) as planter,
    ):
        planter.set("key", "some value")
        entry = admin.get("tc1:{test|key}")
        assert (
            cache.get("another key", None) is None
        )  # it has looked into the log, and a month goes by until the next look
        bits = 8 * (len(b"$%d\r\n" % len(entry)) + len(entry) + 2)
        found = [flipped(cache, proxy, bit, clock) for bit in range(bits)]
        shared = cache.stats().l2
        assert shared is not None
        measured(
            f"{bits} bits: 0 wrong values, {found.count('some value')} right ones; "
            f"unreadable {dict(shared.unreadable)}, errors {dict(shared.errors)}"
        )
        assert set(found) <= {None, "some value"}
        assert shared.unreadable["checksum"] > 0
        tier.timeout = 20
        clock.advance(61)
        assert cache.get("key") == "some value"


def flipped(cache: TieredCache, proxy: FaultProxy, bit: int, clock: FakeClock) -> object:
    """What the cache has for the key while that bit of its replies is flipped."""
    proxy.flip(bit)
    found = cache.get("key", None)
    proxy.ok()
    clock.advance(61)
    return found
