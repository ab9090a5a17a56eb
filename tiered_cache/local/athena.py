"""An Athena on loopback that runs SQL: sqlglot reads Athena's dialect, DuckDB runs it over objects in the local S3.

The API is Athena's own (JSON 1.1 over HTTP, keep-alive), so that boto3 and what stands on it can be pointed here. As in
Athena: QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED, on a bounded number of workers; the result is a CSV file in S3,
with every value quoted and NULL bare, written before SUCCEEDED; pages of at most 1,000 rows with the header in the
first; NULL as a missing `VarCharValue`; `ExecutionParameters`; a `ClientRequestToken` starts one execution, however
often it is sent.

Where it is not Athena, as far as is known:

- DuckDB's functions answer for Trino's. `format`, `url_*`, `at_timezone`, `from_unixtime`, approximate functions and
  some error cases differ or are missing; division of decimals gives a double; `sum(bigint)` does not overflow.
- `AthenaError.ErrorType` is 1006 for every failure, and the texts of failures are Athena's only in their first word.
- A database exists as soon as it is named. DDL: CREATE EXTERNAL TABLE over CSV (delimited or OpenCSVSerde) and Parquet,
  without partitions; DROP TABLE; CREATE and DROP DATABASE (nothing to do). No CTAS, INSERT, UNLOAD, views, SHOW, MSCK,
  and no `information_schema`. Fields end at a comma where no ROW FORMAT says otherwise (Athena: at Ctrl-A).
- A delimited file may hold its rows in any order of objects; `DataScannedInBytes` is the size of all objects of the
  tables read, for Parquet too (Athena reads only some columns), and has no minimum of 10 MB.
- No `.csv.metadata` beside the result, no result reuse, no queue limits, no quotas, no permissions and no cost. An
  execution never goes from RUNNING back to QUEUED. Executions are kept until `reset()` (Athena: 45 days).
"""

from __future__ import annotations

import contextlib
import json
import math
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from tiered_cache._errors import ConfigurationError
from tiered_cache.local._athena_api import AthenaApi
from tiered_cache.local._athena_execution import ApiError, Body, Failure
from tiered_cache.local._needs import ServiceUnavailable, need
from tiered_cache.local._process import HOST, bind_somewhere

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

CONTROL = "/local/control"
"""Where another process sets and reads what `AthenaServer` offers in its own: `control(url, delay=2.0)`."""


class AthenaServer:
    """Athena at a free port of loopback, in threads of this process.

    `s3`: a boto3 client of the S3 that holds the tables' objects and gets the results. `delay`: seconds that each query
    spends RUNNING before it works. `workers`: queries that run at once; the others are QUEUED. `workgroups`: their
    names,
    with the output location that holds where a request has none, or None.

    A context manager; or `start()` and `stop()`. Raises ImportError naming the extra where DuckDB or sqlglot is
    missing.

        with AWSServer() as aws, AthenaServer(aws.client("s3")) as athena:
            athena.client().start_query_execution(...)
    """

    def __init__(
        self,
        s3: Any,
        *,
        delay: float = 0.0,
        workers: int = 4,
        workgroups: Mapping[str, str | None] | None = None,
    ) -> None:
        if workers < 1:
            raise ConfigurationError(f"workers must be at least 1; got {workers}")
        self._s3 = s3
        self._first_delay = _checked_delay(delay)
        self._workers = workers
        self._workgroups = {"primary": None} if workgroups is None else dict(workgroups)
        self._api: AthenaApi | None = None
        self._engine: Any = None
        self._http: _Server | None = None
        self._client: Any = None

    def start(self) -> Self:
        """Start to serve. Running already: nothing."""
        if self._http is not None:
            return self
        for module in ("duckdb", "sqlglot"):
            need(module)
        from tiered_cache.local._athena_engine import Engine

        self._engine = Engine(self._s3)
        api = self._api = AthenaApi(
            self._s3, self._engine, delay=self._first_delay, workers=self._workers, workgroups=self._workgroups
        )
        self._http = bind_somewhere(lambda port: _Server(port, api))
        self._http.begin()
        return self

    def stop(self) -> None:
        """Cancel what runs, close all connections, and free everything. Twice does no harm."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
        http, self._http = self._http, None
        if http is not None:
            http.end()
        api, self._api = self._api, None
        if api is not None:
            api.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    close = stop

    def client(self) -> Any:
        """A boto3 client for this Athena, with dummy credentials; closed when the server stops."""
        from tiered_cache.local._clients import new_client

        if self._client is None:
            self._client = new_client("athena", self.url)
        return self._client

    @property
    def port(self) -> int:
        """The port. Raises ServiceUnavailable where the server is not started."""
        if self._http is None:
            raise ServiceUnavailable("this Athena is not started: use `with AthenaServer(s3) as athena:` or start()")
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        """The endpoint: `http://127.0.0.1:<port>`."""
        return f"http://{HOST}:{self.port}"

    @property
    def delay(self) -> float:
        """Seconds that a query spends RUNNING before its work begins; a change reaches those that wait already."""
        return self._served().delay

    @delay.setter
    def delay(self, seconds: float) -> None:
        self._served().delay = _checked_delay(seconds)

    @property
    def executions_started(self) -> int:
        """How many executions were started, by whatever client; a token sent again starts none."""
        return self._served().executions_started

    @property
    def calls(self) -> dict[str, int]:
        """How many calls came in, by operation, those answered with an error too."""
        return dict(self._served().calls)

    def fail_next(self, code: str, *, times: int = 1, operation: str | None = None) -> None:
        """Answer the next `times` calls with the error `code`, such as `"TooManyRequestsException"`.

        Only calls of `operation` count where one is named, such as `"StartQueryExecution"`.
        """
        self._served().fail_next(code, times=times, operation=operation)

    def fail_next_query(self, reason: str, *, category: int = 1, retryable: bool = True) -> None:
        """End the next execution as FAILED, for `reason`; `category` is 1 for the system's fault, 2 for the user's."""
        self._served().fail_next_query(Failure(reason, category=category, retryable=retryable))

    def reset(self) -> None:
        """Cancel what runs; forget tables, executions, tokens and faults; set counters and the delay to zero."""
        self._served().reset()

    def _served(self) -> AthenaApi:
        if self._api is None:
            raise ServiceUnavailable("this Athena is not started")
        return self._api

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"AthenaServer(port={self.port if self._http else None}, running={self._http is not None})"


def control(url: str, **settings: Any) -> dict[str, Any]:
    """Set and read an Athena that another process runs, by its `url`; gives its delay and its counters.

    `delay=`: seconds; `fail_next=`: `{"code": …, "times": …, "operation": …}`; `fail_next_query=`: `{"reason": …}`;
    `reset=True`. Without settings it only reads.
    """
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, whatever the environment says
    with opener.open(url + CONTROL, data=json.dumps(settings).encode(), timeout=10) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def _checked_delay(seconds: float) -> float:
    if not math.isfinite(seconds) or seconds < 0:
        raise ConfigurationError(f"delay must be a finite number of seconds, zero or more; got {seconds}")
    return float(seconds)


def _controlled(api: AthenaApi, body: Body) -> Body:
    if body.get("reset"):
        api.reset()
    if "delay" in body:
        api.delay = _checked_delay(body["delay"])
    if fault := body.get("fail_next"):
        api.fail_next(fault["code"], times=fault.get("times", 1), operation=fault.get("operation"))
    if failure := body.get("fail_next_query"):
        category, retryable = failure.get("category", 1), failure.get("retryable", True)
        api.fail_next_query(Failure(failure["reason"], category=category, retryable=retryable))
    return {"delay": api.delay, "executions_started": api.executions_started, "calls": dict(api.calls)}


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them, once their connections are shut
    allow_reuse_address = False
    request_queue_size = 128

    def __init__(self, port: int, api: AthenaApi) -> None:
        super().__init__((HOST, port), _Handler)
        self.api = api
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self.shutdown()
        self._thread.join()
        with self._lock:
            for connection in self._open:
                _shut(connection)
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-answer is its own affair."""


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client was faster
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one send: two would meet Nagle's algorithm and delayed acknowledgements

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().setup()

    def do_POST(self) -> None:
        assert isinstance(self.server, _Server)
        api = self.server.api
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        try:
            if self.path == CONTROL:
                answer = _controlled(api, body)
            else:
                answer = api.answer(self.headers.get("X-Amz-Target", "").rpartition(".")[2], body)
            status = 200
        except ApiError as error:
            status = 500 if error.code.startswith("InternalServer") else 400
            answer = {"__type": error.code, "Message": str(error)}
            if error.code == "TooManyRequestsException":
                answer["Reason"] = "CONCURRENT_QUERY_LIMIT_EXCEEDED"
        except (ConfigurationError, TypeError, KeyError) as error:  # of a control call
            status, answer = 400, {"__type": "InvalidRequestException", "Message": str(error)}
        self._send(status, json.dumps(answer).encode())

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """A local server does not write to the terminal."""
