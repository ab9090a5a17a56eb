"""The rules of freshness: pure functions of (an entry's times, now, policy).

They know no clock, no I/O, no randomness and no logging; whatever varies is an argument. All times are wall-clock
seconds since 1970, all durations seconds. The words are those of RFC 9111 (fresh, stale) and RFC 5861
(stale-while-revalidate, stale-if-error); both stale windows count from the end of freshness.
"""

from __future__ import annotations

from enum import Enum, auto
from math import inf, log
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Protocol

    class Data(Protocol):
        """How long data live: stamped when their load starts, by the outermost tier's policy, and the same in every tier."""

        @property
        def loaded_at(self) -> float: ...
        @property
        def fresh_for(self) -> float: ...
        @property
        def stale_while_revalidate(self) -> float: ...
        @property
        def stale_if_error(self) -> float: ...

    class Held(Data, Protocol):
        """Data held in L1, which may answer for `local_ttl` after L2 or the origin last vouched for them."""

        @property
        def confirmed_at(self) -> float: ...
        @property
        def local_ttl(self) -> float: ...
        @property
        def local_stale(self) -> float: ...
        @property
        def doubtful(self) -> bool: ...


SKEW = 1.0
"""Seconds by which another host's clock may be ahead, or our own may step back, before an age counts as negative."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two looks at a load that goes on elsewhere."""
LEAST_AWAITED = 3600.0
"""Seconds for which such a load is waited for, however soon its data are past all windows."""


class Freshness(NamedTuple):
    """A tier's policy, in seconds; `jitter` is the share of `ttl` by which an entry may be cut short."""

    ttl: float
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    jitter: float = 0.0


class Verdict(Enum):
    """What an entry is worth at a moment, best first."""

    FRESH = auto()
    REVALIDATE = auto()
    """May be served at once, and a refresh is owed."""
    UNCONFIRMED = auto()
    """Fresh by the data's own limit, but L1's time is up: the next tier is to be asked."""
    FAILING = auto()
    """May be served only if a load fails for a passing reason."""
    GONE = auto()


class Move(Enum):
    """What the shell does next."""

    SERVE = auto()
    """Answer with the entry: it is fresh."""
    SERVE_AND_REFRESH = auto()
    """Answer with the entry at once; one refresh is owed."""
    SERVE_STALE = auto()
    """Answer with the entry; the last load failed so lately that none is tried."""
    SERVE_UNCONFIRMED = auto()
    """Answer with the entry: nobody can vouch for it now, and the data are fresh."""
    SERVE_MEANWHILE = auto()
    """Answer with the entry, which is stale: another container is loading the key."""
    WAIT = auto()
    """Wait for the container that is loading the key."""
    LOOK = auto()
    """Answer with the entry, which is stale, unless the next tier has a newer one: its refresh is left to others."""
    ASK = auto()
    """Ask the next tier."""
    LOAD = auto()
    """Run the loader."""


def judge_data(data: Data, now: float) -> Verdict:
    """What data are worth by their own limit alone, in whatever tier they were found."""
    age = now - data.loaded_at
    if not age >= -SKEW:
        return Verdict.GONE  # a negative age says nothing about the true one
    over = max(age, 0.0) - data.fresh_for
    if over < 0:
        return Verdict.FRESH
    if over < data.stale_while_revalidate:
        return Verdict.REVALIDATE
    return Verdict.FAILING if over < data.stale_if_error else Verdict.GONE


def judge(held: Held, now: float) -> Verdict:
    """What an L1 entry is worth: the data's own limit, and within it how long L1 may answer without asking."""
    verdict = judge_data(held, now)
    if verdict is Verdict.REVALIDATE and held.doubtful:
        return Verdict.FAILING  # stale and perhaps invalidated: L2 is to be asked first
    if verdict is not Verdict.FRESH:
        return verdict
    if held.doubtful:
        return Verdict.UNCONFIRMED
    unasked = now - held.confirmed_at
    if -SKEW <= unasked < held.local_ttl:
        return Verdict.FRESH
    return Verdict.REVALIDATE if 0 <= unasked - held.local_ttl < held.local_stale else Verdict.UNCONFIRMED


def is_unasked(held: Held, now: float) -> bool:
    """Whether L1's own time is up, with its stale window: it has not asked the next tier for so long."""
    return not now - held.confirmed_at < held.local_ttl + held.local_stale


def on_l1(
    verdict: Verdict, *, early: bool, stale_ok: bool, backing_off: bool, owed: bool = False, unasked: bool = False
) -> Move:
    """The move after a look into L1.

    `early`: a refresh ahead of time is due. `backing_off`: the last load failed lately. `owed`: a refresh is owed already,
    and not under way here. `unasked`: see `is_unasked`; another container may have loaded since.
    """
    match verdict:
        case Verdict.FRESH:
            return Move.SERVE_AND_REFRESH if early and not backing_off else Move.SERVE
        case Verdict.REVALIDATE if stale_ok and unasked and (owed or backing_off):
            return Move.LOOK
        case Verdict.REVALIDATE if stale_ok:
            return Move.SERVE_STALE if backing_off else Move.SERVE_AND_REFRESH
        case Verdict.FAILING if stale_ok and backing_off:
            return Move.LOOK if unasked else Move.SERVE_STALE
        case _:
            return Move.ASK


def on_l2(
    verdict: Verdict,
    *,
    vouched: bool,
    reached: bool,
    refreshing: bool,
    stale_ok: bool,
    backing_off: bool,
    early_due: bool = False,
    taken: bool = False,
) -> Move:
    """The move after a look into L2, for the newest data that L1 and L2 hold.

    `vouched`: L2 holds data that settle the question. `reached`: L2 could be asked (True too where there is none).
    `refreshing`: this is the owed refresh of stale data, for which only fresh ones will do.
    `early_due`: these very data are to be refreshed ahead of time, so that their being fresh settles nothing.
    `taken`: another container holds the lease, and is loading. Who has something to serve does not wait for it.
    """
    match verdict:
        case Verdict.FRESH if vouched and not (early_due and not taken):
            return Move.SERVE
        case Verdict.FRESH if (taken or not reached) and not (early_due and not taken):
            return Move.SERVE_UNCONFIRMED
        case Verdict.REVALIDATE if stale_ok and not refreshing:
            return Move.SERVE_STALE if backing_off else Move.SERVE_AND_REFRESH
        case Verdict.FRESH | Verdict.FAILING if stale_ok and backing_off:
            return Move.SERVE_STALE
        case Verdict.REVALIDATE | Verdict.FAILING if stale_ok and taken:
            return Move.SERVE_MEANWHILE
        case _:
            return Move.WAIT if taken else Move.LOAD


def expired(loaded_at: float, fresh_for: float, stale_if_error: float, now: float) -> tuple[float, float]:
    """`fresh_for` and `stale_if_error` of data that are to be fresh no longer, by any clock; they are kept as if ended now."""
    return 0.0, stale_if_error + min(fresh_for, max(now - loaded_at, 0.0))


def covers(data: Data, now: float) -> bool:
    """Whether data may stand in for a load that failed for a passing reason."""
    return judge_data(data, now) is not Verdict.GONE


def kept_for(data: Data) -> float:
    """Seconds from `loaded_at` after which no tier needs to keep the data: past all windows."""
    return data.fresh_for + max(data.stale_while_revalidate, data.stale_if_error)


def longest(policy: Freshness) -> float:
    """Seconds from its load after which no value by this policy may be served, unless it has a `ttl` of its own."""
    return policy.ttl + max(policy.stale_while_revalidate, policy.stale_if_error)


def pause_before_look(going_on: float) -> float:
    """Seconds until anybody looks again at a load that goes on elsewhere, for so many seconds so far: a tenth of these."""
    return min(LONGEST_PAUSE, max(SHORTEST_PAUSE, going_on / 10))


def awaited_for(data: Data) -> float:
    """Seconds from `loaded_at` for which data are awaited whose load goes on elsewhere: at least an hour."""
    return max(kept_for(data), LEAST_AWAITED)


def fresh_until(held: Held) -> float:
    """The moment at which a plain hit ends to be one; of what is never fresh, before all clocks."""
    return min(held.loaded_at + held.fresh_for, held.confirmed_at + held.local_ttl) if held.fresh_for else -inf


def has_time(remaining: float | None, load_time: float) -> bool:
    """Whether a load can be expected to end within `remaining`, if the last one took `load_time` (0: nobody knows)."""
    return remaining is None or remaining > load_time


def early_at(expiry: float, load_time: float, weight: float, uniform: float) -> float:
    """The moment from which a refresh ahead of `expiry` is due: XFetch (Vattani et al., VLDB 2015).

    A read at `now` refreshes early if now - weight * load_time * ln(u) >= expiry, with u uniform in (0, 1]; so with t
    seconds left it does with probability exp(-t / (weight * load_time)). Here u is drawn once for each stored copy
    instead of at each read, so that a hit draws nothing; for the first read after the moment the probability is the same.
    """
    if weight <= 0 or load_time <= 0:
        return inf
    return expiry + weight * load_time * log(max(uniform, 5e-324))


def jittered(ttl: float, jitter: float, uniform: float) -> float:
    """`ttl` cut by up to the share `jitter`; `uniform` in [0, 1). Downwards only, so that no bound is ever exceeded."""
    return ttl * (1.0 - jitter * uniform)


def pause_after(failures: int, backoff: float, uniform: float) -> float:
    """Seconds without another try after that many failed loads in a row: doubling up to 64 times `backoff`, spread."""
    return backoff * (1 << min(failures - 1, 6)) * (0.75 + 0.25 * uniform)
