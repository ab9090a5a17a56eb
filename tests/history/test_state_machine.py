"""Three caches on one real server: whatever they do, and whatever is done to them, no invariant of `checks` is violated.

Two share a namespace, the third has one of its own with the same keys. Each has a clock, a way to L2 that a proxy may
spoil, and an origin that changes before anything is invalidated. One thing happens at a time, but a load may be cut in
two: between its look at the origin and its end, others go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import redis
from checks import violations
from container import OPERATIONS, Container, tag_of
from history import Disturbance, History, Origin, Policy, TrueTime
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from process_checks import footing, leaks, logged, memory, secrecy

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.local.proxy import FaultProxy
from tiered_cache.testing import FakeClock

if TYPE_CHECKING:
    from tiered_cache.local.valkey import ValkeyServer

PASSWORD = "hunter2-in-the-address"
T0 = 1_800_000_000.0
PATIENT, HURRIED = 20.0, 0.5
"""Seconds for a call that L2 answers, and for one that it does not."""
KEYS = ("a1", "b1", "z1", "z2")
"""Those that begin with "z" get their tags from the loader; see `tagged_by_caller`."""
LEASES = "invalidate_tag" in OPERATIONS
POLICY = Policy(
    fresh_for=60,
    stale_while_revalidate=20,
    stale_if_error=45,
    negative_ttl=15,
    l1_for=15,
    coherence="invocation" if LEASES else "ttl",
    leases=LEASES,
)
keys = st.sampled_from(KEYS)
containers = st.sampled_from([0, 0, 1, 1, 2])
sharing = st.sampled_from([0, 1])
options = st.sampled_from([{}] * 4 + [{"force_refresh": True}, {"stale_ok": False}])
STEPS = ["delete", "delete", "ask", "set", "invoke", "replace", "wait", *sorted(OPERATIONS - {"delete"})]
"""What others do while a load is under way."""


class Kept:
    """A carrier whose work is done, or dropped, by a rule of the machine."""

    def __init__(self) -> None:
        self.work: list[Callable[[], None]] = []

    def submit(self, work: Callable[[], None], /) -> None:
        self.work.append(work)


class Fleet(RuleBasedStateMachine):
    """The caches, their clocks and proxies, the origin, and true time."""

    server: ClassVar[ValkeyServer]
    proxies: ClassVar[list[FaultProxy]]

    def __init__(self) -> None:
        super().__init__()
        self.time = TrueTime()
        self.origin = Origin(self.time)
        self.disturbances: list[Disturbance] = []
        self.checked = 0
        self.opened = ExitStack()
        self.lines = self.opened.enter_context(logged())
        self.running: list[ExitStack | None] = [None, None, None]

    @initialize(inline=st.booleans(), slow=st.sampled_from([False] * 5 + [True]))
    def begin(self, inline: bool, slow: bool) -> None:
        self.slow = slow
        for proxy in self.proxies:
            proxy.ok()
        self.server.flush()
        self.clocks = [FakeClock(T0) for _ in range(3)]
        self.hangs = [False] * 3
        self.tiers: dict[int, RedisTier] = {}
        self.carriers: list[Kept | str] = ["inline" if inline else Kept() for _ in range(3)]
        self.containers = [self._container(number) for number in range(3)]
        self.all_containers = list(self.containers)
        for number in range(3):
            self._start(number)

    def _container(self, number: int, name: str = "") -> Container:
        clock = self.clocks[number]
        address = f"redis://default:{PASSWORD}@127.0.0.1:{self.proxies[number].port}"
        windows = {"stale_while_revalidate": POLICY.stale_while_revalidate, "stale_if_error": POLICY.stale_if_error}
        cache = TieredCache(
            MemoryTier(ttl=10, stale_while_revalidate=5, jitter=0),
            self._tier(number, address, ttl=POLICY.fresh_for, jitter=0, **windows),
            namespace="other" if number == 2 else "orders",
            negative_ttl=POLICY.negative_ttl,
            clock=clock,
            refresh=self.carriers[number],
        )
        self.opened.callback(cache.close)
        namespace = "other" if number == 2 else "orders"
        ahead = lambda: clock() - T0 - self.time.passed
        return Container(name or f"c{number}", namespace, cache, self.origin, now=self.time, ahead=ahead)

    def _tier(self, number: int, address: str, **options: Any) -> RedisTier:
        self.tiers[number] = RedisTier(address, timeout=HURRIED if self.hangs[number] else PATIENT, **options)
        return self.tiers[number]

    def _way(self, number: int, fault: str) -> None:
        """What becomes of the container's way to L2: where nothing answers, calls end soon."""
        getattr(self.proxies[number], fault)()
        self.hangs[number] = fault == "hang"
        self.tiers[number].timeout = HURRIED if self.hangs[number] else PATIENT

    def teardown(self) -> None:
        for stack in self.running:
            if stack is not None:
                stack.close()
        seen = [container.cache.stats().l1 for container in getattr(self, "all_containers", ())]
        self.opened.close()
        assert [*memory(seen), *secrecy(self.lines, [PASSWORD, self.origin.get_mark()])] == []

    # Time

    def _pass(self, seconds: float, frozen: int | None = None) -> None:
        self.time.passed += seconds
        for number, clock in enumerate(self.clocks):
            (clock.freeze if number == frozen else clock.advance)(seconds)

    @rule(seconds=st.sampled_from([0.3, 1.0, 3.0, 9.0, 14.0, 16.0, 31.0, 59.0, 61.0, 104.0, 106.0]))
    def wait(self, seconds: float) -> None:
        self._pass(seconds)

    @rule(number=containers, seconds=st.sampled_from([1.0, 12.0, 40.0, 3600.0]))
    def freeze(self, number: int, seconds: float) -> None:
        """A container stands still, between two invocations as on Lambda, while time passes for the others."""
        self._end(number)
        self._pass(seconds, number)
        self._start(number)

    @rule(number=containers, seconds=st.sampled_from([-70.0, -3.0, -0.4, 0.4, 3.0, 70.0]))
    def correct_the_clock(self, number: int, seconds: float) -> None:
        self.clocks[number].step(seconds)
        self._disturb("clock is set", number)
        self._end(number)
        self._start(number)  # which looks at the clock

    # Invocations

    def _start(self, number: int) -> None:
        """Begin an invocation that has time enough for L2, and soon after has hardly any left to wait for others' loads."""
        left = [600.0]
        stack = self.running[number] = ExitStack()
        stack.enter_context(self.containers[number].invocation(lambda: left[0]))
        left[0] = 0.1

    def _end(self, number: int) -> None:
        stack, self.running[number] = self.running[number], None
        if stack is not None:
            stack.close()

    @rule(number=containers)
    def invoke(self, number: int) -> None:
        self._end(number)
        self._start(number)

    @rule(number=containers)
    def replace(self, number: int) -> None:
        """A container ends, and a new one begins in its place."""
        self._end(number)
        self.containers[number].cache.close()
        if isinstance(self.carriers[number], Kept):
            self.carriers[number] = Kept()
        new = self._container(number, f"c{number}.{len(self.all_containers)}")
        self.containers[number] = new
        self.all_containers.append(new)
        self._start(number)

    # Calls

    @rule(number=containers, key=keys, plain=st.booleans(), options=options)
    def ask(self, number: int, key: str, plain: bool, options: dict[str, Any]) -> None:
        self.containers[number].ask(key, plain=plain, **options)

    @rule(number=containers, key=keys)
    def ask_again(self, number: int, key: str) -> None:
        self.containers[number].ask(key)

    @rule(number=containers, chosen=st.sampled_from([("a1", "b1"), ("z2", "z1")]))
    def ask_many(self, number: int, chosen: tuple[str, ...]) -> None:
        self.containers[number].ask_many(chosen)

    @rule(number=containers, key=keys)
    def get(self, number: int, key: str) -> None:
        self.containers[number].get(key)

    @rule(number=containers, key=keys)
    def set(self, number: int, key: str) -> None:
        self.containers[number].set(key)

    @rule(number=containers, key=keys)
    def delete(self, number: int, key: str) -> None:
        self.containers[number].delete(key)

    @rule(number=containers, key=keys, seconds=st.sampled_from([3.0, 16.0, 59.0]))
    def delete_for_good(self, number: int, key: str, seconds: float) -> None:
        """The origin says for a while that there is nothing."""
        self.containers[number].delete(key, absent=True)
        self.containers[number].ask(key)
        self._pass(seconds)
        self.containers[number].ask(key)

    @precondition(lambda _: "expire" in OPERATIONS)
    @rule(number=containers, key=keys)
    def expire(self, number: int, key: str) -> None:
        self.containers[number].expire(key)

    @precondition(lambda _: "invalidate_tag" in OPERATIONS)
    @rule(number=containers, key=keys)
    def invalidate_tag(self, number: int, key: str) -> None:
        self.containers[number].invalidate_tag(tag_of(key), KEYS)

    @precondition(lambda _: "clear" in OPERATIONS)
    @rule(number=containers)
    def clear(self, number: int) -> None:
        self.containers[number].clear(KEYS)

    @rule(number=containers, done=st.booleans())
    def carry_out(self, number: int, done: bool) -> None:
        carrier = self.carriers[number]
        if isinstance(carrier, Kept):
            work, carrier.work = carrier.work, []
            for refresh in work if done else []:
                refresh()

    @rule(
        number=sharing,
        key=keys,
        force=st.booleans(),
        meanwhile=st.lists(st.tuples(sharing, st.sampled_from(STEPS)), min_size=1, max_size=3),
    )
    def ask_while_others_go_on(self, number: int, key: str, force: bool, meanwhile: list[tuple[int, str]]) -> None:
        """A load is cut in two: others change, invalidate and read its key when it has looked at the origin."""
        options = {"force_refresh": True} if force else {}
        self.containers[number].ask(key, meanwhile=lambda: self._go_on(number, key, meanwhile), **options)

    def _go_on(self, loading: int, key: str, steps: list[tuple[int, str]]) -> None:
        detached = False
        for chosen, step in steps:
            number = chosen if LEASES else loading  # without them, a late load brings back what others invalidated
            container = self.containers[number]
            match step:
                case "ask" if number == loading and not detached:
                    pass  # would wait for itself
                case "ask":
                    container.ask(key)
                case "wait":
                    self._pass(20)
                case "invoke":
                    self.invoke(number)
                case "replace" if number == loading:
                    pass
                case "replace":
                    self.replace(number)
                case "invalidate_tag":
                    container.invalidate_tag(tag_of(key), KEYS)
                case "clear":
                    container.clear(KEYS)
                case _:
                    getattr(container, step)(key)
            detached |= number == loading and step in (
                "delete",
                "expire",
                "set",
                "clear",
            )  # of a tag, only the end tells

    @rule(
        number=sharing,
        key=keys,
        seconds=st.sampled_from([0.0, 16.0, 61.0]),
        change=st.sampled_from(sorted(OPERATIONS)),
        read=st.sampled_from(["ask", "ask_many", "get"]),
        anew=st.booleans(),
    )
    def look_while_another_loads(
        self, number: int, key: str, seconds: float, change: str, read: str, anew: bool
    ) -> None:
        """What one held is invalidated by another, who then loads it; meanwhile the first begins an invocation, or anew."""
        other = 1 - number

        def read_in_a_new_invocation() -> None:
            (self.replace if anew else self.invoke)(number)
            container = self.containers[number]
            container.ask_many((key,)) if read == "ask_many" else getattr(container, read)(key)

        if LEASES:
            self.containers[number].ask(key)
            self._pass(seconds)
            self._go_on(other, key, [(other, change)])
            self.containers[other].ask(key, meanwhile=read_in_a_new_invocation)

    # Faults

    def _disturb(self, name: str, number: int | None = None) -> None:
        now = self.time()
        container = "" if number is None else f"c{number}"
        self.disturbances.append(Disturbance(name=name, start=now, end=now, container=container))

    @rule(number=containers, fault=st.sampled_from(["ok", "ok", "reset", "refuse", "hang"]))
    def spoil_the_way_to_l2(self, number: int, fault: str) -> None:
        if fault == "hang" and not self.slow:
            fault = "reset"  # each hanging call costs its time for real
        self._way(number, fault)
        if fault == "refuse":
            self.proxies[number].kill_all()

    @rule(number=containers)
    def mend_the_way_to_l2(self, number: int) -> None:
        """Everything passes again, and the breaker's pause is over."""
        self._way(number, "ok")
        self._pass(31)

    @rule(number=containers, key=keys, seconds=st.sampled_from([0.0, 2.0, 31.0]))
    def delete_without_l2(self, number: int, key: str, seconds: float) -> None:
        """A deletion that L2 does not take; it is back after so many seconds."""
        self.containers[number].ask(key)
        self._way(number, "refuse")
        self.proxies[number].kill_all()
        self.containers[number].delete(key)
        self._way(number, "ok")
        self._pass(seconds)
        self.containers[number].ask(key)

    @rule(mode=st.sampled_from(["ok", "ok", "down", "denied"]))
    def change_the_origin(self, mode: str) -> None:
        self.origin.set_mode(mode)

    @rule(number=containers, key=keys, mode=st.sampled_from(["down", "throttled", "denied"]), twice=st.booleans())
    def ask_when_stale(self, number: int, key: str, mode: str, twice: bool) -> None:
        """A load that fails when what is held is stale, and another right after that."""
        for _ in range(2):
            self.containers[number].ask(key)
        self._pass(61)
        self.origin.set_mode(mode)
        for _ in range(1 + twice):
            self.containers[number].ask(key)
        self.origin.set_mode("ok")

    @rule(
        number=sharing,
        key=keys,
        change=st.sampled_from(sorted(OPERATIONS)),
        loses=st.booleans(),
        seconds=st.sampled_from([0.0, 16.0]),
    )
    def change_during_a_load(self, number: int, key: str, change: str, loses: bool, seconds: float) -> None:
        """A load ends after its key was changed and perhaps the log lost, and a new container comes to read it."""
        other = 1 - number

        def change_it() -> None:
            self._go_on(number, key, [(other, change)])
            if loses:
                self.lose_the_log()

        if LEASES:
            self.containers[number].ask(key, meanwhile=change_it)
            self._pass(seconds)
            self.replace(other)
            self.containers[other].ask(key)

    @rule()
    def lose_l2(self) -> None:
        """All values, all leases and the log are gone."""
        self.server.flush()
        self._disturb("flush")

    @rule()
    def lose_the_log(self) -> None:
        """The log and the markers are gone, and the values are not."""
        with redis.Redis(port=self.server.port) as admin:
            for name in (*admin.scan_iter("tc1:*:log"), *admin.scan_iter("tc1:*:marks")):
                admin.delete(name)
        self._disturb("flush")

    # What must be true

    @invariant()
    def nothing_is_violated(self) -> None:
        containers = getattr(self, "all_containers", ())
        events = [event for container in containers for event in container.events]
        if len(events) == self.checked:
            return
        self.checked = len(events)
        loads = [load for container in containers for load in container.loads]
        history = History(events, loads, self.origin.versions(), POLICY, tuple(self.disturbances))
        found = violations(history)
        assert found == [], "\n".join(found)


@pytest.fixture(autouse=True, scope="module")
def ways_to_l2(valkey_server: ValkeyServer) -> Iterator[None]:
    """The server, and a proxy for each container, for all runs of the machine."""
    valkey_server.start()
    with ExitStack() as stack:
        Fleet.server = valkey_server
        Fleet.proxies = [stack.enter_context(FaultProxy(valkey_server.host, valkey_server.port)) for _ in range(3)]
        before = footing()
        yield
        for proxy in Fleet.proxies:
            proxy.ok()
        assert leaks(before) == []


TestFleet = Fleet.TestCase
SCHEDULES = int(os.environ.get("TIERED_CACHE_SCHEDULES", "100"))
TestFleet.settings = settings(
    max_examples=SCHEDULES, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestFleet.pytestmark = [pytest.mark.timeout(600 + 10 * SCHEDULES)]
