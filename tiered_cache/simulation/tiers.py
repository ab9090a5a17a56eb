"""What each container's L1 and the L2 that they share would hold: which tier answers for a key."""

from __future__ import annotations

from math import inf
from random import Random
from typing import TYPE_CHECKING, Literal, TypeAlias

from tiered_cache._rules import Freshness, jittered

if TYPE_CHECKING:
    from collections.abc import Hashable

    from tiered_cache.simulation.fleet import Container

Tier: TypeAlias = Literal["l1", "l2", "origin"]
"""Who answered, in the words of `Answer.tier`."""

SMALL = 5
"""Keys up to which an L1 is not worth sweeping: a dict takes the same memory for them."""


class Tiers:
    """The freshness of values, by the rule of the library: L2's policy is the data's, and L1 answers within it.

    l1, l2: the tiers' policies; without an L2, l1's is the data's. Their stale windows do not count here: a value is
    fresh or it is loaded. Neither is short of room, and one load at a time serves the whole fleet.
    """

    def __init__(self, l1: Freshness, l2: Freshness | None = None, seed: object = 0) -> None:
        self.l1_hits = 0
        self.l2_hits = 0
        self.loads = 0
        self._l1 = l1
        self._l2 = l2
        self._shared: dict[Hashable, float] = {}
        self._uniform = Random(f"{seed}/tiers").random  # noqa: S311  # a simulation is to be repeatable

    def look(self, container: Container, key: Hashable, now: float) -> Tier:
        """Who answers for `key` in `container`, which holds the value from now on."""
        if now < container.held.get(key, -inf):
            container.l1_hits += 1
            self.l1_hits += 1
            return "l1"
        until = now + self._lasting(self._l1)
        tier: Tier = "origin"
        if self._l2 is not None:
            fresh_until = self._shared.get(key, -inf)
            if now < fresh_until:
                tier = "l2"
            else:
                self._shared[key] = fresh_until = now + self._lasting(self._l2)
            until = min(until, fresh_until)
        if tier == "l2":
            self.l2_hits += 1
        else:
            self.loads += 1
        _hold(container, key, until, now)
        return tier

    def _lasting(self, policy: Freshness) -> float:
        return jittered(policy.ttl, policy.jitter, self._uniform())


def _hold(container: Container, key: Hashable, until: float, now: float) -> None:
    """Keep `key`; and drop what has run out each time the number of keys has doubled, so that memory stays in bounds."""
    held = container.held
    if len(held) >= container.sweep_at:
        container.held = held = {key: until for key, until in held.items() if now < until}
        container.sweep_at = max(SMALL, 2 * len(held))
    held[key] = until
