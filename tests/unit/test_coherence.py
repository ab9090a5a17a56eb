"""What a container knows of the log of invalidations, what that kills, and when it looks."""

from __future__ import annotations

import threading
from itertools import pairwise
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_cache import MISSING, MemoryTier, TieredCache
from tiered_cache._coherence import RIDE, Follower
from tiered_cache._entry import START, Birth, Entry, Position
from tiered_cache._l1 import invalidation
from tiered_cache._l1.invalidation import Invalidations
from tiered_cache._l1.memory import MemoryStore
from tiered_cache._news import EVERYTHING, Invalidation, Kind, News
from tiered_cache._stats import Counters
from tiered_cache.testing import FakeClock, InMemorySharedTier

T0 = 1_800_000_000.0
WAIT = 60.0
KEY, TAG = Invalidation(Kind.KEY, "k"), Invalidation(Kind.TAG, "t")


def entry(born: Position = START, *tags: str, since: int = 0) -> Entry:
    return Entry("v", loaded_at=T0, fresh_for=60.0, tags=tags, birth=Birth(born, since))


def opened(at: Position = (1, 5), cleared: Position = START, **markers: Position) -> News:
    """The first look of a container, which finds the log at `at`."""
    return News(START, at, followed=False, cleared=cleared, markers=markers)


def followed(since: Position, *records: tuple[Position, Invalidation], end: Position | None = None) -> News:
    """A look that finds these records after `since`."""
    return News(since, end or (records[-1][0] if records else since), followed=True, records=records)


def known(at: Position = (1, 5)) -> Invalidations:
    """What a container knows that has looked once."""
    log = Invalidations()
    assert log.learn(opened(at)) is None
    return log


# What a look brings


def test_with_the_first_look_the_log_is_known_from_there_on() -> None:
    """What is in hand is not to be kept: nobody knows whether it was invalidated; what begins now is."""
    log = Invalidations()
    before = entry()
    assert not log.kills("k", before)
    assert log.learn(opened((1, 5))) is None
    assert (1, 5) == log.position
    assert log.kills("k", before)
    assert not log.kills("k", entry(log.position, since=log.tick))


def test_a_log_that_is_followed_gives_what_is_new() -> None:
    """Once: what another thread has taken over already is not new any more, and the position never goes back."""
    log = known()
    first = followed((1, 5), ((1, 6), KEY), ((1, 7), TAG))
    second = followed((1, 5), ((1, 6), KEY), ((1, 7), TAG), ((1, 9), EVERYTHING))
    assert [KEY, TAG] == log.learn(first)
    assert [EVERYTHING] == log.learn(second)
    assert [] == log.learn(first)
    assert (1, 9) == log.position
    assert [] == log.learn(followed((1, 9)))


def test_a_record_kills_what_was_born_before_it_and_names_it() -> None:
    """By the key, by one of the tags, or all; what was born at the record or after it lives, and so does what it expires."""
    log = known()
    log.learn(followed((1, 5), ((1, 7), KEY), ((1, 8), TAG), ((1, 8), Invalidation(Kind.EXPIRED, "e"))))
    now = log.tick
    assert log.kills("k", entry((1, 6), since=now))
    assert not log.kills("k", entry((1, 7), since=now))
    assert not log.kills("other", entry((1, 6), since=now))
    assert log.kills("other", entry((1, 6), "s", "t", since=now))
    assert not log.kills("other", entry((1, 8), "t", since=now))
    assert not log.kills("e", entry((1, 6), since=now))
    assert log.expires("e", entry((1, 6), since=now))
    assert not log.expires("e", entry((1, 8), since=now))
    log.learn(followed((1, 8), ((1, 9), EVERYTHING)))
    assert log.kills("other", entry((1, 8), since=log.tick))
    assert not log.kills("other", entry((1, 9), since=log.tick))


positions = st.tuples(st.integers(0, 2), st.integers(0, 9))
records = st.builds(Invalidation, st.sampled_from(Kind), st.sampled_from(["k", "j", "t", ""]))
read = st.dictionaries(
    st.sampled_from(["k", "j"]),
    st.builds(
        lambda born, tags, since: entry(born, *tags, since=since), positions, st.sets(st.just("t")), st.integers(0, 9)
    ),
)


@given(st.lists(st.tuples(st.integers(6, 9).map(lambda at: (1, at)), records)), st.lists(records), read, st.booleans())
def test_what_no_invalidation_concerns_needs_no_look_of_its_own(
    told: list[tuple[Position, Invalidation]], here: list[Invalidation], entries: dict[str, Entry], looked: bool
) -> None:
    """Where all of several entries are spared at once, none is killed or no longer fresh by itself."""
    log = Invalidations()
    if looked:
        log.learn(opened((1, 5)))
        log.learn(followed((1, 5), *sorted(told, key=lambda one: one[0])))
    log.note(here)
    if log.spares(entries):
        assert not any(log.kills(key, one) or log.expires(key, one) for key, one in entries.items())
    fresh = {key: entry(log.position, since=log.tick) for key in entries}
    assert here or told or log.spares(fresh)


def test_what_was_born_in_another_log_is_never_spared() -> None:
    """Nor what was born before the last time when everything was cleared."""
    log = known()
    assert log.spares({"k": entry((1, 5), since=log.tick)})
    assert not log.spares({"k": entry((2, 9), since=log.tick)})
    log.learn(followed((1, 5), ((1, 7), EVERYTHING)))
    assert not log.spares({"k": entry((1, 6), since=log.tick)})


def test_what_is_said_to_be_expired_while_it_is_under_way_is_not_kept() -> None:
    """Though its load began after the last record that this container knew of."""
    log = known()
    loading = entry((1, 5), since=log.tick)
    log.learn(followed((1, 5), ((1, 6), Invalidation(Kind.EXPIRED, "k"))))
    assert log.overtakes("k", loading)
    assert not log.overtakes("k", entry(log.position, since=log.tick))


def test_a_gap_puts_all_that_is_under_way_in_doubt() -> None:
    """As one record of everything would; names learnt before are forgotten, and the log is known from here on."""
    log = known()
    log.learn(followed((1, 5), ((1, 6), KEY)))
    loading = entry((1, 6), since=log.tick)
    assert log.learn(News((1, 6), (1, 900), followed=False, cleared=(1, 300))) is None
    assert (1, 900) == log.position
    assert log.kills("k", loading)
    assert log.kills("k", entry((1, 299), since=log.tick))
    assert not log.kills("k", entry((1, 300), since=log.tick))


def test_a_gap_in_which_nothing_was_cleared_puts_what_is_under_way_in_doubt_too() -> None:
    """Of what begins after it, only what the log said before is unknown."""
    log = known()
    loading = entry((1, 5), since=log.tick)
    log.learn(News((1, 5), (1, 900), followed=False))
    assert log.kills("k", loading)
    assert not log.kills("k", entry((1, 5), since=log.tick))


def test_a_gap_does_not_bring_back_what_was_cleared_before_it() -> None:
    """What this container knew of that stays known, though the log may say less."""
    log = known()
    log.learn(followed((1, 5), ((1, 7), EVERYTHING)))
    log.learn(News((1, 7), (1, 900), followed=False, cleared=(1, 2)))
    assert log.kills("k", entry((1, 6), since=log.tick))


def test_a_gap_that_another_thread_has_got_over_is_none() -> None:
    """Two looked from the same place; the one that comes second has nothing to tell."""
    log = known()
    gap = News((1, 5), (1, 900), followed=False)
    assert log.learn(gap) is None
    tick = log.tick
    assert () == log.learn(gap)
    assert () == log.learn(News((1, 5), (1, 800), followed=False))
    assert ((1, 900), tick) == (log.position, log.tick)


def test_of_a_log_that_was_lost_nothing_counts_any_more() -> None:
    """Whatever was born in it is dead, and positions in the new one begin wherever they do."""
    log = known((9, 5))
    log.learn(followed((9, 5), ((9, 6), KEY)))
    loading = entry((9, 6), since=log.tick)
    assert log.learn(News((9, 6), (2, 2), followed=False)) is None
    assert (2, 2) == log.position
    assert log.kills("k", loading)
    assert log.kills("never invalidated", entry((9, 100), since=log.tick))
    assert not log.kills("k", entry((2, 2), since=log.tick))


def test_news_of_a_log_that_others_have_seen_the_end_of_are_none() -> None:
    """A slow look into the old log, or one that began before any was known: neither position nor markers are taken."""
    log = known((1, 5))
    log.learn(News((1, 5), (2, 2), followed=False))
    tick = log.tick
    assert () == log.learn(followed((1, 5), ((1, 6), KEY)))
    assert () == log.learn(opened((1, 6), t=(1, 6)))
    assert ((2, 2), tick) == (log.position, log.tick)
    assert ["t"] == log.unknown(entry((2, 1), "t"))


@pytest.mark.parametrize("later", [(1, 5), (1, 6)])
def test_two_first_looks_at_once_open_the_log_whichever_comes_first(later: Position) -> None:
    """What happened between the two is left to the next look, and nobody takes it for a gap."""
    for order in (((1, 5), later), (later, (1, 5))):
        log = Invalidations()
        for at in order:
            log.learn(opened(at))
        assert log.position == order[0]
        assert ["t"] == log.unknown(entry((1, 4), "t"))
        assert not log.kills("k", entry(later, since=log.tick))


# Markers


def test_a_tag_is_unknown_until_a_look_has_brought_its_marker() -> None:
    """For what was born before the log was known; later invalidations come as records."""
    log = known((1, 5))
    old, new = entry((1, 3), "s", "t"), entry((1, 5), "t")
    assert ["s", "t"] == log.unknown(old)
    assert [] == log.unknown(new) == log.unknown(entry((1, 3)))
    log.learn(News((1, 5), (1, 5), followed=True, markers={"t": START, "s": (1, 2)}))
    assert [] == log.unknown(old)
    old.since = log.tick
    assert not log.kills("k", old)
    log.learn(followed((1, 5), ((1, 6), TAG)))
    assert log.kills("k", old)


def test_a_marker_kills_what_was_born_before_it() -> None:
    """And nothing else."""
    log = known((1, 5))
    log.learn(News((1, 5), (1, 5), followed=True, markers={"t": (1, 4)}))
    assert log.kills("k", entry((1, 3), "t", since=log.tick))
    assert not log.kills("k", entry((1, 4), "t", since=log.tick))
    assert not log.kills("k", entry((1, 3), "s", since=log.tick))


def test_a_marker_does_not_hide_a_later_record() -> None:
    """The look that brought it may be older than what was learnt meanwhile."""
    log = known((1, 5))
    log.learn(followed((1, 5), ((1, 8), TAG)))
    log.learn(News((1, 5), (1, 5), followed=True, markers={"t": (1, 4)}))
    assert log.kills("k", entry((1, 6), "t", since=log.tick))


def test_markers_from_before_a_gap_say_nothing_of_what_is_in_it() -> None:
    """A slow look's markers come in after another thread's look has found a gap: in it the tag may have been invalidated."""
    log = known((1, 5))
    slow = News((1, 5), (1, 5), followed=True, markers={"t": START})
    log.learn(News((1, 5), (1, 2000), followed=False))
    log.learn(slow)
    assert ["t"] == log.unknown(entry((1, 3), "t", since=log.tick))


def test_after_a_gap_every_tag_is_unknown_again() -> None:
    """What the markers said is of before."""
    log = known((1, 5))
    log.learn(News((1, 5), (1, 5), followed=True, markers={"t": START}))
    log.learn(News((1, 5), (1, 900), followed=False))
    assert ["t"] == log.unknown(entry((1, 5), "t"))


def test_the_tags_known_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit they are looked for anew."""
    monkeypatch.setattr(invalidation, "MOST", 3)
    log = known((1, 5))
    for tag in "abcd":
        log.learn(News((1, 5), (1, 5), followed=True, markers={tag: START}))
    assert ["a", "b", "c"] == log.unknown(entry((1, 3), "a", "b", "c", "d"))


# Names that are hashed


def test_where_names_are_hashed_records_are_held_against_the_hash() -> None:
    """Keys and tags, of the log and of this container's own; the names themselves stand nowhere."""
    log = known((1, 5))
    log.alias = lambda name: f"#{name.upper()}"
    log.learn(followed((1, 5), ((1, 6), Invalidation(Kind.KEY, "#K")), ((1, 6), Invalidation(Kind.TAG, "#T"))))
    assert log.kills("k", entry((1, 5), since=log.tick))
    assert log.kills("other", entry((1, 5), "t", since=log.tick))
    assert not log.kills("other", entry((1, 5), "k", since=log.tick))
    assert ["#S"] == log.unknown(entry((1, 3), "s"))
    before = entry((1, 6), since=log.tick)
    log.note([KEY])
    assert log.kills("k", before)


def test_where_names_are_hashed_l1_finds_what_a_record_means() -> None:
    """A key's record drops it, or ends its freshness, though only its hash stands in the log."""
    for kind in (Kind.KEY, Kind.EXPIRED):
        held = MemoryStore(MemoryTier(ttl=60, sizer=lambda _: 1))
        held.invalidated.alias = lambda name: f"#{name.upper()}"
        held.learn(opened((1, 5)), T0)
        for key in ("k", "other"):
            held.store(key, Entry("v", loaded_at=T0, fresh_for=60, stale_if_error=60, birth=held.birth()))
        held.learn(followed((1, 5), ((1, 6), Invalidation(kind, "#K"))), T0 + 1)
        assert "k" not in held.hot
        assert "other" in held.hot
        assert (held.look("k") is None) == (kind is Kind.KEY)


# Any order

NAMES = st.sampled_from("ab")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["key", "tag", "expire"]), NAMES),
        st.tuples(st.just("all"), st.just("")),
        st.tuples(st.sampled_from(["look", "lag"]), st.just("")),
        st.tuples(st.just("load"), NAMES),
    ),
    max_size=40,
)
KINDS = {"key": Kind.KEY, "tag": Kind.TAG, "expire": Kind.EXPIRED, "all": Kind.ALL}


@given(STEPS)
def test_a_container_knows_what_the_log_up_to_its_last_look_says(steps: list[tuple[str, str]]) -> None:
    """Whatever the order of records, looks (some of which come in late) and loads of two keys with two tags."""
    log = known((1, 0))
    records: list[tuple[Position, Invalidation]] = []
    late: list[News] = []
    loads: list[tuple[str, Entry]] = []
    for number, (step, name) in enumerate(steps, 1):
        if step in KINDS:
            records.append(((1, number), Invalidation(KINDS[step], name)))
        elif step == "load":
            loads.append((name, entry(log.position, name, since=log.tick)))
        else:
            since = log.position
            late.append(followed(since, *(one for one in records if one[0] > since)))
            if step == "look":
                while late:
                    log.learn(late.pop())
    seen = [one for one in records if one[0] <= log.position]
    for key, load in loads:
        concerns = (EVERYTHING, Invalidation(Kind.KEY, key), Invalidation(Kind.TAG, key))
        assert log.kills(key, load) == any(at > load.born and what in concerns for at, what in seen)


# When to look


class Looks:
    """A follower, and what it says to the plain hit."""

    def __init__(self, coherence: Any, ttl: float = 60.0) -> None:
        self.memory = MemoryStore(MemoryTier(ttl=ttl, sizer=lambda _: 1))
        self.floors: list[float] = []
        self.counts = Counters()
        self.follower = Follower(self.memory, coherence, self.floors.append, self.counts)
        self.forgotten: list[str | None] = []
        self.follower.forget_flights = self.forgotten.append

    def must_and_may(self, now: float) -> tuple[bool, bool]:
        return self.follower.must_look(now), self.follower.wanted(now) is not None


@pytest.mark.parametrize(
    ("coherence", "must", "may"),
    [("ttl", inf, 30.0), ("invocation", inf, RIDE), (0.5, 0.5, 0.5), ("5s", 5.0, RIDE)],
)
def test_a_look_is_due_by_the_time_of_the_last(coherence: Any, must: float, may: float) -> None:
    """`must`: before any answer; `may`: along with whatever is asked of L2."""
    looks = Looks(coherence, ttl=30.0)
    assert (True, True) == looks.must_and_may(T0)
    looks.follower.heard(opened(), looks.follower.look(), T0)
    for age in (0.0, 0.49, 0.5, 0.99, 1.0, 4.9, 5.0, 29.9, 30.0, 1e6):
        assert (age >= must, age >= may) == looks.must_and_may(T0 + age)
    assert (True, True) == looks.must_and_may(T0 - 2)  # the clock stepped back: how long ago it was nobody knows


def test_an_invocation_begins_with_a_look() -> None:
    """Where that was asked for; then no plain hit is answered before it, whatever else reads the clock meanwhile."""
    looks = Looks("invocation")
    looks.follower.heard(opened(), looks.follower.look(), T0)
    looks.follower.begin()
    looks.follower.reading(T0 + 0.1)
    assert [inf, inf] == looks.floors[-2:]
    assert (True, True) == looks.must_and_may(T0 + 0.1)
    looks.follower.heard(followed((1, 5)), looks.follower.look(), T0 + 0.1)
    assert T0 + 0.1 == looks.floors[-1]
    looks.follower.reading(T0 + 0.2)
    assert T0 + 0.2 == looks.floors[-1]
    assert (False, False) == looks.must_and_may(T0 + 0.2)
    for other in ("ttl", 5.0):
        looks = Looks(other)
        looks.follower.heard(opened(), looks.follower.look(), T0)
        looks.follower.begin()
        assert (False, False) == looks.must_and_may(T0 + 0.1)


def test_a_look_from_before_a_freeze_is_none_of_the_next_invocation() -> None:
    """What it found is learnt, and nothing is answered before another look."""
    looks = Looks("invocation")
    looks.follower.heard(opened(), looks.follower.look(), T0)
    slow = looks.follower.look()
    looks.follower.begin()
    looks.follower.heard(followed((1, 5), ((1, 6), KEY)), slow, T0)
    assert (1, 6) == looks.memory.invalidated.position
    assert (True, True) == looks.must_and_may(T0)
    assert inf == looks.floors[-1]


def test_by_seconds_plain_hits_end_when_the_next_look_is_due() -> None:
    """An entry is armed until then at most, and not at all before the first look; after a failing look for a while."""
    looks = Looks(0.5)
    assert -inf == looks.memory.coherent_until
    looks.follower.heard(opened(), looks.follower.look(), T0)
    assert T0 + 0.5 == looks.memory.coherent_until
    looks.follower.heard(None, looks.follower.look(), T0 + 1)
    assert T0 + 1 + RIDE == looks.memory.coherent_until
    looks.memory.store("k", Entry("v", loaded_at=T0, fresh_for=60.0, birth=looks.memory.birth()))
    assert T0 + 1 + RIDE == looks.memory.hot["k"][1]
    assert inf == Looks("invocation").memory.coherent_until == Looks("ttl").memory.coherent_until


def test_a_look_that_fails_is_a_look() -> None:
    """It is counted, and what is held goes on answering; the log is looked into when the next look is due."""
    looks = Looks("invocation")
    looks.follower.begin()
    looks.follower.heard(None, looks.follower.look(), T0)
    assert {"look_failures": 1} == dict(looks.counts)
    assert (False, True) == looks.must_and_may(T0 + 0.5)  # who knows no position looks with each read
    assert START == looks.memory.invalidated.position
    assert T0 == looks.floors[-1]


def test_what_a_look_finds_is_applied_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """L1 drops it, and nobody joins a load that began before; of a tag's keys nobody knows."""
    looks = Looks("invocation")
    looks.follower.heard(opened(), looks.follower.look(), T0)
    for key in ("k", "tagged", "stays"):
        tags = ("t",) if key == "tagged" else ()
        looks.memory.store(key, Entry(key, loaded_at=T0, fresh_for=60, tags=tags, birth=looks.memory.birth()))
    looks.follower.heard(followed((1, 5), ((1, 6), KEY), ((1, 7), TAG)), looks.follower.look(), T0)
    assert ["stays"] == [*looks.memory.hot]
    looks.follower.heard(followed((1, 7), ((1, 8), EVERYTHING)), looks.follower.look(), T0)
    assert {} == looks.memory.hot
    assert ["k", None] == looks.forgotten
    assert (3, 3, 0) == tuple(looks.counts[name] for name in ("looks", "applied", "gaps"))
    assert [] == caplog.records


def test_a_gap_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """What L1 holds is doubtful, no load is joined; the first look of all is no gap."""
    looks = Looks("invocation")
    looks.follower.heard(opened(), looks.follower.look(), T0)
    assert (0, [], []) == (looks.counts["gaps"], looks.forgotten, caplog.records)
    held = Entry("v", loaded_at=T0, fresh_for=60.0, birth=looks.memory.birth())
    looks.memory.store("k", held)
    for gap in (News((1, 5), (1, 900), followed=False), News((1, 900), (2, 2), followed=False)):
        looks.follower.heard(gap, looks.follower.look(), T0)
        assert held.doubtful
        assert {} == looks.memory.hot
    assert (2, [None, None]) == (looks.counts["gaps"], looks.forgotten)
    assert ["the log of invalidations cannot be followed: what L1 holds is to be confirmed anew"] * 2 == [
        record.getMessage() for record in caplog.records
    ]


# Through a cache


class Pair:
    """Two containers' caches on one L2 in memory; `looks` of the first are counted."""

    def __init__(self, **options: Any) -> None:
        self.clock = FakeClock()
        self.l2 = InMemorySharedTier(ttl=3600, stale_if_error=3600)
        self.cache, self.other = (
            TieredCache(MemoryTier(ttl=600, jitter=0), self.l2, clock=self.clock, refresh="inline", **options)
            for _ in range(2)
        )

    @property
    def looks(self) -> int:
        found = self.cache.stats().l2
        assert found is not None
        return found.looks

    def get(self, key: str = "k") -> Any:
        return self.cache.get_or_load(key, lambda: "new")

    def invalidated_elsewhere(self) -> None:
        """This cache holds the old value, and the other one has deleted it."""
        assert "old" == self.cache.get_or_load("k", lambda: "old") == self.get()
        self.other.delete("k")


def test_the_first_call_of_an_invocation_looks() -> None:
    """A plain hit too, and once; what others have invalidated until then is not answered with."""
    pair = Pair()
    pair.invalidated_elsewhere()
    assert "old" == pair.get()
    before = pair.looks
    with pair.cache.invocation():
        assert "new" == pair.get()
        after = pair.looks
        assert ["new"] * 3 == [pair.get() for _ in range(3)]
        pair.other.delete("k")
        assert "new" == pair.get()
    assert (before + 1, after) == (after, pair.looks)
    assert MISSING is pair.other.get("k")


@pytest.mark.parametrize("first", ["get", "get_entry_or_load", "get_many_or_load"])
def test_any_first_call_of_an_invocation_looks(first: str) -> None:
    """By whatever method."""
    pair = Pair()
    pair.invalidated_elsewhere()
    with pair.cache.invocation():
        if first == "get":
            assert MISSING is pair.cache.get("k")
        elif first == "get_entry_or_load":
            assert "new" == pair.cache.get_entry_or_load("k", lambda: "new").value
        else:
            assert {"k": "new"} == pair.cache.get_many_or_load(["k"], lambda keys: dict.fromkeys(keys, "new"))


def test_no_plain_hit_is_answered_while_the_look_is_under_way() -> None:
    """A thread that comes meanwhile looks by itself, rather than answer with what may be invalidated."""
    pair = Pair()
    pair.invalidated_elsewhere()
    store = pair.cache._shared._store  # type: ignore[union-attr]
    look, began, gate = store.look, threading.Event(), threading.Event()
    answers: list[str] = []

    def slow(*arguments: Any) -> News | None:
        news = look(*arguments)
        store.look = look  # type: ignore[method-assign]
        began.set()
        assert gate.wait(WAIT)
        return news

    store.look = slow  # type: ignore[method-assign]
    with pair.cache.invocation():
        thread = threading.Thread(target=lambda: answers.append(pair.get()))
        thread.start()
        assert began.wait(WAIT)
        assert "new" == pair.get()
        gate.set()
        thread.join(WAIT)
    assert ["new"] == answers


def test_where_the_look_fails_what_is_held_goes_on_answering() -> None:
    """Once for each invocation it is tried."""
    pair = Pair()
    pair.invalidated_elsewhere()
    pair.l2.down = True
    with pair.cache.invocation():
        assert ["old"] * 3 == [pair.get() for _ in range(3)]
    assert 1 == pair.cache._counts["look_failures"]
    pair.l2.down = False
    with pair.cache.invocation():
        assert "new" == pair.get()


@pytest.mark.parametrize(("coherence", "after"), [(0.5, 0.5), ("5s", 5.0)])
def test_by_seconds_an_invalidation_is_known_so_soon(coherence: Any, after: float) -> None:
    """Not before, and not later, with invocations or without; plain hits included."""
    pair = Pair(coherence=coherence)
    pair.invalidated_elsewhere()
    pair.clock.advance(after * 0.9)
    assert "old" == pair.get()
    pair.clock.advance(after * 0.2)
    assert "new" == pair.get()


def test_by_seconds_each_span_costs_one_look() -> None:
    """However many plain hits there are."""
    pair = Pair(coherence=0.5)
    pair.cache.get_or_load("k", lambda: "old")
    counts = []
    for _ in range(4):
        pair.clock.advance(0.5)
        for _ in range(3):
            pair.get()
        counts.append(pair.looks)
    assert [1] * 3 == [later - earlier for earlier, later in pairwise(counts)]


def test_by_ttl_an_invalidation_is_known_when_l1_asks() -> None:
    """No invocation looks by itself; the read that L1's ttl brings about does."""
    pair = Pair(coherence="ttl")
    pair.invalidated_elsewhere()
    with pair.cache.invocation():
        assert "old" == pair.get()
    pair.clock.advance(599)
    assert "old" == pair.get()
    pair.clock.advance(2)
    assert "new" == pair.get()


def test_without_l2_there_is_nothing_to_look_into() -> None:
    """Whatever `coherence` says."""
    clock = FakeClock()
    with TieredCache(MemoryTier(ttl=60, jitter=0), clock=clock, coherence=0.5) as cache:
        cache.get_or_load("k", lambda: "old")
        clock.advance(30)
        with cache.invocation():
            assert "old" == cache.get_or_load("k", lambda: "new")


READS: dict[str, Any] = {
    "get_or_load": lambda cache: cache.get_or_load("k", lambda: "new"),
    "get": lambda cache: cache.get("k", "new"),
    "get_many_or_load": lambda cache: cache.get_many_or_load(["k"], lambda keys: dict.fromkeys(keys, "new"))["k"],
}


@pytest.mark.parametrize("read", READS)
def test_a_look_that_another_thread_ends_meanwhile_is_heeded(read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends between a call's look into L1 and its question whether to look: what was deleted before is no answer."""
    pair = Pair()
    pair.invalidated_elsewhere()
    follower, reader = pair.cache._shared._follower, threading.Thread()  # type: ignore[union-attr]
    must_look, has_come, go_on, got = follower.must_look, threading.Event(), threading.Event(), []

    def slowly(now: float) -> bool:
        if threading.current_thread() is reader:
            has_come.set()
            assert go_on.wait(WAIT)
        return must_look(now)

    monkeypatch.setattr(follower, "must_look", slowly)
    with pair.cache.invocation():
        reader = threading.Thread(target=lambda: got.append(READS[read](pair.cache)))
        reader.start()
        assert has_come.wait(WAIT)
        pair.get("another")  # which looks
        go_on.set()
        reader.join()
    assert ["new"] == got


@pytest.mark.parametrize("detect", [False, True])
@pytest.mark.parametrize("read", ["get_or_load", "get_many_or_load"])
def test_after_a_gap_what_l2_has_is_served_and_not_what_a_caller_made_of_it(
    read: str, detect: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L1's object gives way with all that is doubtful."""
    shared = InMemorySharedTier(ttl=3600)
    tier = MemoryTier(ttl=60, jitter=0, detect_mutation=detect)
    with TieredCache(tier, shared, clock=FakeClock(), refresh="inline") as cache:
        cache.get_or_load("k", lambda: {"a": 1})["a"] = 999
        log = next(iter(shared.logs.values()))
        news = log.news

        def with_a_gap(*asked: Any) -> News:
            monkeypatch.undo()
            return news(*asked)._replace(followed=False)

        monkeypatch.setattr(log, "news", with_a_gap)
        with cache.invocation():
            assert {"a": 1} == READS[read](cache)
