"""A handler with one value in L2, which L1 never answers for."""

import os
import time

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.aws_lambda import lambda_handler

cache = TieredCache(MemoryTier(ttl=0.001), RedisTier(os.environ["REDIS_URL"], ttl="1h", timeout=1))


@lambda_handler(cache)
def handler(event, context):
    started = time.perf_counter()
    answer = cache.get_entry_or_load("k", lambda: "value")
    seconds = time.perf_counter() - started
    stats = cache.stats()
    return {"seconds": seconds, "tier": answer.tier, "connects": stats.l2.connects, "errors": dict(stats.l2.errors)}
