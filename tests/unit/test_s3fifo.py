"""The policy "s3fifo": the decisions of the paper, within the bounds of L1, whatever comes and goes."""

from __future__ import annotations

import subprocess
import sys
import threading
from itertools import product
from random import Random
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tiered_cache import ConfigurationError, MemoryTier, TieredCache
from tiered_cache._entry import Entry
from tiered_cache._l1.memory import ENTRY_OVERHEAD, MemoryStore
from tiered_cache._l1.s3fifo import LEAST, MARK, Ghosts
from tiered_cache._news import Invalidation, Kind

T0 = 1_800_000_000.0


class Key(str):
    """A key whose hash is the same in each process: where a ghost has its place, and who shares it, is not left to luck."""

    __slots__ = ()

    def __hash__(self) -> int:
        return crc32(self.encode())


LETTERS = [Key(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]
keys = st.sampled_from(LETTERS)
OF_LETTER = sys.getsizeof(LETTERS[0]) - sys.getsizeof("")
UNIT = 100 + OF_LETTER + ENTRY_OVERHEAD
"""What an entry takes with the sizer below and a key of one letter."""


def store(policy: Any = "s3fifo", **options: Any) -> MemoryStore:
    return MemoryStore(MemoryTier(**{"ttl": 60, "sizer": lambda _: 100, "policy": policy, **options}))


def entry(value: Any = "v", at: float = T0, **options: Any) -> Entry:
    return Entry(value, loaded_at=at, fresh_for=60, **options)


def use(held: MemoryStore, key: str) -> bool:
    """What a read-through does: a hit is counted on the entry and nowhere else, a miss is loaded and stored."""
    found = held.look(key)
    if found is None:
        held.store(key, entry(birth=held.birth()))
        return False
    found.hits += 1
    return True


class PlainS3FIFO:
    """The paper's algorithm 1 with unit sizes, slow and plain: lists, the oldest first, and a count that each hit moves.

    Where the code departs from the paper, so does this: S has a fifth and no tenth, one use is enough to leave S for M, S
    and M are compared again after each step, and G has the last keys evicted from S, as many as entries are held.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.S: list[str] = []
        self.M: list[str] = []
        self.G: list[str] = []
        self.freq: dict[str, int] = {}

    def read(self, key: str) -> bool:
        if key in self.freq:
            self.freq[key] = min(self.freq[key] + 1, 3)
            return True
        while len(self.freq) >= self.capacity:
            self.evict()
        (self.M if key in self.G else self.S).append(key)
        self.freq[key] = 0
        return False

    def write(self, key: str) -> None:
        """Storing what is held counts as a use; the key goes to the end of its queue."""
        if self.read(key):
            queue = self.S if key in self.S else self.M
            queue.remove(key)
            queue.append(key)

    def evict(self) -> None:
        evicted = False
        while not evicted:
            evicted = self.evict_small() if not self.M or 5 * len(self.S) >= len(self.freq) else self.evict_main()
        self.trim()

    def evict_small(self) -> bool:
        tail = self.S.pop(0)
        if self.freq[tail] > 0:
            self.M.append(tail)
            self.freq[tail] = 0
            return False
        self.G.append(tail)
        del self.freq[tail]
        return True

    def evict_main(self) -> bool:
        tail = self.M.pop(0)
        if self.freq[tail] > 0:
            self.M.append(tail)
            self.freq[tail] -= 1
            return False
        del self.freq[tail]
        return True

    def delete(self, key: str) -> None:
        if self.freq.pop(key, None) is not None:
            (self.S if key in self.S else self.M).remove(key)
            self.trim()

    def trim(self) -> None:
        self.G = self.G[max(0, len(self.G) - len(self.freq)) :]


@pytest.mark.parametrize("bound", ["max_entries", "max_bytes"])
@settings(max_examples=100)
@given(capacity=st.integers(1, 16), seed=st.integers(0, 2**32))
def test_the_decisions_are_those_of_the_paper(bound: str, capacity: int, seed: int) -> None:
    """Entries of one size, bounded by number or by bytes: after each step the three queues are the plain model's."""
    held = store(max_entries=capacity) if bound == "max_entries" else store(max_bytes=capacity * UNIT + UNIT // 2)
    model, random = PlainS3FIFO(capacity), Random(seed)
    for _ in range(300):  # by a seed, since what Hypothesis draws has too few repeats to reach the third round of M
        step = random.choices(["read", "write", "delete"], [40, 4, 1])[0]
        key = LETTERS[int(random.paretovariate(0.7)) % 26]
        if step == "read":
            assert model.read(key) == use(held, key)
        elif step == "write":
            model.write(key)
            held.store(key, entry(birth=held.birth()))
        else:
            model.delete(key)
            held.drop(key)
        queues = held._entries
        assert (model.S, model.M) == (list(queues._small), list(queues._main))
        assert (len(model.G), set(model.G)) == (len(queues._ghosts), {key for key in LETTERS if key in queues._ghosts})


def assert_whole(held: MemoryStore) -> None:
    """What the queues, the counters and the armed entries say of one another is true."""
    queues, stats = held._entries, held.stats()
    small, main = dict(queues._small), dict(queues._main)
    assert not small.keys() & main.keys()
    assert [*small, *main] == list(queues)
    assert len(queues) == stats.entries == len(small) + len(main)
    assert queues._small_size == sum(one.size for one in small.values())
    assert stats.bytes == queues._small_size + sum(one.size for one in main.values())
    assert stats.bytes <= stats.max_bytes
    assert set(held.hot) == {*small, *main}
    assert len(queues._ghosts) <= len(queues)
    assert all(0 <= min(one.hits - one.settled, 3) for one in (*small.values(), *main.values()))


class AnySizes(RuleBasedStateMachine):
    """Entries of all sizes are stored, used, replaced, dropped and invalidated."""

    @initialize(max_bytes=st.integers(1500, 20_000), max_entries=st.none() | st.integers(1, 20))
    def start(self, max_bytes: int, max_entries: int | None) -> None:
        self.held = store(max_bytes=max_bytes, max_entries=max_entries, sizer=lambda value: value)
        self.max_entries = max_entries or 10**9
        self.gone: list[str] = []
        self.hits = 0
        report = self.held._entries._evicted
        self.held._entries._evicted = lambda key, one: (self.gone.append(key), report(key, one))

    @rule(key=keys, size=st.integers(1, 6000), tag=st.sampled_from("xyz"))
    def put(self, key: str, size: int, tag: str) -> None:
        before, self.gone[:] = set(self.held._entries), []
        mine = entry(size, birth=self.held.birth(), tags=(tag,))
        fits = size + OF_LETTER + sys.getsizeof(tag) + 16 + ENTRY_OVERHEAD <= self.held._tier.max_bytes
        assert fits is self.held.store(key, mine)
        assert self.held.look(key) is (mine if fits else None)
        assert len(self.gone) == len(set(self.gone))
        assert set(self.held._entries) == (before - set(self.gone) - {key}) | ({key} if fits else set())
        assert key not in self.gone

    @rule(key=keys, times=st.integers(1, 5))
    def hit(self, key: str, times: int) -> None:
        if armed := self.held.hot.get(key):
            armed[2].hits += times
            self.hits += times

    @rule(key=keys)
    def drop(self, key: str) -> None:
        was_held = key in self.held.hot
        assert was_held is self.held.drop(key)
        assert self.held.look(key) is None

    @rule(tag=st.sampled_from("xyz"))
    def invalidate_tag(self, tag: str) -> None:
        self.held.invalidate([Invalidation(Kind.TAG, tag)], T0)
        assert all(tag not in one.tags for _, one in self.held._all())

    @rule(key=keys)
    def invalidate_key(self, key: str) -> None:
        self.held.invalidate([Invalidation(Kind.KEY, key)], T0)
        assert self.held.look(key) is None

    @rule(below=keys)
    def drop_where(self, below: str) -> None:
        self.held.drop_where(lambda key, _: key < below)
        assert all(key >= below for key in self.held._entries)

    @rule()
    def clear(self) -> None:
        self.held.clear()
        assert (0, 0) == (len(self.held._entries), len(self.held._entries._ghosts))

    @invariant()
    def whole(self) -> None:
        assert_whole(self.held)
        assert len(self.held._entries) <= self.max_entries
        assert self.hits == self.held.stats().hits


TestAnySizes = AnySizes.TestCase
TestAnySizes.settings = settings(max_examples=100, stateful_step_count=60)


@pytest.mark.parametrize(("policy", "kept"), [("lru", 0), ("s3fifo", 50)])
def test_a_scan_does_not_flush_what_is_used(policy: str, kept: int) -> None:
    """A thousand keys that are asked for once pass through, and those in use are there still; by LRU they are gone."""
    held = store(policy, max_entries=100)
    hot = [f"hot {number}" for number in range(50)]
    for _ in range(3):
        for key in hot:
            use(held, key)
    for number in range(1000):
        use(held, f"scanned {number}")
    assert kept == sum(key in held._entries for key in hot)


def test_large_values_that_are_used_once_do_not_flush_what_is_used() -> None:
    """The small queue is a fifth of the bytes, however few entries those are."""
    held = store(max_bytes=100 * UNIT, sizer=lambda value: value)
    hot = [f"{number:02}" for number in range(40)]
    for _, key in product(range(3), hot):
        (held.look(key) or entry()).hits += 1
        held.store(key, entry(100, birth=held.birth()))
    for number in range(200):
        held.store(f"scanned {number}", entry(20 * UNIT, birth=held.birth()))
    assert 40 == sum(key in held._entries for key in hot)
    assert_whole(held)


def test_a_key_that_comes_back_soon_goes_to_the_main_queue() -> None:
    """It was judged too early; one that comes back late is new."""
    held = store(max_entries=10)
    for number in range(11):
        use(held, str(number))
    use(held, "0")
    assert ["0"] == list(held._entries._main)
    for number in range(100, 200):
        use(held, str(number))
    use(held, "5")
    assert ["0"] == list(held._entries._main)


def test_an_entry_that_is_refreshed_keeps_its_uses() -> None:
    """The value is new, the key is as popular as before: it outlives as many rounds, and one more for being asked for."""
    held = store(max_entries=2)
    use(held, "a")
    use(held, "a")
    use(held, "b")
    assert held.store("a", entry(at=T0 + 1))
    for number in range(20):
        use(held, f"scanned {number}")
    assert "a" in held._entries
    assert 1 == held.stats().hits


def test_an_entry_that_grows_makes_others_go_and_not_itself() -> None:
    """It is out of its queue while room is made."""
    held = store(max_bytes=10_000, sizer=lambda value: value)
    for key in "abcdefgh":
        held.store(key, entry(300))
    assert held.store("a", entry(9000, T0 + 1))
    assert ["a"] == list(held._entries)
    assert 7 == held.stats().evictions
    assert_whole(held)


def test_ghosts_go_with_the_entries() -> None:
    """There are never more of them than entries, after a clear none: their memory is that of the entries held."""
    held = store(max_entries=50)
    for number in range(500):
        use(held, Key(number))
    ghosts = held._entries._ghosts
    assert 49 == len(ghosts)
    held.drop_where(lambda key, _: int(key) % 2 == 0)
    assert 25 == len(ghosts) == len(held._entries)
    held.clear()
    assert (0, 0) == (len(ghosts), len(held._entries))
    assert not any(Key(number) in ghosts for number in range(500))


def test_two_keys_of_one_hash_leave_the_ghosts_whole() -> None:
    """One may be forgotten with the other; nothing is left behind."""

    class Same(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 7

    ghosts = Ghosts()
    for key in (Same("a"), Same("b"), "c"):
        ghosts.add(key)
    assert Same("d") in ghosts
    ghosts.keep(1)
    assert (True, False) == ("c" in ghosts, Same("d") in ghosts)
    ghosts.keep(0)
    assert (0, False) == (len(ghosts), "c" in ghosts)


@pytest.mark.parametrize("count", [100, 10_000])
def test_the_latest_ghosts_are_known_and_no_earlier_one(count: int) -> None:
    """But for a few, whose places others took; each takes at most 64 bytes."""
    ghosts, keys = Ghosts(), [Key(f"key {number}") for number in range(3 * count)]
    for key in keys:
        ghosts.add(key)
        ghosts.keep(count)
    known = [number for number, key in enumerate(keys) if key in ghosts]
    assert 2 * count <= min(known)
    assert count * 0.95 <= len(known) <= count == len(ghosts)
    assert ghosts._cells.itemsize * len(ghosts._cells) <= max(64 * count, 8 * LEAST)


def test_fewer_ghosts_take_less_room_and_the_latest_stay_known() -> None:
    """Also more of them afterwards, and when the numbers of 32 bits by which they are counted come to their end."""
    ghosts, keys = Ghosts(), [Key(f"key {number}") for number in range(5600)]
    for number, key in enumerate(keys[:5000], 1):
        ghosts.add(key)
        ghosts.keep(number)
    ghosts.keep(400)
    assert len(ghosts._cells) <= 8 * 400
    ghosts._left, ghosts._forgotten = MARK - 10, MARK - 10
    for key in keys[5000:]:
        ghosts.add(key)
        ghosts.keep(400)
    known = [number for number, key in enumerate(keys) if key in ghosts]
    assert 5200 <= min(known)
    assert 390 <= len(known) <= 400 == len(ghosts)
    assert ghosts._left < 1000


def hits(policy: str, trace: list[int], **options: Any) -> int:
    tier = MemoryTier(ttl=60, policy=policy, sizer=lambda _: 100, **options)  # type: ignore[arg-type]
    with TieredCache(tier, refresh="inline", clock=lambda: T0) as cache:
        for key in trace:
            cache.get_or_load(Key(key), int)
        return cache.stats().l1.hits


def test_a_skewed_trace_has_more_hits_than_with_lru() -> None:
    """And much more where scans come in between; with a fixed seed, by number and by bytes."""
    random = Random(3)
    skewed = [int(random.paretovariate(0.6)) % 3000 for _ in range(20_000)]
    scanned = [
        key for start in range(0, 20_000, 1000) for key in skewed[start : start + 1000] + list(range(3000, 3300))
    ]
    for options in ({"max_entries": 200}, {"max_bytes": 200 * (UNIT + 3)}):
        assert hits("lru", skewed, **options) + 100 <= hits("s3fifo", skewed, **options)
        assert hits("lru", scanned, **options) * 1.05 <= hits("s3fifo", scanned, **options)


def test_a_loop_that_is_larger_than_the_cache_has_hits() -> None:
    """LRU has none at all: each key goes just before it is asked for again."""
    loop = list(range(120)) * 30
    assert 0 == hits("lru", loop, max_entries=100)
    assert 0.1 * len(loop) < hits("s3fifo", loop, max_entries=100)


def test_hits_from_many_threads_are_counted_while_entries_go() -> None:
    """Readers hit without a lock while writers evict, drop and clear: queues and counters agree at the end."""
    errors: list[BaseException] = []
    tier = MemoryTier(ttl=60, policy="s3fifo", max_entries=40, sizer=lambda _: 100)
    with TieredCache(tier, refresh="inline", clock=lambda: T0) as cache:

        def work(seed: int) -> None:
            random = Random(seed)
            try:
                for number in range(4000):
                    key = str(int(random.paretovariate(0.8)) % 200)
                    assert key == cache.get_or_load(key, lambda key=key: key)
                    if number % 97 == 0:
                        cache.delete(key)
                    if number % 1999 == 0:
                        cache.clear()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [] == errors
        assert_whole(cache._memory)
        assert cache.stats().l1.evictions > 100


def test_another_name_is_refused_with_those_there_are() -> None:
    """By the argument's name."""
    with pytest.raises(ConfigurationError, match="^policy must be one of 'lru', 's3fifo'; got 'fifo'"):
        MemoryTier(ttl=60, policy="fifo")  # type: ignore[arg-type]


def test_nothing_is_imported_for_it() -> None:
    """It is the standard library's queues: a cold start is spared cachetools."""
    program = (
        "import sys; from tiered_cache import MemoryTier, TieredCache; "
        "cache = TieredCache(MemoryTier(ttl=60, policy='s3fifo')); "
        "assert cache.get_or_load('k', int) == 0; print('cachetools' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "False" == answer.stdout.strip()
