"""The table from the SDK's errors to ours, and the clients that are made when they are needed."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions
import botocore.session
import pytest
from botocore.client import BaseClient
from botocore.exceptions import BotoCoreError, ClientError
from fault_server import CLOSED, HANG, HTML, FaultServer, json_error, json_reply

from tiered_cache._errors import (
    ClosedError,
    ConfigurationError,
    LoadTimeout,
    NotFound,
    OriginDenied,
    OriginError,
    OriginMalformed,
    OriginThrottled,
    TieredCacheError,
)
from tiered_cache._values import LoadContext
from tiered_cache.adapters import _boto
from tiered_cache.adapters._boto import Call, Clients, translated, unlimited, verdict
from tiered_cache.adapters.dynamodb import DynamoDBOrigin
from tiered_cache.adapters.s3 import S3Origin

if TYPE_CHECKING:
    from collections.abc import Callable

USED = {
    "s3": ["GetObject"],
    "dynamodb": ["GetItem", "BatchGetItem", "Query"],
    "athena": ["StartQueryExecution", "GetQueryExecution", "GetQueryResults", "StopQueryExecution"],
}
# Of paginators, waiters, stubs, request bodies, event streams and other services: no call made here can raise them.
IMPOSSIBLE = (
    "AliasConflictParameterError ApiVersionNotFoundError AwsChunkedWrapperError CapacityNotAvailableError "
    "EndpointVariantError InvalidExpressionError MD5UnavailableError OperationNotPageableError PaginationError "
    "RangeError StubAssertionError StubResponseError UnStubbedResponseError UndefinedModelAttributeError "
    "UnknownClientMethodError UnknownEndpointError UnknownFIPSEndpointError UnknownKeyError UnknownParameterError "
    "UnknownRegionError UnknownServiceStyle UnseekableStreamError WaiterConfigError WaiterError"
)
NO_ITEM = json_reply(ConsumedCapacity={"TableName": "users", "CapacityUnits": 0.5})
CALL = Call("GetItem", "table 'users'")


def client_error(code: str, status: int, headers: dict[str, str] | None = None) -> ClientError:
    answer: Any = {
        "Error": {"Code": code},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers or {}},
    }
    return ClientError(answer, "GetItem")


def modelled() -> list[str]:
    session = botocore.session.get_session()
    models = {service: session.get_service_model(service) for service in USED}
    shapes = [
        shape
        for service, names in USED.items()
        for name in names
        for shape in models[service].operation_model(name).error_shapes
    ]
    return sorted({shape.error_code for shape in shapes})


def sdk_classes() -> list[type[Exception]]:
    found = [each for each in vars(botocore.exceptions).values() if isinstance(each, type)]
    left_out = {"BotoCoreError", *IMPOSSIBLE.split()}
    return [each for each in found if issubclass(each, BotoCoreError) and each.__name__ not in left_out]


@pytest.mark.parametrize("code", modelled())
def test_each_error_in_the_models_of_the_used_operations_has_a_row(code: str) -> None:
    """Every error that a service model names for an operation we call is mapped by its code, not by chance."""
    assert code in _boto._BY_CODE


@pytest.mark.parametrize("kind", sdk_classes(), ids=lambda kind: kind.__name__)
def test_each_exception_of_botocore_has_a_row(kind: type[Exception]) -> None:
    """Every exception of botocore that a call can raise is mapped by a class nearer than the root of them all."""
    known = [base.__name__ for base in kind.__mro__ if base.__name__ in _boto._BY_CLASS]
    assert known
    assert known[0] != "BotoCoreError"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (client_error("SlowDown", 503), OriginThrottled),
        (client_error("ProvisionedThroughputExceededException", 400), OriginThrottled),
        (client_error("Unheard", 429), OriginThrottled),
        (client_error("AccessDenied", 403), OriginDenied),
        (client_error("ExpiredTokenException", 400), OriginDenied),
        (client_error("403", 403), OriginDenied),
        (client_error("InvalidObjectState", 403), OriginError),
        (client_error("NoSuchKey", 404), NotFound),
        (client_error("404", 404, {"x-amz-request-id": "r"}), NotFound),
        (client_error("404", 404), OriginMalformed),
        (client_error("NoSuchBucket", 404), ConfigurationError),
        (client_error("ResourceNotFoundException", 400), ConfigurationError),
        (client_error("301", 301), ConfigurationError),
        (client_error("Unheard", 500), OriginError),
        (client_error("Unheard", 400), OriginError),
        (client_error("Unheard", 200), OriginMalformed),
    ],
)
def test_a_service_error_becomes_ours(error: ClientError, kind: type[TieredCacheError]) -> None:
    """The service's code decides, and the HTTP status where the code is not known."""
    assert type(translated(error, CALL)) is kind


def test_a_text_names_operation_and_resource_and_nothing_that_the_service_said() -> None:
    """A service's free text and an unlikely code stay out of the error's text."""
    told = str(translated(client_error("<b>key=alice</b>", 400), CALL))
    assert "GetItem on table 'users'" in told
    assert "alice" not in told
    assert "HTTP 400" in told


def test_a_missing_region_names_the_variable(aws_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a region the first load says which variable to set."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigurationError, match="AWS_DEFAULT_REGION"):
        DynamoDBOrigin("users").item({"pk": "a"}).load(LoadContext("k"))


def test_missing_credentials_name_the_variables(faults: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the first load says what to set."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match="AWS_ACCESS_KEY_ID"):
        DynamoDBOrigin("users").item({"pk": "a"}).load(LoadContext("k"))
    assert not faults.requests


def test_a_missing_boto3_names_the_extra() -> None:
    """Where boto3 is not installed, importing and constructing work and the load names what to install."""
    code = (
        "import sys; sys.modules['boto3'] = None\n"
        "from tiered_cache.adapters.s3 import S3Origin\n"
        "from tiered_cache._values import LoadContext\n"
        "S3Origin('bucket').object('key').load(LoadContext('k'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'tiered-cache[aws]'" in done.stderr.splitlines()[-1]


def test_importing_and_constructing_import_no_sdk() -> None:
    """No origin imports boto3 before its first load, its requests included."""
    code = (
        "import sys, json\n"
        "from tiered_cache.adapters import s3, dynamodb, athena\n"
        "s3.S3Origin('bucket').object('k', json.loads)\n"
        "dynamodb.DynamoDBOrigin('table').query('pk = :p', {':p': 'a'})\n"
        "athena.AthenaOrigin(database='d').query('SELECT ?', (1,))\n"
        "print({'boto3', 'botocore', 'dataclasses', 'asyncio'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "make",
    [object, lambda: boto3.resource("dynamodb"), lambda: boto3.client("s3"), lambda: "dynamodb"],
    ids=["object", "resource", "other service", "text"],
)
def test_what_is_not_a_client_of_the_service_is_refused(make: Callable[[], object], aws_settings: None) -> None:
    """A client argument of another kind is a TypeError that says what to write."""
    given = make()
    with pytest.raises(TypeError, match=r"boto3\.client\('dynamodb'\)"):
        DynamoDBOrigin("users", given)
    close = getattr(given, "close", None) or getattr(getattr(given, "meta", None), "client", None)
    if close is not None:
        getattr(close, "close", close)()


def test_an_asynchronous_client_is_refused() -> None:
    """A client whose calls are coroutines cannot serve a synchronous loader."""

    class AsyncClient(BaseClient):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        async def _make_api_call(self, *_: Any) -> None: ...

    with pytest.raises(TypeError, match="asynchronous"):
        S3Origin("bucket", AsyncClient())


def test_a_passing_failure_is_tried_again_and_a_refusal_is_not(faults: FaultServer) -> None:
    """Three tries at most for throttling, and one for a denial."""
    origin = DynamoDBOrigin("users")
    faults.script(json_error("ThrottlingException"), json_error("InternalServerError", 500), NO_ITEM)
    with pytest.raises(NotFound):
        origin.item({"pk": "a"}).load(LoadContext("k"))
    assert len(faults.requests) == 3
    faults.script(json_error("AccessDeniedException"))
    with pytest.raises(OriginDenied):
        origin.item({"pk": "a"}).load(LoadContext("k"))
    assert len(faults.requests) == 4
    origin.close()


def test_nothing_is_sent_when_no_time_is_left(faults: FaultServer) -> None:
    """A load that cannot end in time is not started, with a client of ours or one handed in."""
    faults.script(HTML)
    client = boto3.client("dynamodb")
    for origin in (DynamoDBOrigin("users"), DynamoDBOrigin("users", client)):
        with pytest.raises(LoadTimeout):
            origin.item({"pk": "a"}).load(LoadContext("k", remaining=lambda: 0.0))
        origin.close()
    client.close()
    assert not faults.requests


def test_a_hanging_service_costs_no_more_than_the_time_left(faults: FaultServer) -> None:
    """A call takes the longest read timeout that fits the time left, and does not repeat what no longer fits."""
    faults.script(HANG)
    origin = DynamoDBOrigin("users")
    left = iter([0.4, 0.0])
    with pytest.raises(OriginError, match="no answer in time"):
        origin.item({"pk": "a"}).load(LoadContext("k", remaining=lambda: next(left)))
    faults.came(1)
    assert len(faults.requests) == 1
    assert [patience for _, patience in origin._clients._made] == [5 / 32]  # with its half for connecting, under 0.4
    origin.close()


def test_a_closed_connection_is_an_origin_error(faults: FaultServer) -> None:
    """A server that hangs up each time is a failure that passes."""
    faults.script(CLOSED)
    origin = DynamoDBOrigin("users")
    with pytest.raises(OriginError, match="could not be reached") as caught:
        origin.item({"pk": "a"}).load(LoadContext("k"))
    assert isinstance(caught.value.__cause__, BotoCoreError)
    origin.close()


def test_threads_share_one_client_and_a_fork_makes_its_own(faults: FaultServer) -> None:
    """Sixteen threads make one client; a child process does not use its parent's."""
    clients = Clients("s3", None, 5)
    with ThreadPoolExecutor(16) as pool:
        seen = set(pool.map(lambda _: id(clients.run(CALL, unlimited, lambda client: client)), range(64)))
    assert len(seen) == 1
    assert [pid for pid, _ in clients._made] == [os.getpid()]
    inherited = clients._made.pop((os.getpid(), 5.0))
    clients._made[os.getppid(), 5.0] = inherited  # as a child finds it
    assert clients.run(CALL, unlimited, lambda client: client) is not inherited
    clients.close()


def test_a_closed_origin_says_so_and_closing_twice_is_nothing(aws_settings: None) -> None:
    """After close() a load raises ClosedError; a second close() does nothing."""
    origin = S3Origin("bucket")
    origin.close()
    origin.close()
    with pytest.raises(ClosedError):
        origin.object("key").load(LoadContext("k"))


def test_expired_credentials_are_a_denial_that_names_no_credential(faults: FaultServer) -> None:
    """An expired token is OriginDenied, and neither the token nor the service's text is in the error's."""
    faults.script(json_error("ExpiredTokenException"))
    origin = DynamoDBOrigin("users")
    with pytest.raises(OriginDenied) as caught:
        origin.item({"pk": "alice"}).load(LoadContext("k"))
    told = str(caught.value)
    assert "table 'users'" in told
    assert not any(secret in told for secret in ("AKIDEXAMPLE", "secret", "alice"))
    assert verdict(caught.value.__cause__).passing is False  # type: ignore[arg-type]
    origin.close()
