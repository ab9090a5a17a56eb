"""The eviction policies by name. What one needs is imported when a cache is made with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tiered_cache._errors import ConfigurationError
from tiered_cache._options import one_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachetools import Cache

    from tiered_cache._entry import Entry

Policy: TypeAlias = "Literal['lru', 's3fifo'] | type[Cache[Any, Any]]"


def checked_policy(given: Any) -> Policy:
    """The name of a built-in policy, or a class that can evict. Raises ConfigurationError."""
    if not (isinstance(given, type) and hasattr(given, "popitem")):
        one_of("policy", given, ("lru", "s3fifo"))
    policy: Policy = given
    return policy


def entries_by(policy: Policy, max_bytes: int, evicted: Callable[[str, Entry], None]) -> tuple[Any, bool]:
    """What holds entries under `policy`, as a cachetools cache does, and whether hits may go unseen until it evicts."""
    if policy == "s3fifo":
        from tiered_cache._l1.s3fifo import S3FIFO

        return S3FIFO(max_bytes, evicted), True
    from tiered_cache._l1.eviction import SecondChanceLRU, observed

    if policy == "lru":
        return SecondChanceLRU(max_bytes, evicted), True
    assert isinstance(policy, type)  # noqa: S101  # checked_policy let nothing else through
    try:
        return observed(policy, max_bytes, _size, evicted), False
    except TypeError:
        raise ConfigurationError(
            "policy must be a class with the interface of cachetools.Cache, which can be made by "
            f"policy(max_bytes, getsizeof=…); got {policy.__qualname__}"
        ) from None


def _size(entry: Entry) -> int:
    return entry.size
