"""The session experiment: users who come back, and how often the same container serves them.

A session that a container keeps in its memory is of use when its user meets that container again. So what is measured is,
for each user, the share of requests that each container served; the largest is the user's best share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import nan
from statistics import fmean, median
from typing import TYPE_CHECKING, NamedTuple

from tiered_cache._errors import ConfigurationError
from tiered_cache._rules import Freshness
from tiered_cache._units import Duration, seconds, whole
from tiered_cache.simulation.fleet import Containers, Fleet
from tiered_cache.simulation.run import simulate
from tiered_cache.simulation.tiers import Tiers
from tiered_cache.simulation.traffic import closed_loop, lognormal

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence, Sized

    from tiered_cache.simulation.fleet import Container
    from tiered_cache.simulation.tiers import Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Users that request, wait, and pause uniformly up to `pause`, for `lasts` seconds; by default the published one.

    service: what the handler takes, the median; spread: the deviation of its logarithm, 0 for always the same. ttl: L1's.
    together: all users begin at once; otherwise each begins with a pause.
    """

    users: int = 10
    lasts: Duration = 10.0
    pause: Duration = 1.0
    service: Duration = 0.05
    spread: float = 0.0
    ttl: Duration = "5m"
    together: bool = True
    containers: Containers = field(default_factory=Containers)

    def __post_init__(self) -> None:
        whole("users", self.users, least=1)
        seconds("lasts", self.lasts)
        seconds("pause", self.pause, zero=True)
        seconds("ttl", self.ttl)
        lognormal(self.service, self.spread)


class Request(NamedTuple):
    """One answered request, wherever it was seen: who asked, which container answered, and whether its L1 did."""

    user: Hashable
    container: Hashable
    from_l1: bool
    seconds: float = nan
    """From the request to the answer, where that is known."""


class Sessions(NamedTuple):
    """Who served whom."""

    shares: dict[Hashable, dict[Hashable, float]]
    """For each user the share of requests that each container answered, the largest first."""
    requests: int
    containers: int
    """How many served anybody."""
    again: float
    """The share of requests that met the container of the user's last one: the hit rate of sessions that each request
    changes, so that only the last container holds what is current. NaN where nobody came twice."""
    l1_hit_rate: float
    seconds: float
    """The median of what a request took, a cold start included."""

    @property
    def best_shares(self) -> dict[Hashable, float]:
        """Each user's largest share."""
        return {user: max(shares.values()) for user, shares in self.shares.items()}

    @property
    def mean_best_share(self) -> float:
        return fmean(self.best_shares.values())


def sessions(requests: Iterable[Request]) -> Sessions:
    """What `requests` show, each user's given in the order of time. Raises ValueError where there is none."""
    counts: defaultdict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    last: dict[Hashable, Hashable] = {}
    taken: list[float] = []
    again = hits = 0
    for user, container, from_l1, seconds_taken in requests:
        again += user in last and last[user] == container
        last[user] = container
        counts[user][container] += 1
        hits += from_l1
        taken.append(seconds_taken)
    if not taken:
        raise ValueError("there is no request: nothing can be said of who served whom")
    shares = {
        user: {container: number / count.total() for container, number in count.most_common()}
        for user, count in counts.items()
    }
    comebacks = len(taken) - len(counts)
    return Sessions(
        shares,
        requests=len(taken),
        containers=len({container for count in counts.values() for container in count}),
        again=again / comebacks if comebacks else nan,
        l1_hit_rate=hits / len(taken),
        seconds=median(taken),
    )


def simulated(experiment: Experiment, seed: int = 1) -> Sessions:
    """The experiment in the simulator; the same seed gives the same result. Raises ConfigurationError where nobody asked."""
    requests: list[Request] = []

    def watch(user: Hashable, container: Container, tier: Tier, now: float, ended: float) -> None:
        requests.append(Request(user, container.number, tier == "l1", ended - now))

    traffic = closed_loop(
        experiment.users,
        pause=experiment.pause,
        lasts=experiment.lasts,
        together=experiment.together,
        seed=seed,
    )
    tiers = Tiers(Freshness(seconds("ttl", experiment.ttl)), seed=seed)
    service = lognormal(experiment.service, experiment.spread, seed)
    simulate(traffic, Fleet(experiment.containers, seed), tiers, service, watch)
    check_that_somebody_asked(experiment, requests)
    return sessions(requests)


def check_that_somebody_asked(experiment: Experiment, requests: Sized) -> None:
    """Raises ConfigurationError where it was over before anybody's first request."""
    if not len(requests):
        raise ConfigurationError(f"lasts must be long enough for a request; nobody came to one in {experiment.lasts}")


def expected_hit_rate(shares: Sequence[float], rate: float, ttl: Duration) -> float:
    """The share of a user's requests that L1 answers, from the user's `shares` on each container.

    rate: the user's requests a second, over all containers, coming by chance (Poisson). A container with the share p gets
    p * rate a second; each time its copy has run out after `ttl` one of them loads it and the x = p * rate * ttl that come
    on average until it runs out again hit: x / (1 + x) of those p.
    """
    lasting = seconds("ttl", ttl)
    return sum(share * (share * rate * lasting) / (1 + share * rate * lasting) for share in shares)
