"""The invariants of a history, each a pure function that says in sentences what violates it. See `CHECKS` at the end.

What a check cannot decide it lets pass, and its docstring says what that is; `test_checks.py` shows that each can fail.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from history import CORRUPTING, NEVER, READS, Event, History, Load, pairs_in_flight

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TOLERANCE = 0.01
"""Seconds between the readings of two clocks that belong together."""
STALE_REASONS = frozenset({"revalidating", "load_failed", "load_slow", "load_pending", "load_elsewhere", "no_time"})
SOON = 0.02
"""Seconds within which a call that joined a load has its outcome, if the machine does not stall."""
SKEW = 1.0
"""Seconds by which the clocks of two containers may differ unnoticed."""
AHEAD = 2 * SKEW
"""Seconds by which a stamp may be ahead of the container's clock: also what a load may begin late."""
HOLDING = frozenset({"value", "absent", "set"})
UNDELIVERED = "InvalidationNotDelivered"
FROZEN = frozenset({"freeze"})
LOG_LOST = frozenset({"flush", "kill"})
CLOCK = frozenset({"clock is set"})


def truth(history: History) -> Iterator[str]:
    """I1: a value is one that the origin held for that key while a load of it ran, and it is whole."""
    for event in history.answers:
        load = history.source(event)
        key = event.keys[0]
        if load is None:
            if event.value is not None:
                yield f"a value that no load gave: {event}"
        elif load.key != key:
            yield f"the value of {load.key}: {event}"
        elif event.value != load.value:
            yield f"a value that is torn: {event}"
        elif load.outcome not in HOLDING:
            yield f"a value of a load that failed: {event}"
        elif load.began > event.end:
            yield f"a value of a load that began only at {load.began:.4f}: {event}"
        elif not _was_current(history, load):
            yield f"a value of a version {load.version} that was not current during its load: {event}"


def _was_current(history: History, load: Load) -> bool:
    began, ended = (history.version_at(load.namespace, load.key, moment) for moment in (load.began, load.ended))
    return load.outcome == "set" or began <= load.version <= ended


def age(history: History) -> Iterator[str]:
    """I2: as fresh only within `fresh_for`, and at all only within the stale windows, by the container's own clock.

    A container believes the stamps of others, so the difference of their clocks counts. An answer with the value of a
    load that was under way during the call is let pass: the caller gets it, however long that took. So is a call during
    which the clock was set. Who joined another's call gets what was true when that one began (`joining`).
    """
    policy = history.policy
    for event in history.answers:
        load = history.source(event)
        if load is None or history.disturbed(event.container, event.start, event.end, CLOCK):
            continue
        joining = event.start - _asked_since(history, event.container, load, event.start)
        if (event.tier, event.reason) != ("l1", "fresh"):
            joining = max(joining, policy.joining + history.late)
        if load.ended >= event.start - joining:
            continue
        began = load.ended if load.outcome == "set" else load.began  # somewhen in the call of `set` it was stamped
        old = (event.start + event.ahead) - (began + load.ahead)
        negative = load.outcome == "absent"
        fresh_for = policy.negative_ttl if negative else policy.fresh_for
        limit = fresh_for if event.stale is False or negative else policy.kept_for
        if old >= limit + joining + TOLERANCE:
            yield f"{old:.4f} s old, which may be {limit:g} at most: {event}"
        if event.tier == "l2" and old < -AHEAD:
            yield f"{-old:.4f} s younger than nothing: {event}"
        if event.age is not None and event.age < old - joining - TOLERANCE:
            yield f"said to be {event.age:.4f} s old, and is {old:.4f}: {event}"


def _asked_since(history: History, container: str, load: Load, moment: float) -> float:
    """When the earliest of those calls of the container began that were under way at `moment`, for the load's key."""
    calls = history.calls.get((container, load.namespace, load.key), ())
    return min((one.start for one in calls if one.start <= moment <= one.end), default=moment)


class _Change(NamedTuple):
    """An invalidation of a key, or a value set: no version before `version` is to be seen by who has heard of it."""

    end: float
    version: int
    event: Event


def no_resurrection(history: History) -> Iterator[str]:
    """I3: who has heard of an invalidation sees no version older than the origin's when it was called.

    In one container: a call that begins after `delete`, `expire`, `invalidate_tag`, `clear` or `set` returned, whatever
    came of it. In the others: after it returned without an error, as soon as `coherence` says, if their L2 answered since.
    `expire` lets a stale value be served, marked so; a call that does not tell is let pass. A value that a caller set
    is let pass unless that had ended before the invalidation was called: it may have come after it. Without leases, what
    others load may bring back an old version.
    """
    changes = _changes(history)
    for event in history.answers:
        load = history.source(event)
        if load is None or load.namespace != event.namespace:
            continue
        known = changes.get((event.namespace, event.keys[0]))
        if known is None or load.version >= known.highest_before(event.start):
            continue
        for change in known.all:
            if change.end > event.start:
                break
            if (
                load.version < change.version
                and _heard(history, event, change.event)
                and _forbids(change.event, event, load)
            ):
                yield f"version {load.version} after {change.event}, which made it {change.version}: {event}"
                break


class _Changes:
    """The changes of one key in the order in which they ended."""

    def __init__(self, changes: list[_Change]) -> None:
        self.all = sorted(changes, key=lambda change: change.end)
        self._ends = [change.end for change in self.all]
        self._highest = [0, *accumulate((change.version for change in self.all), max)]

    def highest_before(self, moment: float) -> int:
        return self._highest[bisect_left(self._ends, moment)]


def _changes(history: History) -> dict[tuple[str, str], _Changes]:
    def version(name: tuple[str, str], event: Event) -> int:
        load = history.source(event)  # of a value set
        return load.version if load else history.version_at(*name, event.start)

    return {
        name: _Changes([_Change(event.end, version(name, event), event) for event in events])
        for name, events in history.changes.items()
    }


def _heard(history: History, event: Event, change: Event) -> bool:
    """Whether `change` had come to the container of `event` when that began."""
    policy = history.policy
    if event.container == change.container:
        source = history.source(event)
        return policy.leases or source is None or source.container == change.container
    if change.error or change.operation == "set" or not policy.leases:
        return False
    match policy.coherence:
        case "invocation":
            since = event.invocation
        case "ttl":
            since = event.start - policy.l1_for
        case seconds:
            since = event.start - seconds
    if change.end > since or not history.reached(event.container, since, event.end + 1.0 + history.late):
        return False
    return not history.disturbed(event.container, change.start, event.end, CORRUPTING)


def _forbids(change: Event, event: Event, load: Load) -> bool:
    if load.outcome == "set" and load.ended >= change.start:
        return False
    if change.operation == "expire":
        return event.stale is False
    return not (change.operation == "set" and change.error)


def availability(history: History) -> Iterator[str]:
    """I4: what is raised was raised by a load of that key during the call, and only where nothing stale may cover for it.

    For a batch, by a load of any of its keys.

    That something may is judged by what the very container answered out of its L1 before, if no invalidation may have
    come to it since, its clock was not set, and the log was not lost.
    An invalidation raises only InvalidationNotDelivered, and that only if L2 failed it.
    """
    by_key: dict[tuple[str, str], list[Load]] = {}
    for load in history.loads:
        by_key.setdefault((load.namespace, load.key), []).append(load)
    latest: dict[tuple[str, str, str], list[Event]] = {}
    for event in sorted(history.events, key=lambda event: event.end):
        name = (event.container, event.namespace, event.keys[0] if event.keys else "")
        if event.operation not in READS:
            if event.error not in ("", UNDELIVERED):
                yield f"an error that only a load may raise: {event}"
        elif event.error not in ("", "NotFound"):
            batch = event.operation == "get_many_or_load"
            loads = history.loads if batch else by_key.get(name[1:], ())
            late = event.start - SOON - history.late
            if not any(_raised(load, event, late) for load in loads if load.batch == batch):
                yield f"an error that no load of the key raised meanwhile: {event}"
            elif _may_be_covered(event) and (cover := _cover(history, event, latest.get(name, []))):
                yield f"raised, though this value covers for it: {cover}; {event}"
        elif event.answered:
            latest.setdefault(name, []).append(event)


def _raised(load: Load, event: Event, late: float) -> bool:
    """Whether the failure of that load, if it had not ended at `late`, may be what the call raised."""
    return load.outcome == event.error and load.began <= event.end and late <= load.ended


def _may_be_covered(event: Event) -> bool:
    """Denial never is, nor who insists on fresh; and of a batch all keys must be."""
    return event.error != "OriginDenied" and not event.insists and event.operation != "get_many_or_load"


def _cover(history: History, event: Event, before: Sequence[Event]) -> Event | None:
    """One of the container's last answers, out of its L1, that might have been given again."""
    for held in reversed(before[-3:]):
        load = history.source(held)
        if held.tier != "l1" or held.end > event.start or load is None or load.outcome != "value":
            continue
        old = (event.end + event.ahead) - (load.began + load.ahead)
        if not -TOLERANCE <= old < history.policy.kept_for - TOLERANCE:
            continue
        if any(
            _may_end(history, change, held, event) for change in history.changes.get((load.namespace, load.key), ())
        ):
            continue
        heard = history.heard_until(held.container, held.start)
        if not history.disturbed(event.container, min(heard, load.began), event.end, LOG_LOST | CLOCK | CORRUPTING):
            return held
    return None


def _may_end(history: History, change: Event, held: Event, event: Event) -> bool:
    """Whether that change may be why what L1 held at `held` is not there at `event`."""
    if change.start > event.end:
        return False
    if change.error:
        return True  # delivered later, and then it concerns what was loaded meanwhile
    if change.container == held.container:
        return change.end >= held.start
    return change.end >= history.heard_until(held.container, held.start)


def in_time(history: History) -> Iterator[str]:
    """I5: a call ends within the time that its loads and its tries at L2 may take, a container's freeze not counted."""
    limit = history.policy.longest + history.late
    for event in history.events:
        took = event.end - event.start
        if took <= limit:
            continue
        frozen = sum(
            min(event.end, one.end) - max(event.start, one.start)
            for one in history.disturbances
            if one.name in FROZEN and one.met(event.container, event.start, event.end)
        )
        if took - frozen > limit:
            yield f"{took:.3f} s, which may be {limit:.3f} at most: {event}"


def one_load(history: History) -> Iterator[str]:
    """I6: at most one load of a key is in flight in a container; where the policy says so, in the whole fleet.

    Let pass: a load of a batch (its flight is that of its keys together); one that asks to be alone, and what begins
    while that one's call lasts or after; what begins after an invalidation of the key that the earlier load's container
    may have heard of only since either was asked for, or when it has counted a gap in the log, or the log may be lost or
    spoilt, or the container has not looked yet.
    """
    calls_alone = _calls_alone(history)
    for first, second in pairs_in_flight(history.loads):
        if first.batch or second.batch or first.alone or second.alone:
            continue
        name = (first.namespace, first.key)
        same = first.container == second.container
        if not same and not history.policy.one_for_all:
            continue
        if any(start <= second.began and first.began <= end for start, end in calls_alone.get(name, ())):
            continue
        since = min(_asked_since(history, load.container, load, load.began) for load in (first, second))
        if any(_may_part(history, event, first, second, since) for event in history.changes.get(name, ())):
            continue
        heard = history.heard_until(first.container, since)
        gapped = heard == NEVER or history.gapped(first.container, since, second.began)
        if same and gapped and history.policy.leases:
            continue
        if history.disturbed(first.container, heard, second.began, LOG_LOST | CORRUPTING):
            continue
        where = f"in {first.container}" if same else f"in {first.container} and {second.container}"
        yield (
            f"two loads of {first.key} in flight {where}: "
            f"{first.began:.4f}..{first.ended:.4f} and {second.began:.4f}..{second.ended:.4f}"
        )


def _calls_alone(history: History) -> dict[tuple[str, str], list[tuple[float, float]]]:
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for event in history.events:
        if event.alone:
            found.setdefault((event.namespace, event.keys[0]), []).append((event.start, event.end))
    return found


def _may_part(history: History, event: Event, first: Load, second: Load, since: float) -> bool:
    """Whether that invalidation may be why the second load, asked for since then, did not join the first."""
    if event.start > second.began:
        return False
    if event.error:
        return True  # delivered at some later time
    if event.container == first.container == second.container:
        return event.end >= since
    if not history.policy.leases:
        return False
    return event.end >= since - 1.0 - history.late or event.end > history.heard_until(first.container, since)


def honest_absence(history: History) -> Iterator[str]:
    """I7: 'there is none' only where the origin said so for that key, within `negative_ttl` or during the call."""
    absences: dict[tuple[str, str], list[Load]] = {}
    for load in history.loads:
        if load.outcome == "absent":
            absences.setdefault((load.namespace, load.key), []).append(load)
    for event in history.events:
        if event.error != "NotFound":
            continue
        said = absences.get((event.namespace, event.keys[0]), [])
        if event.value is not None:
            said = [load for load in said if load.value == event.value]
        if not any(_may_say(history, event, load) for load in said):
            yield f"an absence that the origin did not speak of: {event}"


def _may_say(history: History, event: Event, load: Load) -> bool:
    old = (event.start + event.ahead) - (load.began + load.ahead)
    return load.began <= event.end and (load.ended >= event.start or old < history.policy.negative_ttl + TOLERANCE)


def isolation(history: History) -> Iterator[str]:
    """I8: no value crosses from one namespace to another."""
    for event in history.answers:
        load = history.source(event)
        if load is not None and load.namespace != event.namespace:
            yield f"a value of the namespace {load.namespace}: {event}"


def visible(history: History) -> Iterator[str]:
    """I12: a degraded answer says so, and an L2 that fails is counted.

    A stale answer has a reason to be stale and a fresh one has not; an invalidation that L2 did not take comes with a
    count of L2's failures.
    """
    for event in history.events:
        judged = event.stale is not None and event.reason and event.tier != "origin"
        if judged and event.stale != (event.reason in STALE_REASONS):
            yield f"stale is {event.stale}: {event}"
        if event.error == UNDELIVERED and not event.trouble:
            yield f"L2 did not take it, and nothing counts that: {event}"


CHECKS: dict[str, Callable[[History], Iterator[str]]] = {
    "I1 truth": truth,
    "I2 age": age,
    "I3 no resurrection": no_resurrection,
    "I4 availability": availability,
    "I5 time": in_time,
    "I6 load": one_load,
    "I7 honest negatives": honest_absence,
    "I8 isolation": isolation,
    "I12 visible": visible,
}


def violations(history: History) -> list[str]:
    """What violates any invariant."""
    return [f"{name}: {sentence}" for name, check in CHECKS.items() for sentence in check(history)]
