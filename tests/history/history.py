"""A run as it was: what callers asked and got, what the origin held and gave, and what was done to both meanwhile.

Times are true seconds, known to no container: a caller's own clock is `ahead` of them. In a run with real time they are
those of the monotonic clock, which all processes of a host share; in one with a fake clock, a `TrueTime`.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tiered_cache import NotFound, OriginDenied, OriginThrottled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Value: TypeAlias = tuple[str, str, int, str, str]
"""What the origin gives: namespace, key, version, nonce, and the nonce again and again, which makes sizes differ."""
NEVER = -inf
READS = frozenset({"get_or_load", "get_entry_or_load", "get_many_or_load", "get"})
INVALIDATIONS = frozenset({"delete", "expire", "invalidate_tag", "clear"})
CORRUPTING = frozenset({"flip", "garbage"})
"""What is done to replies and only the envelope of a value can notice: the log's records have no checksum of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One call of one caller, and what came of it. A call for many keys is one event for each of them.

    keys: those that it read, or that it invalidated.
    container: its name; after a dot, how many there were in its place before.
    value: what the origin's `Load` has as its value, if it came through whole; of NotFound, the text.
    error: the name of the exception's type; "" if none.
    ahead: the least by which the container's clock was ahead of true time during the call.
    invocation: when the invocation began in which the call was made; NEVER where there was none.
    trouble: how often the container's L2 had failed, or was not asked, when the call ended.
    gaps: how often it could not follow the log.
    alone: it asked for a load of its own (`force_refresh`). insists: on a fresh value (`stale_ok=False`).
    """

    operation: str
    keys: tuple[str, ...]
    namespace: str
    container: str
    start: float
    end: float
    thread: int = 0
    ahead: float = 0.0
    invocation: float = NEVER
    trouble: int = 0
    gaps: int = 0
    value: Any = None
    error: str = ""
    tier: str = ""
    age: float | None = None
    stale: bool | None = None
    reason: str = ""
    alone: bool = False
    insists: bool = False

    @property
    def answered(self) -> bool:
        """Whether it gave a value, or said that there is none."""
        return self.operation in READS and (self.value is not None or self.error == "NotFound")

    def __str__(self) -> str:
        what = f"{self.operation}({', '.join(self.keys[:3])}) in {self.container} at {self.start:.4f}..{self.end:.4f}"
        return f"{what} -> {self.error or self.tier} {self.reason} {str(self.value)[:60]}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One load, as its container saw it, or one value that a caller wrote to the origin and to the cache.

    began, ended: of a value that was written, those of the call of `cache.set`.
    outcome: "value", "absent", "set" or the name of an exception's type.
    value: as the caller of the cache is to get it; of an absence, the text of NotFound. Has the nonce in it, which is "" for
        a failure.
    """

    namespace: str
    key: str
    version: int
    nonce: str
    container: str
    began: float
    ended: float
    ahead: float = 0.0
    outcome: str = "value"
    value: Any = None
    alone: bool = False
    batch: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """What was done to the run, from `start` to `end`. `container`: to one alone, and those in its place; "": to all."""

    name: str
    start: float
    end: float
    container: str = ""

    def met(self, container: str, start: float, end: float) -> bool:
        """Whether it may have touched that container in that time."""
        place = container.partition(".")[0]
        return self.container in ("", place) and self.start <= end and start <= self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the caches of the run promise.

    fresh_for, stale_while_revalidate, stale_if_error, negative_ttl: those of the outermost tier.
    l1_for: the longest for which L1 answers without asking L2.
    coherence: as the caches' option.
    longest: seconds that a call may take, with all its loads and all its tries at L2.
    joining: seconds that a refresh in the background may have been at L2 when a call joins it, and gets its answer.
    leases: whether fills are fenced by leases, and a log tells others of invalidations.
    one_for_all: whether each load is the only one in the fleet: L2 answers all the time, and nobody loses patience.
    """

    fresh_for: float = 60.0
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    negative_ttl: float = 0.0
    l1_for: float = 60.0
    coherence: Literal["ttl", "invocation"] | float = "ttl"
    longest: float = inf
    joining: float = 0.0
    leases: bool = False
    one_for_all: bool = False

    @property
    def kept_for(self) -> float:
        return self.fresh_for + max(self.stale_while_revalidate, self.stale_if_error)


@dataclass(frozen=True)
class History:
    """All that is known of a run. `versions`: for each (namespace, key), since when each version is the current one.

    stall: the longest for which the machine let a thread wait that wanted to run.
    """

    events: Sequence[Event]
    loads: Sequence[Load]
    versions: dict[tuple[str, str], Sequence[float]]
    policy: Policy = Policy()
    disturbances: Sequence[Disturbance] = ()
    stall: float = 0.0

    @property
    def late(self) -> float:
        """By how much a thread may be late that had to wait for its turn some times."""
        return 3 * self.stall

    @cached_property
    def by_nonce(self) -> dict[str, Load]:
        return {load.nonce: load for load in self.loads if load.nonce}

    @cached_property
    def changes(self) -> dict[tuple[str, str], list[Event]]:
        """For each (namespace, key) what invalidated or set it."""
        found: dict[tuple[str, str], list[Event]] = {}
        for event in self.events:
            if event.operation in INVALIDATIONS or event.operation == "set":
                for key in event.keys:
                    found.setdefault((event.namespace, key), []).append(event)
        return found

    @cached_property
    def calls(self) -> dict[tuple[str, str, str], list[Event]]:
        """For each (container, namespace, key) the calls that read it."""
        found: dict[tuple[str, str, str], list[Event]] = {}
        for event in self.events:
            if event.operation in READS:
                found.setdefault((event.container, event.namespace, event.keys[0]), []).append(event)
        return found

    @cached_property
    def answers(self) -> list[Event]:
        return [event for event in self.events if event.answered]

    def source(self, event: Event) -> Load | None:
        """The load that an answer comes from, by the nonce in it."""
        return self.by_nonce.get(nonce_of(event.value))

    def version_at(self, namespace: str, key: str, moment: float) -> int:
        """The version that was current at `moment`; versions are counted from 1."""
        return max(1, bisect_right(self.versions.get((namespace, key), ()), moment))

    def disturbed(self, container: str, start: float, end: float, names: frozenset[str] | None = None) -> bool:
        """Whether anything was done to `container` in that time: anything at all, or one of `names`."""
        return any(one.met(container, start, end) and (names is None or one.name in names) for one in self.disturbances)

    @cached_property
    def _troubles(self) -> dict[str, list[float]]:
        return self._rises(lambda event: event.trouble)

    @cached_property
    def _gaps(self) -> dict[str, list[float]]:
        return self._rises(lambda event: event.gaps)

    def _rises(self, counted: Callable[[Event], int]) -> dict[str, list[float]]:
        """When a count was seen to have grown, for each container."""
        found: dict[str, list[float]] = {}
        most: dict[str, int] = {}
        for event in sorted(self.events, key=lambda event: event.end):
            if counted(event) > most.get(event.container, 0):
                most[event.container] = counted(event)
                found.setdefault(event.container, []).append(event.end)
        return found

    @cached_property
    def _looks(self) -> dict[str, list[tuple[float, float]]]:
        """For each container when the first call of each invocation had ended, and when that invocation began."""
        first: dict[tuple[str, float], float] = {}
        for event in self.events:
            if event.invocation > NEVER:
                name = (event.container, event.invocation)
                first[name] = min(event.end, first.get(name, inf))
        found: dict[str, list[tuple[float, float]]] = {}
        for (container, began), ended in first.items():
            if self.reached(container, began, ended):
                found.setdefault(container, []).append((ended, began))
        return {container: sorted(looks) for container, looks in found.items()}

    def heard_until(self, container: str, moment: float) -> float:
        """The time until which `container` had heard of all invalidations, when it was `moment`."""
        looks = self._looks.get(container, [])
        place = bisect_right(looks, (moment, inf))
        return max((began for _, began in looks[:place]), default=NEVER)

    def reached(self, container: str, start: float, end: float) -> bool:
        """Whether L2 answered that container all the time, as far as its counters tell."""
        times = self._troubles.get(container, [])
        return bisect_right(times, start) == bisect_right(times, end)

    def gapped(self, container: str, start: float, end: float) -> bool:
        """Whether that container may have found in that time that it could not follow the log."""
        times = self._gaps.get(container, [])
        return bisect_right(times, start) != bisect_right(times, end + 1.0)  # seen when a call ends


def nonce_of(value: Any) -> str:
    """The nonce in an answer of the origin; "" if it is none."""
    if isinstance(value, tuple) and len(value) == 5:
        return str(value[3])
    return value.partition(" ")[0] if isinstance(value, str) else ""


class TrueTime:
    """Time that passes when told to, and a little each time it is read: so that what came first is earlier."""

    def __init__(self) -> None:
        self.passed = 0.0
        self._ticks = count(1)

    def __call__(self) -> float:
        return self.passed + next(self._ticks) * 1e-7


class OriginDown(OSError):
    """The origin cannot be reached: a passing failure."""


class Origin:
    """The truth: for each key a current version, and since when each was current. Each answer has a nonce of its own.

    `mode`: "ok", "down", "throttled" or "denied"; `delay`: seconds before it looks at what is current, and after.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._versions: dict[tuple[str, str], list[float]] = {}
        self._absent: set[tuple[str, str]] = set()
        self._mark = f"v{os.urandom(6).hex()}-"
        self._mode = "ok"
        self._delay = (0.0, 0.0)

    def change(self, namespace: str, keys: Sequence[str], *, absent: bool = False) -> None:
        """Make a new version of each key the current one: a value, or that there is none."""
        with self._lock:
            for key in keys:
                name = (namespace, key)
                self._versions.setdefault(name, [NEVER]).append(self._now())
                (self._absent.add if absent else self._absent.discard)(name)

    def write(self, namespace: str, key: str) -> Value:
        """Make a new version current, and give it."""
        self.change(namespace, (key,))
        return self._read(namespace, key)[0]

    def load(self, namespace: str, key: str) -> Value:
        """The current version, as it is after the first delay. Raises NotFound where there is none, and what the mode says."""
        (before, after), mode = self._delay, self._mode
        if before:
            time.sleep(before)
        value, absent = self._read(namespace, key)
        if after:
            time.sleep(after)
        failures = {
            "down": OriginDown("the origin is down"),
            "throttled": OriginThrottled("slow down"),
            "denied": OriginDenied("no"),
        }
        if mode in failures:
            raise failures[mode]
        if absent:
            raise NotFound(f"{value[3]} {value[2]}")
        return value

    def _read(self, namespace: str, key: str) -> tuple[Value, bool]:
        """The current version, and whether it says that there is none."""
        with self._lock:
            version = len(self._versions.setdefault((namespace, key), [NEVER]))
            number = next(self._numbers)
            absent = (namespace, key) in self._absent
        nonce = f"{self._mark}{number}"
        return (namespace, key, version, nonce, nonce * (1 + number % 40)), absent

    def versions(self) -> dict[tuple[str, str], Sequence[float]]:
        """Since when each version of each key was current."""
        with self._lock:
            return {name: tuple(since) for name, since in self._versions.items()}

    def set_mode(self, mode: str) -> None:
        """See `mode`."""
        self._mode = mode

    def set_delay(self, before: float, after: float) -> None:
        """See `delay`."""
        self._delay = (before, after)

    def get_mark(self) -> str:
        """What each value has in it, and nothing else in the run: no log may show it."""
        return self._mark


def pairs_in_flight(loads: Sequence[Load]) -> Iterator[tuple[Load, Load]]:
    """Loads of one key of which the second began while the first was in flight."""
    by_key: dict[tuple[str, str], list[Load]] = {}
    for load in loads:
        if load.outcome != "set":
            by_key.setdefault((load.namespace, load.key), []).append(load)
    for same in by_key.values():
        same.sort(key=lambda load: load.began)
        open_loads: list[Load] = []
        for load in same:
            open_loads = [earlier for earlier in open_loads if earlier.ended > load.began]
            yield from ((earlier, load) for earlier in open_loads)
            open_loads.append(load)
