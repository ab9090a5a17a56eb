"""One Athena query as a loader: which execution serves it, how long it waits, when it stops the query."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from itertools import count
from typing import TYPE_CHECKING, Any, final

from tiered_cache._errors import LoadTimeout, OriginDenied, OriginError, OriginMalformed, OriginThrottled
from tiered_cache._log import warn_once
from tiered_cache._values import MISSING
from tiered_cache.adapters._athena_service import (
    STOP_TIME,
    Execution,
    QueryStatistics,
    ResultGoneError,
    Service,
    Start,
    UnknownExecutionError,
)
from tiered_cache.adapters._boto import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiered_cache._values import LoadContext

_log = logging.getLogger("tiered_cache.adapters.athena")

_PASSING = (OriginError, OriginThrottled, LoadTimeout)
"""Why rows cannot be had just now, though they are there; not the kinds of OriginError that say something else."""
_STARTS = 4
_KEPT = 64


@final
class QueryRequest:
    """One query with its parameters, as a loader; made by `AthenaOrigin.query`, used as often as you like.

    last_statistics: what Athena said about the execution that served the latest load, or None.
    resumable: whether it may answer 'pending'.
    wait: the seconds for which it is waited for before, by a caller with nothing to serve.
    """

    __slots__ = (
        "_bucket_seconds",
        "_collected",
        "_decode",
        "_parameters",
        "_service",
        "_sql",
        "last_statistics",
        "resumable",
        "wait",
    )

    def __init__(
        self,
        service: Service,
        collected: dict[str, None],
        sql: str,
        parameters: tuple[str, ...],
        decode: Callable[[list[dict[str, Any]]], Any],
        *,
        resumable: bool,
        wait: float,
        bucket_seconds: float,
    ) -> None:
        self._service = service
        self._collected = collected
        self._sql = sql
        self._parameters = parameters
        self._decode = decode
        self.resumable = resumable
        self.wait = wait
        self._bucket_seconds = bucket_seconds
        self.last_statistics: QueryStatistics | None = None

    def load(self, context: LoadContext, /) -> Any:
        """What `decode` makes of the rows, a list of dicts; or 'pending' for a resumable query that is not done yet.

        Raises OriginError with Athena's reason if the query fails or is cancelled, OriginThrottled, OriginDenied,
        OriginMalformed where `decode` fails or the result file is cut or not Athena's, SizeLimitExceeded,
        ConfigurationError, or LoadTimeout when the time is up; the query is then stopped.
        """
        left = self._left(context)
        taken_up = self._taken_up(context, left)
        if taken_up is not None:
            try:
                return self._answer(context, *taken_up, left)
            except ResultGoneError:
                _log.warning("the result of query %s is gone: it is run anew", taken_up[0])
        context.handle = None  # what it leads to, if to anything, is of no use
        return self._answer(context, *self._run(context, left), left)

    def start(self, context: LoadContext) -> str:
        """Start the query, or join one that was started within the same `bucket_seconds`, and give its execution id."""
        return self._service.start(self._sql, self._parameters, self._token(context), self._left(context)).execution_id

    def collect(self, execution_id: str, context: LoadContext) -> list[dict[str, Any]]:
        """The rows of the execution, waiting for it as `load` does. Raises LoadTimeout if it is not done by then."""
        left = self._left(context)
        execution = self._await(execution_id, 0.0, left, context)
        if execution is None or not execution.over:
            raise LoadTimeout(self._service.where.call("the query").says("not done in the time left; it goes on"))
        return self._rows(execution, left)

    def _answer(
        self, context: LoadContext, execution_id: str, execution: Execution | None, left: Callable[[], float]
    ) -> Any:
        """The rows if the execution is over and they can be had just now, else 'pending'."""
        if execution is None or not execution.over:
            return context.pending(execution_id)
        try:
            rows = self._rows(execution, left)
        except (OriginError, LoadTimeout) as error:
            if self.resumable and execution.state == "SUCCEEDED" and type(error) in _PASSING:
                return context.pending(execution_id)  # the query is paid for, and its rows are there
            raise
        return self._decoded(rows)

    def _decoded(self, rows: list[dict[str, Any]]) -> Any:
        try:
            return self._decode(rows)
        except Exception as error:
            text = f"decode raised {type(error).__name__} on {len(rows)} rows"
            raise OriginMalformed(self._service.where.call("the query").says(text)) from error

    def _taken_up(self, context: LoadContext, left: Callable[[], float]) -> tuple[str, Execution | None] | None:
        """The execution that an earlier load left behind, if it is still worth waiting for."""
        if not self.resumable or context.handle is None:
            return None
        try:
            execution = self._await(context.handle, 0.0, left, context)
        except UnknownExecutionError:
            return None
        if execution is not None and execution.retryable and execution.state == "FAILED":
            return None
        return context.handle, execution

    def _run(self, context: LoadContext, left: Callable[[], float]) -> tuple[str, Execution | None]:
        """An execution that serves this load: over, or (if resumable) still going on."""
        token = self._token(context)
        for more in reversed(range(_STARTS)):
            start = self._service.start(self._sql, self._parameters, token, left)
            execution_id = start.execution_id
            execution = None
            if execution_id not in self._collected:
                execution = self._await(execution_id, start.at, left, context)
                if execution is None or not more or not _unfit(execution, start):
                    return execution_id, execution
            token = _chained(token, execution_id) if more > 1 else _unique()
        raise AssertionError("the last start returns")  # a unique token never finds a collected execution

    def _await(
        self, execution_id: str, asked: float, left: Callable[[], float], context: LoadContext
    ) -> Execution | None:
        """Look at the execution until it is over or the wait is. None: it goes on and could not be looked at.

        A query that is not resumable does not outlive this: it is stopped, unless it is another's who was first.
        """
        end = time.monotonic() + (0 if context.stale is not MISSING else self.wait - context.waited)

        def rest() -> float:
            most = left() - STOP_TIME
            return min(most, end - time.monotonic()) if self.resumable else most

        last: Execution | None = None
        try:
            for last in self._looks(execution_id, left, rest):
                if last is not None and last.over:
                    return last
        except BaseException:
            self._give_up(execution_id, last, asked)
            raise
        if self.resumable:
            return last
        self._give_up(execution_id, last, asked)
        error = LoadTimeout(self._service.where.call("the query").says("not done in time, and stopped"))
        if context.remaining() is not None:  # it took longer than an invocation, and the next one may fare no better
            warn_once(
                "%s; what it scanned is paid for. With resumable=True it goes on, and a later call has its rows", error
            )
        raise error

    def _looks(
        self, execution_id: str, left: Callable[[], float], rest: Callable[[], float]
    ) -> Iterator[Execution | None]:
        """The execution as it looks now and, with growing pauses, later, for as long as `rest` is above zero."""
        execution: Execution | None = None
        for looks in count(1):
            execution = self._look(execution_id, left) or execution
            yield execution
            pause = min(spread(looks), rest())
            if pause <= 0:
                return
            time.sleep(pause)

    def _give_up(self, execution_id: str, last: Execution | None, asked: float) -> None:
        """Stop the execution, unless it may go on: it is resumable, or another's who was first and waits for it."""
        others = last is not None and last.submitted < asked
        if not (self.resumable or others):
            self._service.stop(execution_id)

    def _look(self, execution_id: str, left: Callable[[], float]) -> Execution | None:
        """One look; None where only the looking failed and the query may well go on."""
        try:
            return self._service.look(execution_id, left)
        except (OriginDenied, UnknownExecutionError):
            raise
        except OriginThrottled:
            return None
        except (OriginError, LoadTimeout):
            if self.resumable:
                return None
            raise

    def _rows(self, execution: Execution, left: Callable[[], float]) -> list[dict[str, Any]]:
        self.last_statistics = execution.statistics
        scanned = execution.statistics.data_scanned_bytes
        _log.debug("query %s is %s, %d bytes scanned", execution.id, execution.state, scanned)
        if len(self._collected) >= _KEPT:
            self._collected.clear()
        self._collected[execution.id] = None
        if execution.state != "SUCCEEDED":
            raise self._service.failure(execution)
        return self._service.rows(execution, left)

    def _left(self, context: LoadContext) -> Callable[[], float]:
        """The time left to this load: until the origin's `timeout` or the context's limit, whichever is nearer."""
        end = time.monotonic() + self._service.timeout

        def left() -> float:
            own, given = end - time.monotonic(), context.remaining()
            return own if given is None else min(own, given)

        return left

    def _token(self, context: LoadContext) -> str:
        """The token that containers share which start this query at about the same time, and know the same invalidations."""
        if not self._bucket_seconds:
            return _unique()
        when = self._bucket_seconds, int(time.time() // self._bucket_seconds), context.generation
        facts = json.dumps([self._sql, self._parameters, self._service.where, *when])
        return hashlib.sha256(facts.encode(errors="surrogatepass")).hexdigest()

    def __repr__(self) -> str:
        return f"<query of {len(self._sql)} characters in database {self._service.where.database!r}>"


def _unfit(execution: Execution, start: Start) -> bool:
    """True if the query must be started anew: it was over before, another's failed, or ours may be repeated."""
    if not execution.over:
        return False
    if execution.completed is not None and execution.completed < start.at:
        return True
    failed = execution.state != "SUCCEEDED"
    return failed and (execution.submitted < start.at or (execution.retryable and execution.state == "FAILED"))


def _chained(token: str, execution_id: str) -> str:
    """The token after `token`, the same for everyone who finds `execution_id` of no use."""
    return hashlib.sha256(f"{token} {execution_id}".encode()).hexdigest()


def _unique() -> str:
    return os.urandom(32).hex()
