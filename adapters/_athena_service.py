"""Athena's API as this library uses it: start, look, stop, and the rows of a result. Knows no loads and no waiting."""

from __future__ import annotations

import logging
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from tiered_cache._errors import (
    ConfigurationError,
    NotFound,
    OriginError,
    OriginMalformed,
    SizeLimitExceeded,
    TieredCacheError,
)
from tiered_cache.adapters._athena_rows import Cells, cells_of_csv, cells_of_page, columns, in_time, rows
from tiered_cache.adapters._boto import Call, service_code
from tiered_cache.adapters._objects import body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiered_cache.adapters._boto import Clients

    Remaining = Callable[[], float | None]

_log = logging.getLogger("tiered_cache.adapters.athena")

_PAGE = 1000  # rows, the most that GetQueryResults gives
_CATEGORIES = {1: "Athena failed", 2: "the query failed"}
STOP_TIME = 0.5
"""Seconds that a load keeps back for stopping its query."""


class UnknownExecutionError(OriginError):
    """Athena does not know the execution id; it keeps them for 45 days."""


class ResultGoneError(OriginError):
    """The execution succeeded, and its result was deleted since."""


class QueryStatistics(NamedTuple):
    """What Athena says about an execution; the bytes scanned are what it bills."""

    execution_id: str
    data_scanned_bytes: int
    queue_seconds: float
    total_seconds: float
    reused_previous_result: bool


class Execution(NamedTuple):
    """One look at an execution."""

    id: str
    state: str
    reason: str
    retryable: bool
    output: str
    """Where its result file is, or an empty string for a result that Athena keeps."""
    submitted: float
    completed: float | None
    statistics: QueryStatistics

    @property
    def over(self) -> bool:
        """True if its state will not change again. (RUNNING may go back to QUEUED.)"""
        return self.state in ("SUCCEEDED", "FAILED", "CANCELLED")


class Start(NamedTuple):
    """The answer to a start: the execution, which may be an older one with the same token, and the server's clock."""

    execution_id: str
    at: float
    """Seconds by Athena's own clock, cut to the second; comparable with an execution's times."""


class Service(NamedTuple):
    """One database and workgroup, the clients to ask it by, and the limits of a result."""

    athena: Clients
    s3: Clients
    where: Where
    max_rows: int
    max_bytes: int
    timeout: float

    def start(self, sql: str, parameters: tuple[str, ...], token: str, remaining: Remaining) -> Start:
        """Start `sql`, or find the execution that was started with the same `token`."""
        call = self.where.call("StartQueryExecution")
        wish = {"QueryString": sql, "ClientRequestToken": token, **self.where.arguments()}
        if parameters:
            wish["ExecutionParameters"] = list(parameters)
        try:
            answer = self.athena.run(call, remaining, lambda client: client.start_query_execution(**wish))
        except ConfigurationError as error:
            said = str(error.__cause__).lower()
            if "output location" in said or "output bucket" in said:
                hint = "the workgroup has no output location; give output_location='s3://bucket/prefix/'"
                raise ConfigurationError(call.says(hint)) from error.__cause__
            raise
        if "QueryExecutionId" not in answer:
            raise OriginMalformed(call.says("the answer has no execution id"))
        return Start(answer["QueryExecutionId"], _server_time(answer))

    def look(self, execution_id: str, remaining: Remaining) -> Execution:
        """The execution's state. Raises UnknownExecutionError if Athena does not know it (any more)."""
        call = self.where.call("GetQueryExecution")
        try:
            answer = self.athena.run(
                call, remaining, lambda client: client.get_query_execution(QueryExecutionId=execution_id)
            )
        except ConfigurationError as error:
            if _invalid_request(error):
                raise UnknownExecutionError(call.says("Athena does not know this execution")) from error.__cause__
            raise
        try:
            return _execution(answer["QueryExecution"])
        except (LookupError, TypeError, AttributeError) as error:
            raise OriginMalformed(call.says("the answer does not describe the execution")) from error

    def stop(self, execution_id: str) -> None:
        """Stop the execution as well as can be done in half a second; a failure is logged, not raised."""
        call = self.where.call("StopQueryExecution")
        try:
            self.athena.run(
                call, lambda: STOP_TIME, lambda client: client.stop_query_execution(QueryExecutionId=execution_id)
            )
        except TieredCacheError as error:
            _log.warning("query %s may go on: %s", execution_id, error)

    def failure(self, execution: Execution) -> OriginError:
        """The error for an execution that FAILED or was CANCELLED."""
        text = f"the query was cancelled: {execution.reason}" if execution.state == "CANCELLED" else execution.reason
        return OriginError(
            self.where.call("the query").says(text + (" (may be tried again)" if execution.retryable else ""))
        )

    def rows(self, execution: Execution, remaining: Remaining) -> list[dict[str, Any]]:
        """The rows of a succeeded execution: from its file in S3 in one go, or by pages where there is no CSV.

        Raises ResultGoneError if they were deleted.
        """
        call = self.where.call("GetQueryResults")
        in_file = execution.output.endswith(".csv")
        first = self._page(call, execution.id, 2 if in_file else _PAGE, None, remaining)
        head = columns(first["ResultSet"], call)
        names: Cells = [column.name for column in head]
        if not in_file:
            return rows(head, self._cells_of_pages(call, execution.id, first, names, remaining), self.max_rows, call)
        cells = in_time(self._cells_of_file(execution.output, names, remaining), remaining, call)
        found = rows(head, cells, self.max_rows, call)
        if not found and any(row != names for row in cells_of_page(first["ResultSet"])):
            raise OriginMalformed(call.says("the result file has no rows, and Athena has some"))
        return found

    def _page(
        self, call: Call, execution_id: str, size: int, token: str | None, remaining: Remaining
    ) -> dict[str, Any]:
        wish: dict[str, Any] = {"QueryExecutionId": execution_id, "MaxResults": size}
        if token is not None:
            wish["NextToken"] = token
        try:
            answer: dict[str, Any] = self.athena.run(call, remaining, lambda client: client.get_query_results(**wish))
        except ConfigurationError as error:
            if _invalid_request(error):
                raise ResultGoneError(call.says("Athena cannot find the result")) from error.__cause__
            raise
        if "ResultSet" not in answer:
            raise OriginMalformed(call.says("the answer has no result set"))
        return answer

    def _cells_of_pages(
        self, call: Call, execution_id: str, page: dict[str, Any], names: Cells, remaining: Remaining
    ) -> Iterator[Cells]:
        taken = 0
        header_is_due = True  # of a SELECT; SHOW and DESCRIBE have none
        while True:
            for row in cells_of_page(page["ResultSet"]):
                taken += sum(len(cell) for cell in row if cell is not None)
                if taken > self.max_bytes:
                    raise SizeLimitExceeded(
                        call.says(f"the result has more than the {self.max_bytes} bytes of max_bytes")
                    )
                if not (header_is_due and row == names):
                    yield row
                header_is_due = False
            token = page.get("NextToken")
            if not token:
                return
            page = self._page(call, execution_id, _PAGE, token, remaining)

    def _cells_of_file(self, location: str, names: Cells, remaining: Remaining) -> Iterator[Cells]:
        bucket, _, key = location.removeprefix("s3://").partition("/")
        call = Call("GetObject", f"a query's result in bucket {bucket!r}")

        def get(client: Any) -> bytes:
            return body(client.get_object(Bucket=bucket, Key=key), self.max_bytes, call, remaining)

        try:
            text = self.s3.run(call, remaining, get).decode()
        except NotFound as error:
            raise ResultGoneError(call.says("the result file is gone")) from error
        except UnicodeDecodeError as error:
            raise OriginMalformed(call.says("the result file is not UTF-8")) from error
        cells = cells_of_csv(text, call)
        if next(cells, None) != names:
            raise OriginMalformed(call.says("the result file does not begin with the columns' names"))
        return cells


class Where(NamedTuple):
    """What a query runs in."""

    database: str
    catalog: str | None
    workgroup: str
    output_location: str | None

    def call(self, operation: str) -> Call:
        """`operation`, for error texts."""
        return Call(operation, f"workgroup {self.workgroup!r}, database {self.database!r}")

    def arguments(self) -> dict[str, Any]:
        """These as StartQueryExecution takes them."""
        context = {"Database": self.database} | ({"Catalog": self.catalog} if self.catalog else {})
        wish: dict[str, Any] = {"WorkGroup": self.workgroup, "QueryExecutionContext": context}
        if self.output_location is not None:
            wish["ResultConfiguration"] = {"OutputLocation": self.output_location}
        return wish


def _invalid_request(error: ConfigurationError) -> bool:
    """True if Athena called a request invalid that only names an execution: it does not know that one (any more)."""
    return isinstance(error.__cause__, Exception) and service_code(error.__cause__) == "InvalidRequestException"


def _execution(found: dict[str, Any]) -> Execution:
    status: dict[str, Any] = found["Status"]
    numbers: dict[str, Any] = found.get("Statistics") or {}
    reuse: dict[str, Any] = numbers.get("ResultReuseInformation") or {}
    problem: dict[str, Any] = status.get("AthenaError") or {}
    where: dict[str, Any] = found.get("ResultConfiguration") or {}
    managed: dict[str, Any] = found.get("ManagedQueryResultsConfiguration") or {}
    said = problem.get("ErrorMessage") or status.get("StateChangeReason") or "no reason given"
    kind = _CATEGORIES.get(problem.get("ErrorCategory", 0))
    completed = status.get("CompletionDateTime")
    if status["State"] not in ("QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"):
        raise LookupError(status["State"])
    return Execution(
        id=found["QueryExecutionId"],
        state=status["State"],
        reason=f"{kind}: {said}" if kind else said,
        retryable=bool(problem.get("Retryable")),
        output="" if managed.get("Enabled") else where.get("OutputLocation") or "",
        submitted=status["SubmissionDateTime"].timestamp(),
        completed=None if completed is None else completed.timestamp(),
        statistics=QueryStatistics(
            execution_id=found["QueryExecutionId"],
            data_scanned_bytes=numbers.get("DataScannedInBytes", 0),
            queue_seconds=numbers.get("QueryQueueTimeInMillis", 0) / 1000,
            total_seconds=numbers.get("TotalExecutionTimeInMillis", 0) / 1000,
            reused_previous_result=bool(reuse.get("ReusedPreviousResult")),
        ),
    )


def _server_time(answer: dict[str, Any]) -> float:
    """The answer's Date header, so that Athena's times are held against Athena's clock; ours where there is none."""
    said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    if re.match(r"[A-Z][a-z]{2}, \d", said):
        return parsedate_to_datetime(said).timestamp()
    return float(int(time.time()))
