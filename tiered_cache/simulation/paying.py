"""From which traffic on does a Redis pay? The rate at which a fleet costs less with it than without."""

from __future__ import annotations

from dataclasses import replace
from math import log10, sqrt
from typing import TYPE_CHECKING, NamedTuple

from tiered_cache.simulation.costs import MONTH, monthly
from tiered_cache.simulation.scenario import steady

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache.simulation.costs import Prices, Usage, Workload
    from tiered_cache.simulation.scenario import Scenario

STEPS = 2
"""Rates that are tried in each power of ten, before the first that pays is narrowed down."""


class Refused(NamedTuple):
    """The shares of the requests that found all containers busy."""

    without_l2: float
    with_l2: float


class Paying(NamedTuple):
    """The rate from which on L2 pays, as `pays_from` gives it, and who was refused there (where it never pays: at most)."""

    rate: float | None
    refused: Refused


def gain(scenario: Scenario, prices: Prices, workload: Workload, seed: object) -> float:
    """What L2 saves of the costs of an answered request; below zero where it costs more. Both fleets meet the same requests.

    What is refused costs nothing, so a fleet must not look cheap by it.
    """
    return _compared(scenario, prices, workload, seed)[0]


def pays_from(
    scenario: Scenario, prices: Prices, workload: Workload, seed: object, *, low: float, high: float
) -> float | None:
    """The rate from which on L2 saves money: `low` where it does at every rate tried, None where at none up to `high`."""
    return paying(scenario, prices, workload, seed, low=low, high=high).rate


def paying(scenario: Scenario, prices: Prices, workload: Workload, seed: object, *, low: float, high: float) -> Paying:
    """The same, with the shares that were refused."""
    refused: dict[float, Refused] = {}

    def gained(rate: float) -> float:
        saved, refused[rate] = _compared(replace(scenario, rate=rate), prices, workload, seed)
        return saved

    rate = first_above_zero(gained, low=low, high=high)
    return Paying(rate, refused[max(refused) if rate is None else rate])


def _compared(scenario: Scenario, prices: Prices, workload: Workload, seed: object) -> tuple[float, Refused]:
    without, beside = steady(scenario.without_l2(), seed), steady(scenario, seed)
    saved = _each(without.usage, prices, workload, with_l2=False) - _each(beside.usage, prices, workload, with_l2=True)
    return saved, Refused(without.refused, beside.refused)


def _each(usage: Usage, prices: Prices, workload: Workload, *, with_l2: bool) -> float:
    """What an answered request costs; where none is, what a month of waiting for one does."""
    months = MONTH / usage.seconds
    return monthly(usage, prices, workload, with_l2=with_l2).total / max(1.0, usage.requests * months)


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
