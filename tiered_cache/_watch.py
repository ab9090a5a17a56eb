"""The clock of a cache: wall-clock time, held against the monotonic clock, and randomness that no copy shares."""

from __future__ import annotations

import os
import time
from math import inf
from typing import TYPE_CHECKING

from tiered_cache._errors import ClosedError
from tiered_cache._forks import ForkSafe
from tiered_cache._log import log
from tiered_cache._rules import SKEW

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tiered_cache.interfaces import Clock


class Watch(ForkSafe):
    """Reads the wall clock for every operation but a plain hit, and says when it has stepped back.

    The wall clock goes on while a container is frozen and is shared by all hosts, so it alone says how old a value is.
    The monotonic clock, which may stand still during a freeze, can only show that the wall clock lost time, at once or in
    small steps: then `stepped_back(seconds)` is called. `not_before` gets each reading, below which no plain hit is answered.
    """

    def __init__(
        self, clock: Clock, stepped_back: Callable[[float], None], not_before: Callable[[float], None]
    ) -> None:
        super().__init__()
        self._clock = clock
        self._monotonic = time.monotonic if clock is time.time else getattr(clock, "monotonic", None)
        self._stepped_back = stepped_back
        self._not_before = not_before
        self._lead = -inf  # the most by which the wall clock was ahead of the monotonic one: a freeze makes it grow
        self._rests: tuple[float, float | None] = (0.0, None)  # so far, and since when; one object, to be read at once
        self.last = -inf
        self.closed = False

    def now(self) -> float:
        """Wall-clock seconds. Raises ClosedError after the cache was closed."""
        if self.closed:
            raise ClosedError("this cache was closed, and what it held is gone: make a new one")
        with self._lock:
            now = self._clock()
            lead = now if self._monotonic is None else now - self._monotonic()
            lost, self._lead = self._lead - lead, max(lead, self._lead)
            if lost > SKEW:
                self._lead = lead
                self._stepped_back(lost)
                log().warning("the wall clock stepped back by %.1f s: what L1 holds is to be confirmed anew", lost)
            self.last = now
            self._not_before(now)
        return now

    def steady(self) -> float:
        """Seconds that no correction of the time moves, to measure how long ago a load began."""
        return time.monotonic() if self._monotonic is None else self._monotonic()

    def worked(self) -> float:
        """The same without the rests: a load that was frozen in the middle is no longer one for that."""
        rested, since = self._rests
        return (self.steady() if since is None else since) - rested

    def works(self) -> float:
        """The same as a load begins, which shows that the process runs, whatever was said last."""
        self.wake()
        return self.worked()

    def rest(self) -> None:
        """From now on this process may be frozen."""
        with self._lock:
            rested, since = self._rests
            self._rests = rested, self.steady() if since is None else since

    def wake(self) -> None:
        """It runs again."""
        with self._lock:
            rested, since = self._rests
            if since is not None:
                self._rests = rested + max(0.0, self.steady() - since), None


class Uniform(ForkSafe):
    """Uniform numbers in [0, 1), seeded by the kernel when first asked for, and again after a fork.

    The module `random` is not used: its state is copied into each container that a snapshot is restored to.
    """

    def __init__(self) -> None:
        super().__init__()
        self._random: Random | None = None

    def forked(self) -> None:
        super().forked()
        self.renew()

    def __call__(self) -> float:
        if self._random is None:
            from random import Random

            self._random = Random(os.urandom(16))  # noqa: S311  # for jitter, not for secrets
        return self._random.random()

    def renew(self) -> None:
        """Forget the state, which a snapshot may have copied."""
        self._random = None
