"""The handles of resumable loads that this process knows: those that L2 never took, and those that it may be away with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tiered_cache._reply import Right

if TYPE_CHECKING:
    from tiered_cache._entry import Entry
    from tiered_cache._l1.memory import MemoryStore
    from tiered_cache._reply import Reply

MOST = 10_000
"""Handles remembered; beyond it the oldest is forgotten, and where L2 has it not either, its load begins anew."""


class _Known(NamedTuple):
    left: Entry
    shared: bool
    """Whether L2 has taken it: then it is gone when L2 says so."""


class Handles:
    """What resumable loads have left, by key: a handle as the value, with the time and the birth of the load's beginning."""

    def __init__(self, memory: MemoryStore) -> None:
        self._memory = memory
        self._by_key: dict[str, _Known] = {}

    def told(self, key: str, reply: Reply) -> Entry | None:
        """What the key's load has left, now that L2 has been asked: what L2 says counts, unless it never had it."""
        if reply.left is not None:
            self._put(key, _Known(reply.left, shared=True))
            return reply.left
        known = self._by_key.get(key)
        if known is None:
            return None
        is_gone = known.shared and reply.right in (Right.MINE, Right.TAKEN)
        if is_gone or self._memory.refuses(key, known.left):  # invalidated since it began, or a later load has ended
            self.forget(key)
            return None
        return known.left

    def keep(self, key: str, left: Entry, *, shared: bool) -> None:
        """A load of the key has left that; `shared`: L2 has taken it now, as it may have done before."""
        known = self._by_key.get(key)
        had_it = known is not None and known.shared and known.left.value == left.value
        self._put(key, _Known(left, shared or had_it))

    def forget(self, key: str | None) -> None:
        """The load of the key, or of any key (None), has ended, or is of before an invalidation."""
        if key is None:
            self._by_key.clear()
        else:
            self._by_key.pop(key, None)

    def _put(self, key: str, known: _Known) -> None:
        self._by_key.pop(key, None)  # the youngest comes last
        self._by_key[key] = known
        if len(self._by_key) > MOST:
            self._by_key.pop(list(self._by_key)[0], None)  # noqa: RUF015  # another thread may change it meanwhile

    def __len__(self) -> int:
        return len(self._by_key)
