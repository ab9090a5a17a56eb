"""S3-FIFO: more hits from the same memory than LRU, with nothing to do on a hit.

Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023. New keys wait in a small queue, and most leave
it unused: a scan passes through it and flushes nothing else. Those asked for again move on to the main one.
"""

from __future__ import annotations

from array import array
from itertools import chain
from typing import TYPE_CHECKING

from tiered_cache._l1.order import MOST_CHANCES, Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiered_cache._entry import Entry

SMALL_SHARE = 5
"""The small queue has one in so many of the bytes that are held. The paper's is one in 10: see docs/decisions/0011."""
MOST_USES = 3
"""An entry's uses are counted up to this: so many rounds of the main queue it survives without another."""
BITS = 32
MARK = 2**BITS - 1
GROUP, LEAST = 4, 256
"""Ghosts are looked for in groups of so many cells, of which there are so many at least."""


class Ghosts:
    """The keys that left the small queue unused, the latest few: one that comes back was judged too early.

    Each is a number of 64 bits: above, the how manieth it was to leave; below, a part of its key's hash. Two keys for
    which that is the same are taken for one, which costs nothing but a place in the main queue. The numbers stand in
    groups, where the latest takes the place of the earliest, and there are so many that it is seldom known any more: 24
    to 64 bytes a ghost, however long its key.
    """

    def __init__(self) -> None:
        self._cells = _empty(LEAST)
        self._left = 0
        self._forgotten = 0
        """Of those that left, so many are known no more."""

    def __contains__(self, key: str) -> bool:
        mark = hash(key) & MARK
        start = self._start(mark)
        forgotten = self._forgotten
        return any(cell & MARK == mark and cell >> BITS > forgotten for cell in self._cells[start : start + GROUP])

    def __len__(self) -> int:
        return self._left - self._forgotten

    def add(self, key: str) -> None:
        """Remember `key`. It is not known yet: a known one does not get into the small queue."""
        self._left += 1
        self._put(self._left, hash(key) & MARK)

    def keep(self, count: int) -> None:
        """Forget the oldest until `count` are left."""
        self._forgotten = max(self._forgotten, self._left - count)
        if not 3 * count <= len(self._cells) <= max(LEAST, 8 * count) or self._left == MARK:
            self._renumber(count)

    def _renumber(self, count: int) -> None:
        """Move to a table that has room for `count`, and begin to count anew."""
        known = sorted(cell for cell in self._cells if cell >> BITS > self._forgotten)
        self._cells = _empty(max(LEAST, 4 * count))
        self._left, self._forgotten = len(known), 0
        for number, cell in enumerate(known, 1):
            self._put(number, cell & MARK)

    def _put(self, number: int, mark: int) -> None:
        start = self._start(mark)
        group = self._cells[start : start + GROUP]
        self._cells[start + group.index(min(group))] = number << BITS | mark

    def _start(self, mark: int) -> int:
        return mark * GROUP % len(self._cells)


def _empty(cells: int) -> array[int]:
    return array("Q", bytes(8 * GROUP * (cells // GROUP)))


class S3FIFO:
    """Entries in the order of arrival, in two queues, with what L1 needs of the interface of `cachetools.Cache`.

    Uses are the entry's own count of hits, looked at only when something must go: `hits - settled`, at most 3. There are
    never more ghosts than entries, so that they are paid for by what an entry is said to cost.
    """

    def __init__(self, max_bytes: int, evicted: Callable[[str, Entry], None]) -> None:
        self.currsize = 0
        self._max_bytes = max_bytes
        self._evicted = evicted
        self._small = Queue()
        self._main = Queue()
        self._small_size = 0
        self._ghosts = Ghosts()

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def __iter__(self) -> Iterator[str]:
        return chain(self._small, self._main)

    def get_quietly(self, key: str) -> Entry | None:
        """The entry or None."""
        return self._small.get(key) or self._main.get(key)

    def __setitem__(self, key: str, entry: Entry) -> None:
        """Hold `entry`, which is no larger than the budget. In the place of another it takes over that one's uses."""
        was_main = key in self._main
        held = self._take(key)
        if held is not None:
            entry.settled = entry.hits - min(_uses(held) + 1, MOST_USES)
        while self.currsize + entry.size > self._max_bytes:
            self.popitem()
        self.currsize += entry.size
        if was_main or key in self._ghosts:
            self._main[key] = entry
        else:
            self._small[key] = entry
            self._small_size += entry.size

    def pop(self, key: str, default: Entry | None = None) -> Entry | None:
        """Forget `key`; its entry, or `default` if there is none."""
        entry = self._take(key)
        self._ghosts.keep(len(self))
        return default if entry is None else entry

    def _take(self, key: str) -> Entry | None:
        """The entry of `key`, out of its queue."""
        entry = self._small.take(key)
        if entry is not None:
            self._small_size -= entry.size
        elif (entry := self._main.take(key)) is None:
            return None
        self.currsize -= entry.size
        return entry

    def popitem(self) -> tuple[str, Entry]:
        """Evict one entry: the first that was not used since it was last looked at, or the next after `MOST_CHANCES`."""
        chances = MOST_CHANCES
        while True:
            if not self._main or SMALL_SHARE * self._small_size >= self.currsize:
                key, entry = self._small.popitem()
                self._small_size -= entry.size
                if entry.hits == entry.settled or not chances:
                    self._ghosts.add(key)
                    break
                self._main[key] = entry
                entry.settled = entry.hits
            else:
                key, entry = self._main.popitem()
                if entry.hits == entry.settled or not chances:
                    break
                self._main[key] = entry
                entry.settled = entry.hits - _uses(entry) + 1
            chances -= 1
        self.currsize -= entry.size
        self._ghosts.keep(len(self))
        self._evicted(key, entry)
        return key, entry


def _uses(entry: Entry) -> int:
    return min(entry.hits - entry.settled, MOST_USES)
