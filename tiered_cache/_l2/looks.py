"""Looks into the log of invalidations, along with whatever else is asked of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiered_cache._entry import START
from tiered_cache._l2.faults import Failure, Unavailable
from tiered_cache._l2.log import LogKeys, glimpse_of, news_of
from tiered_cache._log import warn_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tiered_cache._entry import Position
    from tiered_cache._l2.calls import Calls
    from tiered_cache._l2.scripts import Command
    from tiered_cache._l2.tier import RedisTier
    from tiered_cache._news import News
    from tiered_cache._stats import Counters


class Looks:
    """The looks of one namespace. None of them raises."""

    def __init__(self, tier: RedisTier, keys: LogKeys, calls: Calls, counts: Counters) -> None:
        self._tier = tier
        self._keys = keys
        self._calls = calls
        self._counts = counts
        self._expects_news = False
        """Whether the last look found any: then the next reads them at once, and else only whether there are some."""

    def beside(
        self, commands: Sequence[Command], now: float, since: Position | None, tags: Sequence[str] = ()
    ) -> tuple[list[Any], News | None]:
        """The replies to `commands`, none if L2 could not be asked; and before them a look into the log, if one is due."""
        if since is None:
            return self._calls.call(commands, now) or [], None
        if self._tier.breaker.state(now) == "open":  # and there is no reason to think of what to ask
            self._counts["skipped"] += 1
            return [], None
        news: News | None = None
        replies: list[Any] = []
        for look, read, known in self._ways(now, since, tags):
            answers = self._calls.call([*look, *commands], now)
            if answers is None:
                return [], None
            told, replies = answers[: len(look)], answers[len(look) :]
            news = self.understood(read, told, *known)
            if news is not None or any(isinstance(answer, Unavailable) for answer in told):
                break
        if news is not None and not self._tier.link().ordered and commands:
            news = news._replace(came_first=False)
        return replies, news

    def _ways(self, now: float, since: Position, tags: Sequence[str]) -> Iterator[tuple[Any, Any, Any]]:
        """Commands, who reads the replies, and what that must know: each way is tried if the one before did not tell.

        All read alone, which a server answers that takes no writes; but a log that is not there must be opened.
        """
        if since != START and not tags and not self._expects_news:
            yield self._keys.glance, glimpse_of, (since,)
        self._expects_news = True
        look = self._keys.look(since, tags)
        yield look, news_of, (since, tags)
        if self._calls.may_write(now):
            yield (self._keys.append(), *look), lambda told, *known: news_of(told[1:], *known), (since, tags)

    def understood(self, read: Callable[..., News | None], told: Sequence[Any], *known: Any) -> News | None:
        """What replies about the log say; None where one is an error, or they are no such replies."""
        refused = next((answer for answer in told if isinstance(answer, Unavailable)), None)
        if refused is not None:
            if refused.failure is Failure.REPLY:  # which no breaker hears of
                warn_once("the log of invalidations in L2 cannot be read: %s", refused)
            return None
        try:
            news = read(told, *known)
        except (IndexError, TypeError, ValueError):
            self._counts[f"errors.{Failure.PROTOCOL.value}"] += 1
            return None
        if news is not None:
            self._expects_news = bool(news.records)
        return news
