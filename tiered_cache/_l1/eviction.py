"""What goes first when L1 is full. The only module that imports cachetools, and only when a cache is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachetools import Cache, LRUCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._entry import Entry


class SecondChanceLRU(LRUCache[str, Any]):
    """Least recently used, where use is the entry's own count of hits, looked at only when something must go.

    The entry at the end of the order that was hit since it got there goes to the front; the first that was not hit is
    evicted. This is CLOCK (Corbató 1968) on LRU's order: in hit ratio within a few tenths of a point of exact LRU.
    """

    def __init__(
        self, maxsize: float, getsizeof: Callable[[Any], float], evicted: Callable[[str, Entry], None]
    ) -> None:
        super().__init__(maxsize, getsizeof)
        self._evicted = evicted

    def popitem(self) -> tuple[str, Any]:
        while True:
            key, entry = super().popitem()
            if entry.hits == entry.settled:
                self._evicted(key, entry)
                return key, entry
            entry.settled = entry.hits
            self[key] = entry  # it fits, since it was here

    def get_quietly(self, key: str) -> Any:
        """The entry or None, without touching the order."""
        return Cache.__getitem__(self, key) if key in self else None


def second_chance_lru(
    max_bytes: int, getsizeof: Callable[[Any], int], evicted: Callable[[str, Entry], None]
) -> SecondChanceLRU:
    """The policy "lru"."""
    return SecondChanceLRU(max_bytes, getsizeof, evicted)


def observed(
    policy: type[Any], max_bytes: int, getsizeof: Callable[[Any], int], evicted: Callable[[str, Entry], None]
) -> Any:
    """A cache of the class `policy` that tells what it evicts, as cachetools' classes do it, by `popitem`."""
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

    return Observed(max_bytes, getsizeof=getsizeof)
