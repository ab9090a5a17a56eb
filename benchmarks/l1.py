"""L1: a hit through `get_or_load` beside a dict look-up and the read-through of other caches."""

import random
import threading
import time

from tiered_cache import MemoryTier, TieredCache
from tiered_cache.benchmarks.harness import compared, figure, show

KEYS = 1_000


def run(*, quick):
    calls = 20_000 if quick else 200_000
    rng = random.Random(7)
    keys = [f"customer:{rng.randrange(KEYS)}" for _ in range(calls)]
    value = {"id": 1, "name": "Ada"}

    def looped(get):
        for key in set(keys):
            get(key)

        def loop():
            for key in keys:
                get(key)

        return loop

    def looped_with_loader(get, load=lambda: value):
        for key in set(keys):
            get(key, load)

        def loop():
            for key in keys:
                get(key, load)

        return loop

    plain = dict.fromkeys(keys, value)

    def dict_loop():
        for key in keys:
            plain[key]

    cache = TieredCache(MemoryTier(ttl=600), refresh="inline")
    operations = {
        "dict[key]": dict_loop,
        "tiered_cache get_or_load": looped_with_loader(cache.get_or_load),
        "tiered_cache get_entry_or_load": looped_with_loader(cache.get_entry_or_load),
    }
    operations |= {
        name: (looped_with_loader if wants_loader else looped)(get) for name, get, wants_loader in peers(value)
    }
    budgets = {"tiered_cache get_or_load": 7}
    return compared("L1 hit", operations, base="dict[key]", rounds=7 if quick else 15, calls=calls, budgets=budgets)


def peers(value):
    """(name, get, whether it takes a loader) of each peer that is installed, in its own documented form."""
    import cachetools

    yield (
        "cachetools cached(TTLCache, lock)",
        cachetools.cached(cachetools.TTLCache(2 * KEYS, 600), lock=threading.RLock())(lambda _key: value),
        False,
    )
    try:
        import moka_py

        yield "moka-py get_with", moka_py.Moka(2 * KEYS, ttl=600).get_with, True
    except ImportError:
        print("moka-py is not installed: skipped")
    try:
        import cachebox

        yield "cachebox cached(TTLCache)", cachebox.cached(cachebox.TTLCache(2 * KEYS, 600))(lambda _key: value), False
    except ImportError:
        print("cachebox is not installed: skipped")


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
