"""The public names with the types that a user expects. Read by type checkers, never run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, assert_type

import cachetools

from tiered_cache import (
    MISSING,
    Answer,
    AsyncTieredCache,
    ClosedError,
    ConfigurationError,
    InvalidationNotDelivered,
    LoadContext,
    Loaded,
    LoadPending,
    LoadTimeout,
    MemoryStats,
    MemoryTier,
    NotFound,
    OriginDenied,
    OriginError,
    OriginMalformed,
    OriginStats,
    OriginThrottled,
    Reason,
    RedisTier,
    ReentrantLoadError,
    SerializationError,
    SharedStats,
    SizeLimitExceeded,
    Stats,
    TieredCache,
    TieredCacheError,
)
from tiered_cache.aws_lambda import lambda_handler
from tiered_cache.interfaces import BatchContext, Carrier, Clock, ObjectLoader, Reply, SharedStore, SharedTier
from tiered_cache.testing import FakeClock, InMemorySharedTier

# Tiers and their options

MemoryTier(ttl=60)
MemoryTier(ttl=1.5, stale_while_revalidate="30s", stale_if_error=timedelta(hours=1))
MemoryTier(ttl="1m", max_bytes="64 MiB", max_entries=10, policy="lru", jitter=0.2, share="copy", detect_mutation=True)
MemoryTier(ttl="1m", max_bytes=2**20, policy=cachetools.LFUCache, sizer=len)
RedisTier("rediss://cache:6379", ttl="1h", stale_while_revalidate="10m", stale_if_error="1d", timeout=0.1, jitter=0)

tier: SharedTier = RedisTier("redis://localhost", ttl=60)
tier = InMemorySharedTier(ttl=60)
store: SharedStore = tier.bind("orders")
assert_type(store.read("k", 0.0, None), Reply)
clock: Clock = FakeClock()


class Later:
    """A carrier."""

    def submit(self, work: Callable[[], None], /) -> None:
        work()


carrier: Carrier = Later()
cache = TieredCache(
    MemoryTier(ttl=60),
    tier,
    namespace="orders",
    negative_ttl="10s",
    coherence="invocation",
    refresh=carrier,
    clock=clock,
    on_failure="queue",
    soft_timeout="40%",
    hard_timeout=timedelta(seconds=5),
    early_refresh=1,
    error_backoff=2,
    stale_ok=True,
)
TieredCache()
TieredCache(l1=MemoryTier(ttl=60), l2=None, coherence=5, refresh="inline")
TieredCache(refresh="after_response").after_response(print, 1, sep="")
TieredCache(refresh="next_invocation").after_response(len)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
TieredCache(MemoryTier(ttl=1), refresh="positional after the tiers is refused")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# Reading and writing


class Rates:
    """A loader with a context."""

    def load(self, context: LoadContext, /) -> Any:
        assert_type(context.key, str)
        assert_type(context.etag, str | None)
        assert_type(context.last_modified, str | None)
        assert_type(context.handle, str | None)
        assert_type(context.generation, str)
        assert_type(context.remaining(), float | None)
        if context.stale is not MISSING and context.etag:
            return context.not_modified()
        if context.handle is None:
            return context.pending("query-1")
        if context.remaining() == 0:
            return context.skip({})
        return Loaded({"EUR": 1}, ttl="5m", tags=("rates",), etag='"1"', last_modified="Mon, 01 Jan 2024 00:00:00 GMT")


loader: ObjectLoader = Rates()
value: dict[str, int] = cache.get_or_load("rates", loader)
cache.get_or_load("k", lambda: 1, ttl=5, tags=["a"], scope="invocation", force_refresh=True, stale_ok=False)
cache.get_or_load("k", int, soft_timeout=1, hard_timeout="80%", early_refresh=0, negative_ttl=None, error_backoff=0)
cache.get_or_load("k", int, tll=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
cache.get_or_load("k", int, scope="forever")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
cache.get_or_load(1, int)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

answer = cache.get_entry_or_load("k", loader)
assert_type(answer, Answer)
assert_type(answer.tier, Literal["l1", "l2", "origin"])
assert_type(answer.age, float)
assert_type(answer.stale, bool)
assert_type(answer.reason, Reason)
value_, tier_, age_, stale_, reason_ = answer


def customers(keys: Sequence[str]) -> Mapping[str, Any]:
    return dict.fromkeys(keys, Loaded(1, ttl=5))


assert_type(cache.get_many_or_load(["a", "b"], customers, ttl=5), dict[str, Any])


class Customers:
    """A batch loader with a context."""

    def load_many(self, keys: Sequence[str], context: BatchContext, /) -> Mapping[str, Any]:
        assert_type(context.remaining(), float | None)
        return customers(keys)


assert_type(cache.get_many_or_load(["a", "b"], Customers()), dict[str, Any])
cache.get_many_or_load(["a", "b"], object())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
cache.get("k")
cache.get("k", None)
assert_type(cache.set("k", object(), ttl="1m", tags=("a",)), None)
assert_type(cache.delete("k"), None)
assert_type(cache.warm_up(), bool)
assert_type(cache.close(), None)
assert_type(repr(MISSING), str)
with cache as entered:
    assert_type(entered, TieredCache)


# Decorators


@cache.cached("customer:{customer_id}", ttl="5m")
def customer(customer_id: int, *, region: str = "eu") -> dict[str, str]:
    return {"id": str(customer_id), "region": region}


@cache.cached()
def rate(currency: str) -> float:
    return float(len(currency))


assert_type(customer(7, region="us"), dict[str, str])
assert_type(customer.cache_key(7), str)
assert_type(rate("EUR"), float)
customer("seven")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@lambda_handler(cache, after_response=True, reserve="500ms")
def handler(event: dict[str, Any], context: object) -> str:
    return str(event) + str(context)


assert_type(handler({}, None), str)
with cache.invocation(lambda: 2.5):
    pass
with cache.invocation():
    pass

# Counters

stats = cache.stats()
assert_type(stats, Stats)
assert_type(stats.l1, MemoryStats)
assert_type(stats.l2, SharedStats | None)
assert_type(stats.origin, OriginStats)
assert_type(stats.l1.hits, int)
assert_type(stats.origin.seconds, float)
if stats.l2 is not None:
    assert_type(stats.l2.errors, Mapping[str, int])

# Errors

errors: list[type[TieredCacheError]] = [
    ClosedError,
    ConfigurationError,
    InvalidationNotDelivered,
    LoadPending,
    LoadTimeout,
    NotFound,
    OriginError,
    ReentrantLoadError,
    SerializationError,
]
assert_type(LoadPending("later", retry_after=2.5).retry_after, float)
of_origins: list[type[OriginError]] = [OriginDenied, OriginMalformed, OriginThrottled, SizeLimitExceeded]
also: list[type[KeyError | TimeoutError | ValueError | RuntimeError]] = [
    NotFound,
    LoadTimeout,
    ConfigurationError,
    ClosedError,
]

# In an event loop

asynchronous = AsyncTieredCache(MemoryTier(ttl=60), tier, namespace="orders", refresh="after_response")


async def rates() -> dict[str, float]:
    return {"EUR": 1.0}


@asynchronous.cached("customer:{number}")
async def customer_of(number: int) -> str:
    return str(number)


@lambda_handler(asynchronous)
def handle(event: Any, context: Any) -> str:
    return asyncio.run(main())


async def main() -> str:
    found: dict[str, float] = await asynchronous.get_or_load("rates", rates, ttl="5m")
    assert_type(await asynchronous.get_entry_or_load("rates", rates), Answer)
    assert_type(await asynchronous.get_many_or_load(["a"], lambda keys: dict.fromkeys(keys, 1)), dict[str, Any])
    assert_type(await customer_of(7), str)
    await asynchronous.delete(customer_of.cache_key(7))
    await asynchronous.get_or_load("rates", rates, tll=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    return str(found)
