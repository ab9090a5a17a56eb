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
from tiered_cache._l1.tier import MemoryTier
from tiered_cache._stats import ContainerStats, MemoryStats, OriginStats, SharedStats, Stats, WorkStats
from tiered_cache._values import MISSING, Answer, LoadContext, Loaded, Reason

if TYPE_CHECKING:
    from tiered_cache._asynchronous import AsyncTieredCache
    from tiered_cache._l2.tier import RedisTier

__all__ = [
    "MISSING",
    "Answer",
    "AsyncTieredCache",
    "ClosedError",
    "ConfigurationError",
    "ContainerStats",
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
    "WorkStats",
]
_LATER = {"AsyncTieredCache": "_asynchronous", "RedisTier": "_l2.tier"}


def __getattr__(name: str) -> Any:
    """What is imported when first asked for: who has no L2 does not pay for it at the cold start (PEP 562)."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = found = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
