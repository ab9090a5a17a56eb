"""Which key came first, for the policies: an order of the keys that a dictionary holds, in little memory of its own."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from tiered_cache._entry import Entry

SHARE = 16
"""One in so many keys is looked up at a time."""
MOST_CHANCES = 128
"""So many used entries are passed over to evict one; the next is evicted, used or not. Else the first miss after all of a
large L1 were hit would look at each of them, under L1's lock: a quarter of a second for 100,000.
"""


class Oldest:
    """The keys of a dictionary from the first that came on, to be taken out of it one after the other.

    A dictionary keeps that order itself, but to find its first key it passes over the places of all that have gone. So
    a share of the keys is looked up at once, and kept in reverse: then the next one is the last, and any can be
    dropped. An OrderedDict knows it at all times, for 100 to 195 bytes a key; this takes less than 10.
    """

    __slots__ = ("_keys", "_next")

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = keys
        self._next: dict[str, None] = {}

    def pop(self) -> str:
        """The oldest key, which the caller takes out. Raises KeyError when there is none."""
        if not self._next:
            first = list(islice(self._keys, len(self._keys) // SHARE + 1))
            self._next = dict.fromkeys(reversed(first))
        return self._next.popitem()[0]

    def discard(self, key: str) -> None:
        """`key` goes out of its turn."""
        self._next.pop(key, None)


class Queue(dict[str, "Entry"]):
    """Entries in the order of arrival. A key that is in it already goes out first, to come in at the end."""

    __slots__ = ("_oldest",)

    def __init__(self) -> None:
        super().__init__()
        self._oldest = Oldest(self)

    def take(self, key: str) -> Entry | None:
        """Take out the entry of `key`, if there is one."""
        self._oldest.discard(key)
        return self.pop(key, None)

    def popitem(self) -> tuple[str, Entry]:
        """Take out the first. Raises KeyError when there is none."""
        key = self._oldest.pop()
        return key, self.pop(key)
