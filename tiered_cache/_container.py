"""This container: who it is, since when, and how long it has been frozen or idle."""

from __future__ import annotations

import os
from math import inf

from tiered_cache._forks import ForkSafe
from tiered_cache._stats import ContainerStats

THAW = 60.0
"""Seconds of wall-clock time between two invocations after which what idled meanwhile is not trusted."""


class Identity(ForkSafe):
    """A random name that no copy of a process shares: neither a forked one nor what a snapshot is restored to."""

    def __init__(self) -> None:
        super().__init__()
        self._name = ""

    def forked(self) -> None:
        super().forked()
        self._name = ""

    def __str__(self) -> str:
        with self._lock:
            self._name = self._name or os.urandom(6).hex()
            return self._name


_IDENTITY = Identity()
"""Of this process, for all its caches."""


class Container:
    """One execution environment, or process, as one cache sees it. Times are wall-clock seconds."""

    def __init__(self) -> None:
        self._since = inf
        self._ended = inf
        self._counts = [0, 0, 0, 0]  # cold starts, restores, invocations, thaws
        self._idle = 0.0

    def begin(self, now: float) -> bool:
        """An invocation begins; whether the container has idled, or was frozen, for so long that it counts as thawed."""
        self._counts[0] += self._since == inf
        self._since = min(self._since, now)
        self._counts[2] += 1
        idle = max(0.0, now - self._ended)
        self._idle += idle
        self._counts[3] += idle >= THAW
        return idle >= THAW

    def end(self, now: float) -> None:
        """It ends, and so does all that was to be done after it."""
        self._ended = now

    def restored(self) -> None:
        """This is a copy made from a snapshot: a container of its own, that starts cold."""
        _IDENTITY.forked()
        self._since, self._ended = inf, inf
        self._counts[1] += 1

    def stats(self, now: float) -> ContainerStats:
        """The counters at `now`."""
        cold, restores, invocations, thaws = self._counts
        age = max(0.0, now - self._since)
        return ContainerStats(str(_IDENTITY), cold, restores, invocations, age, self._idle, thaws)
