"""A change in S3 or DynamoDB invalidates what was made from it, so that a long ttl is no long wait for what is new.

Three Lambda functions from one package, told apart by their handler setting: `handler` answers requests, `on_object` gets
the bucket's event notifications (direct, or through SNS, SQS or EventBridge), `on_item` the table's stream.

Run it on local services with `python examples/run.py invalidate_on_change`.
"""

import json
import os

from tiered_cache import Answer, MemoryTier, RedisTier, TieredCache
from tiered_cache.adapters.dynamodb import DynamoDBOrigin
from tiered_cache.adapters.s3 import S3Origin
from tiered_cache.aws_lambda import invalidate_on_dynamodb, invalidate_on_s3, lambda_handler

cache = TieredCache(
    l1=MemoryTier(ttl="30s", max_bytes="64 MiB"),
    l2=RedisTier(
        os.environ["REDIS_URL"], ttl="1d", stale_if_error="7d", timeout=0.5
    ),  # the ttl bounds what a lost event costs
    namespace="on-change",
)
documents = S3Origin("demo-documents")
customers = DynamoDBOrigin("demo-customers")


def document(name: str) -> Answer:
    return cache.get_entry_or_load(f"document:{name}", documents.object(name, decode=json.loads))


def customer(customer_id: str) -> Answer:
    # Consistent, since a load that follows the event at once must not bring the old item back.
    request = customers.item({"customer_id": customer_id}, consistent=True)
    return cache.get_entry_or_load(f"customer:{customer_id}", request)


@lambda_handler(cache)
def handler(event, context):
    answer = document(event["document"]) if "document" in event else customer(event["customer_id"])
    return {"tier": answer.tier, "items": len(answer.value)}


on_object = invalidate_on_s3(cache, key=lambda change: f"document:{change.key}")
on_item = invalidate_on_dynamodb(
    cache,
    key=lambda change: f"customer:{change.keys['customer_id']}",
    report_failures=True,  # the event source mapping has FunctionResponseTypes: [ReportBatchItemFailures]
)
