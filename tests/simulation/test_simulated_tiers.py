"""The simulated tiers answer as the real ones do, and their hit rates are those of the closed form."""

from __future__ import annotations

import re
from collections.abc import Callable
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiered_cache import ConfigurationError, MemoryTier, TieredCache
from tiered_cache.simulation import (
    Containers,
    Fleet,
    Freshness,
    Outcome,
    Request,
    Tiers,
    Time,
    Timings,
    constant,
    expected_hit_rate,
    open_loop,
    replay,
    sessions,
    simulate,
)
from tiered_cache.simulation.fleet import Container
from tiered_cache.simulation.tiers import REFRESHES
from tiered_cache.testing import FakeClock, InMemorySharedTier

AS_LONG_AS_IT_TAKES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class AfterTheAnswer(list[Callable[[], object]]):
    """Takes refreshes, which are run when the caller has its answer."""

    submit = list.append

    def run(self) -> None:
        while self:
            self.pop()()


def ask_real_caches(
    asked: list[tuple[int, int, str]], l1: Freshness, l2: Freshness | None, refresh: str
) -> tuple[list[tuple[str, bool]], int]:
    """Who answers, and whether with something stale, where each container is a real cache; and the loads."""
    clock, after, loads = FakeClock(), AfterTheAnswer(), []
    shared = None if l2 is None else InMemorySharedTier(ttl=l2.ttl, stale_while_revalidate=l2[1], jitter=0)
    caches = [
        TieredCache(
            MemoryTier(ttl=l1.ttl, stale_while_revalidate=l1.stale_while_revalidate, jitter=0),
            shared,
            clock=clock,
            refresh="inline" if refresh == "inline" else after,
            namespace="fleet",
        )
        for _ in range(3)
    ]
    answers = []
    for passing, number, key in asked:
        clock.advance(passing)
        answer = caches[number].get_entry_or_load(key, lambda: loads.append(1))
        answers.append((answer.tier, answer.stale))
        after.run()
    for cache in caches:
        cache.close()
    return answers, len(loads)


def ask_simulated(
    asked: list[tuple[int, int, str]], l1: Freshness, l2: Freshness | None, refresh: str
) -> tuple[list[tuple[str, bool]], int]:
    containers = [Container(number, 0.0, 0.0) for number in range(3)]
    tiers = Tiers(l1, l2, refresh=refresh)
    now, answers = 0.0, []
    for passing, number, key in asked:
        now += passing
        stale = tiers.stale
        tier, _, _ = tiers.read(containers[number], key, now)
        answers.append((tier, tiers.stale > stale))
    return answers, tiers.loads + tiers.refreshes


windows = st.sampled_from([0.0, 7.0])


@AS_LONG_AS_IT_TAKES
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2), st.sampled_from("ab")), max_size=40),
    st.builds(Freshness, st.just(10.0), windows, st.just(0.0), st.just(0.0)),
    st.none() | st.builds(Freshness, st.sampled_from([6.0, 25.0]), windows, st.just(0.0), st.just(0.0)),
    st.sampled_from(REFRESHES),
)
def test_the_tiers_answer_as_real_caches_do(
    asked: list[tuple[int, int, str]], l1: Freshness, l2: Freshness | None, refresh: str
) -> None:
    """The same requests at the same moments get their answers from the same tiers, fresh or stale, by as many loads."""
    assert ask_real_caches(asked, l1, l2, refresh) == ask_simulated(asked, l1, l2, refresh)


def read_in(tiers: Tiers, *asked: tuple[float, int]) -> list[tuple[str, float, float]]:
    """What reads of one key come to, at these times in the containers of these numbers."""
    containers = [Container(number, 0.0, 0.0) for number in range(5)]
    return [tiers.read(containers[number], "k", now) for now, number in asked]


def timings(l1: float = 0.0, l2: float = 0.0, origin: float = 0.0) -> Timings:
    return Timings(l1=l1, l2=Time(l2), origin=Time(origin))


def test_a_miss_pays_for_each_tier() -> None:
    """L2 is asked, the origin loads, L2 stores; then L2 answers one container, and L1 the other."""
    tiers = Tiers(Freshness(60), Freshness(600), timings=timings(0.25, 1, 8), coherence="ttl")
    assert read_in(tiers, (0, 0), (20, 1), (20, 0)) == [("origin", 10, 0), ("l2", 1, 0), ("l1", 0.25, 0)]
    assert (tiers.l2_looks, tiers.l2_reads, tiers.l2_found, len(tiers.shared)) == (0, 2, 1, 1)


def test_each_invocation_looks() -> None:
    """A round trip of its own where L1 answers, fresh or stale; along with the read where L2 is asked anyway."""
    tiers = Tiers(Freshness(60, 60), Freshness(600), timings=timings(0.25, 1, 8), refresh="after_response")
    answers = read_in(tiers, (0, 0), (20, 1), (20, 0), (70, 0))
    assert answers == [("origin", 10, 0), ("l2", 1, 0), ("l1", 1.25, 0), ("l1", 1.25, 1)]
    assert (tiers.l2_looks, tiers.l2_reads) == (4, 3)
    alone = Tiers(Freshness(60), timings=timings(0.25, 1, 8))
    assert read_in(alone, (0, 0), (20, 0)) == [("origin", 8, 0), ("l1", 0.25, 0)]
    assert alone.l2_looks == 0


def test_a_miss_after_a_hit_asks_twice() -> None:
    """What has just had its value from L2 asks for the next alone; where there is none, for the lease. As the library does."""
    tiers = Tiers(Freshness(1), Freshness(30), timings=timings(0, 1, 8), coherence="ttl")
    answers = read_in(tiers, (0, 0), (15, 1), (50, 1), (90, 1))
    assert answers == [("origin", 10, 0), ("l2", 1, 0), ("origin", 11, 0), ("origin", 10, 0)]
    assert (tiers.l2_reads, tiers.l2_found) == (5, 1)


def test_a_load_that_outlives_its_data_serves_nobody_else() -> None:
    """Each that waits for it finds that it has run out, and loads, one after the other; as the library does."""
    tiers = Tiers(Freshness(5), Freshness(5), timings=timings(0, 0, 15))
    assert read_in(tiers, (0, 0), (1, 1), (2, 2)) == [("origin", 15, 0), ("origin", 29, 0), ("origin", 43, 0)]
    assert (tiers.loads, tiers.waited, tiers.l2_found) == (3, 2, 0)
    stale = Tiers(Freshness(5), Freshness(5, 60), timings=timings(0, 0, 15))
    assert read_in(stale, (0, 0), (1, 1)) == [("origin", 15, 0), ("l2", 14, 0)]
    assert (stale.loads, stale.waited, stale.stale) == (1, 1, 1)


def test_the_fleet_waits_for_one_load() -> None:
    """A query of three minutes: who comes meanwhile waits for the rest of it, asks again, and has it in L1 then."""
    tiers = Tiers(Freshness(60), Freshness(600), timings=timings(0, 1, 180), coherence="ttl")
    answers = read_in(tiers, (0, 0), (60, 1), (180, 2), (182, 3), (200, 1))
    assert answers == [("origin", 182, 0), ("l2", 123, 0), ("l2", 3, 0), ("l2", 1, 0), ("l1", 0, 0)]
    assert (tiers.loads, tiers.waited) == (1, 2)


def test_without_l2_each_container_loads() -> None:
    """Nobody knows of the others."""
    tiers = Tiers(Freshness(600), timings=timings(0, 1, 180))
    assert read_in(tiers, (0, 0), (60, 1), (300, 0)) == [("origin", 180, 0), ("origin", 180, 0), ("l1", 0, 0)]


def test_who_has_something_stale_does_not_wait() -> None:
    """Within the window the one that gets the lease loads, and the others have the old value; past it they wait."""
    tiers = Tiers(Freshness(60), Freshness(600, 300), timings=timings(0, 1, 180))
    answers = read_in(tiers, (0, 0), (700, 1), (710, 2), (890, 3), (1601, 2), (1610, 4))
    assert answers == [
        ("origin", 182, 0),  # loaded from 1 on: fresh until 601, stale until 901
        ("origin", 183, 0),  # found it stale, had the lease, loaded
        ("l2", 2, 0),  # found it stale, had no lease
        ("l2", 1, 0),  # what was loaded from 701 on: fresh until 1301, stale until 1601
        ("origin", 183, 0),  # asked for what it found the last time, then for the lease
        ("l2", 175, 0),
    ]
    assert (tiers.loads, tiers.stale, tiers.waited) == (3, 1, 1)


def test_a_refresh_after_the_answer_keeps_the_container_busy() -> None:
    """The caller has the stale value at once; the next event finds the container busy, and goes to another."""
    tiers = Tiers(Freshness(10, 20), timings=timings(0.5, 0, 8), refresh="after_response")
    seen: list[tuple[int, str, float]] = []
    fleet = Fleet(Containers(routing="oldest", cold_start=0))
    simulate(
        replay([(0.0, "k"), (15.0, "k"), (16.0, "k"), (24.5, "k")]),
        fleet,
        tiers,
        constant(1),
        lambda _key, container, tier, asked, ended: seen.append((container.number, tier, ended - asked)),
    )
    assert seen == [(0, "origin", 9.0), (0, "l1", 1.5), (1, "origin", 9.0), (0, "l1", 1.5)]
    assert fleet.billed_ms == 9_000 + 9_500 + 9_000 + 1_500
    assert (tiers.loads, tiers.refreshes, tiers.stale) == (2, 1, 1)


def test_the_times_that_are_drawn() -> None:
    """Half of them are below the median, nine in ten below the ninth decile; zero is zero."""
    drawn = Time.through(0.01, 0.03).drawn(1)
    times = sorted(drawn() for _ in range(20_001))
    assert times[10_000] == pytest.approx(0.01, rel=0.05)
    assert times[18_000] == pytest.approx(0.03, rel=0.05)
    assert Time(0.0, 2.0).drawn(1)() == 0.0


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Time(-1), "median must be a finite duration zero or more"),
        (lambda: Time(1, -1), "spread must be a finite number of zero or more"),
        (lambda: Timings(l1="soon"), "l1 must be a finite duration"),
        (lambda: Tiers(Freshness(1), refresh="later"), "refresh must be one of inline, after_response; got 'later'"),
        (lambda: Tiers(Freshness(1), coherence="5s"), "coherence must be one of invocation, ttl; got '5s'"),
    ],
)
def test_an_option_that_cannot_be(make: Any, text: str) -> None:
    """The error names the option, what was given, and what is allowed."""
    with pytest.raises(ConfigurationError, match=re.escape(text)):
        make()


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


@pytest.mark.parametrize("l2", [None, Freshness(30.0)])
def test_what_has_run_out_takes_no_room(l2: Freshness | None) -> None:
    """An L1 that is asked for ever new keys holds no more than about twice what is fresh, or may be confirmed by L2."""
    container = Container(0, 0.0, 0.0)
    tiers = Tiers(Freshness(10.0), l2)
    for now in range(10_000):
        tiers.read(container, now, float(now))
        assert len(container.held) <= 2 * (10 if l2 is None else 30) + 1


def test_what_l2_confirms() -> None:
    """The value that L1 took over is confirmed as long as it lives, whatever was swept; another's load is not, nor a new one."""
    tiers = Tiers(Freshness(1), Freshness(100), coherence="ttl")
    here, other = Container(0, 0.0, 0.0), Container(1, 0.0, 0.0)
    tiers.read(here, "k", 0)
    for now in range(1, 51):
        tiers.read(here, f"{now}", now)  # so many that the L1 is swept, again and again
    assert (dict(tiers.sent), dict(tiers.confirmed), tiers.loaded["k"]) == ({}, {}, 1)
    for now, container in ((50, here), (60, other), (70, other), (90, here), (101, here), (105, here)):
        tiers.read(container, "k", now)
    assert (dict(tiers.sent), dict(tiers.confirmed), tiers.loaded["k"]) == ({"k": 1}, {"k": 4}, 2)
    assert tiers.l2_found == 5
    within = Tiers(Freshness(1, 5), Freshness(100), coherence="ttl")
    read_in(within, (0, 0), (2, 0))
    assert (dict(within.sent), dict(within.confirmed)) == ({"k": 1}, {})  # a refresh asks for value and lease
