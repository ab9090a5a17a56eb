"""What goes first when L1 is full. The only module that imports cachetools, and only when a cache is made."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from cachetools import Cache, TLRUCache, TTLCache

from tiered_cache._l1.order import MOST_CHANCES, Oldest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._entry import Entry


class SecondChanceLRU(Cache[str, "Entry"]):
    """Least recently used, where use is the entry's own count of hits, looked at only when something must go.

    The entry at the end of the order that was hit since it got there goes to the front; the first that was not hit is
    evicted, or the next after `MOST_CHANCES`. This is CLOCK (Corbató 1968) on LRU's order: in hit ratio within a few
    tenths of a point of exact LRU.

    The order is that of the dictionary in which cachetools keeps the entries. It would keep their sizes in another: an
    entry knows its own, so they are summed up here, and to cachetools each is one of any number.
    """

    def __init__(self, max_bytes: int, evicted: Callable[[str, Entry], None]) -> None:
        super().__init__(inf)
        self._max_bytes = max_bytes
        self._bytes = 0
        self._evicted = evicted
        self._oldest = Oldest(self)

    @property
    def currsize(self) -> int:
        """Bytes of what is held."""
        return self._bytes

    def __setitem__(self, key: str, entry: Entry) -> None:
        """Hold `entry`, which is no larger than the budget."""
        self.pop(key, None)  # out of its place, and not in the way while room is made
        while self._bytes + entry.size > self._max_bytes:
            self.popitem()
        super().__setitem__(key, entry)
        self._bytes += entry.size

    def __delitem__(self, key: str) -> None:
        self._bytes -= self[key].size
        self._oldest.discard(key)
        super().__delitem__(key)

    def popitem(self) -> tuple[str, Entry]:
        chances = MOST_CHANCES
        while True:
            key = self._oldest.pop()
            entry = self.pop(key)
            if entry.hits == entry.settled or not chances:
                self._evicted(key, entry)
                return key, entry
            chances -= 1
            entry.settled = entry.hits
            self[key] = entry  # it fits, since it was here

    def get_quietly(self, key: str) -> Entry | None:
        """The entry or None, without touching the order."""
        return self.get(key)


def observed(
    policy: type[Any], max_bytes: int, getsizeof: Callable[[Any], int], evicted: Callable[[str, Entry], None]
) -> Any:
    """A cache of the class `policy` that tells what it evicts, as cachetools' classes do it: by `popitem`, and by `expire`."""
    is_of_cachetools = issubclass(policy, Cache)

    class Observed(policy):  # type: ignore[misc]  # the class is the user's to choose
        def popitem(self) -> Any:
            key, entry = super().popitem()
            evicted(key, entry)
            return key, entry

        def get_quietly(self, key: str) -> Any:
            """The entry or None, without counting as a use where the class is one of cachetools' kind."""
            if is_of_cachetools:
                return Cache.__getitem__(self, key) if Cache.__contains__(self, key) else None
            return self.get(key)

        def keys_quietly(self) -> list[str]:
            """What is held, be its time up or not."""
            return list(Cache.__iter__(self) if is_of_cachetools else self)

    class Timed(Observed):
        def expire(self, time: Any = None) -> Any:
            gone = list(super().expire(time))
            for key, entry in gone:
                evicted(key, entry)
            return gone

    kind = Timed if issubclass(policy, (TTLCache, TLRUCache)) else Observed
    return kind(max_bytes, getsizeof=getsizeof)
