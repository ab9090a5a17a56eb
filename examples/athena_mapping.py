"""The Athena mapping table: a query of minutes over data that change twice a year, run as seldom as can be.

All containers share the result by way of L2. When it is old, callers get the old one while it is made anew; when Athena
fails, they get the old one for a month. Here the caller that loads waits for the query, so the function's timeout must be
longer than that; long_athena_query.py has the way of all others.

Run it on local services with `python examples/run.py athena_mapping`.
"""

import os

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.adapters.athena import AthenaOrigin
from tiered_cache.aws_lambda import lambda_handler

cache = TieredCache(
    l1=MemoryTier(ttl="1h", max_bytes="192 MiB"),
    l2=RedisTier(os.environ["REDIS_URL"], ttl="1d", stale_while_revalidate="1d", stale_if_error="30d", timeout=0.5),
    namespace="mapping",
)
warehouse = AthenaOrigin(database="shop", output_location="s3://demo-athena-results/")


accounts_by_customer = warehouse.query(
    "SELECT customer_id, account FROM customer_mapping WHERE region = ?",
    parameters=("eu",),
    decode=lambda rows: {row["customer_id"]: row["account"] for row in rows},
)


@lambda_handler(cache)
def handler(event, context):
    answer = cache.get_entry_or_load("accounts:eu", accounts_by_customer)
    account = answer.value.get(event["customer_id"])
    return {"account": account, "tier": answer.tier, "rows": len(answer.value)}
