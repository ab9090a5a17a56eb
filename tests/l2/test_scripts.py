"""The steps of the protocol as a real server does them: leases, fills, rewrites, and the log with its markers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis
from rig import delete, leased, wait_until, write

from tiered_cache import RedisTier
from tiered_cache._entry import START, Birth, Entry
from tiered_cache._l2.log import MOST_NEWS
from tiered_cache._news import EVERYTHING, Invalidation, Kind
from tiered_cache._reply import UNREACHED, Claim, Filled, Lease, Right

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rig import Rig

    from tiered_cache._l2.store import RedisStore
    from tiered_cache._news import News
    from tiered_cache.local.valkey import ValkeyServer

NOW = 1_800_000_000.0
LOG, MARKS = "tc1:{test|}:log", "tc1:{test|}:marks"
VALUE, LEASE = "tc1:{test|key}", "tc1:{test|key}:lease"


@pytest.fixture
def admin(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    """An ordinary client, to look and to spoil."""
    with redis.Redis(port=valkey.port) as client:
        yield client


@pytest.fixture
def store_of(valkey: ValkeyServer) -> Iterator[Callable[..., RedisStore]]:
    tiers: list[RedisTier] = []

    def make(**options: Any) -> RedisStore:
        tiers.append(RedisTier(valkey.url, **({"ttl": "1h", "timeout": 20} | options)))
        return tiers[-1].bind("test")

    yield make
    for tier in tiers:
        tier.close()


@pytest.fixture
def store(store_of: Callable[..., RedisStore]) -> RedisStore:
    return store_of()


@pytest.fixture
def other(store_of: Callable[..., RedisStore]) -> RedisStore:
    """Another container's."""
    return store_of()


def entry(value: Any = "v", **facts: Any) -> Entry:
    return Entry(value, **({"loaded_at": NOW, "fresh_for": 600.0} | facts))


def lease_of(token: bytes, key: str = "key", seconds: float = 60.0) -> Lease:
    return Lease(key, token, seconds)


def look(store: RedisStore, since: Any = START, *tags: str) -> News:
    news = store.look(since, tags, NOW)
    assert news is not None
    return news


def invalidate(store: RedisStore, *what: Invalidation, since: Any = START) -> News:
    news = store.invalidate(what, since, NOW, None)
    assert news is not None
    return news


def of_key(name: str) -> Invalidation:
    return Invalidation(Kind.KEY, name)


def of_tag(name: str) -> Invalidation:
    return Invalidation(Kind.TAG, name)


# Leases


def test_the_lease_of_what_is_missing(store: RedisStore, other: RedisStore, admin: redis.Redis) -> None:
    """The first who asks has it, for as long as it says; the next is told that it is taken."""
    mine, late = lease_of(b"mine"), lease_of(b"late")
    assert store.ask(mine, Claim.MISSING, NOW, None)[:3] == (None, True, Right.MINE)
    assert other.ask(late, Claim.MISSING, NOW, None)[:3] == (None, True, Right.TAKEN)
    assert (mine.held, late.held) == (True, False)
    assert admin.get(LEASE) == b"mine"
    assert 50_000 < admin.pttl(LEASE) <= 60_000
    assert (store.stats(NOW).leases, other.stats(NOW).leases) == (1, 0)


def test_where_there_is_a_value_no_lease_is_taken_unless_it_is_claimed(
    store: RedisStore, other: RedisStore, admin: redis.Redis
) -> None:
    """MISSING gives the value alone, ALWAYS the value and the lease, if nobody has it."""
    write(store, "key", entry(), NOW)
    found = store.ask(lease_of(b"a"), Claim.MISSING, NOW, None)
    assert (found.entry and found.entry.value, found.right) == ("v", Right.UNASKED)
    assert admin.exists(LEASE) == 0
    for asker, token, right in ((store, b"b", Right.MINE), (other, b"c", Right.TAKEN)):
        found = asker.ask(lease_of(token), Claim.ALWAYS, NOW, None)
        assert (found.entry and found.entry.value, found.right) == ("v", right)


def test_a_lease_that_is_asked_for_again_is_still_ones_own(store: RedisStore) -> None:
    """As after a reply that was lost: the token tells."""
    for claim in (Claim.MISSING, Claim.ALWAYS, Claim.SEIZE):
        again = lease_of(b"mine")
        assert store.ask(again, claim, NOW, None).right is Right.MINE
        assert again.held


def test_a_lease_that_is_seized_is_lost_to_who_had_it(store: RedisStore, other: RedisStore) -> None:
    """Its fill is refused, the other's is kept, and its release lets the other's be."""
    old, new = leased(store, "key", NOW), lease_of(b"new")
    assert other.ask(new, Claim.MISSING, NOW, None).right is Right.TAKEN
    assert other.ask(new, Claim.SEIZE, NOW, None).right is Right.MINE
    store.release([Lease("key", old.token, 60.0)], NOW, drop=True)
    assert store.fill(old, entry("old"), NOW) is Filled.REFUSED
    assert not old.held
    assert other.fill(new, entry("new"), NOW) is Filled.KEPT
    found = store.read("key", NOW, None).entry
    assert found is not None
    assert found.value == "new"


def test_a_lease_that_is_released_is_to_be_had(store: RedisStore, admin: redis.Redis) -> None:
    """`drop`: the value goes with it; without, it stays."""
    write(store, "key", entry(), NOW)
    for drop in (False, True):
        lease = lease_of(b"mine")
        assert store.ask(lease, Claim.ALWAYS, NOW, None).right is Right.MINE
        store.release([lease], NOW, drop=drop)
        assert not lease.held
        assert (admin.exists(LEASE), admin.exists(VALUE)) == (0, not drop)


def test_a_lease_ends_by_itself(store: RedisStore, other: RedisStore) -> None:
    """Then another may have it, and what its holder brings is refused."""
    late = lease_of(b"late", seconds=0.02)
    store.ask(late, Claim.MISSING, NOW, None)
    new = lease_of(b"new")
    wait_until(lambda: other.ask(new, Claim.MISSING, NOW, None).right is Right.MINE)
    assert store.fill(late, entry("late"), NOW) is Filled.REFUSED
    assert other.fill(new, entry("new"), NOW) is Filled.KEPT


def test_many_leases_are_one_round_trip(store: RedisStore, other: RedisStore) -> None:
    """Each has its own answer."""
    write(store, "there", entry(), NOW)
    leased(other, "taken", NOW)
    leases = [lease_of(b"mine", key) for key in ("there", "taken", "free")]
    rights = {key: reply.right for key, reply in store.ask_many(leases, Claim.MISSING, NOW, None)[0].items()}
    assert rights == {"there": Right.UNASKED, "taken": Right.TAKEN, "free": Right.MINE}
    assert [lease.held for lease in leases] == [False, False, True]
    store.release(leases, NOW, drop=False)
    assert other.ask(lease_of(b"x", "free"), Claim.MISSING, NOW, None).right is Right.MINE
    assert other.ask(lease_of(b"x", "taken"), Claim.MISSING, NOW, None).right is Right.TAKEN


def test_leases_where_nobody_answers(rig_of: Callable[..., Rig], nobody: int) -> None:
    """None is to be had; while L2 is left alone, none is asked for."""
    store = rig_of(f"redis://127.0.0.1:{nobody}").tier.bind("test")
    leases = [lease_of(b"mine", key) for key in "ab"]
    for _ in range(2):
        assert store.ask(leases[0], Claim.SEIZE, NOW, None) == UNREACHED
        assert store.ask_many(leases, Claim.SEIZE, NOW, None) == (dict.fromkeys("ab", UNREACHED), None)
        assert not any(lease.held for lease in leases)
    assert store.stats(NOW).errors == {"refused": 1}


def test_a_lease_shows_no_key_and_no_token() -> None:
    """It may come into a log."""
    assert repr(lease_of(b"secret")) == "Lease(held=False, seconds=60)"


# Fills


def test_a_fill_keeps_the_value_and_gives_up_the_lease(store: RedisStore, admin: redis.Redis) -> None:
    """With the position at which its load began."""
    lease = leased(store, "key", NOW)
    assert store.fill(lease, entry(birth=Birth((7, 9), 3)), NOW) is Filled.KEPT
    assert not lease.held
    assert admin.exists(LEASE) == 0
    found = store.read("key", NOW, None).entry
    assert found is not None
    assert (found.born, found.since) == ((7, 9), 0)


@pytest.mark.parametrize("by", ["deletion", "expiry of the lease", "expire"])
def test_a_fill_after_the_lease_was_lost_is_refused(
    store: RedisStore, other: RedisStore, admin: redis.Redis, by: str
) -> None:
    """No tier is to keep what was loaded, and what stands in L2 stays."""
    lease = leased(store, "key", NOW)
    if by == "deletion":
        assert delete(other, "key", now=NOW)
    elif by == "expire":
        invalidate(other, Invalidation(Kind.EXPIRED, "key"))
    else:
        admin.delete(LEASE)
    assert store.fill(lease, entry(), NOW) is Filled.REFUSED
    assert not lease.held
    assert admin.exists(VALUE) == 0
    assert store.stats(NOW).writes == 0


def test_a_fill_that_the_server_has_no_room_for(server: ValkeyServer) -> None:
    """It is not kept, the lease is given up, and writes pause."""
    tier = RedisTier(server.url, ttl=60, timeout=20)
    store = tier.bind("test")
    lease = leased(store, "key", NOW)
    with redis.Redis(port=server.port) as admin:
        admin.config_set("maxmemory", 1)
        assert store.fill(lease, entry(), NOW) is Filled.NOT_KEPT
        assert admin.exists(LEASE, VALUE) == 0
    assert store.stats(NOW).errors == {"out_of_memory": 1}
    assert tier.write_breaker.state(NOW) == "open"
    tier.close()


def test_a_deletion_that_takes_the_lease_keeps_it(store: RedisStore, other: RedisStore, admin: redis.Redis) -> None:
    """As for set(): whoever held it, it is ours in the step that forgets the value."""
    write(store, "key", entry("old"), NOW)
    theirs, mine = lease_of(b"theirs"), lease_of(b"mine")
    other.ask(theirs, Claim.ALWAYS, NOW, None)
    assert store.invalidate([of_key("key")], START, NOW, mine) is not None
    assert mine.held
    assert (admin.get(LEASE), admin.exists(VALUE)) == (b"mine", 0)
    assert other.fill(theirs, entry("theirs"), NOW) is Filled.REFUSED
    assert store.fill(mine, entry("mine"), NOW) is Filled.KEPT


# Expiring


def test_to_expire_is_to_rewrite_the_header(store: RedisStore, other: RedisStore, admin: redis.Redis) -> None:
    """The payload stays; the value is not fresh for any host, and covers for a failing load from now on."""
    windows = {"stale_while_revalidate": 50.0, "stale_if_error": 100.0}
    write(store, "key", entry(["payload"], **windows), NOW)
    before = admin.get(VALUE)
    lease = lease_of(b"theirs")
    other.ask(lease, Claim.ALWAYS, NOW, None)
    invalidate(store, Invalidation(Kind.EXPIRED, "key"))
    after = admin.get(VALUE)
    assert before is not None
    assert after is not None
    assert before != after
    assert before[200:] == after[200:]
    assert admin.exists(LEASE) == 0
    found = other.read("key", NOW, None).entry
    assert found is not None
    assert found.value == ["payload"]
    held_for = NOW - found.loaded_at
    assert (found.fresh_for, found.stale_while_revalidate, found.stale_if_error) == (0.0, 0.0, 100.0 + held_for)


def test_to_expire_what_is_not_there_is_no_error(store: RedisStore, admin: redis.Redis) -> None:
    """The record is told to the others all the same: their L1 may have it."""
    found = invalidate(store, Invalidation(Kind.EXPIRED, "key"))
    assert admin.exists(VALUE) == 0
    assert [what for _, what in look(store, (found.end[0], found.end[0])).records] == [
        Invalidation(Kind.EXPIRED, "key")
    ]


def test_to_expire_what_is_no_entry_is_to_delete_it(store: RedisStore, admin: redis.Redis) -> None:
    """Nothing there may be served."""
    admin.set(VALUE, b"x" * 500)
    invalidate(store, Invalidation(Kind.EXPIRED, "key"))
    assert admin.exists(VALUE) == 0


def test_to_expire_a_foreign_type_is_to_delete_it(store: RedisStore, admin: redis.Redis) -> None:
    """F28: it must not keep this invalidation, and all that wait beside it, from being delivered."""
    admin.lpush(VALUE, "element")
    assert store.invalidate([Invalidation(Kind.EXPIRED, "key"), of_key("other")], START, NOW, None) is not None


def meanwhile(store: RedisStore, act: Callable[[], None], times: int = 1) -> None:
    """Do `act` between the reading of a header and its rewriting, so many times."""
    link = store._tier.link()
    call = link.call
    left = [times]

    def interrupted(commands: Sequence[tuple[bytes, ...]], *rest: Any) -> list[Any]:
        replies = call(commands, *rest)
        if commands[0][0] == b"GETRANGE" and left[0]:
            left[0] -= 1
            act()
        return replies

    link.call = interrupted  # type: ignore[method-assign]


def test_a_value_that_is_written_while_it_is_expired_is_expired_too(store: RedisStore, other: RedisStore) -> None:
    """The header that was read stands there no longer, so it is read anew."""
    write(store, "key", entry("old", stale_if_error=100.0), NOW)
    meanwhile(store, lambda: write(other, "key", entry("new", fresh_for=700.0, stale_if_error=100.0), NOW))
    invalidate(store, Invalidation(Kind.EXPIRED, "key"))
    found = other.read("key", NOW, None).entry
    assert found is not None
    assert (found.value, found.fresh_for) == ("new", 0.0)


def test_a_value_that_is_written_again_and_again_while_it_is_expired_is_deleted(
    store: RedisStore, other: RedisStore
) -> None:
    """After so many tries."""
    write(store, "key", entry("old"), NOW)
    numbers = iter(range(700, 800))
    meanwhile(store, lambda: write(other, "key", entry("new", fresh_for=next(numbers)), NOW), times=100)
    invalidate(store, Invalidation(Kind.EXPIRED, "key"))
    assert other.read("key", NOW, None).entry is None
    assert next(numbers) == 703


def test_a_value_that_goes_while_it_is_expired_is_gone(store: RedisStore, other: RedisStore) -> None:
    """And that is well."""
    write(store, "key", entry("old"), NOW)
    meanwhile(store, lambda: delete(other, "key", now=NOW))
    invalidate(store, Invalidation(Kind.EXPIRED, "key"))
    assert other.read("key", NOW, None).entry is None


# The log


def test_the_first_look_opens_the_log(store: RedisStore, other: RedisStore, admin: redis.Redis) -> None:
    """For all: the next one finds it, and can follow it from there."""
    first = look(store)
    assert (first.followed, first.records, first.cleared) == (False, (), (first.end[0], 0))
    assert first.end[0] == first.end[1] > 0
    assert admin.xlen(LOG) == 1
    second = look(other)
    assert (second.end, second.followed) == (first.end, False)
    again = look(other, first.end)
    assert (again.end, again.followed, again.records) == (first.end, True, ())


def test_what_is_invalidated_stands_in_the_log(store: RedisStore, other: RedisStore) -> None:
    """Who invalidates hears of it too, with all that others did before; ids grow."""
    since = look(store).end
    what = [of_key("key"), of_tag("t"), Invalidation(Kind.EXPIRED, "e"), EVERYTHING]
    own = invalidate(store, *what[:2], since=since)
    assert [one for _, one in own.records] == what[:2]
    both = invalidate(other, *what[2:], since=since)
    assert [one for _, one in both.records] == what
    ids = [at for at, _ in both.records]
    assert since < ids[0] == ids[1] == own.end < ids[2] == ids[3] == both.end
    assert look(other, own.end).records == both.records[2:]
    assert look(store, both.end).records == ()


def test_more_names_than_fit_one_round_trip(store: RedisStore, admin: redis.Redis) -> None:
    """A thousand at a time, all of them."""
    since = look(store).end
    names = [f"key-{number}" for number in range(2500)]
    news = invalidate(store, *map(of_key, names), since=since)
    assert [one.name for _, one in news.records] == names
    assert (admin.xlen(LOG), store.stats(NOW).deletes) == (1 + 3, 2500)
    nothing = store.invalidate([], since, NOW, None)
    assert nothing is not None
    assert (nothing.end, nothing.followed) == (since, True)


def test_a_log_that_was_trimmed_behind_us_can_be_followed(store: RedisStore, admin: redis.Redis) -> None:
    """Each record says what came before it, so it is known that nothing is missed."""
    since = invalidate(store, of_key("a")).end
    invalidate(store, of_key("b"))
    admin.xtrim(LOG, maxlen=1, approximate=False)
    news = look(store, since)
    assert (news.followed, [one for _, one in news.records]) == (True, [of_key("b")])


@pytest.mark.parametrize("tags", [(), ("t",)], ids=["plain", "with tags"])
def test_a_log_that_was_trimmed_past_us_cannot(store: RedisStore, admin: redis.Redis, tags: tuple[str, ...]) -> None:
    """Its end is known, and when everything was invalidated."""
    since = look(store).end
    cleared = invalidate(store, EVERYTHING).end
    end = invalidate(store, of_key("b")).end
    admin.xtrim(LOG, maxlen=1, approximate=False)
    news = look(store, since, *tags)
    assert (news.followed, news.records, news.end, news.cleared) == (False, (), end, cleared)


@pytest.mark.parametrize("more", [0, 1])
def test_who_has_missed_too_much_does_not_read_it_all(store: RedisStore, more: int) -> None:
    """A thousand records are read at most; with one more, the log counts as one that cannot be followed."""
    since = look(store).end
    for number in range(MOST_NEWS + more):
        invalidate(store, of_key(str(number)))
    for news in (look(store, since), look(store, since, "t")):
        assert (news.followed, len(news.records)) == ((False, 0) if more else (True, MOST_NEWS))


@pytest.mark.parametrize("lost", [(LOG, MARKS), (MARKS,), (LOG,)], ids=["both", "markers", "log"])
@pytest.mark.parametrize("tags", [(), ("t",)], ids=["plain", "with tags"])
def test_a_log_that_was_lost_begins_anew(
    store: RedisStore, other: RedisStore, admin: redis.Redis, lost: tuple[str, ...], tags: tuple[str, ...]
) -> None:
    """Whichever half was lost: at the next invalidation, if not before, a new epoch tells everybody."""
    since = invalidate(store, of_tag("t"), EVERYTHING).end
    admin.delete(*lost)
    invalidate(other, of_key("key"))
    news = look(store, since, *tags)
    assert (news.followed, news.records) == (False, ())
    assert news.end[0] > since[0]
    assert news.markers == dict.fromkeys(tags, (news.end[0], 0))
    assert news.cleared == (news.end[0], 0)
    assert look(store, news.end).followed


def test_a_lost_log_is_noticed_by_a_look_alone(store: RedisStore, admin: redis.Redis) -> None:
    """Where the markers went with it; where they are there, nothing was missed yet."""
    since = look(store).end
    admin.delete(LOG)
    assert look(store, since).followed
    admin.delete(LOG, MARKS)
    news = look(store, since)
    assert (news.followed, news.end[0] > since[0]) == (False, True)


def test_a_log_of_another_make_begins_anew(store: RedisStore, admin: redis.Redis) -> None:
    """Such as one that was copied from another place, or restored: its records are none of the markers' epoch."""
    since = look(store).end
    admin.delete(LOG)
    admin.xadd(LOG, {"o": ""}, id="5-5")
    news = invalidate(store, of_key("key"), since=since)
    assert (news.followed, news.end[0] > since[0]) == (False, True)


def test_the_log_is_bounded(store: RedisStore, admin: redis.Redis) -> None:
    """To ten thousand records or a few more."""
    look(store)
    epoch = admin.hget(MARKS, "epoch")
    assert epoch is not None
    with admin.pipeline(transaction=False) as pipeline:
        for number in range(1, 12_001):
            pipeline.xadd(LOG, {"p": "0-0", "k": "x"}, id=f"{epoch.decode()}-{int(epoch) + number}")
        pipeline.execute()
    invalidate(store, of_key("key"))
    assert 10_000 <= admin.xlen(LOG) < 10_200


@pytest.mark.parametrize("field", [{"z": "of a later version"}, {b"k": b"\xff"}], ids=["kind", "name"])
def test_a_record_that_is_not_understood_is_of_everything(
    store: RedisStore, admin: redis.Redis, field: dict[Any, Any]
) -> None:
    """Better too much than too little."""
    since = look(store).end
    at = f"{since[0]}-{since[1] + 1}"
    admin.xadd(LOG, {"p": f"{since[0]}-{since[1]}", **field}, id=at)
    admin.hset(MARKS, "end", at)
    for news in (look(store, since), look(store, since, "t")):
        assert (news.followed, [one for _, one in news.records]) == (True, [EVERYTHING])


def test_a_log_that_is_none_fails_the_looks_alone(store: RedisStore, admin: redis.Redis) -> None:
    """A foreign type under the log's name is counted, values are read, and an invalidation is not delivered."""
    write(store, "key", entry(), NOW)
    admin.set(LOG, "text")
    assert store.look(START, (), NOW) is None
    assert store.look(START, ("t",), NOW) is None
    reply = store.read("key", NOW, START)
    assert (reply.entry is None, reply.news) == (False, None)
    assert store.invalidate([of_key("another")], START, NOW, None) is None
    assert (store.stats(NOW).errors, store.stats(NOW).breaker) == ({"reply": 5}, "closed")


@pytest.mark.parametrize("end", ["junk", "1", "1-x"])
def test_an_end_that_is_none_is_counted_and_looked_for_anew(store: RedisStore, admin: redis.Redis, end: str) -> None:
    """The script does not go by it."""
    since = look(store).end
    admin.hset(MARKS, "end", end)
    invalidated = look(store, since)
    assert (invalidated.end, invalidated.followed) == (since, True)


# Markers


def test_a_tags_last_invalidation_is_told(store: RedisStore, other: RedisStore) -> None:
    """With the log's news, in one step; for a tag that never was, there is none."""
    since = look(store).end
    invalidate(other, of_tag("t"), of_tag("s"))
    at = invalidate(other, of_tag("t")).end
    news = look(store, since, "t", "s", "never")
    assert news.followed
    assert news.markers["t"] == at == news.end
    assert news.markers["s"] == news.records[0][0] < at
    assert news.markers["never"] == (since[0], 0)
    assert news.cleared == (since[0], 0)


def test_that_everything_was_invalidated_is_told_to_who_comes_new(store: RedisStore, other: RedisStore) -> None:
    """The last time, whatever came since."""
    invalidate(store, EVERYTHING)
    at = invalidate(store, EVERYTHING).end
    invalidate(store, of_key("key"))
    assert look(other).cleared == at


def test_too_many_markers_become_one(store: RedisStore, admin: redis.Redis) -> None:
    """Each tag then counts as invalidated at that moment; that of everything stays, and the log goes on."""
    since = look(store).end
    cleared = invalidate(store, EVERYTHING).end
    admin.hset(MARKS, mapping={f"t{number}": "1" for number in range(20_000)})
    at = invalidate(store, of_tag("one more")).end
    assert admin.hlen(MARKS) < 10
    news = look(store, since, "one more", "17", "never")
    assert set(news.markers.values()) == {at}
    assert (news.cleared, news.followed) == (cleared, True)
    later = invalidate(store, of_tag("17")).end
    assert look(store, at, "17", "18").markers == {"17": later, "18": at}


# Names


@pytest.mark.parametrize("hash_keys", [False, True])
def test_names_in_the_log(store_of: Callable[..., RedisStore], admin: redis.Redis, hash_keys: bool) -> None:
    """With hash_keys no name stands there readable; a long one never does. Who asks has the same hash."""
    store = store_of(hash_keys=hash_keys)
    since = look(store).end
    names = ["customer-4711", "k" * 513, "\u00e4" * 300, "\u00e4" * 200]
    for name in names:
        news = invalidate(store, of_key(name), of_tag(name), since=since)
        assert [one.name for _, one in news.records[-2:]] == [store.alias(name)] * 2
        assert look(store, since, store.alias(name)).markers[store.alias(name)] == news.end
    hashed = [store.alias(name).startswith("#") for name in names]
    assert hashed == ([True] * 4 if hash_keys else [False, True, True, False])
    stored = repr((admin.xrange(LOG), admin.hgetall(MARKS)))
    assert ("customer" in stored) != hash_keys  # digits alone may stand in an id, which is a time
    assert "k" * 100 not in stored
