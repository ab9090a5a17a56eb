"""How long each tier takes to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import log
from random import Random
from typing import TypeAlias

from tiered_cache._units import Duration, seconds
from tiered_cache.simulation.fleet import MOST_SPREAD, number, taking

Draw: TypeAlias = Callable[[], float]
"""Gives seconds, drawn anew at each call."""

NINTH_DECILE = 1.2815515655446004
"""Of the standard normal distribution."""


@dataclass(frozen=True, slots=True)
class Time:
    """Half of the calls take less than `median`; the logarithm is normal with the deviation `spread`, 0 for constant."""

    median: Duration = 0.0
    spread: float = 0.0

    def __post_init__(self) -> None:
        taking("median", self.median, zero=True)
        number("spread", self.spread, most=MOST_SPREAD)

    @classmethod
    def through(cls, median: float, ninth_decile: float) -> Time:
        """The time with this median, of which nine in ten are less than `ninth_decile`."""
        return cls(median, max(0.0, log(ninth_decile / median) / NINTH_DECILE))

    def drawn(self, seed: object) -> Draw:
        """A source of such times; the same for the same seed."""
        median = seconds("median", self.median, zero=True)
        if not median or not self.spread:
            return lambda: median
        middle, spread = log(median), self.spread
        lognormal = Random(f"{seed}/time").lognormvariate  # noqa: S311  # a simulation is to be repeatable
        return lambda: lognormal(middle, spread)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """What a read takes in each tier: `l1` always, `l2` a round trip, `origin` a load. By default nothing takes time.

    Of a miss the caller pays both round trips to L2, one to ask and one to store, and the load between them.
    """

    l1: Duration = 0.0
    l2: Time = field(default_factory=Time)
    origin: Time = field(default_factory=Time)

    def __post_init__(self) -> None:
        taking("l1", self.l1, zero=True)
