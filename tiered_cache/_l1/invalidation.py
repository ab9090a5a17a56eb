"""What has been invalidated lately, so that a value whose load began before is not kept after.

Two clocks. *Local*: a count of what happened in this process, for what it invalidates itself, and for gaps in what it
knows. *Log*: positions in the log that containers share, for what any of them invalidated. An entry carries both:
`since`, when its load or reading began here, and `born`, the position before its load began, wherever that was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from tiered_cache._entry import START, Position
from tiered_cache._news import Invalidation, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tiered_cache._entry import Entry
    from tiered_cache._news import News

At = TypeVar("At", int, Position)

MOST = 10_000
"""Names remembered; beyond it, the oldest half is forgotten by killing whatever is as old as they are."""


class Ring(Generic[At]):
    """When each name was last invalidated, on one clock."""

    def __init__(self, start: At) -> None:
        self._start: At = start
        self.has_expired = False
        self.floor: At = start
        """Whatever is older is invalidated, whatever its name."""
        self.by_name: dict[str, At] = {}

    def note(self, what: Invalidation, at: At) -> None:
        """`what` was invalidated at that time."""
        if what.kind is Kind.ALL:
            self.floor = max(self.floor, at)
            return
        self.has_expired = self.has_expired or what.kind is Kind.EXPIRED  # mostly there is none, and none is looked for
        name = what.kind + what.name
        latest = max(at, self.by_name.pop(name, at))
        self.by_name[name] = latest
        if len(self.by_name) > MOST:
            for oldest in list(self.by_name)[: MOST // 2]:
                self.floor = max(self.floor, self.by_name.pop(oldest))

    def has(self, name: str, born: At) -> bool:
        """Whether that was invalidated after that time; a name is the letter of its kind and the name itself."""
        at: At = self.by_name.get(name, self._start)
        return born < at

    def reset(self, floor: At) -> None:
        """Forget all names."""
        self.by_name.clear()
        self.has_expired = False
        self.floor = floor


class Invalidations:
    """The invalidations known in this process. The owner's lock guards it."""

    def __init__(self) -> None:
        self.tick = 0
        """The local clock: what begins now is of this time."""
        self.position: Position = START
        """How far the log is known: what is loaded from now on is born here. START: no log is known."""
        self.alias: Callable[[str], str] = str
        """What stands in the log for a key or a tag."""
        self._opened: Position = START
        self._covered: set[str] = set()
        self._local: Ring[int] = Ring(0)
        self._log: Ring[Position] = Ring(START)

    def note(self, what: Iterable[Invalidation]) -> None:
        """This is invalidated here and now."""
        self.tick += 1
        for kind, name in what:
            self._local.note(Invalidation(kind, self.alias(name)), self.tick)

    def doubt(self) -> None:
        """Of what is under way nobody can tell any more whether it was invalidated."""
        self.tick += 1
        self._local.reset(self.tick)

    def learn(self, news: News) -> Sequence[Invalidation] | None:
        """Take over what a look has found: the invalidations that are new here, or None where some may be unknown."""
        fresh: Sequence[Invalidation] | None = ()
        if news.end[0] != self.position[0]:
            if news.since[0] != self.position[0]:
                return ()  # of a log that another thread has seen the end of
            fresh = None
            self._open(news)
        elif news.followed:
            fresh = [what for at, what in news.records if at > self.position and self._record(at, what)]
            self.position = max(self.position, news.end)
        elif news.since == self.position:  # else another thread has looked meanwhile, and the next look will tell
            fresh = None
            self._open(news)
        if news.end >= self._opened:  # else records are missing between the markers and what is known
            for tag, at in news.markers.items():
                self._mark(tag, at)
        return fresh

    def _open(self, news: News) -> None:
        """The log is known from here on, and of what was before, only when everything was invalidated last."""
        self._log.reset(news.cleared if news.end[0] != self.position[0] else max(self._log.floor, news.cleared))
        self.position = self._opened = news.end
        self._covered.clear()
        self.doubt()

    def _record(self, at: Position, what: Invalidation) -> bool:
        self._log.note(what, at)
        if what.kind is Kind.EXPIRED:
            self.tick += 1
            self._local.note(what, self.tick)  # what is in hand is of before
        return True

    def _mark(self, tag: str, at: Position) -> None:
        """A tag's last invalidation; of each that follows there will be a record."""
        self._log.note(Invalidation(Kind.TAG, tag), at)
        if len(self._covered) >= MOST:
            self._covered.clear()
        self._covered.add(tag)

    def unknown(self, entry: Entry) -> list[str]:
        """Those tags of an entry of which is not known whether they were invalidated since its load began."""
        if not entry.tags or entry.born >= self._opened:
            return []
        return [tag for tag in map(self.alias, entry.tags) if tag not in self._covered]

    def kills(self, key: str, entry: Entry) -> bool:
        """Whether an entry of `key` has been invalidated since its load began, or was born in another log."""
        local, log, born, since = self._local, self._log, entry.born, entry.since
        if since < local.floor or born < log.floor:
            return True
        if born[0] != self.position[0] and self.position != START:
            return True
        if (since >= self.tick and born >= self.position) or not (local.by_name or log.by_name):
            return False
        name = "k" + self.alias(key)  # written out, since every read from L2 comes by here
        if since < local.by_name.get(name, 0) or born < log.by_name.get(name, START):
            return True
        tags = ["t" + self.alias(tag) for tag in entry.tags]
        return any(local.has(tag, since) or log.has(tag, born) for tag in tags) if tags else False

    def spares(self, entries: Mapping[str, Entry]) -> bool:
        """Whether no known invalidation can concern any of the entries: True tells, and False that each is to be looked at."""
        local, log, epoch = self._local, self._log, self.position[0]
        for entry in entries.values():
            born = entry.born
            if entry.since < local.floor or born < log.floor or born[0] != epoch:
                return False
        if not (local.by_name or log.by_name):
            return True
        names = {kind + self.alias(key) for key in entries for kind in (Kind.KEY, Kind.EXPIRED)}
        names |= {Kind.TAG + self.alias(tag) for entry in entries.values() for tag in entry.tags}
        return names.isdisjoint(local.by_name) and names.isdisjoint(log.by_name)

    def expires(self, key: str, entry: Entry) -> bool:
        """Whether an entry of `key` was said to be no longer fresh since its load began."""
        local, log = self._local, self._log
        if not (local.has_expired or log.has_expired):
            return False
        name = "e" + self.alias(key)
        return local.has(name, entry.since) or log.has(name, entry.born)

    def overtakes(self, key: str, entry: Entry) -> bool:
        """Whether an entry in hand is not to be kept: killed, or said to be no longer fresh while it was under way."""
        return self.kills(key, entry) or (
            self._local.has_expired and self._local.has("e" + self.alias(key), entry.since)
        )
