"""L2: a hit through `get_or_load` beside redis-py's pooled GET and msgpack, on a real server on loopback."""

import time

from benchmarks.harness import interleaved, table
from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.local import ValkeyServer


def value_of(size):
    return {"id": "c-123", "name": "Ada", "balance": 12.5, "tags": ["a", "b"], "blob": "x" * size}


def run(*, quick):
    import msgpack
    import redis

    results = {}
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

            def peer(calls=calls, client=client):
                for _ in range(calls):
                    msgpack.unpackb(client.get("peer"))

            def ours(calls=calls, cache=cache):
                for _ in range(calls):
                    cache.get_or_load("key", never)

            timings = interleaved(
                {"redis-py pooled GET + unpackb": peer, "tiered_cache get_or_load, L2 hit": ours},
                rounds=7 if quick else 11,
                calls=calls,
            )
            note = f"{cache.stats().l2.hits:,} hits of L2, with deadline, envelope and checksum"
            table(
                f"L2 hit, a value of {size:,} bytes (budget: at most 1.1 x)",
                timings,
                "redis-py pooled GET + unpackb",
                note,
            )
            results[size] = timings
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
        timings = interleaved({name: read for name, (_, read) in made.items()}, rounds=7 if quick else 21, calls=calls)
        looks = {name: cache.stats().l2.looks for name, (cache, _) in made.items()}
        table("Catching up with the log of invalidations (budget: at most 1.2 x)", timings, "L2 hit", f"looks: {looks}")
        for cache, _ in made.values():
            cache.close()
        return timings


def never():
    raise AssertionError("an L2 hit was expected")


def outage(*, quick):
    """What a dead and what a frozen server cost."""
    calls = 200 if quick else 2_000
    for fault in ("killed", "frozen"):
        with ValkeyServer() as server:
            cache = TieredCache(MemoryTier(ttl=1e-9), RedisTier(server.url, ttl="1h", timeout=0.2), refresh="inline")
            cache.warm_up()
            if fault == "killed":
                server.kill()
            else:
                server.pause()
            started = time.perf_counter()
            cache.get_or_load("key", lambda: 1)
            first = time.perf_counter() - started
            started = time.perf_counter()
            for _ in range(calls):
                cache.get_or_load("key", lambda: 1)
            later = (time.perf_counter() - started) / calls
            print(
                f"\nL2 {fault}, timeout 0.2 s (budget: 0.25 s for the first call, then 20 µs a call while the breaker is open)"
            )
            print(
                f"  first call {first * 1e3:.1f} ms, then {later * 1e6:.1f} µs a call, all of the way through L1 and the breaker"
            )
            if fault == "frozen":
                server.resume()
            cache.close()
