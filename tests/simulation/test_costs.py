"""Costs are the user's prices times what was used, checked by hand; and a file of prices that cannot be is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tiered_cache import ConfigurationError
from tiered_cache._l2 import store
from tiered_cache.simulation import Containers, Freshness, Time, Timings
from tiered_cache.simulation.costs import (
    EXAMPLE,
    LARGE,
    MONTH,
    Costs,
    Prices,
    Sized,
    Usage,
    Workload,
    a_load,
    monthly,
    read_prices,
)
from tiered_cache.simulation.scenario import Scenario, steady

ROUND = """
currency = "EUR"
[lambda]
gb_second = 0.01
million_requests = 2
[dynamodb]
million_read_units = 3
[s3]
thousand_gets = 4
[athena]
terabyte = 5
least_megabytes = 10
[elasticache_serverless]
gb_hour = 0.6
least_gb = 0.5
million_ecpus = 7
[elasticache_nodes]
node_hour = 0.8
nodes = 2
"""


@pytest.fixture
def prices(tmp_path: Path) -> Prices:
    return read_prices(written(tmp_path, ROUND))


def written(folder: Path, content: str) -> Path:
    path = folder / "prices.toml"
    path.write_text(content, encoding="utf-8")
    return path


def test_the_example_can_be_read_and_says_what_it_is() -> None:
    """It is shipped, has every entry, and asks to be replaced."""
    assert read_prices().currency == "$"
    assert EXAMPLE.read_text(encoding="utf-8").startswith("# An EXAMPLE, to be replaced by your own prices")


@pytest.mark.parametrize(
    ("workload", "expected"),
    [
        (Workload(origin="dynamodb", value_size=4096), 1.5e-6),  # half a unit
        (Workload(origin="dynamodb", value_size=4097), 3e-6),
        (Workload(origin="dynamodb", value_size=4097, consistent=True), 6e-6),
        (Workload(origin="s3", value_size="1 MB"), 4e-3),
        (Workload(origin="athena", scanned="1 GB"), 5e-3),
        (Workload(origin="athena", scanned="1 kB"), 5e-5),  # the least that is charged: 10 MB
        (Workload(origin="free"), 0.0),
    ],
)
def test_what_a_load_costs(prices: Prices, workload: Workload, expected: float) -> None:
    """By the origin's own unit."""
    assert a_load(prices, workload) == pytest.approx(expected)


def test_a_month_by_hand(prices: Prices) -> None:
    """73 hours are a tenth of a month: ten times what was used, and the Redis for 730 hours."""
    usage = Usage(
        73 * 3600,
        requests=2e5,
        billed_ms=3e6,
        origin_loads=5e4,
        l2_looks=2e4,
        l2_reads=1e5,
        l2_found=6e4,
        l2_confirmed=1e4,
        l2_writes=5e4,
    )
    workload = Workload(memory_mb=2048, origin="s3", value_size=2048)
    costs = monthly(usage._replace(l2_keys=1e6), prices, workload, with_l2=True)
    ecpus = 10 * ((6e4 + 5e4) * (2048 + 100) / 1024 + 4e4 + 2e4)
    stored = 1e6 * (2048 + 230) / 1e9
    assert costs == pytest.approx(Costs(600.0, 4.0, 2000.0, 730 * stored * 0.6 + ecpus / 1e6 * 7))
    assert costs.total == pytest.approx(sum(costs))
    assert monthly(usage, prices, workload, with_l2=True).redis == pytest.approx(730 * 0.5 * 0.6 + ecpus / 1e6 * 7)
    assert monthly(usage, prices, Workload(redis="nodes"), with_l2=True).redis == pytest.approx(730 * 2 * 0.8)
    assert monthly(usage, prices, workload, with_l2=False).redis == 0.0


def test_a_tiny_run_by_hand(prices: Prices) -> None:
    """Four requests for one key in a hundred seconds: every millisecond, load and ECPU of them."""
    scenario = Scenario(
        trace=[(0.0, "k"), (20.0, "k"), (95.0, "k"), (100.0, "k")],
        rate=None,
        service=0.1,
        spread=0.0,
        containers=Containers(cold_start=0.5),
        l1=Freshness(10.0),
        l2=Freshness(60.0),
        timings=Timings(l2=Time(0.01), origin=Time(2.0)),
    )
    assert scenario.spans == (20.0, 80.0)
    figures = steady(scenario)
    # 20 s: L2. 95 s: all tiers, 10 ms to ask, 10 ms for the lease, 2 s, 10 ms to store. 100 s: L1, 10 ms to look
    used = {"l2_looks": 3, "l2_reads": 3, "l2_found": 1, "l2_confirmed": 1, "l2_writes": 1, "l2_keys": 1}
    assert figures.usage == Usage(80.0, 3, 110 + 2130 + 110, 1, **used)
    assert (figures.l1, figures.l2, figures.origin) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert (figures.p50, figures.p99) == pytest.approx((0.11, 2.13))
    costs = monthly(figures.usage, prices, Workload(memory_mb=1024, origin="s3", value_size=100), with_l2=True)
    months = MONTH / 80
    redis = 730 * 0.5 * 0.6 + months * (3 + 2 + 2) / 1e6 * 7  # looks, found and stored, asked for in vain
    assert costs == pytest.approx(Costs(months * 2.35 * 0.01, months * 3 / 1e6 * 2, months * 4e-3, redis))


def test_a_large_value_that_l1_still_holds_is_not_sent_again(prices: Prices) -> None:
    """From the library's own size on L2 confirms it by its header, which is one ECPU; below, it is sent."""
    assert LARGE == store.LARGE
    usage = Usage(MONTH, 1e6, 0.0, 0.0, l2_reads=1e6, l2_found=1e6, l2_confirmed=9e5)
    dear = prices._replace(serverless=replace(prices.serverless, gb_hour=0.0))

    def ecpus(value_size: int) -> float:
        return monthly(usage, dear, Workload(origin="s3", value_size=value_size), with_l2=True).redis / 7 * 1e6

    assert ecpus(LARGE - 1) == pytest.approx(1e6 * (LARGE - 1 + 100) / 1024)
    assert ecpus(LARGE) == pytest.approx(1e5 * (LARGE + 100) / 1024 + 9e5)


def test_each_key_has_its_own_size(prices: Prices) -> None:
    """A large value that is seldom asked for is stored, sent and loaded as what it is, not as the mean of the requests."""
    sizes = {"hot": 100, "large": 500_000}
    trace = [(float(now), "large" if now in {1, 50, 65} else "hot") for now in range(100)]
    scenario = Scenario(
        trace=trace,
        rate=None,
        sizes=sizes,
        service=1e-6,
        containers=Containers(cold_start=0, max_age="1d"),
        l1=Freshness(10.0),
        l2=Freshness(40.0),
    )
    usage = steady(scenario).usage
    # counted from 19.8 s on. 50 s: large is loaded, hot has been at 40; 65 s: it is confirmed, as hot is five times
    assert usage.sized == Sized(500_100, pytest.approx((500_100 / 1024 + 1) + 2 + (usage.l2_confirmed - 1)), 2 + 123)
    assert (usage.origin_loads, usage.l2_found, usage.l2_keys) == (3, usage.l2_confirmed, 2)
    dear = prices._replace(serverless=replace(prices.serverless, least_gb=0.0))
    costs = monthly(usage, dear, Workload(value_size=1), with_l2=True)
    months = MONTH / usage.seconds
    assert costs.origin == pytest.approx(months * 125 / 2 / 1e6 * 3)
    ecpus = usage.sized.l2_kilobytes + usage.l2_looks + usage.l2_reads - usage.l2_found if usage.sized else 0
    assert costs.redis == pytest.approx(730 * (500_100 + 2 * 230) / 1e9 * 0.6 + months * ecpus / 1e6 * 7)
    alike = steady(replace(scenario, sizes=dict.fromkeys(sizes, 5_000))).usage
    for origin in ("dynamodb", "s3"):
        workload = Workload(origin=origin, value_size=5_000)
        found = [monthly(one, dear, workload, with_l2=True) for one in (alike, alike._replace(sized=None))]
        assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            ("gb_second = 0.01", ""),
            "[lambda] in {} must have gb_second, million_requests, and nothing else; it has no gb_second",
        ),
        (("[s3]", "[s4]"), "and nothing else; it has no s3 and also s4"),
        (("terabyte = 5", "terabyte = -5"), "athena.terabyte in {} must be a finite number of zero or more; got -5"),
        (
            ("terabyte = 5", "terabyte = 'five'"),
            "athena.terabyte in {} must be a finite number of zero or more; got 'five'",
        ),
        (("terabyte = 5", "terabyte = inf"), "athena.terabyte in {} must be a finite number"),
        (("nodes = 2", "nodes = 2\nzones = 3"), "and nothing else; it has also zones"),
        (('"EUR"', "1"), "currency must be text such as '$', in {}; got 1"),
        (("[s3]\nthousand_gets = 4", ""), "it has no s3"),
        (("[lambda]", "[lambda"), "prices must be a file of TOML"),
    ],
)
def test_prices_that_cannot_be(tmp_path: Path, change: tuple[str, str], text: str) -> None:
    """The error names the entry, what was given, and what is allowed."""
    path = written(tmp_path, ROUND.replace(*change))
    with pytest.raises(ConfigurationError, match=re.escape(text.format(path))):
        read_prices(path)


def test_a_table_that_is_a_number(tmp_path: Path) -> None:
    """It is said that a table is meant."""
    path = written(tmp_path, "s3 = 4\n" + ROUND.replace("[s3]\nthousand_gets = 4", ""))
    with pytest.raises(ConfigurationError, match=r"s3 must be a table, \[s3\], in .*; got 4"):
        read_prices(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The error names it, and where an example is."""
    with pytest.raises(
        ConfigurationError, match=r"prices must be a file of TOML such as .*prices.toml; got .*absent.toml"
    ):
        read_prices(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"memory_mb": 64}, "memory_mb must be a whole number of at least 128; got 64"),
        ({"memory_mb": 20_000}, "memory_mb must be at most 10240; got 20000"),
        ({"origin": "mongo"}, "origin must be one of dynamodb, s3, athena, free; got 'mongo'"),
        ({"redis": "cloud"}, "redis must be one of serverless, nodes; got 'cloud'"),
        ({"value_size": "large"}, "value_size must be a size"),
        ({"scanned": 0}, "scanned must be a size"),
    ],
)
def test_a_workload_that_cannot_be(options: dict[str, Any], text: str) -> None:
    """The error names the option, what was given, and what is allowed."""
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        Workload(**options)
