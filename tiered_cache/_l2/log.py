"""The log of invalidations as it stands in the server: the commands that look into it, and what their replies say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiered_cache._entry import START
from tiered_cache._l2.scripts import LOG
from tiered_cache._news import EVERYTHING, Invalidation, Kind, News

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tiered_cache._entry import Position
    from tiered_cache._l2.scripts import Command

MOST_NEWS = 1_000
"""Records read at once. Who has missed more has what it holds confirmed anew, which costs less."""

_KINDS = {kind.value.encode(): kind for kind in Kind}


class LogKeys:
    """The log of one namespace: a stream, and beside it in the same slot a hash of the epoch, the end, and the markers."""

    def __init__(self, prefix: bytes) -> None:
        self._log, self._marks = prefix + b"}:log", prefix + b"}:marks"  # no key is empty, so no entry has these names
        self.glance: Sequence[Command] = ((b"HGET", self._marks, b"end"),)
        """Tells whether there are news."""

    def look(self, since: Position, tags: Iterable[str] = ()) -> Sequence[Command]:
        """Gives what is new after `since`, and the markers of `tags`."""
        wanted = [b"t" + tag.encode() for tag in tags]
        markers = (b"HMGET", self._marks, b"end", b"all", b"tags", *wanted)
        start = b"%d-%d" % (since[0], since[1] + 1)
        most = b"1" if since == START else b"%d" % (MOST_NEWS + 1)
        return (markers, (b"XRANGE", self._log, start, b"+", b"COUNT", most))

    def append(self, what: Iterable[Invalidation] = ()) -> Command:
        """Opens the log if there is none, and appends one record of `what`."""
        return LOG((self._log, self._marks), *(part.encode() for one in what for part in (one.kind, one.name)))


def glimpse_of(replies: Sequence[Any], since: Position) -> News | None:
    """What the reply to `glance` says; None where it does not say all."""
    return News(since, since, followed=True) if replies[0] == b"%d-%d" % since else None


def news_of(replies: Sequence[Any], since: Position, tags: Sequence[str] = ()) -> News | None:
    """What the replies to `look` say; None where there is no log. Raises TypeError or ValueError for other replies.

    The markers are read before the records, and are of one epoch with the end beside them: what comes between is news.
    """
    (last, cleared, tagged, *markers), found = replies
    if last is None:
        return None
    end, floor = _position(last), int(tagged or 0)
    followed = _follows(found, since, end)
    return News(
        since,
        max(end, _position(found[-1][0]) if found else since) if followed else end,
        followed=followed,
        records=tuple(_records(found)) if followed else (),
        markers={tag: (end[0], max(int(at or 0), floor)) for tag, at in zip(tags, markers, strict=True)},
        cleared=(end[0], int(cleared or 0)),
    )


def _follows(found: Sequence[Any], since: Position, end: Position) -> bool:
    """Whether these records are all that came after `since`: there are none, or the first says that it came next."""
    if end[0] != since[0] or len(found) > MOST_NEWS:
        return False
    if not found:
        return end == since  # an end before it is that of a server which has lost records
    kind, before = found[0][1][:2]
    return bool(kind == b"p") and _position(before) == since


def _position(found: bytes) -> Position:
    epoch, _, sequence = found.partition(b"-")
    return int(epoch), int(sequence)


def _records(found: Iterable[Any]) -> Iterator[tuple[Position, Invalidation]]:
    """The invalidations in records. What is not understood, such as of a later version, is taken for everything."""
    for at, fields in found:
        for kind, name in zip(fields[2::2], fields[3::2], strict=True):  # first is which record came before
            try:
                yield _position(at), Invalidation(_KINDS[kind], name.decode())
            except (KeyError, UnicodeDecodeError):
                yield _position(at), EVERYTHING
