"""Calls to L2, each counted by what came of it, and held against the breakers and the invocation's budget."""

from __future__ import annotations

import time
from contextlib import nullcontext
from math import inf
from typing import TYPE_CHECKING, Any

from tiered_cache._forks import ForkSafe
from tiered_cache._l2.faults import FORBIDDEN, HARMLESS, MISCONFIGURED, WRITES_ONLY, Failure, Unavailable
from tiered_cache._l2.warming import Warming
from tiered_cache._log import log

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiered_cache._l2.breaker import Breaker
    from tiered_cache._l2.scripts import Command
    from tiered_cache._l2.tier import RedisTier
    from tiered_cache._stats import Counters

_VALUES = frozenset({b"GET", b"MGET"})
"""Commands without which there is nothing to be had from L2; who may not do the others can still read values."""
_READS = _VALUES | {b"GETRANGE", b"HGET", b"HMGET", b"XRANGE"}
"""Commands that a server answers though it takes no writes."""


class Budget(ForkSafe):
    """Seconds for which one invocation may still be in calls to L2; those at the same time are in it together, and cost
    it no more than one. A call that outlasts the invocation, frozen in the middle perhaps, is charged to this one, and not
    to that of a later invocation.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.left = seconds
        """Without those of the calls under way."""
        self._calls = 0
        self._began = 0.0

    def forked(self) -> None:
        """The parent's calls are not under way here, nor is its invocation."""
        super().forked()
        self._calls, self.left = 0, inf

    def __enter__(self) -> float:
        """A call begins; the seconds that are left."""
        now = time.monotonic()
        with self._lock:
            if not self._calls:
                self._began = now
            self._calls += 1
            return self.left - (now - self._began)

    def __exit__(self, *_: object) -> None:
        now = time.monotonic()
        with self._lock:
            self._calls -= 1
            if not self._calls:
                self.left -= now - self._began


_UNLIMITED = nullcontext(inf)


class Calls:
    """The way of one namespace to the server."""

    def __init__(self, tier: RedisTier, counts: Counters) -> None:
        self._tier = tier
        self._counts = counts
        self._budget: Budget | None = None
        self._closed = False

    def allow(self, seconds: float | None) -> None:
        """All calls together may take so many seconds from now on; None: no limit."""
        self._budget = None if seconds is None else Budget(seconds)

    def close(self) -> None:
        """Close the tier's connections, now and after each call that ends later: it may have connected since."""
        self._closed = True
        self._tier.close()

    def call(self, commands: Sequence[Command], now: float, *, urgent: bool = False) -> list[Any] | None:
        """The replies, or None where L2 could not be asked. Each way in which that can be is counted.

        urgent: for what must be done though the invocation's budget is spent: it has `timeout` all the same.
        """
        budget = None if urgent else self._budget
        limit: float | None = self._tier.timeout
        if self._tier.warming is not None:
            limit = self._joined(now, budget)
        return None if limit is None else self._call(commands, now, budget, limit)

    def warm_up(self, commands: Sequence[Command], now: float) -> None:
        """Begin to make a connection by `commands`, in a thread that the next call joins. This imports redis."""
        tier = self._tier
        tier.link()
        if tier.warming is None:
            try:
                tier.warming = Warming(lambda: self._call(commands, now, None, tier.timeout), now)
            except RuntimeError:  # the process is at its limit of threads: the first call connects
                self._counts["skipped"] += 1

    def _joined(self, now: float, budget: Budget | None) -> float | None:
        """The seconds that are left when the warm-up under way is out of the way; None where it is still going on then."""
        tier, warming, began = self._tier, self._tier.warming, time.monotonic()
        with _UNLIMITED if budget is None else budget as left:
            limit = max(0.0, min(tier.timeout, left))
            joined = warming is None or warming.joined(now, limit)  # None: another thread has joined it
        took = time.monotonic() - began
        if not joined:
            self._counts["skipped"] += 1
            return None
        if warming is not None and warming.is_old(now):
            tier.link().thawed(now)  # what it is still about holds up no other attempt
        tier.warming = None
        return tier.timeout - took

    def _call(self, commands: Sequence[Command], now: float, budget: Budget | None, limit: float) -> list[Any] | None:
        tier = self._tier
        if not tier.breaker.allows(now):
            self._counts["skipped"] += 1
            return None
        try:
            with _UNLIMITED if budget is None else budget as left:
                if left <= 0.0:
                    self._counts["over_budget"] += 1
                    return None
                limit = min(limit, left)
                replies = tier.link().call(commands, now, limit)
        except Unavailable as error:
            took = limit if error.failure is Failure.TIMEOUT else 0.0
            self._failed(error, tier.breaker, now, took)
            if error.failure is Failure.TIMEOUT and not all(command[0] in _READS for command in commands):
                tier.write_breaker.failed(error.failure, now, took=took)  # perhaps writes alone: let a read try first
            return None
        finally:
            if self._closed:
                tier.close()
        answers = True
        for number, reply in enumerate(replies):
            if isinstance(reply, Unavailable):
                answers &= self.refused(reply, now, writes=commands[number][0] not in _VALUES)
        if answers and tier.breaker.succeeded():
            log().info("L2 %s answers again", tier.address.shown)
        return replies

    def may_write(self, now: float) -> bool:
        """Whether a lease is worth asking for, and a value worth encoding: not before a read has closed the breaker, and
        not while that of writes is open.
        """
        return self._tier.breaker.state(now) == "closed" and self._tier.write_breaker.allows(now)

    def wrote(self) -> None:
        """A write went well."""
        if self._tier.write_breaker.succeeded():
            log().info("L2 %s takes writes again", self._tier.address.shown)

    def refused(self, error: Unavailable, now: float, *, writes: bool) -> bool:
        """Count an error reply, and draw the breaker that it concerns; whether reads may go on."""
        failure = error.failure
        if failure in HARMLESS:
            self._counts[f"errors.{failure.value}"] += 1
            return True
        if failure is Failure.READ_ONLY:
            self._tier.link().drop()  # its name may lead to another server by now
        if failure in WRITES_ONLY or (writes and failure in FORBIDDEN):
            self._failed(error, self._tier.write_breaker, now)
            return True
        self._failed(error, self._tier.breaker, now)
        return False

    def _failed(self, error: Unavailable, breaker: Breaker, now: float, took: float = 0.0) -> None:
        failure = error.failure
        self._counts[f"errors.{failure.value}"] += 1
        if breaker.failed(failure, now, took=took):
            say = log().error if failure in MISCONFIGURED else log().warning
            what = "is left alone" if breaker is self._tier.breaker else "is read only"
            say("L2 %s %s for now: %s (%s)", self._tier.address.shown, what, failure.value, error)
