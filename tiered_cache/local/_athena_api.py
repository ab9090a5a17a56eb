"""The operations of Athena's API over one engine: executions, their states, results, and what tests set and count."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from tiered_cache.local._athena_execution import ENGINE_VERSION, ApiError, Body, Execution, Failure, invalid
from tiered_cache.local._needs import need

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tiered_cache.local._athena_engine import Engine

MAX_QUERY_BYTES = 262_144
PAGE = 1000


class AthenaApi:
    """Athena's operations, by name, over `engine`; results go to `s3`. Methods may be called from many threads."""

    def __init__(
        self, s3: Any, engine: Engine, *, delay: float, workers: int, workgroups: Mapping[str, str | None]
    ) -> None:
        self._s3 = s3
        self._engine = engine
        self._workgroups = dict(workgroups)
        self._changed = threading.Condition()
        self._delay = delay
        self._executions: dict[str, Execution] = {}
        self._tokens: dict[str, Execution] = {}
        self._faults: list[tuple[str, str | None]] = []
        self._failures: list[Failure] = []
        self._queue: queue.SimpleQueue[Execution | None] = queue.SimpleQueue()
        self._workers = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        self.calls: Counter[str] = Counter()
        self.executions_started = 0
        for worker in self._workers:
            worker.start()

    # What tests set and see

    @property
    def delay(self) -> float:
        """Seconds that a query spends RUNNING before its work begins. A change reaches the queries that wait."""
        return self._delay

    @delay.setter
    def delay(self, seconds: float) -> None:
        with self._changed:
            self._delay = seconds
            self._changed.notify_all()

    def fail_next(self, code: str, *, times: int, operation: str | None) -> None:
        """The next `times` calls (of `operation`, where one is named) are answered with the error `code`."""
        with self._changed:
            self._faults += [(code, operation)] * times

    def fail_next_query(self, failure: Failure) -> None:
        """The next execution to run ends as FAILED with `failure`."""
        with self._changed:
            self._failures.append(failure)

    def reset(self) -> None:
        """Cancel what runs; forget tables, executions, tokens and faults; set counters and the delay to zero."""
        with self._changed:
            for execution in self._executions.values():
                self._cancel(execution)
            self._executions.clear()
            self._tokens.clear()
            self._faults.clear()
            self._failures.clear()
            self.calls.clear()
            self.executions_started = 0
            self._delay = 0.0
            self._changed.notify_all()
        self._engine.forget()

    def close(self) -> None:
        """Cancel what runs and end the workers."""
        with self._changed:
            for execution in self._executions.values():
                self._cancel(execution)
        for _ in self._workers:
            self._queue.put(None)
        for worker in self._workers:
            worker.join()

    # A call

    def answer(self, operation: str, body: Body) -> Body:
        """The answer to one call. Raises ApiError."""
        with self._changed:
            self.calls[operation] += 1
            self._raise_fault(operation)
        served: dict[str, Callable[[Body], Body]] = {
            "StartQueryExecution": self._start,
            "GetQueryExecution": lambda body: {"QueryExecution": self._described(body)},
            "BatchGetQueryExecution": self._batch,
            "GetQueryResults": self._results,
            "StopQueryExecution": self._stop,
            "ListQueryExecutions": self._list,
            "GetWorkGroup": self._workgroup,
        }
        if operation not in served:
            raise ApiError("UnknownOperationException", f"{operation} is not served here")
        return served[operation](body)

    def _raise_fault(self, operation: str) -> None:
        for place, (code, wanted) in enumerate(self._faults):
            if wanted in (None, operation):
                del self._faults[place]
                raise ApiError(code, "Rate exceeded" if "Thrott" in code else f"{code}, as was asked for")

    def _start(self, body: Body) -> Body:
        query = body.get("QueryString") or ""
        if not query.strip():
            raise invalid("Query string is empty")
        if len(query.encode()) > MAX_QUERY_BYTES:
            raise invalid(f"Query string exceeds the maximum allowed length of {MAX_QUERY_BYTES} bytes")
        token = body.get("ClientRequestToken")
        if token is not None and not 32 <= len(token) <= 128:
            raise invalid(f"ClientRequestToken must have 32 to 128 characters, not {len(token)}")
        folder = self._output_folder(body)
        with self._changed:
            if token in self._tokens:
                return self._same(self._tokens[token], body)
            execution = self._new(body, folder)
            if token is not None:
                self._tokens[token] = execution
        self._queue.put(execution)
        return {"QueryExecutionId": execution.id}

    def _output_folder(self, body: Body) -> str:
        workgroup = body.get("WorkGroup") or "primary"
        if workgroup not in self._workgroups:
            raise invalid(f"WorkGroup {workgroup} is not found.")
        asked: Body = body.get("ResultConfiguration") or {}
        given: str | None = asked.get("OutputLocation") or self._workgroups[workgroup]
        if not given:
            raise invalid(
                "No output location provided. An output location is required either through the "
                "Workgroup result configuration setting or as an API input."
            )
        if not given.startswith("s3://") or not given[5:].strip("/"):
            raise invalid(f"outputLocation is not a valid S3 path: {given}")
        return given

    def _same(self, known: Execution, body: Body) -> Body:
        if known.request != body:
            raise invalid("Idempotent parameters do not match")
        return {"QueryExecutionId": known.id}

    def _new(self, body: Body, folder: str) -> Execution:
        from tiered_cache.local._athena_engine import Statement

        execution = Execution(body, "", Statement())
        execution.output = f"{folder.rstrip('/')}/{execution.id}.{'txt' if execution.ddl else 'csv'}"
        self._executions[execution.id] = execution
        self.executions_started += 1
        return execution

    def _find(self, name: Any) -> Execution:
        with self._changed:
            found = self._executions.get(name)
        if found is None:
            raise invalid(f"QueryExecution {name} was not found")
        return found

    def _described(self, body: Body) -> Body:
        execution = self._find(body.get("QueryExecutionId"))
        with self._changed:
            return execution.describe()

    def _batch(self, body: Body) -> Body:
        asked: list[str] = body.get("QueryExecutionIds") or []
        if not 1 <= len(asked) <= 50:
            raise invalid("QueryExecutionIds must have 1 to 50 entries")
        with self._changed:
            found = [self._executions[name].describe() for name in asked if name in self._executions]
            lost = [
                {"QueryExecutionId": name, "ErrorCode": "INVALID_INPUT", "ErrorMessage": "was not found"}
                for name in asked
                if name not in self._executions
            ]
        return {"QueryExecutions": found, "UnprocessedQueryExecutionIds": lost}

    def _results(self, body: Body) -> Body:
        execution = self._find(body.get("QueryExecutionId"))
        size = body.get("MaxResults") or PAGE
        if not 1 <= size <= PAGE:
            raise invalid(f"MaxResults is more than maximum allowed length {PAGE}.")
        if execution.state in ("FAILED", "CANCELLED"):
            raise invalid(f"Query did not finish successfully. Final query state: {execution.state}")
        if execution.state != "SUCCEEDED" or execution.result is None:
            raise invalid(f"Query has not yet finished. Current state: {execution.state}")
        self._require_object(execution.output)
        columns, rows, _ = execution.result
        header: list[list[str | None]] = [[column.name for column in columns]] if columns else []
        first = _offset(body.get("NextToken"), len(rows) + len(header))
        page = itertools.islice(itertools.chain(header, rows), first, first + size)
        answer: Body = {
            "UpdateCount": 0,
            "ResultSet": {
                "Rows": [{"Data": [{} if v is None else {"VarCharValue": v} for v in row]} for row in page],
                "ResultSetMetadata": {"ColumnInfo": [column.info() for column in columns]},
            },
        }
        if first + size < len(rows) + len(header):
            answer["NextToken"] = str(first + size)
        return answer

    def _require_object(self, output: str) -> None:
        """Athena reads the pages from the result file; without it there are none."""
        from tiered_cache.local._athena_tables import bucket_and_key

        bucket, key = bucket_and_key(output)
        try:
            self._s3.head_object(Bucket=bucket, Key=key)
        except need("botocore.exceptions").ClientError as error:
            raise invalid("Could not find results") from error

    def _stop(self, body: Body) -> Body:
        execution = self._find(body.get("QueryExecutionId"))
        with self._changed:
            self._cancel(execution)
            self._changed.notify_all()
        return {}

    def _list(self, body: Body) -> Body:
        size = body.get("MaxResults") or 50
        if not 1 <= size <= 50:
            raise invalid("MaxResults must be 1 to 50")
        workgroup = body.get("WorkGroup") or "primary"
        with self._changed:
            names = [e.id for e in self._executions.values() if (e.request.get("WorkGroup") or "primary") == workgroup]
        names.reverse()  # the youngest first
        first = _offset(body.get("NextToken"), len(names))
        answer: Body = {"QueryExecutionIds": names[first : first + size]}
        return answer | ({"NextToken": str(first + size)} if first + size < len(names) else {})

    def _workgroup(self, body: Body) -> Body:
        name = body.get("WorkGroup")
        if name not in self._workgroups:
            raise invalid(f"WorkGroup {name} is not found.")
        location = self._workgroups[name]
        configuration = {
            "ResultConfiguration": {"OutputLocation": location} if location else {},
            "EnforceWorkGroupConfiguration": False,
            "EngineVersion": ENGINE_VERSION,
        }
        return {"WorkGroup": {"Name": name, "State": "ENABLED", "Configuration": configuration}}

    # An execution

    def _cancel(self, execution: Execution) -> None:
        if execution.state in ("QUEUED", "RUNNING"):
            execution.state, execution.completed = "CANCELLED", time.time()
            execution.statement.cancel()
            self._changed.notify_all()

    def _work(self) -> None:
        while (execution := self._queue.get()) is not None:
            failure = self._begin(execution)
            if execution.state == "CANCELLED":
                continue
            try:
                if failure is None:
                    failure = self._run(execution)
            except Exception as error:  # noqa: BLE001 - whatever it is, the execution must end and the worker go on
                failure = Failure(f"GENERIC_INTERNAL_ERROR: {error}", category=1)
            self._finish(execution, failure)

    def _begin(self, execution: Execution) -> Failure | None:
        """RUNNING, and the delay spent. The failure that was asked for, if one was."""
        with self._changed:
            if execution.state != "QUEUED":
                return None
            execution.state, execution.started = "RUNNING", time.time()
            begun = time.monotonic()
            while execution.state == "RUNNING" and (left := begun + self._delay - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._failures.pop(0) if self._failures and execution.state == "RUNNING" else None

    def _run(self, execution: Execution) -> Failure | None:
        from tiered_cache.local._athena_tables import QueryFailed, bucket_and_key
        from tiered_cache.local._athena_text import csv

        parameters: list[str] = execution.request.get("ExecutionParameters") or []
        schema = execution.context.get("Database") or "default"
        try:
            result = self._engine.run(execution.query, parameters, schema, execution.statement)
        except QueryFailed as error:
            return Failure(str(error))
        header = [[column.name for column in result.columns]] if result.columns else []
        bucket, key = bucket_and_key(execution.output)
        self._s3.put_object(Bucket=bucket, Key=key, Body=csv(itertools.chain(header, result.rows)))
        execution.result = result
        return None

    def _finish(self, execution: Execution, failure: Failure | None) -> None:
        with self._changed:
            if execution.state == "RUNNING":
                execution.state = "SUCCEEDED" if failure is None else "FAILED"
                execution.failure, execution.completed = failure, time.time()


def _offset(token: str | None, end: int) -> int:
    if token is None:
        return 0
    if not token.isdecimal() or not 0 < int(token) < end:
        raise invalid("Invalid NextToken")
    return int(token)
