"""One query execution of Athena's: its request, its state, why it failed, and how the API describes it."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from tiered_cache.local._athena_engine import Result, Statement

Body: TypeAlias = dict[str, Any]
State: TypeAlias = Literal["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]

ENGINE_VERSION = {"SelectedEngineVersion": "AUTO", "EffectiveEngineVersion": "Athena engine version 3"}
_QUERY_WORDS = ("select", "with", "values", "(")


class ApiError(Exception):
    """An answer that is an error: its code as Athena names it, and its text."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def invalid(text: str) -> ApiError:
    """The error for a request that cannot be served as it stands."""
    return ApiError("InvalidRequestException", text)


@dataclass
class Failure:
    """Why an execution FAILED; `category` is 1 for the system's fault, 2 for the user's, 3 for any other."""

    reason: str
    category: int = 2
    type: int = 1006
    retryable: bool = False

    def error(self) -> Body:
        """The `AthenaError` of the execution's status."""
        return {
            "ErrorCategory": self.category,
            "ErrorType": self.type,
            "Retryable": self.retryable,
            "ErrorMessage": self.reason,
        }


@dataclass
class Execution:
    """One query execution. Its state is changed under the API's lock only."""

    request: Body
    output: str
    statement: Statement
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: State = "QUEUED"
    submitted: float = field(default_factory=time.time)
    started: float | None = None
    completed: float | None = None
    failure: Failure | None = None
    result: Result | None = None

    @property
    def query(self) -> str:
        """The statement as it was given."""
        return str(self.request["QueryString"])

    @property
    def ddl(self) -> bool:
        """True for a statement that is no query."""
        return not self.query.lstrip().lower().startswith(_QUERY_WORDS)

    @property
    def context(self) -> Body:
        """Database and catalogue, as they were given."""
        context: Body | None = self.request.get("QueryExecutionContext")
        return context or {}

    def describe(self) -> Body:
        """The `QueryExecution` of `GetQueryExecution`."""
        status: Body = {"State": self.state, "SubmissionDateTime": self.submitted}
        if self.completed is not None:
            status["CompletionDateTime"] = self.completed
        if self.failure is not None:
            status |= {"StateChangeReason": self.failure.reason, "AthenaError": self.failure.error()}
        return {
            "QueryExecutionId": self.id,
            "Query": self.query,
            "StatementType": "DDL" if self.ddl else "DML",
            "ResultConfiguration": {"OutputLocation": self.output},
            "QueryExecutionContext": self.context,
            "Status": status,
            "Statistics": self._statistics(),
            "WorkGroup": self.request.get("WorkGroup") or "primary",
            "EngineVersion": ENGINE_VERSION,
            "ExecutionParameters": self.request.get("ExecutionParameters") or [],
        }

    def _statistics(self) -> Body:
        end = self.completed or time.time()
        started = self.started or end
        return {
            "EngineExecutionTimeInMillis": int(1000 * (end - started)),
            "TotalExecutionTimeInMillis": int(1000 * (end - self.submitted)),
            "QueryQueueTimeInMillis": int(1000 * (started - self.submitted)),
            "DataScannedInBytes": self.result.scanned if self.result else 0,
            "ResultReuseInformation": {"ReusedPreviousResult": False},
        }
