"""L1's memory: what the process really grows by, beside what the sizer says, and the overhead of an entry."""

import gc
import resource
import subprocess
import sys
from pathlib import Path

from tiered_cache.benchmarks.harness import Skipped, figure, show

SHAPES = {
    "small dicts": "{'id': n, 'name': f'customer {n}', 'balance': n * 1.5, 'tags': [f'a{n}', f'b{n}']}",
    "strings of 1 kB": "chr(65 + n % 26) * 1000 + str(n)",
    "bytes of 100": "n.to_bytes(100, 'big')",
    "integers": "10**12 + n",
    "lists of 20 floats": "[n + i / 7 for i in range(20)]",
}
BUDGET = 64 * 2**20
GROUP = f"What the process grows by when L1 is filled to a budget of {BUDGET:,} bytes"


def child(shape):
    """Fill an L1 and print the growth of the process in bytes, and what L1 says of itself."""
    import tiered_cache

    cache = tiered_cache.TieredCache(tiered_cache.MemoryTier(ttl=600, max_bytes=BUDGET), refresh="inline")
    make = eval(f"lambda n: {SHAPES[shape]}")  # noqa: S307  # one of the texts above
    cache.get_or_load("warm", lambda: make(0))
    gc.collect()
    before, number = resident(), 0
    while cache.stats().l1.evictions == 0:
        for _ in range(2_000):
            cache.get_or_load(f"key:{number}", lambda: make(number))
            number += 1
    stats = cache.stats().l1
    print(resident() - before, stats.bytes, stats.entries)


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def run(*, quick):
    if sys.platform != "linux":
        raise Skipped("the size of a process is read from /proc, which this system has not")
    results, notes = [], []
    for shape in ("small dicts",) if quick else SHAPES:
        program = f"from {child.__module__} import child; child({shape!r})"
        answer = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
        grew, said, entries = map(int, answer.stdout.split())
        facts = {"ratio": grew / BUDGET, "base": "max_bytes", "budget": 1.2}
        results.append(figure(GROUP, shape, grew, "bytes", **facts))
        notes.append(f"{shape}: L1 says {said:,} bytes of {entries:,} entries")
    show(GROUP, results, "; ".join(notes))
    return results
