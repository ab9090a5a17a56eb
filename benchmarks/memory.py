"""L1's memory: what the process really grows by, beside its budget, when L1 is filled and while entries come and go."""

import ctypes
import gc
import json
import resource
import subprocess
import sys
from itertools import count, islice
from pathlib import Path

from tiered_cache._errors import TieredCacheError
from tiered_cache.benchmarks.harness import Skipped, figure, show
from tiered_cache.benchmarks.progress import turns

CONTENTS = {
    "integers": "10**12 + n",
    "small dicts": "{'id': n, 'name': f'customer {n}', 'balance': n * 1.5, 'tags': [f'a{n}', f'b{n}']}",
    "bytes of 100": "n.to_bytes(100, 'big')",
    "strings of 1 kB": "chr(65 + n % 26) * 1000 + str(n)",
    "lists of 20 floats": "[n + i / 7 for i in range(20)]",
    "bytes of 1 to 16,384": "bytes(int(2 ** (n * 0.6180339887 % 1 * 14)))",
}
FROM_L2 = "integers"
"""The content that is read from an L2 as well: such entries have more of their own."""
POLICIES = ("lru", "s3fifo")
ENTRIES = 11_300
"""How many entries the budget is for. Three times that is just above a power of two: the dictionaries are at their sparsest."""
BUDGETS = 3
"""Budgets' worth of inserts after the first eviction."""
LIMIT = 1.2


def child(content, policy, url=None):
    """Fill an L1 and go on; print the bytes that the process has grown by, and what L1 says of itself, as JSON."""
    import tiered_cache

    make = eval(f"lambda n: {CONTENTS[content]}")  # noqa: S307  # one of the texts above
    budget = budget_for(make, url)
    with tiered_cache.TieredCache(
        tiered_cache.MemoryTier(ttl=600, max_bytes=budget, policy=policy), shared(url), refresh="inline"
    ) as cache:
        numbers = count()
        insert(cache, make, numbers, 1)
        gc.collect()
        before = resident()
        while cache.stats().l1.evictions == 0:
            insert(cache, make, numbers, 500)
        grown = {"budget": budget, "filled": resident() - before, "churned": 0}
        for _ in range(BUDGETS * ENTRIES // 500):
            insert(cache, make, numbers, 500)
            grown["churned"] = max(grown["churned"], resident() - before)
        trimmed()
        stats = cache.stats().l1
        held = {"trimmed": resident() - before, "said": stats.bytes, "entries": stats.entries}
        print(json.dumps(grown | held))


def budget_for(make, url):
    """Bytes that so many entries take, by what L1 says of some."""
    import tiered_cache

    with tiered_cache.TieredCache(tiered_cache.MemoryTier(ttl=600), shared(url), refresh="inline") as cache:
        insert(cache, make, count(), 500)
        stats = cache.stats().l1
    return stats.bytes * ENTRIES // stats.entries


def shared(url):
    import tiered_cache

    return None if url is None else tiered_cache.RedisTier(url, ttl="1h", timeout=10)


def insert(cache, make, numbers, calls):
    for number in islice(numbers, calls):
        cache.get_or_load(f"key:{number}", lambda number=number: make(number))


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def trimmed():
    """Have what is free given back, where the C library can: what is then left is in use."""
    gc.collect()
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def run(*, quick):
    if sys.platform != "linux":
        raise Skipped("the size of a process is read from /proc, which this system has not")
    found = {policy: {} for policy in POLICIES}
    rounds = [(policy, content) for policy in POLICIES for content in ((FROM_L2,) if quick else CONTENTS)]
    for turn in turns(len(rounds)):
        policy, content = rounds[turn]
        found[policy][content] = measured(content, policy)
    if not quick:
        read_from_l2(found)
    return [result for policy, facts in found.items() for result in told(policy, facts)]


def read_from_l2(found):
    """The same of entries that stand in a server's memory already, which those before them have put there."""
    from tiered_cache.local import ValkeyServer

    try:
        server = ValkeyServer().start()
    except TieredCacheError as reason:
        print(f"Entries read from an L2 are skipped: {reason}")
        return
    with server:
        measured(FROM_L2, POLICIES[0], server.url)
        for policy, facts in found.items():
            facts[f"{FROM_L2}, read from L2"] = measured(FROM_L2, policy, server.url)


def measured(*given):
    """What `child` prints, in a process of its own."""
    program = f"from {child.__module__} import child; child(*{given!r})"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return json.loads(answer.stdout)


def told(policy, facts):
    """Print the growth by one policy, and give it as results."""
    results, notes = [], []
    group = f'What the process grows by beside max_bytes, policy "{policy}"'
    for content, grown in facts.items():
        for moment, title in (("filled", "filled"), ("churned", f"{BUDGETS} budgets later, at most")):
            ratio = grown[moment] / grown["budget"]
            results.append(
                figure(
                    group, f"{content}, {title}", grown[moment], "bytes", ratio=ratio, base="max_bytes", budget=LIMIT
                )
            )
        notes.append(f"{content}: {grown['entries']:,} entries, {grown['trimmed'] / grown['budget']:.2f}x when trimmed")
    show(group, results, "; ".join(notes))
    return results
