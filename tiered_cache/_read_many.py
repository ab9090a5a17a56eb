"""The way of a `get_many_or_load`: L1 for each key, one round trip to L2 for the rest, one load for what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tiered_cache._errors import NotFound, OriginMalformed
from tiered_cache._keeping import Begun
from tiered_cache._load import Call, absence_of, is_passing, loaded_of, run_batch_loader
from tiered_cache._options import check_batch_loader, check_key, refuse_options
from tiered_cache._read_through import REASONS, ReadThrough
from tiered_cache._reply import Claim, Filled, Right
from tiered_cache._rules import Move, Verdict, judge, kept_for, longest
from tiered_cache._units import shown
from tiered_cache._values import Answer, BatchContext, Loaded, Outcome, Pending, Reason, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiered_cache._entry import Entry
    from tiered_cache._flight import Flight
    from tiered_cache._reply import Lease
    from tiered_cache.interfaces import BatchLoader

T = TypeVar("T")
CHUNK = 1_000
"""Keys asked of L2 in one round trip."""


class ReadMany(ReadThrough):
    """`ReadThrough`, for many keys at once too."""

    def obtain_many(self, keys: Iterable[str], loader: BatchLoader, options: dict[str, Any]) -> dict[str, Any]:
        """The values of those of `keys` that exist, in their order."""
        refuse_options(options, ("scope", "soft_timeout", "hard_timeout"), "for many keys at once")
        plan = self._plan.with_options(options) if options else self._plan
        asked, now = _checked(keys, loader), self._now()
        if self._memory.holds_any(asked):  # else the look goes along with the reading
            self._shared.catch_up(now)
        found = {} if plan.force_refresh else self._memory.plain_hits(asked, now)
        if len(found) == len(asked):
            return found
        others = [key for key in asked if key not in found]
        for key in others:
            check_key(key)
        held = self._memory.look_many(others)
        stale: list[Call] = []
        calls = [Call(key, loader, plan, now) for key in others]
        found |= self._from_l1(calls, held, stale)
        ours = [(call, held[call.key]) for call in stale]
        found |= self._from_l2([call for call in calls if call.key not in found], held, stale)
        missing = [call for call in calls if call.key not in found]
        try:
            found |= _values(self._fly_many(missing, held) if missing else {})
            better = self._refresh_many(stale, held) if stale else {}
        except BaseException:
            self._memory.misses += len(ours)  # of what was held, nothing is given
            raise
        found |= _values(better)
        for call, entry in ours:
            self._settle(entry, better.get(call.key), now)
        return {key: found[key] for key in asked if found.get(key, NotFound) is not NotFound}

    def _settle(self, entry: Entry, better: Answer | None, now: float) -> None:
        """Count what L1 held, unless its refresh gave a better one."""
        if better is None:
            self._memory.count(entry, stale=judge(entry, now) is not Verdict.FRESH)
        else:
            self._memory.misses += better.tier != "l1"
            self._given(better, entry)

    def _from_l1(self, calls: list[Call], held: dict[str, Entry], stale: list[Call]) -> dict[str, Any]:
        """What L1 may answer of what it holds. What of it is stale is added to `stale`."""
        found: dict[str, Any] = {}
        for call in calls:
            entry = held.get(call.key)
            match Move.ASK if entry is None else self._first_move(call, entry):
                case Move.SERVE:
                    self._memory.rearm(call.key, cast("Entry", entry))
                    found[call.key] = self._answer_of(call, entry, "l1", Reason.FRESH).value
                case Move.SERVE_AND_REFRESH:
                    later = call._replace(owed=True)  # it counts when it is known whether the refresh gives another
                    found[call.key] = self._answer_of(later, entry, "l1", Reason.REVALIDATING).value
                    stale.append(call)
                case Move.SERVE_STALE:
                    found[call.key] = self._answer_of(call, entry, "l1", Reason.LOAD_FAILED).value
                case _:
                    self._memory.misses += 1
        return found

    def _from_l2(self, calls: list[Call], held: dict[str, Entry], stale: list[Call]) -> dict[str, Any]:
        """What L2 may answer, in one round trip. What of it is stale is added to `stale`."""
        found: dict[str, Any] = {}
        calls = [call for call in calls if not call.plan.force_refresh]
        for chunk in _chunks(calls):
            replies = self._shared.read_many([call.key for call in chunk], chunk[0].now, held)
            for call in chunk:
                reply, old = replies[call.key], held.get(call.key)
                if self._settles(reply.entry, call, old):
                    found[call.key] = self._memory.value(call.key, reply.entry)
                    continue
                newest, tier, move = self._weigh(call, old, reply, refreshing=False)
                if newest is None or move is Move.LOAD:
                    continue
                if move is Move.SERVE_AND_REFRESH:
                    stale.append(call)
                found[call.key] = self._answer_of(call, newest, tier, REASONS[move]).value
        return found

    def _answer_of(self, call: Call, entry: Entry | None, tier: Tier, reason: Reason) -> Answer:
        """As `_serve`, with NotFound as the value where that is what the entry says."""
        try:
            return self._serve(call, entry, tier, reason)
        except NotFound:
            return Answer(NotFound, tier, 0.0, stale=False, reason=reason)

    def _fly_many(self, calls: list[Call], held: dict[str, Entry], *, refreshing: bool = False) -> dict[str, Answer]:
        """Have what is missing loaded; callers of the very same keys share the load."""

        def work(calls: list[Call], flight: Flight[Answer]) -> Answer:
            return self._lead_flight(calls, held, flight, refreshing=refreshing)

        def instead(calls: list[Call], _: Flight[Answer]) -> Answer | None:
            found = self._instead_of_all(calls, held, Reason.LOAD_SLOW)
            return None if found is None else _together(found, Reason.LOAD_SLOW)

        def own(answer: Answer) -> Answer:
            each: dict[str, Answer] = answer.value
            return _together(
                {key: one._replace(value=self._memory.own(one.value)) for key, one in each.items()}, answer.reason
            )

        found: dict[str, Answer] = self._share(
            _name_of(calls), calls, work, self._limits(), fallback=instead, own=own
        ).value
        return found

    def _lead_flight(
        self, calls: list[Call], held: dict[str, Entry], flight: Flight[Answer], *, refreshing: bool
    ) -> Answer:
        """What those who join the flight get, too."""
        loaded: list[tuple[str, Entry]] = []
        flight.is_outdated = lambda: any(self._memory.is_dead(key, entry) for key, entry in loaded)
        flight.ends = calls[0].now + longest(self._policy)
        found = self._lead_many(calls, held, loaded, flight, refreshing=refreshing)
        lives = [entry.loaded_at + kept_for(entry) for _, entry in loaded if not entry.negative]
        flight.ends = min(lives, default=flight.ends)
        return _together(found, Reason.LOADED)

    def _lead_many(
        self,
        calls: list[Call],
        held: dict[str, Entry],
        loaded: list[tuple[str, Entry]],
        flight: Flight[Answer],
        *,
        refreshing: bool,
    ) -> dict[str, Answer]:
        """Load those keys that no other container is loading, and then wait for what others load. `loaded`: gets entries."""
        leases = {call.key: self._new_lease(call.key) for call in calls}
        claim = Claim.SEIZE if calls[0].plan.force_refresh else Claim.ALWAYS if refreshing else Claim.MISSING
        found: dict[str, Answer] = {}
        pending, patience = calls, self._patience(calls[0])
        try:
            while pending:
                ours, others, unasked = self._ask_many(pending, leases, claim, held, found, refreshing=refreshing)
                if ours:
                    found |= self._load_many(ours, held, leases, loaded)
                    self._shared.release([leases[call.key] for call in ours], ours[0].now)  # of keys that were left out
                is_own = any(self.flights.waits_for_itself(call.key, flight) for call in others)
                if not unasked and others and (is_own or not patience.wait()):
                    return found | self._load_many(others, held, leases, loaded)
                claim = Claim.ALWAYS if unasked else claim
                now = self._now()
                pending = [call._replace(now=now) for call in (*others, *unasked)]
        finally:
            self._counts["waited"] += patience.waited > 0
            self._shared.release(leases.values(), calls[0].now)
        return found

    def _ask_many(
        self,
        calls: list[Call],
        leases: dict[str, Lease],
        claim: Claim,
        held: dict[str, Entry],
        found: dict[str, Answer],
        *,
        refreshing: bool,
    ) -> tuple[list[Call], list[Call], list[Call]]:
        """Ask L2 for values and leases; what it answers goes into `found`. The rest: to be loaded here, or being loaded by
        others, or to be asked for once more since what is there is dead or stale.
        """
        ours: list[Call] = []
        others: list[Call] = []
        unasked: list[Call] = []
        for chunk in _chunks(calls):
            replies = self._shared.ask_many([leases[call.key] for call in chunk], claim, chunk[0].now)
            for call in chunk:
                reply = replies[call.key]
                newest, tier, move = self._weigh(call, held.get(call.key), reply, refreshing=refreshing)
                if newest is not None:
                    held[call.key] = newest
                if move is Move.WAIT:
                    others.append(call)
                elif move is Move.LOAD:
                    (unasked if reply.right is Right.UNASKED else ours).append(call)
                else:
                    found[call.key] = self._answer_of(call, newest, tier, REASONS[move])
        return ours, others, unasked

    def _load_many(
        self,
        calls: list[Call],
        held: dict[str, Entry],
        leases: dict[str, Lease],
        loaded_entries: list[tuple[str, Entry]],
    ) -> dict[str, Answer]:
        """Run the batch loader once, and keep each value that it gives."""
        instead = {call.key: self._too_late(call, held.get(call.key)) for call in calls}
        late = {key: answer for key, answer in instead.items() if answer is not None}
        calls = [call for call in calls if call.key not in late]
        if not calls:
            return late
        begun, worked = Begun(calls[0].now, self._memory.birth(), self._steady()), self._works()
        by_key, context = {call.key: call for call in calls}, BatchContext(remaining=self.invocation.remaining)
        try:
            answer = run_batch_loader(calls[0].loader, tuple(by_key), context)
            given = _checked_answer(answer, by_key)
        except Exception as error:  # noqa: BLE001  # a loader may raise anything: it is covered for, or raised again
            return late | self._covered(calls, held, error)
        finally:
            load_time = self._worked() - worked
            self.load_seconds += load_time
        self._counts["loads"] += any(isinstance(loaded, Loaded) for loaded in given.values())
        found = late
        entries: list[tuple[Call, Entry]] = []
        for key, loaded in given.items():
            call = by_key[key]
            if isinstance(loaded, NotFound):
                entries.append((call, self._absence(call, loaded, begun)))
                found[key] = _loaded(NotFound)
                continue
            found[key] = _loaded(loaded.value)
            entry = self._stamped(call, loaded, load_time, begun)
            self._memory.measure(entry)  # L2 keeps the figure, as for one key
            entries.append((call, entry))
        loaded_entries += [(call.key, entry) for call, entry in entries]
        self._store_many(entries, leases)
        return found

    def _store_many(self, entries: list[tuple[Call, Entry]], leases: dict[str, Lease]) -> None:
        """Keep `entries` in L2, in one round trip, and in L1; absences that are not to be remembered are deleted there."""
        now = self._now()
        kept = [(call, entry) for call, entry in entries if not self._memory.refuses(call.key, entry)]
        lasting = [(call, entry) for call, entry in kept if not entry.negative or call.plan.negative_ttl is not None]
        gone = [call.key for call, entry in kept if entry.negative and call.plan.negative_ttl is None]
        for chunk in _chunks(lasting):
            outcomes = self._shared.fill_many([(leases[call.key], entry) for call, entry in chunk], now)
            for call, entry in chunk:
                if outcomes.get(call.key) is Filled.REFUSED:
                    self._memory.drop(call.key)
                else:
                    self._store_in_l1(call, entry)
        for key in gone:
            self._memory.drop(key)
        self._shared.release([leases[key] for key in gone], now, drop=True)

    def _covered(self, calls: list[Call], held: dict[str, Entry], error: Exception) -> dict[str, Answer]:
        """The stale values that cover for a failed load; raises the error unless there is one for each key."""
        self._counts["failures"] += 1
        found = self._instead_of_all(calls, held, Reason.LOAD_FAILED) if is_passing(error) else None
        if found is None:
            raise error
        for call in calls:
            self._pause(call, error)
        self._counts["covered"] += 1
        return found

    def _instead_of_all(self, calls: list[Call], held: dict[str, Entry], reason: Reason) -> dict[str, Answer] | None:
        """What is held of all the keys, in place of what a load does not give; None unless there is something for each."""
        found: dict[str, Answer] = {}
        for call in calls:
            answer = self._instead(call._replace(owed=True), held.get(call.key), reason)
            if answer is None:
                return None
            found[call.key] = answer
        for call in calls:
            if not call.owed:
                self._given(found[call.key], held[call.key])
        return found

    def _refresh_many(self, calls: list[Call], held: dict[str, Entry]) -> dict[str, Answer]:
        """Have what is stale refreshed, but for what is seen to already; the new answers where it was done at once."""
        calls = [call for call in calls if not self._owed.holds(call.key, call.now)]
        if not calls:
            return {}

        def refresh() -> Answer | None:
            if self.flights.busy(_name_of(calls)):
                return None  # see `_refresh`
            now = self._now()
            known = {call.key: entry for call in calls if (entry := self._memory.look(call.key)) is not None}
            later = [call._replace(now=now, owed=True) for call in calls]
            due = [call for call in later if not self._is_done(call, None, known.get(call.key), refreshing=True)]
            found = self._fly_many(due, held | known, refreshing=True) if due else {}
            return _together(found, Reason.LOADED)

        answer = self._owed.owe(_name_of(calls), refresh, calls[0].now, calls[0].plan.error_backoff)
        return {} if answer is None else answer.value


def _name_of(calls: list[Call]) -> tuple[str, ...]:
    """What a flight for them is known by."""
    return tuple(sorted(call.key for call in calls))


def _values(found: dict[str, Answer]) -> dict[str, Any]:
    return {key: answer.value for key, answer in found.items()}


def _together(found: dict[str, Answer], reason: Reason) -> Answer:
    """The answers of several keys as one, which is stale if one of them is."""
    return Answer(found, "origin", 0.0, any(answer.stale for answer in found.values()), reason)


def _loaded(value: Any) -> Answer:
    return Answer(value, "origin", 0.0, stale=False, reason=Reason.LOADED)


def _chunks(items: list[T]) -> Iterator[list[T]]:
    """`items`, so many at a time as L2 is asked for in one round trip."""
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))


def _checked(keys: object, loader: object) -> list[str]:
    """`keys`, each once."""
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        raise TypeError(f"keys must be a list or another iterable of str; got {shown(keys)}")
    check_batch_loader(loader)
    return list(dict.fromkeys(keys))


def _checked_answer(given: object, by_key: Mapping[str, Call]) -> dict[str, Loaded | NotFound]:
    if not isinstance(given, Mapping):
        raise OriginMalformed(
            f"a batch loader must give a mapping from keys to values; got {type(given).__qualname__} "
            "(a key that is left out has no value; NotFound as a value says that it surely does not exist)"
        )
    unknown = [key for key in given if key not in by_key]
    if unknown:
        raise OriginMalformed(f"a batch loader gave {len(unknown)} keys that it was not asked for")
    return {key: _checked_value(value) for key, value in given.items()}


def _checked_value(given: Any) -> Loaded | NotFound:
    if (absence := absence_of(given)) is not None:
        return absence
    if isinstance(given, Outcome | Pending):
        raise TypeError("a batch loader gives values: 'not modified' and 'pending' are for loaders of one key")
    return loaded_of(given)
