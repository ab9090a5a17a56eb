"""From which traffic on does a Redis pay? The rate at which a fleet costs less with it than without."""

from __future__ import annotations

from dataclasses import replace
from math import log10, sqrt
from typing import TYPE_CHECKING

from tiered_cache.simulation.costs import monthly
from tiered_cache.simulation.scenario import steady

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache.simulation.costs import Prices, Workload
    from tiered_cache.simulation.scenario import Scenario

STEPS = 2
"""Rates that are tried in each power of ten, before the first that pays is narrowed down."""


def gain(scenario: Scenario, prices: Prices, workload: Workload, seed: object) -> float:
    """What L2 saves a month; below zero where it costs more. Both fleets meet the same requests."""
    without = monthly(steady(scenario.without_l2(), seed).usage, prices, workload, with_l2=False)
    return without.total - monthly(steady(scenario, seed).usage, prices, workload, with_l2=True).total


def pays_from(
    scenario: Scenario, prices: Prices, workload: Workload, seed: object, *, low: float, high: float
) -> float | None:
    """The rate from which on L2 saves money: `low` where it does at every rate tried, None where at none up to `high`."""
    return first_above_zero(lambda rate: gain(replace(scenario, rate=rate), prices, workload, seed), low=low, high=high)


def first_above_zero(of: Callable[[float], float], *, low: float, high: float, within: float = 1.03) -> float | None:
    """Where `of` is first above zero between `low` and `high`, up to the factor `within`; found by halving the ratio."""
    count = max(1, round(STEPS * log10(high / low)))
    below: float | None = None
    for step in range(count + 1):
        above: float = low * (high / low) ** (step / count)
        if of(above) > 0:
            break
        below = above
    else:
        return None
    while below is not None and above > below * within:
        middle = sqrt(below * above)
        below, above = (below, middle) if of(middle) > 0 else (middle, above)
    return above
