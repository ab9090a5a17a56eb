"""The local Athena: its API as AWS documents it, over SQL that is really run."""

from __future__ import annotations

import datetime as dt
import json
import threading
import urllib.error
import urllib.request
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import duckdb
import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from tiered_cache._errors import ConfigurationError
from tiered_cache.local import AthenaServer, AWSServer, ServiceUnavailable
from tiered_cache.local._athena_text import Column, csv, text, texts
from tiered_cache.local._process import poll
from tiered_cache.local.athena import control

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ORDERS = 'id,amount,name,day\n1,1.50,ann,2024-01-01\n2,bad,,2024-01-02\n3,2.25,"q",\\N\n'
ORDERS_DDL = """CREATE EXTERNAL TABLE orders (id bigint, amount decimal(10,2), name string, `day` date)
    ROW FORMAT DELIMITED FIELDS TERMINATED BY ',' LOCATION 's3://{bucket}/orders/'
    TBLPROPERTIES ('skip.header.line.count'='1')"""
LONG = 3600.0
WAIT = 60.0
"""Seconds that anything may take on a slow machine."""


class Session:
    """An Athena client with a bucket of its own; each method is what a caller would write by hand."""

    def __init__(self, server: AthenaServer, s3: Any) -> None:
        self.server = server
        self.s3 = s3
        self.client = server.client()
        self.bucket = f"athena-{uuid.uuid4()}"
        s3.create_bucket(Bucket=self.bucket)

    def put(self, key: str, body: bytes | str) -> int:
        body = body.encode() if isinstance(body, str) else body
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
        return len(body)

    def start(self, sql: str, *parameters: str, **options: Any) -> str:
        if parameters:
            options["ExecutionParameters"] = list(parameters)
        options.setdefault("ResultConfiguration", {"OutputLocation": f"s3://{self.bucket}/results/"})
        started: str = self.client.start_query_execution(QueryString=sql, **options)["QueryExecutionId"]
        return started

    def look(self, name: str) -> dict[str, Any]:
        looked: dict[str, Any] = self.client.get_query_execution(QueryExecutionId=name)["QueryExecution"]
        return looked

    def state(self, name: str) -> str:
        return str(self.look(name)["Status"]["State"])

    def finish(self, name: str) -> dict[str, Any]:
        done = poll(lambda: self.state(name) not in ("QUEUED", "RUNNING"), seconds=WAIT)
        assert done, "the query did not end"
        return self.look(name)

    def run(self, sql: str, *parameters: str, **options: Any) -> dict[str, Any]:
        ended = self.finish(self.start(sql, *parameters, **options))
        assert ended["Status"]["State"] == "SUCCEEDED", ended["Status"]
        return ended

    def rows(self, sql: str, *parameters: str, **options: Any) -> list[list[str | None]]:
        ended = self.run(sql, *parameters, **options)
        return rows_of(self.client.get_query_results(QueryExecutionId=ended["QueryExecutionId"]))

    def reason(self, sql: str, *parameters: str) -> str:
        status = self.finish(self.start(sql, *parameters))["Status"]
        assert status["State"] == "FAILED"
        assert status["AthenaError"]["ErrorMessage"] == status["StateChangeReason"]
        return str(status["StateChangeReason"])

    def file(self, name: str) -> bytes:
        bucket, _, key = self.look(name)["ResultConfiguration"]["OutputLocation"][len("s3://") :].partition("/")
        body: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return body


def rows_of(answer: dict[str, Any]) -> list[list[str | None]]:
    return [[value.get("VarCharValue") for value in row["Data"]] for row in answer["ResultSet"]["Rows"]]


@pytest.fixture
def athena(local_athena: AthenaServer, local_aws: AWSServer) -> Iterator[Session]:
    """The session's Athena, reset before and after, with a bucket for this test."""
    local_athena.reset()
    yield Session(local_athena, local_aws.client("s3"))
    local_athena.reset()


@pytest.fixture
def orders(athena: Session) -> Session:
    """The same with a table `orders`."""
    athena.put("orders/a.csv", ORDERS)
    athena.run(ORDERS_DDL.format(bucket=athena.bucket))
    return athena


# Tables


def test_a_delimited_table_is_read_as_hive_reads_it(orders: Session) -> None:
    """What a field cannot mean is NULL, so is \\N; an empty string is one; quotes are ordinary characters."""
    assert orders.rows("select * from orders order by id") == [
        ["id", "amount", "name", "day"],
        ["1", "1.50", "ann", "2024-01-01"],
        ["2", None, "", "2024-01-02"],
        ["3", "2.25", '"q"', None],
    ]


def test_opencsv_knows_quotes_and_no_null(athena: Session) -> None:
    """With OpenCSVSerde a quoted separator belongs to the value, and an absent value is an empty string."""
    athena.put("t/a.csv", '1;"a;b"\n2;\n')
    athena.run(
        "CREATE EXTERNAL TABLE t (id int, name string) ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde' "
        f"WITH SERDEPROPERTIES ('separatorChar'=';', 'quoteChar'='\"') LOCATION 's3://{athena.bucket}/t/'"
    )
    assert athena.rows("select * from t order by id") == [["id", "name"], ["1", "a;b"], ["2", ""]]


def test_opencsv_fails_on_a_field_of_another_type(athena: Session) -> None:
    """With OpenCSVSerde a word in a number's place is an error, not NULL."""
    athena.put("t/a.csv", "word\n")
    athena.run(
        "CREATE EXTERNAL TABLE t (id int) ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde' "
        f"LOCATION 's3://{athena.bucket}/t/'"
    )
    assert athena.reason("select * from t").startswith("HIVE_BAD_DATA")


def test_a_parquet_table_is_read_by_column_names(athena: Session, tmp_path: Path) -> None:
    """Columns of the file in another order, and more of them, do not matter."""
    path = tmp_path / "a.parquet"
    duckdb.sql("select 'x' as name, 7::bigint as id, true as more").write_parquet(str(path))
    size = athena.put("t/a.parquet", path.read_bytes())
    athena.run(f"CREATE EXTERNAL TABLE t (id bigint, name string) STORED AS PARQUET LOCATION 's3://{athena.bucket}/t'")
    assert athena.rows("select * from t") == [["id", "name"], ["7", "x"]]
    assert athena.run("select id from t")["Statistics"]["DataScannedInBytes"] == size


def test_every_object_below_the_location_is_read_but_hidden_ones(orders: Session) -> None:
    """More objects are more rows; names with `_` or `.` in front and neighbours with a longer name are left out."""
    orders.put("orders/sub/b.csv", "id,amount,name,day\n4,1.00,bob,2024-01-04\n")
    orders.put("orders/_SUCCESS", "not,a,row,4\n" * 5)
    orders.put("orders-old/c.csv", "not,a,row,4\n" * 5)
    assert orders.rows("select count(*) from orders") == [["_col0"], ["4"]]


def test_a_changed_object_is_read_again(orders: Session) -> None:
    """The next query sees what the object holds now, and what it counts is the bytes of the objects."""
    size = orders.put("orders/a.csv", "header\n9,9.00,new,2025-01-01\n")
    ended = orders.run("select id from orders")
    assert rows_of(orders.client.get_query_results(QueryExecutionId=ended["QueryExecutionId"])) == [["id"], ["9"]]
    assert ended["Statistics"]["DataScannedInBytes"] == size


def test_any_number_of_changes_is_seen(orders: Session) -> None:
    """Loaded states are dropped after a while; one that comes back is read again."""
    for n in (1, 2, 3, 4, 5, 1):
        orders.put("orders/a.csv", "header\n" + "7,1.00,x,2025-01-01\n" * n)
        assert orders.rows("select count(*) as n from orders") == [["n"], [str(n)]]


def test_a_location_without_objects_is_an_empty_table(athena: Session) -> None:
    """No objects, no rows."""
    athena.run(ORDERS_DDL.format(bucket=athena.bucket))
    assert athena.rows("select id from orders") == [["id"]]


def test_names_know_no_case_and_belong_to_a_database(orders: Session) -> None:
    """A table is found by any case; with a database, with the catalogue, or by the query's context."""
    database = {"QueryExecutionContext": {"Database": "shop"}}
    orders.run(ORDERS_DDL.format(bucket=orders.bucket).replace("TABLE orders", "TABLE Shop.Sold"))
    for name in ("shop.sold", "SHOP.SOLD", "awsdatacatalog.shop.sold"):
        assert orders.rows(f"select count(*) as n from {name}") == [["n"], ["3"]]
    assert orders.rows("select sold.id from SOLD where sold.id = 1", **database) == [["id"], ["1"]]
    assert (
        "shop.orders" in orders.finish(orders.start("select 1 from orders", **database))["Status"]["StateChangeReason"]
    )


def test_a_common_table_hides_the_catalogues(orders: Session) -> None:
    """A name that WITH defines is not looked up among the tables."""
    assert orders.rows("with orders as (select 5 as x) select * from orders") == [["x"], ["5"]]


def test_tables_are_created_once_and_dropped(orders: Session) -> None:
    """Created again is an error without IF NOT EXISTS; after the drop the name is unknown."""
    create = ORDERS_DDL.format(bucket=orders.bucket)
    assert "already exists" in orders.reason(create)
    orders.run(create.replace("TABLE orders", "TABLE IF NOT EXISTS orders"))
    orders.run("DROP TABLE orders")
    assert orders.reason("select * from orders").startswith("TABLE_NOT_FOUND")
    assert "not found" in orders.reason("DROP TABLE orders")
    orders.run("DROP TABLE IF EXISTS orders")


@pytest.mark.parametrize(
    "sql",
    [
        "create table x as select 1 as a",
        "CREATE EXTERNAL TABLE t (a int) PARTITIONED BY (d string) LOCATION 's3://b/p/'",
        "CREATE EXTERNAL TABLE t (a int) STORED AS ORC LOCATION 's3://b/p/'",
        "CREATE EXTERNAL TABLE t (a int) LOCATION 'file:///etc/'",
        "create view v as select 1 as a",
        "insert into t values (1)",
        "MSCK REPAIR TABLE t",
    ],
)
def test_what_is_not_served_says_so(athena: Session, sql: str) -> None:
    """A statement outside of what is documented fails by name, and does not seem to work."""
    assert athena.reason(sql).startswith("NOT_SUPPORTED")


# Queries and their results


def test_values_are_written_as_athena_writes_them(athena: Session) -> None:
    """Each type's text, in the page and in the file: everything quoted, NULL bare, an empty string in quotes."""
    ended = athena.run(
        "select timestamp '2024-01-02 03:04:05.678' t, date '2024-01-02' d, 1e10 f, true b, null n, '' e, 'a\"b' q, "
        "array[1, null] a, cast(row(1, 'z') as row(x bigint, y varchar)) r, cast('hi' as varbinary) v, 7 / 2, "
        "cast(1.1 as decimal(5,2)) m, timestamp '2024-01-02 03:04:05 UTC' z"
    )
    name = ended["QueryExecutionId"]
    answer = athena.client.get_query_results(QueryExecutionId=name)
    types = {c["Name"]: c["Type"] for c in answer["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]}
    assert dict(zip(*rows_of(answer), strict=True)) == {
        "t": "2024-01-02 03:04:05.678",
        "d": "2024-01-02",
        "f": "1.0E10",
        "b": "true",
        "n": None,
        "e": "",
        "q": 'a"b',
        "a": "[1, null]",
        "r": "{x=1, y=z}",
        "v": "68 69",
        "_col10": "3",
        "m": "1.10",
        "z": "2024-01-02 03:04:05.000 UTC",
    }
    assert list(types.values()) == [
        *("timestamp", "date", "double", "boolean", "varchar", "varchar", "varchar", "array", "row", "varbinary"),
        *("integer", "decimal", "timestamp with time zone"),
    ]
    assert b'"true",,"","a""b","[1, null]"' in athena.file(name)


def test_sums_of_bigint_stay_bigint(orders: Session) -> None:
    """As in Athena, where DuckDB would widen them."""
    name = orders.run("select sum(id) as s, count(*) as n from orders")["QueryExecutionId"]
    answer = orders.client.get_query_results(QueryExecutionId=name)
    assert [c["Type"] for c in answer["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]] == ["bigint", "bigint"]
    assert rows_of(answer)[1] == ["6", "3"]


def test_two_columns_may_have_one_name(athena: Session) -> None:
    """A result may repeat a name, beside a timestamp with time zone too."""
    rows = athena.rows("select 1 as a, 2 as a, timestamp '2024-01-01 00:00:00 UTC' as a")
    assert rows == [["a", "a", "a"], ["1", "2", "2024-01-01 00:00:00.000 UTC"]]


def test_unnamed_columns_are_named_by_their_place(athena: Session) -> None:
    """`_col0` and so on, for expressions and for VALUES."""
    assert athena.rows("select 1, 'x' as y, count(*) from (values 1) as t(a)")[0] == ["_col0", "y", "_col2"]
    assert athena.rows("values (1, 'a')") == [["_col0", "_col1"], ["1", "a"]]


def test_pages_hold_the_header_once(athena: Session) -> None:
    """2,500 rows are three pages of at most 1,000; the header is the first row of the first."""
    sql = "select x from unnest(sequence(1, 2500)) as t(x) order by x"
    name = athena.run(sql)["QueryExecutionId"]
    pages = list(athena.client.get_paginator("get_query_results").paginate(QueryExecutionId=name))
    assert [len(page["ResultSet"]["Rows"]) for page in pages] == [1000, 1000, 501]
    assert [row[0] for page in pages for row in rows_of(page)] == ["x", *map(str, range(1, 2501))]


def test_ddl_has_no_header_and_a_text_file(orders: Session) -> None:
    """The result of DDL is empty, in a `.txt`."""
    ended = orders.run("DROP TABLE orders")
    answer = orders.client.get_query_results(QueryExecutionId=ended["QueryExecutionId"])
    assert rows_of(answer) == []
    assert ended["ResultConfiguration"]["OutputLocation"].endswith(".txt")
    assert ended["StatementType"] == "DDL"


def test_results_are_gone_with_their_file(athena: Session) -> None:
    """When the result object was deleted, the pages cannot be had either."""
    ended = athena.run("select 1 as a")
    athena.s3.delete_object(Bucket=athena.bucket, Key=f"results/{ended['QueryExecutionId']}.csv")
    with pytest.raises(ClientError, match="Could not find results"):
        athena.client.get_query_results(QueryExecutionId=ended["QueryExecutionId"])


def test_parameters_take_the_place_of_question_marks_in_order(orders: Session) -> None:
    """Literals of any type, in the order of the text; a question mark inside a string is none."""
    sql = "select id, '?' as mark from orders where name = ? and id < ? order by id limit ?"
    assert orders.rows(sql, "'ann'", "cast(10 as bigint)", "5") == [["id", "mark"], ["1", "?"]]
    assert orders.rows("select ? as a, ? as b", "'it''s'", "NULL") == [["a", "b"], ["it's", None]]


@pytest.mark.parametrize("parameters", [(), ("1", "2")])
def test_the_number_of_parameters_must_fit(athena: Session, parameters: Sequence[str]) -> None:
    """Too few and too many are the same failure as in Athena."""
    assert athena.reason("select ? as a", *parameters).startswith("INVALID_PARAMETER_USAGE")


@pytest.mark.parametrize("parameter", ["1; drop table orders", "1 from orders", "1, 2", "1 union select 2", "("])
def test_a_parameter_cannot_become_a_query(orders: Session, parameter: str) -> None:
    """A parameter is one expression; more than that fails and does nothing."""
    assert orders.reason("select ? as a", parameter).startswith(("INVALID_PARAMETER_USAGE", "SYNTAX_ERROR"))
    assert orders.rows("select count(*) as n from orders") == [["n"], ["3"]]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("selec 1", "SYNTAX_ERROR"),
        ("select 1; select 2", "SYNTAX_ERROR"),
        ("select nope from (values 1) as t(a)", "SYNTAX_ERROR"),
        ("select * from nowhere", "TABLE_NOT_FOUND"),
        ("select no_such_function(1)", "FUNCTION_NOT_FOUND"),
        ("select cast('x' as integer)", "INVALID_CAST_ARGUMENT"),
        ("select * from read_csv('/etc/passwd')", "FUNCTION_NOT_FOUND"),
        ("select * from read_text('/etc/passwd')", "FUNCTION_NOT_FOUND"),
        ("select * from '/etc/passwd'", "TABLE_NOT_FOUND"),
    ],
)
def test_bad_sql_fails_with_its_reason(athena: Session, sql: str, reason: str) -> None:
    """The execution ends as FAILED, by Athena's name for the reason; files of the machine are not to be read."""
    assert athena.reason(sql).startswith(reason)


def test_a_missing_result_bucket_fails_the_execution(athena: Session) -> None:
    """No bucket to write to: FAILED, and the worker lives on."""
    name = athena.start("select 1 as a", ResultConfiguration={"OutputLocation": "s3://no-such-bucket-anywhere/"})
    assert athena.finish(name)["Status"]["State"] == "FAILED"
    assert athena.rows("select 1 as a") == [["a"], ["1"]]


# Executions


def test_a_query_waits_for_the_delay_and_goes_on_when_it_is_lifted(athena: Session) -> None:
    """RUNNING while the delay lasts; no results yet; done as soon as the delay is set to zero."""
    athena.server.delay = LONG
    name = athena.start("select 1 as a")
    assert poll(lambda: athena.state(name) == "RUNNING", seconds=WAIT)
    with pytest.raises(ClientError, match=r"not yet finished. Current state: RUNNING"):
        athena.client.get_query_results(QueryExecutionId=name)
    athena.server.delay = 0
    assert athena.finish(name)["Status"]["State"] == "SUCCEEDED"


def test_no_more_run_at_once_than_there_are_workers(local_aws: AWSServer) -> None:
    """With one worker the second query is QUEUED until the first has ended; cancelled there, it never runs."""
    with AthenaServer(local_aws.client("s3"), workers=1, delay=LONG) as server:
        athena = Session(server, local_aws.client("s3"))
        first = athena.start("select 1 as a")
        assert poll(lambda: athena.state(first) == "RUNNING", seconds=WAIT)
        second, third = athena.start("select 2 as a"), athena.start("select 3 as a")
        assert athena.state(second) == "QUEUED"
        athena.client.stop_query_execution(QueryExecutionId=second)
        server.delay = 0
        assert [athena.finish(n)["Status"]["State"] for n in (first, second, third)] == [
            *("SUCCEEDED", "CANCELLED", "SUCCEEDED")
        ]


def test_stop_interrupts_a_query_at_work(athena: Session) -> None:
    """A query that would take for ever is CANCELLED at once, and its worker is free again."""
    many = "unnest(sequence(1, 100000))"
    endless = f"select count(*) as n from {many} as a(x), {many} as b(y) where x % 7 = y % 5"
    names = [athena.start(endless) for _ in range(4)]  # as many as there are workers
    assert poll(lambda: all(athena.state(name) == "RUNNING" for name in names), seconds=WAIT)
    for name in names:
        athena.client.stop_query_execution(QueryExecutionId=name)
        assert athena.state(name) == "CANCELLED"
        athena.client.stop_query_execution(QueryExecutionId=name)
    assert athena.rows("select 1 as a") == [["a"], ["1"]]
    with pytest.raises(ClientError, match="Final query state: CANCELLED"):
        athena.client.get_query_results(QueryExecutionId=names[0])


def test_one_token_is_one_execution(athena: Session) -> None:
    """The same token with the same parameters gives the same id, from many threads too, and starts nothing."""
    token = "t" * 32
    names: list[str] = []
    threads = [
        threading.Thread(target=lambda: names.append(athena.start("select 1 as a", ClientRequestToken=token)))
        for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 10
    assert len(set(names)) == 1
    assert athena.server.executions_started == 1


def test_a_token_with_other_parameters_is_refused(athena: Session) -> None:
    """The same token for another query is InvalidRequestException."""
    athena.start("select 1 as a", ClientRequestToken="t" * 32)
    with pytest.raises(ClientError, match=r"InvalidRequestException.*Idempotent parameters do not match"):
        athena.start("select 2 as a", ClientRequestToken="t" * 32)


def call(server: AthenaServer, operation: str, **body: Any) -> dict[str, Any]:
    """A call without the SDK, which would refuse some bodies by itself."""
    headers = {"X-Amz-Target": f"AmazonAthena.{operation}", "Content-Type": "application/x-amz-json-1.1"}
    request = urllib.request.Request(server.url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as error:
        with error:
            return {"status": error.code, **json.load(error)}


OUTPUT = {"ResultConfiguration": {"OutputLocation": "s3://results/"}}


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("StartQueryExecution", {"QueryString": "", **OUTPUT}),
        ("StartQueryExecution", {"QueryString": "select 1"}),
        ("StartQueryExecution", {"QueryString": "select 1", "ResultConfiguration": {"OutputLocation": "/tmp"}}),
        ("StartQueryExecution", {"QueryString": "select 1 " + "-" * 262_144, **OUTPUT}),
        ("StartQueryExecution", {"QueryString": "select 1", "ClientRequestToken": "t" * 31, **OUTPUT}),
        ("StartQueryExecution", {"QueryString": "select 1", "ClientRequestToken": "t" * 129, **OUTPUT}),
        ("StartQueryExecution", {"QueryString": "select 1", "WorkGroup": "nobody", **OUTPUT}),
        ("GetQueryExecution", {"QueryExecutionId": "unknown"}),
        ("GetQueryResults", {"QueryExecutionId": "unknown"}),
        ("StopQueryExecution", {"QueryExecutionId": "unknown"}),
        ("BatchGetQueryExecution", {"QueryExecutionIds": []}),
        ("ListQueryExecutions", {"MaxResults": 51}),
        ("GetWorkGroup", {"WorkGroup": "nobody"}),
    ],
)
def test_bad_requests_are_invalid(athena: Session, operation: str, body: dict[str, Any]) -> None:
    """Each is answered with 400 and InvalidRequestException, and starts nothing."""
    answer = call(athena.server, operation, **body)
    assert (answer["status"], answer["__type"]) == (400, "InvalidRequestException")
    assert athena.server.executions_started == 0


def test_more_than_1000_results_a_page_are_refused(athena: Session) -> None:
    """MaxResults ends at 1,000."""
    name = athena.run("select 1 as a")["QueryExecutionId"]
    assert call(athena.server, "GetQueryResults", QueryExecutionId=name, MaxResults=1001)["status"] == 400
    assert call(athena.server, "GetQueryResults", QueryExecutionId=name, NextToken="x")["status"] == 400


def test_executions_are_listed_youngest_first_and_described_together(athena: Session) -> None:
    """ListQueryExecutions pages; BatchGetQueryExecution names the ids it does not know."""
    names = [athena.start("select 1 as a") for _ in range(3)]
    pages = athena.client.get_paginator("list_query_executions").paginate(PaginationConfig={"PageSize": 2})
    assert [name for page in pages for name in page["QueryExecutionIds"]] == names[::-1]
    batch = athena.client.batch_get_query_execution(QueryExecutionIds=[names[0], "unknown"])
    assert [e["QueryExecutionId"] for e in batch["QueryExecutions"]] == names[:1]
    assert [e["QueryExecutionId"] for e in batch["UnprocessedQueryExecutionIds"]] == ["unknown"]


def test_a_workgroup_may_hold_the_output_location(local_aws: AWSServer) -> None:
    """A request without an output location takes its workgroup's."""
    s3 = local_aws.client("s3")
    with AthenaServer(s3, workgroups={"reports": "s3://reports-output/"}) as server:
        athena = Session(server, s3)
        s3.create_bucket(Bucket="reports-output")
        ended = athena.run("select 1 as a", WorkGroup="reports", ResultConfiguration={})
        assert ended["ResultConfiguration"]["OutputLocation"].startswith("s3://reports-output/")
        assert athena.client.get_work_group(WorkGroup="reports")["WorkGroup"]["State"] == "ENABLED"


# Faults, control, life


def test_the_next_calls_can_be_made_to_fail(athena: Session) -> None:
    """As often as was asked for, for the operation that was named, then no more; each is counted as a call."""
    athena.server.fail_next("TooManyRequestsException", times=2, operation="StartQueryExecution")
    for _ in range(2):
        with pytest.raises(ClientError, match="TooManyRequestsException"):
            athena.start("select 1 as a")
        athena.client.list_query_executions()
    assert athena.rows("select 1 as a") == [["a"], ["1"]]
    assert athena.server.executions_started == 1
    assert athena.server.calls["StartQueryExecution"] == 3


def test_server_errors_have_status_500(athena: Session) -> None:
    """InternalServerException is the server's fault, throttling is not."""
    athena.server.fail_next("InternalServerException")
    athena.server.fail_next("ThrottlingException")
    assert call(athena.server, "ListQueryExecutions")["status"] == 500
    assert call(athena.server, "ListQueryExecutions")["status"] == 400


def test_the_next_query_can_be_made_to_fail(athena: Session) -> None:
    """Its AthenaError is what was asked for; the query after it is served."""
    athena.server.fail_next_query("GENERIC_INTERNAL_ERROR: try again", category=1, retryable=True)
    error = athena.finish(athena.start("select 1 as a"))["Status"]["AthenaError"]
    assert (error["ErrorCategory"], error["Retryable"]) == (1, True)
    assert athena.rows("select 1 as a") == [["a"], ["1"]]


def test_another_process_can_set_and_read_it_by_its_url(athena: Session) -> None:
    """The control call changes the delay and the faults and tells the counters."""
    assert control(athena.server.url, delay=LONG)["delay"] == athena.server.delay == LONG
    control(athena.server.url, delay=0, fail_next={"code": "ThrottlingException"}, fail_next_query={"reason": "asked"})
    assert call(athena.server, "ListQueryExecutions")["__type"] == "ThrottlingException"
    assert athena.reason("select 1 as a") == "asked"
    told = control(athena.server.url)
    assert (told["executions_started"], told["calls"]["StartQueryExecution"]) == (1, 1)
    assert control(athena.server.url, reset=True)["executions_started"] == 0
    with pytest.raises(urllib.error.HTTPError) as caught:
        control(athena.server.url, delay=-1)
    caught.value.close()


def test_an_unknown_operation_is_named(athena: Session) -> None:
    """What is not served is an error, not an empty answer."""
    assert call(athena.server, "CreateWorkGroup")["__type"] == "UnknownOperationException"


def test_stopping_ends_running_queries_and_open_connections(local_aws: AWSServer) -> None:
    """A server with a query that waits for an hour, and with a client connected, stops at once; and may start again."""
    server = AthenaServer(local_aws.client("s3"), delay=LONG).start()
    athena = Session(server, local_aws.client("s3"))
    athena.start("select 1 as a")
    server.stop()
    server.stop()
    with pytest.raises(ServiceUnavailable):
        server.delay = 1
    with server:
        assert server.executions_started == 0


@pytest.mark.parametrize("options", [{"delay": -1}, {"delay": float("nan")}, {"workers": 0}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    """A delay that is none, and no workers, are errors at construction."""
    with pytest.raises(ConfigurationError):
        AthenaServer(None, **options)


# Texts


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_doubles_text_is_the_same_number(number: float) -> None:
    """Nothing is lost, whichever notation; there is always a decimal point."""
    assert float(text(number)) == number
    assert "." in text(number)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1e7, "1.0E7"),
        (9999999.0, "9999999.0"),
        (0.001, "0.001"),
        (0.00012, "1.2E-4"),
        (-1.5e300, "-1.5E300"),
        (0.0, "0.0"),
        (float("inf"), "Infinity"),
        (float("nan"), "NaN"),
        (Decimal("0E-10"), "0.0000000000"),
        (dt.time(1, 2, 3, 4000), "01:02:03.004"),
        ({"k": [True, None]}, "{k=[true, null]}"),
    ],
)
def test_texts_are_those_of_java(value: object, expected: str) -> None:
    """Java's notation for doubles, plain decimals, nested values."""
    assert text(value) == expected


@given(st.lists(st.lists(st.none() | st.text(), min_size=2, max_size=2)))
def test_the_csv_can_be_read_back_exactly(rows: list[list[str | None]]) -> None:
    """Whatever the texts hold, quotes and line ends too: a reader of the quoting gets them back, NULL apart from ''."""
    assert list(read_csv(csv(rows).decode())) == rows


def read_csv(content: str) -> Iterator[list[str | None]]:
    """Rows of two values, read character by character by the rule of the format."""
    place = 0
    while place < len(content):
        row: list[str | None] = []
        for end in ",\n":
            if content[place] != '"':
                row.append(None)
            else:
                value, place = "", place + 1
                while content[place] != '"' or content[place : place + 2] == '""':
                    value += content[place]
                    place += 2 if content[place] == '"' else 1
                row.append(value)
                place += 1
            assert content[place] == end
            place += 1
        yield row


def test_texts_keep_null_apart() -> None:
    """None stays None, and each column is written by its own type."""
    columns = [Column.of("a", "BOOLEAN"), Column.of("b", "DECIMAL(5,2)")]
    assert texts(columns, [(True, Decimal("1.50")), (None, None)]) == [["true", "1.50"], [None, None]]
    assert columns[1].info()["Precision"] == 5
