"""L1 alone: a hit as it grows, and inserts under a budget."""

import random
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain, count, cycle, islice
from time import perf_counter

from tiered_cache import MemoryTier, TieredCache
from tiered_cache.benchmarks.harness import compared, figure, show, throughput
from tiered_cache.benchmarks.peer_caches import Cachetools, Given, Moka, installed
from tiered_cache.benchmarks.readers import WithLoader


def growth(*, quick):
    """The cost of a hit as the number of entries grows, beside a dict and other caches that grow alike."""
    rng = random.Random(7)
    calls, rounds = (20_000, 11) if quick else (100_000, 15)
    how = {"rounds": rounds, "calls": calls, "of_processor": True}
    results = []
    for entries in (1_000, 10_000) if quick else (1_000, 10_000, 100_000, 1_000_000):
        values = {f"key:{number}": {"id": number} for number in range(entries)}
        # Two: what is timed reads other keys than what warms up.
        orders = [[f"key:{rng.randrange(entries)}" for _ in range(calls)] for _ in range(2)]
        title = f"L1 hit with {entries:,} entries, keys at random"
        at = {"curve": "L1 hit as L1 grows", "at": entries, "axis": "entries"}
        with filled(values) as readers:
            results += compared(title, reading(values, readers, orders), base="dict[key]", **how, **at)
    return results + throughput("L1 hits a second as L1 grows, by one thread", results)


def reading(values, readers, orders):
    """A function for each, and for the dict `values`: reads all keys of the first of `orders`, of the second, and so on."""
    loops = {"dict[key]": [indexing(values, order) for order in orders]}
    loops |= {name: [reader.loop(order) for order in orders] for name, reader in readers.items()}
    return {name: alternating(functions) for name, functions in loops.items()}


def alternating(functions):
    each = cycle(functions)

    def call():
        next(each)()

    return call


def indexing(values, order):
    def read():
        for key in order:
            values[key]

    return read


@contextmanager
def filled(values):
    """Readers, by name, of ours and of the peers that are installed, each with all of `values` in it."""
    with ExitStack() as open_now:
        cache = open_now.enter_context(
            TieredCache(MemoryTier(ttl=600, max_bytes="4 GiB", sizer=lambda _value: 1), refresh="inline")
        )
        readers = {"tiered_cache": WithLoader(cache.get_or_load, None)}
        for peer in filter(installed, (Moka(), Cachetools())):
            given = Given(partial(next, iter(values.values())), size=2 * len(values))
            readers[peer.name] = open_now.enter_context(peer.in_memory(given))
            readers[peer.name].loop(values)()
        for key, value in values.items():
            cache.set(key, value)
        yield readers


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
    return results + held + longest_inserts(20_000 if quick else 100_000)


def longest_inserts(entries, inserts=300):
    """The longest of some inserts into a full L1 that was hit all over: that which has most to look at before it evicts."""
    results = []
    group = f"Inserts into L1 with {entries:,} entries, each of which was hit"
    for policy in ("lru", "s3fifo"):
        tier = MemoryTier(ttl=600, max_bytes="4 GiB", max_entries=entries, sizer=lambda _value: 1, policy=policy)
        with TieredCache(tier, refresh="inline") as cache:
            for key in chain(range(entries), range(entries)):
                cache.get_or_load(f"key:{key}", int)
            seconds = sorted(timed(partial(cache.get_or_load, f"new:{number}", int)) for number in range(inserts))
        for title, value in (("half of them, at most", seconds[inserts // 2]), ("the longest", seconds[-1])):
            results.append(figure(group, f"{policy}, {title}", value, "s"))
    show(group, results)
    return results


def timed(call):
    """Seconds that `call` takes."""
    started = perf_counter()
    call()
    return perf_counter() - started
