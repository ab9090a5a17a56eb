"""The simulated tiers answer as the real ones do, and their hit rates are those of the closed form."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiered_cache import MemoryTier, TieredCache
from tiered_cache.simulation import (
    Containers,
    Fleet,
    Freshness,
    Outcome,
    Request,
    Tiers,
    constant,
    expected_hit_rate,
    open_loop,
    replay,
    sessions,
    simulate,
)
from tiered_cache.simulation.fleet import Container
from tiered_cache.testing import FakeClock, InMemorySharedTier

L1_TTL, L2_TTL = 10.0, 25.0
AS_LONG_AS_IT_TAKES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def ask_real_caches(asked: list[tuple[int, int, str]], shared: InMemorySharedTier | None) -> list[str]:
    """Who answers, where each container is a real cache."""
    clock = FakeClock()
    caches = [
        TieredCache(MemoryTier(ttl=L1_TTL, jitter=0), shared, clock=clock, refresh="inline", namespace="fleet")
        for _ in range(3)
    ]
    answers = []
    for passing, number, key in asked:
        clock.advance(passing)
        answers.append(caches[number].get_entry_or_load(key, lambda: "value").tier)
    for cache in caches:
        cache.close()
    return answers


def ask_simulated(asked: list[tuple[int, int, str]], shared: Freshness | None) -> list[str]:
    containers = [Container(number, 0.0, 0.0) for number in range(3)]
    tiers = Tiers(Freshness(L1_TTL), shared)
    now, answers = 0.0, []
    for passing, number, key in asked:
        now += passing
        answers.append(tiers.look(containers[number], key, now))
    return answers


@AS_LONG_AS_IT_TAKES
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2), st.sampled_from("ab")), max_size=40), st.booleans())
def test_the_tiers_answer_as_real_caches_do(asked: list[tuple[int, int, str]], with_l2: bool) -> None:
    """The same requests at the same moments get their answers from the same tiers, with an L2 and without."""
    real = ask_real_caches(asked, InMemorySharedTier(ttl=L2_TTL, jitter=0) if with_l2 else None)
    assert real == ask_simulated(asked, Freshness(L2_TTL) if with_l2 else None)


def run(containers: int, routing: str, l1: Freshness, l2: Freshness | None, **traffic: Any) -> Outcome:
    seed = traffic["seed"]
    fleet = Fleet(Containers(most=10_000, warm=containers, routing=routing, idle_for="10d", max_age="10d"), seed)
    return simulate(open_loop(**traffic), fleet, Tiers(l1, l2, seed), constant("1ms"))


def within(samples: list[float], deviations: float = 4.0) -> float:
    """How far their mean may be from the true one."""
    return deviations * stdev(samples) / len(samples) ** 0.5


@pytest.mark.parametrize(("rate", "containers", "ttl"), [(2.0, 4, 1.0), (5.0, 5, 3.0), (20.0, 10, 4.0)])
def test_the_hit_rate_of_l1_is_that_of_the_closed_form(rate: float, containers: int, ttl: float) -> None:
    """Poisson arrivals of one key, random routing: x / (1 + x), where x = rate / containers * TTL, within four deviations."""
    rates = [
        # the first TTL and its empty caches weigh little: 100 times as long
        run(containers, "random", Freshness(ttl), None, rate=rate, lasts=100 * ttl, keys=1, seed=seed).l1_hit_rate
        for seed in range(16)
    ]
    x = rate / containers * ttl
    cold = 1 / (rate / containers * 100 * ttl)  # each container's first request has nothing to hit
    assert abs(fmean(rates) - x / (1 + x)) < within(rates) + cold


def test_the_hit_rate_over_many_keys() -> None:
    """Zipf: the closed form for each key, weighted with its share of the requests."""
    keys, rate, containers, ttl = 50, 30.0, 5, 5.0
    weights = [1 / (rank + 1) for rank in range(keys)]
    shares = [weight / sum(weights) for weight in weights]
    expected = sum(share * (x := share * rate / containers * ttl) / (1 + x) for share in shares)
    rates = [
        run(containers, "random", Freshness(ttl), None, rate=rate, lasts=400, keys=keys, seed=seed).l1_hit_rate
        for seed in range(12)
    ]
    assert abs(fmean(rates) - expected) < within(rates) + 0.01  # the empty caches at the beginning


def test_the_hit_rate_that_a_users_shares_lead_to() -> None:
    """`expected_hit_rate` of the shares that were seen is about the rate that was seen, under newest routing too.

    About, since there the requests of one container do not come by chance. The share of the newest is Erlang's: with the
    load a = rate * service it is idle, and so takes the event, with probability 1 / (1 + a), whatever the service times.
    """
    rate, ttl, service = 4.0, 3.0, 0.2
    shares, differences = [], []
    for seed in range(12):
        seen: list[Request] = []
        outcome = simulate(
            open_loop(rate, lasts=1_000, keys=1, seed=seed),
            Fleet(Containers(warm=20, idle_for="10d", max_age="10d"), seed),
            Tiers(Freshness(ttl), seed=seed),
            constant(service),
            lambda key, container, tier, _asked, _ended: seen.append(Request(key, container.number, tier == "l1")),
        )
        found = sessions(seen)
        assert found.l1_hit_rate == outcome.l1_hit_rate
        shares.append(found.mean_best_share)
        differences.append(found.l1_hit_rate - expected_hit_rate(list(found.shares[0].values()), rate, ttl))
    assert abs(fmean(shares) - 1 / (1 + rate * service)) < within(shares)
    assert abs(fmean(differences)) < 0.03


def test_l2_makes_the_loads_of_a_fleet_those_of_one() -> None:
    """However many containers: with an L2 a key is loaded once in its TTL, without one by each container."""
    options: dict[str, Any] = {"rate": 50.0, "lasts": 100, "keys": 1, "seed": 3}
    assert run(20, "random", Freshness(5), Freshness(10), **options).loads == 10
    assert run(20, "random", Freshness(5), None, **options).loads > 20 * 10


def test_l1_does_not_outlive_the_data() -> None:
    """Taken over from L2 when it was 8 s old, a value of 10 s is kept for 2 s more."""
    asked = [(0.0, "k"), (0.0, "other"), (8.0, "k"), (8.0, "k"), (9.9, "k"), (9.9, "k"), (10.1, "k")]
    tiers: list[tuple[int, str]] = []
    simulate(
        replay(asked),
        Fleet(Containers(routing="oldest", cold_start=0)),
        Tiers(Freshness(60), Freshness(10)),
        constant(0.01),
        lambda _key, container, tier, _asked, _ended: tiers.append((container.number, tier)),
    )
    assert tiers == [(0, "origin"), (1, "origin"), (0, "l1"), (1, "l2"), (0, "l1"), (1, "l1"), (0, "origin")]


def test_what_has_run_out_takes_no_room() -> None:
    """An L1 that is asked for ever new keys holds no more than about twice what is fresh."""
    container = Container(0, 0.0, 0.0)
    tiers = Tiers(Freshness(10.0))
    for now in range(10_000):
        tiers.look(container, now, float(now))
        assert len(container.held) <= 2 * 10 + 1
