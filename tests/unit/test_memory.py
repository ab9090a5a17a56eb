"""L1: bounded in bytes and in number, fair to what is used, and honest about what it holds."""

from __future__ import annotations

import threading
import tracemalloc
from collections import OrderedDict
from math import inf, nan
from random import Random
from typing import Any, cast

import cachetools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiered_cache import LoadContext, MemoryTier, TieredCache
from tiered_cache._entry import START, Birth, Entry, Position
from tiered_cache._l1.invalidation import MOST, Invalidations
from tiered_cache._l1.memory import ENTRY_OVERHEAD, LOGGED_OVERHEAD, MemoryStore
from tiered_cache._l1.order import MOST_CHANCES, Queue
from tiered_cache._l1.tier import AUTO_ELSEWHERE
from tiered_cache._news import EVERYTHING, Invalidation, Kind
from tiered_cache._rules import Freshness
from tiered_cache._waits import WAITS
from tiered_cache.testing import FakeClock, InMemorySharedTier

T0 = 1_800_000_000.0


def store(**options: Any) -> MemoryStore:
    return MemoryStore(MemoryTier(**{"ttl": 60, "sizer": lambda _: 100, **options}))


def entry(value: Any = "v", at: float = T0, **options: Any) -> Entry:
    return Entry(value, loaded_at=at, fresh_for=60, **options)


def key_of(name: str) -> Invalidation:
    return Invalidation(Kind.KEY, name)


def of(log: Invalidations, *tags: str) -> Entry:
    """What begins to be loaded now."""
    return entry(tags=tags, birth=Birth(log.position, log.tick))


@pytest.mark.parametrize(("policy", "inserts"), [("lru", 1_000_000), ("s3fifo", 300_000)])
def test_the_budget_in_bytes_holds_over_many_inserts(policy: str, inserts: int) -> None:
    """At no moment is more held than max_bytes, and at the end the counters say what happened."""
    budget, random = 256 * 1024, Random(1)
    held = store(max_bytes=budget, sizer=lambda value: value, policy=policy)
    sizes = [random.randrange(1, 20_000) for _ in range(1000)]
    keys = [f"{number:06d}" for number in range(5000)]
    entries, put, most = held._entries, held.store, 0
    for number in range(inserts):
        put(keys[number * 7919 % 5000], Entry(sizes[number % 1000], loaded_at=T0, fresh_for=60))
        if entries.currsize > most:
            most = entries.currsize
    assert budget * 0.9 < most <= budget
    stats = held.stats()
    assert sum(entry.size for _, entry in held._all()) == stats.bytes <= stats.max_bytes == budget
    assert len(held.hot) == stats.entries
    assert stats.evictions > 0.9 * inserts


def test_an_entry_costs_its_value_its_key_and_what_it_takes_to_hold_it() -> None:
    """The figure in the stats is the sizer's, the key's length and a fixed overhead."""
    held = store()
    held.store("key", entry())
    assert 100 + 3 + ENTRY_OVERHEAD == held.stats().bytes


@pytest.mark.parametrize(
    "texts",
    [
        {"tags": ("x" * 500, "y" * 500)},
        {"etag": "x" * 1000},
        {"last_modified": "x" * 1000},
        {"tags": ("x" * 300,), "etag": "x" * 300, "last_modified": "x" * 400},
    ],
)
def test_an_entry_costs_its_texts_too(texts: dict[str, Any]) -> None:
    """Tags and validators, as the memory that they take; a key of other letters takes up to four bytes for each."""
    held = store()
    held.store("key", entry(**texts))
    held.store("\U0001f511" * 1000, entry())
    counted = held.stats().bytes - 2 * (100 + ENTRY_OVERHEAD)
    assert 1000 + 4000 <= counted <= 1200 + 4100


def test_an_entry_with_a_place_in_the_log_costs_more() -> None:
    """The place is a tuple of two numbers, and what comes from an L2 has times of its own."""
    held = store()
    held.invalidated.position = (7, 9)
    held.store("key", entry(birth=held.birth()))
    assert 100 + 3 + ENTRY_OVERHEAD + LOGGED_OVERHEAD == held.stats().bytes


def arrived(number: int, position: Position) -> Entry:
    """An entry as it comes with the policy's own times, or from an L2 with all of its own: nothing is shared."""
    if position is START:
        return Entry(number, loaded_at=T0 + number / 7, fresh_for=3600 - number / 7, load_time=number / 7)
    times = {"stale_while_revalidate": number / 11, "stale_if_error": number / 13, "load_time": number / 17}
    own = Entry(
        number, loaded_at=T0 + number / 7, fresh_for=3600.0 + number, birth=Birth((10**12 + number,) * 2, 0), **times
    )  # type: ignore[arg-type]
    return own.held(Freshness(60.0, jitter=0.1), T0 + number / 3, 0.0, lambda: number % 97 / 97)


@pytest.mark.parametrize("policy", ["lru", "s3fifo"])
@pytest.mark.parametrize("position", [START, (1, 1)], ids=["loaded", "from an L2"])
def test_the_memory_in_use_stays_near_the_budget(position: Position, policy: str) -> None:
    """After much has come and gone, and dictionaries are at their sparsest; and a look at the counters takes little."""
    one = 32 + 10 + ENTRY_OVERHEAD + (0 if position is START else LOGGED_OVERHEAD)
    budget = 2_750 * one  # three times that is just above a power of two: so large a dictionary gets by itself
    held = store(max_bytes=budget, sizer=None, policy=policy)
    tracemalloc.start()
    try:
        for number in range(10**9, 10**9 + 12_000):
            held.store(str(number), arrived(number, position))
        assert 2_740 <= held.stats().entries <= 2_760
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.6 * budget < most <= 1.15 * budget


@given(st.lists(st.tuples(st.sampled_from("pdsx"), st.integers(0, 40)), max_size=300))
def test_a_queue_gives_out_the_oldest(steps: list[tuple[str, int]]) -> None:
    """As an OrderedDict does, whatever is taken out of its turn."""
    queue, plain = Queue(), OrderedDict[str, Entry]()
    for step, number in steps:
        key = str(number)
        if step == "p" and plain:
            assert plain.popitem(last=False) == queue.popitem()
        elif step == "d":
            assert plain.pop(key, None) is queue.take(key)
        elif key not in plain:
            plain[key] = queue[key] = entry()
        assert list(plain) == list(queue)
    while plain:
        assert plain.popitem(last=False) == queue.popitem()
    with pytest.raises(KeyError):
        queue.popitem()


def test_what_another_container_has_measured_is_believed() -> None:
    """Unless the user measures in his own way."""
    measured: list[Any] = []
    held, own = store(sizer=None), store(sizer=lambda value: measured.append(value) or 7)  # type: ignore[func-returns-value]
    held.store("k", entry(value_size=1600))
    own.store("k", entry(value_size=1600))
    assert 1600 + 1 + ENTRY_OVERHEAD == held.stats().bytes
    assert 7 + 1 + ENTRY_OVERHEAD == own.stats().bytes


@pytest.mark.parametrize("policy", ["lru", "s3fifo"])
def test_a_value_that_grows_in_its_callers_hands_does_not_upset_the_budget(policy: str) -> None:
    """It was measured when it was stored, and keeps that figure however often it is confirmed."""
    held = store(max_bytes=4000, sizer=len, policy=policy)
    grown = entry([])
    held.store("k", grown)
    grown.value.extend(range(10_000))
    grown.hits += 1
    assert held.store("k", grown)
    for number in range(10):
        held.store(str(number), entry([]))
    assert held.stats().bytes <= 4000


def test_the_least_recently_used_goes_first() -> None:
    """Without hits in between that is the order of arrival."""
    held = store(max_entries=3)
    for key in "abcde":
        held.store(key, entry())
    assert {"c", "d", "e"} == set(held._entries) == set(held.hot)
    assert 2 == held.stats().evictions


def test_what_was_hit_gets_a_second_chance() -> None:
    """An entry hit since it was last looked at goes to the front instead; once, unless it is hit again."""
    held = store(max_entries=3)
    for key in "abc":
        held.store(key, entry())
    held.look("a").hits += 1  # type: ignore[union-attr]
    held.store("d", entry())
    assert {"c", "a", "d"} == set(held._entries)
    held.store("e", entry())
    held.store("f", entry())
    assert {"d", "e", "f"} == set(held._entries)


def test_when_all_were_hit_the_oldest_goes() -> None:
    """The search for one that was not ends after one round."""
    held = store(max_entries=3)
    for key in "abc":
        held.store(key, entry())
        held.look(key).hits += 5  # type: ignore[union-attr]
    held.store("d", entry())
    assert {"b", "c", "d"} == set(held._entries)


@pytest.mark.parametrize("policy", ["lru", "s3fifo"])
def test_an_eviction_looks_at_so_many_entries_and_no_more(policy: str) -> None:
    """Also where each was hit: a second chance for all of them at once would hold up every thread."""
    held = store(max_entries=1000, policy=policy)
    for number in range(1000):
        held.store(f"k{number}", entry())
    for number in range(1000):
        cast("Entry", held.look(f"k{number}")).hits += 3
    for number in range(1000, 1003):
        held.store(f"k{number}", entry())
        looked_at = sum(one.settled != 0 for _, one in held._all())
        assert 1000 == held.stats().entries
        assert 0 < looked_at <= (number - 999) * MOST_CHANCES


def lru_hits(trace: list[int], size: int) -> int:
    cache, hits = cachetools.LRUCache(size), 0
    for key in trace:
        hits += key in cache
        cache[key] = None
    return hits


def test_the_hit_ratio_is_that_of_exact_lru_or_better() -> None:
    """On a skewed trace of 20,000 with a fixed seed, within half a point."""
    random = Random(3)
    trace = [int(random.paretovariate(0.6)) % 3000 for _ in range(20_000)]
    cache = TieredCache(MemoryTier(ttl=60, max_entries=200, sizer=lambda _: 1), refresh="inline", clock=lambda: T0)
    for key in trace:
        cache.get_or_load(str(key), int)
    assert lru_hits(trace, 200) / 20_000 - 0.005 <= cache.stats().l1.hits / 20_000


def test_an_entry_larger_than_the_budget_is_counted_and_not_held() -> None:
    """B04: nor is what was held before under its key; the value goes to the caller all the same."""
    cache = TieredCache(MemoryTier(ttl=60, max_bytes=2000, sizer=len), clock=lambda: T0)
    cache.get_or_load("k", lambda: b"small")
    big = bytes(2001)
    assert big is cache.get_or_load("k", lambda: big, force_refresh=True)
    stats = cache.stats().l1
    assert (1, 0, 0) == (stats.oversized, stats.entries, stats.bytes)


@pytest.mark.parametrize("where", ["measuring", "copying"])
def test_a_value_that_no_memory_is_left_for_is_returned(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """Neither it nor what was held before is held; once memory is there again the next one is."""
    left = True

    class Value:
        def __deepcopy__(self, _: object) -> Value:
            if not left:
                raise MemoryError
            return self

    def measured(_: object) -> int:
        if not left:
            raise MemoryError
        return 100

    options: dict[str, Any] = {"sizer": measured} if where == "measuring" else {"share": "copy"}
    with TieredCache(MemoryTier(ttl=60, **options), refresh="inline") as cache:
        cache.get_or_load("k", Value)
        left, value = False, Value()
        assert value is cache.get_or_load("k", lambda: value, force_refresh=True)
        assert (1, 0, 0) == ((stats := cache.stats().l1).oversized, stats.entries, stats.bytes)
        left = True
        cache.get_or_load("k", Value)
        assert 1 == cache.stats().l1.entries
    assert ["no memory is left to measure or to copy a value"] == [text.partition(",")[0] for text in caplog.messages]


def raises(_: object) -> int:
    raise KeyError("secret")


@pytest.mark.parametrize(
    ("sizer", "said"),
    [
        (lambda _: None, "sizer must give bytes as a number of at least 0; got None for one of type list"),
        (lambda _: "12", "sizer must give bytes as a number of at least 0; got '12' for one of type list"),
        (lambda _: nan, "sizer must give bytes as a number of at least 0; got nan for one of type list"),
        (lambda _: -5, "sizer must give bytes as a number of at least 0; got -5 for one of type list"),
        (raises, "KeyError from the sizer, for one of type list"),
    ],
)
@pytest.mark.parametrize("l2", [False, True], ids=["l1 alone", "with l2"])
def test_a_value_that_cannot_be_measured_is_returned(
    sizer: Any, said: str, l2: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not held, which is counted, and said once; a size may be a fraction."""
    monkeypatch.setattr("tiered_cache._log._SAID", set())
    good = True
    tier = MemoryTier(ttl=60, sizer=lambda value: 99.5 if good else sizer(value))
    with TieredCache(tier, InMemorySharedTier(ttl=60) if l2 else None, clock=FakeClock()) as cache:
        assert [0] == cache.get_or_load("k", lambda: [0])
        assert 1 == cache.stats().l1.entries
        good = False
        for number in range(1, 3):
            assert [number] == cache.get_or_load("k", lambda number=number: [number], force_refresh=True)
            assert {"m": [number]} == cache.get_many_or_load(["m"], lambda _, n=number: {"m": [n]}, force_refresh=True)
        cache.set("s", [3])
        stats = cache.stats().l1
        assert (5, 0, 0) == (stats.oversized, stats.entries, stats.bytes)
        assert [3] == cache.get("s", [3])
    assert [f"a value cannot be measured, and is not kept in L1: {said}"] == caplog.messages


@pytest.mark.parametrize(
    ("option", "text"),
    [({"share": "copy"}, 'MemoryTier(share="copy")'), ({"detect_mutation": True}, "MemoryTier(detect_mutation=True)")],
)
def test_a_value_that_cannot_be_copied_where_it_must_be_is_refused(option: Any, text: str) -> None:
    """By the name of the option, and nothing is held of the key, nor given the next time."""
    cache = TieredCache(MemoryTier(ttl=60, **option), clock=FakeClock())
    cache.set("k", 1)
    for _ in range(2):
        with pytest.raises(TypeError) as caught:
            cache.get_or_load("k", lambda: [threading.Lock()], force_refresh=True)
        expected = f"{text} needs values that copy.deepcopy can copy; got one of type list, which raises TypeError"
        assert expected == str(caught.value)
        assert 0 == cache.stats().l1.entries
    assert 2 == cache.get_or_load("k", lambda: 2)


def test_a_value_above_the_budget_is_spoken_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """The log says the two sizes and what to do; further ones are counted only."""
    with TieredCache(MemoryTier(ttl=60, max_bytes=10_000), refresh="inline") as cache:
        for number in range(3):
            cache.get_or_load(f"large {number}", lambda: "x" * 20_000)
        assert cache.stats().l1.oversized == 3
    assert len(caplog.records) == 1
    assert "raise max_bytes" in caplog.text
    assert "large" not in caplog.text.replace("larger", "")


def test_auto_is_a_quarter_of_the_functions_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """And 64 MiB where the function's memory is not known."""
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", raising=False)
    assert 64 * 2**20 == AUTO_ELSEWHERE == MemoryTier(ttl=1).max_bytes
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512")
    assert 128 * 2**20 == MemoryTier(ttl=1).max_bytes
    assert "MemoryTier(ttl=1, max_bytes=134217728)" == repr(MemoryTier(ttl=1))


def test_by_reference_all_callers_share_one_object() -> None:
    """The default."""
    cache = TieredCache(MemoryTier(ttl=60, sizer=len), clock=lambda: T0)
    value = cache.get_or_load("k", lambda: [1])
    assert value is cache.get_or_load("k", list) is cache.get("k")


def test_by_copy_no_caller_sees_what_another_does() -> None:
    """Neither who loaded or set the value, nor who hits it, nor the loader, can change what is cached."""
    cache = TieredCache(MemoryTier(ttl=60, share="copy", sizer=len), clock=lambda: T0)
    source = [[1]]
    for _ in range(3):
        got = cache.get_or_load("k", lambda: source)
        assert [[1]] == got
        got[0].append(2)
        source = []
    mine = {"a": [1]}
    cache.set("s", mine)
    mine["a"].append(2)
    cache.get("s")["a"].append(3)
    assert {"a": [1]} == cache.get("s")
    assert cache.get("s") is not cache.get("s")


class Looks:
    """A loader that does something with the stale value."""

    def __init__(self, look: Any) -> None:
        self.look = look

    def load(self, context: LoadContext) -> Any:
        return self.look(context)


def add_and_fail(context: LoadContext) -> Any:
    stale = context.stale
    stale.append(2)
    if context.stale is not stale:
        pytest.fail("another at each look")
    raise ConnectionError


@pytest.mark.parametrize(
    "look", [add_and_fail, lambda context: context.skip(context.stale)], ids=["add and fail", "skip"]
)
def test_by_copy_a_loader_has_a_stale_value_of_its_own(look: Any) -> None:
    """What it does to it, and what its caller then does, changes nothing that L1 holds."""
    clock = FakeClock()
    cache = TieredCache(MemoryTier(ttl=60, stale_if_error=600, share="copy", jitter=0), clock=clock, error_backoff=0)
    cache.set("k", [1])
    clock.advance(60)
    got = cache.get_or_load("k", Looks(look))
    assert [1] == got
    got.append(3)
    assert [1] == cache.get_or_load("k", Looks(add_and_fail))


@pytest.mark.parametrize("look", [lambda _: 1, lambda context: context.not_modified()], ids=["plain", "not modified"])
def test_by_copy_a_loader_that_does_not_look_at_the_stale_value_costs_no_copy(look: Any) -> None:
    """The value is copied for those who hold it, and not for it."""
    copied: list[str] = []

    class Value:
        def __deepcopy__(self, memo: Any) -> Any:
            copied.append("once")
            return self

    clock = FakeClock()
    cache = TieredCache(MemoryTier(ttl=60, stale_if_error=600, share="copy", jitter=0, sizer=lambda _: 1), clock=clock)
    cache.set("k", Value())
    clock.advance(60)
    seen: list[int] = []

    def load(context: LoadContext) -> Any:
        given = look(context)
        seen.append(len(copied))
        return given

    before = len(copied)
    cache.get_or_load("k", Looks(load))
    assert [before] == seen


@pytest.mark.parametrize(
    "read",
    [
        lambda cache, load: cache.get_or_load("k", load),
        lambda cache, load: cache.get_many_or_load(["k"], lambda keys: dict.fromkeys(keys, load()))["k"],
    ],
    ids=["get_or_load", "get_many_or_load"],
)
def test_by_copy_those_who_share_a_load_have_a_value_each(read: Any) -> None:
    """A joined flight's value is copied for each who joined."""
    cache = TieredCache(MemoryTier(ttl=60, share="copy", sizer=len), refresh="inline")
    gate, got = threading.Event(), []
    threads = [
        threading.Thread(target=lambda: got.append(read(cache, lambda: gate.wait(60) and [1]))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    flights, tick = cache._reads.flights, threading.Event()
    while sum(flight in flights.under_way() for flight in list(WAITS.awaited.values())) < 4:
        tick.wait(0.002)
    gate.set()
    for thread in threads:
        thread.join(60)
    assert [[1]] * 5 == got
    assert 5 == len({id(value) for value in got})


def test_a_changed_value_is_detected_where_that_was_asked_for() -> None:
    """The next hit raises, with the type and what to do; an unchanged value is left in peace."""
    cache = TieredCache(MemoryTier(ttl=60, detect_mutation=True, sizer=len), clock=lambda: T0)
    cache.get_or_load("a", lambda: [1])
    value = cache.get_or_load("b", lambda: [1])
    assert [1] == cache.get_or_load("a", list) == cache.get_or_load("b", list)
    value.append(2)
    assert [1] == cache.get_or_load("a", list)
    with pytest.raises(
        RuntimeError, match="^a cached value of type list was changed by a caller: copy it before changing"
    ):
        cache.get_or_load("b", list)
    cache.delete("b")
    assert [3] == cache.get_or_load("b", lambda: [3]) == cache.get_or_load("b", list)


def test_a_value_without_equality_is_no_false_alarm() -> None:
    """What differs from its own copy cannot be watched."""
    cache = TieredCache(MemoryTier(ttl=60, detect_mutation=True, sizer=lambda _: 1), clock=lambda: T0)
    value = object()
    plain = type("Plain", (), {})()
    for key, thing in (("a", value), ("b", plain)):
        assert thing is cache.get_or_load(key, lambda thing=thing: thing) is cache.get_or_load(key, int)


def test_a_value_whose_equality_is_no_truth_cannot_be_watched() -> None:
    """As that of an array."""

    class Array:
        def __eq__(self, _: object) -> Any:
            raise ValueError("the truth value of an array is ambiguous")

        __hash__ = None  # type: ignore[assignment]

    cache = TieredCache(MemoryTier(ttl=60, detect_mutation=True), clock=lambda: T0)
    value = Array()
    assert value is cache.get_or_load("k", lambda: value) is cache.get_or_load("k", int)


def test_what_was_watched_for_changes_goes_with_its_entry() -> None:
    """An evicted key leaves no copy behind."""
    held = store(max_entries=2, detect_mutation=True)
    for key in "abc":
        held.store(key, entry([key]))
    assert {"b", "c"} == set(held._copies)


@pytest.mark.parametrize(
    "policy", [cachetools.LRUCache, cachetools.LFUCache, cachetools.FIFOCache, cachetools.RRCache, cachetools.Cache]
)
def test_any_cachetools_policy_serves(policy: Any) -> None:
    """Values, hits, misses and evictions are counted as with the built-in one."""
    cache = TieredCache(MemoryTier(ttl=60, policy=policy, max_entries=10, sizer=len), clock=lambda: T0)
    for number in range(50):
        assert str(number) == cache.get_or_load(str(number), lambda number=number: str(number))
        assert str(number) == cache.get_or_load(str(number), lambda: pytest.fail("ran"))
    stats = cache.stats().l1
    assert (50, 50, 10, 40) == (stats.hits, stats.misses, stats.entries, stats.evictions)
    cache.delete("49")
    cache.close()


def test_a_frequency_policy_sees_each_hit_and_nothing_else() -> None:
    """LFU keeps what is asked for often; looking at the counters or storing does not count as asking."""
    cache = TieredCache(MemoryTier(ttl=60, policy=cachetools.LFUCache, max_entries=3, sizer=len), clock=lambda: T0)
    for key in "abc":
        cache.get_or_load(key, str)
    for _ in range(5):
        cache.stats()
    for key in "aab":
        cache.get_or_load(key, str)
    cache.get_or_load("d", str)
    assert {"a", "b", "d"} == set(cache._memory._entries)


def test_a_frequency_policy_does_not_see_what_is_refused() -> None:
    """To find out that a load comes too late is no use of the entry."""
    held = store(policy=cachetools.LFUCache, max_entries=2)
    for key in "ab":
        held.store(key, entry(at=T0 + 5))
    held.look("a")
    for _ in range(5):
        held.store("b", entry())
    held.store("c", entry())
    assert {"a", "c"} == set(held._entries)


class Times(cachetools.TTLCache[str, Any]):
    """Lets go by itself what was put there ten of its seconds ago, by the clock that it is told."""

    def __init__(self, maxsize: float, getsizeof: Any) -> None:
        super().__init__(maxsize, ttl=10, timer=self.seconds, getsizeof=getsizeof)

    now = 0.0

    def seconds(self) -> float:
        return self.now


class Uses(cachetools.TLRUCache[str, Any]):
    """The same; the values `"declined"` are not even taken."""

    def __init__(self, maxsize: float, getsizeof: Any) -> None:
        super().__init__(maxsize, ttu=self.until, timer=self.seconds, getsizeof=getsizeof)

    now = 0.0

    def seconds(self) -> float:
        return self.now

    def until(self, _key: str, held: Entry, now: float) -> float:
        return now if held.value == "declined" else now + 10


@pytest.mark.parametrize("policy", [Times, Uses])
def test_hits_and_copies_of_what_a_policy_lets_go_by_itself_are_settled(policy: Any) -> None:
    """As those of what it evicts, at whatever moment the counters are looked at: none is lost, none is kept for ever."""
    held = store(policy=policy, detect_mutation=True)
    for number, key in enumerate("abc", 1):
        held.store(key, entry([key]))
        held.look(key)
        held.look(key)
        held._entries[key].hits += number
    assert (6, 3, 0) == (held.stats().hits, held.stats().entries, held.stats().evictions)
    held._entries.now = 10.0
    stats = held.stats()
    assert (6, 0, 0, 3) == (stats.hits, stats.entries, stats.bytes, stats.evictions)
    assert {} == held._copies
    held.store("a", entry("again", at=T0 + 1))
    assert (6, 1, 3) == (held.stats().hits, held.stats().entries, held.stats().evictions)


def test_what_replaces_an_entry_whose_time_was_up_takes_over_nothing_twice() -> None:
    """The policy lets the old one go while the new one comes."""
    held = store(policy=Times, detect_mutation=True)
    held.store("a", entry("old"))
    held._entries["a"].hits += 5
    held._entries.now = 10.0
    held.store("a", entry("new", at=T0 + 1))
    assert (5, 1) == (held.stats().hits, held.stats().entries)
    assert {"a": "new"} == held._copies


def test_what_a_policy_declines_leaves_nothing_behind() -> None:
    """Neither its own copy, nor that of what it was to replace."""
    held = store(policy=Uses, detect_mutation=True)
    held.store("a", entry("taken"))
    for key in "ab":
        held.store(key, entry("declined", at=T0 + 1))
    assert {} == held._copies
    assert 0 == held.stats().entries


def test_room_that_comes_by_itself_need_not_be_made() -> None:
    """Where the last entry goes just before another is to be evicted."""

    class Late(Times):
        def popitem(self) -> tuple[str, Any]:
            self.now = 10.0
            return super().popitem()

    held = store(policy=Late, max_entries=1)
    held.store("a", entry())
    held.store("b", entry())
    assert ["b"] == list(held._entries)
    assert 1 == held.stats().evictions


class OwnPolicy(OrderedDict[str, Any]):
    """The interface of cachetools.Cache without being one."""

    def __init__(self, maxsize: int, getsizeof: Any) -> None:
        super().__init__()
        self.maxsize, self.getsizeof = maxsize, getsizeof

    def popitem(self) -> tuple[str, Any]:  # type: ignore[override]
        return super().popitem(last=False)

    @property
    def currsize(self) -> int:
        return sum(map(self.getsizeof, self.values()))


def test_a_policy_of_ones_own_need_not_be_cachetools() -> None:
    """Its interface is enough."""
    cache = TieredCache(MemoryTier(ttl=60, policy=OwnPolicy, max_entries=2, sizer=len), clock=lambda: T0)  # type: ignore[arg-type]
    for key in "abcab":
        assert key == cache.get_or_load(key, lambda key=key: key)
    stats = cache.stats().l1
    assert (2, 3) == (stats.entries, stats.evictions)
    assert stats.bytes == 2 * (ENTRY_OVERHEAD + 2)


@pytest.mark.parametrize("policy", ["lru", "s3fifo"])
def test_hits_are_still_counted_after_their_entry_has_gone(policy: str) -> None:
    """Evicted, deleted, replaced, cleared: the sum does not shrink, nor is anything counted twice."""
    held = store(max_entries=2, policy=policy)
    entries = {key: entry() for key in "abcd"}
    for number, (key, one) in enumerate(entries.items(), 1):
        held.store(key, one)
        one.hits += number
    held.drop("d")
    assert not held.drop("d")
    assert 10 == held.stats().hits
    held.store("d", entries["d"])
    assert 10 == held.stats().hits
    held.store("d", entry(at=T0 + 1))
    held.clear()
    assert 10 == held.stats().hits


def test_a_later_load_wins_over_an_earlier_one() -> None:
    """Whichever ends first; of two that began together the last to end is kept."""
    held = store()
    late, early, same = entry("late", T0 + 5), entry("early"), entry("same", T0 + 5)
    assert held.store("k", late)
    assert held.refuses("k", early)
    assert not held.store("k", early)
    assert late is held.look("k")
    assert held.store("k", same)
    assert same is held.look("k")


def test_what_was_invalidated_while_it_was_loaded_is_not_stored() -> None:
    """By its key or with everything; a load that began afterwards is, and so is another key."""
    held = store()
    for what, other in ((key_of("k"), "other"), (EVERYTHING, "k"), (None, "k")):
        before = entry(birth=held.birth())
        if what is None:
            held.clear()
        else:
            held.invalidate([what], T0)
        assert held.is_dead("k", before)
        assert held.refuses("k", before)
        assert not held.store("k", before)
        assert held.look("k") is None
        assert held.store(other, entry(birth=held.birth()))
    assert held.store("k", entry(birth=held.birth()))


def test_what_is_invalidated_is_dropped_if_it_is_of_before() -> None:
    """By its key, by one of its tags, or with everything; what was loaded afterwards stays."""
    for what in (key_of("k"), Invalidation(Kind.TAG, "t"), EVERYTHING):
        held = store()
        held.store("k", entry(tags=("s", "t"), birth=held.birth()))
        held.invalidate([what], T0)
        assert held.look("k") is None
        assert {} == held.hot
        held.store("k", entry(tags=("s", "t"), birth=held.birth()))
        held.invalidate([Invalidation(what.kind, "another's")] if what.name else [], T0)
        assert held.look("k") is not None


def test_what_is_expired_stays_without_being_fresh() -> None:
    """No plain hit is left, and what is kept of it is kept from now; what is under way is not kept."""
    held = store()
    one = entry(stale_while_revalidate=30.0, stale_if_error=50.0, birth=held.birth())
    loading = entry(at=T0 + 1, birth=held.birth())
    held.store("k", one)
    held.invalidate([Invalidation(Kind.EXPIRED, "k"), Invalidation(Kind.EXPIRED, "nobody's")], T0 + 10)
    assert one is held.look("k")
    assert {} == held.hot
    assert (0.0, 0.0, 60.0) == (one.fresh_for, one.stale_while_revalidate, one.stale_if_error)
    assert not held.store("k", loading)
    assert held.store("k", entry(at=T0 + 1, birth=held.birth()))


def test_what_is_set_after_an_invalidation_is_kept_whatever_was_held() -> None:
    """And what was being loaded meanwhile is refused, though it may claim to be later."""
    held = store()
    loading = entry("loading", T0 + 100, birth=held.birth())
    held.store("k", entry("later", T0 + 50))
    held.invalidate([key_of("k")], T0)
    replacement = entry("set", birth=held.birth())
    assert held.store("k", replacement)
    assert not held.store("k", loading)
    assert replacement is held.look("k")


def test_an_entry_that_is_held_can_be_armed_again() -> None:
    """Storing it once more only renews what a plain hit needs."""
    held = store()
    one = entry()
    held.store("k", one)
    held.hot.clear()
    assert held.store("k", one)
    assert one is held.hot["k"][2]
    assert 1 == held.stats().entries


def test_what_says_not_found_is_never_armed() -> None:
    """A plain hit returns values; an absence has to be raised."""
    held = store()
    held.store("k", entry("no such thing", negative=True))
    assert {} == held.hot
    assert held.look("k") is not None


def test_after_a_step_of_the_clock_everything_is_older_and_unconfirmed() -> None:
    """No plain hit is left, and each entry has aged by what the clock lost."""
    held = store()
    one = entry()
    held.store("k", one)
    held.unconfirm(30.0)
    assert {} == held.hot
    assert (T0 - 30, -inf) == (one.loaded_at, one.confirmed_at)


def test_entries_can_be_dropped_by_what_they_are() -> None:
    """Those for which the question is answered with yes."""
    held = store()
    for key in "abc":
        held.store(key, entry(tags=(key,)))
    held.drop_where(lambda key, one: key == "a" or "c" in one.tags)
    assert {"b"} == set(held._entries) == set(held.hot)


@pytest.mark.parametrize("policy", ["lru", "s3fifo", cachetools.LFUCache])
def test_threads_leave_the_store_whole(policy: Any) -> None:
    """Eight threads that store, look, drop and invalidate: what is counted, held and armed agrees at the end."""
    held = store(max_bytes=30_000, policy=policy)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        random = Random(seed)
        try:
            for _ in range(3000):
                key = str(random.randrange(60))
                match random.randrange(5):
                    case 0:
                        held.invalidate([key_of(key)], T0)
                    case 1:
                        held.look(key)
                    case 2:
                        held.stats()
                    case _:
                        held.store(key, entry(at=T0 + random.random(), birth=held.birth()))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [] == errors
    stats = held.stats()
    assert stats.bytes == sum(one.size for _, one in held._all()) <= 30_000
    assert set(held.hot) == (set(held._entries) if isinstance(policy, str) else set())


def test_the_local_clock_orders_loads_and_invalidations() -> None:
    """What began before is killed, what began after is not, and tags and other keys are told apart."""
    log = Invalidations()
    before = of(log), of(log, "a")
    log.note([key_of("a")])
    assert log.kills("a", before[0])
    assert not log.kills("a", of(log))
    assert not log.kills("b", before[1])
    log.note([Invalidation(Kind.TAG, "a")])
    assert log.kills("b", before[1])
    assert not log.kills("b", of(log, "a"))
    log.note([EVERYTHING])
    assert log.kills("b", before[0])
    assert not log.kills("b", of(log))


def test_the_ring_is_bounded_and_forgets_on_the_safe_side() -> None:
    """Beyond its size, what is as old as the forgotten is killed, invalidated or not."""
    log = Invalidations()
    first = of(log)
    for number in range(MOST + 1):
        log.note([key_of(str(number))])
    assert len(log._local.by_name) <= MOST // 2 + 1
    assert log.kills("never invalidated", first)
    late = entry(birth=Birth(START, MOST))
    assert log.kills(str(MOST), late)
    assert not log.kills("never invalidated", late)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["note", "all", "load", "fill"])), max_size=60))
def test_no_fill_is_kept_that_began_before_an_invalidation(steps: list[tuple[str, str]]) -> None:
    """Whatever the order of loads, fills and invalidations of three keys: the log says what a list of all events says."""
    log, loads, stamps = Invalidations(), {}, dict.fromkeys("abc", -1)
    for moment, (key, step) in enumerate(steps):
        if step == "note":
            log.note([key_of(key)])
            stamps[key] = moment
        elif step == "all":
            log.note([EVERYTHING])
            stamps = dict.fromkeys("abc", moment)
        elif step == "load":
            loads[key] = (moment, of(log))
        elif key in loads:
            assert log.kills(key, loads[key][1]) == (stamps[key] > loads[key][0])


def test_a_clock_that_is_a_plain_function_will_do() -> None:
    """Hits, expiry and all, with nothing but a function of no arguments."""
    clock = FakeClock()
    cache = TieredCache(MemoryTier(ttl=60, jitter=0, sizer=len), clock=lambda: clock(), refresh="inline")
    assert "a" == cache.get_or_load("k", lambda: "a") == cache.get_or_load("k", lambda: "b")
    clock.advance(60)
    assert "b" == cache.get_or_load("k", lambda: "b")
