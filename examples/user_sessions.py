"""Sessions per user: one key for each, whose hits depend on how users are spread over containers.

Each answer says which container gave it, and from which tier the session came: watch how often L1 has it, and that no
container ever answers with a session that another has changed.

Run it on the local Lambda with `python examples/run.py user_sessions`.
"""

import os

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.adapters.dynamodb import DynamoDBOrigin
from tiered_cache.aws_lambda import lambda_handler

cache = TieredCache(
    l1=MemoryTier(ttl="5m", max_bytes="32 MiB"),
    l2=RedisTier(os.environ["REDIS_URL"], ttl="1h", stale_if_error="1h", timeout=0.5),
    namespace="sessions",
    coherence="invocation",  # what any container has written is seen by the next invocation of each
)
customers = DynamoDBOrigin("demo-customers")


def new_session(user):
    customer = cache.get_or_load(f"customer:{user}", customers.item({"customer_id": user}))
    return {"balance": customer["balance"], "clicks": 0}


@lambda_handler(cache)
def handler(event, context):
    user = event["user"]
    found = cache.get_entry_or_load(f"session:{user}", lambda: new_session(user))
    session = {**found.value, "clicks": found.value["clicks"] + 1}  # a new one: callers share what is cached
    cache.set(f"session:{user}", session)
    return {"tier": found.tier, "clicks": session["clicks"], "container": cache.stats().container.id}
