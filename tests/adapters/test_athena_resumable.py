"""Long queries, short invocations, many containers: one execution for all, whatever becomes of it and of who began it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tiered_cache import LoadPending, MemoryTier, OriginDenied, OriginError, Reason, RedisTier, TieredCache
from tiered_cache._values import LoadContext, Pending
from tiered_cache.adapters.athena import AthenaOrigin
from tiered_cache.testing import FakeClock, InMemorySharedTier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiered_cache.adapters._athena_query import QueryRequest
    from tiered_cache.local.athena import AthenaServer
    from tiered_cache.local.aws import AWSServer
    from tiered_cache.local.valkey import ValkeyServer

CONTAINERS = 20
WAIT = 60.0
DAY = 86_400
LONG = 10**9
"""Seconds of a bucket whose borders lie decades apart, in 2001 and 2033: none falls into a test, as midnight may."""
SQL = "SELECT id, name FROM (VALUES (1, 'Ada')) AS t(id, name)"
ROWS = [{"id": 1, "name": "Ada"}]
OUTPUT = "s3://athena-resumable/cache/"


class Lake:
    """The local Athena with its S3, and the query that all containers ask for."""

    def __init__(self, athena: AthenaServer, aws: AWSServer) -> None:
        self.athena = athena
        self.s3 = aws.client("s3")
        self.client = athena.client()
        self.s3.create_bucket(Bucket="athena-resumable")

    def query(self, sql: str = SQL, **options: Any) -> QueryRequest:
        """As another container makes it."""
        origin = AthenaOrigin(database="sales", output_location=OUTPUT, client=self.client, s3_client=self.s3)
        return origin.query(sql, **({"resumable": True, "wait": 0, "bucket_seconds": LONG} | options))

    def execution(self) -> dict[str, Any]:
        """The youngest."""
        latest = self.client.list_query_executions()["QueryExecutionIds"][0]
        found: dict[str, Any] = self.client.get_query_execution(QueryExecutionId=latest)["QueryExecution"]
        return found

    def finish(self) -> str:
        """Let the queries end; the youngest one's id."""
        self.athena.delay = 0
        until(lambda: self.execution()["Status"]["State"] not in ("QUEUED", "RUNNING"))
        found: str = self.execution()["QueryExecutionId"]
        return found

    @property
    def started(self) -> int:
        return self.athena.executions_started


def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < ends, "this did not come true in time"
        time.sleep(0.01)


def next_second() -> None:
    """Athena's clock tells seconds: who starts a query within the second in which another has ended shares that."""
    time.sleep(1.02 - time.time() % 1)


@pytest.fixture
def lake(local_athena: AthenaServer, local_aws: AWSServer) -> Iterator[Lake]:
    """A fresh local Athena, whose queries do not end."""
    local_athena.reset()
    local_athena.delay = 3600
    yield Lake(local_athena, local_aws)
    local_athena.reset()  # it is the session's


# The fleet


@pytest.fixture
def containers(valkey: ValkeyServer) -> Iterator[list[TieredCache]]:
    """Each with a tier of its own at one server, warm, by the real clock. Values are fresh for an hour, and stale for one."""
    with ExitStack() as close:

        def made() -> TieredCache:
            tier = RedisTier(valkey.url, ttl="1h", stale_while_revalidate="1h", jitter=0, timeout=20)
            cache = TieredCache(MemoryTier(ttl=60), tier, namespace="lake", refresh="inline")
            assert close.enter_context(cache).warm_up()
            return cache

        yield [made() for _ in range(CONTAINERS)]


class Asking:
    """All containers ask again and again, each from a thread and in invocations of so many seconds, until all have rows."""

    def __init__(self, containers: list[TieredCache], lake: Lake, seconds: float) -> None:
        self._seconds = seconds
        self.answers: list[list[str]] = [[] for _ in containers]
        self.rows: list[Any] = [None for _ in containers]
        self.errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(number, cache, lake.query()), daemon=True)
            for number, cache in enumerate(containers)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int, cache: TieredCache, query: QueryRequest) -> None:
        ends = time.monotonic() + WAIT
        try:
            while self.rows[number] is None and time.monotonic() < ends:
                self.answers[number].append(self._invoke(number, cache, query))
                time.sleep(0.1)
        except BaseException as error:
            self.errors.append(error)

    def _invoke(self, number: int, cache: TieredCache, query: QueryRequest) -> str:
        left = [60.0]  # of which L2 may take a quarter
        with cache.invocation(lambda: left[0]):
            left[0] = self._seconds
            try:
                answer = cache.get_entry_or_load("mapping", query)
            except LoadPending:
                return "pending"
        if answer.stale:
            assert answer.value == "old"
            return answer.reason
        self.rows[number] = answer.value
        return "fresh"

    def have_asked(self, times: int) -> bool:
        """Whether each has, so often."""
        assert not self.errors
        return all(len(answers) >= times for answers in self.answers)

    def end(self) -> set[str]:
        """All have their rows; what was said before."""
        for thread in self._threads:
            thread.join(WAIT)
        assert not self.errors
        assert self.rows == [ROWS] * len(self.rows)
        assert all(answers[-1] == "fresh" for answers in self.answers)
        return {said for answers in self.answers for said in answers[:-1]}


def test_one_execution_for_the_fleet_and_stale_answers_meanwhile(lake: Lake, containers: list[TieredCache]) -> None:
    """A query of minutes, a function that is given two seconds, twenty containers that hold an old value."""
    containers[0].set("mapping", "old", ttl=0.001)
    for cache in containers:
        assert cache.warm_up()
    asking = Asking(containers, lake, 2.0)
    until(lambda: asking.have_asked(5) and lake.athena.calls["GetQueryExecution"] >= 3)
    assert lake.started == 1
    lake.finish()
    assert asking.end() <= {
        Reason.LOAD_PENDING,
        Reason.LOAD_ELSEWHERE,
    }  # elsewhere: just while another starts it or looks
    assert lake.started == 1
    assert lake.athena.calls["StartQueryExecution"] == 1
    stats = [cache.stats().origin for cache in containers]
    assert (sum(one.loads for one in stats), sum(one.failures for one in stats)) == (1, 0)
    assert sum(one.pending for one in stats) == sum(one.resumed for one in stats)


def test_one_execution_for_the_fleet_from_cold(lake: Lake, containers: list[TieredCache]) -> None:
    """Half a second, and nothing to serve: all are told to ask again later, until the rows are there."""
    asking = Asking(containers, lake, 0.5)
    until(lambda: asking.have_asked(2))
    assert lake.started == 1
    lake.finish()
    assert asking.end() == {"pending"}
    assert lake.started == 1


BEGINS = """
import json, sys, time
from tiered_cache import LoadPending, MemoryTier, RedisTier, TieredCache
from tiered_cache.adapters.athena import AthenaOrigin
from tiered_cache.local._clients import new_client
given = json.loads(sys.argv[1])
cache = TieredCache(MemoryTier(ttl=60), RedisTier(given["valkey"], ttl="1h", timeout=20), namespace="lake")
athena, s3 = new_client("athena", given["athena"]), new_client("s3", given["s3"])
origin = AthenaOrigin(database="sales", output_location=given["output"], client=athena, s3_client=s3)
try:
    cache.get_or_load("mapping", origin.query(given["sql"], resumable=True, wait=0))
except LoadPending:
    print("pending", flush=True)
time.sleep(600)
"""


def test_the_container_that_began_it_is_gone(
    lake: Lake, containers: list[TieredCache], local_aws: AWSServer, valkey: ValkeyServer
) -> None:
    """Its process is killed in the midst; the query went on, and the others have its rows."""
    given = {"valkey": valkey.url, "athena": lake.athena.url, "s3": local_aws.url, "output": OUTPUT, "sql": SQL}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", BEGINS, json.dumps(given)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "pending\n"
        process.kill()
    execution_id = lake.finish()
    query = lake.query(wait=60)  # for the pause between two looks
    assert containers[0].get_or_load("mapping", query) == ROWS
    assert query.last_statistics is not None
    assert query.last_statistics.execution_id == execution_id
    assert containers[1].get_entry_or_load("mapping", query)[:2] == (ROWS, "l2")
    assert lake.started == 1


# What becomes of an execution


class Two:
    """Two containers on a tier in memory, by a clock that is set; with or without an old value."""

    def __init__(self, lake: Lake, close: ExitStack, *, stale: bool) -> None:
        self.lake = lake
        self.clock = FakeClock()
        self.tier = InMemorySharedTier(ttl=3600, stale_while_revalidate=DAY, stale_if_error=DAY)
        self.queries = [lake.query(), lake.query()]
        self.caches = [
            close.enter_context(
                TieredCache(MemoryTier(ttl=1, jitter=0), self.tier, clock=self.clock, refresh="inline", error_backoff=5)
            )
            for _ in range(2)
        ]
        self.stale = stale
        if stale:
            self.caches[0].set("mapping", "old", ttl=1)
            self.clock.advance(2)

    def ask(self, number: int) -> Any:
        """The rows, or in their place why there are none."""
        try:
            answer = self.caches[number].get_entry_or_load("mapping", self.queries[number])
        except LoadPending:
            return Reason.LOAD_PENDING
        except OriginError:
            assert not self.stale
            return Reason.LOAD_FAILED
        return answer.reason if answer.stale else answer.value

    def later(self, seconds: float = 20) -> None:
        """The pauses are over."""
        self.clock.advance(seconds)
        self.tier.leases.clear()


@pytest.fixture(params=[False, True], ids=["cold", "stale"])
def two(request: pytest.FixtureRequest, lake: Lake) -> Iterator[Two]:
    with ExitStack() as close:
        yield Two(lake, close, stale=request.param)


def test_it_finished_while_nobody_looked(two: Two, lake: Lake) -> None:
    """Whoever comes next has the rows, as old as the query."""
    assert two.ask(0) is Reason.LOAD_PENDING
    lake.finish()
    two.later(1800)
    answer = two.caches[1].get_entry_or_load("mapping", two.queries[1])
    assert (answer.value, answer.age) == (ROWS, 1800.0)
    two.clock.advance(1799)
    assert two.caches[0].get_entry_or_load("mapping", two.queries[0])[:2] == (ROWS, "l2")
    lake.athena.delay = 3600
    two.later(2)
    next_second()
    assert two.ask(0) is Reason.LOAD_PENDING
    assert lake.started == 2


def test_it_failed(two: Two, lake: Lake) -> None:
    """One says so, or serves what is stale and backs off; the others do not ask about it again, and run a new one."""
    lake.athena.fail_next_query("syntax", category=2, retryable=False)
    assert two.ask(0) is Reason.LOAD_PENDING
    lake.finish()
    two.later()
    assert two.ask(1) is Reason.LOAD_FAILED
    looks = lake.athena.calls["GetQueryExecution"]
    if two.stale:
        assert two.ask(1) is Reason.LOAD_FAILED  # without a look
        assert lake.athena.calls["GetQueryExecution"] == looks
    lake.athena.delay = 3600
    two.later()
    next_second()
    assert two.ask(0) is Reason.LOAD_PENDING
    assert lake.started == 2
    lake.finish()
    two.later()
    assert two.ask(1) == ROWS
    assert lake.started == 2


def test_a_failure_that_may_be_repeated_is_repeated(two: Two, lake: Lake) -> None:
    """In the same load, and the others go on with the new execution."""
    lake.athena.fail_next_query("internal trouble")
    assert two.ask(0) is Reason.LOAD_PENDING
    lake.finish()
    lake.athena.delay = 3600
    two.later()
    assert two.ask(1) is Reason.LOAD_PENDING
    lake.finish()
    two.later()
    answer = two.caches[0].get_entry_or_load("mapping", two.queries[0])
    assert (answer.value, answer.age, lake.started) == (ROWS, 20.0, 2)


def test_somebody_cancelled_it(two: Two, lake: Lake) -> None:
    """By hand, and for a reason: an error or the stale value, and after that a new one."""
    assert two.ask(0) is Reason.LOAD_PENDING
    lake.client.stop_query_execution(QueryExecutionId=lake.execution()["QueryExecutionId"])
    two.later()
    assert two.ask(1) is Reason.LOAD_FAILED
    two.later()
    next_second()
    assert two.ask(0) is Reason.LOAD_PENDING
    assert lake.started == 2


@pytest.mark.parametrize("gone", ["result", "execution"])
def test_what_it_left_is_gone(two: Two, lake: Lake, gone: str) -> None:
    """The result was deleted, or Athena has forgotten the execution: a new one runs, as old as it is itself."""
    assert two.ask(0) is Reason.LOAD_PENDING
    execution_id = lake.finish()
    if gone == "result":
        lake.s3.delete_object(Bucket="athena-resumable", Key=f"cache/{execution_id}.csv")
        next_second()
    else:
        lake.athena.reset()
    lake.athena.delay = 3600
    two.later(3000)
    assert two.ask(1) is Reason.LOAD_PENDING
    assert lake.started == (2 if gone == "result" else 1)
    assert lake.finish() != execution_id
    two.later()
    answer = two.caches[0].get_entry_or_load("mapping", two.queries[0])
    assert (answer.value, answer.age) == (ROWS, 20.0)


@pytest.mark.parametrize("gone", ["result", "execution"])
def test_rows_that_were_had_anew_are_as_old_as_the_new_query(lake: Lake, gone: str) -> None:
    """And not as the one that is lost, even within the same load."""
    with ExitStack() as close:
        two = Two(lake, close, stale=False)
        assert two.ask(0) is Reason.LOAD_PENDING
        execution_id = lake.finish()
        if gone == "result":
            lake.s3.delete_object(Bucket="athena-resumable", Key=f"cache/{execution_id}.csv")
            next_second()
        else:
            lake.athena.reset()
        two.later(1800)
        answer = two.caches[1].get_entry_or_load("mapping", lake.query(wait=60))
        assert (answer.value, answer.age) == (ROWS, 0.0)


def failing(lake: Lake, code: str, operation: str = "GetObject") -> Callable[[], None]:
    """S3 answers with that error, until what this gives is called."""
    from botocore.exceptions import ClientError

    def fail(**_: Any) -> None:
        raise ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 503}}, operation)

    name = f"before-call.s3.{operation}"
    lake.s3.meta.events.register(name, fail)
    return lambda: lake.s3.meta.events.unregister(name, fail)


@pytest.mark.parametrize("trouble", ["a look", "ThrottlingException", "SlowDown", "InternalError"])
def test_a_paid_query_is_not_thrown_away_for_passing_trouble(two: Two, lake: Lake, trouble: str) -> None:
    """A look that is throttled, or an S3 that does not give the rows just now: pending still."""
    assert two.ask(0) is Reason.LOAD_PENDING
    lake.finish()
    two.later()
    if trouble == "a look":
        lake.athena.fail_next("ThrottlingException", operation="GetQueryExecution")
        assert two.ask(1) is Reason.LOAD_PENDING
    elif trouble == "ThrottlingException":
        lake.athena.fail_next("ThrottlingException", operation="GetQueryResults")
        assert two.ask(1) is Reason.LOAD_PENDING
    else:
        mend = failing(lake, trouble)
        assert two.ask(1) is Reason.LOAD_PENDING
        mend()
    two.later()
    assert two.ask(1) == ROWS
    assert lake.started == 1
    assert sum(cache.stats().origin.failures for cache in two.caches) == 0


def test_rows_that_cannot_be_had_just_now_are_pending_at_the_first_load_too(lake: Lake) -> None:
    """The query has ended within the wait, and is not run again for that."""
    lake.athena.delay = 0
    mend = failing(lake, "SlowDown")
    query = lake.query(wait=60)
    answer = query.load(LoadContext("mapping"))
    mend()
    assert isinstance(answer, Pending)
    assert query.load(LoadContext("mapping", handle=answer.handle)) == ROWS
    assert lake.started == 1


def test_rows_that_take_longer_than_is_left_are_pending(lake: Lake) -> None:
    """The load ends before its function is killed; the next one, which has the time, has the rows of the same query."""
    lake.athena.delay = 0
    query = lake.query("SELECT n FROM UNNEST(SEQUENCE(1, 3000)) AS t(n)", wait=60)
    found = LoadContext("mapping")
    assert len(query.load(found)) == 3000
    assert query.last_statistics is not None
    handle = query.last_statistics.execution_id
    looks: list[float] = []

    def remaining() -> float:
        looks.append(5.0)
        return 5.0

    assert len(query.load(LoadContext("mapping", handle=handle, remaining=remaining))) == 3000
    left = iter(looks[:-2])  # of the three looks at the time while the rows are read, the second finds that it is up
    late = query.load(LoadContext("mapping", handle=handle, remaining=lambda: next(left, 0.0)))
    assert late == LoadContext("mapping").pending(handle)
    assert len(query.load(LoadContext("mapping", handle=handle))) == 3000
    assert lake.started == 1


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize(("wait", "waited", "looks"), [(60, 60, 1), (0, 0, 1), (4, 2, 2)])
def test_who_has_waited_for_another_container_waits_the_less(
    lake: Lake, wait: float, waited: float, looks: int
) -> None:
    """`wait` is what a caller waits in all."""
    query = lake.query(wait=wait)
    assert isinstance(query.load(LoadContext("mapping", waited=waited)), Pending)
    assert (lake.athena.calls["GetQueryExecution"] > 1) is (looks > 1)


def test_a_refusal_is_told_and_not_waited_out(two: Two, lake: Lake) -> None:
    """Whoever may not read the rows is told so, at once."""
    assert two.ask(0) is Reason.LOAD_PENDING
    lake.finish()
    two.later()
    mend = failing(lake, "AccessDenied")
    with pytest.raises(OriginDenied):
        two.caches[1].get_or_load("mapping", two.queries[1])
    mend()


def test_a_query_that_is_not_resumable_fails_as_ever(lake: Lake) -> None:
    """Its rows cannot be had, and nobody comes back for them."""
    lake.athena.delay = 0
    mend = failing(lake, "SlowDown")
    with pytest.raises(OriginError):
        lake.query(resumable=False).load(LoadContext("mapping", handle="of another"))
    mend()


# Invalidations


def test_a_load_after_an_invalidation_joins_no_execution_from_before(two: Two, lake: Lake) -> None:
    """Though that is still running, and the same query is started within the same bucket."""
    assert two.ask(0) is Reason.LOAD_PENDING
    two.caches[0].delete("mapping")
    for cache in two.caches:
        with cache.invocation():
            pass
    two.stale = False
    assert two.ask(1) is Reason.LOAD_PENDING
    assert lake.started == 2
    lake.finish()
    two.later()
    assert two.ask(0) == ROWS
    assert lake.started == 2


def test_loads_of_one_generation_share_an_execution_and_of_two_do_not(lake: Lake) -> None:
    """Without leases, as where L2 is away: the token alone decides. With bucket_seconds=0 nothing is shared at all."""
    ids = [lake.query().start(LoadContext("k", generation=generation)) for generation in ("", "7-9", "7-9", "7-12", "")]
    assert [ids.index(one) for one in ids] == [0, 1, 1, 3, 0]
    assert lake.started == 3
    with ThreadPoolExecutor(2) as pool:
        pool.map(lambda _: lake.query(bucket_seconds=0).start(LoadContext("k", generation="7-9")), range(2))
    assert lake.started == 5
