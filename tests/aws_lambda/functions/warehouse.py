"""A handler before L2 that answers from two queries of minutes, and tells what it could say and why.

The environment: URL of L2, and the endpoints of Athena and S3 by the names that the SDK has for them.
"""

import os
import time

import boto3

from tiered_cache import LoadPending, MemoryTier, RedisTier, TieredCache
from tiered_cache.adapters.athena import AthenaOrigin
from tiered_cache.aws_lambda import lambda_handler

cache = TieredCache(
    MemoryTier(ttl="1h"),
    RedisTier(os.environ["URL"], ttl="1h", stale_while_revalidate="1d", jitter=0, timeout=5),
    namespace="warehouse",
)
warehouse = AthenaOrigin(
    database="sales", output_location=os.environ["OUTPUT"], client=boto3.client("athena"), s3_client=boto3.client("s3")
)
queries = {
    key: warehouse.query(
        os.environ["SQL"], (key,), resumable=True, wait=0.2, bucket_seconds=10**9
    )  # no border in a test
    for key in ("cold", "stale")
}
cache.warm_up()


def told(key):
    try:
        answer = cache.get_entry_or_load(key, queries[key])
    except LoadPending as error:
        return {"value": None, "reason": type(error).__name__}
    return {"value": answer.value, "reason": answer.reason, "tier": answer.tier, "stale": answer.stale}


@lambda_handler(cache)
def handler(event, context):
    """`put`: a value of the key "stale", which it is at once. `hang`: for how long it goes on afterwards."""
    if "put" in event:
        cache.set("stale", event["put"], ttl=0.001)
        return None
    answers = {key: told(key) for key in queries}
    time.sleep(event.get("hang", 0))
    return answers | {"loads": cache.stats().origin.loads, "failures": cache.stats().origin.failures}
