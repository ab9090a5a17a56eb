"""TieredCache: what users see. It checks what it is given; `ReadThrough` has the way of a read."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

from tiered_cache._backoff import Backoff
from tiered_cache._cache_options import check_clock, check_coherence, check_namespace, check_tiers
from tiered_cache._coherence import Follower
from tiered_cache._container import Container
from tiered_cache._deferred import Deferred, Lingering, guarded
from tiered_cache._entry import Entry
from tiered_cache._errors import InvalidationNotDelivered
from tiered_cache._invocation import Invocation, Running
from tiered_cache._l1.hit import plain_hit
from tiered_cache._l1.memory import MemoryStore
from tiered_cache._l1.tier import MemoryTier
from tiered_cache._load import checked_value
from tiered_cache._log import log, warn_once
from tiered_cache._news import EVERYTHING, Invalidation, Kind
from tiered_cache._options import (
    CACHE_WIDE,
    Plan,
    check_key,
    check_loader_kind,
    checked_tags,
    one_of,
    refuse_unknown_options,
)
from tiered_cache._owed import Carriers, for_carrier, is_frozen_between_invocations
from tiered_cache._read_many import ReadMany
from tiered_cache._rules import jittered
from tiered_cache._shared import NoShared, Shared
from tiered_cache._stats import Counters, Stats, origin_stats, work_stats
from tiered_cache._units import Duration, seconds
from tiered_cache._values import MISSING, Answer, Loaded
from tiered_cache._watch import Uniform, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import ParamSpec, Self, TypeVar, Unpack

    from tiered_cache._cached import CachedFunction
    from tiered_cache._coherence import Coherence
    from tiered_cache._options import LoadOptions
    from tiered_cache._owed import Refresh
    from tiered_cache.interfaces import BatchLoader, Clock, SharedTier

    P = ParamSpec("P")
    R = TypeVar("R")

OTHERS_SHARE = 0.5
"""The share of an invocation's time after which it begins no more of what an earlier one has left it to do."""
L2_SHARE = 0.25
"""The share of an invocation's time that all its calls to L2 together may take."""


class TieredCache:
    """A read-through cache: L1 in this process, an optional L2 that containers share, and a loader for what neither has.

    l1, l2: the tiers' policies. The outermost one's says how long data live; L1's how long it may answer without L2.
    namespace: part of every key in L2; letters, digits and `._:-`.
    negative_ttl, soft_timeout, hard_timeout, early_refresh, error_backoff, stale_ok: see `LoadOptions`; for all loads.
    coherence: how soon invalidations by other containers reach L1: `"invocation"`: before the first answer of each
        invocation (see `aws_lambda.lambda_handler`), and otherwise along with reads of L2; seconds: not later than that;
        `"ttl"`: with the reads of L2 that L1's ttl brings about.
    refresh: who refreshes a stale value that was served: `"inline"`, the caller that found it and gets the lease;
        `"thread"`, a thread (not on Lambda, where it would be frozen); `"after_response"`, who works when the response is
        out (see `aws_lambda.lambda_handler`); `"next_invocation"`, the next one before its handler runs; an object with
        `submit(work)`; `"auto"`: after the response where that was asked for, else inline on Lambda, a thread elsewhere.
    clock: gives wall-clock seconds; for tests.
    on_failure: `"raise"` InvalidationNotDelivered when L2 does not take an invalidation, or `"queue"` it and be silent.
        It is tried again at the next contact with L2 in either case.

    Raises ConfigurationError for an option that cannot mean anything. Methods may be called from any thread.
    """

    @refuse_unknown_options
    def __init__(
        self,
        l1: MemoryTier | None = None,
        l2: SharedTier | None = None,
        *,
        namespace: str = "default",
        negative_ttl: Duration | None = None,
        coherence: Coherence = "invocation",
        refresh: Refresh = "auto",
        clock: Clock = time.time,
        on_failure: Literal["raise", "queue"] = "raise",
        soft_timeout: Duration | None = None,
        hard_timeout: Duration | None = None,
        early_refresh: float = 0.0,
        error_backoff: Duration = 1.0,
        stale_ok: bool = True,
    ) -> None:
        given = locals()
        plan = Plan().with_options({name: given[name] for name in CACHE_WIDE})
        l1 = MemoryTier(ttl=60) if l1 is None else l1
        check_tiers(l1, l2)
        check_namespace(namespace)
        check_coherence(coherence)
        check_clock(clock)
        self._raises = one_of("on_failure", on_failure, ("raise", "queue")) == "raise"
        self._namespace = namespace
        self._has_l2 = l2 is not None
        self._policy = l1.freshness if l2 is None else l2.freshness
        self._local = None if l2 is None else l1.freshness
        self._memory = MemoryStore(l1)
        self._counts = Counters()
        self._names: dict[str, Any] = {}
        self._uniform = Uniform()
        self._container = Container()
        self._carriers = Carriers(Deferred(self._counts), Deferred(self._counts))
        self._lingering = Lingering()
        self.refresh = refresh
        hit, not_before = plain_hit(self._memory.hot, clock, self._long_way)
        self._follower = Follower(self._memory, coherence if self._has_l2 else "ttl", not_before, self._counts)
        self._shared: Shared | NoShared = NoShared(self._memory)
        if l2 is not None:
            self._shared = Shared(l2.bind(namespace), self._memory, self._follower, self._counts)
        self._watch = Watch(clock, self._memory.unconfirm, self._follower.reading)
        self._reads = ReadMany(
            memory=self._memory,
            shared=self._shared,
            policy=self._policy,
            local=self._local,
            lease=0.0 if l2 is None else l2.lease,
            plan=plan,
            watch=self._watch,
            carrier=self._carriers.chosen(refresh),
            backoff=Backoff(self._uniform),
            invocation=Invocation(self._begun, self._ended),
            uniform=self._uniform,
            counts=self._counts,
        )
        self._invocation = self._reads.invocation
        self._follower.forget_flights = self._reads.forget_loads
        if type(self).get_or_load is TieredCache.get_or_load:
            hit.__doc__, hit.__qualname__ = TieredCache.get_or_load.__doc__, TieredCache.get_or_load.__qualname__
            self.get_or_load = hit  # type: ignore[method-assign]  # the same method in fewer steps

    def get_or_load(self, key: str, loader: Any, **options: Unpack[LoadOptions]) -> Any:
        """The value of `key`; runs `loader` at most once, and only if no tier has a value that may be served.

        loader: a callable without arguments, or an object with `load(context)`, as all adapters' requests are.
        options: see `LoadOptions`.

        Raises what the loader raises, NotFound if it says so or said so within `negative_ttl`, LoadTimeout, LoadPending,
        ReentrantLoadError, ConfigurationError, ClosedError, and TypeError or ValueError for a key that is none.
        """
        return self._long_way(key, loader, cast("dict[str, Any]", options))

    def _long_way(self, key: str, loader: Any, options: dict[str, Any]) -> Any:
        return self._reads.obtain(key, loader, options).value

    def get_entry_or_load(self, key: str, loader: Any, **options: Unpack[LoadOptions]) -> Answer:
        """As `get_or_load`, with where the value was found, how old it is, whether it is stale, and why."""
        return self._reads.obtain(key, loader, cast("dict[str, Any]", options))

    def get_many_or_load(
        self, keys: Iterable[str], loader: BatchLoader, **options: Unpack[LoadOptions]
    ) -> dict[str, Any]:
        """The values of `keys`, in their order and without those that do not exist; one round trip to L2 for all.

        loader: gets the keys that no tier has, as a tuple, and gives a mapping from keys to values or `Loaded`. A key that
            it leaves out has no value now but a stale one that is held; `NotFound` as its value says that it surely does
            not exist. An object with `load_many(keys, context)` learns by `context.remaining()` how many seconds it may
            take. The call's time limits and `scope` do not apply.

        Raises what the loader raises unless stale values cover for all its keys, OriginMalformed for an answer that is no
        mapping or has keys that were not asked for.
        """
        return self._reads.obtain_many(keys, loader, cast("dict[str, Any]", options))

    def cached(
        self, key: str | Callable[..., str] | None = None, **options: Unpack[LoadOptions]
    ) -> Callable[[Callable[P, R]], CachedFunction[P, R]]:
        """Decorate a function whose results are to be read through this cache.

        key: a template over its parameters, such as `"customer:{customer_id}"`, which tells apart what its text does
            (`{customer_id!r}`: 1 and "1" too); a function of its arguments; or None: the function's name and all arguments,
            which must then be numbers, str, bytes, dates and the like. What it sees of functions around it is no part of
            that, so what these make twice needs a key of its own.
        options: see `LoadOptions`. The decorated function has `cache_key(...)`, for `cache.delete` and the like.

        Raises TypeError for a coroutine or generator function, and for one without a key that a factory makes again;
        ConfigurationError for a key that cannot tell calls apart.
        """
        from tiered_cache._cached import decorator

        return decorator(self, self._names, key, options)

    def get(self, key: str, default: Any = MISSING) -> Any:
        """The fresh value that L1 or L2 holds for `key`, else `default`; no loader runs, and nothing stale is given."""
        check_key(key)
        return self._reads.peek(key, default)

    def set(self, key: str, value: Any, *, ttl: Duration | None = None, tags: Iterable[str] = ()) -> None:
        """Keep `value` under `key` in all tiers, as if it had been loaded now.

        Raises SerializationError if L2 cannot carry it; L1 keeps it all the same. Trouble with L2 is counted only.
        """
        check_key(key)
        if isinstance(value, Loaded):
            raise TypeError("value must be the bare value: give set() its ttl and tags, Loaded is for loaders")
        checked_value(value)
        now = self._watch.now()
        life = self._policy.ttl if ttl is None else seconds("ttl", ttl)
        entry = Entry(
            value,
            loaded_at=now,
            fresh_for=jittered(life, self._policy.jitter, self._uniform()),
            stale_while_revalidate=self._policy.stale_while_revalidate,
            stale_if_error=self._policy.stale_if_error,
            tags=checked_tags(tags),
        )
        self._reads.put(key, entry)

    def delete(self, key: str) -> None:
        """Forget `key` in all tiers, and let all containers know: call it after the origin has changed.

        No load that began before this call returned is kept in this container, nor in L2; other containers drop the value
        at their next look (see `coherence`). Raises InvalidationNotDelivered if L2 did not take it and
        `on_failure="raise"`.
        """
        check_key(key)
        self._invalidate(Invalidation(Kind.KEY, key))

    def expire(self, key: str) -> None:
        """Let the value of `key` be fresh no longer, in all tiers and containers: the next call loads. As `delete`, but the
        value is kept to cover for a load that fails, for `stale_if_error` from now on.
        """
        check_key(key)
        self._invalidate(Invalidation(Kind.EXPIRED, key))

    def invalidate_tag(self, *tags: str) -> None:
        """Forget all values that carry one of `tags`, in all tiers and containers; otherwise as `delete`."""
        checked = checked_tags(tags)
        if not checked:
            raise TypeError("invalidate_tag needs at least one tag; clear() forgets everything")
        self._invalidate(*(Invalidation(Kind.TAG, tag) for tag in checked))

    def clear(self) -> None:
        """Forget all values of this namespace, in all tiers and containers; otherwise as `delete`.

        What L2 holds is dead from then on, and takes room there until it is overwritten or its time is up.
        """
        self._invalidate(EVERYTHING)

    def _invalidate(self, *what: Invalidation) -> None:
        if not self._reads.invalidate(what) and self._raises:
            raise InvalidationNotDelivered(
                "L2 did not take the invalidation, which will be tried again at the next contact with it; "
                f"until then other containers may serve the old value, as fresh for at most {self._policy.ttl:g} s"
            )

    def invocation(
        self, remaining: Callable[[], float] | None = None, *, works_after_response: bool = False
    ) -> Running:
        """`with cache.invocation(remaining):` marks an invocation; `aws_lambda.lambda_handler` does it for a handler.

        remaining: gives the seconds that the invocation has left, as a number; None: no limit is known.
        works_after_response: the caller promises `run_deferred()` once the response is out; else what is put off is done
            when the invocation ends.
        Values asked for with `scope="invocation"` are gone when it ends. Raises RuntimeError if one is running, TypeError,
        ClosedError.
        """
        self._watch.now()  # has the clock stepped back while the container was idle?
        return Running(self._invocation, remaining, works_after_response=works_after_response)

    def _begun(self, works_after_response: bool) -> None:
        self._carriers.works_after_response, self._carriers.sees_invocations = works_after_response, True
        self._watch.wake()
        if self._container.begin(self._watch.last):
            self._shared.thawed(self._watch.last)
        self._follower.begin()
        self._allow_l2()
        self._carriers.following.run(self._invocation.remaining, share=OTHERS_SHARE)

    def _ended(self) -> None:
        if not self._carriers.works_after_response:
            if self._carriers.later and is_frozen_between_invocations():
                warn_once(
                    "work that was put off delays the response: %s",
                    "lambda_handler(cache, after_response=True) does it later",
                )
            self._carriers.later.run(self._invocation.remaining)
        self._rest()

    def _allow_l2(self) -> None:
        remaining = self._invocation.remaining()
        self._shared.allow(None if remaining is None else L2_SHARE * remaining)

    def _rest(self) -> None:
        """All is done until the next invocation."""
        self._shared.allow(None)
        if not self._watch.closed:
            self._container.end(self._watch.now())
        if is_frozen_between_invocations():
            self._watch.rest()

    def after_response(self, work: Callable[P, object], /, *args: P.args, **named: P.kwargs) -> None:
        """Have `work(*args, **named)` done when it delays nobody; what it raises is counted and logged.

        On Lambda: after the response, if `aws_lambda.lambda_handler(cache, after_response=True)` was asked for; else at the
        end of the invocation; at once in a forked process, unless that has invocations of its own. Elsewhere, and on Managed
        Instances: in a thread, now. What there was no time for is done after the next invocation; how much waits, failed or
        was never run stands in `stats().work`. Raises TypeError, ClosedError.
        """
        if hasattr(work, "__code__") or not callable(work):
            check_loader_kind(work, "after_response")
        self._watch.now()
        self._counts["deferred"] += 1
        carrier = self._carriers.for_later()
        if carrier is self._carriers.later and not self._carriers.sees_invocations:
            warn_once("work was put off before any invocation: %s", "it waits for one that lambda_handler(cache) marks")
        try:
            carrier.submit(for_carrier(carrier, guarded(partial(work, *args, **named), self._counts)))
        except (OverflowError, RuntimeError) as error:
            self._counts["dropped"] += 1
            log().error("work for after the response was refused, and is not done: %s", error)

    def run_deferred(self, remaining: Callable[[], float] | None = None) -> int:
        """Do what waits for the end of an invocation, and let loads that go on in threads end; how much is left.

        For who promised so to `invocation(works_after_response=True)`, once the response is out. remaining: as there. Loads
        are waited for but once each, and for a minute at most.
        """
        with self._invocation.afterwards(remaining):
            if not self._invocation.is_running:
                self._watch.wake()
                self._allow_l2()
            left = self._carriers.later.run(self._invocation.remaining, let_end=self._let_loads_end)
            if not self._invocation.is_running:
                self._rest()
        return left

    def _let_loads_end(self) -> None:
        self._lingering.wait(self._reads.flights.under_way(), self._invocation.remaining)

    def before_snapshot(self) -> None:
        """Get ready to be copied: close connections, forget what no two copies may share. `lambda_handler` has SnapStart
        call it; L1 is kept, and is as old in each copy as it is. What waits is done by each copy, which the log says.
        """
        if waiting := self._carriers.waiting():
            log().warning("%d pieces of work were put off before the snapshot: each copy of it will do them", waiting)
        self._shared.suspend()
        self._uniform.renew()

    def after_restore(self) -> None:
        """This is a copy: with an id and randomness of its own. Where there is an L2, what L1 holds is to be confirmed by it
        before it is served.
        """
        self._uniform.renew()
        self._container.restored()
        if self._has_l2:
            self._memory.unconfirm(0.0)

    def warm_up(self, *, wait: bool = True) -> bool:
        """Import what the tiers need and connect to L2, ahead of the first call. Whether L2 answered; True without one.

        wait: False: connect in a thread, beside the rest of the init, and return True as soon as all is imported. The first
        call to L2 waits for the connection, within its own time limit.
        """
        return self._shared.warm_up(self._watch.now(), wait=wait)

    def stats(self) -> Stats:
        """All counters since this cache was made; also after it was closed."""
        return Stats(
            l1=self._memory.stats(),
            l2=self._shared.stats(self._watch.last) if self._has_l2 else None,
            origin=origin_stats(self._counts, self._reads.load_seconds),
            work=work_stats(self._counts, self._carriers.waiting()),
            container=self._container.stats(self._watch.last),
        )

    def close(self) -> None:
        """Give back connections and memory. A second call does nothing; any other call after it raises ClosedError.

        Invalidations that wait are tried once more, and the leases of loads under way are given up: this takes L2's
        `timeout` for either at most. A load under way goes on, its caller gets ClosedError, and no tier keeps its value.
        """
        now = self._watch.last if self._watch.closed else self._watch.now()
        self._watch.closed = True
        self._carriers.abandon(self._counts)
        self._memory.clear()
        self._shared.close(now)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"TieredCache(namespace={self._namespace!r}, l2={self._has_l2})"
