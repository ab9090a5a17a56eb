"""RedisTier: the policy of L2."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING
from weakref import WeakSet

from tiered_cache._errors import ConfigurationError
from tiered_cache._l2.address import address_of
from tiered_cache._l2.breaker import Breaker
from tiered_cache._l2.store import RedisStore
from tiered_cache._options import flag, freshness, refuse_unknown_options
from tiered_cache._units import Duration, Size, seconds, shown, size

if TYPE_CHECKING:
    from redis import Redis, RedisCluster

    from tiered_cache._l2.cluster import ClusterLink
    from tiered_cache._l2.codec import Codec
    from tiered_cache._l2.credentials import CredentialProvider
    from tiered_cache._l2.link import Link
    from tiered_cache._l2.warming import Warming

IMPORTING = 5.0
"""Seconds for which a fork waits, at most, for an import of redis under way."""


class RedisTier:
    """The policy of L2, shared by all containers: Redis or Valkey, one server, Sentinel or cluster, with or without TLS.

    url_or_client: `redis://`, `rediss://` (TLS), `unix://`; `?cluster=true` for a cluster; or a client that redis-py made,
        whose addresses and credentials are taken and whose timeouts and retries are not: `timeout` rules.
    ttl: how long data are fresh, in every tier, from the moment their load began.
    stale_while_revalidate: for how long after that they are served at once while a refresh is owed.
    stale_if_error: for how long after freshness they cover for a load that fails for a passing reason.
    timeout: seconds that one call may take, from name resolution to the last byte.
    codec: an object with `id`, `encode` and `decode` in place of msgpack with the types that the adapters return.
    compress_above: bytes of payload from which zlib compresses it; None: never.
    jitter: the share of `ttl` by which an entry may be cut short, so that entries do not expire together.
    max_value_bytes: larger payloads are not sent, and larger entries are not read.
    hash_keys: let no key or tag be readable in the server, outside of entries: its BLAKE2b hash stands there. The same in all
        containers of a namespace: one that hashes invalidates nothing for one that does not, nor the other way round.
    lease: for how long a load may keep other containers from loading the same key, where no invocation's deadline is
        known, which counts otherwise. What a longer load brings is returned, and kept in no tier.
    credentials: an object with `get_credentials()`, as redis-py's CredentialProvider, that gives `(user, password)` or
        `(password,)` for each connection that is made, as `adapters.elasticache.ElastiCacheIAM` does.

    Constructing it connects to nothing. Raises ConfigurationError for an option that cannot mean anything, ImportError
    where redis is not installed.
    """

    @refuse_unknown_options
    def __init__(
        self,
        url_or_client: str | Redis | RedisCluster,
        *,
        ttl: Duration,
        stale_while_revalidate: Duration = 0,
        stale_if_error: Duration = 0,
        timeout: Duration = 0.2,
        codec: Codec | None = None,
        compress_above: Size | None = "16 KiB",
        jitter: float = 0.1,
        max_value_bytes: Size = "32 MiB",
        hash_keys: bool = False,
        lease: Duration = "5m",
        credentials: CredentialProvider | None = None,
    ) -> None:
        self.freshness = freshness(ttl, stale_while_revalidate, stale_if_error, jitter)
        self.timeout = seconds("timeout", timeout)
        self.compress_above = None if compress_above is None else size("compress_above", compress_above)
        self.max_value_bytes = size("max_value_bytes", max_value_bytes)
        self.hash_keys = flag("hash_keys", hash_keys)
        self.lease = seconds("lease", lease)
        self.codec = _codec(codec)
        self.address = address_of(url_or_client, credentials)
        self._link: Link | ClusterLink | None = None
        self.link_lock = threading.Lock()
        self.warming: Warming | None = None
        self.suspend()
        _TIERS.add(self)

    def bind(self, namespace: str) -> RedisStore:
        """The part of this tier that belongs to `namespace`."""
        return RedisStore(self, namespace)

    def link(self) -> Link | ClusterLink:
        """The connections, made when first asked for: this imports redis."""
        if self._link is None:
            with self.link_lock:
                if self._link is None:
                    self._link = self.address.link(self.timeout)
        return self._link

    @property
    def has_link(self) -> bool:
        """Whether redis is imported, and connections could be made."""
        return self._link is not None

    @property
    def connects(self) -> int:
        """Connections made so far."""
        return 0 if self._link is None else self._link.connects

    def thawed(self, now: float) -> None:
        """The container may have been frozen for long until `now`: what idled has perhaps died, and what failed is perhaps
        well again. Closes the one before it is used, and lets a call through to the other.
        """
        if self._link is not None:
            self._link.thawed(now)
        self.breaker.half_open()
        self.write_breaker.half_open()

    def suspend(self) -> None:
        """Close all connections, and forget what a copy of this process must not share, such as what is known of servers.

        For a snapshot that is about to be taken. Later calls begin as the first one did. A warm-up under way is waited for,
        for `timeout` at most, so that it does not go on in the copies.
        """
        if self.warming is not None:
            self.warming.joined(self.warming.begins, self.timeout)
            self.warming = None
        self.breaker = Breaker()
        self.write_breaker = Breaker()
        if self._link is not None:
            self._link.begin_anew()

    def forked(self) -> None:
        """This is a child process: sockets are the parent's, and a lock may be held by a thread that is not here."""
        self.link_lock = threading.Lock()
        self.warming = None
        self.suspend()

    def close(self) -> None:
        """Close all connections; a later call would open new ones."""
        if self._link is not None:
            self._link.drop()

    def __repr__(self) -> str:
        return f"RedisTier({self.address.shown}, ttl={self.freshness.ttl:g}, timeout={self.timeout:g})"


_TIERS: WeakSet[RedisTier] = WeakSet()
_HELD: dict[int, list[threading.Lock]] = {}
"""By thread: the locks that it holds over its fork."""


def _about_to_fork() -> None:
    """Let no link be in the making: the child would wait for ever for the lock of a module half imported in the parent."""
    making = [tier.link_lock for tier in list(_TIERS) if not tier.has_link]
    _HELD[threading.get_ident()] = [lock for lock in making if lock.acquire(timeout=IMPORTING)]


def _have_forked() -> None:
    for lock in _HELD.pop(threading.get_ident(), ()):
        lock.release()


def _forked() -> None:
    _HELD.clear()
    for tier in list(_TIERS):
        tier.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_about_to_fork, after_in_parent=_have_forked, after_in_child=_forked)


def _codec(given: Codec | str | None) -> Codec:
    if given is None:
        from tiered_cache._l2.codec import MsgpackCodec

        return MsgpackCodec()
    if isinstance(given, str) or not all(callable(getattr(given, name, None)) for name in ("encode", "decode")):
        hint = " Pickle is not on offer: who can write to the cache could run code here." if given == "pickle" else ""
        raise ConfigurationError(f"codec must be an object with id, encode and decode; got {shown(given)}.{hint}")
    if not isinstance(getattr(given, "id", None), int) or not 1 <= given.id <= 255:
        raise ConfigurationError("codec.id must be a whole number from 1 to 255, 1 being the built-in msgpack's")
    return given
