"""The circuit breaker of L2: closed, open, half-open with one probe. Time is given to it."""

from __future__ import annotations

import threading
from math import inf
from typing import Literal, TypeAlias

from tiered_cache._l2.faults import MISCONFIGURED, Failure
from tiered_cache._rules import SKEW

State: TypeAlias = Literal["closed", "open", "half-open"]

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
MISCONFIGURED_PAUSE = 60.0
"""Seconds after a failure that only people can mend."""


class Breaker:
    """Says whether a call may be made at `now` (wall-clock seconds), and learns what came of it.

    One failure opens it, for a pause that doubles from FIRST_PAUSE with each failed probe, and that begins when the call has
    failed, however long that took. After the pause one caller gets through as a probe, while the others are still refused;
    a probe that never reports is replaced after another pause. A clock that steps back ends a pause early, and never draws
    it out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pause = 0.0  # 0 while closed, which each call reads without the lock
        self._open_until = -inf
        self._lasting = 0.0  # seconds from when the call that failed was allowed until then
        self._probing_since = -inf

    def allows(self, now: float) -> bool:
        """Whether a call may be made. True while the breaker is not closed means: as the probe."""
        if self._pause == 0.0:
            return True
        with self._lock:
            if self._pause == 0.0:
                return True
            if self._is_open(now) or -SKEW <= now - self._probing_since < self._pause:
                return False
            self._probing_since = now
            return True

    def succeeded(self) -> bool:
        """A call went well. True if that closed the breaker."""
        if self._pause == 0.0:
            return False
        with self._lock:
            closed = self._pause > 0.0
            self._pause, self._open_until, self._probing_since = 0.0, -inf, -inf
            return closed

    def failed(self, failure: Failure, now: float, *, took: float = 0.0) -> bool:
        """The call that was allowed at `now` has failed, after `took` seconds. True if that is news: it opened the breaker, or
        needs people.
        """
        with self._lock:
            if self._pause > 0.0 and now != self._probing_since:
                return False  # a call from before the breaker opened says nothing new
            before = self._pause
            if failure in MISCONFIGURED:
                self._pause = MISCONFIGURED_PAUSE
            else:
                self._pause = min(max(before * 2, FIRST_PAUSE), LONGEST_PAUSE)
            self._lasting = took + self._pause
            self._open_until = now + self._lasting
            self._probing_since = -inf
            return before == 0.0 or before < self._pause == MISCONFIGURED_PAUSE

    def half_open(self) -> None:
        """Let the next call through as a probe, whatever the pause: the world may have changed."""
        with self._lock:
            self._open_until = -inf
            self._probing_since = -inf

    def state(self, now: float) -> State:
        """The state at `now`."""
        if self._pause == 0.0:
            return "closed"
        return "open" if self._is_open(now) else "half-open"

    def _is_open(self, now: float) -> bool:
        rest = self._open_until - now
        return 0.0 < rest <= self._lasting + SKEW  # if more is left than there was at first, the clock stepped back
