"""L1 alone: a hit as it grows, and inserts under a budget."""

import random
import time

from tiered_cache import MemoryTier, TieredCache
from tiered_cache.benchmarks.harness import compared, figure, show


def growth(*, quick):
    """The cost of a hit as the number of entries grows, beside a dict that grows alike."""
    rng = random.Random(7)
    calls = 20_000 if quick else 100_000
    results = []
    for entries in (1_000, 10_000) if quick else (1_000, 10_000, 100_000, 1_000_000):
        cache = TieredCache(MemoryTier(ttl=600, max_bytes="4 GiB", sizer=lambda _value: 1), refresh="inline")
        plain = {f"key:{number}": {"id": number} for number in range(entries)}
        for key, value in plain.items():
            cache.set(key, value)
        keys = [f"key:{rng.randrange(entries)}" for _ in range(calls)]

        def dict_loop(plain=plain, keys=keys):
            for key in keys:
                plain[key]

        def cache_loop(get=cache.get_or_load, keys=keys):
            for key in keys:
                get(key, None)

        operations = {"dict[key]": dict_loop, "tiered_cache": cache_loop}
        title = f"L1 hit with {entries:,} entries, keys at random"
        at = {"curve": "L1 hit as L1 grows", "at": entries, "axis": "entries"}
        results += compared(title, operations, base="dict[key]", rounds=7, calls=calls, **at)
    return results


def inserts(*, quick):
    """L1 stays within its budget under many inserts; the time of one, with eviction."""
    count = 20_000 if quick else 1_000_000
    cache = TieredCache(MemoryTier(ttl=600, max_bytes="16 MiB"), refresh="inline")
    most = 0
    started = time.perf_counter()
    for number in range(count):
        cache.get_or_load(f"key:{number}", lambda number=number: {"id": number, "name": f"customer {number}"})
        if number % 1_000 == 0:
            most = max(most, cache.stats().l1.bytes)
    seconds = time.perf_counter() - started
    stats = cache.stats().l1
    group = f"L1 under {count:,} inserts with a budget of {stats.max_bytes:,} bytes"
    held = max(most, stats.bytes)
    results = [
        figure(group, "most bytes held", held, "bytes", ratio=held / stats.max_bytes, base="max_bytes", budget=1),
        figure(group, "a load, a sizing, an insert and an eviction", seconds / count, "s"),
    ]
    show(group, results, f"entries {stats.entries:,}; evictions {stats.evictions:,}; stats() every 1,000")
    return results
