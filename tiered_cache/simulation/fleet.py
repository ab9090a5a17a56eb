"""The containers of one function: made when none is idle, one event at a time, gone after some idle time or at an age.

Nothing here runs by itself: whoever drives a fleet tells it the time, which never goes back.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from math import ceil, inf
from sys import float_info
from typing import TYPE_CHECKING

from tiered_cache._errors import ConfigurationError
from tiered_cache._units import Duration, seconds, shown, whole
from tiered_cache.simulation.routing import routing

if TYPE_CHECKING:
    from collections.abc import Hashable

    from tiered_cache.simulation.tiers import Copy

MOST_NUMBER = float_info.max
MOST_SPREAD = 10.0
"""Of a lognormal time, with which one in ten takes 370,000 times the median: beyond that nothing is meant."""
LONGEST = 1e9
"""Seconds that anything may take, thirty years."""
EPSILON = 1e-5
"""Milliseconds that are put down to the difference of two large numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Containers:
    """What is known, or assumed, of a function's containers.

    most: how many there may be at once; an event that finds them all busy is refused. Lambda's default for an account
    is 1,000. routing: which of the idle ones gets an event, see `ROUTINGS`. cold_start: the time from an event that finds
    none idle to the start of its handler. idle_for: how long a container is kept without an event; 5 minutes to an hour
    have been measured. max_age: how old it may get, busy or not, though an event is never cut short; about two hours.
    warm: how many are there from the beginning, initialised. An option that cannot be is a ConfigurationError.
    """

    most: int = 1_000
    routing: str = "newest"
    cold_start: Duration = 0.25
    idle_for: Duration = "10m"
    max_age: Duration = "2h"
    warm: int = 0

    def __post_init__(self) -> None:
        routing(self.routing, 0)
        whole("most", self.most, least=1)
        if whole("warm", self.warm, least=0) > self.most:
            raise ConfigurationError(
                f"warm must be at most {self.most}, as many as there may be at once; got {self.warm}"
            )
        taking("cold_start", self.cold_start, zero=True)
        seconds("idle_for", self.idle_for)
        seconds("max_age", self.max_age)


def number(name: str, given: object, *, above_zero: bool = False, most: float = MOST_NUMBER) -> float:
    """The number in `given`, the value of the option `name`. Raises ConfigurationError unless from zero to `most`."""
    if (
        isinstance(given, int | float)
        and not isinstance(given, bool)
        and 0 <= given <= most
        and (given or not above_zero)
    ):
        return float(given)
    bound = "above zero" if above_zero else "of zero or more"
    if most < MOST_NUMBER:
        bound += f", at most {most:,.12g}"
    raise ConfigurationError(f"{name} must be a finite number {bound}; got {shown(given)}")


def taking(name: str, given: object, *, zero: bool = False) -> float:
    """The seconds in `given` that something takes, the value of the option `name`. Raises ConfigurationError."""
    taken = seconds(name, given, zero=zero)
    if taken > LONGEST:
        raise ConfigurationError(f"{name} must be at most {LONGEST:,.0f} s; got {shown(given)}")
    return taken


class Container:
    """One container, and what its L1 holds: until when it may answer for each key, and how."""

    __slots__ = (
        "created",
        "expects_hit",
        "free_at",
        "gone_at",
        "held",
        "l1_hits",
        "number",
        "ready_at",
        "requests",
        "sweep_at",
    )

    def __init__(self, number: int, created: float, ready_at: float) -> None:
        self.number = number
        self.created = created
        self.ready_at = ready_at
        self.free_at = ready_at
        """The end of its last event; in the future while it is busy."""
        self.gone_at = inf
        self.requests = 0
        self.l1_hits = 0
        self.expects_hit = False
        """Whether L2 had what it was asked for last: then it is asked for the value alone, else for that or the lease."""
        self.held: dict[Hashable, Copy] = {}
        self.sweep_at = 0
        """The number of keys at which those that have run out are to be dropped."""


class Fleet:
    """The containers over time. Times are seconds; each call's is not before that of the last."""

    def __init__(self, containers: Containers, seed: object = 0) -> None:
        self.containers: list[Container] = []
        """All that there ever were, by number."""
        self.alive = 0
        self.peak = 0
        """The most that there were at once."""
        self.cold_starts = 0
        self.refused = 0
        self.busy_seconds = 0.0
        """Time spent on events, over all containers, cold starts included."""
        self.billed_ms = 0
        """The same, each event's rounded up to a millisecond."""
        self._most = containers.most
        self._cold_start = seconds("cold_start", containers.cold_start, zero=True)
        self._idle_for = seconds("idle_for", containers.idle_for)
        self._max_age = seconds("max_age", containers.max_age)
        self._idle = routing(containers.routing, seed)
        self._busy: list[tuple[float, int]] = []
        self._leaving: list[tuple[float, int]] = []
        """For each container a moment before which it does not leave: one entry, put off when it is due too early."""
        self._now = -inf
        for _ in range(containers.warm):
            self._idle.add(self._create(0.0, 0.0).number)

    def begin(self, now: float) -> Container | None:
        """The container that takes an event at `now`; None where all are busy. `end` is to be called next.

        Its handler starts at `now`, or when the container is ready. Raises ValueError where time goes back.
        """
        if not now >= self._now:
            raise ValueError(f"events must come in the order of their times; got {now} after {self._now}")
        self._now = now
        busy, idle = self._busy, self._idle
        while busy and busy[0][0] <= now:
            idle.add(heappop(busy)[1])
        if self._leaving and self._leaving[0][0] <= now:
            self._let_go(now)
        while (number := idle.take()) is not None:
            container = self.containers[number]
            if container.gone_at == inf:
                return container
        if self.alive >= self._most:
            self.refused += 1
            return None
        self.cold_starts += 1
        return self._create(now, now + self._cold_start)

    def end(self, container: Container, ended: float) -> None:
        """Have the event that was begun last end at `ended`; until then its container takes no other."""
        container.requests += 1
        container.free_at = ended
        taken = ended - self._now
        self.busy_seconds += taken
        self.billed_ms += ceil(taken * 1000.0 - EPSILON)
        heappush(self._busy, (ended, container.number))

    def _create(self, created: float, ready_at: float) -> Container:
        container = Container(len(self.containers), created, ready_at)
        self.containers.append(container)
        self.alive += 1
        self.peak = max(self.peak, self.alive)
        heappush(self._leaving, (self._leaves_at(container), container.number))
        return container

    def _leaves_at(self, container: Container) -> float:
        """When it leaves, if nothing more comes its way."""
        free_at = container.free_at
        return max(free_at, min(free_at + self._idle_for, container.created + self._max_age))

    def _let_go(self, now: float) -> None:
        """Let go of the containers whose time has come. One that is busy has it after the end of its event."""
        leaving = self._leaving
        while leaving and leaving[0][0] <= now:
            container = self.containers[leaving[0][1]]
            due = self._leaves_at(container)
            if due > now:
                heapreplace(leaving, (due, container.number))
                continue
            heappop(leaving)
            container.gone_at = due
            container.held = {}
            self.alive -= 1
