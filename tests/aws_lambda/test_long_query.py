"""Queries of minutes, a function that may run for seconds, several containers: one execution, whose rows all of them get."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from tiered_cache.local.awslambda import FunctionTimedOut

if TYPE_CHECKING:
    from collections.abc import Iterator

    from parts import Make

    from tiered_cache.local import LocalLambda, ValkeyServer
    from tiered_cache.local.athena import AthenaServer
    from tiered_cache.local.aws import AWSServer

CONTAINERS = 5
TIMEOUT = 6.0
"""Of the invocation that is killed, which has to start both queries in it; nothing else is to depend on how fast it is."""
LONG = 3600.0
"""Seconds that the query takes, until it is let go: hundreds of that timeout."""
WAIT = 60.0
SQL = "SELECT name FROM (VALUES ('Ada')) AS t(name) WHERE 'any' <> ?"
OLD, ROWS = [{"name": "Augusta"}], [{"name": "Ada"}]
PENDING = {"cold": {"LoadPending"}, "stale": {"load_pending", "load_elsewhere"}}
"""What may be said while the queries run, of what nobody has ever had and of what has old rows."""


@pytest.fixture
def athena(local_athena: AthenaServer, local_aws: AWSServer) -> Iterator[AthenaServer]:
    """A fresh local Athena, whose queries do not end."""
    local_aws.client("s3").create_bucket(Bucket="long-query")
    local_athena.reset()
    local_athena.delay = LONG
    yield local_athena
    local_athena.reset()  # it is the session's


@pytest.fixture
def fleet(function: Make, athena: AthenaServer, local_aws: AWSServer, valkey: ValkeyServer) -> LocalLambda:
    """Five containers that are up, which take turns."""
    environment = {
        "URL": valkey.url,
        "SQL": SQL,
        "OUTPUT": "s3://long-query/results/",
        "AWS_ENDPOINT_URL_ATHENA": athena.url,
        "AWS_ENDPOINT_URL_S3": local_aws.url,
    }
    fn = function(
        "warehouse.handler", environment, containers=CONTAINERS, routing="rested", timeout=WAIT, init_timeout=WAIT
    )
    return fn.start(CONTAINERS)


def asked(fn: LocalLambda) -> list[dict[str, Any]]:
    """What each container answers, all asked at once."""
    done = [one.result(WAIT) for one in [fn.invoke_async({}) for _ in range(CONTAINERS)]]
    assert {one.container for one in done} == set(range(1, CONTAINERS + 1))
    return [one.value for one in done]


def test_one_execution_for_all_containers(fleet: LocalLambda, athena: AthenaServer) -> None:
    """Though the container that began it is killed; until it ends all have the old rows, or are told to come again."""
    fleet.invoke({"put": OLD})
    with pytest.raises(FunctionTimedOut):
        fleet.invoke({"hang": LONG}, timeout=TIMEOUT)
    fleet.start(CONTAINERS)  # that one too is up again, in time that is not an invocation's
    assert athena.executions_started == 2
    before = [asked(fleet), asked(fleet)]
    athena.delay = 0
    after, ends = [asked(fleet)], time.monotonic() + WAIT
    while any(answer[key]["value"] != ROWS for answer in after[-1] for key in PENDING):
        assert time.monotonic() < ends, after[-1]
        time.sleep(0.2)  # there is a pause between two looks at a query
        after.append(asked(fleet))
    for key, old in (("cold", None), ("stale", OLD)):
        assert [old] * 2 * CONTAINERS == [answer[key]["value"] for one in before for answer in one]
        others = [answer[key] for one in before + after for answer in one if answer[key]["value"] != ROWS]
        assert {answer["reason"] for answer in others} <= PENDING[key]
        assert {json.dumps(old)} == {json.dumps(answer["value"]) for answer in others}
    last = asked(fleet)
    assert {(json.dumps(ROWS), "l1", False)} == {
        (json.dumps(answer[key]["value"]), answer[key]["tier"], answer[key]["stale"])
        for answer in last
        for key in PENDING
    }
    assert (sum(answer["loads"] for answer in last), sum(answer["failures"] for answer in last)) == (2, 0)
    assert (athena.executions_started, athena.calls["StartQueryExecution"]) == (2, 2)
