"""Athena queries as loaders, on a local Athena that runs SQL and on a scripted one."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from fault_server import HTML, FaultServer, Reply, json_error, json_reply

from tiered_cache._errors import (
    ConfigurationError,
    LoadTimeout,
    OriginDenied,
    OriginError,
    OriginMalformed,
    OriginThrottled,
    SizeLimitExceeded,
    TieredCacheError,
)
from tiered_cache._values import LoadContext, Pending
from tiered_cache.adapters._athena_query import STOP_TIME
from tiered_cache.adapters._boto import unlimited
from tiered_cache.adapters.athena import AthenaOrigin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiered_cache.adapters._athena_query import QueryRequest
    from tiered_cache.local.athena import AthenaServer
    from tiered_cache.local.aws import AWSServer

CONTEXT = LoadContext("k")
OUTPUT = "s3://athena-results/cache/"
LONG = 10**9
"""Seconds of a bucket whose borders lie decades apart, in 2001 and 2033: none falls into a test, as midnight may."""


class Lake:
    """The local Athena with its S3, and origins that ask it."""

    def __init__(self, athena: AthenaServer, aws: AWSServer) -> None:
        self.athena = athena
        self.s3 = aws.client("s3")
        self.client = athena.client()
        self.s3.create_bucket(Bucket="athena-results")

    def origin(self, **options: Any) -> AthenaOrigin:
        """A new origin, as another container has one."""
        settings = {
            "database": "sales",
            "output_location": OUTPUT,
            "client": self.client,
            "s3_client": self.s3,
            **options,
        }
        return AthenaOrigin(**settings)

    def table(self, *lines: str) -> None:
        """Put a table `customers(id, name)` of these lines in place."""
        self.s3.create_bucket(Bucket="lake")
        self.s3.put_object(Bucket="lake", Key="customers/1.csv", Body="".join(f"{line}\n" for line in lines).encode())
        ddl = (
            "CREATE EXTERNAL TABLE IF NOT EXISTS customers (id bigint, name string) "
            "ROW FORMAT DELIMITED FIELDS TERMINATED BY ',' LOCATION 's3://lake/customers/'"
        )
        context, result = {"Database": "sales"}, {"OutputLocation": OUTPUT}
        started = self.client.start_query_execution(
            QueryString=ddl, QueryExecutionContext=context, ResultConfiguration=result
        )
        self.finished(started["QueryExecutionId"])

    def state(self, execution_id: str) -> str:
        """The execution's state."""
        state: str = self.client.get_query_execution(QueryExecutionId=execution_id)["QueryExecution"]["Status"]["State"]
        return state

    def latest(self) -> str:
        """The id of the youngest execution."""
        found: str = self.client.list_query_executions()["QueryExecutionIds"][0]
        return found

    def finished(self, execution_id: str) -> str:
        """Wait until the execution is over, and give its id."""
        until(lambda: self.state(execution_id) not in ("QUEUED", "RUNNING"))
        return execution_id


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def nearly_over(lake: Lake) -> LoadContext:
    """An invocation with plenty of time until a query was started, and then with just what it takes to stop that."""
    before = lake.athena.executions_started
    return LoadContext("k", remaining=lambda: STOP_TIME if lake.athena.executions_started > before else 60.0)


@pytest.fixture
def lake(local_athena: AthenaServer, local_aws: AWSServer) -> Lake:
    """A fresh local Athena."""
    local_athena.reset()
    return Lake(local_athena, local_aws)


@pytest.fixture
def scripted(faults: FaultServer) -> Iterator[AthenaOrigin]:
    """An origin that asks the scripted server, with its own clients."""
    origin = AthenaOrigin(database="sales", output_location=OUTPUT)
    yield origin
    origin.close()


def test_rows_come_with_the_types_of_their_columns(lake: Lake) -> None:
    """Values from a table and from parameters, NULL and the empty string apart, and what the query cost."""
    lake.table("1,it's me", "2,you")
    request = lake.origin().query(
        "SELECT id, name, CAST(NULL AS varchar) AS nothing, '' AS empty, CAST(1.5 AS decimal(4,2)) AS price, "
        "DATE '2026-01-31' AS day, true AS yes FROM customers WHERE name = ?",
        ("it's me",),
    )
    assert request.last_statistics is None
    assert request.load(CONTEXT) == [
        {
            "id": 1,
            "name": "it's me",
            "nothing": None,
            "empty": "",
            "price": Decimal("1.50"),
            "day": date(2026, 1, 31),
            "yes": True,
        }
    ]
    assert request.last_statistics is not None
    assert request.last_statistics.data_scanned_bytes == len("1,it's me\n2,you\n")


def test_no_rows_are_an_empty_list(lake: Lake) -> None:
    """A result with a header only is empty, where Athena has no rows either."""
    assert lake.origin().query("SELECT 1 AS a WHERE 1 = 0").load(CONTEXT) == []


@pytest.mark.parametrize("managed", [False, True])
def test_many_rows_come_whole_by_file_and_by_pages(lake: Lake, managed: bool) -> None:
    """2,500 rows are three pages, or one file."""
    request = lake.origin().query("SELECT n FROM UNNEST(sequence(1, 2500)) AS t(n)")
    execution = request._service.look(lake.finished(request.start(CONTEXT)), unlimited)
    if managed:
        execution = execution._replace(output="")  # as the service describes a result that it keeps
    assert [row["n"] for row in request._service.rows(execution, unlimited)] == list(range(1, 2501))


@pytest.mark.parametrize("managed", [False, True])
def test_only_the_first_row_can_be_the_header(lake: Lake, managed: bool) -> None:
    """A row of data that reads like the columns' names is a row of data."""
    request = lake.origin().query("SELECT 'a' AS a")
    execution = request._service.look(lake.finished(request.start(CONTEXT)), unlimited)
    if managed:
        execution = execution._replace(output="")
    assert request._service.rows(execution, unlimited) == [{"a": "a"}]


@pytest.fixture
def started(lake: Lake) -> Iterator[list[str]]:
    """The execution of each start that has its answer, and with that the second at which it was asked."""
    ids: list[str] = []

    def answered(*, parsed: dict[str, Any], **_: Any) -> None:
        ids.append(parsed["QueryExecutionId"])

    event = "after-call.athena.StartQueryExecution"
    lake.client.meta.events.register(event, answered)
    yield ids
    lake.client.meta.events.unregister(event, answered)


def test_containers_that_start_together_share_one_execution(lake: Lake, started: list[str]) -> None:
    """Eight containers that miss while it goes on run one query."""
    lake.athena.delay = 600
    with ThreadPoolExecutor(8) as pool:
        loads = [pool.submit(lake.origin().query("SELECT 1 AS a", bucket_seconds=LONG).load, CONTEXT) for _ in range(8)]
        until(lambda: len(started) == 8)  # who is told of a later second than that of its end starts another
        lake.athena.delay = 0
        assert [load.result() for load in loads] == [[{"a": 1}]] * 8
    assert lake.athena.executions_started == 1


def test_a_refresh_sees_what_is_new(lake: Lake) -> None:
    """A second load of the same query, within the same bucket, is a new execution."""
    lake.table("1,old")
    request = lake.origin().query("SELECT name FROM customers", bucket_seconds=LONG)
    assert request.load(CONTEXT) == [{"name": "old"}]
    lake.table("1,new")
    assert request.load(CONTEXT) == [{"name": "new"}]


def test_without_a_bucket_nothing_is_shared(lake: Lake) -> None:
    """bucket_seconds=0 gives each load an execution of its own, as another query or parameter does."""
    origin = lake.origin()
    for request in (origin.query("SELECT 1 AS a", bucket_seconds=0), origin.query("SELECT 1 AS a", bucket_seconds=0)):
        request.start(CONTEXT)
    assert lake.athena.executions_started == 2
    for parameter in (1, "1", 1.0, 1):
        origin.query("SELECT ? AS a", (parameter,), bucket_seconds=LONG).start(CONTEXT)
    assert lake.athena.executions_started == 5


LATER = 3600
"""Seconds from now until an execution of the scripted Athena is over: after any load of the test has begun."""


def answers(execution_id: str, completed: float, **status: Any) -> list[Reply]:
    """The scripted answers of one start and one look."""
    described = {"State": "SUCCEEDED", "SubmissionDateTime": completed - 1, "CompletionDateTime": completed, **status}
    return [
        json_reply(QueryExecutionId=execution_id),
        json_reply(QueryExecution={"QueryExecutionId": execution_id, "Status": described}),
    ]


def test_an_execution_that_was_over_before_is_not_taken(scripted: AthenaOrigin, faults: FaultServer) -> None:
    """The token of an old execution leads to a new one, and the new token depends on the old one alone."""
    rows = {"Rows": [], "ResultSetMetadata": {"ColumnInfo": [{"Name": "a", "Type": "integer"}]}}
    script = [*answers("old", time.time() - 60), *answers("new", time.time() + LATER), json_reply(ResultSet=rows)]
    tokens: list[list[str]] = []
    for _ in range(2):
        faults.requests.clear()
        faults.script(*script)
        assert scripted.query("SELECT 1 AS a", bucket_seconds=LONG).load(CONTEXT) == []
        tokens.append([body["ClientRequestToken"] for body in faults.bodies() if "ClientRequestToken" in body])
        scripted._collected.clear()
    assert tokens[0] == tokens[1]
    assert len(set(tokens[0])) == 2
    assert all(32 <= len(token) <= 128 for token in tokens[0])


def test_anothers_cancelled_execution_is_run_anew(scripted: AthenaOrigin, faults: FaultServer) -> None:
    """A query that another container stopped while we waited for it is started again."""
    rows = {"Rows": [], "ResultSetMetadata": {"ColumnInfo": [{"Name": "a", "Type": "integer"}]}}
    began = time.time() - 60
    others = {"State": "CANCELLED", "SubmissionDateTime": began}
    faults.script(
        *answers("x", time.time() + LATER, **others), *answers("y", time.time() + LATER), json_reply(ResultSet=rows)
    )
    assert scripted.query("SELECT 1 AS a").load(CONTEXT) == []


def test_running_may_go_back_to_queued(scripted: AthenaOrigin, faults: FaultServer) -> None:
    """RUNNING, QUEUED, RUNNING, SUCCEEDED is an ordinary course."""
    rows = {"Rows": [], "ResultSetMetadata": {"ColumnInfo": [{"Name": "a", "Type": "integer"}]}}
    start, done = answers("x", time.time() + LATER)
    looks = [answers("x", time.time() + LATER, State=state)[1] for state in ("RUNNING", "QUEUED", "RUNNING")]
    faults.script(start, *looks, done, json_reply(ResultSet=rows))
    assert scripted.query("SELECT 1 AS a").load(CONTEXT) == []


def test_a_failed_query_carries_athenas_reason(lake: Lake) -> None:
    """FAILED is an OriginError with the reason, and is not tried again when Athena says that it is of no use."""
    with pytest.raises(OriginError, match=r"the query failed: TABLE_NOT_FOUND"):
        lake.origin().query("SELECT * FROM nowhere").load(CONTEXT)
    assert lake.athena.executions_started == 1


def test_a_failure_that_may_be_repeated_is_repeated(lake: Lake) -> None:
    """A retryable failure of the system is run again within the load."""
    lake.athena.fail_next_query("internal trouble")
    assert lake.origin().query("SELECT 1 AS a").load(CONTEXT) == [{"a": 1}]
    assert lake.athena.executions_started == 2


def test_a_cancelled_query_is_an_error(lake: Lake) -> None:
    """A query that somebody stops by hand is an OriginError, not an empty result."""
    lake.athena.delay = 600
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(lake.origin().query("SELECT 1 AS a", bucket_seconds=0).load, CONTEXT)
        until(lambda: lake.athena.executions_started == 1)
        lake.client.stop_query_execution(QueryExecutionId=lake.latest())
        with pytest.raises(OriginError, match="cancelled"):
            load.result()


@pytest.mark.usefixtures("pauses")
def test_a_query_that_outlasts_its_time_is_stopped(lake: Lake) -> None:
    """When the budget is spent the load raises LoadTimeout and leaves no query running."""
    lake.athena.delay = 600
    for request, context in (
        (lake.origin().query("SELECT 1 AS a", bucket_seconds=0), nearly_over(lake)),
        (lake.origin(timeout=3).query("SELECT 1 AS a", bucket_seconds=0), CONTEXT),
    ):
        with pytest.raises(LoadTimeout, match="stopped"):
            request.load(context)
        assert lake.state(lake.latest()) == "CANCELLED"


@pytest.mark.usefixtures("pauses")
def test_who_stops_a_query_at_the_deadline_is_told_once_what_would_let_it_go_on(
    lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names `resumable=True`, since the next invocation may have no more time; not for the origin's own `timeout`."""
    lake.athena.delay = 600
    for origin, is_limited, lines in (
        (lake.origin(timeout=3), False, 0),
        (lake.origin(), True, 1),
        (lake.origin(), True, 1),
    ):
        context = nearly_over(lake) if is_limited else CONTEXT
        with pytest.raises(LoadTimeout, match="stopped"):
            origin.query("SELECT 1 AS a", bucket_seconds=0).load(context)
        said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(said) == lines
        assert all("With resumable=True it goes on" in each for each in said)


def test_a_load_that_breaks_off_stops_its_query(lake: Lake) -> None:
    """Whatever ends the waiting, the query does not go on without anyone to take its result."""
    lake.athena.delay = 600
    lake.athena.fail_next("AccessDeniedException", operation="GetQueryExecution")
    with pytest.raises(OriginDenied):
        lake.origin().query("SELECT 1 AS a").load(CONTEXT)
    assert lake.state(lake.latest()) == "CANCELLED"


def test_throttled_looks_do_not_end_the_load(lake: Lake) -> None:
    """Polling that is throttled goes on more slowly; a start that is throttled is OriginThrottled."""
    lake.athena.fail_next("ThrottlingException", times=3, operation="GetQueryExecution")
    assert lake.origin().query("SELECT 1 AS a").load(CONTEXT) == [{"a": 1}]
    lake.athena.fail_next("TooManyRequestsException", operation="StartQueryExecution")
    with pytest.raises(OriginThrottled):
        lake.origin().query("SELECT 2 AS a").load(CONTEXT)


def collected(lake: Lake, damage: Callable[[dict[str, Any]], object], **options: Any) -> list[dict[str, Any]]:
    """The rows of a query of two rows whose result file was damaged in between."""
    request = lake.origin(**options).query("SELECT n FROM UNNEST(sequence(1, 2)) AS t(n)")
    execution_id = lake.finished(request.start(CONTEXT))
    damage({"Bucket": "athena-results", "Key": f"cache/{execution_id}.csv"})
    return request.collect(execution_id, CONTEXT)


def test_a_damaged_result_is_never_an_empty_one(lake: Lake) -> None:
    """A result file that is gone, empty, cut, foreign or without its rows is an error."""
    assert [row["n"] for row in collected(lake, lambda _: None)] == [1, 2]
    with pytest.raises(OriginError, match="cannot find the result"):
        collected(lake, lambda place: lake.s3.delete_object(**place))
    for body in (b"", b'"n"', b'"n"\n"1"\n"', b'"other"\n', b'"n"\n', b"\xff\n"):
        with pytest.raises(OriginMalformed):
            collected(lake, lambda place, body=body: lake.s3.put_object(**place, Body=body))  # type: ignore[misc]


def test_a_result_over_its_limits_is_refused(lake: Lake) -> None:
    """Rows and bytes are limited, by file and by pages."""
    with pytest.raises(SizeLimitExceeded, match="max_rows"):
        collected(lake, lambda _: None, max_rows=1)
    with pytest.raises(SizeLimitExceeded, match="max_bytes"):
        collected(lake, lambda _: None, max_bytes=5)
    request = lake.origin(max_bytes=2).query("SELECT 'abc' AS a")
    execution = request._service.look(lake.finished(request.start(CONTEXT)), unlimited)
    with pytest.raises(SizeLimitExceeded, match="max_bytes"):
        request._service.rows(execution._replace(output=""), unlimited)


def test_decode_makes_the_value_of_the_rows(lake: Lake) -> None:
    """What it raises is told with the number of rows, and not their content; what is no function is refused at once."""
    by_name = lake.origin().query(
        "SELECT 1 AS n, 'a' AS name", decode=lambda rows: {row["name"]: row["n"] for row in rows}
    )
    assert by_name.load(CONTEXT) == {"a": 1}
    with pytest.raises(OriginMalformed, match="decode raised KeyError on 1 rows"):
        lake.origin().query("SELECT 1 AS n", decode=lambda rows: rows[0]["secret"]).load(CONTEXT)
    with pytest.raises(TypeError, match="^decode must be callable with the list of rows; got 'json'"):
        lake.origin().query("SELECT 1", decode="json")  # type: ignore[arg-type]


def test_a_resumable_query_outlives_a_short_load(lake: Lake) -> None:
    """The first load answers 'pending' with the execution's id; a later one elsewhere takes the rows."""
    lake.athena.delay = 600

    def request() -> QueryRequest:
        return lake.origin().query("SELECT 1 AS a", resumable=True, wait=0.2)

    answer = request().load(CONTEXT)
    assert isinstance(answer, Pending)
    assert request().load(LoadContext("k", handle=answer.handle)) == answer
    lake.athena.delay = 0
    lake.finished(answer.handle)
    assert request().load(LoadContext("k", handle=answer.handle)) == [{"a": 1}]
    assert lake.athena.executions_started == 1


def test_a_resumable_query_does_not_keep_a_stale_value_waiting(lake: Lake) -> None:
    """With a stale value to serve there is one look and no waiting."""
    lake.athena.delay = 600
    answer = lake.origin().query("SELECT 1 AS a", resumable=True, wait="1h").load(LoadContext("k", stale="old"))
    assert isinstance(answer, Pending)
    assert lake.athena.calls["GetQueryExecution"] == 1


def test_a_handle_that_leads_nowhere_starts_anew(lake: Lake) -> None:
    """An execution that Athena forgot is no error: the query is started again."""
    request = lake.origin().query("SELECT 1 AS a", resumable=True, wait=60)
    assert request.load(LoadContext("k", handle="00000000-0000-0000-0000-000000000000")) == [{"a": 1}]


def test_a_resumable_query_survives_a_failed_look(lake: Lake) -> None:
    """A look that fails leaves the query running and its handle in hand."""
    lake.athena.fail_next("InternalServerException", times=1, operation="GetQueryExecution")
    answer = lake.origin().query("SELECT 1 AS a", resumable=True, wait=0).load(CONTEXT)
    assert isinstance(answer, Pending)
    assert lake.finished(answer.handle) == lake.latest()


def test_a_workgroup_without_an_output_location_is_a_mistake(lake: Lake) -> None:
    """The error names the argument to give."""
    with pytest.raises(ConfigurationError, match="give output_location="):
        lake.origin(output_location=None).query("SELECT 1").load(CONTEXT)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (json_error("ThrottlingException"), OriginThrottled),
        (json_error("TooManyRequestsException"), OriginThrottled),
        (json_error("InternalServerException", 500), OriginError),
        (json_error("AccessDeniedException"), OriginDenied),
        (json_error("ExpiredTokenException"), OriginDenied),
        (json_error("InvalidRequestException"), ConfigurationError),
        (HTML, OriginMalformed),
        (Reply(200, b'{"Query'), OriginMalformed),
    ],
)
def test_a_bad_answer_becomes_the_right_error(
    scripted: AthenaOrigin, faults: FaultServer, reply: Reply, kind: type[TieredCacheError]
) -> None:
    """Each failure to start has its class, and the text tells neither SQL nor what the service said."""
    faults.script(reply)
    with pytest.raises(kind) as caught:
        scripted.query("SELECT 'alice'").load(CONTEXT)
    assert type(caught.value) is kind
    assert "workgroup 'primary'" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("alice", "secret"))


def test_values_travel_beside_the_sql(scripted: AthenaOrigin, faults: FaultServer) -> None:
    """Parameters are ExecutionParameters; the SQL is sent as it was written."""
    faults.script(json_error("AccessDeniedException"))
    with pytest.raises(OriginDenied):
        scripted.query("SELECT ? AS a", ("al'ice",)).load(CONTEXT)
    (body,) = faults.bodies()
    assert body["QueryString"] == "SELECT ? AS a"
    assert body["ExecutionParameters"] == ["'al''ice'"]
    assert body["QueryExecutionContext"] == {"Database": "sales"}


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"database": ""}, "database"),
        ({"database": None}, "database"),
        ({"workgroup": 7}, "workgroup"),
        ({"catalog": ""}, "catalog"),
        ({"output_location": "bucket/prefix"}, "output_location"),
        ({"max_rows": 0}, "max_rows"),
        ({"max_bytes": "many"}, "max_bytes"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_an_option_that_means_nothing_is_refused(option: dict[str, Any], named: str) -> None:
    """Options are checked when they are given, and named."""
    with pytest.raises(ConfigurationError, match=f"^{named} must be"):
        AthenaOrigin(**{"database": "sales", **option})


def test_a_query_that_cannot_be_one_is_refused() -> None:
    """Statements, parameters and durations are checked when the request is made."""
    origin = AthenaOrigin(database="sales")
    with pytest.raises(ConfigurationError, match="only read"):
        origin.query("DROP TABLE customers")
    with pytest.raises(ConfigurationError, match="0 placeholders"):
        origin.query("SELECT 1", (1,))
    with pytest.raises(TypeError, match="sql must be"):
        origin.query(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="bucket_seconds"):
        origin.query("SELECT 1", bucket_seconds=-1)
    with pytest.raises(TypeError, match="s3_client must be"):
        AthenaOrigin(database="sales", s3_client=json)


def test_a_request_is_used_from_many_threads(lake: Lake) -> None:
    """One request serves several loads at once."""
    request = lake.origin().query("SELECT 1 AS a")
    barrier = threading.Barrier(4)

    def load() -> Any:
        barrier.wait()
        return request.load(CONTEXT)

    with ThreadPoolExecutor(4) as pool:
        assert [future.result() for future in [pool.submit(load) for _ in range(4)]] == [[{"a": 1}]] * 4


def test_reprs_are_short_and_tell_no_sql() -> None:
    """A request's repr names the database, not the statement."""
    request = AthenaOrigin(database="sales").query("SELECT 'alice'")
    assert repr(request) == "<query of 14 characters in database 'sales'>"
