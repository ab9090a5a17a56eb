"""A fleet under some traffic: what it does in a steady state, as figures."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import quantiles
from typing import TYPE_CHECKING, NamedTuple

from tiered_cache._errors import ConfigurationError
from tiered_cache._rules import Freshness
from tiered_cache._units import Duration, seconds, shown, whole
from tiered_cache.simulation.costs import Sized, Usage, blocks, kilobytes
from tiered_cache.simulation.fleet import Containers, Fleet, number
from tiered_cache.simulation.run import simulate
from tiered_cache.simulation.tiers import Tier, Tiers
from tiered_cache.simulation.timings import Timings
from tiered_cache.simulation.traffic import lognormal, open_loop, replay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiered_cache.simulation.fleet import Container
    from tiered_cache.simulation.traffic import Traffic

A_MINUTE, FIVE_MINUTES = Freshness(60.0, jitter=0.1), Freshness(300.0, jitter=0.1)
MOST_RATE = 1e9
"""Requests a second."""
LEAST_LIVES = 3
"""How often data must have had the time to run out while it is counted: what fills at once runs out at once, for a while."""
MOST = 3_000_000
"""Requests of one run, the uncounted ones included, where `lasts` is not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A fleet and its traffic.

    rate: requests a second, by chance, over `keys` of which that of rank n is asked for in proportion to 1 / n ** `skew`; or
    trace: (time, key) in the order of time, at a speed that makes it `rate` a second (None: at its own).
    sizes: of each key's value, in bytes; where none are given, all have the workload's.
    service: what a handler takes besides the reading, the median; spread: the deviation of its logarithm. Where all took
    the same, one microsecond more could be a millisecond more for all of them, so that the bill would jump.
    refresh, coherence: see `Tiers`; each request is an invocation with one read.
    alone: the policy of L1 where there is no L2; by default L2's own, under which data get as old as with it.
    lasts: how long is counted; by default `requests` requests, yet at least three times that for which data are served. Before
    that the caches fill for once that time, uncounted. A trace is counted after the first fifth of it at most. The same is
    counted with L2 and without, so that time is the longer one. fills: yet longer, for the sake of another fleet.
    """

    rate: float | None = 10.0
    keys: int = 1_000
    skew: float = 1.0
    trace: Sequence[tuple[float, Hashable]] = ()
    sizes: Mapping[Hashable, int] = field(default_factory=dict)
    service: Duration = 0.02
    spread: float = 0.3
    containers: Containers = field(default_factory=Containers)
    l1: Freshness = A_MINUTE
    l2: Freshness | None = FIVE_MINUTES
    alone: Freshness | None = None
    timings: Timings = field(default_factory=Timings)
    refresh: str = "inline"
    coherence: str = "invocation"
    requests: int = 100_000
    lasts: Duration | None = None
    fills: Duration = 0.0

    def __post_init__(self) -> None:
        if self.rate is not None:
            number("rate", self.rate, above_zero=True, most=MOST_RATE)
        elif not self.trace:
            raise ConfigurationError("rate must be given where there is no trace")
        if self.trace and not self.trace[0][0] < self.trace[-1][0]:
            raise ConfigurationError("trace must be in the order of time, and last for some time")
        whole("keys", self.keys, least=1)
        whole("requests", self.requests, least=1)
        number("skew", self.skew)
        lognormal(self.service, self.spread)
        if self.lasts is not None:
            seconds("lasts", self.lasts)
        seconds("fills", self.fills, zero=True)
        if self.sizes:
            asked = {key for _, key in self.trace} if self.trace else range(self.keys)
            for key in asked:
                if key not in self.sizes:
                    raise ConfigurationError(
                        f"sizes must have every key that is asked for; there is none of {shown(key)}"
                    )
        self.tiers(1)

    def tiers(self, seed: object) -> Tiers:
        """Its tiers, empty."""
        return Tiers(self.l1, self.l2, seed, timings=self.timings, refresh=self.refresh, coherence=self.coherence)

    def without_l2(self) -> Scenario:
        """The same with no L2."""
        return replace(
            self, l1=self.alone or self.l2 or self.l1, l2=None, fills=self._served if self.l2 else self.fills
        )

    @property
    def spans(self) -> tuple[float, float]:
        """The seconds in which the caches fill, and those that are counted."""
        served = self._served
        if self.trace:
            lasting = (self.trace[-1][0] - self.trace[0][0]) * self._slower
            return min(served, lasting / 5), lasting - min(served, lasting / 5)
        if self.lasts is not None:
            return served, seconds("lasts", self.lasts)
        share = self._simulated
        return served * share, max(self.requests / (self.rate or 1.0), LEAST_LIVES * served) * share

    @property
    def is_cut(self) -> bool:
        """Whether less is simulated than is meant to be, since that would be more than `MOST` requests."""
        return not self.trace and self.lasts is None and self._simulated < 1

    @property
    def is_steady(self) -> bool:
        """Whether the caches had the time for which data are fresh in order to fill, and more than that is counted."""
        data = self.l2 or self.l1
        filling, counted = self.spans
        return filling >= data.ttl and counted >= data.ttl

    @property
    def _served(self) -> float:
        """The longest time for which data are served, with L2 or without."""
        policies = [self.l2 or self.l1, *([self.alone] if self.l2 and self.alone else [])]
        return max(seconds("fills", self.fills, zero=True), *(one.ttl + one.stale_while_revalidate for one in policies))

    @property
    def _simulated(self) -> float:
        """The share of what is meant to be simulated that is."""
        rate = self.rate or 1.0
        return min(1.0, MOST / max(self.requests + self._served * rate, (1 + LEAST_LIVES) * self._served * rate))

    @property
    def _slower(self) -> float:
        """What the trace's times are multiplied by."""
        if self.rate is None:
            return 1.0
        return (len(self.trace) - 1) / (self.trace[-1][0] - self.trace[0][0]) / self.rate

    def traffic(self, seed: object) -> Traffic:
        """All requests, the uncounted ones too."""
        if self.trace:
            return replay(self._retold())
        assert self.rate is not None  # noqa: S101  # checked above
        return open_loop(self.rate, lasts=sum(self.spans), keys=self.keys, skew=self.skew, seed=seed)

    def _retold(self) -> Iterator[tuple[float, Hashable]]:
        begin, slower = self.trace[0][0], self._slower
        return (((time - begin) * slower, key) for time, key in self.trace)


class Figures(NamedTuple):
    """What was seen in `seconds`, once the caches were full. Shares are of the answered requests."""

    usage: Usage
    l1: float
    l2: float
    origin: float
    stale: float
    waited: float
    """For another container's load."""
    refused: float
    """Of all requests."""
    origin_rate: float
    """Loads a second, refreshes after the answer included."""
    cold_starts: float
    """A second."""
    containers: float
    """The most that were there at once."""
    l1_by_container: tuple[float, float, float]
    """Quartiles of the containers' own hit rates in their whole lives."""
    p50: float
    p90: float
    p99: float
    mean: float


def steady(scenario: Scenario, seed: object = 1) -> Figures:
    """The figures of the scenario in its steady state, simulated; the same seed gives the same."""
    tiers = scenario.tiers(seed)
    fleet = Fleet(scenario.containers, seed)
    filling, counted = scenario.spans
    times = array("d")
    before = [_counts(tiers, fleet)]

    def begin() -> None:
        del times[:]
        for counts in (tiers.sent, tiers.confirmed, tiers.loaded):
            counts.clear()
        before[0] = _counts(tiers, fleet)

    def watch(_key: Hashable, _container: Container, _tier: Tier, asked: float, ended: float) -> None:
        times.append(ended - asked)

    service = lognormal(scenario.service, scenario.spread, seed)
    simulate(_told(scenario.traffic(seed), filling, begin), fleet, tiers, service, watch)
    since = [now - then for now, then in zip(_counts(tiers, fleet), before[0], strict=True)]
    figures = _figures(since, counted, tiers, fleet, times)
    if not scenario.sizes:
        return figures
    return figures._replace(usage=figures.usage._replace(sized=_sized(tiers, scenario.sizes)))


def _told(traffic: Traffic, moment: float, begin: Callable[[], None]) -> Traffic:
    """The same traffic; `begin` is called before the first request after `moment`, or at the end."""
    request, is_told = next(traffic, None), False
    while request is not None:
        if not is_told and request[0] >= moment:
            begin()
            is_told = True
        answered = yield request
        try:
            request = traffic.send(answered)
        except StopIteration:
            request = None
    if not is_told:
        begin()


def _counts(tiers: Tiers, fleet: Fleet) -> tuple[float, ...]:
    answers = tiers.l1_hits, tiers.l2_hits, tiers.loads
    others = tiers.refreshes, tiers.stale, tiers.waited, tiers.l2_looks, tiers.l2_reads, tiers.l2_found
    return *answers, *others, fleet.refused, fleet.cold_starts, fleet.billed_ms


def _sized(tiers: Tiers, sizes: Mapping[Hashable, int]) -> Sized:
    """What the values came to since the counts by key began."""
    loaded = tiers.loaded.items()
    ways = [(tiers.sent.items(), False), (tiers.confirmed.items(), True), *([(loaded, False)] if tiers.shared else [])]
    return Sized(
        sum(sizes[key] for key in tiers.shared),
        sum(count * kilobytes(sizes[key], again=again) for counts, again in ways for key, count in counts),
        sum(count * blocks(sizes[key]) for key, count in loaded),
    )


def _figures(since: Sequence[float], counted: float, tiers: Tiers, fleet: Fleet, times: array[float]) -> Figures:
    l1, l2, loads, refreshes, stale, waited, l2_looks, l2_reads, l2_found, refused, cold_starts, billed_ms = since
    answered = l1 + l2 + loads
    share = 1 / answered if answered else 0.0
    calls = loads + refreshes
    writes = calls if l2_reads else 0.0
    confirmed = sum(tiers.confirmed.values())
    usage = Usage(
        counted, answered, billed_ms, calls, l2_looks, l2_reads, l2_found, confirmed, writes, len(tiers.shared)
    )
    rates = [one.l1_hits / one.requests for one in fleet.containers if one.requests]
    ordered = sorted(times) or [0.0]
    last = len(ordered) - 1
    return Figures(
        usage,
        l1=l1 * share,
        l2=l2 * share,
        origin=loads * share,
        stale=stale * share,
        waited=waited * share,
        refused=refused / (answered + refused) if refused else 0.0,
        origin_rate=calls / counted,
        cold_starts=cold_starts / counted,
        containers=fleet.peak,
        l1_by_container=_quartiles(rates),
        p50=ordered[last // 2],
        p90=ordered[round(0.9 * last)],
        p99=ordered[round(0.99 * last)],
        mean=sum(ordered) / len(ordered),
    )


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        only = values[0] if values else 0.0
        return only, only, only
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high
