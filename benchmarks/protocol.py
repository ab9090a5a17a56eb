"""The steps of the protocol beside a plain read of L2."""

import time
from functools import partial

import msgpack
import redis

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.benchmarks.harness import compared
from tiered_cache.benchmarks.l2 import PATIENCE, value_of
from tiered_cache.interfaces import Claim, Lease
from tiered_cache.local import ValkeyServer

PEER = "redis-py pooled GET + unpackb"
CALLS = 20


def run(*, quick):
    """What a hit of L2 costs at the store, by what goes along with it."""
    results = []
    with ValkeyServer() as server, redis.Redis.from_url(server.url) as client:
        for size in (600,) if quick else (100, 600, 10_000, 100_000):
            tier = RedisTier(server.url, ttl="1h", compress_above=None, timeout=PATIENCE)
            with TieredCache(MemoryTier(ttl=60), tier, namespace="bench") as cache:
                cache.set("key", value_of(size))
                client.set("peer", msgpack.packb(value_of(size)))
                steps = steps_of(tier.bind("bench"), client)
                repeated = {name: partial(repeat, step) for name, step in steps.items()}
                title = f"A hit of L2 at the store, a value of {size:,} bytes"
                results += compared(title, repeated, base=PEER, rounds=15 if quick else 151, calls=CALLS)
    return results


def steps_of(store, client):
    now = time.time()
    position = store.look((0, 0), (), now).end
    lease = Lease("key", b"token", 10.0)
    return {
        PEER: lambda: msgpack.unpackb(client.get("peer")),
        "value": partial(store.read, "key", now, None),
        "value or lease, by a script": partial(store.ask, lease, Claim.MISSING, now, None),
        "value and a look, by plain reads": partial(store.read, "key", now, position),
        "value and a look, by a script": partial(store.read, "key", now, (0, 0)),
    }


def repeat(step):
    for _ in range(CALLS):
        step()
