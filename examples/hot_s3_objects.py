"""Hot objects from S3: a second from S3 becomes microseconds, within the memory that the function has.

An object that has not changed is not moved again: its ETag goes along, and S3's 304 makes the held copy fresh.

Run it on local services with `python examples/run.py hot_s3_objects`.
"""

import json
import os

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.adapters.s3 import S3Origin
from tiered_cache.aws_lambda import lambda_handler

cache = TieredCache(
    l1=MemoryTier(ttl="30s", stale_while_revalidate="5m", max_bytes="auto"),  # a quarter of the function's memory
    l2=RedisTier(os.environ["REDIS_URL"], ttl="10m", stale_while_revalidate="1h", stale_if_error="1d"),
    namespace="documents",
    negative_ttl="10s",
)
documents = S3Origin("demo-documents", max_bytes="16 MiB")


@lambda_handler(cache)
def handler(event, context):
    name = event["document"]
    answer = cache.get_entry_or_load(f"document:{name}", documents.object(name, decode=json.loads))
    return {"tier": answer.tier, "age": round(answer.age, 3), "top_level_keys": sorted(answer.value)}
