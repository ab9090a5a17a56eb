"""The way of a `get_or_load`, top to bottom: `_l1.hit.plain_hit` if L1 holds the key fresh; else `obtain`, from there `_ask`
(L2), and from there, inside the key's single flight, `_load` (the origin). The rules decide; this acts.
"""

from __future__ import annotations

import time
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, cast

from tiered_cache._entry import Entry
from tiered_cache._errors import LoadPending, LoadTimeout, NotFound, SerializationError
from tiered_cache._flight import Flight, Flights
from tiered_cache._load import Call, is_passing, renewed, run_loader, stale_value, stamp
from tiered_cache._log import log, warn_once
from tiered_cache._options import check_key, check_loader
from tiered_cache._owed import Owed
from tiered_cache._rules import Freshness, Move, Verdict, covers, jittered, judge, judge_data, on_l1, on_l2
from tiered_cache._turns import Turns
from tiered_cache._values import Answer, LoadContext, Loaded, Outcome, Pending, Reason, Tier

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._backoff import Backoff
    from tiered_cache._entry import Position
    from tiered_cache._invocation import Invocation
    from tiered_cache._l1.memory import MemoryStore
    from tiered_cache._options import Limit, Plan
    from tiered_cache._reply import Reply
    from tiered_cache._stats import Counters
    from tiered_cache._watch import Watch
    from tiered_cache.interfaces import Carrier, SharedStore

FRESH_REASONS = frozenset({Reason.FRESH, Reason.UNCONFIRMED})
REASONS = {
    Move.SERVE: Reason.FRESH,
    Move.SERVE_AND_REFRESH: Reason.REVALIDATING,
    Move.SERVE_STALE: Reason.LOAD_FAILED,
    Move.SERVE_UNCONFIRMED: Reason.UNCONFIRMED,
}
MOST_HANDLES = 10_000
"""Handles of resumable loads remembered; beyond it the oldest is forgotten, and its load begins anew."""


class ReadThrough:
    """Reads through L1 and L2 to a loader. One per cache; `TieredCache` checks what it is made of."""

    def __init__(
        self,
        *,
        memory: MemoryStore,
        shared: SharedStore,
        policy: Freshness,
        local: Freshness | None,
        plan: Plan,
        watch: Watch,
        carrier: Carrier | None,
        backoff: Backoff,
        invocation: Invocation,
        uniform: Callable[[], float],
        counts: Counters,
    ) -> None:
        self._memory = memory
        self._shared = shared
        self._policy = policy
        self._local = local
        self._plan = plan
        self._now = watch.now
        self._steady = watch.steady
        self._backoff = backoff
        self._invocation = invocation
        self._uniform = uniform
        self._counts = counts
        self._owed = Owed(carrier, counts)
        self._handles: dict[str, tuple[str, float]] = {}  # what resumable loads left, and when they began
        self._turns = Turns()
        self.flights: Flights[Answer] = Flights()
        self.load_seconds = 0.0

    def obtain(self, key: str, loader: Any, options: dict[str, Any]) -> Answer:
        """The way of every call that is not a plain hit."""
        call = self._call(key, loader, options)
        if call.plan.scope == "invocation":
            return self._invocation.obtain(call, self._context(call, None), call.plan.ttl or self._policy.ttl)
        held = self._memory.look(key)
        match self._first_move(call, held):
            case Move.SERVE:
                return self._serve(call, held, "l1", Reason.FRESH)
            case Move.SERVE_AND_REFRESH:
                answer = self._serve(call, held, "l1", Reason.REVALIDATING)
                return self._refresh(call) or answer
            case Move.SERVE_STALE:
                return self._serve(call, held, "l1", Reason.LOAD_FAILED)
            case _:
                self._memory.misses += 1
        return self._ask(call, held)

    def peek(self, key: str, default: Any) -> Any:
        """The fresh value that L1 or L2 holds, else `default`. Runs no loader and owes no refresh."""
        call = Call(key, None, self._plan, self._now())
        held = self._memory.look(key)
        if held is not None and judge(held, call.now) is Verdict.FRESH:
            return default if held.negative else self._serve(call, held, "l1", Reason.FRESH).value
        self._memory.misses += 1
        reply = self._shared.read(key, call.now)
        newest = newest_of(held, reply.entry)
        if newest is None or newest.negative or judge_data(newest, call.now) is not Verdict.FRESH:
            return default
        if reply.entry is not None:
            self._adopt(call, newest)
        elif reply.reached:
            return default  # nobody vouches for what L1 holds
        return self._memory.value(key, newest)

    def forget(self, key: str) -> bool:
        """Delete `key` in all tiers; whether L2 did. Nothing whose load began before this returned is kept after it."""
        now = self._now()
        with self._turns.of((key,)):
            try:
                return self._shared.delete(key, now)
            finally:
                self._memory.invalidate(key)  # after L2, so that what L2 gave before is refused
                self._invocation.forget(key)
                self._forget_loads(key)

    def put(self, key: str, entry: Entry) -> None:
        """Keep `entry` in all tiers, in place of whatever they hold or is being loaded."""
        taken = False
        with self._turns.of((key,)):
            entry.born = self._memory.invalidated.position
            self._memory.measure(entry)
            try:
                taken = self._shared.write(key, entry, entry.loaded_at)
            finally:
                if not taken:
                    self._shared.delete(key, entry.loaded_at)  # what L2 has is older
                self._memory.replace(key, entry.held(self._local, entry.loaded_at, 0.0, self._uniform))
                self._forget_loads(key)

    def _ask(self, call: Call, held: Entry | None) -> Answer:
        """Ask L2, and have the value loaded if need be."""
        if call.plan.force_refresh:
            return self._fly(call, partial(self._load, call, held, "l1"))
        newest, tier, move = self._look_into_l2(call, held, refreshing=False)
        if move is Move.LOAD:
            return self._fly(call, partial(self._load_unless_done, call, newest, tier))
        answer = self._serve(call, newest, tier, REASONS[move])
        if move is Move.SERVE_AND_REFRESH:
            return self._refresh(call) or answer
        return answer

    def _renew(self, call: Call, flight: Flight[Answer]) -> Answer:
        """The refresh that a stale hit owes: another container may have done it, and then L2 has it."""
        held = self._memory.look(call.key)
        if held is not None and call.now < held.early_at and judge(held, call.now) is Verdict.FRESH:
            return self._serve(call, held, "l1", Reason.FRESH)  # another thread has done it
        newest, tier, move = self._look_into_l2(call, held, refreshing=True)
        if move is Move.LOAD:
            return self._load(call, newest, tier, flight)
        return self._serve(call, newest, tier, REASONS[move])

    def _look_into_l2(self, call: Call, held: Entry | None, *, refreshing: bool) -> tuple[Entry | None, Tier, Move]:
        """The newest data that L1 and L2 hold, where they were found, and the move. What L2 vouches for goes into L1."""
        reply = self._shared.read(call.key, call.now)
        newest = newest_of(held, reply.entry)
        if newest is None:
            return None, "l1", Move.LOAD
        move = self._move_on_l2(call, held, newest, reply, refreshing=refreshing)
        if reply.entry is not None and move is not Move.LOAD:
            self._adopt(call, newest)
        return newest, "l1" if newest is held else "l2", move

    def _move_on_l2(self, call: Call, held: Entry | None, newest: Entry, reply: Reply, *, refreshing: bool) -> Move:
        early = refreshing and held is not None and call.now >= held.early_at
        return on_l2(
            judge_data(newest, call.now),
            vouched=reply.entry is not None,
            reached=reply.reached,
            refreshing=refreshing,
            stale_ok=call.plan.stale_ok,
            backing_off=self._backoff.holds(call.key, call.now),
            early_due=early and held is not None and newest.loaded_at <= held.loaded_at,
        )

    def _load_unless_done(self, call: Call, held: Entry | None, tier: Tier, flight: Flight[Answer]) -> Answer:
        """Load, unless another's load has come in since L1 was looked at. Only one caller per key is here at a time."""
        done = self._memory.look(call.key)
        if done is not None and done is not held and judge(done, call.now) is Verdict.FRESH:
            return self._serve(call, done, "l1", Reason.FRESH)
        return self._load(call, held, tier, flight)

    def _load(self, call: Call, held: Entry | None, tier: Tier, flight: Flight[Answer]) -> Answer:
        """Run the loader, and keep what it gives in L2 and L1. `held`: what is known so far, found in `tier`."""
        flight.fallback = partial(self._instead, call, held, Reason.LOAD_SLOW, tier)
        context = self._context(call, held)
        born = self._memory.invalidated.position
        started = self._steady()
        try:
            outcome = run_loader(call.loader, context)
        except NotFound as error:
            self._remember_absence(call, error, born, self._steady() - started)
            raise
        except Exception as error:  # noqa: BLE001  # a loader may raise anything: it is covered for, or raised again
            return self._cover(call, held, tier, error)
        finally:
            load_time = self._steady() - started
            self.load_seconds += load_time
        if isinstance(outcome, Pending):
            return self._await(call, held, tier, outcome)
        if outcome is Outcome.NOT_MODIFIED:
            self._counts["not_modified"] += 1
            outcome = renewed(cast("Entry", held), context.renewed_ttl)  # not_modified() refuses where nothing is held
        return self._keep(call, outcome, load_time, born, skip=context.skipped)

    # The steps, in the order in which they are met.

    def _call(self, key: str, loader: Any, options: dict[str, Any]) -> Call:
        check_key(key)
        check_loader(loader)
        return Call(key, loader, self._plan.with_options(options) if options else self._plan, self._now())

    def _first_move(self, call: Call, held: Entry | None) -> Move:
        if held is None or call.plan.force_refresh:
            return Move.ASK
        return on_l1(
            judge(held, call.now),
            early=call.now >= held.early_at,
            stale_ok=call.plan.stale_ok,
            backing_off=self._backoff.holds(call.key, call.now),
        )

    def _serve(self, call: Call, entry: Entry | None, tier: Tier, reason: Reason) -> Answer:
        """The answer that `entry` makes. Raises NotFound where that is what the entry says."""
        assert entry is not None  # noqa: S101  # no rule says to serve what is not there
        if reason is Reason.REVALIDATING and judge(entry, call.now) is Verdict.FRESH:
            reason = Reason.FRESH  # refreshed ahead of time
        stale = reason not in FRESH_REASONS
        if tier == "l1":
            if stale:
                self._memory.stale_hits += 1
            else:
                entry.hits += 1
        if entry.negative:
            raise NotFound(entry.value)
        value = self._memory.value(call.key, entry)
        return Answer(value, tier, max(0.0, call.now - entry.loaded_at), stale, reason)

    def _fly(self, call: Call, work: Callable[[Flight[Answer]], Answer]) -> Answer:
        """The answer of the key's flight: of `work`, or of what another caller has under way."""
        soft, hard = self._within(call.plan.soft_timeout), self._within(call.plan.hard_timeout)
        alone = call.plan.force_refresh  # a load that began earlier would not do
        while True:
            try:
                answer, joined = self.flights.run(call.key, work, soft=soft, hard=hard, alone=alone)
            except LoadTimeout:
                self._counts["timeouts"] += 1
                raise
            self._counts["shared"] += joined
            self._counts["timeouts"] += answer.reason is Reason.LOAD_SLOW
            if not joined:
                return answer
            if call.plan.stale_ok or not answer.stale:
                return answer._replace(value=self._memory.own(answer.value))
            alone = True  # it did for the other caller, and not for this one, who insists on fresh

    def _within(self, limit: Limit | None) -> float | None:
        return None if limit is None else limit.within(self._invocation.remaining())

    def _refresh(self, call: Call) -> Answer | None:
        """Have the value refreshed, unless that is under way; the new answer where it was done at once."""
        if self.flights.busy(call.key) or self._backoff.holds(call.key, call.now):
            return None

        def refresh() -> Answer:
            later = call._replace(now=self._now())
            return self._fly(later, partial(self._renew, later))

        return self._owed.owe(call.key, refresh, call.now)

    def _adopt(self, call: Call, entry: Entry) -> Entry:
        """Keep in L1 what L2 vouches for."""
        entry.held(self._local, call.now, call.plan.early_refresh, self._uniform)
        self._memory.store(call.key, entry)
        return entry

    def _context(self, call: Call, held: Entry | None) -> LoadContext:
        ends = self._within(call.plan.hard_timeout)
        started = time.monotonic()

        def remaining() -> float | None:
            limits = [self._invocation.remaining()]
            limits.append(None if ends is None else max(0.0, ends - (time.monotonic() - started)))
            return min((limit for limit in limits if limit is not None), default=None)

        return LoadContext(
            call.key,
            stale=stale_value(held),
            etag=None if held is None else held.etag,
            last_modified=None if held is None else held.last_modified,
            handle=self._handles.get(call.key, (None, 0.0))[0],
            remaining=remaining,
        )

    def _keep(self, call: Call, loaded: Loaded, load_time: float, born: Position, *, skip: bool) -> Answer:
        """Keep what was loaded in L2 and then in L1, and answer with it."""
        self._counts["loads"] += 1
        entry = self._stamped(call, loaded, load_time, born)
        now = self._now()
        if not skip:
            self._store(call, entry, now)
        age = max(0.0, now - entry.loaded_at)
        return Answer(loaded.value, "origin", age, age >= entry.fresh_for, Reason.LOADED)

    def _stamped(self, call: Call, loaded: Loaded, load_time: float, born: Position) -> Entry:
        loaded_at = self._began(call, load_time)
        self._backoff.forget(call.key)
        self._handles.pop(call.key, None)
        ttl = loaded.ttl or call.plan.ttl or self._policy.ttl
        fresh_for = jittered(ttl, self._policy.jitter, self._uniform())
        return stamp(
            loaded, call, self._policy, loaded_at=loaded_at, fresh_for=fresh_for, load_time=load_time, born=born
        )

    def _began(self, call: Call, load_time: float) -> float:
        """When the load that ends now began, on the wall clock as it now goes; for a resumed one, when the first part did."""
        return min(call.now, self._now() - load_time, self._handles.get(call.key, ("", inf))[1])

    def _forget_loads(self, key: str) -> None:
        """Whatever loads of `key` have begun or failed does not count any longer."""
        self._backoff.forget(key)
        self._handles.pop(key, None)
        self.flights.detach(key)

    def _store(self, call: Call, entry: Entry, now: float) -> None:
        self._memory.measure(entry)  # L2 keeps the figure, so that no other container has to
        with self._turns.of((call.key,)):
            if self._memory.refuses(call.key, entry):
                return  # nor is L2 to have it
            try:
                self._shared.write(call.key, entry, now)
            except SerializationError as error:
                warn_once("a value stays in L1 alone: %s", error)
                self._shared.delete(call.key, now)  # what L2 has is older
            self._store_in_l1(call, entry)

    def _store_in_l1(self, call: Call, entry: Entry) -> None:
        entry.held(self._local, entry.loaded_at, call.plan.early_refresh, self._uniform)
        self._memory.store(call.key, entry)

    def _absence(self, call: Call, error: NotFound, born: Position, load_time: float) -> Entry:
        """The entry that says what `error` says."""
        self._counts["not_found"] += 1
        loaded_at = self._began(call, load_time)
        self._backoff.forget(call.key)
        self._handles.pop(call.key, None)
        fresh_for = jittered(call.plan.negative_ttl or 0.0, self._policy.jitter, self._uniform())
        text = str(error) or f"{type(error).__name__} for this key"
        return Entry(text, loaded_at=loaded_at, fresh_for=fresh_for, tags=call.plan.tags, negative=True, born=born)

    def _remember_absence(self, call: Call, error: NotFound, born: Position, load_time: float) -> None:
        entry = self._absence(call, error, born, load_time)
        if call.plan.negative_ttl is not None:
            self._store(call, entry, self._now())
            return
        with self._turns.of((call.key,)):
            if not self._memory.refuses(call.key, entry):
                self._memory.drop(call.key)
                self._shared.delete(call.key, self._now())

    def _cover(self, call: Call, held: Entry | None, tier: Tier, error: Exception) -> Answer:
        """The stale answer that covers for a failed load; raises the error where there is none, or it may not."""
        self._counts["failures"] += 1
        answer = self._instead(call, held, Reason.LOAD_FAILED, tier) if is_passing(error) else None
        if answer is None:
            raise error
        self._counts["covered"] += 1
        self._pause(call, error)
        return answer

    def _pause(self, call: Call, error: Exception) -> None:
        """No load for a while; the first failure in a row is spoken of, for it may be a fault of the loader's own."""
        if self._backoff.note(call.key, call.plan.error_backoff, self._now()) == 1:
            log().warning("a value held covers for a load that failed: %s", type(error).__name__)

    def _instead(self, call: Call, held: Entry | None, reason: Reason, tier: Tier = "l1") -> Answer | None:
        """What is held, in place of what a load does not give, if it may be served at this moment."""
        now = self._now()
        if held is None or held.negative or not call.plan.stale_ok or not covers(held, now):
            return None
        if self._memory.invalidated.kills(call.key, held.tags, held.born):
            return None  # deleted meanwhile
        return self._serve(call._replace(now=now), held, tier, reason)

    def _await(self, call: Call, held: Entry | None, tier: Tier, pending: Pending) -> Answer:
        handle, began = self._handles.pop(call.key, ("", call.now))
        self._handles[call.key] = (pending.handle, began if handle == pending.handle else call.now)
        if len(self._handles) > MOST_HANDLES:
            self._handles.pop(next(iter(self._handles)), None)
        answer = self._instead(call, held, Reason.LOAD_PENDING, tier)
        if answer is None:
            raise LoadPending(
                "the load of this key goes on elsewhere, and no stale value may be served: ask again later"
            )
        return answer


def newest_of(held: Entry | None, shared: Entry | None) -> Entry | None:
    """Of what L1 and L2 hold, that which was loaded last; L2's if they are the same."""
    if held is None or shared is None:
        return shared or held
    return held if held.loaded_at > shared.loaded_at else shared
