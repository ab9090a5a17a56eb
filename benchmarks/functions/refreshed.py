"""A handler whose value is stale at each call, with a refresh of half a second, which `REFRESH` says who does."""

import os
import time

from tiered_cache import MemoryTier, TieredCache
from tiered_cache.aws_lambda import lambda_handler


class Nobody:
    """Takes each refresh, and does none: what is left is a plain stale hit."""

    def submit(self, work):
        pass


WHO = os.environ["REFRESH"]
cache = TieredCache(MemoryTier(ttl=0.001, stale_while_revalidate="1d"), refresh=Nobody() if WHO == "nobody" else WHO)


def load():
    if cache.stats().origin.loads:
        time.sleep(0.5)
    return "value"


@lambda_handler(cache)
def handler(event, context):
    started = time.perf_counter()
    cache.get_or_load("k", load)
    return {"seconds": time.perf_counter() - started, "loads": cache.stats().origin.loads}
