"""Hit ratios: traces replayed against L1's policies, other caches, and what no cache can beat.

`tiered-cache bench hitratio --traces FILE ...` takes files, in the formats of `traces`; without any, traces are made by a seed.
`python -m tiered_cache.benchmarks.hitratio FILE ...` does the same, and writes the rows as they are.
"""

import argparse
import json
import time
from collections import Counter
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from sys import getsizeof
from typing import NamedTuple

from tiered_cache import MemoryTier, TieredCache
from tiered_cache._l1.memory import ENTRY_OVERHEAD
from tiered_cache.benchmarks import command, optimum, traces
from tiered_cache.benchmarks.harness import figure, interleaved, once, table
from tiered_cache.benchmarks.progress import turns

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Sizes of the cache, as shares of what all keys would take."""
AT, MOST_TIMED = 0.05, 60_000
"""The share at which policies are timed, and of how many accesses, for they are replayed some twenty times."""
AHEAD = "the clairvoyant optimum"
BOUND = "a bound that none can pass"


replayed = ContextVar("replayed", default=())
"""The traces that the suite `hitratio` replays: those that `chosen` gave for --traces, --format, --limit, --sizes."""


class Row(NamedTuple):
    """One replay. by: what is bounded, "entries" or "bytes", to `capacity`. byte_hit_ratio: None where sizes are not known.

    seconds: of the processor, measured once.
    """

    trace: str
    accesses: int
    by: str
    share: float
    capacity: int
    policy: str
    hit_ratio: float
    byte_hit_ratio: float | None
    seconds: float


class Impossible(Exception):
    """A cache of this kind cannot be bounded so; the text says why."""


class Room(NamedTuple):
    """What a cache may hold: `capacity` in the sum of `weights`, which count bytes or are all one."""

    by: str
    capacity: int
    weights: dict[str, int]


def ours(policy, room):
    """L1 as its users have it: read through `get_or_load`."""
    limits = {"max_bytes": "1000 GiB", "max_entries": room.capacity, "sizer": len}
    if room.by == "bytes":
        limits = {"max_bytes": room.capacity, "sizer": lambda key: room.weights[key] - beside(key)}
    cache = TieredCache(MemoryTier(ttl="1d", policy=policy, **limits), refresh="inline")
    get, missed = cache.get_or_load, []

    def access(key):
        missed.clear()
        get(key, lambda: missed.append(key) or key)
        return not missed

    return access, cache.close


def beside(key):
    """Bytes that L1 counts besides a value; those of a key are more than its letters where they are not all ASCII."""
    return getsizeof(key) - getsizeof("") + ENTRY_OVERHEAD


def of_cachetools(name, room):
    import cachetools

    more = {"ttl": 86400} if name == "TTLCache" else {}
    weigh = {"getsizeof": room.weights.__getitem__} if room.by == "bytes" else {}
    cache = getattr(cachetools, name)(room.capacity, **more, **weigh)

    def access(key):
        if cache.get(key) is not None:
            return True
        if room.weights[key] <= room.capacity:
            cache[key] = key
        return False

    return access, cache.clear


def of_theine(room):
    import theine

    if room.by == "bytes":
        raise Impossible("it bounds the number of its entries only")
    cache = theine.Cache(room.capacity)

    def access(key):
        found = cache.get(key)[1]
        if not found:
            cache.set(key, key)
        return found

    return access, cache.close


def of_moka(room):
    """It tidies up in batches and holds more than it may meanwhile, so in a room for a few entries it is flattered."""
    import moka_py

    weigh = {"weigher": lambda key, _value: room.weights[key]} if room.by == "bytes" else {}
    cache = moka_py.Moka(room.capacity, **weigh)

    def access(key):
        if cache.get(key) is not None:
            return True
        cache.set(key, key)
        return False

    return access, cache.clear


POLICIES = {
    "tiered_cache lru": partial(ours, "lru"),
    "tiered_cache s3fifo": partial(ours, "s3fifo"),
    "cachetools LRUCache": partial(of_cachetools, "LRUCache"),
    "cachetools TTLCache": partial(of_cachetools, "TTLCache"),
    "cachetools LFUCache": partial(of_cachetools, "LFUCache"),
    "cachetools RRCache": partial(of_cachetools, "RRCache"),
    "theine (W-TinyLFU)": of_theine,
    "moka-py (W-TinyLFU)": of_moka,
}
"""Each makes a cache for a room, as the pair of an access to a key, which says whether it was a hit, and its end.

Raises Impossible for a room that such a cache cannot have, ImportError where it is not installed.
"""


def run(*, quick):
    """Replay, print tables, and give the rows as results."""
    return [result for row in rows(replayed.get() or chosen(quick=quick), quick=quick) for result in _results(row)]


def chosen(paths=(), form=None, limit=None, sizes=None, *, quick):
    """The traces in the files `paths`, in the format `form` or that of their names; or those that are made.

    limit: accesses of each. sizes: "made" draws sizes for the keys, "none" leaves out those that are known. Raises ValueError
    for a file that holds no trace.
    """
    most = limit or (8_000 if quick else traces.MOST)
    found = [traces.read(path, form, most) for path in paths]
    names = Counter(trace.name for trace in found)
    named = [
        trace if names[trace.name] == 1 else trace._replace(name=traces.printable(path))
        for path, trace in zip(paths, found, strict=True)
    ]
    made = () if paths else (make(limit or min(most, 60_000)) for make in traces.MADE)
    return [_sized(trace, sizes) for trace in (*named, *made)]


def rows(replayed, *, quick):
    """The rows of all replays, after a table of each trace."""
    shares = SHARES[::2] if quick else SHARES
    found = []
    for trace in replayed:
        for by in ("entries", "bytes") if trace.sizes else ("entries",):
            of_trace = list(_replays(trace, by, shares))
            _show(trace, by, of_trace)
            found += of_trace
    return found


def _sized(trace, sizes):
    if sizes == "made":
        return traces.with_made_sizes(trace)
    if sizes == "none" or trace.sizes is None:
        return trace._replace(sizes=None)
    if not any(trace.sizes.values()):
        text = "holds sizes that are all 0: --sizes none compares by entries alone, --sizes made draws some"
        raise ValueError(f"{trace.name} {text}")
    return trace


def _replays(trace, by, shares):
    whole = _room(trace, by, 1.0)
    present = _present(whole)
    for turn in turns(len(shares)):
        room = _room(trace, by, shares[turn])
        for name, make in present.items():
            yield _replay(trace, room, shares[turn], name, make(room))
        yield _best(trace, room, shares[turn])


def _room(trace, by, share):
    """The room for that share of all that is asked for."""
    weights = dict.fromkeys(trace.keys, 1)
    if by == "bytes":
        weights = {key: trace.sizes[key] + beside(key) for key in weights}
    return Room(by, max(1, int(sum(weights.values()) * share)), weights)


def policies(*, quick):
    """Seconds of the processor for an access, by policy: replays that take turns, in a room for a twentieth."""
    results, base = [], "tiered_cache lru"
    for whole in replayed.get() or chosen(quick=quick):
        trace = whole._replace(keys=whole.keys[: MOST_TIMED // 12 if quick else MOST_TIMED])
        room = _room(trace, "bytes" if trace.sizes else "entries", AT)
        operations = {
            name: partial(_replayed, trace, room, name) for name in POLICIES if name.startswith("tiered_cache")
        }
        how = {"rounds": 3 if quick else 5, "calls": len(trace.keys), "clock": time.process_time}
        title = f"An access, {_where(trace.name, len(trace.keys), room.by, AT)}"
        results += table(title, interleaved(operations, base=base, **how), base, "Seconds of the processor.")
    return results


def _replayed(trace, room, name):
    return _replay(trace, room, AT, name, POLICIES[name](room))


def _present(room):
    """The policies that there are for such a room, after a word on the others."""
    present = {}
    for name, make in POLICIES.items():
        try:
            _, close = make(room)
        except (ImportError, Impossible) as reason:
            once(f"{name} is skipped by {room.by}: {reason}")
        else:
            close()
            present[name] = make
    return present


def _replay(trace, room, share, name, cache):
    access, close = cache
    started = time.process_time()
    hits = [key for key in trace.keys if access(key)]
    seconds = time.process_time() - started
    close()
    saved = _size(trace, hits) / _size(trace, trace.keys) if trace.sizes else None
    count = len(trace.keys)
    return Row(trace.name, count, room.by, share, room.capacity, name, len(hits) / count, saved, seconds)


def _best(trace, room, share):
    started = time.process_time()
    if room.by == "entries":
        name, hits, saved = AHEAD, optimum.belady(trace.keys, room.capacity), None
    else:
        one_each = dict.fromkeys(room.weights, 1)
        name, hits = BOUND, optimum.bound(trace.keys, room.weights, room.capacity, one_each)
        saved = optimum.bound(trace.keys, room.weights, room.capacity, trace.sizes) / _size(trace, trace.keys)
    seconds = time.process_time() - started
    count = len(trace.keys)
    return Row(trace.name, count, room.by, share, room.capacity, name, hits / count, saved, seconds)


def _size(trace, keys):
    return sum(map(trace.sizes.__getitem__, keys))


def _show(trace, by, replayed):
    shares = sorted({row.share for row in replayed})
    print(f"\n{trace.name}: {len(trace.keys):,} accesses to {len(set(trace.keys)):,} keys; hits in percent")
    _table(f"room for a share of the {by}", "hit_ratio", shares, replayed, len(trace.keys))
    if by == "bytes":
        _table("the same, by the bytes of the hits", "byte_hit_ratio", shares, replayed, len(trace.keys))
    best = {row.share: row for row in replayed if row.policy in (AHEAD, BOUND)}
    for name in dict.fromkeys(row.policy for row in replayed if row.hit_ratio > best[row.share].hit_ratio):
        print(f"  {name} is above {best[shares[0]].policy}, for it held more than its room.")
    print("  CPU each was measured once, one after the other, which compares nothing: hitratio.policies takes turns.")


def _table(title, ratio, shares, replayed, accesses):
    print(f"  {title:36}{''.join(f'{share:>9.0%}' for share in shares)}{'CPU each':>13}")
    for name in dict.fromkeys(row.policy for row in replayed):
        mine = [row for row in replayed if row.policy == name]
        columns = "".join(f"{getattr(row, ratio) * 100:>9.2f}" for row in mine)
        each = sum(row.seconds for row in mine) / len(mine) / accesses
        print(f"  {name:36}{columns}{each * 1e6:>10.2f} µs")


def _results(row):
    """The row as results: a point on the curve of its policy."""
    of = _where(row.trace, row.accesses, row.by, row.share)
    at = {"at": row.share, "axis": f"share of the {row.by}"}
    yield figure(
        f"Hit ratio, {of}", row.policy, row.hit_ratio, "share", curve=f"Hit ratio by {row.by}: {row.trace}", **at
    )
    if row.by == "bytes" and row.byte_hit_ratio is not None:
        curve = f"Byte hit ratio: {row.trace}"
        yield figure(f"Byte hit ratio, {of}", row.policy, row.byte_hit_ratio, "share", curve=curve, **at)


def _where(trace, accesses, by, share):
    """In words. How many accesses were replayed belongs to it, since other figures come of more of them."""
    return f"a cache for {share:.0%} of the {by} of {trace}, {accesses:,} accesses"


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tiered_cache.benchmarks.hitratio", description=__doc__)
    parser.add_argument("traces", nargs="*", type=Path, help="files; by default traces that are made")
    parser.add_argument("--format", choices=traces.FORMATS, help="of the files, where their names do not say it")
    parser.add_argument("--limit", type=command.whole, help=f"accesses of each to replay; {traces.MOST:,} by default")
    parser.add_argument("--sizes", choices=("made", "none"), help="draw sizes for the keys, or leave out those known")
    parser.add_argument("--quick", action="store_true", help="fewer accesses and sizes, for a look")
    parser.add_argument("--json", type=command.file, metavar="FILE", help="write the rows")
    given = parser.parse_args(arguments)
    try:
        command.keep_apart([("traces", path) for path in given.traces], [("--json", given.json)])
        wanted = chosen(given.traces, given.format, given.limit, given.sizes, quick=given.quick)
    except ValueError as error:
        parser.error(str(error))
    found = rows(wanted, quick=given.quick)
    if given.json:
        given.json.write_text(json.dumps([row._asdict() for row in found], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
