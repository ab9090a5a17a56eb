"""The simulated fleet keeps to what is known of Lambda's, whatever the traffic: the properties, and each option once."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiered_cache import ConfigurationError
from tiered_cache.simulation import (
    ROUTINGS,
    Container,
    Containers,
    Experiment,
    Fleet,
    Freshness,
    Outcome,
    Tier,
    Tiers,
    closed_loop,
    constant,
    lognormal,
    open_loop,
    replay,
    sessions,
    simulate,
)
from tiered_cache.simulation.traffic import pauses

COLD_START = 0.25
AS_LONG_AS_IT_TAKES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Event(NamedTuple):
    container: Container
    key: Any
    tier: Tier
    asked: float
    ended: float

    @property
    def started(self) -> float:
        return max(self.asked, self.container.ready_at)


def run(traffic: Any, containers: Containers, service: Any, *, seed: int = 0) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []

    def watch(key: Any, container: Container, tier: Tier, asked: float, ended: float) -> None:
        events.append(Event(container, key, tier, asked, ended))

    tiers = Tiers(Freshness(3.0, jitter=0.1), Freshness(8.0, jitter=0.1), seed)
    return simulate(traffic, Fleet(containers, seed), tiers, service, watch), events


def numbers(traffic: Any, containers: Containers, seconds: float = 1.0) -> list[int]:
    """Which container took each event."""
    return [event.container.number for event in run(traffic, containers, constant(seconds))[1]]


seeds = st.integers(0, 10_000)
fleets = st.builds(
    lambda most, warm, **options: Containers(most=most, warm=min(warm, most), **options),
    most=st.integers(1, 12),
    warm=st.integers(0, 12),
    routing=st.sampled_from(ROUTINGS),
    cold_start=st.sampled_from([0, COLD_START, 2.0]),
    idle_for=st.sampled_from([0.2, 1.0, 30.0]),
    max_age=st.sampled_from([0.5, 3.0, 60.0]),
)
services = st.builds(
    lambda median, sigma, seed: lognormal(median, sigma, seed),
    st.sampled_from([0.01, 0.3, 2.0]),
    st.floats(0, 1),
    seeds,
)
closed = st.builds(
    lambda users, pause, together, seed: closed_loop(users, pause=pause, lasts=8, together=together, seed=seed),
    st.integers(1, 10),
    st.sampled_from([0, 0.5, 3.0]),
    st.booleans(),
    seeds,
)
opened = st.builds(
    lambda rate, keys, skew, seed: open_loop(rate, lasts=8, keys=keys, skew=skew, seed=seed),
    st.floats(0.5, 30),
    st.integers(1, 50),
    st.floats(0, 2),
    seeds,
)
recorded = st.lists(st.tuples(st.floats(0, 20), st.integers(0, 5)), max_size=60).map(
    lambda asked: replay(sorted(asked))
)
traffics = st.one_of(closed, opened, recorded)


@AS_LONG_AS_IT_TAKES
@given(traffics, fleets, services, seeds)
def test_a_container_has_one_event_at_a_time(traffic: Any, containers: Containers, service: Any, seed: int) -> None:
    """The next one starts when the last has ended, or later; and none starts before the container is ready."""
    _, events = run(traffic, containers, service, seed=seed)
    by_container: dict[int, list[Event]] = {}
    for event in events:
        by_container.setdefault(event.container.number, []).append(event)
        assert event.container.created <= event.asked
        assert event.container.ready_at <= event.started < event.ended
    for own in by_container.values():
        assert all(earlier.ended <= later.asked for earlier, later in pairwise(own))


@AS_LONG_AS_IT_TAKES
@given(traffics, fleets, services, seeds)
def test_nobody_is_served_by_a_container_that_is_gone(
    traffic: Any, containers: Containers, service: Any, seed: int
) -> None:
    """No event comes after the idle time, or after the age, has passed; one that runs is never cut short."""
    outcome, events = run(traffic, containers, service, seed=seed)
    free_at = {container.number: container.ready_at for container in outcome.fleet.containers}
    for event in events:
        container = event.container
        assert event.ended <= container.gone_at
        if event.asked > container.created:  # not the event that it was made for
            assert event.asked < max(free_at[container.number], container.created + float(containers.max_age))
            assert event.asked < free_at[container.number] + float(containers.idle_for)
        free_at[container.number] = event.ended


@AS_LONG_AS_IT_TAKES
@given(traffics, fleets, services, seeds)
def test_there_are_never_more_than_most(traffic: Any, containers: Containers, service: Any, seed: int) -> None:
    """At no event are more containers alive; and one is refused only if as many as there may be are busy."""
    outcome, events = run(traffic, containers, service, seed=seed)
    assert outcome.fleet.peak <= containers.most
    made = outcome.fleet.containers
    for now in {event.asked for event in events}:
        assert sum(one.created <= now < one.gone_at for one in made) <= containers.most
    if outcome.refused:
        assert any(
            sum(other.asked <= event.asked < other.ended for other in events) == containers.most for event in events
        )


@AS_LONG_AS_IT_TAKES
@given(traffics, fleets, services, seeds)
def test_no_request_is_lost(traffic: Any, containers: Containers, service: Any, seed: int) -> None:
    """Each is answered by one tier in one container, or refused; all ways of counting agree."""
    outcome, events = run(traffic, containers, service, seed=seed)
    made = outcome.fleet.containers
    assert outcome.requests == len(events) + outcome.refused
    assert outcome.answered == len(events) == sum(one.requests for one in made)
    tiers = Counter(event.tier for event in events)
    assert (tiers["l1"], tiers["l2"], tiers["origin"]) == (outcome.l1_hits, outcome.l2_hits, outcome.loads)
    assert outcome.l1_hits == sum(one.l1_hits for one in made)
    assert len(made) == containers.warm + outcome.cold_starts
    assert outcome.fleet.busy_seconds == pytest.approx(sum(event.ended - event.asked for event in events))


@AS_LONG_AS_IT_TAKES
@given(st.sampled_from(ROUTINGS), st.booleans(), st.floats(0, 1), seeds)
def test_the_same_seed_gives_the_same_run(routing: str, together: bool, sigma: float, seed: int) -> None:
    """Event by event; and another seed gives another run."""

    def events(seed: int) -> list[tuple[Any, ...]]:
        traffic = closed_loop(5, pause=1, lasts=10, together=together, seed=seed)
        containers = Containers(routing=routing, most=4)
        return [
            (event.container.number, *event[1:])
            for event in run(traffic, containers, lognormal(0.1, sigma, seed), seed=seed)[1]
        ]

    assert events(seed) == events(seed)
    assert events(seed) != events(seed + 1)


@AS_LONG_AS_IT_TAKES
@given(traffics, fleets, services, seeds)
def test_a_container_is_made_only_when_none_is_idle(
    traffic: Any, containers: Containers, service: Any, seed: int
) -> None:
    """At a cold start each container that is there has an event."""
    outcome, events = run(traffic, containers, service, seed=seed)
    for order, event in enumerate(events):
        container = event.container
        if container.created != event.asked or container.number < containers.warm:
            continue
        before = events[:order]
        there = [one for one in outcome.fleet.containers if one.number < container.number and event.asked < one.gone_at]
        assert all(any(other.container is one and event.asked < other.ended for other in before) for one in there)


# Each policy, on three containers that become idle in the order 1, 2, 0


def order_of(routing: str) -> list[int]:
    """The containers that three events take, which come while all three are idle."""
    ends = {0: 3.0, 1: 1.0, 2: 2.0}
    fleet = Fleet(Containers(routing=routing, cold_start=0))
    for end in ends.values():
        container = fleet.begin(0.0)
        assert container is not None
        fleet.end(container, end)
    taken = []
    for _ in ends:
        container = fleet.begin(5.0)
        assert container is not None
        taken.append(container.number)
        fleet.end(container, 6.0)
    return taken


@pytest.mark.parametrize(
    ("routing", "expected"),
    [("newest", [2, 1, 0]), ("oldest", [0, 1, 2]), ("recent", [0, 2, 1]), ("rested", [1, 2, 0])],
)
def test_the_order_of_a_policy(routing: str, expected: list[int]) -> None:
    """Newest and oldest go by creation, recent and rested by the end of the last event."""
    assert order_of(routing) == expected


def test_random_takes_each_idle_container_alike() -> None:
    """Over 8,000 events each of 8 containers is within four deviations of 1,000."""
    asked = [(float(now), "key") for now in range(8_000)]
    containers = Containers(routing="random", warm=8, idle_for="1d", max_age="1d")
    taken = Counter(numbers(replay(asked), containers, 0.5))
    assert set(taken) == set(range(8))
    assert all(abs(count - 1_000) < 4 * (1_000 * 7 / 8) ** 0.5 for count in taken.values())


# Each limit, by the clock


def test_the_idle_time() -> None:
    """A container that was idle for so long is gone; a moment before it is not."""
    assert numbers(replay([(0, "k"), (10.9, "k")]), Containers(cold_start=0, idle_for=10)) == [0, 0]
    assert numbers(replay([(0, "k"), (11, "k")]), Containers(cold_start=0, idle_for=10)) == [0, 1]


def test_the_age() -> None:
    """A container in use is gone at its age, between two events."""
    asked = [(float(now), "k") for now in range(0, 10, 2)]
    assert numbers(replay(asked), Containers(cold_start=0, max_age=5)) == [0, 0, 0, 1, 1]


def test_what_is_kept_goes_with_the_container() -> None:
    """A new container starts with nothing in L1."""
    outcome, events = run(replay([(0, "k"), (1.5, "k"), (2.9, "k")]), Containers(max_age=2), constant(0.1))
    assert [event.tier for event in events] == ["origin", "l1", "l2"]
    assert outcome.cold_starts == 2


def test_a_cold_start_delays_its_own_event_alone() -> None:
    """And a container that is warm has none."""
    _, events = run(replay([(0, "a"), (0, "b"), (5, "a")]), Containers(warm=1, cold_start=2), constant(1))
    assert [event.ended for event in events] == [1, 3, 6]


def test_who_is_refused_asks_again_after_a_pause() -> None:
    """All containers busy: the event is refused at once, and the user's loop goes on."""
    outcome, _ = run(closed_loop(2, pause=0, lasts=1), Containers(most=1, cold_start=0), constant(0.5))
    assert outcome.answered == 2
    assert outcome.refused == outcome.requests - 2 > 10


def test_a_closed_loop_waits_for_its_answers() -> None:
    """Without a pause each user asks again the moment that it is answered, until the time is up."""
    outcome, events = run(closed_loop(2, pause=0, lasts=1), Containers(cold_start=0.25), constant(0.25))
    assert [event.asked for event in events if event.key == 0] == [0, 0.5, 0.75]
    assert outcome.requests == 6


@pytest.mark.parametrize("together", [True, False])
def test_nobody_asks_when_the_time_is_up(together: bool) -> None:
    """Nor for the first time: who begins with a longer pause comes to no request."""
    _, events = run(closed_loop(200, pause=60, lasts=10, together=together, seed=1), Containers(), constant(0.05))
    assert max(event.asked for event in events) < 10
    in_time = {user for user in range(200) if together or next(pauses(user, 60, 1)) < 10}
    assert {event.key for event in events} == in_time
    assert 0 < len(in_time) <= 200


def test_the_rate_and_the_keys_of_an_open_loop() -> None:
    """Arrivals within four deviations of the rate, keys in proportion to 1 / rank."""
    asked = list(open_loop(100, lasts=200, keys=3, skew=1, seed=5))
    assert abs(len(asked) - 20_000) < 4 * 20_000**0.5
    assert all(earlier < later for (earlier, _), (later, _) in pairwise(asked))
    counts = Counter(key for _, key in asked)
    for key, share in ((0, 6 / 11), (1, 3 / 11), (2, 2 / 11)):
        assert abs(counts[key] / len(asked) - share) < 4 * (share * (1 - share) / len(asked)) ** 0.5


# What is refused


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Containers(most=0), "most must be a whole number of at least 1; got 0"),
        (lambda: Containers(most=True), "most must be a whole number"),
        (lambda: Containers(warm=-1), "warm must be a whole number of at least 0; got -1"),
        (lambda: Containers(most=3, warm=4), "warm must be at most 3, as many as there may be at once; got 4"),
        (
            lambda: Containers(routing="best"),
            "routing must be one of newest, oldest, recent, rested, random; got 'best'",
        ),
        (lambda: Containers(idle_for=0), "idle_for must be a finite duration above zero"),
        (lambda: Containers(max_age="soon"), "max_age must be a finite duration above zero"),
        (lambda: Containers(cold_start=-1), "cold_start must be a finite duration zero or more"),
        (lambda: Experiment(users=0), "users must be a whole number of at least 1; got 0"),
        (lambda: Experiment(lasts=0), "lasts must be a finite duration above zero"),
        (lambda: Experiment(pause=-1), "pause must be a finite duration zero or more"),
        (lambda: Experiment(service=0), "service must be a finite duration above zero"),
        (lambda: Experiment(ttl=0), "ttl must be"),
        (lambda: Experiment(spread=-0.1), "spread must be a finite number of zero or more, at most 10; got -0.1"),
        (lambda: Containers(cold_start="99999w"), "cold_start must be at most 1,000,000,000 s; got '99999w'"),
        (lambda: next(open_loop(0, lasts=1, keys=1)), "rate must be a finite number above zero; got 0"),
        (
            lambda: next(open_loop(1, lasts=1, keys=1, skew=float("nan"))),
            "skew must be a finite number of zero or more",
        ),
        (lambda: next(open_loop(1, lasts=1, keys=0)), "keys must be a whole number of at least 1; got 0"),
        (lambda: next(closed_loop(1, pause="x", lasts=1)), "pause must be"),
        (lambda: constant(0), "service must be"),
    ],
)
def test_an_option_that_cannot_be(make: Any, text: str) -> None:
    """The error names it, what was given and what is allowed."""
    with pytest.raises(ConfigurationError, match="^" + text.replace("(", r"\(")):
        make()


def test_time_that_goes_back() -> None:
    """Recorded traffic that is out of order is refused, rather than simulated wrongly."""
    with pytest.raises(ValueError, match="in the order of their times; got 1 after 2"):
        run(replay([(2, "k"), (1, "k")]), Containers(), constant(1))


def test_sessions_of_nobody() -> None:
    """There is no share of nothing."""
    with pytest.raises(ValueError, match="there is no request"):
        sessions([])
