"""The figures of a fleet beside closed forms, and the traffic from which on a Redis pays beside the sum done by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from tiered_cache import ConfigurationError
from tiered_cache.simulation import Containers, Freshness, Time, Timings, open_loop
from tiered_cache.simulation.costs import MONTH, Costs, Usage, Workload, a_load, monthly, read_prices
from tiered_cache.simulation.paying import first_above_zero, gain, paying, pays_from
from tiered_cache.simulation.recorded import read_requests
from tiered_cache.simulation.scenario import Scenario, steady

ONE_CONTAINER = Containers(most=1, warm=1, idle_for="999w", max_age="999w")
ONE_KEY = Scenario(rate=1.0, keys=1, service="1ms", containers=ONE_CONTAINER, l2=None, requests=20_000)


@pytest.mark.parametrize(("rate", "ttl"), [(0.5, 1.0), (2.0, 3.0), (20.0, 4.0)])
def test_one_key_in_one_container(rate: float, ttl: float) -> None:
    """Poisson arrivals: hit rate 1 - 1 / (1 + rate * TTL), and so many loads a second; within some deviations."""
    figures = steady(replace(ONE_KEY, rate=rate, l1=Freshness(ttl), service=1e-6), 7)
    misses = 1 / (1 + rate * ttl)
    assert figures.l1 == pytest.approx(1 - misses, abs=4 / 20_000**0.5)
    assert figures.origin_rate == pytest.approx(rate * misses, rel=0.05)


def test_an_l2_makes_the_misses_of_a_fleet_those_of_one() -> None:
    """With L2 the origin is asked once in the TTL and the time to the next request, however the containers share them."""
    fleet = Containers(most=20, warm=20, routing="random", idle_for="999w", max_age="999w")
    scenario = Scenario(rate=5.0, keys=1, service=1e-6, containers=fleet, l1=Freshness(2.0), l2=Freshness(20.0))
    assert steady(scenario, 3).origin_rate == pytest.approx(1 / (20 + 1 / 5), rel=0.02)
    alone = steady(replace(scenario.without_l2(), l1=Freshness(20.0)), 3)
    assert alone.origin == pytest.approx(1 / (1 + 5 / 20 * 20), abs=0.02)


def test_the_filling_of_the_caches_is_not_counted() -> None:
    """What is asked for the first time while the caches fill is no miss; in the long run the hit rate is the closed form's."""
    trace = [(float(now), now % 5) for now in range(100)]
    figures = steady(replace(ONE_KEY, trace=trace, rate=None, l1=Freshness(1e6)), 1)
    assert (figures.usage.seconds, figures.usage.requests, figures.origin) == (pytest.approx(99 * 0.8), 80, 0.0)
    scenario = replace(ONE_KEY, keys=200, skew=0.0, rate=10.0, l1=Freshness(100.0), requests=1)
    assert scenario.spans == (100.0, 300.0)
    assert steady(replace(scenario, lasts=4_000), 1).l1 == pytest.approx(5 / 6, abs=0.01)


def test_a_miss_is_billed() -> None:
    """Each request is billed its handler, and each load what it takes, in whole milliseconds."""
    scenario = replace(ONE_KEY, l1=Freshness(10.0), service="10ms", spread=0.0, timings=Timings(origin=Time("300.2ms")))
    usage = steady(scenario, 2).usage
    assert usage.billed_ms == usage.requests * 10 + usage.origin_loads * 301


def test_a_microsecond_more_is_not_a_millisecond_more() -> None:
    """What L1 takes, or a look, does not make the bill of all requests jump, though the median is of whole milliseconds."""
    rounded = [
        steady(replace(ONE_KEY, service="20ms", requests=10_000, timings=Timings(l1=l1)), 2).usage for l1 in (0.0, 2e-6)
    ]
    assert rounded[1].billed_ms / rounded[0].billed_ms == pytest.approx(1.0, abs=0.002)


def test_conservation() -> None:
    """Every request is answered by one tier, or refused; the shares are of the answered."""
    containers = Containers(most=3, idle_for=5)
    scenario = Scenario(
        rate=30.0, keys=40, service=0.15, containers=containers, l1=Freshness(3.0, 1.0), l2=Freshness(9.0, 4.0)
    )
    for refresh in ("inline", "after_response"):
        figures = steady(replace(scenario, refresh=refresh, requests=5_000, timings=Timings(origin=Time(0.5))), 5)
        assert figures.l1 + figures.l2 + figures.origin == pytest.approx(1.0)
        assert 0 < figures.refused < 1
        arrived = figures.usage.requests / (1 - figures.refused) / figures.usage.seconds
        assert arrived == pytest.approx(30.0, rel=0.1)
        assert figures.usage.l2_writes == figures.usage.origin_loads


def test_a_slow_origin_is_waited_for_once() -> None:
    """A query of three minutes: alone each container runs its own, with L2 the fleet one; and stale, nobody waits but one."""
    query = Scenario(
        rate=2.0,
        keys=1,
        containers=Containers(routing="random", warm=50, max_age="999w", idle_for="999w"),
        l1=Freshness(600.0),
        l2=Freshness(3_600.0),
        timings=Timings(origin=Time(180.0)),
        lasts="10h",
    )
    alone, together = steady(query.without_l2(), 1), steady(query, 1)
    assert alone.usage.origin_loads > 20 * together.usage.origin_loads
    assert together.usage.origin_loads == 10
    assert together.waited > 50 * together.origin
    stale = steady(replace(query, l2=Freshness(3_600.0, stale_while_revalidate=600.0)), 1)
    assert (stale.waited, stale.usage.origin_loads) == (0.0, 10)
    assert stale.p99 < 1 < together.p99


def test_without_an_l2_data_get_as_old_as_with_it() -> None:
    """L1 has L2's policy then, unless it is given one of its own."""
    scenario = Scenario(l1=Freshness(10.0), l2=Freshness(60.0, 30.0))
    assert scenario.without_l2().l1 == Freshness(60.0, 30.0)
    assert replace(scenario, alone=Freshness(20.0)).without_l2().l1 == Freshness(20.0)
    assert replace(scenario, l2=None).without_l2() == replace(scenario, l2=None)


def test_both_fleets_are_counted_in_the_same_stretch() -> None:
    """Whichever keeps its data longer: that of a trace with a busy beginning, too."""
    scenario = Scenario(l1=Freshness(10.0), l2=Freshness(60.0), alone=Freshness(600.0))
    trace = [(now * 0.1, now % 5) for now in range(2_000)] + [(200.0 + now, now % 5) for now in range(4_000)]
    for both in (scenario, replace(scenario, alone=Freshness(20.0)), replace(scenario, trace=trace, rate=None)):
        without = both.without_l2()
        assert both.spans == without.spans == without.without_l2().spans
        assert steady(both).usage.requests == steady(without).usage.requests
    assert scenario.spans == (600.0, 10_000.0)
    long = replace(scenario, trace=trace, rate=None, alone=Freshness(6_000.0))
    assert (long.is_steady, long.without_l2().is_steady) == (True, False)


def test_the_same_seed_gives_the_same_figures() -> None:
    """And another seed gives others."""
    scenario = Scenario(requests=3_000, timings=Timings(l2=Time(0.001, 0.3), origin=Time(0.01, 0.5)), spread=0.4)
    assert steady(scenario, 1) == steady(scenario, 1) != steady(scenario, 2)


def test_a_trace_at_another_speed() -> None:
    """Its keys in their order, at the rate that was asked for."""
    trace = [(float(number), number % 7) for number in range(1_000)]
    slow = Scenario(trace=trace, rate=None, l1=Freshness(5.0), l2=None)
    fast = replace(slow, rate=10.0)
    assert steady(slow).usage.requests / slow.spans[1] == pytest.approx(1.0, rel=0.02)
    assert steady(fast).usage.requests / fast.spans[1] == pytest.approx(10.0, rel=0.02)
    assert steady(fast).l1 > steady(slow).l1


def test_a_run_that_would_be_too_long_is_cut_and_says_so() -> None:
    """Where the TTL is long beside what can be simulated."""
    assert Scenario(rate=10.0).is_steady
    assert not Scenario(rate=1_000.0, l2=Freshness(86_400.0)).is_steady
    assert sum(Scenario(rate=1_000.0, l2=Freshness(86_400.0)).spans) * 1_000 == pytest.approx(3_000_000)
    assert Scenario(rate=1_000.0, l2=Freshness(86_400.0)).is_cut
    served_longer = Scenario(rate=5_000.0, l2=Freshness(100.0, stale_while_revalidate=100.0))
    assert (served_longer.is_cut, served_longer.is_steady) == (True, True)
    assert not replace(served_longer, lasts="1h").is_cut
    assert not replace(served_longer, rate=3_000.0).is_cut


def test_where_a_redis_pays_is_where_the_sums_say() -> None:
    """One key, one container beside each other: what L2 saves is less than it costs below the rate, and more above."""
    prices = read_prices()
    workload = Workload(origin="athena", scanned="1 GB")
    fleet = Containers(most=10, warm=10, routing="random", idle_for="999w", max_age="999w")
    scenario = Scenario(
        keys=1, service="1ms", containers=fleet, l1=Freshness(300.0), l2=Freshness(300.0), requests=20_000
    )
    found = pays_from(scenario, prices, workload, 1, low=0.0001, high=100.0)
    assert found is not None

    # loads a second without L2: each of 10 containers has its own, x / (1 + x) of what comes; with it they share one
    def saved(rate: float) -> float:
        alone, shared = 10 / (300 + 10 / rate), 1 / (300 + 1 / rate)
        return (alone - shared) * 730 * 3600 * a_load(prices, workload)

    least = 730 * prices.serverless.least_gb * prices.serverless.gb_hour
    assert saved(found / 1.2) < least < saved(found * 1.2)
    assert gain(replace(scenario, rate=found * 2), prices, workload, 2) > 0
    assert gain(replace(scenario, rate=found / 2), prices, workload, 2) < 0


def test_a_fleet_does_not_look_cheap_by_what_it_refuses() -> None:
    """One container for a slow origin: alone it refuses nearly all, costs little, and each answer of it much."""
    prices, workload = read_prices(), Workload(origin="free")
    few = Containers(most=1, warm=1, idle_for="999w", max_age="999w")
    query = Scenario(
        rate=50.0, service="1ms", containers=few, timings=Timings(origin=Time(2.0)), coherence="ttl", requests=20_000
    )
    query = replace(query, keys=500, skew=0.5, l1=Freshness(30.0), l2=Freshness(150.0), alone=Freshness(30.0))
    alone, beside = steady(query.without_l2()), steady(query)
    assert alone.refused > beside.refused > 0
    months = [MONTH / one.usage.seconds for one in (alone, beside)]
    totals = [monthly(one.usage, prices, workload, with_l2=one is beside).total for one in (alone, beside)]
    each = [
        total / one.usage.requests / month for total, one, month in zip(totals, (alone, beside), months, strict=True)
    ]
    assert gain(query, prices, workload, 1) == pytest.approx(each[0] - each[1])
    found = paying(query, prices, workload, 1, low=50.0, high=50.0)
    assert found.refused == (alone.refused, beside.refused)


def test_the_first_above_zero() -> None:
    """Found up to three in a hundred; the lowest where all are, None where none is."""
    assert first_above_zero(lambda rate: rate - 37, low=0.1, high=1_000) == pytest.approx(37, rel=0.03)
    assert first_above_zero(lambda rate: rate - 37, low=0.1, high=1_000) >= 37
    assert first_above_zero(lambda rate: 1.0, low=0.1, high=1_000) == 0.1
    assert first_above_zero(lambda rate: -1.0, low=0.1, high=1_000) is None
    assert first_above_zero(lambda rate: rate - 999, low=0.1, high=1_000) == pytest.approx(1_000, rel=0.03)


def test_a_free_redis_pays_at_once_and_a_dear_one_never() -> None:
    """Where the prices leave no doubt."""
    example = read_prices()
    free = example._replace(serverless=replace(example.serverless, gb_hour=0.0, million_ecpus=0.0))
    dear = example._replace(serverless=replace(example.serverless, gb_hour=1e9))
    scenario = Scenario(requests=2_000, containers=Containers(routing="random"), timings=Timings(origin=Time(0.2)))
    workload = Workload(memory_mb=1024)
    assert pays_from(replace(scenario, keys=1), free, workload, 1, low=1.0, high=10.0) == pytest.approx(1.0, rel=9)
    assert pays_from(scenario, dear, workload, 1, low=1.0, high=10.0) is None


def test_what_comes_of_nothing() -> None:
    """A run in which nobody comes has figures, all zero."""
    figures = steady(Scenario(rate=1e-9, lasts="1s"))
    assert figures.usage.requests == figures.origin == figures.p99 == figures.l1_by_container[0] == 0
    assert monthly(Usage(1.0, 0, 0, 0), read_prices(), Workload(), with_l2=False) == Costs(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rate": 0}, "rate must be a finite number above zero, at most 1,000,000,000; got 0"),
        ({"rate": 1e308}, "rate must be a finite number above zero, at most 1,000,000,000; got 1e+308"),
        ({"spread": 1e308}, "spread must be a finite number of zero or more, at most 10; got 1e+308"),
        ({"service": 1e308}, "service must be at most 1,000,000,000 s; got 1e+308"),
        ({"rate": None}, "rate must be given where there is no trace"),
        ({"trace": [(2.0, "k"), (1.0, "k")]}, "trace must be in the order of time, and last for some time"),
        ({"trace": [(2.0, "k")]}, "trace must be in the order of time, and last for some time"),
        ({"requests": 0}, "requests must be a whole number of at least 1; got 0"),
        ({"lasts": "long"}, "lasts must be a finite duration"),
        ({"keys": 3, "sizes": {0: 1, 2: 1}}, "sizes must have every key that is asked for; there is none of 1"),
        (
            {"trace": [(1.0, "k"), (2.0, "j")], "sizes": {"k": 1}},
            "sizes must have every key that is asked for; there is none",
        ),
        ({"fills": -1}, "fills must be a finite duration zero or more"),
        ({"refresh": "never"}, "refresh must be one of inline, after_response; got 'never'"),
    ],
)
def test_a_scenario_that_cannot_be(options: dict[str, Any], text: str) -> None:
    """The error names the option, what was given, and what is allowed."""
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        Scenario(**options)


def test_a_recorded_trace(tmp_path: Path) -> None:
    """Lines in any order, times as seconds or as ISO 8601; seconds since the first."""
    path = tmp_path / "trace.csv"
    path.write_text("timestamp,key,bytes\n12.5,b,300\n10,a,100\n11,a,\n", encoding="utf-8")
    assert read_requests(path) == (((0.0, "a"), (1.0, "a"), (2.5, "b")), {"a": 100, "b": 300}, False)
    path.write_text("key,time\n/x,2026-11-21T10:00:00\n/y,2026-11-21T10:00:02.5\n", encoding="utf-8")
    assert read_requests(path) == (((0.0, "/x"), (2.5, "/y")), {}, False)


def test_the_sizes_of_a_trace(tmp_path: Path) -> None:
    """A key's largest counts, as an answer may be a part; one of which no line tells it is as large as the others are."""
    path = tmp_path / "trace.csv"
    path.write_text("time,key,size\n1.5,a,100\n2,a,900\n3,b,300\n4,a,\n5,c,\n6,c,\n7,a,0\n", encoding="utf-8")
    assert read_requests(path).sizes == {"a": 900, "b": 300, "c": 600}


def test_a_trace_of_whole_seconds(tmp_path: Path) -> None:
    """As access logs are: the requests of each are spread over it, in their order, the same whenever it is read."""
    path = tmp_path / "trace.csv"
    seconds = [1_700_000_000 + number // 40 for number in range(4_000)]
    for form in ("seconds", "ISO 8601"):
        told = [datetime.fromtimestamp(one, UTC).isoformat() if form == "ISO 8601" else str(one) for one in seconds]
        path.write_text("\n".join(["time,key", *(f"{one},{n}" for n, one in enumerate(told))]), encoding="utf-8")
        found = read_requests(path)
        assert found.spread
        assert found == read_requests(path)
        assert [key for _, key in found.requests] == [str(number) for number in range(4_000)]
        times = [time for time, _ in found.requests]
        assert all(earlier < later for earlier, later in pairwise(times))
        assert all(-1 < time - (one - seconds[0]) < 1 for time, one in zip(times, seconds, strict=True))
        parts = [later - earlier for earlier, later in pairwise(times)]
        assert fmean(parts) == pytest.approx(1 / 40, rel=0.05)
        assert stdev(parts) == pytest.approx(1 / 40, rel=0.2)  # as of what comes by chance
    path.write_text("time,key\n1,a\n2,b\n4,c\n", encoding="utf-8")
    assert read_requests(path) == (((0.0, "a"), (1.0, "b"), (3.0, "c")), {}, False)


def test_a_trace_of_whole_seconds_is_simulated_as_one_of_exact_times(tmp_path: Path) -> None:
    """Not as a burst at each second, which would take a container for each of its requests."""
    path, found = tmp_path / "trace.csv", []
    asked = list(open_loop(30.0, lasts=400, keys=100, seed=1))
    for times in ([time for time, _ in asked], [int(time) for time, _ in asked]):
        lines = [f"{time},{key}" for time, (_, key) in zip(times, asked, strict=True)]
        path.write_text("\n".join(["time,key", *lines]), encoding="utf-8")
        trace = read_requests(path).requests
        found.append(steady(Scenario(trace=trace, rate=None, l1=Freshness(10.0), l2=Freshness(50.0))))
    exact, spread = found
    assert spread.l1 == pytest.approx(exact.l1, abs=0.03)
    assert spread.containers <= exact.containers + 5


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("key\na\n", "its header must name a column 'timestamp' or 'time'; it names key"),
        ("time\n1\n", "its header must name a column 'key'; it names time"),
        ("time,key\nsoon,a\n", "Invalid isoformat string: 'soon'"),
        ("time,key,bytes\n1,a,many\n", "invalid literal"),
        ("time,key,bytes\n1\n", "trace must be a CSV file of requests"),
        ("time,key\ninf,a\n", "a time must be finite; got 'inf'"),
        ("time,key\nnan,a\n", "a time must be finite; got 'nan'"),
        (
            "timestamp,key\n1700000000007,a\n1700000000010,b\n",
            "timestamp must be ISO 8601 or seconds, at most 100,000,000,000; got '1700000000007', which may be milliseconds",
        ),
        pytest.param("time,key\n1," + 200_000 * "x" + "\n", "field larger than field limit", id="a long field"),
        ("time,key,size\n1,a,-5\n", "a size in bytes must be a whole number from 0"),
        pytest.param(f"time,key,size\n1,a,{400 * '9'}\n", "a size in bytes must be a whole number", id="a long size"),
        ("time,key\n", "trace must hold at least one request"),
    ],
)
def test_a_trace_that_cannot_be(tmp_path: Path, content: str, text: str) -> None:
    """The error names the file and what is wrong with it."""
    path = tmp_path / "trace.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        read_requests(path)
    with pytest.raises(ConfigurationError, match=r"trace\.csv"):
        read_requests(path)


def test_seeds_differ_by_little() -> None:
    """The noise of one run is small beside what is compared: hit rates of three seeds within two points."""
    rates = [steady(Scenario(requests=20_000), seed).l1 for seed in range(3)]
    assert max(rates) - min(rates) < 0.02 < fmean(rates)
