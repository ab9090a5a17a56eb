"""What RedisTier keeps, gives back, and refuses to take for its own."""

from __future__ import annotations

import pickle
import threading
from contextlib import ExitStack
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import redis
from rig import delete, leased, write

from tiered_cache import ConfigurationError, MemoryTier, Reason, RedisTier, SerializationError, TieredCache
from tiered_cache._entry import Entry
from tiered_cache._l2.codec import MsgpackCodec
from tiered_cache._l2.envelope import Kind, Stored, seal
from tiered_cache._reply import ABSENT, UNREACHED, Filled
from tiered_cache.interfaces import SharedStore
from tiered_cache.local.proxy import FaultProxy
from tiered_cache.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rig import Rig

    from tiered_cache._l2.store import RedisStore
    from tiered_cache.local.valkey import ValkeyServer

NOW = 1_800_000_000.0


@pytest.fixture
def admin(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    """An ordinary client, to look and to spoil."""
    with redis.Redis(port=valkey.port) as client:
        yield client


@pytest.fixture
def store_of(valkey: ValkeyServer) -> Iterator[Callable[..., RedisStore]]:
    tiers: list[RedisTier] = []

    def make(namespace: str = "test", **options: Any) -> RedisStore:
        tiers.append(RedisTier(valkey.url, **({"ttl": "1h", "timeout": 20} | options)))
        return tiers[-1].bind(namespace)

    yield make
    for tier in tiers:
        tier.close()


@pytest.fixture
def store(store_of: Callable[..., RedisStore]) -> RedisStore:
    return store_of()


def entry(value: Any, **facts: Any) -> Entry:
    return Entry(value, **({"loaded_at": NOW, "fresh_for": 60.0} | facts))


class Exotic:
    """Nothing that a codec could carry."""


VALUES: list[Any] = [
    None,
    True,
    0,
    -(2**70),
    1.5,
    float("inf"),
    "text \0\n\u202e\U0001f600",
    "",
    b"\0\xff",
    [1, [2, [3]]],
    (1, (2,)),
    {1, 2},
    frozenset({"a"}),
    {"a": 1, 2: "b", None: [], (1, 2): {}},
    Decimal("3.1400"),
    date(2026, 2, 28),
    time(12, 30, tzinfo=UTC),
    datetime(2026, 2, 28, 12, 0, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    timedelta(days=-1, microseconds=1),
    UUID(int=7),
]


@pytest.mark.parametrize("value", VALUES, ids=ascii)
def test_a_value_comes_back_equal_and_of_its_type(store: RedisStore, value: Any) -> None:
    """Every type that the codec carries makes the round trip through a server."""
    assert write(store, "key", entry(value), NOW) is Filled.KEPT
    found = store.read("key", NOW, None).entry
    assert found is not None
    assert (found.value, type(found.value)) == (value, type(value))


class Counting(MsgpackCodec):
    """The default codec, which counts what it decodes."""

    __slots__ = ("decoded",)

    def decode(self, data: bytes | memoryview, /) -> Any:
        self.decoded = getattr(self, "decoded", 0) + 1
        return super().decode(data)


def decoded(codec: Any) -> int:
    return getattr(codec, "decoded", 0)


@pytest.mark.parametrize("many", [False, True])
def test_what_l1_has_is_not_decoded_again(valkey: ValkeyServer, many: bool) -> None:
    """While L2 holds the same load's value, L1's is confirmed by its header; what another has set since is read."""
    clock, codec = FakeClock(), Counting()
    options = {"clock": clock, "refresh": "inline", "coherence": "ttl"}
    one = TieredCache(MemoryTier(ttl=10, jitter=0), RedisTier(valkey.url, ttl="1h", timeout=20, codec=codec), **options)
    two = TieredCache(MemoryTier(ttl=10, jitter=0), RedisTier(valkey.url, ttl="1h", timeout=20), **options)

    def read(cache: TieredCache) -> Any:
        if many:
            return cache.get_many_or_load(["k"], lambda _: pytest.fail("loaded"))["k"]
        return cache.get_or_load("k", lambda: pytest.fail("loaded"))

    with one, two:
        two.set("k", ["first"])
        first = read(one)
        assert decoded(codec) == 1
        for _ in range(3):
            clock.advance(20)
            assert read(one) is first
        assert (decoded(codec), one.stats().l2.hits) == (1, 4)
        two.set("k", ["second"])
        clock.advance(20)
        assert read(one) == ["second"]
        assert decoded(codec) == 2
        clock.advance(5)
        assert read(one) == ["second"]
        assert one.stats().l2.hits == 5


@pytest.fixture
def pair(valkey: ValkeyServer) -> Iterator[tuple[TieredCache, TieredCache, FakeClock]]:
    """Two containers with an L1 ttl of ten seconds."""
    clock = FakeClock()
    with ExitStack() as close:

        def make() -> TieredCache:
            tier = RedisTier(valkey.url, ttl="1h", timeout=20)
            return close.enter_context(TieredCache(MemoryTier(ttl=10, jitter=0), tier, clock=clock, refresh="inline"))

        yield make(), make(), clock


FIRST, SECOND = (Random(seed).randbytes(100_000) for seed in (1, 2))  # which no compression makes smaller
MAY_READ = ["+get", "+hget", "+hmget", "+xrange"]


def sent(admin: redis.Redis) -> int:
    """Bytes that the server has sent so far."""
    return int(admin.info("stats")["total_net_output_bytes"])


def test_a_large_value_that_l1_has_is_not_sent_again(
    pair: tuple[TieredCache, TieredCache, FakeClock], admin: redis.Redis
) -> None:
    """Its header is asked for, and the whole only where that is another's, or another load's."""
    one, two, clock = pair
    two.set("k", FIRST, tags=["t"])
    first = one.get_or_load("k", lambda: pytest.fail("loaded"))
    before = sent(admin)
    for number in range(3):
        clock.advance(20)
        assert one.get_or_load("k", lambda: pytest.fail("loaded")) is first
        assert one.get("k") is first
        one.get_or_load(f"missed {number}", lambda: "for which the lease is asked for at once next time")
    assert sent(admin) - before < 20_000
    two.set("k", SECOND)
    clock.advance(20)
    assert one.get_or_load("k", lambda: pytest.fail("loaded")) == SECOND
    assert sent(admin) - before > 100_000
    admin.delete("tc1:{default|k}")
    clock.advance(20)
    assert one.get_or_load("k", lambda: "third") == "third"
    stats = one.stats().l2
    assert stats is not None
    assert (stats.errors, stats.unreadable) == ({}, {})


def test_a_large_value_is_given_up_with_its_tag(pair: tuple[TieredCache, TieredCache, FakeClock]) -> None:
    """What L1 has of it is judged by what the same round trip tells of the log, as any other value."""
    one, two, clock = pair
    two.set("k", FIRST, tags=["t"])
    one.get_or_load("k", lambda: pytest.fail("loaded"))
    clock.advance(20)
    two.invalidate_tag("t")
    with one.invocation():
        assert one.get_or_load("k", lambda: "new") == "new"


@pytest.mark.parametrize("fault", ["refuse", "reset"])
def test_a_large_value_that_l1_has_is_served_unconfirmed(valkey: ValkeyServer, fault: str) -> None:
    """Where L2 is away: after one try, and not one for the header and one for the whole."""
    clock = FakeClock()
    with FaultProxy(valkey.host, valkey.port) as proxy:
        tier = RedisTier(f"redis://127.0.0.1:{proxy.port}", ttl="1h", timeout=20)
        with TieredCache(MemoryTier(ttl=10, jitter=0), tier, clock=clock, refresh="inline") as cache:
            cache.set("k", FIRST)
            clock.advance(20)
            getattr(proxy, fault)()
            proxy.kill_all()
            answer = cache.get_entry_or_load("k", lambda: pytest.fail("loaded"))
            assert (answer.value, answer.reason) == (FIRST, Reason.UNCONFIRMED)
            stats = cache.stats().l2
            assert stats is not None
            assert sum(stats.errors.values()) == 1


def test_who_may_read_only_whole_values_reads_them_whole(server: ValkeyServer) -> None:
    """An ACL without GETRANGE costs the look at the header, and nothing else."""
    clock = FakeClock()
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~tc1:*", *MAY_READ)
    urls = [f"redis://{who}127.0.0.1:{server.port}" for who in ("", "reader:pw@")]
    writer, reader = (
        TieredCache(MemoryTier(ttl=10, jitter=0), RedisTier(url, ttl="1h", timeout=20), clock=clock) for url in urls
    )
    with writer, reader:
        writer.set("k", FIRST)
        assert reader.get("k") == FIRST
        clock.advance(20)
        assert reader.get("k") == FIRST
        writer.set("k", SECOND)
        clock.advance(20)
        assert reader.get("k") == SECOND


def test_the_facts_of_an_entry_come_back(store: RedisStore) -> None:
    """Times, validators, tags and 'not found' are kept with the value."""
    facts = {
        "fresh_for": 60.5,
        "stale_while_revalidate": 10.25,
        "stale_if_error": 3600.0,
        "load_time": 0.125,
        "etag": '"abc"',
        "last_modified": "Mon, 02 Feb 2026 00:00:00 GMT",
        "tags": ("customers", "kunden\u00e4"),
        "negative": True,
    }
    write(store, "key", entry("gone", **facts), NOW)
    found = store.read("key", NOW, None).entry
    assert found is not None
    assert {name: getattr(found, name) for name in facts} == facts
    assert found.loaded_at == NOW


KEYS = [
    "k",
    "a:b/c",
    "with space",
    "nul\0",
    "line\r\nfeed",
    "brace}{",
    "pipe|",
    "\u202ertl",
    "\U0001f600",
    "#" + 40 * "0",
    "k" * 512,
    "k" * 513,
    "\u00e4" * 300,
    "k" * 100_000,
]


def test_keys_of_every_kind_are_told_apart(store: RedisStore) -> None:
    """NUL, line ends, braces, right-to-left marks, emoji and great lengths are all just keys."""
    for number, key in enumerate(KEYS):
        assert write(store, key, entry(number), NOW) is Filled.KEPT
    found = store.read_many(KEYS, NOW, None)[0]
    assert [reply.entry and reply.entry.value for reply in found.values()] == list(range(len(KEYS)))
    for key in KEYS:
        assert delete(store, key, now=NOW)
    assert set(store.read_many(KEYS, NOW, None)[0].values()) == {ABSENT}


def test_a_keys_name_in_the_server(store: RedisStore, admin: redis.Redis) -> None:
    """A key stands readable in a hash tag with its namespace; above 512 bytes its BLAKE2b hash stands for it."""
    write(store, "k", entry(1), NOW)
    write(store, "k" * 513, entry(1), NOW)
    hashed, plain = sorted(admin.scan_iter())
    assert plain == b"tc1:{test|k}"
    assert hashed.startswith(b"tc1:{test|#")
    assert len(hashed) == len("tc1:{test|#}") + 40


def test_hashed_keys_are_not_readable(store_of: Callable[..., RedisStore], admin: redis.Redis) -> None:
    """With hash_keys no name in the server shows a key, and all works the same."""
    store = store_of(hash_keys=True)
    write(store, "customer-4711", entry("value"), NOW)
    assert [name for name in admin.scan_iter() if b"customer" in name] == []
    assert store.read("customer-4711", NOW, None).entry is not None
    assert delete(store, "customer-4711", now=NOW)
    assert sorted(admin.scan_iter()) == [b"tc1:{test|}:log", b"tc1:{test|}:marks"]
    assert b"customer" not in repr(admin.xrange("tc1:{test|}:log")).encode()


@pytest.mark.parametrize(("windows", "life"), [((0, 0), 60), ((30, 10), 90), ((10, 600), 660)])
def test_an_entry_lives_in_the_server_until_it_is_past_all_its_windows(
    store: RedisStore, admin: redis.Redis, windows: tuple[float, float], life: float
) -> None:
    """The expiry is set for the rest of the entry's whole life, counted from when its load began."""
    stale = {"stale_while_revalidate": windows[0], "stale_if_error": windows[1]}
    write(store, "key", entry(1, **stale), NOW + 20)
    assert 1000 * (life - 20) - 20_000 < admin.pttl("tc1:{test|key}") <= 1000 * (life - 20)


def test_what_is_past_its_life_is_not_written(store: RedisStore, admin: redis.Redis) -> None:
    """A load that took longer than its value lives leaves nothing in L2."""
    assert write(store, "key", entry(1), NOW + 60) is Filled.NOT_KEPT
    assert admin.dbsize() == 0


def test_large_values_are_compressed(store_of: Callable[..., RedisStore], admin: redis.Redis) -> None:
    """From compress_above bytes on zlib makes a value smaller; None leaves it as it is."""
    value = ["the same again"] * 5000
    sizes = {}
    for name, above in (("default", "16 KiB"), ("never", None), ("later", "1 MiB")):
        store = store_of(name, compress_above=above)
        write(store, "key", entry(value), NOW)
        found = store.read("key", NOW, None).entry
        assert found is not None
        assert found.value == value
        sizes[name] = admin.strlen(f"tc1:{{{name}|key}}")
    assert sizes["default"] < 5_000 < 70_000 < sizes["never"] == sizes["later"]


def test_a_value_of_megabytes_makes_the_round_trip(store_of: Callable[..., RedisStore]) -> None:
    """Many sends and receives make one call."""
    store = store_of(compress_above=None)
    value = [bytes([i]) * 1_000_000 for i in range(12)]
    assert write(store, "key", entry(value), NOW) is Filled.KEPT
    found = store.read("key", NOW, None).entry
    assert found is not None
    assert found.value == value


def test_a_value_that_is_too_large_is_neither_written_nor_read(store_of: Callable[..., RedisStore]) -> None:
    """max_value_bytes holds in both directions, each with a counter."""
    small, large = store_of(max_value_bytes="1 KiB"), store_of()
    assert write(small, "key", entry("x" * 2000), NOW) is Filled.NOT_KEPT
    assert small.stats(NOW).errors == {"too_large": 1}
    write(large, "key", entry("x" * 2000), NOW)
    assert small.read("key", NOW, None) == ABSENT
    assert small.stats(NOW).unreadable == {"too_large": 1}


def test_a_value_that_cannot_be_carried_is_an_error_of_the_write(store: RedisStore, admin: redis.Redis) -> None:
    """SerializationError names the path and is counted; no lease is left, nor what is older."""
    write(store, "key", entry("older"), NOW)
    with pytest.raises(SerializationError, match="Exotic"):
        write(store, "key", entry({"a": [Exotic()]}), NOW)
    with pytest.raises(SerializationError, match="tag"):
        write(store, "key", entry(1, tags=("t" * 70_000,)), NOW)
    assert store.stats(NOW).unserializable == 2
    assert admin.dbsize() == 0


def test_of_many_values_only_those_are_left_out_that_cannot_be_carried(
    store: RedisStore, admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """fill_many sends what it can in one round trip, says what it left out, and gives up all leases."""
    entries = {"a": entry(1), "b": entry(Exotic()), "c": entry(3), "d": entry(4, fresh_for=0)}
    filled = [(leased(store, key, NOW), one) for key, one in entries.items()]
    kept, not_kept = Filled.KEPT, Filled.NOT_KEPT
    assert store.fill_many(filled, NOW) == {"a": kept, "b": not_kept, "c": kept, "d": not_kept}
    assert sorted(admin.scan_iter()) == [b"tc1:{test|a}", b"tc1:{test|c}"]
    assert not any(lease.held for lease, _ in filled)
    assert (store.stats(NOW).writes, store.stats(NOW).unserializable) == (2, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert store.fill_many([], NOW) == {}
    assert store.read_many([], NOW, None) == ({}, None)
    assert delete(store, now=NOW)


class Reversing:
    """A codec of one's own, for text."""

    id = 200

    def encode(self, value: Any, /) -> bytes:
        return bytes(reversed(value.encode()))  # AttributeError for what is no text

    def decode(self, data: bytes | memoryview, /) -> Any:
        return bytes(reversed(data)).decode()


def test_a_codec_of_ones_own(store_of: Callable[..., RedisStore], admin: redis.Redis) -> None:
    """It is used in both directions; what it fails with is a SerializationError that says no more than its type."""
    store = store_of(codec=Reversing())
    write(store, "key", entry("abc"), NOW)
    assert b"cba" in (admin.get("tc1:{test|key}") or b"")
    found = store.read("key", NOW, None).entry
    assert found is not None
    assert found.value == "abc"
    with pytest.raises(SerializationError, match="the codec failed with AttributeError"):
        write(store, "key", entry(5), NOW)
    assert store.stats(NOW).unserializable == 1


def test_entries_of_another_codec_are_misses(store_of: Callable[..., RedisStore]) -> None:
    """A codec's id is stored with each entry, and another one's entries are not even decoded."""
    own, other = store_of(codec=Reversing()), store_of()
    write(own, "key", entry("abc"), NOW)
    assert other.read("key", NOW, None) == ABSENT
    assert other.stats(NOW).unreadable == {"codec": 1}


class Nameless(Reversing):
    id = 0


class Careless(Reversing):
    def encode(self, value: Any, /) -> Any:
        return value


@pytest.mark.parametrize("codec", ["pickle", "json", pickle, object(), Nameless()], ids=lambda codec: str(codec)[:9])
def test_what_is_no_codec_is_refused(codec: Any) -> None:
    """B23: no name chooses a codec, pickle least of all; an object must have all three parts."""
    with pytest.raises(ConfigurationError, match="codec"):
        RedisTier("redis://cache", ttl=60, codec=codec)


def test_a_codec_that_gives_no_bytes_fails_the_write_alone(store_of: Callable[..., RedisStore]) -> None:
    """What is wrong with a codec does not reach the reader of a value as anything but a SerializationError."""
    with pytest.raises(SerializationError):
        write(store_of(codec=Careless()), "key", entry("text"), NOW)


def envelope(key: str, payload: bytes, codec_id: int = 1, namespace: str = "test") -> bytes:
    stored = Stored(
        f"{namespace}|{key}", Kind.VALUE, NOW, 60.0, 0.0, 0.0, 0.0, (0, 0), None, None, (), codec_id, payload
    )
    return seal(stored, compress_above=None)


WHOLE = envelope("key", b"\xa3abc")
FOREIGN = {
    "empty": (b"", "not_ours"),
    "text": (b"hello", "not_ours"),
    "json": (b'{"a": 1}', "not_ours"),
    "pickle": (pickle.dumps(SystemExit), "not_ours"),
    "msgpack": (b"\x81\xa1a\x01", "not_ours"),
    "a later version": (WHOLE[:3] + b"\x02" + WHOLE[4:], "version"),
    "another key's": (envelope("yek", b"\xa3abc"), "key"),
    "another namespace's": (envelope("key", b"\xa3abc", namespace="tes"), "key"),
    "another codec's": (envelope("key", b"\xa3abc", 7), "codec"),
    "no msgpack": (envelope("key", b"\xc1"), "codec"),
    "two values": (envelope("key", b"\x01\x02"), "codec"),
    "nested too deep": (envelope("key", b"\x91" * 5000 + b"\x01"), "codec"),
    "a cut header": (WHOLE[:50], "header"),
    "a cut payload": (WHOLE[:-1], "checksum"),
    "a longer payload": (WHOLE + b"\0", "checksum"),
    "a flipped bit": (WHOLE[:-2] + b"B" + WHOLE[-1:], "checksum"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_bytes_under_our_key_are_a_miss(store: RedisStore, admin: redis.Redis, kind: str) -> None:
    """Whatever stands there is counted by what is wrong with it, never taken for a value, never run, never deleted."""
    data, reason = FOREIGN[kind]
    admin.set("tc1:{test|key}", data)
    assert store.read("key", NOW, None) == ABSENT
    assert store.read_many(["key"], NOW, None)[0] == {"key": ABSENT}
    assert store.stats(NOW).unreadable == {reason: 2}
    assert admin.get("tc1:{test|key}") == data


def test_a_foreign_type_under_our_key_is_a_miss(store: RedisStore, admin: redis.Redis) -> None:
    """F28: a list at our key is counted, left alone, and no reason to leave L2 alone. Among many keys it is not there."""
    admin.lpush("tc1:{test|list}", "element")
    write(store, "fine", entry(1), NOW)
    assert store.read("list", NOW, None) == ABSENT
    found = store.read_many(["list", "fine", "nothing"], NOW, None)[0]
    assert [reply.entry is None for reply in found.values()] == [True, False, True]
    stats = store.stats(NOW)
    assert (stats.errors, stats.breaker, stats.misses, stats.hits) == ({"reply": 1}, "closed", 3, 1)
    assert admin.llen("tc1:{test|list}") == 1
    assert write(store, "list", entry(2), NOW) is Filled.KEPT
    found_now = store.read("list", NOW, None).entry
    assert found_now is not None
    assert found_now.value == 2


def test_a_foreign_type_is_counted_where_a_lease_is_asked_for_too(store: RedisStore, admin: redis.Redis) -> None:
    """F28: and the lease is ours, under which the list is overwritten."""
    admin.lpush("tc1:{test|list}", "element")
    assert leased(store, "list", NOW).held
    assert store.stats(NOW).errors == {"reply": 1}


def test_namespaces_are_apart(store_of: Callable[..., RedisStore], valkey: ValkeyServer) -> None:
    """The same key in two namespaces is two entries, also through one tier; an entry that was moved is not believed."""
    one, two = store_of("one"), store_of("two")
    write(one, "key", entry(1), NOW)
    assert two.read("key", NOW, None) == ABSENT
    write(two, "key", entry(2), NOW)
    delete(one, "key", now=NOW)
    found = two.read("key", NOW, None).entry
    assert found is not None
    assert found.value == 2
    tier = RedisTier(valkey.url, ttl=60, timeout=20)
    with (
        TieredCache(MemoryTier(ttl=60), tier, namespace="three") as three,
        TieredCache(l2=tier, namespace="two") as again,
    ):
        three.set("key", 3)
        assert again.get("key", None) != 3
        assert tier.connects == 1


def test_the_counters(store: RedisStore) -> None:
    """Hits, misses, leases, writes, deletes and connections are counted."""
    store.read("key", NOW, None)
    write(store, "key", entry(1), NOW)
    store.read("key", NOW, None)
    store.read_many(["key", "other"], NOW, None)
    delete(store, "key", now=NOW)
    delete(store, "key", "other", now=NOW)
    stats = store.stats(NOW)
    assert (stats.hits, stats.misses, stats.leases, stats.writes, stats.deletes) == (2, 3, 1, 1, 3)
    assert (stats.connects, stats.skipped, stats.errors, stats.unreadable, stats.breaker) == (1, 0, {}, {}, "closed")


def test_many_keys_take_one_connection_and_one_exchange(store: RedisStore, admin: redis.Redis) -> None:
    """A thousand keys are asked for in one go."""
    keys = [f"key-{number}" for number in range(1000)]
    leases = [leased(store, key, NOW) for key in keys]
    assert set(store.fill_many([(lease, entry(lease.key)) for lease in leases], NOW).values()) == {Filled.KEPT}
    before = admin.info("stats")["total_reads_processed"]
    found = store.read_many(keys, NOW, None)[0]
    after = admin.info("stats")["total_reads_processed"]
    assert [reply.entry and reply.entry.value for reply in found.values()] == keys
    assert after - before < 20  # a read of the server takes 16 KiB
    assert store.stats(NOW).connects == 1


def test_sixteen_threads_share_the_tier(store: RedisStore) -> None:
    """Every thread gets its own replies, over no more connections than there are threads."""
    wrong: list[object] = []
    start = threading.Barrier(16)

    def work(number: int) -> None:
        start.wait()
        for turn in range(60):
            key = f"key-{number}-{turn % 7}"
            write(store, key, entry(key), NOW)
            found = store.read(key, NOW, None).entry
            if found is None or found.value != key:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = store.stats(NOW)
    assert (wrong, stats.errors, stats.breaker) == ([], {}, "closed")
    assert stats.connects <= 16


def test_warming_up_connects(store: RedisStore, store_of: Callable[..., RedisStore]) -> None:
    """After warm_up the first read has a connection; without a server it says so."""
    assert store.warm_up(NOW)
    store.read("key", NOW, None)
    assert store.stats(NOW).connects == 1
    nobody = RedisTier("unix:///nowhere", ttl=60).bind("test")
    assert not nobody.warm_up(NOW)
    assert nobody.read("key", NOW, None) == UNREACHED


def test_a_closed_tier_gives_back_its_connections(store: RedisStore, admin: redis.Redis) -> None:
    """close() may be called twice, before any use too, and a later call connects anew."""
    store.close()
    store.read("key", NOW, None)
    store.close()
    store.close()
    assert store.read("key", NOW, None) == ABSENT
    assert store.stats(NOW).connects == 2


def test_a_call_under_way_while_the_tier_is_closed_leaves_no_connection_behind(rig: Rig, valkey: ValkeyServer) -> None:
    """What is in use when close() comes is closed when its call has ended."""
    key = rig.plant()
    assert rig.reads_l2()
    link = rig.tier.link()
    connection = link._checkout(rig.clock())
    rig.tier.close()
    assert len(link._exchange(connection, [(b"GET", b"k")], monotonic() + 20, rig.clock())) == 1
    assert connection._sock is None
    assert rig.ask(key).tier == "l2"


def test_a_redis_store_is_a_shared_store(store: RedisStore) -> None:
    """It has every method of the protocol."""
    assert [name for name in vars(SharedStore) if name[0] != "_" and not callable(getattr(store, name, None))] == []
