"""L2: a hit through `get_or_load` beside redis-py's pooled GET and msgpack, on a real server on loopback."""

import time
import zlib
from contextlib import ExitStack
from functools import partial

import msgpack
import redis

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache._l2.envelope import _HEADER, HEADER_SIZE
from tiered_cache.benchmarks.harness import compared, figure, one_by_one, show, table, throughput
from tiered_cache.benchmarks.readers import in_threads
from tiered_cache.benchmarks.tls import TLSFront
from tiered_cache.local import ValkeyServer
from tiered_cache.local.cluster import ValkeyCluster

PEER = "redis-py pooled GET + unpackb"
PATIENCE = 10
"""Seconds for L2 where it is there: a hit is expected, and a machine that stalls for a moment is no outage."""
TIMEOUT = 0.2
"""The same where an outage is what is measured."""
OURS = "tiered_cache get_or_load, L2 hit"
CONFIRMED = "the same value still in L1, whose time is up"
CATCHES_UP = "the same, and a look into the log"
INVOKED = "the same, in an invocation of one read"
AT_EACH_READ = 1e-6
"""`coherence` in seconds, below what a read takes."""
MANY = "tiered_cache get_many_or_load"
MGET = "redis-py MGET + unpackb"
LEAST = "the same of envelopes: two checksums, times"


def value_of(size):
    return {"id": "c-123", "name": "Ada", "balance": 12.5, "tags": ["a", "b"], "blob": "x" * size}


def run(*, quick):
    with ValkeyServer() as server:
        return hits(server.url, "standalone", quick)


def tls(*, quick):
    with ValkeyServer() as server, TLSFront(server.port) as front:
        return hits(front.url, "through TLS", quick)


def cluster(*, quick):
    with ValkeyCluster() as nodes:
        return hits(nodes.url, "a cluster of three", quick)


def hits(url, where, quick):
    """A hit for values from a hundred bytes to a megabyte."""
    results = []
    for size in (600,) if quick else (100, 600, 10_000, 100_000, 1_000_000):
        calls = 200 if quick or size > 50_000 else 2_000
        value = value_of(size)
        with client_of(url) as client, cache_without_l1(url) as cache, cache_of_a_moment(url) as outdated:
            client.set("peer", msgpack.packb(value))
            cache.set("key", value)
            outdated.set("held", value)

            def peer(get=client.get):
                return msgpack.unpackb(get("peer"))

            def ours(get=cache.get_or_load):
                return get("key", never)

            def confirmed(get=outdated.get_or_load):
                return get("held", never)

            operations = {PEER: peer, OURS: ours, CONFIRMED: confirmed}
            timings = one_by_one(operations, rounds=7 if quick else 11, calls=calls, base=PEER)
            note = f"{cache.stats().l2.hits:,} hits of L2, with deadline, envelope and checksum"
        title = f"L2 hit, {where}, a value of {size:,} bytes"
        at = {"curve": f"L2 hit, {where}, as values grow", "at": size, "axis": "bytes of the value"}
        results += table(title, timings, PEER, note, {OURS: 1.1, CONFIRMED: 1.1}, **at)
    return results


def client_of(url):
    """redis-py's client, as its documentation makes it."""
    if url.endswith("?cluster=true"):
        return redis.RedisCluster.from_url(url.removesuffix("?cluster=true"))
    return redis.Redis.from_url(url)


def cache_without_l1(url, **options):
    """One whose L1 has no room for anything, so that each call goes to L2, and what comes from there is decoded."""
    return cache_with(MemoryTier(ttl="1m", max_bytes=1), url, **options)


def cache_of_a_moment(url, **options):
    """One whose L1 answers for a nanosecond, so that each call goes to L2 and finds there what L1 has."""
    return cache_with(MemoryTier(ttl=1e-9, jitter=0), url, **options)


def cache_with(l1, url, coherence="invocation", namespace="default", **options):
    options = {"ttl": "1h", "timeout": PATIENCE, "compress_above": None} | options
    return TieredCache(l1, RedisTier(url, **options), refresh="inline", coherence=coherence, namespace=namespace)


def many(*, quick):
    """A hundred keys in one round trip."""
    keys = [f"key:{number}" for number in range(100)]
    values = dict.fromkeys(keys, value_of(600))
    with (
        ValkeyServer() as server,
        client_of(server.url) as client,
        cache_without_l1(server.url) as cache,
        cache_of_a_moment(server.url) as outdated,
    ):
        client.mset({key: msgpack.packb(value) for key, value in values.items()})
        cache.get_many_or_load(keys, lambda _: values)

        def peer():
            return [msgpack.unpackb(found) for found in client.mget(keys)]

        names = [f"tc1:{{default|{key}}}" for key in keys]

        def least():
            return [opened_by_hand(found) for found in client.mget(names)]

        def ours():
            return cache.get_many_or_load(keys, never)

        def confirmed():
            return outdated.get_many_or_load(keys, never)

        operations = {MGET: peer, LEAST: least, MANY: ours, CONFIRMED: confirmed}
        timings = one_by_one(operations, rounds=11, calls=10 if quick else 100, base=MGET)
    results = table("100 keys from L2, values of 600 bytes", timings, MGET, budgets={MANY: 1.5})
    return results + many_of_l1(quick)


def many_of_l1(quick):
    """A hundred keys that L1 holds fresh."""
    keys = [f"key:{number}" for number in range(100)]
    with TieredCache(MemoryTier(ttl="1h"), refresh="inline") as cache:
        cache.get_many_or_load(keys, lambda missing: dict.fromkeys(missing, "value"))

        def each(get=cache.get_or_load):
            return {key: get(key, never) for key in keys}

        def ours():
            return cache.get_many_or_load(keys, never)

        base = "get_or_load for each"
        timings = one_by_one({base: each, MANY: ours}, rounds=11, calls=100 if quick else 1_000, base=base)
    return table("100 keys from L1", timings, base)


def opened_by_hand(data):
    """The value in an envelope, its checksums and times looked at, and nothing else: no key, no flags, no L1."""
    header = _HEADER.unpack_from(data)
    body = data[HEADER_SIZE:]
    loaded_at, fresh_for = header[13:15]
    if header[-1] == zlib.crc32(data[: HEADER_SIZE - 4]) and header[11] == zlib.crc32(body):
        return msgpack.unpackb(body[-header[9] :]) if time.time() < loaded_at + fresh_for else None
    raise ValueError("damaged")


def threads(*, quick):
    """Hits of L2 by one, eight and 32 threads: seconds of all of them for each hit, and hits a second."""
    results = []
    calls, rounds = (320, 11) if quick else (3_200, 15)
    with ValkeyServer() as server, client_of(server.url) as client, cache_without_l1(server.url) as cache:
        client.set("peer", msgpack.packb(value_of(600)))
        cache.set("key", value_of(600))
        for count in (1, 8, 32):
            operations = {
                PEER: by_threads(count, calls, lambda: msgpack.unpackb(client.get("peer"))),
                OURS: by_threads(count, calls, lambda: cache.get_or_load("key", never)),
            }
            at = {"curve": "L2 hits by many threads: time of all for each", "at": count, "axis": "threads"}
            title = f"L2 hits by {count} thread{'s' * (count > 1)}, a value of 600 bytes: time of all for each"
            results += compared(title, operations, base=PEER, rounds=rounds, calls=calls, **at)
    return results + throughput("L2 hits a second by many threads of one process", results)


def by_threads(count, calls, call):
    """A function that makes so many calls, by so many threads."""

    def some():
        for _ in range(calls // count):
            call()

    return partial(in_threads, count, some)


def catch_up(*, quick):
    """A hit that looks into the log of invalidations in the same round trip, as the first read of each invocation does; and
    one with all that an invocation takes besides.
    """
    with ExitStack() as stack:
        server = stack.enter_context(ValkeyServer())
        client = stack.enter_context(client_of(server.url))
        caches = {}
        for name, coherence in {OURS: "ttl", CATCHES_UP: AT_EACH_READ, INVOKED: "invocation"}.items():
            caches[name] = stack.enter_context(cache_of_a_moment(server.url, coherence=coherence))
            caches[name].set("key", value_of(600))
        client.set("peer", msgpack.packb(value_of(600)))

        def peer():
            return msgpack.unpackb(client.get("peer"))

        def invoked():
            with caches[INVOKED].invocation():
                caches[INVOKED].get_or_load("key", never)

        reads = {name: partial(caches[name].get_or_load, "key", never) for name in (OURS, CATCHES_UP)}
        operations = {PEER: peer} | reads | {INVOKED: invoked}
        calls = 200 if quick else 2_000
        timings = one_by_one(operations, rounds=7 if quick else 11, calls=calls, base=PEER)
        looks = {name: cache.stats().l2.looks for name, cache in caches.items()}
    title = "Catching up with the log of invalidations"
    return table(title, timings, PEER, f"looks: {looks}", {CATCHES_UP: 1.2})


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
