"""A handler that keeps its users' sessions, for the session experiment: one key for each user, loaded when L1 lacks it."""

from __future__ import annotations

import os
import time
from typing import Any

from tiered_cache import MemoryTier, TieredCache
from tiered_cache.aws_lambda import lambda_handler

cache = TieredCache(MemoryTier(ttl=float(os.environ["SESSION_TTL"]), jitter=0))


@lambda_handler(cache)
def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Tell which tier had the session of `event["user"]` and who answers, after work of `event["seconds"]`."""
    user = event["user"]
    answer = cache.get_entry_or_load(f"session:{user}", lambda: {"user": user})
    time.sleep(event["seconds"])
    return {"tier": answer.tier, "container": cache.stats().container.id}
