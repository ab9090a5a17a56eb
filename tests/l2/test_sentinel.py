"""A primary that Sentinels watch over, as L2: failovers under load, and Sentinels that are away themselves."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import redis
from load import Load, say
from rig import STALL, wait_until, within

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.local import ServiceUnavailable
from tiered_cache.local.cluster import ValkeySentinel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rig import Rig

TIMEOUT = 0.5
SOON = TIMEOUT + 1.0
HALF = 5.0
"""Seconds for a Sentinel that is silent, and for those that answer."""
KEYS = [f"key-{number}" for number in range(60)]


@pytest.fixture(scope="module")
def watched() -> Iterator[ValkeySentinel]:
    """A set that nothing is done to that Sentinels would act on."""
    with ValkeySentinel(down_after=60_000) as started:
        yield started


@contextmanager
def found_by(watched: ValkeySentinel, **options: Any) -> Iterator[redis.Redis]:
    """A client that Sentinel makes, and afterwards no connection of it."""
    manager = redis.Sentinel(watched.addresses, **options)
    with manager.master_for(watched.name) as client:
        yield client
    for sentinel in manager.sentinels:
        sentinel.close()


def test_the_primary_is_found(watched: ValkeySentinel, rig_of: Callable[..., Rig]) -> None:
    """Sentinels are asked when a connection is made, and not afterwards."""
    with found_by(watched) as client:
        rig = rig_of(client, watched.primary().url)
        assert "redis.Redis at Sentinel's main" in repr(rig.tier)
        assert all(rig.reads_l2() for _ in range(10))
        assert (rig.l2.connects, rig.errors) == (1, {})


def test_the_set_tells_who_is_the_primary(watched: ValkeySentinel) -> None:
    """By a Sentinel that answers; where none does, that is said."""
    assert watched.primary() is watched.servers[0]
    assert f"port={watched.servers[0].port}" in repr(watched)
    for sentinel in watched.sentinels:
        sentinel.pause()
    try:
        with pytest.raises(ServiceUnavailable, match="no Sentinel answers"):
            watched.primary()
    finally:
        for sentinel in watched.sentinels:
            sentinel.resume()


def test_a_frozen_sentinel_is_passed_over(watched: ValkeySentinel, rig_of: Callable[..., Rig]) -> None:
    """The next one is asked in the same call, though the client that was handed in would wait for ever."""
    with found_by(watched, sentinel_kwargs={"socket_timeout": None}) as client:
        rig = rig_of(client, watched.primary().url, timeout=2 * HALF)  # a frozen one may take half of it
        key = rig.plant()
        watched.sentinels[0].pause()
        try:
            with within(2 * HALF + 1):
                assert rig.ask(key).tier == "l2"
        finally:
            watched.sentinels[0].resume()
        assert rig.errors == {}


def test_all_sentinels_frozen(watched: ValkeySentinel, rig_of: Callable[..., Rig]) -> None:
    """Where the primary cannot be found a call ends at the timeout; once they answer it is found."""
    with found_by(watched, sentinel_kwargs={"socket_timeout": None}) as client:
        rig = rig_of(client, watched.primary().url, timeout=TIMEOUT)
        for sentinel in watched.sentinels:
            sentinel.pause()
        try:
            with within(SOON):
                assert rig.ask().tier == "origin"
            assert rig.errors == {"timeout": 1}
        finally:
            for sentinel in watched.sentinels:
                sentinel.resume()
        wait_until(rig.recovers)


def test_a_name_that_no_sentinel_knows(
    watched: ValkeySentinel, rig_of: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    """It is a name that does not resolve, and not a connection that broke."""
    manager = redis.Sentinel(watched.addresses)
    with manager.master_for("misspelt") as client:
        rig = rig_of(client, watched.primary().url)
        assert rig.ask().tier == "origin"
    for sentinel in manager.sentinels:
        sentinel.close()
    assert rig.errors == {"resolve": 1}
    assert "no Sentinel knows a server by this name" in caplog.text


def test_a_sentinel_in_place_of_the_primary(
    watched: ValkeySentinel, rig_of: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    """Its address is that of no L2: it is left alone, and the log says what to write."""
    host, port = watched.addresses[0]
    rig = rig_of(f"redis://{host}:{port}", watched.primary().url)
    assert not rig.cache.warm_up()
    assert [rig.ask().tier for _ in range(5)] == ["origin"] * 5
    assert (set(rig.errors), rig.l2.breaker) == ({"unknown_command"}, "open")
    assert "redis.Sentinel(…).master_for(name)" in caplog.text


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_a_primary_is_replaced_under_load(fault: str, capsys: Any) -> None:
    """F38: until Sentinel has named another primary no call fails or outlasts the timeout; then L2 is used again."""
    with ValkeySentinel() as watched, found_by(watched) as client:
        tier = RedisTier(client, ttl="1h", timeout=2 * TIMEOUT)
        with TieredCache(MemoryTier(ttl=0.001, jitter=0, max_entries=1), tier, namespace="test") as cache:
            for key in KEYS:
                cache.set(key, key)
            with Load(cache, KEYS) as load:
                load.go_on()
                load.calls.clear()
                before, began = watched.primary(), time.monotonic()
                getattr(before, fault)()
                wait_until(lambda: watched.primary() is not before)
                replaced = time.monotonic() - began
                wait_until(lambda: all(load.ask(key) == "l2" for key in KEYS))
                healed = time.monotonic() - began
                if fault == "pause":
                    wait_until(
                        lambda: time.monotonic() - began > 1.5 * STALL
                    )  # for as long would what is unbounded wait
                    before.resume()  # as a primary, until Sentinel tells it otherwise
                    load.go_on(500)
            errors = dict(cache.stats().l2.errors)
    assert (load.errors, load.wrong) == ([], [])
    assert load.longest < SOON + STALL
    say(capsys, f"F38 {fault}: {load}, replaced after {replaced:.1f} s, healed after {healed:.1f} s, counted {errors}")
