"""L1 alone: a hit as it grows, and inserts under a budget."""

import random
from itertools import count, islice

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
    """L1 stays within its budget under many inserts, by each policy; the time of one, with eviction."""
    calls = 10_000 if quick else 50_000
    caches = {
        policy: TieredCache(MemoryTier(ttl=600, max_bytes="16 MiB", policy=policy)) for policy in ("lru", "s3fifo")
    }
    most = dict.fromkeys(caches, 0)
    numbers = count()

    def inserting(policy, cache):
        def insert():
            for number in islice(numbers, calls):
                cache.get_or_load(f"key:{number}", lambda number=number: {"id": number, "name": f"customer {number}"})
                if number % 1_000 == 0:
                    most[policy] = max(most[policy], cache.stats().l1.bytes)

        return insert

    title = "L1: a load, a sizing, an insert and, where it is full, an eviction (stats() every 1,000)"
    operations = {policy: inserting(policy, cache) for policy, cache in caches.items()}
    results = compared(title, operations, base="lru", rounds=5 if quick else 9, calls=calls)
    budget = caches["lru"].stats().l1.max_bytes
    group = f"L1 under {next(numbers):,} inserts with a budget of {budget:,} bytes"
    held = [
        figure(group, f"most bytes held, {policy}", size, "bytes", ratio=size / budget, base="max_bytes", budget=1)
        for policy, size in most.items()
    ]
    stats = [cache.stats().l1 for cache in caches.values()]
    show(group, held, f"entries {stats[0].entries:,}; evictions {sum(one.evictions for one in stats):,}")
    return results + held
