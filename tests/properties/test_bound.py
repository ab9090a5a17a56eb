"""The bound: whatever clocks, freezes, tiers and failures do, nothing is served for longer than the policy says.

Three hosts, each with a clock of its own: two share an L2, one has none. The origin gives each load a value of its own, so
that every answer tells which load it came from, and when that began in true time, which no host knows. Then, for a value
whose load began `age` seconds of true time ago:

1. On a host without L2 it is served as fresh only while `age < fresh_for + 1`, and at all only while
   `age < fresh_for + longest stale window + 1`, though its clock is set back and forth: the second is what a clock may lose
   unnoticed. That holds if the cache has looked at its clock since: it does so at each invocation's start, and at each call
   but a plain hit.
2. With an L2 a host must believe the stamps of others: it is served only while
   `age < limit + (what the loader's clock was ahead by when the load began) - (what the server's clock is ahead by now)`.
   With clocks in step this is the limit itself.
3. After a deletion or a set by a host, that host serves nothing whose load began before.
4. What is served was loaded for that very key; an absence is served for no longer than `negative_ttl`; and denial is
   never covered.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tiered_cache import (
    MISSING,
    InvalidationNotDelivered,
    LoadContext,
    Loaded,
    MemoryTier,
    NotFound,
    OriginDenied,
    TieredCache,
)
from tiered_cache.testing import FakeClock, InMemorySharedTier

TTL, REVALIDATE, IF_ERROR, NEGATIVE = 60.0, 20.0, 45.0, 15.0
WINDOW = max(REVALIDATE, IF_ERROR)
UNNOTICED = 1.0
TOLERANCE = 1e-4
T0 = 1_800_000_000.0

keys = st.sampled_from(["a", "b"])
hosts = st.sampled_from([0, 1, 2])
SOLO = 2
ttls = st.sampled_from([None, None, 5, 30, 120])
spans = st.sampled_from([0.0, 0.3, 1, 4, 9, 11, 19, 30, 44, 59, 61, 80, 104, 106, 300])


class Load(NamedTuple):
    """What is known of the load that gave a value."""

    key: str
    order: int
    began: float
    fresh_for: float
    ahead: float
    """By how much the loader's clock was ahead of true time when it began."""


class Kept:
    """A carrier whose work is done, or dropped, by a rule of the machine."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def submit(self, work: Callable[[], None], /) -> None:
        self.work.append(work)


class Host:
    """A clock, a cache that draws by `seed`, and what the cache must not serve any more."""

    def __init__(
        self, world: World, l2: InMemorySharedTier | None, skew: float, refresh: Any, early: float, seed: int
    ) -> None:
        self.world = world
        self.clock = FakeClock(T0 + skew)
        self.carrier = refresh
        windows = {"stale_while_revalidate": REVALIDATE, "stale_if_error": IF_ERROR}
        l1 = MemoryTier(ttl=TTL, **windows) if l2 is None else MemoryTier(ttl=10, stale_while_revalidate=5)
        self.cache = TieredCache(
            l1,
            l2,
            clock=self.clock,
            refresh=refresh,
            early_refresh=early,
            error_backoff=3,
            negative_ttl=NEGATIVE,
        )
        self.cache._uniform._random = Random(seed)
        self.floor: dict[str, int] = {}

    @property
    def ahead(self) -> float:
        return self.clock() - T0 - self.world.time


class Loader:
    """One call's loader: takes some time before and after it looks at the origin, and meanwhile may delete its key."""

    def __init__(self, world: World, host: Host, key: str, ttl: float | None, script: dict[str, Any]) -> None:
        self.world, self.host, self.key, self.script = world, host, key, script
        self.ttl = ttl or TTL
        self.denied = False

    def load(self, context: LoadContext) -> Any:
        world, script = self.world, self.script
        load = Load(self.key, world.next_order(), world.time, script["ttl"] or self.ttl, self.host.ahead)
        world.pass_time(script["takes"])
        if script["deletes"]:
            world.delete_in(self.host, self.key)
        match script["ends"]:
            case "fails":
                raise OSError("down")
            case "denied":
                self.denied = True
                raise OriginDenied("no")
            case "not found":
                world.absences.setdefault(self.key, []).append(load._replace(fresh_for=NEGATIVE))
                raise NotFound("none")
            case "not modified" if context.stale is not MISSING:
                world.loads[context.stale[1]].append(load._replace(fresh_for=self.ttl))
                return context.not_modified()
        value = (self.key, load.order)
        world.loads[load.order] = [load]
        return Loaded(value, ttl=script["ttl"]) if script["ttl"] else value


scripts = st.fixed_dictionaries(
    {
        "takes": st.sampled_from([0.0, 0.0, 0.0, 0.5, 3, 25, 70]),
        "ends": st.sampled_from(["well", "well", "well", "fails", "fails", "denied", "not found", "not modified"]),
        "ttl": st.sampled_from([None, None, None, 7, 90]),
        "deletes": st.sampled_from([False] * 9 + [True]),
    }
)
calls = st.fixed_dictionaries(
    {}, optional={"force_refresh": st.sampled_from([True, False, False]), "stale_ok": st.booleans(), "ttl": ttls}
)


class World(RuleBasedStateMachine):
    """Hosts, an L2 and an origin, in one true time."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.order = 0
        self.loads: dict[int, list[Load]] = {}
        self.absences: dict[str, list[Load]] = {}
        self.hosts: list[Host] = []

    @initialize(
        skews=st.lists(st.floats(-0.25, 0.25), min_size=3, max_size=3),
        inline=st.lists(st.booleans(), min_size=3, max_size=3),
        early=st.sampled_from([0.0, 0.0, 1.0, 10.0]),
        seed=st.integers(0, 2**32),
    )
    def begin(self, skews: list[float], inline: list[bool], early: float, seed: int) -> None:
        self.l2 = InMemorySharedTier(ttl=TTL, stale_while_revalidate=REVALIDATE, stale_if_error=IF_ERROR, jitter=0.1)
        for number, skew in enumerate(skews):
            carrier = "inline" if inline[number] else Kept()
            l2 = None if number == SOLO else self.l2
            self.hosts.append(Host(self, l2, skew, carrier, early, seed + number))

    # What happens

    def next_order(self) -> int:
        self.order += 1
        return self.order

    def pass_time(self, seconds: float, frozen: Host | None = None) -> None:
        self.time += seconds
        for host in self.hosts:
            (host.clock.freeze if host is frozen else host.clock.advance)(seconds)

    def delete_in(self, host: Host, key: str) -> None:
        try:
            host.cache.delete(key)
        except InvalidationNotDelivered:
            assert self.l2.down
        host.floor[key] = self.next_order()

    @rule(seconds=spans)
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)

    @rule(host=hosts, seconds=spans)
    def freeze(self, host: int, seconds: float) -> None:
        self.pass_time(seconds, self.hosts[host])
        self.look_at_the_clock(host)

    @rule(host=hosts, seconds=st.sampled_from([-400.0, -70, -30, -3, -0.9, -0.4, 0.4, 3, 70]))
    def correct_the_clock(self, host: int, seconds: float) -> None:
        self.hosts[host].clock.step(seconds)
        self.look_at_the_clock(host)

    def look_at_the_clock(self, host: int) -> None:
        with self.hosts[host].cache.invocation():
            pass

    @rule()
    def l2_goes_up_or_down(self) -> None:
        self.l2.down = not self.l2.down

    @rule(host=hosts, key=keys)
    def delete(self, host: int, key: str) -> None:
        self.delete_in(self.hosts[host], key)

    @rule(host=hosts, key=keys, ttl=ttls)
    def set(self, host: int, key: str, ttl: float | None) -> None:
        chosen = self.hosts[host]
        order = chosen.floor[key] = self.next_order()
        self.loads[order] = [Load(key, order, self.time, ttl or TTL, chosen.ahead)]
        chosen.cache.set(key, (key, order), ttl=ttl)

    @rule(host=hosts, done=st.booleans())
    def carry_out(self, host: int, done: bool) -> None:
        carrier = self.hosts[host].carrier
        if isinstance(carrier, Kept):
            work, carrier.work = carrier.work, []
            for refresh in work if done else []:
                refresh()

    # What is asked, and what is true of the answer

    @rule(host=hosts, key=keys, script=scripts, options=calls)
    def ask(self, host: int, key: str, script: dict[str, Any], options: dict[str, Any]) -> None:
        chosen = self.hosts[host]
        loader = Loader(self, chosen, key, options.get("ttl"), script)
        order = self.order
        try:
            answer = chosen.cache.get_entry_or_load(key, loader, **options)
        except NotFound:
            self.check_absence(chosen, key, order)
            return
        except OriginDenied:
            return
        except OSError:
            answer = None
        assert not loader.denied
        if answer is None:
            return
        if not options.get("stale_ok", True):
            assert not answer.stale or answer.tier == "origin"
        self.check(chosen, key, answer.value, fresh=not answer.stale, order=order)

    @rule(host=hosts, key=keys)
    def hit(self, host: int, key: str) -> None:
        """The plain call, of which only the counters tell whether it was answered as fresh."""
        chosen = self.hosts[host]
        script = {"takes": 0.0, "ends": "well", "ttl": None, "deletes": False}
        hits, order = chosen.cache.stats().l1.hits, self.order
        try:
            value = chosen.cache.get_or_load(key, Loader(self, chosen, key, None, script))
        except NotFound:
            self.check_absence(chosen, key, order)
            return
        self.check(chosen, key, value, fresh=chosen.cache.stats().l1.hits > hits, order=order)

    @rule(host=hosts, key=keys)
    def peek(self, host: int, key: str) -> None:
        chosen = self.hosts[host]
        value = chosen.cache.get(key)
        if value is not MISSING:
            self.check(chosen, key, value, fresh=True, order=self.order)

    def check(self, host: Host, key: str, value: Any, *, fresh: bool, order: int) -> None:
        assert key == value[0]
        loads = self.loads[value[1]]
        assert all(load.key == key for load in loads)
        if not fresh and loads[-1].order > order:
            return  # loaded for this very call: the caller gets it, however long that took
        assert self.time < max(self.limit(host, load, 0 if fresh else WINDOW) for load in loads) + TOLERANCE
        assert loads[-1].order >= host.floor.get(key, 0) or loads[-1].order > order

    def check_absence(self, host: Host, key: str, order: int) -> None:
        absences = self.absences[key]
        assert self.time < max(self.limit(host, load, 0) for load in absences) + TOLERANCE or absences[-1].order > order
        assert absences[-1].order >= host.floor.get(key, 0) or absences[-1].order > order

    def limit(self, host: Host, load: Load, window: float) -> float:
        slack = UNNOTICED if host is self.hosts[SOLO] else load.ahead - host.ahead
        return load.began + load.fresh_for + window + slack

    @invariant()
    def what_is_held_stays_within_its_budget(self) -> None:
        for host in self.hosts:
            stats = host.cache.stats().l1
            assert stats.bytes <= stats.max_bytes
            assert set(host.cache._memory.hot) <= set(host.cache._memory._entries)


TestBound = World.TestCase
TestBound.settings = settings(
    max_examples=250, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestBound.pytestmark = [pytest.mark.timeout(900)]
