"""What becomes of what a load gives: an entry, in L2 under the load's lease, and in L1."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from tiered_cache._entry import Birth, Entry
from tiered_cache._errors import NotFound, SerializationError
from tiered_cache._flight import Flights
from tiered_cache._handles import Handles
from tiered_cache._load import stamp, unloaded
from tiered_cache._log import warn_once
from tiered_cache._owed import Owed
from tiered_cache._reply import Filled
from tiered_cache._rules import Freshness, jittered, pause_before_look
from tiered_cache._values import Answer, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tiered_cache._backoff import Backoff
    from tiered_cache._invocation import Invocation
    from tiered_cache._l1.memory import MemoryStore
    from tiered_cache._load import Call
    from tiered_cache._options import Plan
    from tiered_cache._reply import Lease, Reply
    from tiered_cache._shared import NoShared, Shared
    from tiered_cache._stats import Counters
    from tiered_cache._values import LoadContext, Loaded, Pending
    from tiered_cache._watch import Watch
    from tiered_cache.interfaces import Carrier


class Begun(NamedTuple):
    """When a load began, or the first part of one that was taken up: on the wall clock, and in the log."""

    at: float
    birth: Birth
    started: float
    """When what has just been run did, by the clock that is never corrected."""
    handle: str | None = None
    """By which it was taken up."""


class Keeping:
    """The parts of one cache, and how they keep what was loaded."""

    def __init__(
        self,
        *,
        memory: MemoryStore,
        shared: Shared | NoShared,
        policy: Freshness,
        local: Freshness | None,
        lease: float,
        plan: Plan,
        watch: Watch,
        carrier: Callable[[], Carrier | None],
        backoff: Backoff,
        invocation: Invocation,
        uniform: Callable[[], float],
        counts: Counters,
    ) -> None:
        self._memory = memory
        self._shared = shared
        self._policy = policy
        self._local = local
        self._lease_seconds = lease
        self._plan = plan
        self._now = watch.now
        self._steady = watch.steady
        self._works, self._worked = watch.works, watch.worked
        self._backoff = backoff
        self.invocation = invocation
        self._uniform = uniform
        self._counts = counts
        self._owed = Owed(carrier, counts, uniform, lambda: watch.last)
        self._handles = Handles(memory)
        self.flights: Flights[Answer] = Flights()
        self.load_seconds = 0.0

    def _keep(self, call: Call, entry: Entry, lease: Lease, *, skip: bool) -> Answer:
        """Keep what was loaded in L2 and then in L1, and answer with it."""
        self._counts["loads"] += 1
        value, now = entry.value, self._now()
        if not skip:
            self._store(call, entry, lease, now)
        self._shared.release((lease,), now, ended=True)  # unless the fill has
        age = max(0.0, now - entry.loaded_at)
        return Answer(value, "origin", age, age >= entry.fresh_for, Reason.LOADED)

    def _store(self, call: Call, entry: Entry, lease: Lease, now: float) -> None:
        self._memory.measure(entry)  # L2 keeps the figure, so that no other container has to
        if self._memory.refuses(call.key, entry):
            return  # nor is L2 to have it
        try:
            filled = self._shared.fill(lease, entry, now)
        except SerializationError as error:
            warn_once("a value stays in L1 alone: %s", error)
            filled = Filled.NOT_KEPT
        if filled is Filled.REFUSED:
            self._memory.drop(call.key)  # it is older than what this call gives
        else:
            self._store_in_l1(call, entry)

    def _store_in_l1(self, call: Call, entry: Entry) -> None:
        entry.held(self._local, entry.loaded_at, call.plan.early_refresh, self._uniform)
        self._memory.store(call.key, entry)

    def _adopt(self, call: Call, entry: Entry, held: Entry | None) -> None:
        """Keep in L1 what L2 vouches for; where that is what is held there, let it be confirmed."""
        if held is not None and held.is_of(entry):
            entry = held
        entry.held(self._local, call.now, call.plan.early_refresh, self._uniform)
        self._memory.store(call.key, entry)

    def _left(self, call: Call, reply: Reply, held: Entry | None) -> Entry | None:
        """What an earlier part of this load has left, in whatever container; not if `held` came of it, or of a later one."""
        left = None if call.plan.force_refresh else self._handles.told(call.key, reply)
        return None if left is None or (held is not None and held.loaded_at >= left.loaded_at) else left

    def _begun(self, call: Call, context: LoadContext, left: Entry | None, birth: Birth, started: float) -> Begun:
        """When the load began that has just been run: if it was taken up by its handle, when the first part did."""
        if left is None or context.handle is None:
            return Begun(call.now, birth, started)
        self._counts["resumed"] += 1
        return Begun(min(left.loaded_at, call.now), Birth(left.born, left.since), started, context.handle)

    def _leave(self, call: Call, lease: Lease, pending: Pending, begun: Begun) -> Entry:
        """Keep the handle of a load that goes on where whoever loads next will find it. What is kept."""
        self._counts["pending"] += 1
        is_same = pending.handle == begun.handle
        left = unloaded(pending, call, self._policy, begun.at if is_same else call.now, begun.birth)
        now = self._now()
        kept = self._shared.leave(lease, left, pause_before_look(now - left.loaded_at), now)
        if kept is Filled.REFUSED:
            self._handles.forget(call.key)  # another loads, or it was invalidated meanwhile
        else:
            self._handles.keep(call.key, left, shared=kept is Filled.KEPT)
        return left

    def _failed(self, call: Call, lease: Lease) -> None:
        """The load has ended without an outcome: nobody is to take it up again."""
        self._counts["failures"] += 1
        self._handles.forget(call.key)
        self._shared.release((lease,), call.now, ended=True)

    @contextmanager
    def _counted(self) -> Generator[None]:
        """A loader runs, of whose value no tier hears."""
        worked = self._works()
        try:
            yield
        except NotFound:
            self._counts["not_found"] += 1
            raise
        except Exception:
            self._counts["failures"] += 1
            raise
        else:
            self._counts["loads"] += 1
        finally:
            self.load_seconds += self._worked() - worked

    def _stamped(self, call: Call, loaded: Loaded, load_time: float, begun: Begun) -> Entry:
        """The entry for what was loaded."""
        loaded_at = self._settled(call, begun)
        ttl = loaded.ttl or call.plan.ttl or self._policy.ttl
        fresh_for = jittered(ttl, self._policy.jitter, self._uniform())
        return stamp(
            loaded, call, self._policy, loaded_at=loaded_at, fresh_for=fresh_for, load_time=load_time, birth=begun.birth
        )

    def _absence(self, call: Call, error: NotFound, begun: Begun) -> Entry:
        """The entry that says what `error` says."""
        self._counts["not_found"] += 1
        return Entry(
            str(error) or f"{type(error).__name__} for this key",
            loaded_at=self._settled(call, begun),
            fresh_for=jittered(call.plan.negative_ttl or 0.0, self._policy.jitter, self._uniform()),
            tags=call.plan.tags,
            negative=True,
            birth=begun.birth,
        )

    def _remember_absence(self, call: Call, entry: Entry, lease: Lease, *, skip: bool) -> None:
        """Keep it, or drop what is held; `skip`: it is for the caller alone."""
        now, is_gone = self._now(), False
        if call.plan.negative_ttl is not None and not skip:
            self._store(call, entry, lease, now)
        elif not skip and not self._memory.refuses(call.key, entry):
            is_gone = True  # what L2 has is older
            self._memory.drop(call.key)
        self._shared.release((lease,), now, drop=is_gone, ended=True)

    def _settled(self, call: Call, begun: Begun) -> float:
        """A load came to an end: nothing is left of earlier ones. When it began, on the wall clock as it now goes; for a
        resumed one, when the first part did.
        """
        self._backoff.forget(call.key)
        self._owed.forget_failures(call.key)
        self._handles.forget(call.key)
        return min(begun.at, self._now() - (self._steady() - begun.started))

    def forget_loads(self, key: str | None) -> None:
        """Whatever loads of `key`, or of any key, have begun or failed does not count any longer."""
        if key is None:
            self._handles.forget(None)
        else:
            self._backoff.forget(key)
            self._owed.forget(key)
            self._handles.forget(key)
        self.flights.detach(key)
