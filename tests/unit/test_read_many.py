"""get_many_or_load: what is asked of whom, and what comes back."""

import contextlib
import threading
import time

import pytest

from tiered_cache import (
    ConfigurationError,
    Loaded,
    MemoryTier,
    NotFound,
    OriginDenied,
    OriginMalformed,
    TieredCache,
)
from tiered_cache._values import Pending
from tiered_cache._waits import WAITS
from tiered_cache.testing import FakeClock, InMemorySharedTier


class Origin:
    """A batch loader over a dict, which notes what it was asked."""

    def __init__(self, **values):
        self.values = values
        self.asked = []
        self.error = None

    def __call__(self, keys):
        self.asked.append(keys)
        if self.error is not None:
            raise self.error
        return {key: self.values[key] for key in keys if key in self.values}


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def shared():
    return InMemorySharedTier(ttl="1h", stale_while_revalidate="10m", stale_if_error="1d")


@pytest.fixture
def make(clock, shared):
    made = []

    def make(**options):
        options = {"l2": shared, "clock": clock, "refresh": "inline", "negative_ttl": "30s"} | options
        cache = TieredCache(MemoryTier(ttl="1m", jitter=0), **options)
        made.append(cache)
        return cache

    yield make
    for cache in made:
        cache.close()


def test_only_the_missing_are_loaded(make):
    """What L1 has is not asked of L2, what L2 has not of the loader; repeats are asked once; the order is the caller's."""
    origin = Origin(a=1, b=2, c=3)
    first, second = make(), make()
    assert first.get_many_or_load(["a", "b"], origin) == {"a": 1, "b": 2}
    assert list(second.get_many_or_load(["c", "b", "c", "a"], origin).items()) == [("c", 3), ("b", 2), ("a", 1)]
    assert origin.asked == [("a", "b"), ("c",)]
    assert second.stats().l2.hits == 2
    second.get_many_or_load(["a", "b", "c"], origin)
    assert (second.stats().l2.hits, len(origin.asked)) == (2, 2)
    assert (second.stats().l1.hits, second.stats().l1.misses) == (3, 3)


def test_a_batch_loader_that_wants_to_knows_the_time_that_is_left(make):
    """As an object with `load_many`, though it could be called too; outside of an invocation no limit is known."""
    cache = make()

    class Told(Origin):
        def load_many(self, keys, context):
            return dict.fromkeys(keys, (keys, context.remaining()))

    with cache.invocation(lambda: 2.5):
        assert cache.get_many_or_load(["a", "b"], Told())["a"] == (("a", "b"), 2.5)
    assert cache.get_many_or_load(["c"], Told())["c"] == (("c",), None)
    with pytest.raises(TypeError, match=r"load_many\(keys, context\); got an object of type object"):
        cache.get_many_or_load(["d"], object())


def test_what_l1_loaded_later_is_not_given_up_for_what_l2_holds(make, clock, shared):
    """L2 did not take it; when it answers again, and is asked, the older value is not the answer."""
    origin = Origin(a=1, b=1)
    cache = make()
    cache.get_many_or_load(["a", "b"], origin)
    clock.advance(3601)
    shared.down = True
    origin.values = {"a": 2, "b": 2}
    assert cache.get_many_or_load(["a", "b"], origin, force_refresh=True) == {"a": 2, "b": 2}
    shared.down = False
    clock.step(-3000)
    assert cache.get_many_or_load(["a", "b"], origin) == {"a": 2, "b": 2}


def test_plain_hits_of_many_end_as_those_of_one_do(make, clock):
    """At L1's ttl, at a moment to which the clock has gone back, and with an invalidation by another container."""
    origin = Origin(a=1, b=2)
    first, second = make(), make()
    first.get_many_or_load(["a", "b"], origin)
    second.get_many_or_load(["a", "b"], origin)
    hits = second.stats().l2.hits
    clock.advance(59)
    second.get_many_or_load(["a", "b"], origin)
    assert second.stats().l2.hits == hits
    origin.values["a"] = 10
    first.delete("a")
    with second.invocation():
        assert second.get_many_or_load(["a", "b"], origin) == {"a": 10, "b": 2}
    clock.step(-30)
    before = second.stats().l2.hits
    assert second.get_many_or_load(["a", "b"], origin) == {"a": 10, "b": 2}
    assert second.stats().l2.hits > before


@pytest.mark.parametrize("coherence", ["invocation", 5.0])
def test_what_a_look_has_spared_is_answered_by_plain_hits(make, clock, coherence):
    """From then on: for many keys as for one, also where the look was due by seconds."""
    origin, cache = Origin(a=1, b=2), make(coherence=coherence)
    cache.get_many_or_load(["a", "b"], origin)
    clock.advance(6)
    with cache.invocation():
        assert cache.get_many_or_load(["b", "a"], origin) == {"b": 2, "a": 1}
        assert cache._memory.plain_hits(["a", "b"], clock()) == {"a": 1, "b": 2}
    assert (cache.stats().l1.hits, len(origin.asked)) == (4, 1)


def test_a_refresh_of_a_key_is_one_while_a_batch_keeps_its_own(clock):
    """What a batch has loaded does not stand in L1 yet, and is owed until it does."""
    inside, gate = threading.Event(), threading.Event()

    def measured(value):
        if value == "new":
            inside.set()
            assert gate.wait(60)
        return 100

    tier = MemoryTier(ttl=10, stale_while_revalidate=1000, jitter=0, sizer=measured)
    with TieredCache(tier, refresh="thread", clock=clock) as cache:
        cache.get_many_or_load(["a", "b"], lambda keys: dict.fromkeys(keys, "old"))
        clock.advance(11)
        cache.get_many_or_load(["a", "b"], lambda keys: dict.fromkeys(keys, "new"))
        assert inside.wait(60)
        assert [cache.get_or_load(key, lambda: "another") for key in "ab"] == ["old", "old"]
        assert cache.stats().origin.refreshes == 1
        gate.set()


@pytest.mark.parametrize("many", [False, True])
def test_a_refresh_at_once_that_raises_is_a_miss(clock, many):
    """The caller got nothing of what L1 holds."""
    cache = TieredCache(MemoryTier(ttl=10, stale_while_revalidate=1000, jitter=0), refresh="inline", clock=clock)
    cache.get_or_load("k", lambda: "old")
    clock.advance(11)

    def denied(*_):
        raise PermissionError

    with pytest.raises(PermissionError):
        cache.get_many_or_load(["k"], denied) if many else cache.get_or_load("k", denied)
    stats = cache.stats().l1
    assert (stats.hits, stats.stale_hits, stats.misses) == (0, 0, 2)


def test_single_and_many_share_entries(make):
    """A key loaded in a batch is a hit for get_or_load, and the other way round."""
    cache = make()
    cache.get_many_or_load(["a"], Origin(a=1))
    assert cache.get_or_load("a", lambda: 2) == 1
    cache.get_or_load("b", lambda: 3)
    assert cache.get_many_or_load(["b"], Origin()) == {"b": 3}


def test_no_keys_ask_nobody(make):
    """An empty batch is an empty dict."""
    origin = Origin()
    assert make().get_many_or_load([], origin) == {}
    assert origin.asked == []


def test_a_key_left_out_is_asked_again(make):
    """Leaving out says 'no value now', not 'does not exist'."""
    cache, origin = make(), Origin(a=1)
    assert cache.get_many_or_load(["a", "b"], origin) == {"a": 1}
    assert cache.get_many_or_load(["a", "b"], origin) == {"a": 1}
    assert origin.asked == [("a", "b"), ("b",)]


@pytest.mark.parametrize("absent", [NotFound, NotFound("gone")])
def test_a_key_said_not_to_exist_is_remembered(make, clock, absent):
    """NotFound as a value is kept for negative_ttl, in L2 too, and get_or_load raises it."""
    cache, origin = make(), Origin(a=absent)
    assert cache.get_many_or_load(["a"], origin) == {}
    assert cache.get_many_or_load(["a"], origin) == {}
    assert make().get_many_or_load(["a"], origin) == {}
    assert len(origin.asked) == 1
    with pytest.raises(NotFound):
        cache.get_or_load("a", lambda: 1)
    clock.advance(31)
    origin.values["a"] = 5
    assert cache.get_many_or_load(["a"], origin) == {"a": 5}


def test_loaded_sets_facts_of_one_key(make, clock):
    """Each value may have a life of its own."""
    cache, origin = make(l2=None), Origin(a=Loaded(1, ttl=10), b=2)
    cache.get_many_or_load(["a", "b"], origin)
    clock.advance(20)
    cache.get_many_or_load(["a", "b"], origin)
    assert origin.asked == [("a", "b"), ("a",)]


def test_stale_values_are_refreshed_in_one_batch(make, clock):
    """Inline: the caller gets the new values; one load for all of them."""
    cache, origin = make(), Origin(a=1, b=2)
    cache.get_many_or_load(["a", "b"], origin)
    clock.advance(3600 + 60)
    origin.values = {"a": 10, "b": 20}
    assert cache.get_many_or_load(["a", "b"], origin) == {"a": 10, "b": 20}
    assert origin.asked == [("a", "b"), ("a", "b")]


def test_a_carrier_refreshes_after_the_answer(make, clock):
    """The caller gets the stale values at once."""
    owed = []
    carrier = type("Carrier", (), {"submit": lambda self, work: owed.append(work)})()
    cache, origin = make(refresh=carrier), Origin(a=1)
    cache.get_many_or_load(["a"], origin)
    clock.advance(3600 + 60)
    origin.values = {"a": 10}
    assert cache.get_many_or_load(["a"], origin) == {"a": 1}
    owed.pop()()
    assert cache.get_many_or_load(["a"], origin) == {"a": 10}


def test_stale_values_cover_for_a_failure_only_if_they_do_for_all(make, clock):
    """Otherwise the loader's error reaches the caller; after a covered failure there is a pause."""
    cache, origin = make(), Origin(a=1, b=2)
    cache.get_many_or_load(["a", "b"], origin)
    clock.advance(2 * 3600)
    origin.error = ConnectionError("down")
    assert cache.get_many_or_load(["a", "b"], origin) == {"a": 1, "b": 2}
    asked = len(origin.asked)
    assert cache.get_many_or_load(["a", "b"], origin) == {"a": 1, "b": 2}
    assert len(origin.asked) == asked
    with pytest.raises(ConnectionError):
        cache.get_many_or_load(["a", "c"], origin)


def test_where_not_all_keys_are_covered_none_gets_a_pause(clock, caplog):
    """Nothing was served in place of the load: the next call loads, and nothing is said of values that cover."""
    cache = TieredCache(MemoryTier(ttl="1m", stale_if_error="1h"), clock=clock)
    origin = Origin(a=1, b=2)
    cache.get_many_or_load(["a", "b"], origin)
    clock.advance(120)
    origin.error = ConnectionError("down")
    with pytest.raises(ConnectionError):
        cache.get_many_or_load(["a", "b", "c"], origin)
    assert ([], 0) == (caplog.messages, cache.stats().origin.covered)
    assert 3 == cache.get_or_load("a", lambda: 3)


def test_denied_is_not_covered(make, clock):
    """A stale value must not be shown to who may not see it."""
    cache, origin = make(), Origin(a=1)
    cache.get_many_or_load(["a"], origin)
    clock.advance(2 * 3600)
    origin.error = OriginDenied("no")
    with pytest.raises(OriginDenied):
        cache.get_many_or_load(["a"], origin)


def test_l2_down_serves_what_is_fresh_and_loads_the_rest(make, shared, clock):
    """No error of L2 reaches the caller."""
    cache, origin = make(), Origin(a=1, b=2)
    cache.get_many_or_load(["a"], origin)
    clock.advance(120)
    shared.down = True
    assert cache.get_many_or_load(["a", "b"], origin) == {"a": 1, "b": 2}
    assert origin.asked == [("a",), ("b",)]


def test_force_refresh_loads_all(make):
    """Whatever the tiers hold."""
    cache, origin = make(), Origin(a=1)
    cache.get_many_or_load(["a"], origin)
    origin.values["a"] = 2
    assert cache.get_many_or_load(["a"], origin, force_refresh=True) == {"a": 2}


def test_the_same_batch_from_many_threads_is_loaded_once(make):
    """Single flight holds for batches of the same keys."""
    cache, inside, gate, asked = make(), threading.Event(), threading.Event(), []

    def load(keys):
        asked.append(keys)
        inside.set()
        gate.wait(60)
        return dict.fromkeys(keys, 1)

    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(cache.get_many_or_load(["a", "b"], load))) for _ in range(8)
    ]
    threads[0].start()
    inside.wait(60)
    for thread in threads[1:]:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(60)
    assert answers == [{"a": 1, "b": 1}] * 8
    assert len(asked) == 1


def test_an_unserializable_value_does_not_keep_the_others_from_l2(make, shared):
    """It stays in L1 alone, and is counted."""
    cache = make()
    thing = object()
    assert cache.get_many_or_load(["a", "b"], Origin(a=thing, b=2)) == {"a": thing, "b": 2}
    assert cache.get("a") is thing
    assert cache.stats().l2.unserializable == 1
    assert [key for _, key in shared.entries] == ["b"]


@pytest.mark.parametrize("given", [None, [1], "ab"])
def test_an_answer_that_is_no_mapping_is_refused(make, given):
    """The error says what a batch loader gives."""
    with pytest.raises(OriginMalformed, match="must give a mapping"):
        make().get_many_or_load(["a"], lambda keys: given)


@pytest.mark.parametrize("negative_ttl", ["30s", None])
def test_many_absences_are_one_round_trip(make, shared, negative_ttl):
    """Remembered or forgotten, they go to L2 together."""
    cache, calls = make(negative_ttl=negative_ttl), []
    store = cache._shared._store
    for name in ("fill_many", "release", "invalidate"):
        real = getattr(store, name)
        setattr(store, name, lambda *args, name=name, real=real, **facts: (calls.append(name), real(*args, **facts))[1])
    keys = [str(number) for number in range(50)]
    assert cache.get_many_or_load(keys, lambda missing: dict.fromkeys(missing, NotFound)) == {}
    assert calls == (["fill_many"] if negative_ttl else ["release"])


def test_the_text_of_an_absence_is_kept(make):
    """What the batch loader said is what get_or_load raises."""
    cache = make()
    cache.get_many_or_load(["a"], lambda keys: {"a": NotFound("no customer 7")})
    with pytest.raises(NotFound, match="no customer 7"):
        cache.get_or_load("a", lambda: 1)


def test_a_refresh_of_many_looks_into_l2_first(clock, shared):
    """Where another container has loaded meanwhile, the origin is not asked."""
    tier = MemoryTier(ttl="1m", stale_while_revalidate="1m", jitter=0)
    first, second = (TieredCache(tier, shared, clock=clock, refresh="inline") for _ in range(2))
    origin = Origin(a=1)
    first.get_many_or_load(["a"], origin)
    clock.advance(70)
    second.get_many_or_load(["a"], Origin(a=2), force_refresh=True)
    assert first.get_many_or_load(["a"], origin) == {"a": 2}
    assert origin.asked == [("a",)]


@pytest.mark.parametrize("value", [iter([1]), (x for x in "ab")])
def test_a_value_of_a_batch_that_can_be_used_but_once_is_refused(make, value):
    """It would be empty for the next caller."""
    cache = make()
    with pytest.raises(TypeError, match="only once"):
        cache.get_many_or_load(["a"], lambda keys: {"a": value})
    assert cache.stats().l1.entries == 0


def test_verbs_of_a_single_loader_are_no_values(make):
    """'Pending' and 'not modified' are not cached as if they were."""
    with pytest.raises(TypeError, match="loaders of one key"):
        make().get_many_or_load(["a"], lambda keys: {"a": Pending("handle")})


@pytest.mark.parametrize("option", [{"scope": "invocation"}, {"hard_timeout": 1}, {"soft_timeout": 1}])
def test_options_that_would_be_ignored_are_refused(make, option):
    """The error names the option."""
    with pytest.raises(ConfigurationError, match=f"{next(iter(option))} means nothing for many keys"):
        make().get_many_or_load(["a"], Origin(), **option)


def test_keys_that_were_not_asked_for_are_refused(make):
    """Nothing of such an answer is kept."""
    cache = make()
    with pytest.raises(OriginMalformed, match="1 keys that it was not asked for"):
        cache.get_many_or_load(["a"], lambda keys: {"a": 1, "zz": 2})
    assert cache.stats().l1.entries == 0


@pytest.mark.parametrize(
    ("keys", "error"), [("ab", TypeError), (None, TypeError), ([1], TypeError), ([""], ValueError)]
)
def test_keys_that_are_none_are_refused(make, keys, error):
    """Before anybody is asked."""
    with pytest.raises(error):
        make().get_many_or_load(keys, Origin())


def test_a_loader_that_is_none_is_refused(make):
    """Before anybody is asked."""
    with pytest.raises(TypeError, match="callable of the missing keys"):
        make().get_many_or_load(["a"], {"a": 1})


def in_thread(work):
    got = []
    thread = threading.Thread(target=lambda: got.append(work()))
    thread.start()
    thread.join(60)
    return got[0]


def test_who_asks_after_a_deletion_does_not_join_a_batch_from_before(make, clock):
    """Nor does a forced batch join one that began earlier; what the older one brings for the deleted key is not kept."""
    for act in ("delete", "force"):
        cache, inner = make(l2=None), []

        def slow(keys, cache=cache, inner=inner, act=act):
            clock.advance(1)
            if act == "delete":
                cache.delete("a")
            new = lambda keys: dict.fromkeys(keys, "new")
            inner.append(in_thread(lambda: cache.get_many_or_load(["a", "b"], new, force_refresh=act == "force")))
            return dict.fromkeys(keys, "old")

        assert {"a": "old", "b": "old"} == cache.get_many_or_load(["a", "b"], slow)
        assert [{"a": "new", "b": "new"}] == inner
        assert "new" == cache.get("a")


def test_who_insists_on_fresh_does_not_take_the_stale_values_of_a_batch(clock):
    """Whoever flew was content with them; the one who insists loads for himself, and gets the error of that."""
    inner = []
    tier = MemoryTier(ttl="1m", stale_if_error="1h", jitter=0)
    with TieredCache(tier, clock=clock) as cache:
        cache.get_many_or_load(["a", "b"], lambda keys: dict.fromkeys(keys, "old"))
        clock.advance(100)

        def insist():
            try:
                return cache.get_many_or_load(["a", "b"], lambda keys: dict.fromkeys(keys, "new"), stale_ok=False)
            except OSError as error:
                return error

        def fails(keys):
            thread = threading.Thread(target=lambda: inner.append(insist()))
            thread.start()
            threads.append(thread)
            while not any(flight in cache._reads.flights.under_way() for flight in list(WAITS.awaited.values())):
                threading.Event().wait(0.002)
            raise OSError("down")

        threads = []
        assert cache.get_many_or_load(["a", "b"], fails) == {"a": "old", "b": "old"}
        threads[0].join(60)
        assert inner == [{"a": "new", "b": "new"}]


@pytest.mark.parametrize("many", [False, True])
def test_a_wait_for_another_containers_load_is_counted(make, monkeypatch, many):
    """Once, however often it looks; also for a batch."""
    first, second, begun, gate = make(), make(), threading.Event(), threading.Event()

    def slow():
        begun.set()
        assert gate.wait(60)
        return 1

    class Naps:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def sleep(_):
            gate.set()
            thread.join(60)

    thread = threading.Thread(target=first.get_or_load, args=("a", slow))
    thread.start()
    assert begun.wait(60)
    monkeypatch.setattr("tiered_cache._load.time", Naps)
    found = second.get_many_or_load(["a"], Origin())["a"] if many else second.get_or_load("a", Origin().values.copy)
    assert (1, 1, 0) == (found, second.stats().origin.waited, second.stats().origin.loads)


def test_what_a_batch_counts_is_what_single_keys_count(clock):
    """A stale hit covered for at once, an absence, a value that is none."""
    tier = MemoryTier(ttl="1m", stale_while_revalidate="10m", stale_if_error="1h", jitter=0)

    def counted(read):
        with TieredCache(tier, clock=clock, refresh="inline", negative_ttl=5) as cache:
            read(cache, {"a": 1})
            clock.advance(70)
            read(cache, OSError("down"))
            clock.advance(700)
            read(cache, {"a": iter(())})
            clock.advance(7200)
            read(cache, {"a": NotFound})
            clock.advance(1)
            read(cache, {"a": 1})
            return cache.stats().l1[:3], cache.stats().origin[:7]

    def one(cache, given):
        def load():
            if isinstance(given, Exception):
                raise given
            return given["a"]

        with contextlib.suppress(NotFound):
            cache.get_or_load("a", load)

    def many(cache, given):
        def load(keys):
            if isinstance(given, Exception):
                raise given
            return given

        cache.get_many_or_load(["a"], load)

    assert counted(one) == counted(many)


def test_a_batch_is_no_single_key_however_strange(make):
    """A key that looks like the name of a batch loads a value of its own."""
    cache = make()
    inner = []

    def slow(keys):
        inner.append(in_thread(lambda: [cache.get_or_load(key, lambda: "single") for key in ("\0a", "('a',)", "\0")]))
        return dict.fromkeys(keys, "batch")

    assert {"a": "batch"} == cache.get_many_or_load(["a"], slow)
    assert [["single"] * 3] == inner
