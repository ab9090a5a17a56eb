"""How long a load may take, be waited for, and be kept from others: by the call's limits and what the invocation has left."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from tiered_cache._errors import LoadTimeout
from tiered_cache._flight import Limits
from tiered_cache._keeping import Keeping
from tiered_cache._load import Patience, generation_of, stale_value, wait_of
from tiered_cache._values import LoadContext, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._entry import Entry
    from tiered_cache._flight import Flight, Key
    from tiered_cache._load import Call
    from tiered_cache._options import Limit
    from tiered_cache._reply import Lease
    from tiered_cache._values import Answer

PATIENCE = 0.5
"""The share of its own time for which a caller without a stale value waits for another container's load."""
MOST_PATIENCE = 10.0
"""Seconds for which it waits where no limit is known."""
MARGIN = 1.0
"""Seconds that a lease lasts beyond the deadline of its holder's invocation, for the fill."""


class InTime(Keeping):
    """What a call may take."""

    def _new_lease(self, key: str) -> Lease:
        remaining = self.invocation.remaining()
        return self._shared.lease(key, self._lease_seconds if remaining is None else remaining + MARGIN)

    def _patience(self, call: Call) -> Patience:
        """How long to wait for another container's load."""
        remaining, hard = self.invocation.remaining(), self._within(call.plan.hard_timeout)
        most = MOST_PATIENCE if remaining is None else remaining * PATIENCE
        return Patience(most if hard is None else min(most, hard * PATIENCE), wait_of(call.loader))

    def _within(self, limit: Limit | None, *, counts: bool = False) -> float | None:
        """The limit in seconds, at most what the invocation has left. `counts`: if it is cut to that."""
        if limit is None:
            return None
        remaining = self.invocation.remaining()
        within = limit.within(remaining)
        if within is None or remaining is None or within <= remaining:
            return within
        self._counts["clipped"] += counts
        return remaining

    def _limits(self, soft: Limit | None = None, hard: Limit | None = None) -> Limits:
        """How long a caller that comes now waits for loads: for those of others not beyond its invocation."""
        return Limits(
            time.monotonic(),
            self._within(soft, counts=True),
            self._within(hard, counts=True),
            self.invocation.remaining(),
        )

    def _share(
        self,
        name: Key,
        calls: list[Call],
        work: Callable[[list[Call], Flight[Answer]], Answer],
        limits: Limits,
        *,
        fallback: Callable[[list[Call], Flight[Answer]], Answer | None],
        own: Callable[[Answer], Answer],
    ) -> Answer:
        """What `work` gives for `calls`, or what another caller has under way, if that will do. Raises LoadTimeout.

        fallback: gives what these callers may have of a flight for which they will not wait longer, or None. own: makes an
        answer of one that others have too.
        Who leads a load cannot leave it but by a time limit. Who joins one can, and does when the invocation's time is up.
        """
        plan = calls[0].plan
        alone = plan.force_refresh  # a load that began earlier would not do
        while True:
            now = calls[0].now
            mine, instead = partial(work, calls), partial(fallback, calls)
            try:
                answer, flight, joined = self.flights.run(name, mine, limits, since=now, alone=alone, fallback=instead)
            except LoadTimeout:
                self._counts["timeouts"] += 1
                raise
            self._counts["shared"] += joined
            self._counts["timeouts"] += answer.reason is Reason.LOAD_SLOW
            # it had been under way, or frozen, for so long when this call began
            is_over = joined and answer is flight.result and now >= flight.ends
            if not joined or (not is_over and (plan.stale_ok or not answer.stale)):
                return own(answer) if flight.is_shared else answer
            alone = not is_over  # it did for the other caller, and not for this one, who insists on fresh
            now = self._now()
            calls = [call._replace(now=now) for call in calls]

    def _context(self, call: Call, held: Entry | None, left: Entry | None) -> LoadContext:
        ends = self._within(call.plan.hard_timeout)
        started = time.monotonic()

        def remaining() -> float | None:
            limits = [self.invocation.remaining()]
            limits.append(None if ends is None else max(0.0, ends - (time.monotonic() - started)))
            return min((limit for limit in limits if limit is not None), default=None)

        return LoadContext(
            call.key,
            stale=stale_value(held),
            etag=None if held is None else held.etag,
            last_modified=None if held is None else held.last_modified,
            handle=None if left is None else left.value,
            generation=generation_of(self._memory.birth()),  # not older than that of the load
            waited=call.waited,
            remaining=remaining,
            own=self._memory.own,
        )
