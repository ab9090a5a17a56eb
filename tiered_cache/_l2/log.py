"""The log of invalidations as it stands in the server: the commands that look into it, and what their replies say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    """The log of one namespace: a stream, and beside it in the same slot a hash of the epoch and the markers."""

    def __init__(self, prefix: bytes) -> None:
        self._names = (prefix + b"}:log", prefix + b"}:marks")  # no key is empty, so no entry has these names

    def looking(self, since: Position, tags: Iterable[str], what: Sequence[Invalidation] = ()) -> Command:
        """The command that appends records of `what`, and gives what is new after `since` and the markers of `tags`."""
        names = [part for one in what for part in (one.kind.encode(), one.name.encode())]
        known = (b"%d" % since[0], b"%d" % (since[1] + 1))
        wanted = [tag.encode() for tag in tags]
        return LOG(self._names, *known, b"%d" % len(what), b"%d" % (MOST_NEWS + 1), *names, *wanted)

    def glancing(self, since: Position, *, expects_news: bool) -> list[Command]:
        """The commands that give what is new after `since` by reading alone, where the log can be followed from there.

        Where no news are expected they give the log's end, which is less to read.
        """
        log_key, marks_key = self._names
        end = (b"HGET", marks_key, b"end")
        if not expects_news:
            return [end]
        start = b"%d-%d" % (since[0], since[1] + 1)
        return [end, (b"XRANGE", log_key, start, b"+", b"COUNT", b"%d" % (MOST_NEWS + 1))]


def news_of(reply: Any, since: Position, tags: Sequence[str]) -> News:
    """What the reply to `looking` says. Raises TypeError or ValueError for another reply."""
    last, records, (cleared, tagged, *markers) = reply
    end = _position(last)
    floor = int(tagged or 0)
    followed = records != 0 and _follows(records, since)
    return News(
        since,
        end,
        followed=followed,
        records=tuple(_records(records)) if followed else (),
        markers={tag: (end[0], max(int(at or 0), floor)) for tag, at in zip(tags, markers, strict=True)},
        cleared=(end[0], int(cleared or 0)),
    )


def glimpse_of(replies: Sequence[Any], since: Position) -> News | None:
    """What the replies to `glancing` say; None where they do not say all: there are news, or the log cannot be followed."""
    if replies[0] == b"%d-%d" % since:
        return News(since, since, followed=True)
    if len(replies) == 1 or replies[0] is None:
        return None
    found = replies[1]
    if not found or _position(replies[0])[0] != since[0] or not _follows(found, since):
        return None
    return News(since, _position(found[-1][0]), followed=True, records=tuple(_records(found)))


def _follows(found: Any, since: Position) -> bool:
    """Whether these records are all that came after that position; none is lost that nobody has followed yet."""
    if found == []:
        return True
    if not isinstance(found, list) or len(found) > MOST_NEWS:
        return False
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
