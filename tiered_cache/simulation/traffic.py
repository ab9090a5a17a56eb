"""Who asks for what and when, and how long an event takes.

Traffic is a generator of (time, key), in the order of time, that is sent the moment of each answer: a closed loop, whose
users wait for it, needs that; an open one does not look. Any generator of that kind can be simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from heapq import heappop, heapreplace
from itertools import accumulate
from math import log
from random import Random
from typing import TypeAlias

from tiered_cache._units import Duration, seconds, whole
from tiered_cache.simulation.fleet import MOST_SPREAD, number, taking
from tiered_cache.simulation.tiers import Tier

Traffic: TypeAlias = Generator[tuple[float, Hashable], float, None]
Service: TypeAlias = Callable[[Tier], float]
"""Seconds that a handler takes, by the tier that answered it."""

BATCH = 1_024


def pauses(user: int, pause: float, seed: object) -> Iterator[float]:
    """What a user waits between an answer and the next request: uniformly up to `pause` seconds, without end.

    The same for the same seed, whatever the other users do and wherever it is asked.
    """
    random = Random(f"{seed}/user/{user}")  # noqa: S311  # a simulation is to be repeatable
    while True:
        yield random.uniform(0.0, pause)


def closed_loop(users: int, *, pause: Duration, lasts: Duration, together: bool = True, seed: object = 0) -> Traffic:
    """Users that request, wait for the answer, pause, and so on; a user is the key of what it asks. None asks from `lasts` on.

    together: all begin at once; otherwise each begins with a pause, and comes to no request where that is longer.
    """
    end = seconds("lasts", lasts)
    each = seconds("pause", pause, zero=True)
    waits = [pauses(user, each, seed) for user in range(whole("users", users, least=1))]
    first = ((0.0 if together else next(waiting), user) for user, waiting in enumerate(waits))
    due = sorted(one for one in first if one[0] < end)
    while due:
        now, user = due[0]
        answered = yield now, user
        then = answered + next(waits[user])
        if then < end:
            heapreplace(due, (then, user))
        else:
            heappop(due)


def open_loop(rate: float, *, lasts: Duration, keys: int, skew: float = 1.0, seed: object = 0) -> Traffic:
    """Requests that come whatever becomes of those before: `rate` a second, by chance (Poisson), until `lasts`.

    keys: how many there are; the one of rank n is asked for in proportion to 1 / n ** `skew` (Zipf; 0: all alike).
    """
    number("rate", rate, above_zero=True)
    number("skew", skew)
    end = seconds("lasts", lasts)
    ranks = list(range(whole("keys", keys, least=1)))
    cumulative = list(accumulate((rank + 1) ** -skew for rank in ranks))
    random = Random(f"{seed}/arrivals")  # noqa: S311  # a simulation is to be repeatable
    uniform = random.random
    now = 0.0
    while True:
        for key in random.choices(ranks, cum_weights=cumulative, k=BATCH):
            now -= log(1.0 - uniform()) / rate
            if now >= end:
                return
            yield now, key


def replay(requests: Iterable[tuple[float, Hashable]]) -> Traffic:
    """What was recorded or written down: (time, key) in the order of time."""
    for request in requests:  # noqa: UP028  # what is sent here must not be passed on to an iterator that cannot take it
        yield request


def constant(given: Duration) -> Service:
    """Each event takes as long."""
    taken = taking("service", given)
    return lambda _tier: taken


def lognormal(median: Duration, spread: float, seed: object = 0) -> Service:
    """Half of the events take less than `median`; the logarithm of the time is normal with the deviation `spread`."""
    number("spread", spread, most=MOST_SPREAD)
    middle = log(taking("service", median))
    draw = Random(f"{seed}/service").lognormvariate  # noqa: S311  # a simulation is to be repeatable
    return lambda _tier: draw(middle, spread)
