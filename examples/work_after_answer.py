"""Work after the answer: what is stale is refreshed, and what was counted is sent, when the caller has its response.

An internal extension is registered in the init phase; Lambda freezes the container only when it is done too. The time is
billed, and the next event waits for it in this container; the caller does not.

Run it on the local Lambda with `python examples/run.py work_after_answer`.
"""

import os
import time

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.aws_lambda import lambda_handler

cache = TieredCache(
    l1=MemoryTier(ttl="1s", stale_while_revalidate="1h"),
    l2=RedisTier(os.environ["REDIS_URL"], ttl="1s", stale_while_revalidate="1h", jitter=0, timeout=0.5),
    namespace="rates",
    refresh="after_response",
)
sent = []


def slow_rates():
    time.sleep(0.5)  # an origin that takes its time
    return {"USD": 1.09, "as_of": time.time()}


def send_analytics(event):
    time.sleep(0.2)
    sent.append(event["order"])


@lambda_handler(cache)
def handler(event, context):
    answer = cache.get_entry_or_load("rates", slow_rates)
    cache.after_response(send_analytics, event)
    return {"usd": answer.value["USD"], "stale": answer.stale, "age": round(answer.age, 1), "sent_so_far": sent[:]}
