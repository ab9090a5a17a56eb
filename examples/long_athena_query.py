"""A query that takes longer than the function may: one execution for the whole fleet, taken up by whoever comes next.

The query goes on at Athena while containers are frozen, time out or vanish; its execution id stands in L2. Until the rows
are there callers get the old ones, or, the first time, are told to come again.

Run it on the local Lambda with `python examples/run.py long_athena_query`.
"""

import math
import os

from tiered_cache import LoadPending, MemoryTier, RedisTier, TieredCache
from tiered_cache.adapters.athena import AthenaOrigin
from tiered_cache.aws_lambda import lambda_handler

cache = TieredCache(
    l1=MemoryTier(ttl="1h", max_bytes="192 MiB"),
    l2=RedisTier(os.environ["REDIS_URL"], ttl="1d", stale_while_revalidate="7d", stale_if_error="30d", timeout=0.5),
    namespace="long-query",
)
warehouse = AthenaOrigin(database="shop", output_location="s3://demo-athena-results/")
accounts = warehouse.query(
    "SELECT customer_id, account FROM customer_mapping WHERE region = ?",
    parameters=("eu",),
    resumable=True,
    wait=0.5,
    decode=lambda rows: {row["customer_id"]: row["account"] for row in rows},
)


@lambda_handler(cache)
def handler(event, context):
    try:
        answer = cache.get_entry_or_load("accounts:eu", accounts)
    except LoadPending as pending:
        return {"status": 503, "retry_after": math.ceil(pending.retry_after)}
    account = answer.value.get(event["customer_id"])
    return {"status": 200, "account": account, "tier": answer.tier, "reason": answer.reason}
