"""Other caches, each by its own documented best use, as read-through of one function.

A peer is a class: `in_memory(given)` and `shared(given)` are context managers that give a reader (benchmarks/readers.py).
`given.load` is the function to be cached, a coroutine function for those that are awaited. Where protection against many at once
has a price at each hit, the peer is there twice. Those that share by Redis keep nothing in memory, so that each read goes there.
"""

import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import tiered_cache
from tiered_cache.benchmarks.harness import once
from tiered_cache.benchmarks.readers import Awaited, Called, WithLoader

SIZE = 2_000
TTL = 600
PATIENCE = 5.0
"""Seconds that each may take for Redis, by its own option for that: a machine that stalls for a moment is no outage."""
TIMEOUT = 0.2
"""The same where an outage is what is measured."""


class Given(NamedTuple):
    """load: what is cached. url: of Redis. run: runs a coroutine in the one loop of all that are awaited. size: entries.

    outage: what is measured is how Redis is missed, so that who has an L1 for that may use it. timeout: seconds for Redis.
    """

    load: Callable[..., Any]
    url: str = ""
    run: Callable[..., Any] | None = None
    size: int = SIZE
    outage: bool = False
    timeout: float = PATIENCE


class Peer:
    """awaited: its functions are coroutines. fleet: it says of itself that one of many processes loads."""

    name = ""
    module = "functools"
    awaited = False
    fleet = False

    in_memory = shared = None


class Ours(Peer):
    name, module, fleet = "tiered_cache", "tiered_cache", True

    @contextmanager
    def in_memory(self, given):
        with tiered_cache.TieredCache(tiered_cache.MemoryTier(ttl=TTL), refresh="inline") as cache:
            yield WithLoader(cache.get_or_load, given.load)

    @contextmanager
    def shared(self, given):
        from tiered_cache.benchmarks.l2 import cache_of_a_moment, cache_without_l1

        cache_of = cache_of_a_moment if given.outage else cache_without_l1
        with cache_of(given.url, ttl=TTL, timeout=given.timeout) as cache:
            yield WithLoader(cache.get_or_load, given.load)


class LruCache(Peer):
    name = "functools.lru_cache, no TTL"

    @contextmanager
    def in_memory(self, given):
        yield Called(lru_cache(given.size)(lambda _key: given.load()))


class Cachetools(Peer):
    name, module = "cachetools cached(TTLCache, lock)", "cachetools"

    @contextmanager
    def in_memory(self, given):
        import cachetools

        guard = self._guard()
        yield Called(cachetools.cached(cachetools.TTLCache(given.size, TTL), **guard)(lambda _key: given.load()))

    def _guard(self):
        return {"lock": threading.RLock()}


class CachetoolsCondition(Cachetools):
    """With a condition the others wait while one calls the function."""

    name = "cachetools cached(TTLCache, condition)"

    def _guard(self):
        return {"condition": threading.Condition()}


class Cachebox(Peer):
    name, module = "cachebox cached(TTLCache)", "cachebox"

    @contextmanager
    def in_memory(self, given):
        import cachebox

        yield Called(cachebox.cached(cachebox.TTLCache(given.size, TTL))(lambda _key: given.load()))


class Theine(Peer):
    name, module = "theine Memoize", "theine"

    @contextmanager
    def in_memory(self, given):
        import theine

        cached = theine.Memoize(given.size, timedelta(seconds=TTL))(lambda _key: given.load())
        cached.key(lambda key: key)  # "the recommended mode"
        yield Called(cached)
        cached._cache.close()  # noqa: SLF001  # there is no other way to end its thread


class Moka(Peer):
    name, module = "moka-py get_with", "moka_py"

    @contextmanager
    def in_memory(self, given):
        import moka_py

        yield WithLoader(moka_py.Moka(given.size, ttl=TTL).get_with, given.load)


class Dogpile(Peer):
    name, module, fleet = "dogpile.cache get_or_create", "dogpile.cache", True

    @contextmanager
    def in_memory(self, given):
        region = self._region("dogpile.cache.memory", {})
        yield WithLoader(region.get_or_create, given.load)

    @contextmanager
    def shared(self, given):
        arguments = {
            "url": given.url,
            "redis_expiration_time": 2 * TTL,
            "distributed_lock": True,
            "thread_local_lock": False,
            "lock_timeout": 30,
            "socket_timeout": given.timeout,
            "socket_connect_timeout": given.timeout,
        }
        region = self._region("dogpile.cache.redis", arguments)
        yield WithLoader(region.get_or_create, given.load)
        region.backend.writer_client.close()

    def _region(self, backend, arguments):
        from dogpile.cache import make_region

        return make_region().configure(backend, expiration_time=TTL, arguments=arguments)


class Cashews(Peer):
    name, module, awaited = "cashews cache", "cashews", True
    lock = False

    @contextmanager
    def in_memory(self, given):
        with self._cached(given, f"mem://?size={SIZE}") as reader:
            yield reader

    @contextmanager
    def shared(self, given):
        options = {"socket_timeout": given.timeout, "socket_connect_timeout": given.timeout}
        with self._cached(given, given.url, **options) as reader:
            yield reader

    @contextmanager
    def _cached(self, given, *where, **options):
        from cashews import Cache

        cache = Cache()
        cache.setup(*where, **options)

        @cache(ttl=TTL, key="bench:{key}", lock=self.lock)
        async def read(key):
            return await given.load()

        yield Awaited(read, given.run)
        given.run(cache.close())


class CashewsLock(Cashews):
    """What its documentation names against stampedes, and shares by Redis."""

    name, fleet, lock = "cashews cache(lock=True)", True, True


class Aiocache(Peer):
    name, module, awaited = "aiocache cached", "aiocache", True

    @contextmanager
    def in_memory(self, given):
        from aiocache import Cache

        with self._cached(given, cache=Cache.MEMORY) as reader:
            yield reader

    @contextmanager
    def shared(self, given):
        from urllib.parse import urlsplit

        from aiocache import Cache

        place = urlsplit(given.url)
        options = {"endpoint": place.hostname, "port": place.port, "db": int(place.path[1:]), "timeout": given.timeout}
        with self._cached(given, cache=Cache.REDIS, **options) as reader:
            yield reader

    @contextmanager
    def _cached(self, given, **options):
        @self._decorator(ttl=TTL, key_builder=lambda _function, key: f"bench:{key}", **options)
        async def read(key):
            return await given.load()

        yield Awaited(read, given.run)
        given.run(read.cache.close())

    def _decorator(self, **options):
        from aiocache import cached

        return cached(**options)


class AiocacheStampede(Aiocache):
    """What its documentation names against stampedes. A lease has to be longer than the function takes."""

    name, fleet = "aiocache cached_stampede", True

    def _decorator(self, **options):
        from aiocache import cached_stampede

        return cached_stampede(lease=30, **options)


class Cachekit(Peer):
    name, module = "cachekit", "cachekit"

    @contextmanager
    def in_memory(self, given):
        from cachekit import cache

        yield Called(cache.local(ttl=TTL, max_entries=SIZE)(lambda _key: given.load()))

    @contextmanager
    def shared(self, given):
        def read(key):
            return given.load()

        yield Called(self._production(given)(read))

    def _production(self, given):
        # Read when it is imported, or first used; there is no argument for them.
        names = ("CACHEKIT_SOCKET_TIMEOUT", "CACHEKIT_SOCKET_CONNECT_TIMEOUT")
        os.environ |= dict.fromkeys(names, str(given.timeout))
        from cachekit import cache
        from cachekit.backends.redis import RedisBackend

        return cache.production(ttl=TTL, l1_enabled=False, backend=RedisBackend(given.url))


class CachekitAwaited(Cachekit):
    """Its lock in Redis is taken for coroutine functions only."""

    name, awaited, fleet, in_memory = "cachekit, async", True, True, None

    @contextmanager
    def shared(self, given):
        async def read(key):
            return await given.load()

        yield Awaited(self._production(given)(read), given.run)


class Powertools(Peer):
    name = "Powertools BaseProvider.get(max_age=)"
    module = "aws_lambda_powertools.utilities.parameters"

    @contextmanager
    def in_memory(self, given):
        from aws_lambda_powertools.utilities.parameters import BaseProvider

        class Provider(BaseProvider):
            def _get(self, _name, **_options):
                return given.load()

            def _get_multiple(self, _path, **_options):
                raise NotImplementedError

        provider = Provider()
        yield Called(lambda key: provider.get(key, max_age=TTL))


class RawRedis(Peer):
    name, module = "redis-py GET + unpackb", "redis"

    @contextmanager
    def shared(self, given):
        import msgpack
        import redis

        with redis.Redis.from_url(
            given.url, socket_timeout=given.timeout, socket_connect_timeout=given.timeout, **self._options()
        ) as client:

            def read(key):
                found = client.get(key)
                if found is not None:
                    return msgpack.unpackb(found)
                value = given.load()
                client.set(key, msgpack.packb(value), ex=TTL)
                return value

            yield Called(read)

    def _options(self):
        return {}


class ClientSideRedis(RawRedis):
    """redis-py's own cache of replies, which the server invalidates."""

    name = "redis-py, client-side caching + unpackb"

    def _options(self):
        from redis.cache import CacheConfig

        return {"protocol": 3, "cache_config": CacheConfig()}

    in_memory, shared = RawRedis.shared, None


PEERS = (
    Ours(),
    LruCache(),
    Cachetools(),
    CachetoolsCondition(),
    Cachebox(),
    Theine(),
    Moka(),
    Dogpile(),
    Cashews(),
    CashewsLock(),
    Aiocache(),
    AiocacheStampede(),
    Cachekit(),
    CachekitAwaited(),
    Powertools(),
    RawRedis(),
    ClientSideRedis(),
)


def installed(peer):
    """Whether the peer can be imported; a word where it cannot."""
    try:
        import_module(peer.module)
    except ImportError as error:
        once(f"{peer.name} is skipped: {error}")
        return False
    return True
