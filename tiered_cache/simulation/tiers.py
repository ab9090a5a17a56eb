"""What each container's L1 and the L2 that they share would hold: which tier answers for a key, and how soon."""

from __future__ import annotations

from collections import defaultdict
from math import inf
from random import Random
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from tiered_cache._errors import ConfigurationError
from tiered_cache._rules import Freshness, jittered
from tiered_cache._units import seconds, shown
from tiered_cache.simulation.timings import Timings

if TYPE_CHECKING:
    from collections.abc import Hashable

    from tiered_cache.simulation.fleet import Container

Tier: TypeAlias = Literal["l1", "l2", "origin"]
"""Who answered, in the words of `Answer.tier`."""
Reading: TypeAlias = tuple[Tier, float, float]
"""One read: who answered, after how many seconds, and how many more its container is busy with a refresh."""
Copy: TypeAlias = tuple[float, float, float, float]
"""What L1 holds: until when it is a hit, until when it answers while L2 is asked; until when the data are fresh, so that L2
may confirm them, and until when they may be served stale."""

REFRESHES = ("inline", "after_response")
COHERENCES = ("invocation", "ttl")
SMALL = 20
"""Keys up to which an L1 is not swept: what that takes is little, and small ones would be swept all the time."""
NO_TIME = Timings()


class Shared(NamedTuple):
    """What L2 holds of a key: data that were there from `stored_at` on, and until then the lease of their load.

    before: until when the data that were there earlier may be served meanwhile.
    """

    stored_at: float
    fresh_until: float
    stale_until: float
    before: float


class Tiers:
    """The freshness of values, by the rules of the library: L2's policy is the data's, and L1 answers within it.

    l1, l2: the tiers' policies; without an L2, l1's is the data's. refresh: who refreshes what is stale and still served:
    the caller, or its container after the response. coherence: "invocation", under which each read looks first what has been
    invalidated, as the first of an invocation does: a round trip of its own where L1 answers, else along with another; or
    "ttl", without. No load fails, so that `stale_if_error` says nothing; and no tier is short of room. With an L2 a key is
    loaded by one container at a time, for which the others wait, or serve what is stale; without, each container loads for
    itself. Raises ConfigurationError for another `refresh` or `coherence`.
    """

    def __init__(
        self,
        l1: Freshness,
        l2: Freshness | None = None,
        seed: object = 0,
        *,
        timings: Timings = NO_TIME,
        refresh: str = "inline",
        coherence: str = "invocation",
    ) -> None:
        for name, chosen, allowed in (("refresh", refresh, REFRESHES), ("coherence", coherence, COHERENCES)):
            if chosen not in allowed:
                raise ConfigurationError(f"{name} must be one of {', '.join(allowed)}; got {shown(chosen)}")
        self.l1_hits = 0
        self.l2_hits = 0
        self.loads = 0
        """Answers that come from the origin."""
        self.refreshes = 0
        """Loads after the answer, which was a stale one of L1 or L2."""
        self.stale = 0
        """Answers of L1 or L2 that were stale."""
        self.waited = 0
        """Answers that waited for the load of another container."""
        self.l2_looks = 0
        """What L2 is asked to look for invalidations, along with a read or without one."""
        self.l2_reads = 0
        """Round trips to L2 that ask for a value, for the lease, or for both."""
        self.sent: defaultdict[Hashable, int] = defaultdict(int)
        """How often L2 sent each key's value."""
        self.confirmed: defaultdict[Hashable, int] = defaultdict(int)
        """How often L2 had the very value that L1 still held: of a large one its header is sent."""
        self.loaded: defaultdict[Hashable, int] = defaultdict(int)
        """How often each key was loaded, and stored in L2 where there is one."""
        self.shared: dict[Hashable, Shared] = {}
        self._local_ttl, self._local_stale, _, self._local_jitter = Freshness(inf) if l2 is None else l1
        self._data = l1 if l2 is None else l2
        self._alone = l2 is None
        self._inline = refresh == "inline"
        self._looks = l2 is not None and coherence == "invocation"
        self._uniform = Random(f"{seed}/tiers").random  # noqa: S311  # a simulation is to be repeatable
        self._at_once: Reading = "l1", seconds("l1", timings.l1, zero=True), 0.0
        self._l2_time = timings.l2.drawn(f"{seed}/l2")
        self._load_time = timings.origin.drawn(f"{seed}/origin")

    @property
    def l2_found(self) -> int:
        """The round trips that find a value."""
        return sum(self.sent.values()) + sum(self.confirmed.values())

    def read(self, container: Container, key: Hashable, now: float) -> Reading:
        """Read `key` in `container` at `now`, which is not before the last read, in whatever container that was."""
        copy = container.held.get(key)
        self.l2_looks += self._looks
        if copy is not None:
            if now < copy[0]:
                container.l1_hits += 1
                self.l1_hits += 1
                return ("l1", self._look(), 0.0) if self._looks else self._at_once
            if now < copy[1] or copy[2] <= now < copy[3]:
                return self._revalidate(container, key, now, "l1", self._look())
        if self._alone:
            self.loads += 1
            return "origin", self._load(container, key, now), 0.0
        return self._read_shared(container, key, now, copy)

    def _read_shared(self, container: Container, key: Hashable, now: float, copy: Copy | None) -> Reading:
        """Ask L2, and do as it says. copy: what L1 holds, which L2 may confirm."""
        found, asked = self.shared.get(key), self._ask()
        is_there = found is not None and now < (found.stale_until if found.stored_at <= now else found.before)
        if container.expects_hit and not is_there:
            asked += self._ask()  # it was asked for the value alone: now for the value or the lease
        container.expects_hit = is_there
        if found is not None:
            stored_at, fresh_until, stale_until, before = found
            if stored_at <= now < fresh_until:
                is_same = copy is not None and copy[2] == fresh_until
                (self.confirmed if is_same else self.sent)[key] += 1
                self.l2_hits += 1
                self._keep(container, key, now, found)
                return "l2", asked, 0.0
            if before <= now < stored_at:
                return self._wait(container, key, now, found)
            if now < stored_at or now < stale_until:
                self.sent[key] += 1
                return self._revalidate(container, key, now, "l2", asked)
        self.loads += 1
        return "origin", asked + self._load(container, key, now + asked), 0.0

    def _wait(self, container: Container, key: Hashable, now: float, found: Shared) -> Reading:
        """Another container loads, and there is nothing to serve meanwhile: its end is awaited, and L2 asked again.

        A load that takes longer than data live brings nothing that others may have: they load one after the other.
        """
        self.waited += 1
        ends, asked = found.stored_at, self._ask()
        if found.stale_until <= ends:
            self.loads += 1
            return "origin", ends - now + asked + self._load(container, key, ends + asked), 0.0
        self.sent[key] += 1
        self.l2_hits += 1
        self.stale += found.fresh_until <= ends
        container.expects_hit = True
        self._keep(container, key, ends, found)
        return "l2", ends - now + asked, 0.0

    def _revalidate(self, container: Container, key: Hashable, now: float, tier: Tier, asked: float) -> Reading:
        """A refresh is owed of what is stale in `tier`: its caller has what that brings, or the stale value first."""
        source, taken = self._refresh(container, key, now)
        if self._inline and source is not None:
            self.loads += source == "origin"
            self.l2_hits += source == "l2"
            return source, asked + taken, 0.0
        self.refreshes += source == "origin"
        self.stale += 1
        if tier == "l1":
            container.l1_hits += 1
            self.l1_hits += 1
        else:
            self.l2_hits += 1
        return (tier, asked + taken, 0.0) if self._inline else (tier, asked, taken)

    def _refresh(self, container: Container, key: Hashable, now: float) -> tuple[Tier | None, float]:
        """Where fresh data came from, None where another container is about to bring them; and what it took."""
        if self._alone:
            return "origin", self._load(container, key, now)
        asked, found = self._ask(), self.shared.get(key)
        container.expects_hit = found is not None and now < found.stale_until
        if found is not None and now < found.stored_at:
            return None, asked
        if found is not None and now < found.fresh_until:
            self.sent[key] += 1
            self._keep(container, key, now, found)
            return "l2", asked
        return "origin", asked + self._load(container, key, now + asked)

    def _look(self) -> float:
        """What L1 takes to answer, with the round trip of the look that it needs for that; it goes along with any other."""
        return self._at_once[1] + (self._l2_time() if self._looks else 0.0)

    def _ask(self) -> float:
        self.l2_reads += 1
        return self._l2_time()

    def _load(self, container: Container, key: Hashable, now: float) -> float:
        """Load `key`, and keep it in all tiers; gives the seconds that it takes. Its life begins with the load."""
        self.loaded[key] += 1
        data = self._data
        fresh_until = now + jittered(data.ttl, data.jitter, self._uniform())
        taken = self._load_time() + (0.0 if self._alone else self._l2_time())
        before = self.shared.get(key)
        if before is not None and before.stale_until <= before.stored_at:
            served_until = before.before  # it was of no use to anybody
        else:
            served_until = -inf if before is None else before.stale_until
        loaded = Shared(now + taken, fresh_until, fresh_until + data.stale_while_revalidate, served_until)
        if not self._alone:
            self.shared[key] = loaded
        self._keep(container, key, now, loaded)
        return taken

    def _keep(self, container: Container, key: Hashable, now: float, found: Shared) -> None:
        """Keep in L1 what the origin or L2 vouched for at `now`.

        What has run out is dropped each time the number of keys has doubled, so that memory stays in bounds.
        """
        held = container.held
        if len(held) >= container.sweep_at:
            container.held = held = {key: copy for key, copy in held.items() if now < copy[3]}
            container.sweep_at = max(SMALL, 2 * len(held))
        _, fresh_until, stale_until, _ = found
        unasked_until = now + jittered(self._local_ttl, self._local_jitter, self._uniform())
        asked_by = unasked_until + self._local_stale
        if fresh_until < asked_by:  # seldom, and this is done millions of times
            asked_by, unasked_until = fresh_until, min(unasked_until, fresh_until)
        held[key] = unasked_until, asked_by, fresh_until, stale_until
