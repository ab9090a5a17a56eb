"""Counters, and the frozen picture of them that `cache.stats()` gives."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class MemoryStats(NamedTuple):
    """L1: what it answered and what it holds."""

    hits: int
    """Answers from fresh entries."""
    stale_hits: int
    """Answers from entries past their freshness, for whatever reason; none where a refresh at once gave another answer."""
    misses: int
    """Calls that had to go on to the next tier, or whose answer a refresh at once gave."""
    entries: int
    bytes: int
    """What the entries cost in memory, as the sizer measures it."""
    max_bytes: int
    evictions: int
    """Entries dropped to make room; with a policy of cachetools that has times of its own, also those whose time was up."""
    oversized: int
    """Values returned but not stored, being larger than the whole budget or than the memory that was left, or of a size
    that nobody can say."""


class SharedStats(NamedTuple):
    """L2: what it answered, and why it did not."""

    hits: int
    misses: int
    """Reads that it answered with 'not here'."""
    writes: int
    deletes: int
    skipped: int
    """Calls not made, since the breaker was open, or a warm-up was still under way."""
    errors: Mapping[str, int]
    """Failed calls by class of failure: timeout, refused, reset, resolve, auth, permission, tls, out_of_memory, ..."""
    unreadable: Mapping[str, int]
    """Entries that were there and not to be trusted, each a miss, by what was wrong: checksum, key, version, ..."""
    unserializable: int
    """Values that the codec could not carry, kept in L1 alone."""
    breaker: str
    """`"closed"`, `"open"` or `"half-open"`."""
    connects: int
    """Connections made."""
    leases: int = 0
    """Leases won: rights to load a key for the whole fleet."""
    refused: int = 0
    """Fills refused: the lease had run out, or the key was invalidated during the load."""
    looks: int = 0
    """Looks into the log of invalidations."""
    look_failures: int = 0
    """Looks that came to nothing: L1 then goes on without."""
    applied: int = 0
    """Invalidations found there, by whatever container."""
    gaps: int = 0
    """Looks after which the log could not be followed, so that L1 had to be confirmed anew."""
    dead: int = 0
    """Entries read that had been invalidated since their load began, each a miss."""
    undelivered: int = 0
    """Invalidations that L2 has not taken yet."""
    over_budget: int = 0
    """Calls not made, since the invocation's share of time for L2 was spent."""


class OriginStats(NamedTuple):
    """The loaders: how often they ran, and what came of it."""

    loads: int
    """Loader runs that gave a value, or 'not modified'."""
    shared: int
    """Calls that got the outcome of a load that another call ran."""
    waited: int
    """Loads that waited for another container's load of the same key."""
    not_modified: int
    not_found: int
    failures: int
    """Loader runs that raised something else than NotFound."""
    covered: int
    """Failures that a value held covered for: a stale one, or one that was to be refreshed ahead of time."""
    timeouts: int
    """Calls that stopped waiting for a load: a stale answer after `soft_timeout`, or a LoadTimeout."""
    too_late: int
    """Loads that were not begun, since they could not have ended before the invocation."""
    clipped: int
    """Time limits that were longer than what the invocation had left, and were cut to that."""
    seconds: float
    """Time spent in loaders."""
    refreshes: int
    """Refreshes owed by stale hits."""
    refresh_failures: int
    """Refreshes handed to a carrier that came to nothing."""
    pending: int = 0
    """Loader runs that answered 'pending': their loads go on elsewhere."""
    resumed: int = 0
    """Loader runs that took up what an earlier one had left, in whatever container."""


class WorkStats(NamedTuple):
    """What `cache.after_response` was given; and of that and the refreshes put off together, what waits and was never run.

    `OriginStats` counts the refreshes that were owed, and their failures.
    """

    deferred: int
    """Pieces that `cache.after_response` was given: done, or waiting, dropped or running now."""
    done: int
    """Of those, the ones that were run, also those that failed."""
    failures: int
    """Of those done, the ones that raised, or gave a coroutine, which nobody runs."""
    waiting: int
    """Pieces and refreshes that wait now."""
    put_off: int
    """Times when an invocation left some to the next: its time was up, or the work itself had put more off."""
    dropped: int
    """Pieces that were never run: too much waited, or the cache was closed; at its closing, refreshes too."""


class ContainerStats(NamedTuple):
    """The container, as far as invocations are marked: see `aws_lambda.lambda_handler`."""

    id: str
    """A random name of this process, which neither a fork nor a restored snapshot shares."""
    cold_starts: int
    """1 from the first invocation on, and one more for each restored snapshot's first: add them up over a fleet."""
    restores: int
    invocations: int
    age: float
    """Seconds since the first invocation began, by the wall clock."""
    frozen: float
    """Seconds between invocations, by the wall clock: frozen, where the platform freezes idle containers."""
    thaws: int
    """Invocations after so long a gap that idle connections were not trusted."""


class Stats(NamedTuple):
    """All counters of one cache since it was made."""

    l1: MemoryStats
    l2: SharedStats | None
    origin: OriginStats
    work: WorkStats
    container: ContainerStats


class Counters(Counter[str]):
    """Counters by name, as the parts of a cache keep them: a missing one is 0, and none is ever removed."""

    def group(self, prefix: str) -> dict[str, int]:
        """The counters whose name begins with `prefix` and a dot, without both."""
        start = prefix + "."
        return {name[len(start) :]: count for name, count in list(self.items()) if name.startswith(start)}


def origin_stats(counts: Counters, seconds: float) -> OriginStats:
    """The picture of the loaders: each counter has its field's name."""
    return OriginStats._make(counts[name] for name in OriginStats._fields)._replace(seconds=seconds)


def work_stats(counts: Counters, waiting: int) -> WorkStats:
    """The picture of the work put off."""
    return WorkStats(
        deferred=counts["deferred"],
        done=counts["deferred_done"],
        failures=counts["deferred_failures"],
        waiting=waiting,
        put_off=counts["put_off"],
        dropped=counts["dropped"],
    )
