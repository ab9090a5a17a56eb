"""The circuit breaker of L2: closed, open, half-open with one probe. Pure but for its own state; time is given to it."""

from __future__ import annotations

import threading
from math import inf
from typing import Literal, TypeAlias

from tiered_cache._l2.faults import MISCONFIGURED, Failure

State: TypeAlias = Literal["closed", "open", "half-open"]

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
MISCONFIGURED_PAUSE = 60.0
"""Seconds after a failure that only people can mend."""


class Breaker:
    """Says whether a call may be made at `now` (wall-clock seconds), and learns what came of it.

    One failure opens it, for a pause that doubles from FIRST_PAUSE with each failed probe. After the pause one caller
    gets through as a probe, while the others are still refused.
    """

    def __init__(self) -> None:
        self.open_until = -inf
        """Refused before this moment. Read without the lock on each call; -inf while closed."""
        self._lock = threading.Lock()
        self._pause = 0.0
        self._probing_since = -inf

    def allows(self, now: float) -> bool:
        """Whether a call may be made. True with the breaker open means: as the probe."""
        if self._pause == 0.0:
            return True
        with self._lock:
            stepped_back = now < self._probing_since or self.open_until - now > 2 * MISCONFIGURED_PAUSE
            if now < self.open_until and not stepped_back:
                return False
            if now - self._probing_since < self._pause and not stepped_back:
                return False  # a probe is under way; one that was lost is replaced after another pause
            self._probing_since = now
            return True

    def succeeded(self) -> bool:
        """A call went well. True if that closed the breaker."""
        if self._pause == 0.0:
            return False
        with self._lock:
            self._pause, self.open_until, self._probing_since = 0.0, -inf, -inf
            return True

    def failed(self, failure: Failure, now: float) -> bool:
        """A call failed. True if that opened the breaker."""
        with self._lock:
            opened = self._pause == 0.0
            if failure in MISCONFIGURED:
                self._pause = MISCONFIGURED_PAUSE
            else:
                self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
            self.open_until = now + self._pause
            self._probing_since = -inf
            return opened

    def half_open(self) -> None:
        """Let the next call through as a probe, whatever the pause: the world may have changed."""
        with self._lock:
            self.open_until = -inf
            self._probing_since = -inf

    def state(self, now: float) -> State:
        """The state at `now`."""
        if self._pause == 0.0:
            return "closed"
        return "open" if now < self.open_until else "half-open"
