"""The clock of a cache: wall-clock time, held against the monotonic clock, and randomness that no copy shares."""

from __future__ import annotations

import os
import time
from math import inf
from typing import TYPE_CHECKING

from tiered_cache._errors import ClosedError
from tiered_cache._log import log
from tiered_cache._rules import SKEW

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tiered_cache.interfaces import Clock


class Watch:
    """Reads the wall clock for every operation but a plain hit, and says when it has stepped back.

    The wall clock goes on while a container is frozen and is shared by all hosts, so it alone says how old a value is.
    The monotonic clock, which may stand still during a freeze, can only show that the wall clock lost time.
    """

    def __init__(self, clock: Clock, stepped_back: Callable[[], None], not_before: Callable[[float], None]) -> None:
        self._clock = clock
        self._monotonic = time.monotonic if clock is time.time else getattr(clock, "monotonic", None)
        self._stepped_back = stepped_back
        self._not_before = not_before
        self.last, self._steady = -inf, 0.0
        self.closed = False

    def now(self) -> float:
        """Wall-clock seconds. Raises ClosedError after the cache was closed."""
        if self.closed:
            raise ClosedError("this cache was closed, and what it held is gone: make a new one")
        now = self._clock()
        steady = now if self._monotonic is None else self._monotonic()
        if now < self.last - SKEW or now - self.last < steady - self._steady - SKEW:
            self._stepped_back()
            log().warning("the wall clock stepped back: what L1 holds is to be confirmed anew")
        self.last, self._steady = now, steady
        self._not_before(now)
        return now


class Uniform:
    """Uniform numbers in [0, 1), seeded by the kernel when first asked for, and again after a fork.

    The module `random` is not used: its state is copied into each container that a snapshot is restored to.
    """

    def __init__(self) -> None:
        self._random: Random | None = None
        self._pid = 0

    def __call__(self) -> float:
        if self._random is None or self._pid != os.getpid():
            from random import Random

            self._random, self._pid = Random(os.urandom(16)), os.getpid()
        return self._random.random()

    def renew(self) -> None:
        """Forget the state, which a snapshot may have copied."""
        self._random = None
