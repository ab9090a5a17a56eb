"""The public names, pinned: what is added or taken away is a decision, and shows here."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tiered_cache
import tiered_cache.aws_lambda
import tiered_cache.interfaces
import tiered_cache.testing
from tiered_cache import TieredCache

NAMES = {
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
}
METHODS = {
    "after_response",
    "after_restore",
    "before_snapshot",
    "run_deferred",
    "cached",
    "close",
    "delete",
    "get",
    "get_entry_or_load",
    "get_many_or_load",
    "get_or_load",
    "invocation",
    "set",
    "stats",
    "clear",
    "expire",
    "invalidate_tag",
    "warm_up",
}


def test_the_names_of_the_package() -> None:
    """Each is there, has a docstring or is a value, and no other is offered."""
    assert sorted(NAMES) == sorted(tiered_cache.__all__) == dir(tiered_cache)
    for name in NAMES:
        assert getattr(tiered_cache, name).__doc__


def test_a_name_that_is_not_there_is_refused_as_usual() -> None:
    """Names that are imported when first asked for do not swallow the mistakes."""
    with pytest.raises(AttributeError, match="^module 'tiered_cache' has no attribute 'RedisTeir'$"):
        tiered_cache.RedisTeir  # noqa: B018


def test_the_methods_of_the_cache() -> None:
    """Each with a docstring."""
    public = {name for name in dir(TieredCache) if not name.startswith("_")}
    assert METHODS == public
    for name in METHODS:
        assert getattr(TieredCache, name).__doc__


def test_the_names_of_the_other_modules() -> None:
    """For tests, for Lambda, for parts of one's own."""
    assert {"FakeClock", "InMemorySharedTier"} <= set(tiered_cache.testing.__all__)
    assert callable(tiered_cache.aws_lambda.lambda_handler)
    parts = {"Carrier", "Clock", "LoadContext", "ObjectLoader", "SharedStore", "SharedTier"}
    parts |= {"BatchContext", "BatchLoader", "BatchObjectLoader"}
    protocol = {"Claim", "Filled", "Invalidation", "Kind", "Lease", "News", "Reply", "Right"}
    assert parts | protocol == set(tiered_cache.interfaces.__all__)


def test_every_error_is_of_one_family() -> None:
    """`except TieredCacheError` catches each; some are also what Python's own would be."""
    errors = {
        name: getattr(tiered_cache, name)
        for name in NAMES
        if isinstance(getattr(tiered_cache, name), type) and issubclass(getattr(tiered_cache, name), Exception)
    }
    assert 14 == len(errors)
    assert all(issubclass(error, tiered_cache.TieredCacheError) for error in errors.values())
    also = {
        "ConfigurationError": ValueError,
        "ClosedError": RuntimeError,
        "ReentrantLoadError": RuntimeError,
        "LoadTimeout": TimeoutError,
        "NotFound": KeyError,
        "SerializationError": ValueError,
        "OriginDenied": tiered_cache.OriginError,
        "OriginThrottled": tiered_cache.OriginError,
        "OriginMalformed": tiered_cache.OriginError,
        "SizeLimitExceeded": tiered_cache.OriginError,
    }
    for name, base in also.items():
        assert issubclass(errors[name], base)


def test_a_star_import_gives_the_names() -> None:
    """Those of `__all__`, the lazily imported one included."""
    code = "from tiered_cache import *; print(RedisTier.__name__, TieredCache.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "RedisTier TieredCache\n" == done.stdout


def test_missing_is_one_false_value_that_says_its_name() -> None:
    """It is not None, and survives being looked at."""
    assert not tiered_cache.MISSING
    assert "MISSING" == repr(tiered_cache.MISSING) == str(tiered_cache.MISSING)
    assert "fresh" == str(tiered_cache.Reason.FRESH) == tiered_cache.Reason.FRESH


def test_what_is_shown_of_values_is_short_and_safe() -> None:
    """No value, no key, no validator."""
    assert "Loaded(<str>, ttl=5.0, tags=1)" == repr(tiered_cache.Loaded("secret", ttl=5, tags=("t",), etag="e"))
    assert "LoadContext(stale=False, validator=False)" == repr(tiered_cache.LoadContext("secret"))
    assert "no such thing" == str(tiered_cache.NotFound("no such thing"))
