"""What a fleet gets from L1 and L2 as traffic grows, and from which traffic on a Redis pays: simulated, at example prices."""

from dataclasses import replace
from itertools import product
from statistics import median

from tiered_cache.benchmarks.harness import Result, figure, shown
from tiered_cache.benchmarks.progress import turns
from tiered_cache.simulation import (
    ROUTINGS,
    Containers,
    Freshness,
    Scenario,
    Time,
    Timings,
    Workload,
    monthly,
    pays_from,
    read_prices,
    steady,
)

TTLS = (30.0, 300.0)
AXIS = "requests a second"
UNIT = "requests/s"
ORIGINS = {"DynamoDB": ("dynamodb", 0.008), "S3": ("s3", 0.04), "Athena": ("athena", 10.0)}
"""With the median seconds of a load: guesses, for the figures here alone."""


def scenario(rate, ttl, routing="random", requests=100_000):
    """1,000 keys by Zipf's law, 20 ms of work for each event; L1 asks L2 five times in the life of the data."""
    return Scenario(
        rate=rate,
        containers=Containers(routing=routing),
        l1=Freshness(ttl / 5, jitter=0.1),
        l2=Freshness(ttl, jitter=0.1),
        timings=Timings(l1=2e-6, l2=Time(0.001, 0.3), origin=Time(ORIGINS["DynamoDB"][1], 0.5)),
        requests=requests,
    )


def by_rate(*, quick):
    """Hit rates, origin calls, latency and cost over the rate, for two TTLs, with L2 and without."""
    rates = (10, 100) if quick else (3, 10, 30, 100, 300, 1_000)
    prices, workload = read_prices(), Workload()
    print(
        f"\nA fleet over its traffic: 1,000 keys, random routing, DynamoDB; costs at example prices, in {prices.currency}"
    )
    heads = ("L1", "L2", "origin", "calls/s", "p50", "p99", "month", "Redis", "1M requests")
    print(f"  {'':28}{''.join(f'{head:>12}' for head in heads)}")
    results = []
    cases = list(product(rates, TTLS, (False, True)))
    for turn in turns(len(cases)):
        rate, ttl, with_l2 = cases[turn]
        one = scenario(rate, ttl, requests=5_000 if quick else 100_000)
        found = steady(one if with_l2 else one.without_l2())
        costs = monthly(found.usage, prices, workload, with_l2=with_l2)
        million = costs.total / (rate * 730 * 3600) * 1e6
        name = f"TTL {ttl:g} s, {'with' if with_l2 else 'without'} L2"
        columns = [shown(share, "share") for share in (found.l1, found.l2, found.origin)]
        columns += [f"{found.origin_rate:.3g}", shown(found.p50, "s"), shown(found.p99, "s")]
        columns += [f"{costs.total:,.2f}", f"{costs.redis:,.2f}", f"{million:.2f}"]
        print(f"  {f'{rate:,}/s, {name}':28}{''.join(f'{column:>12}' for column in columns)}")
        for what, value, unit, better in (
            ("L1's hit rate in a fleet", found.l1, "share", "more"),
            ("What the origin sees of a fleet's requests", found.origin_rate / rate, "share", "less"),
            ("The p99 of a fleet's answers", found.p99, "s", "less"),
            ("What a million requests cost at example prices, cents", million * 100, "cents", "less"),
        ):
            results.append(point(what, rate, name, value, unit, better=better))
    return results


def by_routing(*, quick):
    """L1's hit rate over the rate by how events are routed, with an L2."""
    rates = (10, 100) if quick else (3, 10, 30, 100, 300)
    what = "L1's hit rate by routing, TTL 300 s with an L2"
    print(f"\n{what}, quartiles of the containers in brackets")
    print(f"  {'':10}{''.join(f'{rate:>18,}/s' for rate in rates)}")
    results = []
    for turn in turns(len(ROUTINGS)):
        routing = ROUTINGS[turn]
        cells = []
        for rate in rates:
            found = steady(scenario(rate, 300.0, routing, 5_000 if quick else 100_000))
            low, _, high = found.l1_by_container
            cells.append(f"{found.l1:.0%} ({low:.0%} to {high:.0%})")
            results.append(point(what, rate, routing, found.l1, "share"))
        print(f"  {routing:10}{''.join(f'{cell:>20}' for cell in cells)}")
    return results


def point(what, rate, name, value, unit, **facts):
    return figure(f"{what}, {rate:,}/s", name, value, unit, curve=what, at=rate, axis=AXIS, **facts)


def paying(*, quick):
    """From which traffic on a Redis pays: by origin, TTL, routing and kind of Redis, for some seeds each."""
    seeds, high = ((1, 2), 100.0) if quick else ((1, 2, 3), 1_000.0)
    group = "Requests a second from which on a Redis pays, at example prices"
    print(f"\n{group}: the median of {len(seeds)} seeds, and their range")
    prices, results = read_prices(), []
    ttls, kinds = (TTLS[:1], ("serverless",)) if quick else (TTLS, ("serverless", "nodes"))
    cases = list(product(ORIGINS, ttls, ("newest", "random"), kinds))
    for turn in turns(len(cases)):
        origin, ttl, routing, redis = cases[turn]
        kind, seconds = ORIGINS[origin]
        workload = Workload(origin=kind, redis=redis)
        one = scenario(1.0, ttl, routing, 2_000 if quick else 50_000)
        one = replace(one, timings=replace(one.timings, origin=Time(seconds, 0.5)))
        found = [pays_from(one, prices, workload, seed, low=0.01, high=high) for seed in seeds]
        row = paying_from(group, f"{origin}, TTL {ttl:g} s, {routing}, {redis}", found, high)
        low, middle, most = (shown(rate, row.unit) for rate in (row.low, row.median, row.high))
        print(f"  {row.name:44}{middle:>10} ({low} to {most})  {row.note}".rstrip())
        results.append(row)
    return results


def paying_from(group, name, found, high):
    """The result of some runs: the rate of each, or None where the Redis does not pay up to `high`, which then stands for it."""
    never = found.count(None)
    note = f"not up to {shown(high, UNIT)} in {never} of {len(found)} runs" if never else ""
    rates = [high if rate is None else rate for rate in found]
    spread = {"low": min(rates), "high": max(rates), "n": len(rates), "per": "seed"}
    return Result(group=group, name=name, unit=UNIT, median=median(rates), note=note, **spread)
