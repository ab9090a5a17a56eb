"""RedisTier: the policy of L2, and the entries of one namespace in it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from tiered_cache._errors import ConfigurationError, SerializationError
from tiered_cache._l2.address import address_of
from tiered_cache._l2.breaker import Breaker
from tiered_cache._l2.envelope import Unreadable
from tiered_cache._l2.faults import HARMLESS, MISCONFIGURED, WRITES_ONLY, Failure, Unavailable
from tiered_cache._l2.record import opened, sealed
from tiered_cache._log import log, warn_once
from tiered_cache._options import flag, number, refuse_unknown_options
from tiered_cache._reply import ABSENT, UNREACHED, Reply
from tiered_cache._rules import Freshness, kept_for
from tiered_cache._stats import Counters, SharedStats
from tiered_cache._units import Duration, Size, seconds, shown, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

    from tiered_cache._entry import Entry
    from tiered_cache._l2.codec import Codec
    from tiered_cache._l2.link import Link

LONGEST_KEY = 512
"""Bytes of a key above which its hash stands in its place; the whole key is inside the envelope and is compared."""


class RedisTier:
    """The policy of L2, shared by all containers: Redis or Valkey, one server, with or without TLS.

    url_or_client: `redis://`, `rediss://` (TLS), `unix://`, or a `redis.Redis`, whose address and credentials are taken
        and whose timeouts and retries are not: `timeout` rules.
    ttl: how long data are fresh, in every tier, from the moment their load began.
    stale_while_revalidate: for how long after that they are served at once while a refresh is owed.
    stale_if_error: for how long after freshness they cover for a load that fails for a passing reason.
    timeout: seconds that one call may take, from name resolution to the last byte.
    codec: an object with `id`, `encode` and `decode` in place of msgpack with the types that the adapters return.
    compress_above: bytes of payload from which zlib compresses it; None: never.
    jitter: the share of `ttl` by which an entry may be cut short, so that entries do not expire together.
    max_value_bytes: larger payloads are not sent, and larger entries are not read.
    hash_keys: let no key be readable in the server: its BLAKE2b hash stands there.

    Constructing it connects to nothing. Raises ConfigurationError for an option that cannot mean anything, ImportError
    where redis is not installed.
    """

    @refuse_unknown_options
    def __init__(
        self,
        url_or_client: str | Redis,
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
    ) -> None:
        self.freshness = Freshness(
            seconds("ttl", ttl),
            seconds("stale_while_revalidate", stale_while_revalidate, zero=True),
            seconds("stale_if_error", stale_if_error, zero=True),
            number("jitter", jitter, 0, 0.9),
        )
        self.timeout = seconds("timeout", timeout)
        self.compress_above = None if compress_above is None else size("compress_above", compress_above)
        self.max_value_bytes = size("max_value_bytes", max_value_bytes)
        self.hash_keys = flag("hash_keys", hash_keys)
        self.codec = _codec(codec)
        self.address = address_of(url_or_client)
        self.breaker = Breaker()
        self.write_breaker = Breaker()
        self._link: Link | None = None
        self._link_lock = threading.Lock()

    def bind(self, namespace: str) -> RedisStore:
        """The part of this tier that belongs to `namespace`."""
        return RedisStore(self, namespace)

    def link(self) -> Link:
        """The connections, made when first asked for: this imports redis."""
        if self._link is None:
            with self._link_lock:
                if self._link is None:
                    from tiered_cache._l2.link import Link

                    self._link = Link(self.address.maker(self.timeout), self.timeout)
        return self._link

    @property
    def connects(self) -> int:
        """Connections made so far."""
        return 0 if self._link is None else self._link.connects

    def close(self) -> None:
        """Close all connections; a later call would open new ones."""
        if self._link is not None:
            self._link.drop()

    def __repr__(self) -> str:
        return f"RedisTier({self.address.shown}, ttl={self.freshness.ttl:g}, timeout={self.timeout:g})"


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


class RedisStore:
    """The entries of one namespace. No method raises but `write`, and that only SerializationError."""

    def __init__(self, tier: RedisTier, namespace: str) -> None:
        self._tier = tier
        self._prefix = f"tc1:{{{namespace}|".encode()
        self._counts = Counters()

    def read(self, key: str, now: float) -> Reply:
        """What L2 holds under `key`."""
        replies = self._call([(b"GET", self._name(key))], now)
        return UNREACHED if replies is None else self._opened(key, replies[0])

    def read_many(self, keys: Sequence[str], now: float) -> dict[str, Reply]:
        """What L2 holds under `keys`, in one round trip."""
        if not keys:
            return {}
        replies = self._call([(b"GET", self._name(key)) for key in keys], now)
        if replies is None:
            return dict.fromkeys(keys, UNREACHED)
        return {key: self._opened(key, reply) for key, reply in zip(keys, replies, strict=True)}

    def write(self, key: str, entry: Entry, now: float) -> bool:
        """Keep `entry` in L2 until it is past all its windows."""
        return self._takes_writes(now) and self._send(self._set(key, entry, now), now)

    def write_many(self, entries: Sequence[tuple[str, Entry]], now: float) -> None:
        """Keep `entries` in L2, in one round trip. What the codec cannot carry is counted and left out."""
        if not self._takes_writes(now):
            return
        commands: list[tuple[bytes, ...]] = []
        for key, entry in entries:
            try:
                commands += self._set(key, entry, now)
            except SerializationError as error:
                warn_once("a value stays in L1 alone: %s", error)
        self._send(commands, now)

    def _takes_writes(self, now: float) -> bool:
        """Whether a value is worth encoding: not while a breaker is open."""
        is_open = "open" in (self._tier.breaker.state(now), self._tier.write_breaker.state(now))
        self._counts["skipped"] += is_open
        return not is_open

    def _set(self, key: str, entry: Entry, now: float) -> list[tuple[bytes, ...]]:
        """The command that keeps `entry`; none where it is too late for it, or the value is too large."""
        milliseconds = int(1000 * (entry.loaded_at + kept_for(entry) - now))
        if milliseconds <= 0:
            return []
        data = self._sealed(key, entry)
        if len(data) > self._tier.max_value_bytes:
            self._counts["errors.too_large"] += 1
            return []
        return [(b"SET", self._name(key), data, b"PX", b"%d" % milliseconds)]

    def _send(self, commands: Sequence[tuple[bytes, ...]], now: float) -> bool:
        """Send SET commands; whether there were any and L2 took all of them."""
        if not commands:
            return False
        if not self._tier.write_breaker.allows(now):
            self._counts["skipped"] += 1
            return False
        replies = self._call(commands, now, writes=True)
        if replies is None:
            return False
        written = sum(self._is_done(reply, reply == b"OK") for reply in replies)
        self._counts["writes"] += written
        if written and self._tier.write_breaker.succeeded():
            log().info("L2 %s takes writes again", self._tier.address.shown)
        return written == len(replies)

    def delete(self, key: str, now: float) -> bool:
        """Forget `key` in L2; whether L2 did."""
        return self.delete_many((key,), now)

    def delete_many(self, keys: Sequence[str], now: float) -> bool:
        """Forget `keys` in L2, in one round trip; whether L2 did."""
        if not keys:
            return True
        replies = self._call([(b"DEL", *map(self._name, keys))], now)
        if replies is None or not self._is_done(replies[0], isinstance(replies[0], int)):
            return False
        self._counts["deletes"] += len(keys)
        return True

    def warm_up(self, now: float) -> bool:
        """Import redis and msgpack, and have a connection ready."""
        self._tier.codec.decode(self._tier.codec.encode(None))
        replies = self._call([(b"GET", self._name("warm_up"))], now)  # not PING, which an ACL may forbid
        return replies is not None and not isinstance(replies[0], Unavailable)

    def stats(self, now: float) -> SharedStats:
        """The counters of this namespace."""
        counts = self._counts
        return SharedStats(
            hits=counts["hits"],
            misses=counts["misses"],
            writes=counts["writes"],
            deletes=counts["deletes"],
            skipped=counts["skipped"],
            errors=counts.group("errors"),
            unreadable=counts.group("unreadable"),
            unserializable=counts["unserializable"],
            breaker=self._tier.breaker.state(now),
            connects=self._tier.connects,
        )

    def close(self) -> None:
        """Close the tier's connections."""
        self._tier.close()

    def _name(self, key: str) -> bytes:
        encoded = key.encode()
        if self._tier.hash_keys or len(encoded) > LONGEST_KEY:
            from hashlib import blake2b

            encoded = b"#" + blake2b(encoded, digest_size=20).hexdigest().encode()
        return self._prefix + encoded + b"}"

    def _call(self, commands: Sequence[tuple[bytes, ...]], now: float, *, writes: bool = False) -> list[Any] | None:
        """The replies, or None where L2 could not be asked. Each way in which that can be is counted."""
        tier = self._tier
        if not tier.breaker.allows(now):
            self._counts["skipped"] += 1
            return None
        try:
            replies = tier.link().call(commands, now)
        except Unavailable as error:
            self._failed(error, tier.breaker, now)
            return None
        answers = True
        for reply in replies:
            if isinstance(reply, Unavailable):
                answers &= self._refused(reply, now, writes=writes)
        if answers and tier.breaker.succeeded():
            log().info("L2 %s answers again", tier.address.shown)
        return replies

    def _refused(self, error: Unavailable, now: float, *, writes: bool) -> bool:
        """Count an error reply, and draw the breaker that it concerns; whether reads may go on."""
        failure = error.failure
        if failure in HARMLESS:
            self._counts[f"errors.{failure.value}"] += 1
            return True
        if failure is Failure.READ_ONLY:
            self._tier.link().drop()  # its name may lead to another server by now
        if failure in WRITES_ONLY or (writes and failure is Failure.PERMISSION):
            self._failed(error, self._tier.write_breaker, now)
            return True
        self._failed(error, self._tier.breaker, now)
        return False

    def _failed(self, error: Unavailable, breaker: Breaker, now: float) -> None:
        failure = error.failure
        self._counts[f"errors.{failure.value}"] += 1
        if breaker.failed(failure, now):
            say = log().error if failure in MISCONFIGURED else log().warning
            what = "is left alone" if breaker is self._tier.breaker else "is read only"
            say("L2 %s %s for now: %s (%s)", self._tier.address.shown, what, failure.value, error)

    def _is_done(self, reply: Any, is_expected: bool) -> bool:
        if not is_expected and not isinstance(reply, Unavailable):
            self._counts[f"errors.{Failure.PROTOCOL.value}"] += 1
        return is_expected

    def _sealed(self, key: str, entry: Entry) -> bytes:
        try:
            return sealed(key, entry, self._tier.codec, compress_above=self._tier.compress_above)
        except SerializationError:
            self._counts["unserializable"] += 1
            raise

    def _opened(self, key: str, data: Any) -> Reply:
        """The entry in what L2 sent, or a miss that is counted by what is wrong with it."""
        if data is None:
            self._counts["misses"] += 1
            return ABSENT
        if isinstance(data, Unavailable):
            return ABSENT if data.failure in HARMLESS else UNREACHED
        try:
            entry = opened(key, data, self._tier.codec, max_bytes=self._tier.max_value_bytes)
        except Unreadable as error:
            self._counts[f"unreadable.{error.reason.value}"] += 1
            return ABSENT
        self._counts["hits"] += 1
        return Reply(entry, True)
