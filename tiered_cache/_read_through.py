"""The way of a `get_or_load`, top to bottom: `_hit.plain_hit` if L1 holds the key fresh; else `obtain`, and from there
`_ask` (L2) and `_load` (the origin), both inside the key's single flight. The rules decide; this acts.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from tiered_cache._entry import Entry
from tiered_cache._errors import LoadPending, NotFound, SerializationError
from tiered_cache._flight import Flight, Flights
from tiered_cache._load import Call, is_passing, renewed, run_loader, stale_value, stamp
from tiered_cache._log import log
from tiered_cache._options import check_key, check_loader
from tiered_cache._owed import Owed
from tiered_cache._rules import Freshness, Move, Verdict, covers, jittered, judge, judge_data, on_l1, on_l2
from tiered_cache._values import Answer, Loaded, LoadContext, Outcome, Pending, Reason, Tier
from tiered_cache._reply import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._backoff import Backoff
    from tiered_cache._entry import Position
    from tiered_cache._invocation import Invocation
    from tiered_cache._memory import MemoryStore
    from tiered_cache._options import Limit, Plan
    from tiered_cache._stats import Counters
    from tiered_cache._watch import Watch
    from tiered_cache.interfaces import Carrier, SharedStore

FRESH_REASONS = frozenset({Reason.FRESH, Reason.UNCONFIRMED})


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
        self._backoff = backoff
        self._invocation = invocation
        self._uniform = uniform
        self._counts = counts
        self._owed = Owed(carrier, counts)
        self._handles: dict[str, str] = {}
        self.flights: Flights[Answer] = Flights()
        self.load_seconds = 0.0

    def obtain(self, key: str, loader: Any, options: dict[str, Any]) -> Answer:
        """The way of every call that is not a plain hit."""
        call = self._call(key, loader, options)
        if call.plan.scope == "invocation":
            return self._invocation.obtain(call, self._context(call, None))
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
        answer, joined = self._fly(call, partial(self._ask, call, held, refreshing=False))
        if answer.reason is Reason.REVALIDATING and not joined:
            return self._refresh(call) or answer
        return answer

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

    def _ask(self, call: Call, held: Entry | None, flight: Flight[Answer], *, refreshing: bool) -> Answer:
        """Ask L2, and the origin if need be. Only one caller per key in this process is here at a time."""
        if call.plan.force_refresh:
            return self._load(call, held, flight)
        reply = self._shared.read(call.key, call.now)
        newest = newest_of(held, reply.entry)
        if newest is None:
            return self._load(call, None, flight)
        tier: Tier = "l1" if newest is held else "l2"
        early = refreshing and held is not None and call.now >= held.early_at
        move = on_l2(
            judge_data(newest, call.now),
            vouched=reply.entry is not None and not (early and newest is held),
            reached=reply.reached or early,
            refreshing=refreshing,
            stale_ok=call.plan.stale_ok,
            backing_off=self._backoff.holds(call.key, call.now),
        )
        match move:
            case Move.SERVE:
                return self._serve(call, self._adopt(call, newest), tier, Reason.FRESH)
            case Move.SERVE_AND_REFRESH:
                return self._serve(call, self._adopt(call, newest), tier, Reason.REVALIDATING)
            case Move.SERVE_STALE:
                return self._serve(call, self._adopt(call, newest), tier, Reason.LOAD_FAILED)
            case Move.SERVE_UNCONFIRMED:
                return self._serve(call, newest, tier, Reason.UNCONFIRMED)
            case _:
                return self._load(call, newest, flight)

    def _load(self, call: Call, held: Entry | None, flight: Flight[Answer]) -> Answer:
        """Run the loader, and keep what it gives in L2 and L1."""
        flight.fallback = partial(self._instead, call, held, Reason.LOAD_SLOW)
        context = self._context(call, held)
        born = self._memory.invalidated.position
        started = time.perf_counter()
        try:
            outcome = run_loader(call.loader, context)
        except NotFound as error:
            self._remember_absence(call, error, born)
            raise
        except Exception as error:  # noqa: BLE001  # a loader may raise anything: it is covered for, or raised again
            return self._cover(call, held, error)
        finally:
            load_time = time.perf_counter() - started
            self.load_seconds += load_time
        if isinstance(outcome, Pending):
            return self._await(call, held, outcome)
        if outcome is Outcome.NOT_MODIFIED:
            self._counts["not_modified"] += 1
            outcome = renewed(cast("Entry", held))  # not_modified() refuses where nothing is held
        return self._keep(call, cast("Loaded", outcome), load_time, born, skip=context.skipped)

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

    def _fly(self, call: Call, work: Callable[[Flight[Answer]], Answer]) -> tuple[Answer, bool]:
        if call.plan.force_refresh:
            self.flights.detach(call.key)  # a load that began earlier would not do
        soft, hard = self._within(call, call.plan.soft_timeout), self._within(call, call.plan.hard_timeout)
        answer, joined = self.flights.run(call.key, work, soft=soft, hard=hard)
        self._counts["shared"] += joined
        self._counts["timeouts"] += answer.reason is Reason.LOAD_SLOW
        return answer, joined

    def _within(self, call: Call, limit: Limit | None) -> float | None:
        return None if limit is None else limit.within(self._invocation.remaining(call.now))

    def _refresh(self, call: Call) -> Answer | None:
        """Have the value refreshed, unless that is under way; the new answer where it was done at once."""
        if self.flights.busy(call.key) or self._backoff.holds(call.key, call.now):
            return None

        def refresh() -> Answer:
            later = call._replace(now=self._now())
            held = self._memory.look(call.key)
            return self._fly(later, partial(self._ask, later, held, refreshing=True))[0]

        return self._owed.owe(call.key, refresh, call.now)

    def _adopt(self, call: Call, entry: Entry) -> Entry:
        """Keep in L1 what L2 vouches for."""
        entry.held(self._local, call.now, call.plan.early_refresh, self._uniform)
        self._memory.store(call.key, entry)
        return entry

    def _context(self, call: Call, held: Entry | None) -> LoadContext:
        ends = self._within(call, call.plan.hard_timeout)
        started = time.monotonic()

        def remaining() -> float | None:
            limits = [self._invocation.remaining(self._now())]
            limits.append(None if ends is None else max(0.0, ends - (time.monotonic() - started)))
            return min((limit for limit in limits if limit is not None), default=None)

        return LoadContext(
            call.key,
            stale=stale_value(held),
            etag=None if held is None else held.etag,
            last_modified=None if held is None else held.last_modified,
            handle=self._handles.get(call.key),
            remaining=remaining,
        )

    def _keep(self, call: Call, loaded: Loaded, load_time: float, born: Position, *, skip: bool) -> Answer:
        """Keep what was loaded in L2 and then in L1, and answer with it."""
        self._counts["loads"] += 1
        entry = self._stamped(call, loaded, load_time, born)
        now = self._now()
        if not skip:
            self._store(call, entry, now)
        age = max(0.0, now - call.now)
        return Answer(loaded.value, "origin", age, age >= entry.fresh_for, Reason.LOADED)

    def _stamped(self, call: Call, loaded: Loaded, load_time: float, born: Position) -> Entry:
        self._backoff.forget(call.key)
        self._handles.pop(call.key, None)
        ttl = loaded.ttl or call.plan.ttl or self._policy.ttl
        fresh_for = jittered(ttl, self._policy.jitter, self._uniform())
        return stamp(loaded, call, self._policy, fresh_for, load_time, born)

    def _store(self, call: Call, entry: Entry, now: float) -> None:
        try:
            self._shared.write(call.key, entry, now)
        except SerializationError as error:
            log().warning("a value stays in L1 alone: %s", error)
        self._store_in_l1(call, entry)

    def _store_in_l1(self, call: Call, entry: Entry) -> None:
        entry.held(self._local, entry.loaded_at, call.plan.early_refresh, self._uniform)
        self._memory.store(call.key, entry)

    def _remember_absence(self, call: Call, error: NotFound, born: Position) -> None:
        self._counts["not_found"] += 1
        self._backoff.forget(call.key)
        if call.plan.negative_ttl is None:
            self._memory.drop(call.key)
            self._shared.delete(call.key, self._now())
            return
        fresh_for = jittered(call.plan.negative_ttl, self._policy.jitter, self._uniform())
        text = str(error) or f"{type(error).__name__} for this key"
        entry = Entry(text, loaded_at=call.now, fresh_for=fresh_for, tags=call.plan.tags, negative=True, born=born)
        self._store(call, entry, self._now())

    def _cover(self, call: Call, held: Entry | None, error: Exception) -> Answer:
        """The stale answer that covers for a failed load; raises the error where there is none, or it may not."""
        self._counts["failures"] += 1
        answer = self._instead(call, held, Reason.LOAD_FAILED) if is_passing(error) else None
        if answer is None:
            raise error
        self._counts["covered"] += 1
        self._backoff.note(call.key, call.plan.error_backoff, self._now())
        return answer

    def _instead(self, call: Call, held: Entry | None, reason: Reason) -> Answer | None:
        """What is held, in place of what a load does not give, if it may be served at this moment."""
        now = self._now()
        if held is None or held.negative or not call.plan.stale_ok or not covers(held, now):
            return None
        return self._serve(call._replace(now=now), held, "l1", reason)

    def _await(self, call: Call, held: Entry | None, pending: Pending) -> Answer:
        self._handles[call.key] = pending.handle
        answer = self._instead(call, held, Reason.LOAD_PENDING)
        if answer is None:
            raise LoadPending("the load of this key goes on elsewhere, and no stale value may be served: ask again later")
        return answer


def newest_of(held: Entry | None, shared: Entry | None) -> Entry | None:
    """Of what L1 and L2 hold, that which was loaded last; L2's if they are the same."""
    if held is None or shared is None:
        return shared or held
    return held if held.loaded_at > shared.loaded_at else shared
