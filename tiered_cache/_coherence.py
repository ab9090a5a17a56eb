"""When a container looks into the log of invalidations, and what it does with what it finds there."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from tiered_cache._entry import START, Position
from tiered_cache._forks import ForkSafe
from tiered_cache._log import log
from tiered_cache._news import Kind
from tiered_cache._rules import SKEW
from tiered_cache._units import seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal, TypeAlias

    from tiered_cache._l1.memory import MemoryStore
    from tiered_cache._news import News
    from tiered_cache._stats import Counters
    from tiered_cache._units import Duration

    Coherence: TypeAlias = Literal["ttl", "invocation"] | Duration

RIDE = 1.0
"""Seconds after a look from which the next goes along with whatever is asked of L2."""


class Look(NamedTuple):
    """A look into the log, as it is begun."""

    since: Position
    """The position from which to look."""
    invocation: int
    """The number of the invocation in which it is made."""


def _nothing(_key: str | None) -> None:
    return None


class Follower(ForkSafe):
    """Follows the log for one cache: looks when the invocation begins, or when the last look is too long ago.

    coherence: `"ttl"`: only along with reads of L2, and not more often than L1's ttl; `"invocation"`: before the first
        answer of each invocation too; seconds: before any answer, if the last look is so long ago.
    not_before: sets the moment before which no plain hit is answered.
    """

    def __init__(
        self, memory: MemoryStore, coherence: Coherence, not_before: Callable[[float], None], counts: Counters
    ) -> None:
        super().__init__()
        self._memory = memory
        self._counts = counts
        self._not_before = not_before
        self.forget_flights: Callable[[str | None], None] = _nothing
        """Lets no later caller join the load of a key, or of any key (None)."""
        self._by_invocation = coherence == "invocation"
        self._most = inf if coherence in ("ttl", "invocation") else seconds("coherence", coherence)
        self._ride = max(RIDE, memory.freshness.ttl) if coherence == "ttl" else min(RIDE, self._most)
        self._looked_at = -inf
        self._invocation = self._looked_for = (
            0  # the numbers of the invocation under way, and of the last that has looked
        )
        if self._most < inf:
            memory.coherent_until = -inf

    def begin(self) -> None:
        """An invocation begins."""
        if self._by_invocation:
            with self._lock:
                self._invocation += 1
                self._not_before(inf)

    def reading(self, now: float) -> None:
        """The clock was read: no plain hit before that moment, and none at all while a look is due."""
        with self._lock:
            self._not_before(now if self._looked_for == self._invocation else inf)

    def must_look(self, now: float) -> bool:
        """Whether nothing may be answered before a look."""
        return self._looked_for != self._invocation or not -SKEW <= now - self._looked_at < self._most

    def wanted(self, now: float) -> Look | None:
        """The look to make along with a call to L2; None if none is due."""
        is_early = self._looked_for == self._invocation and -SKEW <= now - self._looked_at < self._ride
        return None if is_early and self._memory.invalidated.position != START else self.look()

    def look(self) -> Look:
        """A look that begins now."""
        return Look(self._memory.invalidated.position, self._invocation)

    def heard(self, news: News | None, look: Look, now: float) -> bool:
        """What a look found that was made at `now`; None: it failed. Then what is held goes on answering.

        False if it is to be made again, see `learn`.
        """
        self._counts["look_failures" if news is None else "looks"] += 1
        if news is not None and not self.learn(news, now):
            return False
        with self._lock:
            if look.invocation == self._invocation:  # else it was made before a freeze, and tells nothing of that time
                self._looked_for, self._looked_at = look.invocation, now
                self._not_before(now)
                if self._most < inf:
                    self._memory.coherent_until = now + max(self._most, 0.0 if news else RIDE)
        return True

    def learn(self, news: News, now: float) -> bool:
        """Apply what was found: drop what was invalidated, and let no one join a load that began before.

        False if it cannot be applied, since another thread has looked for the first time meanwhile: it is to be found anew.
        """
        known = self._memory.invalidated.position[0] != 0
        fresh = self._memory.learn(news, now)
        if fresh is None:
            if known:
                self.forget_flights(None)
                self._counts["gaps"] += 1
                log().warning("the log of invalidations cannot be followed: what L1 holds is to be confirmed anew")
            return True
        for kind, name in fresh:
            self._counts["applied"] += 1
            if kind is not Kind.TAG:  # whose keys nobody knows before their loads have ended
                self.forget_flights(None if kind is Kind.ALL else name)
        position = self._memory.invalidated.position
        return position[0] != news.end[0] or position >= news.end
