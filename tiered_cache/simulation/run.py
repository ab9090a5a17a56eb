"""The simulation itself: traffic meets a fleet, event by event."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from tiered_cache.simulation.fleet import Container, Fleet
    from tiered_cache.simulation.tiers import Tier, Tiers
    from tiered_cache.simulation.traffic import Service, Traffic

Watcher: TypeAlias = "Callable[[Hashable, Container, Tier, float, float], object]"
"""Called for each event that was taken, with key, container, tier, the time of the request and that of the answer."""

REFUSAL = 0.01
"""Seconds after which a request hears that all containers are busy."""


class Outcome(NamedTuple):
    """What became of the requests. `fleet` has the containers, each with its own counts."""

    requests: int
    """All of them: each was answered from L1, from L2 or from the origin, or was refused."""
    l1_hits: int
    l2_hits: int
    loads: int
    """Those that the origin answered. Refreshes after the answer are not among them: `tiers.refreshes`."""
    refused: int
    cold_starts: int
    fleet: Fleet

    @property
    def answered(self) -> int:
        return self.requests - self.refused

    @property
    def l1_hit_rate(self) -> float:
        """The share of the answers that came from L1, over the fleet; 0 where there was none."""
        return self.l1_hits / self.answered if self.answered else 0.0


def simulate(traffic: Traffic, fleet: Fleet, tiers: Tiers, service: Service, watch: Watcher | None = None) -> Outcome:
    """Drive `traffic` through `fleet` to its end. The caches are asked at the time of the request, in a cold start too."""
    requests = 0
    begin, end, read, answer = fleet.begin, fleet.end, tiers.read, traffic.send
    request = next(traffic, None)
    while request is not None:
        requests += 1
        now, key = request
        container = begin(now)
        if container is None:
            ended = now + REFUSAL
        else:
            tier, reading, owed = read(container, key, now)
            ended = max(now, container.ready_at) + reading + service(tier)
            end(container, ended + owed)
            if watch is not None:
                watch(key, container, tier, now, ended)
        try:
            request = answer(ended)
        except StopIteration:
            request = None
    return Outcome(requests, tiers.l1_hits, tiers.l2_hits, tiers.loads, fleet.refused, fleet.cold_starts, fleet)
