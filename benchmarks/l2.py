"""L2: a hit through `get_or_load` beside redis-py's pooled GET and msgpack, on a real server on loopback."""

import time

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.benchmarks.harness import figure, interleaved, one_by_one, show, table
from tiered_cache.local import ValkeyServer

PEER = "redis-py pooled GET + unpackb"
TIMEOUT = 0.2
OURS = "tiered_cache get_or_load, L2 hit"


def value_of(size):
    return {"id": "c-123", "name": "Ada", "balance": 12.5, "tags": ["a", "b"], "blob": "x" * size}


def run(*, quick):
    import msgpack
    import redis

    results = []
    with ValkeyServer() as server:
        for size in (600,) if quick else (100, 600, 10_000, 100_000, 1_000_000):
            calls = 200 if quick or size > 50_000 else 2_000
            value = value_of(size)
            client = redis.Redis.from_url(server.url)
            client.set("peer", msgpack.packb(value))
            # An L1 that holds nothing for longer than a nanosecond, so that each call goes to L2.
            cache = TieredCache(
                MemoryTier(ttl=1e-9, jitter=0), RedisTier(server.url, ttl="1h", compress_above=None), refresh="inline"
            )
            cache.set("key", value)

            def peer(client=client):
                return msgpack.unpackb(client.get("peer"))

            def ours(get=cache.get_or_load):
                return get("key", never)

            timings = one_by_one({PEER: peer, OURS: ours}, rounds=7 if quick else 11, calls=calls, base=PEER)
            note = f"{cache.stats().l2.hits:,} hits of L2, with deadline, envelope and checksum"
            title = f"L2 hit, a value of {size:,} bytes"
            at = {"curve": "L2 hit as values grow", "at": size, "axis": "bytes of the value"}
            results += table(title, timings, PEER, note, {OURS: 1.1}, **at)
            cache.close()
            client.close()
    return results


def catch_up(*, quick):
    """A hit that looks into the log of invalidations in the same round trip, as the first read of each invocation does."""
    calls = 200 if quick else 2_000
    with ValkeyServer() as server:
        caches = {
            "L2 hit": "ttl",
            "L2 hit that catches up": "invocation",
        }

        def reading(coherence):
            tier = RedisTier(server.url, ttl="1h", compress_above=None)
            cache = TieredCache(MemoryTier(ttl=1e-9, jitter=0), tier, refresh="inline", coherence=coherence)
            cache.set("key", value_of(600))

            def read():
                for _ in range(calls):
                    with cache.invocation():
                        cache.get_or_load("key", never)

            return cache, read

        made = {name: reading(coherence) for name, coherence in caches.items()}
        operations = {name: read for name, (_, read) in made.items()}
        timings = interleaved(operations, rounds=7 if quick else 21, calls=calls, base="L2 hit")
        looks = {name: cache.stats().l2.looks for name, (cache, _) in made.items()}
        title = "Catching up with the log of invalidations"
        results = table(title, timings, "L2 hit", f"looks: {looks}", {"L2 hit that catches up": 1.2})
        for cache, _ in made.values():
            cache.close()
        return results


def never():
    raise AssertionError("an L2 hit was expected")


def outage(*, quick):
    """What a dead and what a frozen server cost."""
    calls = 200 if quick else 2_000
    results = []
    for fault in ("killed", "frozen"):
        group = f"L2 {fault}, with a timeout of {TIMEOUT} s"
        with ValkeyServer() as server:
            tier = RedisTier(server.url, ttl="1h", timeout=TIMEOUT)
            cache = TieredCache(MemoryTier(ttl=1e-9), tier, refresh="inline")
            cache.warm_up()
            server.kill() if fault == "killed" else server.pause()
            started = time.perf_counter()
            cache.get_or_load("key", lambda: 1)
            first = time.perf_counter() - started
            started = time.perf_counter()
            for _ in range(calls):
                cache.get_or_load("key", lambda: 1)
            later = (time.perf_counter() - started) / calls
            if fault == "frozen":
                server.resume()
            cache.close()
        measured = [
            figure(group, "the first call", first, "s", budget=TIMEOUT + 0.05),
            figure(group, "a call while the breaker is open", later, "s", budget=20e-6),
        ]
        show(group, measured, f"{calls:,} calls after the first, all of the way through L1 and the breaker")
        results += measured
    return results
