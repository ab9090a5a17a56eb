"""A handler that reads an object from S3, an item from DynamoDB and a mapping table from Athena through one cache.

Run it on local services with `python examples/run.py three_origins`; `make demo` measures it.
"""

import json
import math
import os

from tiered_cache import Answer, LoadPending, MemoryTier, RedisTier, TieredCache
from tiered_cache.adapters.athena import AthenaOrigin
from tiered_cache.adapters.dynamodb import DynamoDBOrigin
from tiered_cache.adapters.s3 import S3Origin
from tiered_cache.aws_lambda import lambda_handler

cache = TieredCache(
    l1=MemoryTier(ttl="5m", stale_while_revalidate="1m", max_bytes="192 MiB"),
    l2=RedisTier(os.environ["REDIS_URL"], ttl="1h", stale_while_revalidate="10m", stale_if_error="1d", timeout=0.5),
    namespace="shop",
    negative_ttl="30s",
)
documents = S3Origin("demo-documents")
customers = DynamoDBOrigin("demo-customers")
warehouse = AthenaOrigin(database="shop", output_location="s3://demo-athena-results/")


# A value of one's own: the table's rows as one dict, which is what the handler looks into. Resumable, for a query may
# take longer than an invocation; one of seconds is waited for.
accounts_by_customer = warehouse.query(
    "SELECT customer_id, account FROM customer_mapping",
    decode=lambda rows: {row["customer_id"]: row["account"] for row in rows},
    resumable=True,
    wait=60,
)


def find(event: dict) -> Answer:
    match event["want"]:
        case "document":
            name = event["document"]
            return cache.get_entry_or_load(f"document:{name}", documents.object(name, decode=json.loads))
        case "customer":
            customer = event["customer_id"]
            return cache.get_entry_or_load(f"customer:{customer}", customers.item({"customer_id": customer}))
        case "mapping":
            return cache.get_entry_or_load("accounts", accounts_by_customer, ttl="12h")
        case other:
            raise ValueError(f"want must be document, customer or mapping; got {other!r}")


@lambda_handler(cache)
def handler(event, context):
    try:
        answer = find(event)
    except LoadPending as pending:
        return {"tier": None, "retry_after": math.ceil(pending.retry_after)}
    return {"tier": answer.tier, "stale": answer.stale, "reason": answer.reason, "items": len(answer.value)}
