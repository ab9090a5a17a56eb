"""S3 and DynamoDB on loopback, and all services under one handle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tiered_cache import local
from tiered_cache.local import AWSServer, LocalServices, ServiceUnavailable

ROOT = Path(local.__file__).parents[2]


def test_s3_answers_conditional_requests(local_aws: AWSServer) -> None:
    """A GET with the object's ETag is answered with 304 and no body."""
    s3 = local_aws.client("s3")
    s3.create_bucket(Bucket="conditional")
    etag = s3.put_object(Bucket="conditional", Key="key", Body=b"body")["ETag"]
    with pytest.raises(ClientError) as caught:
        s3.get_object(Bucket="conditional", Key="key", IfNoneMatch=etag)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 304


def test_dynamodb_keeps_items(local_aws: AWSServer) -> None:
    """What was put is got, with its types."""
    dynamodb = local_aws.client("dynamodb")
    dynamodb.create_table(
        TableName="kept",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    item = {"id": {"S": "a"}, "n": {"N": "1.50"}, "b": {"B": b"\x00"}, "s": {"SS": ["x"]}}
    dynamodb.put_item(TableName="kept", Item=item)
    assert dynamodb.get_item(TableName="kept", Key={"id": {"S": "a"}})["Item"] == item


def test_reset_forgets_everything(local_aws: AWSServer) -> None:
    """After a reset there are no buckets."""
    s3 = local_aws.client("s3")
    s3.create_bucket(Bucket="forgotten")
    local_aws.reset()
    assert s3.list_buckets()["Buckets"] == []


def test_one_client_per_service(local_aws: AWSServer) -> None:
    """Asking twice gives the same client, so that connections are shared and closed together."""
    assert local_aws.client("s3") is local_aws.client("s3")


def test_use_before_the_start_is_a_clear_error() -> None:
    """No URL and no client before the start; stopping is harmless."""
    server = AWSServer()
    server.stop()
    for use in (lambda: server.url, lambda: server.client("s3")):
        with pytest.raises(ServiceUnavailable, match="start"):
            use()


def test_all_services_serve_under_one_handle(local_services: LocalServices) -> None:
    """Each service answers the client that the handle gives for it."""
    assert local_services.valkey.running
    assert local_services.client("s3").list_buckets()["Buckets"] == []
    assert local_services.client("dynamodb").list_tables()["TableNames"] == []
    assert local_services.client("athena").list_query_executions()["QueryExecutionIds"] == []


HANDLER = """
import os, boto3, redis
for service, ask in [("s3", "list_buckets"), ("dynamodb", "list_tables"), ("athena", "list_query_executions")]:
    getattr(boto3.client(service), ask)()
with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
    client.ping()
print("served")
"""


def test_an_unmodified_program_runs_on_them(local_services: LocalServices) -> None:
    """By the environment alone, the SDK's default clients and a Redis URL lead to the local services."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    ran = subprocess.run(
        [sys.executable, "-c", HANDLER],
        env=clean | local_services.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout.strip(), ran.stderr) == ("served", "")


def test_only_what_is_wanted_is_started() -> None:
    """A service that was left out is not there, and is not in the environment."""
    with LocalServices(aws=False, athena=False) as services:
        assert "AWS_ENDPOINT_URL_S3" not in services.environment()
        assert services.environment()["REDIS_URL"] == services.valkey.url
        for use in (lambda: services.aws, lambda: services.athena, lambda: services.client("athena")):
            with pytest.raises(ServiceUnavailable, match="LocalServices"):
                use()


def test_athena_without_s3_is_refused() -> None:
    """Athena's tables are in S3, so asking for it alone is an error at once."""
    with pytest.raises(ValueError, match="aws=True"):
        LocalServices(aws=False)


IMPORTS = """
import sys
import tiered_cache.local
heavy = {"boto3", "botocore", "moto", "duckdb", "sqlglot", "redis", "valkey", "pytest"} & set(sys.modules)
assert not heavy, heavy
"""


def test_importing_the_package_loads_nothing_heavy() -> None:
    """The SDK, moto, DuckDB, sqlglot and redis are loaded when used, not when the package is imported."""
    subprocess.run([sys.executable, "-c", IMPORTS], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


@pytest.mark.parametrize("module", ["moto", "boto3"])
def test_a_missing_package_is_named_with_the_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without moto or boto3 the error says what to install."""
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"'{module}'.*tiered-cache\[local\]"), AWSServer() as server:
        server.client("s3")
