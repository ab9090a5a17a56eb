"""RedisTier: the policy of L2, and the entries of one namespace in it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from tiered_cache._entry import START, Entry
from tiered_cache._errors import ConfigurationError, SerializationError
from tiered_cache._l2.address import address_of
from tiered_cache._l2.breaker import Breaker
from tiered_cache._envelope import Kind, Stored, Unreadable, seal, unseal
from tiered_cache._l2.faults import HARMLESS, MISCONFIGURED, WRITES_ONLY, Failure, Unavailable, classify
from tiered_cache._log import log
from tiered_cache._options import flag, number, refuse_unknown_options
from tiered_cache._rules import Freshness, kept_for
from tiered_cache._stats import Counters, SharedStats
from tiered_cache._units import Duration, Size, seconds, shown, size
from tiered_cache._reply import ABSENT, Reply, UNREACHED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from redis import Redis

    from tiered_cache._codec import Codec
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

    def close(self) -> None:
        """Close all connections; a later call would open new ones."""
        if self._link is not None:
            self._link.drop()

    def __repr__(self) -> str:
        return f"RedisTier({self.address.shown}, ttl={self.freshness.ttl:g}, timeout={self.timeout:g})"


def _codec(given: Codec | None) -> Codec:
    if given is None:
        from tiered_cache._codec import MsgpackCodec

        return MsgpackCodec()
    if isinstance(given, str) or not all(callable(getattr(given, name, None)) for name in ("encode", "decode")):
        hint = " Pickle is not on offer: whoever can write to the cache could run code here." if given == "pickle" else ""
        raise ConfigurationError(f"codec must be an object with id, encode and decode; got {shown(given)}.{hint}")
    if not isinstance(getattr(given, "id", None), int) or not 1 <= given.id <= 255:
        raise ConfigurationError("codec.id must be a whole number from 1 to 255, 1 being the built-in msgpack's")
    return given


class RedisStore:
    """The entries of one namespace. No method raises but `write`, and that only SerializationError."""

    def __init__(self, tier: RedisTier, namespace: str) -> None:
        self._tier = tier
        self._prefix = f"tc1:{{{namespace}|"
        self._counts = Counters()

    def read(self, key: str, now: float) -> Reply:
        """What L2 holds under `key`."""
        replies = self._call([("GET", self._name(key))], now)
        return UNREACHED if replies is None else self._opened(key, replies[0], now)

    def read_many(self, keys: Sequence[str], now: float) -> dict[str, Reply]:
        """What L2 holds under `keys`, in one round trip."""
        if not keys:
            return {}
        replies = self._call([("GET", self._name(key)) for key in keys], now)
        if replies is None:
            return dict.fromkeys(keys, UNREACHED)
        return {key: self._opened(key, reply, now) for key, reply in zip(keys, replies, strict=True)}

    def write(self, key: str, entry: Entry, now: float) -> bool:
        """Keep `entry` in L2 until it is past all its windows."""
        if not self._tier.write_breaker.allows(now):
            return False
        commands = self._set(key, entry, now)
        return bool(commands) and self._wrote(self._call(commands, now)) == 1

    def write_many(self, entries: Sequence[tuple[str, Entry]], now: float) -> None:
        """Keep `entries` in L2, in one round trip. What the codec cannot carry is counted and left out."""
        if not self._tier.write_breaker.allows(now):
            return
        commands: list[tuple[Any, ...]] = []
        for key, entry in entries:
            try:
                commands += self._set(key, entry, now)
            except SerializationError as error:
                log().warning("a value stays in L1 alone: %s", error)
        if commands:
            self._wrote(self._call(commands, now))

    def _set(self, key: str, entry: Entry, now: float) -> list[tuple[Any, ...]]:
        """The command that keeps `entry`; none where it is too late for it, or the value is too large."""
        milliseconds = int(1000 * (entry.loaded_at + kept_for(entry) - now))
        if milliseconds <= 0:
            return []
        data = self._sealed(key, entry)
        if len(data) > self._tier.max_value_bytes:
            self._counts["errors.too_large"] += 1
            return []
        return [("SET", self._name(key), data, "PX", milliseconds)]

    def _wrote(self, replies: Sequence[Any] | None) -> int:
        written = 0 if replies is None else sum(reply == b"OK" for reply in replies)
        if written:
            self._counts["writes"] += written
            self._tier.write_breaker.succeeded()
        return written

    def delete(self, key: str, now: float) -> bool:
        """Forget `key` in L2; whether L2 did."""
        replies = self._call([("DEL", self._name(key))], now)
        deleted = replies is not None and isinstance(replies[0], int)
        self._counts["deletes"] += deleted
        return deleted

    def warm_up(self, now: float) -> bool:
        """Import redis and msgpack, and have a connection ready."""
        self._tier.codec.decode(self._tier.codec.encode(None))
        return self._call([("PING",)], now) == [b"PONG"]

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
            connects=0 if self._tier._link is None else self._tier._link.connects,  # noqa: SLF001  # its own tier
        )

    def close(self) -> None:
        """Close the tier's connections."""
        self._tier.close()

    def _name(self, key: str) -> bytes:
        encoded = key.encode()
        if self._tier.hash_keys or len(encoded) > LONGEST_KEY:
            from hashlib import blake2b

            encoded = b"#" + blake2b(encoded, digest_size=20).hexdigest().encode()
        return self._prefix.encode() + encoded + b"}"

    def _call(self, commands: Sequence[tuple[Any, ...]], now: float) -> list[Any] | None:
        """The replies, or None where L2 could not be asked. Each way in which that can be is counted."""
        tier = self._tier
        if not tier.breaker.allows(now):
            self._counts["skipped"] += 1
            return None
        try:
            replies = tier.link().call(commands, now)
        except Unavailable as error:
            self._failed(error, now)
            return None
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        if errors:
            self._failed(classify(errors[0]), now)
        elif tier.breaker.succeeded():
            log().info("L2 %s answers again", tier.address.shown)
        return replies

    def _failed(self, error: Unavailable, now: float) -> None:
        tier, failure = self._tier, error.failure
        self._counts[f"errors.{failure.value}"] += 1
        if failure in HARMLESS:
            return
        if failure is Failure.READ_ONLY:
            tier.link().drop()  # its name may lead to another server by now
        breaker = tier.write_breaker if failure in WRITES_ONLY else tier.breaker
        if breaker.failed(failure, now):
            level = "error" if failure in MISCONFIGURED else "warning"
            getattr(log(), level)("L2 %s is left alone for now: %s (%s)", tier.address.shown, failure.value, error)

    def _sealed(self, key: str, entry: Entry) -> bytes:
        try:
            payload = self._tier.codec.encode(entry.value)
        except SerializationError:
            self._counts["unserializable"] += 1
            raise
        stored = Stored(
            key=key,
            kind=Kind.NEGATIVE if entry.negative else Kind.VALUE,
            loaded_at=entry.loaded_at,
            fresh_for=entry.fresh_for,
            stale_while_revalidate=entry.stale_while_revalidate,
            stale_if_error=entry.stale_if_error,
            load_time=entry.load_time,
            born=START,
            etag=entry.etag,
            last_modified=entry.last_modified,
            tags=entry.tags,
            codec_id=self._tier.codec.id,
            payload=payload,
        )
        return seal(stored, compress_above=self._tier.compress_above)

    def _opened(self, key: str, data: Any, now: float) -> Reply:
        """The entry in what L2 sent, or a miss that is counted by what is wrong with it."""
        if data is None:
            self._counts["misses"] += 1
            return ABSENT
        if not isinstance(data, bytes):
            return ABSENT  # an error reply, counted where it came in
        try:
            stored = unseal(data, key, max_bytes=self._tier.max_value_bytes)
        except Unreadable as error:
            return self._unreadable(error.reason.value)
        if stored.codec_id != self._tier.codec.id:
            return self._unreadable("codec")
        try:
            value = self._tier.codec.decode(stored.payload)
        except Exception:  # noqa: BLE001  # a codec may fail in any way on bytes that it did not write
            return self._unreadable("payload")
        self._counts["hits"] += 1
        return Reply(_entry(stored, value), True)

    def _unreadable(self, reason: str) -> Reply:
        self._counts[f"unreadable.{reason}"] += 1
        return ABSENT


def _entry(stored: Stored, value: Any) -> Entry:
    return Entry(
        value,
        loaded_at=stored.loaded_at,
        fresh_for=stored.fresh_for,
        stale_while_revalidate=stored.stale_while_revalidate,
        stale_if_error=stored.stale_if_error,
        load_time=stored.load_time,
        etag=stored.etag,
        last_modified=stored.last_modified,
        tags=stored.tags,
        negative=stored.kind is Kind.NEGATIVE,
    )
