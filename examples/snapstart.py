"""SnapStart: what is loaded in the init phase is in the snapshot, and each copy of it has connections of its own.

`lambda_handler` sees to the hooks: connections are closed before the snapshot is taken, and in each copy what L1 holds is
confirmed by L2 before it is served, for the snapshot may be weeks old.

Run it on the local Lambda with `python examples/run.py snapstart`.
"""

import json
import os

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.adapters.s3 import S3Origin
from tiered_cache.aws_lambda import lambda_handler

cache = TieredCache(
    l1=MemoryTier(ttl="5m"),
    l2=RedisTier(os.environ["REDIS_URL"], ttl="1h", stale_if_error="1d", timeout=0.5),
    namespace="documents",
)
documents = S3Origin("demo-documents")
endpoints = documents.object("endpoints.json", decode=json.loads)

cache.warm_up()
cache.get_or_load("endpoints", endpoints)  # in the init phase, before the snapshot


@lambda_handler(cache)
def handler(event, context):
    answer = cache.get_entry_or_load("endpoints", endpoints)
    container = cache.stats().container
    return {"tier": answer.tier, "partitions": len(answer.value["partitions"]), "container": container.id}
