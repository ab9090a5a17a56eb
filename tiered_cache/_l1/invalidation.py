"""What has been invalidated lately, so that a value whose load began before is not kept after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiered_cache._entry import START, Position

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST = 10_000
"""Names remembered; beyond it, the oldest half is forgotten by killing whatever is as old as they are."""


class Invalidations:
    """The invalidations applied in this process, each at a position of its own. The owner's lock guards it."""

    def __init__(self) -> None:
        self.position: Position = START
        """Where the log stands: what is loaded from now on is born here."""
        self._floor: Position = START
        self._by_name: dict[str, Position] = {}

    def note_key(self, key: str) -> None:
        """`key` is invalidated now."""
        self._note("k" + key)

    def note_all(self) -> None:
        """Everything is invalidated now."""
        self._floor = self.position = self._next()
        self._by_name.clear()

    def kills(self, key: str, tags: Iterable[str], born: Position) -> bool:
        """Whether an entry of `key` born at that position has been invalidated since."""
        if born < self._floor:
            return True
        if born >= self.position:
            return False
        names = ("k" + key, *("t" + tag for tag in tags))
        return any(born < self._by_name.get(name, START) for name in names)

    def _note(self, name: str) -> None:
        self.position = self._next()
        self._by_name.pop(name, None)
        self._by_name[name] = self.position
        if len(self._by_name) > MOST:
            for oldest in list(self._by_name)[: MOST // 2]:
                self._floor = self._by_name.pop(oldest)

    def _next(self) -> Position:
        return (self.position[0], self.position[1] + 1)
