"""What stands around the shared tier: its absence; and the log that is followed along with what is asked of it.

Whatever is read is held against the invalidations known here (rule 4 of docs/decisions/0006-protocol.md), and an
invalidation that the tier did not take is tried again before anything else at the next contact.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tiered_cache._entry import START
from tiered_cache._forks import ForkSafe
from tiered_cache._log import log
from tiered_cache._news import EVERYTHING, Invalidation, Kind, News
from tiered_cache._reply import ABSENT, UNREACHED, Claim, Filled, Lease, Reply, Right

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from tiered_cache._coherence import Follower, Look
    from tiered_cache._entry import Entry
    from tiered_cache._l1.memory import MemoryStore
    from tiered_cache._stats import Counters, SharedStats
    from tiered_cache.interfaces import SharedStore

MOST_UNDELIVERED = 10_000
"""Invalidations remembered. Beyond it, the one that is remembered is of everything."""


MOST_AT_ONCE = 1_000
"""Invalidations tried again in one round trip."""


class Shared(ForkSafe):
    """A shared store, followed by one cache."""

    def __init__(self, store: SharedStore, memory: MemoryStore, follower: Follower, counts: Counters) -> None:
        super().__init__()
        self._store = store
        self._memory = memory
        self._follower = follower
        self._counts = counts
        self._undelivered: dict[Invalidation, object] = {}  # a mark of its own for each
        self._held: set[Lease] = set()
        self._closed = False
        self.expects_hit = False
        """Whether the last read found something: then the next asks for the value alone, and not for the lease too. So it
        does where the last came to nothing, since L2 may answer reads before it takes writes.
        """
        memory.invalidated.alias = store.alias

    def forked(self) -> None:
        """What is held is the parent's."""
        super().forked()
        self._held = set()

    def catch_up(self, now: float) -> None:
        """Look into the log if nothing may be answered before."""
        if not self._follower.must_look(now):
            return
        self._deliver(now)
        look = self._follower.look()
        self._heard(self._store.look(look.since, (), now), look, now)

    def read(self, key: str, now: float, held: Entry | None = None) -> Reply:
        """What the store holds under `key`, unless it is known to be invalidated. The same as `held` is not decoded again."""
        if self._undelivered:
            self._deliver(now)
        before, look = self._memory.invalidated.tick, self._follower.wanted(now)
        reply = self._store.read(key, now, None if look is None else look.since, held)
        if look is not None:
            self._heard(reply.news, look, now)
        self.expects_hit = reply.entry is not None or not reply.reached
        return self._known(key, reply, self._since(before, reply.news), now)

    def read_many(self, keys: Sequence[str], now: float, held: Mapping[str, Entry] | None = None) -> dict[str, Reply]:
        """The same for several keys, in one round trip."""
        if not keys:
            return {}
        self._deliver(now)
        before, look = self._memory.invalidated.tick, self._follower.wanted(now)
        replies, news = self._store.read_many(keys, now, None if look is None else look.since, held)
        if look is not None:
            self._heard(news, look, now)
        return self._all_judged(replies, self._since(before, news), now)

    def ask(self, lease: Lease, claim: Claim, now: float) -> Reply:
        """What the store holds under the lease's key, and the lease according to `claim`, in one round trip."""
        if self._undelivered:
            self._deliver(now)
        before, look = self._memory.invalidated.tick, self._follower.wanted(now)
        reply = self._store.ask(lease, claim, now, None if look is None else look.since)
        self._hold((lease,), now)
        if look is not None:
            self._heard(reply.news, look, now)
        self.expects_hit = reply.entry is not None or not reply.reached
        return self._known(lease.key, reply, self._since(before, reply.news), now)

    def ask_many(self, leases: Sequence[Lease], claim: Claim, now: float) -> dict[str, Reply]:
        """The same for several keys."""
        self._deliver(now)
        before, look = self._memory.invalidated.tick, self._follower.wanted(now)
        replies, news = self._store.ask_many(leases, claim, now, None if look is None else look.since)
        self._hold(leases, now)
        if look is not None:
            self._heard(news, look, now)
        return self._all_judged(replies, self._since(before, news), now)

    def lease(self, key: str, seconds: float) -> Lease:
        """A lease to ask for: its token is random in every copy of a container, so it comes from the kernel."""
        return Lease(key, os.urandom(12), seconds)

    def fill(self, lease: Lease, entry: Entry, now: float) -> Filled:
        """Keep `entry` in the store, if the lease is still ours. Raises SerializationError if it cannot be carried."""
        if not lease.held:
            return Filled.NOT_KEPT
        filled = self._store.fill(lease, entry, now)
        self._counts["refused"] += filled is Filled.REFUSED
        return filled

    def fill_many(self, filled: Sequence[tuple[Lease, Entry]], now: float) -> dict[str, Filled]:
        """The same for several; what cannot be carried is not kept."""
        held = [(lease, entry) for lease, entry in filled if lease.held]
        outcomes = self._store.fill_many(held, now) if held else {}
        self._counts["refused"] += sum(outcome is Filled.REFUSED for outcome in outcomes.values())
        return outcomes

    def leave(self, lease: Lease, left: Entry, pause: float, now: float) -> Filled:
        """Keep the handle of a load that goes on, and let nobody look at it for `pause`, if the lease is still ours."""
        if not lease.held:
            return Filled.NOT_KEPT
        kept = self._store.leave(lease, left, pause, now)
        self._counts["refused"] += kept is Filled.REFUSED
        return kept

    def release(self, leases: Collection[Lease], now: float, *, drop: bool = False, ended: bool = False) -> None:
        """Give up those of the leases that are held; `ended`: with what their loads have left, `drop`: with the values too."""
        held = [lease for lease in leases if lease.held]
        if held:
            self._store.release(held, now, drop=drop, ended=ended)
        self._held.difference_update(leases)

    def _hold(self, leases: Collection[Lease], now: float) -> None:
        """Remember those that are held, to give them up with the cache: now, if that was closed meanwhile."""
        self._held.update([lease for lease in leases if lease.held])
        if self._closed:
            self.release(leases, now)

    def invalidate(self, what: Sequence[Invalidation], now: float, lease: Lease | None = None) -> bool:
        """Invalidate in the store, and here; whether the store took it. `lease`: to be held on its key from then on.

        Here after the store, so that what it gave before is refused.
        """
        self._deliver(now)  # first what came first
        with self._lock:
            marks = {one: self._undelivered.get(one) for one in what}
        position = self._memory.invalidated.position
        try:
            news = self._store.invalidate(what, position, now, lease)
            if news is None:
                self._remember(what)
            else:
                self._learn(news, now)
                self._settle(marks)
                self._hold(() if lease is None else (lease,), now)
        finally:
            self._memory.invalidate(what, now)
        return news is not None

    def warm_up(self, now: float, *, wait: bool = True) -> bool:
        """Import, connect, and learn how far the log has come; `wait=False`: import, and begin to connect."""
        answers = self._store.warm_up(now, wait=wait)
        if not wait:
            return answers
        look = self._follower.look()
        self._heard(self._store.look(look.since, (), now) if answers else None, look, now)
        return answers

    def allow(self, seconds: float | None) -> None:
        """All calls together may take so many seconds from now on; None: no limit."""
        self._store.allow(seconds)

    def thawed(self, now: float) -> None:
        """The container was frozen, or idle, for long: connections may have died meanwhile, and a dead server recovered."""
        self._store.thawed(now)

    def suspend(self) -> None:
        """Close connections, before a snapshot of this process is taken; a later call opens new ones."""
        self._store.suspend()

    def stats(self, now: float) -> SharedStats:
        """The store's counters, with what is known here."""
        counts = self._counts
        return self._store.stats(now)._replace(
            looks=counts["looks"],
            look_failures=counts["look_failures"],
            gaps=counts["gaps"],
            applied=counts["applied"],
            refused=counts["refused"],
            dead=counts["dead"],
            undelivered=len(self._undelivered),
        )

    def close(self, now: float) -> None:
        """Deliver what waits, for the last time, give up what is held, since no load can be kept any more, and close the store.

        Whoever is in a call goes on to its end, and gives up by itself what it is granted now.
        """
        if not self._closed:
            self._closed = True
            self._store.allow(None)
            if self._undelivered:
                self._deliver_all(now)
            held = [lease for lease in list(self._held) if lease.held]
            self._store.release(held, now, drop=False)  # none too: the store may know of others
        self._store.close()

    def _deliver_all(self, now: float) -> None:
        """Deliver all that waits, whatever was last known of L2: there will be no other contact. Stops where it fails."""
        self._store.thawed(now)
        while self._deliver(now):
            pass
        if self._undelivered:
            log().warning(
                "%d invalidations were not delivered to L2 before the cache was closed, and never will be: "
                "other containers may serve the old values until their time is up",
                len(self._undelivered),
            )

    def _since(self, before: int, news: News | None) -> int:
        """From when what was read is: from `before`, or from now if the look before it has seen all that is known here."""
        invalidated = self._memory.invalidated
        has_seen_all = news is not None and news.came_first and news.end == invalidated.position
        return invalidated.tick if has_seen_all else before

    def _all_judged(self, replies: dict[str, Reply], since: int, now: float) -> dict[str, Reply]:
        entries = {key: reply.entry for key, reply in replies.items() if reply.entry is not None}
        for entry in entries.values():
            entry.since = since
        invalidated = self._memory.invalidated
        tagged = [entry for entry in entries.values() if entry.tags]
        self._look_for({tag for entry in tagged for tag in invalidated.unknown(entry)}, now)
        is_known = not any(invalidated.unknown(entry) for entry in tagged) and invalidated.position != START
        if is_known and not self._undelivered and self._memory.spares(entries):
            return replies
        return {
            key: reply if reply.entry is None else self._judged(key, reply, since, now)
            for key, reply in replies.items()
        }

    def _known(self, key: str, reply: Reply, since: int, now: float) -> Reply:
        """`reply`, judged by all that can be known of it."""
        if reply.left is not None:
            reply = reply._replace(left=self._alive(key, reply.left, since, now))
        if reply.entry is None:
            return reply
        if reply.entry.tags:
            self._look_for(self._memory.invalidated.unknown(reply.entry), now)
        return self._judged(key, reply, since, now)

    def _alive(self, key: str, left: Entry, since: int, now: float) -> Entry | None:
        """What a load has left, unless it was invalidated since that began, or nobody can tell: rule 4 for handles."""
        left.since = since
        invalidated = self._memory.invalidated
        if left.tags:
            self._look_for(invalidated.unknown(left), now)
        if not self._may_be_told(key, left):
            return None
        if self._memory.is_dead(key, left) or invalidated.expires(key, left):
            self._counts["dead"] += 1
            return None
        return left

    def _may_be_told(self, key: str, entry: Entry) -> bool:
        """Whether all is known and delivered that may invalidate the entry; else the look for it came to nothing."""
        if self._undelivered and not self._undelivered.keys().isdisjoint(_names(key, entry)):
            return False
        invalidated = self._memory.invalidated
        return invalidated.position != START and not invalidated.unknown(entry)

    def _judged(self, key: str, reply: Reply, since: int, now: float) -> Reply:
        """Rule 4: `reply`, without its entry where that is dead; or as if unreached, if its invalidation is not delivered."""
        entry = reply.entry
        assert entry is not None  # noqa: S101  # the callers look
        entry.since = since
        if not self._may_be_told(key, entry):
            return UNREACHED
        if self._memory.is_dead(key, entry):
            self._counts["dead"] += 1
            return reply._replace(entry=None)
        if self._memory.invalidated.expires(key, entry):
            entry.expire(now)
        return reply

    def _look_for(self, tags: Iterable[str], now: float) -> None:
        """Look into the log and at the markers of `tags`, in one step; many at a time."""
        wanted = tuple(tags)
        for start in range(0, len(wanted), MOST_AT_ONCE):
            look = self._follower.look()
            found = self._store.look(look.since, wanted[start : start + MOST_AT_ONCE], now)
            self._heard(found, look, now)

    def _deliver(self, now: float) -> bool:
        """Try again, in one round trip, what was not delivered; more waits for the next contact. Whether any was delivered."""
        if not self._undelivered or not self._store.takes_writes(now):
            return False
        with self._lock:
            marks = dict(list(self._undelivered.items())[:MOST_AT_ONCE])
        news = self._store.invalidate(list(marks), self._memory.invalidated.position, now, None)
        if news is not None:
            self._learn(news, now)
            self._settle(marks)
        return news is not None

    def _learn(self, news: News, now: float) -> None:
        """Apply what was found along with an invalidation: its own record is to be known before its call returns."""
        if not self._follower.learn(news, now):
            self._look_again(now)

    def _heard(self, news: News | None, look: Look, now: float) -> None:
        """Apply what a look has found."""
        if not self._follower.heard(news, look, now):
            self._look_again(now)

    def _look_again(self, now: float) -> None:
        """Look from where another thread's first look has ended."""
        look = self._follower.look()
        self._follower.heard(self._store.look(look.since, (), now), look, now)

    def _remember(self, what: Iterable[Invalidation]) -> None:
        with self._lock:
            for kind, name in what:  # what was to expire is deleted in the end, which takes one command
                self._undelivered[Invalidation(Kind.KEY if kind is Kind.EXPIRED else kind, name)] = object()
            if len(self._undelivered) > MOST_UNDELIVERED:
                self._undelivered = {EVERYTHING: object()}

    def _settle(self, marks: Mapping[Invalidation, object]) -> None:
        """These are delivered; one that came in meanwhile is not."""
        if not self._undelivered:
            return
        with self._lock:
            for what, mark in marks.items():
                if self._undelivered.get(what) is mark:
                    self._undelivered.pop(what, None)


def _names(key: str, entry: Entry) -> list[Invalidation]:
    """All whose invalidation would concern the entry."""
    names = [EVERYTHING, Invalidation(Kind.KEY, key)]
    return names + [Invalidation(Kind.TAG, tag) for tag in entry.tags]


class NoShared:
    """No L2: it holds nothing, every lease is to be had, and an invalidation is a matter of L1 alone."""

    expects_hit = False

    def __init__(self, memory: MemoryStore) -> None:
        self._memory = memory

    def catch_up(self, now: float) -> None:
        pass

    def read(self, key: str, now: float, held: Entry | None = None) -> Reply:  # noqa: ARG002
        return ABSENT

    def read_many(self, keys: Sequence[str], now: float, held: Mapping[str, Entry] | None = None) -> dict[str, Reply]:  # noqa: ARG002
        return dict.fromkeys(keys, ABSENT)

    def ask(self, lease: Lease, claim: Claim, now: float) -> Reply:  # noqa: ARG002
        return _FREE

    def ask_many(self, leases: Sequence[Lease], claim: Claim, now: float) -> dict[str, Reply]:  # noqa: ARG002
        return {lease.key: _FREE for lease in leases}

    def lease(self, key: str, seconds: float) -> Lease:
        return Lease(key, b"", seconds)

    def fill(self, lease: Lease, entry: Entry, now: float) -> Filled:  # noqa: ARG002
        return Filled.KEPT

    def fill_many(self, filled: Sequence[tuple[Lease, Entry]], now: float) -> dict[str, Filled]:  # noqa: ARG002
        return {lease.key: Filled.KEPT for lease, _ in filled}

    def leave(self, lease: Lease, left: Entry, pause: float, now: float) -> Filled:  # noqa: ARG002
        return Filled.NOT_KEPT

    def release(self, leases: Collection[Lease], now: float, *, drop: bool = False, ended: bool = False) -> None:
        pass

    def invalidate(self, what: Sequence[Invalidation], now: float, lease: Lease | None = None) -> bool:  # noqa: ARG002
        self._memory.invalidate(what, now)
        return True

    def warm_up(self, now: float, *, wait: bool = True) -> bool:  # noqa: ARG002
        return True

    def allow(self, seconds: float | None) -> None:
        pass

    def thawed(self, now: float) -> None:
        pass

    def suspend(self) -> None:
        pass

    def stats(self, now: float) -> SharedStats:
        raise NotImplementedError(f"there is no L2 to have counters at {now}")

    def close(self, now: float) -> None:
        pass


_FREE = Reply(None, True, Right.MINE)
