"""Three functions of one package: `answer` reads through the cache; the others invalidate what has changed at its origin."""

import json
import math
import os

from tiered_cache import Answer, LoadPending, MemoryTier, RedisTier, TieredCache
from tiered_cache.adapters.athena import AthenaOrigin
from tiered_cache.adapters.dynamodb import DynamoDBOrigin
from tiered_cache.adapters.elasticache import ElastiCacheIAM
from tiered_cache.adapters.s3 import S3Origin
from tiered_cache.aws_lambda import invalidate_on_dynamodb, invalidate_on_s3, lambda_handler

url = os.environ["REDIS_URL"]
iam = ElastiCacheIAM(os.environ["CACHE_USER"], os.environ["CACHE_NAME"], serverless=True)
cache = TieredCache(
    l1=MemoryTier(ttl="1m", stale_while_revalidate="30s", max_bytes="auto"),
    l2=RedisTier(
        url,
        ttl="1d",  # what a lost event costs at most
        stale_while_revalidate="1h",
        stale_if_error="7d",
        timeout=0.5,
        credentials=iam if url.startswith("rediss://") else None,  # a server on this machine has neither TLS nor IAM
    ),
    namespace="shop",
    negative_ttl="30s",
)
cache.warm_up(wait=False)  # beside what the rest of the init does

documents = S3Origin(os.environ["BUCKET"])
customers = DynamoDBOrigin(os.environ["TABLE"])
warehouse = AthenaOrigin(database=os.environ["DATABASE"], workgroup=os.environ["WORKGROUP"])


# The mapping as one dict, from the customer to the account. The query may take longer than the function's timeout: it goes
# on at Athena, and one of the calls after its end fetches the rows for all containers.
accounts = warehouse.query(
    "SELECT customer_id, account FROM customer_mapping",
    decode=lambda rows: {row["customer_id"]: row["account"] for row in rows},
    resumable=True,
)


def find(event: dict) -> Answer:
    match event:
        case {"document": name}:
            key = f"documents/{name}"
            return cache.get_entry_or_load(key, documents.object(key, decode=json.loads))
        case {"customer_id": customer}:
            # Consistent, for a load that follows the event of a change must not bring the old item back.
            request = customers.item({"customer_id": customer}, consistent=True)
            return cache.get_entry_or_load(f"customer:{customer}", request)
        case {"mapping": True}:
            return cache.get_entry_or_load("accounts", accounts, ttl="12h")
        case _:
            raise ValueError('the event must have "document", "customer_id" or "mapping": true')


@lambda_handler(cache)
def answer(event, context):
    try:
        found = find(event)
    except LoadPending as pending:
        return {"status": 503, "retry_after": math.ceil(pending.retry_after)}
    return {"status": 200, "tier": found.tier, "reason": found.reason, "stale": found.stale, "items": len(found.value)}


# What could not be delivered is reported, and comes again: from the queue for hours, from the stream for an hour.
object_changed = invalidate_on_s3(cache, key=lambda change: change.key, report_failures=True)
item_changed = invalidate_on_dynamodb(
    cache, key=lambda change: f"customer:{change.keys['customer_id']}", report_failures=True
)
