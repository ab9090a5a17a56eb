"""The read-through cache that understands AWS Lambda.

L1 in the memory of the warm container, an optional L2 in Redis or Valkey, and loaders for S3, DynamoDB, Athena or
anything that can be called. Importing this loads no SDK.
"""

from typing import TYPE_CHECKING, Any

from tiered_cache._cache import TieredCache
from tiered_cache._errors import (
    ClosedError,
    ConfigurationError,
    InvalidationNotDelivered,
    LoadPending,
    LoadTimeout,
    NotFound,
    OriginDenied,
    OriginError,
    OriginMalformed,
    OriginThrottled,
    ReentrantLoadError,
    SerializationError,
    SizeLimitExceeded,
    TieredCacheError,
)
from tiered_cache._l1.memory import MemoryTier
from tiered_cache._stats import MemoryStats, OriginStats, SharedStats, Stats
from tiered_cache._values import MISSING, Answer, LoadContext, Loaded, Reason

if TYPE_CHECKING:
    from tiered_cache._l2.tier import RedisTier

__all__ = [
    "MISSING",
    "Answer",
    "ClosedError",
    "ConfigurationError",
    "InvalidationNotDelivered",
    "LoadContext",
    "LoadPending",
    "LoadTimeout",
    "Loaded",
    "MemoryStats",
    "MemoryTier",
    "NotFound",
    "OriginDenied",
    "OriginError",
    "OriginMalformed",
    "OriginStats",
    "OriginThrottled",
    "Reason",
    "RedisTier",
    "ReentrantLoadError",
    "SerializationError",
    "SharedStats",
    "SizeLimitExceeded",
    "Stats",
    "TieredCache",
    "TieredCacheError",
]


def __getattr__(name: str) -> Any:
    """RedisTier, imported when first asked for: who has no L2 does not pay for it at the cold start (PEP 562)."""
    if name != "RedisTier":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tiered_cache._l2.tier import RedisTier

    globals()[name] = RedisTier
    return RedisTier


def __dir__() -> list[str]:
    return sorted(__all__)
