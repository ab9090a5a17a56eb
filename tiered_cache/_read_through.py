"""The way of a `get_or_load`, top to bottom: `_l1.hit.plain_hit` if L1 holds the key fresh; else `obtain`, from there `_ask`
(L2), from there, inside the key's single flight, `_lead` (the lease), and `_load` (the origin). The rules decide; this acts.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

from tiered_cache._entry import newest_of
from tiered_cache._errors import LoadPending, LoadTimeout, NotFound
from tiered_cache._in_time import InTime
from tiered_cache._load import Call, is_passing, renewed, run_loader
from tiered_cache._log import log
from tiered_cache._news import Invalidation, Kind
from tiered_cache._options import check_key, check_loader
from tiered_cache._reply import Claim, Right
from tiered_cache._rules import (
    Move,
    Verdict,
    covers,
    has_time,
    is_unasked,
    judge,
    judge_data,
    kept_for,
    longest,
    on_l1,
    on_l2,
    pause_before_look,
)
from tiered_cache._values import Answer, Outcome, Pending, Reason, Tier

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeGuard

    from tiered_cache._entry import Entry
    from tiered_cache._flight import Flight
    from tiered_cache._reply import Lease, Reply

FRESH_REASONS = frozenset({Reason.FRESH, Reason.UNCONFIRMED})
REASONS = {
    Move.SERVE: Reason.FRESH,
    Move.SERVE_AND_REFRESH: Reason.REVALIDATING,
    Move.SERVE_STALE: Reason.LOAD_FAILED,
    Move.SERVE_UNCONFIRMED: Reason.UNCONFIRMED,
    Move.SERVE_MEANWHILE: Reason.LOAD_ELSEWHERE,
}


class ReadThrough(InTime):
    """Reads through L1 and L2 to a loader. One per cache; `TieredCache` checks what it is made of."""

    def obtain(self, key: str, loader: Any, options: dict[str, Any]) -> Answer:
        """The way of every call that is not a plain hit."""
        call = self._call(key, loader, options)
        if call.plan.scope == "invocation":
            context, ttl, own = self._context(call, None, None), self._policy.ttl, self._memory.own
            return self.invocation.obtain(call, context, ttl, too_late=self._too_late, counted=self._counted, own=own)
        held, move = self._look_into_l1(call)
        if move is not Move.ASK:
            self._shared.catch_up(call.now)
            held, move = self._look_into_l1(call)  # another thread may have caught up in between
        match move:
            case Move.SERVE:
                self._memory.rearm(key, cast("Entry", held))
                return self._serve(call, held, "l1", Reason.FRESH)
            case Move.SERVE_AND_REFRESH:
                return self._revalidated(call, cast("Entry", held))
            case Move.SERVE_STALE:
                return self._serve(call, held, "l1", Reason.LOAD_FAILED)
            case _:
                self._memory.misses += 1
        return self._ask(call, held, may_serve=move is Move.LOOK)

    def peek(self, key: str, default: Any) -> Any:
        """The fresh value that L1 or L2 holds, else `default`. Runs no loader and owes no refresh."""
        call = Call(key, None, self._plan, self._now())
        held = self._memory.look(key)
        if held is not None:
            self._shared.catch_up(call.now)
            held = self._memory.look(key)
        if held is not None and judge(held, call.now) is Verdict.FRESH:
            return default if held.negative else self._serve(call, held, "l1", Reason.FRESH).value
        self._memory.misses += 1
        reply = self._shared.read(key, call.now, held)
        if held is not None and self._is_gone(key, held, reply):
            held = None
        newest = newest_of(held, reply.entry)
        if newest is None or newest.negative or judge_data(newest, call.now) is not Verdict.FRESH:
            return default
        if reply.entry is not None:
            self._adopt(call, newest, held)
        elif reply.reached:
            return default  # nobody vouches for what L1 holds
        return self._memory.value(key, newest)

    def invalidate(self, what: Sequence[Invalidation], lease: Lease | None = None) -> bool:
        """Invalidate in all tiers; whether L2 took it. Nothing whose load began before this returned is kept after it."""
        try:
            return self._shared.invalidate(what, self._now(), lease)
        finally:
            for kind, name in what:
                self.invocation.forget(None if kind is Kind.ALL or kind is Kind.TAG else name)
                if kind is not Kind.TAG:
                    self.forget_loads(None if kind is Kind.ALL else name)

    def put(self, key: str, entry: Entry) -> None:
        """Keep `entry` in all tiers, in place of whatever they hold or is being loaded."""
        lease = self._new_lease(key)
        self._memory.measure(entry)
        try:
            self.invalidate((Invalidation(Kind.KEY, key),), lease)
            entry.born, entry.since = self._memory.birth()
            self._shared.fill(lease, entry, self._now())
        finally:
            self._memory.store(key, entry.held(self._local, entry.loaded_at, 0.0, self._uniform))
            self._shared.release((lease,), entry.loaded_at)

    def _ask(self, call: Call, held: Entry | None, *, may_serve: bool) -> Answer:
        """Ask L2 for the value, if it is likely to have it, or `held` may be served; else for the value or the lease, and load
        under that.
        """
        is_fresh = held is not None and judge_data(held, call.now) is Verdict.FRESH
        if (may_serve or is_fresh or self._shared.expects_hit) and not call.plan.force_refresh:
            reply = self._shared.read(call.key, call.now, held)
            if self._settles(reply.entry, call, held):
                age = max(0.0, call.now - reply.entry.loaded_at)
                return Answer(self._memory.value(call.key, reply.entry), "l2", age, False, Reason.FRESH)
            newest, tier, move = self._weigh(call, held, reply, refreshing=False)
            if move is not Move.LOAD:
                return self._refreshed(call, newest, self._serve(call, newest, tier, REASONS[move]))
        return self._refreshed(call, held, self._fly(call, held, refreshing=False))

    def _lead(self, call: Call, held: Entry | None, flight: Flight[Answer], *, refreshing: bool) -> Answer:
        """Load as the one in the fleet that does, or take what another has loaded. One per key is here at a time."""
        done = self._memory.look(call.key)
        if self._is_done(call, held, done, refreshing=refreshing):
            return self._serve(call, done, "l1", Reason.FRESH)
        lease, patience = self._new_lease(call.key), self._patience(call)
        claim = Claim.ALWAYS if refreshing or self._shared.expects_hit else Claim.MISSING  # it has just been read
        if call.plan.force_refresh:
            claim = Claim.SEIZE
        flight.ends = call.now + longest(self._policy)
        try:
            while True:
                reply = self._shared.ask(lease, claim, call.now)
                newest, tier, move = self._weigh(call, held, reply, refreshing=refreshing)
                left = self._left(call, reply, newest)
                may_wait = move is Move.WAIT and not self.flights.waits_for_itself(call.key, flight)
                if move is Move.LOAD and reply.right is Right.UNASKED:
                    claim = Claim.ALWAYS  # what is there is dead or stale
                elif not (may_wait and patience.wait(is_pending=left is not None)):
                    break
                call = call._replace(now=self._now(), waited=patience.waited)
            self._counts["waited"] += call.waited > 0
            if move is Move.WAIT and left is not None:
                return self._await(call, newest, tier, left)  # who has the lease looks, and not the whole fleet
            if move is Move.LOAD or move is Move.WAIT:
                return self._load(call, newest, tier, flight, lease, left=left)
            self._brings(flight, call.key, cast("Entry", newest))
            is_pending = move is Move.SERVE_MEANWHILE and left is not None
            return self._serve(call, newest, tier, Reason.LOAD_PENDING if is_pending else REASONS[move])
        finally:
            self._shared.release((lease,), call.now)

    def _load(
        self, call: Call, held: Entry | None, tier: Tier, flight: Flight[Answer], lease: Lease, *, left: Entry | None
    ) -> Answer:
        """Run the loader, and keep what it gives in L2 and L1. `held`: what is known so far, found in `tier`. `left`: what an
        earlier part of this load has left.
        """
        if left is not None and not has_time(self.invocation.remaining(), 0.0):
            self._counts["too_late"] += 1  # there is no time to look at it
            return self._await(call, held, tier, left)
        if left is None and (instead := self._too_late(call, held, tier)) is not None:
            return instead
        flight.known = held, tier
        birth, started, worked = self._memory.birth(), self._steady(), self._works()
        context = self._context(call, held, left)
        try:
            outcome = run_loader(call.loader, context)
        except NotFound as error:
            absence = self._absence(call, error, self._begun(call, context, left, birth, started))
            flight.is_outdated = partial(self._memory.is_dead, call.key, absence)
            self._remember_absence(call, absence, lease, skip=context.skipped)
            raise
        except Exception as error:  # noqa: BLE001  # a loader may raise anything: it is covered for, or raised again
            self._failed(call, lease)
            return self._cover(call, held, tier, error)
        finally:
            load_time = self._worked() - worked
            self.load_seconds += load_time
        begun = self._begun(call, context, left, birth, started)
        if isinstance(outcome, Pending):
            return self._await(call, held, tier, self._leave(call, lease, outcome, begun))
        if outcome is Outcome.NOT_MODIFIED:
            self._counts["not_modified"] += 1
            outcome = renewed(cast("Entry", held), context.renewed_ttl)  # not_modified() refuses where nothing is held
        entry = self._stamped(call, outcome, load_time, begun)
        self._brings(flight, call.key, entry)
        return self._keep(call, entry, lease, skip=context.skipped)

    # The steps, in the order in which they are met.

    def _call(self, key: str, loader: Any, options: dict[str, Any]) -> Call:
        check_key(key)
        check_loader(loader)
        return Call(key, loader, self._plan.with_options(options) if options else self._plan, self._now())

    def _look_into_l1(self, call: Call) -> tuple[Entry | None, Move]:
        """What L1 holds, whatever its age, and the move."""
        held = self._memory.look(call.key)
        return held, self._first_move(call, held)

    def _first_move(self, call: Call, held: Entry | None) -> Move:
        if held is None or call.plan.force_refresh:
            return Move.ASK
        verdict, unasked = judge(held, call.now), is_unasked(held, call.now)
        return on_l1(
            verdict,
            early=call.now >= held.early_at,
            stale_ok=call.plan.stale_ok,
            backing_off=not held.doubtful and self._backoff.holds(call.key, call.now),
            owed=unasked and verdict is Verdict.REVALIDATE and self._is_owed(call),
            unasked=unasked,
        )

    def _is_owed(self, call: Call) -> bool:
        """Whether a refresh is owed already, and not under way in this process: by whomever, whenever."""
        return self._owed.holds(call.key, call.now) and not self.flights.busy(call.key)

    def _settles(self, entry: Entry | None, call: Call, held: Entry | None) -> TypeGuard[Entry]:
        """Whether L2 holds a fresh value, and L1 no newer one, as it mostly is: then it goes into L1, with nothing to weigh."""
        if entry is None or entry.negative or judge_data(entry, call.now) is not Verdict.FRESH:
            return False
        if held is not None and held.loaded_at > entry.loaded_at:
            return False
        self._owed.forget(call.key)
        self._adopt(call, entry, None if held is None or held.doubtful else held)
        return True

    def _weigh(
        self, call: Call, held: Entry | None, reply: Reply, *, refreshing: bool
    ) -> tuple[Entry | None, Tier, Move]:
        """The newest data that L1 and L2 hold, where they were found, and the move. What L2 vouches for goes into L1."""
        if held is not None and self._is_gone(call.key, held, reply):
            held = None
        newest = newest_of(held, reply.entry)
        if newest is None:
            return None, "l1", Move.WAIT if reply.right is Right.TAKEN else Move.LOAD
        move = self._move_on_l2(call, held, newest, reply, refreshing=refreshing)
        if reply.entry is not None and move is not Move.LOAD and move is not Move.WAIT:
            self._adopt(call, newest, held)
        elif reply.reached and judge_data(newest, call.now) is not Verdict.FRESH:
            newest.confirmed_at = call.now  # as stale as it is: L2 has nothing newer
        return newest, "l1" if newest is held else "l2", move

    def _is_gone(self, key: str, held: Entry, reply: Reply) -> bool:
        """Whether what was held has been invalidated, as this very reply may have told; or, where the log could not be
        followed, perhaps has been, and L2 can be asked.
        """
        if held.doubtful:
            if reply.reached:
                self._memory.discard(key, held)
            return reply.reached
        return self._memory.is_dead(key, held)

    def _move_on_l2(self, call: Call, held: Entry | None, newest: Entry, reply: Reply, *, refreshing: bool) -> Move:
        if call.plan.force_refresh:
            return Move.LOAD
        early = refreshing and held is not None and call.now >= held.early_at
        return on_l2(
            judge_data(newest, call.now),
            vouched=reply.entry is not None,
            reached=reply.reached,
            refreshing=refreshing,
            stale_ok=call.plan.stale_ok,
            backing_off=not newest.doubtful and self._backoff.holds(call.key, call.now),
            early_due=early and held is not None and newest.loaded_at <= held.loaded_at,
            taken=reply.right is Right.TAKEN,
        )

    def _is_done(self, call: Call, held: Entry | None, done: Entry | None, *, refreshing: bool) -> bool:
        """Whether another's load has come in, as `done`, since L1 was looked at and `held` was there."""
        if done is None or call.plan.force_refresh or judge(done, call.now) is not Verdict.FRESH:
            return False
        return call.now < done.early_at if refreshing else done is not held

    def _serve(self, call: Call, entry: Entry | None, tier: Tier, reason: Reason) -> Answer:
        """The answer that `entry` makes. Raises NotFound where that is what the entry says.

        It counts, unless a refresh may yet give another, or this is one: see `_given`.
        """
        assert entry is not None  # noqa: S101  # no rule says to serve what is not there
        is_settled = not call.owed and (reason is not Reason.REVALIDATING or entry.negative)
        if reason is Reason.REVALIDATING and judge(entry, call.now) is Verdict.FRESH:
            reason = Reason.FRESH  # refreshed ahead of time
        stale = reason not in FRESH_REASONS
        if tier == "l1" and is_settled:
            self._memory.count(entry, stale=stale)
        if entry.negative:
            raise NotFound(entry.value)
        value = self._memory.value(call.key, entry)
        return Answer(value, tier, max(0.0, call.now - entry.loaded_at), stale, reason)

    def _brings(self, flight: Flight[Answer], key: str, entry: Entry) -> None:
        """What those who join the flight get is `entry`."""
        flight.is_outdated = partial(self._memory.is_dead, key, entry)
        flight.ends = entry.loaded_at + kept_for(entry)

    def _fly(self, call: Call, held: Entry | None, *, refreshing: bool) -> Answer:
        """The answer of the key's flight: that which `_lead` gives, or that of what another caller has under way."""

        def work(calls: list[Call], flight: Flight[Answer]) -> Answer:
            return self._lead(calls[0], held, flight, refreshing=refreshing)

        def instead(calls: list[Call], flight: Flight[Answer]) -> Answer | None:
            found: Entry | None
            tier: Tier
            found, tier = flight.known or (None, "l1")
            newest = newest_of(held, found)
            return self._instead(calls[0], newest, Reason.LOAD_SLOW, "l1" if newest is held else tier)

        def own(answer: Answer) -> Answer:
            return answer._replace(value=self._memory.own(answer.value))

        limits = self._limits(call.plan.soft_timeout, call.plan.hard_timeout)
        return self._share(call.key, [call], work, limits, fallback=instead, own=own)

    def _given(self, answer: Answer, entry: Entry | None) -> Answer:
        """`answer`, to which it has come after a refresh or without one; it counts if it is what L1 held as `entry`."""
        if answer.tier == "l1" and entry is not None:
            self._memory.count(entry, stale=answer.stale)
        return answer

    def _revalidated(self, call: Call, held: Entry) -> Answer:
        """What L1 holds, or what its refresh gives where that is done at once. Raises NotFound where that is what it says."""
        served = None if held.negative else self._serve(call, held, "l1", Reason.REVALIDATING)
        try:
            better = self._refresh(call)
        except BaseException:
            self._memory.misses += 1
            raise
        answer = better or served or self._serve(call, held, "l1", Reason.REVALIDATING)
        self._memory.misses += answer.tier != "l1"
        return self._given(answer, held)

    def _refreshed(self, call: Call, held: Entry | None, answer: Answer) -> Answer:
        """`answer`; where it is stale and a refresh is owed, that is seen to, and may give a better one."""
        if answer.reason is not Reason.REVALIDATING:
            return answer
        return self._given(self._refresh(call) or answer, held)

    def _refresh(self, call: Call) -> Answer | None:
        """Have the value refreshed, unless that is under way; the new answer where it was done at once."""
        if self.flights.busy(call.key) or self._backoff.holds(call.key, call.now):
            return None

        def refresh() -> Answer | None:
            if self.flights.busy(call.key):
                return None  # others have begun it meanwhile, perhaps in the very loop that this would hold up
            later = call._replace(now=self._now(), owed=True)
            return self._fly(later, self._memory.look(later.key), refreshing=True)

        return self._owed.owe(call.key, refresh, call.now, call.plan.error_backoff)

    def _too_late(self, call: Call, held: Entry | None, tier: Tier = "l1") -> Answer | None:
        """What is served in place of a load that the invocation has no time for; None where it has.

        The last load's time is held against a load only where there is something to serve, and not against one that may
        go on elsewhere. Raises LoadTimeout.
        """
        remaining, in_parts = self.invocation.remaining(), getattr(call.loader, "resumable", False)
        if has_time(remaining, 0.0 if held is None or in_parts else held.load_time):
            return None
        answer = self._instead(call, held, Reason.NO_TIME, tier)
        if answer is None and has_time(remaining, 0.0):
            return None
        self._counts["too_late"] += 1
        if answer is None:
            raise LoadTimeout("no load was begun: the invocation has no time left beyond the reserve for its answer")
        return answer

    def _cover(self, call: Call, held: Entry | None, tier: Tier, error: Exception) -> Answer:
        """The answer that covers for a failed load; raises the error where there is none, or it may not."""
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
        """What is held, in place of what a load does not give, if it may be served at this moment: stale for this reason, or
        fresh, as where the load was one ahead of time.
        """
        now = self._now()
        if held is None or held.negative:
            return None
        is_fresh = judge(held, call.now) is judge_data(held, now) is Verdict.FRESH and not call.plan.force_refresh
        if not is_fresh and not (call.plan.stale_ok and covers(held, now)):
            return None
        if held.doubtful or self._memory.is_dead(call.key, held):
            return None  # invalidated meanwhile, or perhaps
        return self._serve(call._replace(now=now), held, tier, Reason.FRESH if is_fresh else reason)

    def _await(self, call: Call, held: Entry | None, tier: Tier, left: Entry) -> Answer:
        """The answer held while a load goes on elsewhere, which has left `left`. Raises LoadPending where there is none."""
        answer = self._instead(call, held, Reason.LOAD_PENDING, tier)
        if answer is None:
            raise LoadPending(
                "the load of this key goes on elsewhere, and no stale value may be served: ask again later",
                retry_after=pause_before_look(self._now() - left.loaded_at),
            )
        return answer
