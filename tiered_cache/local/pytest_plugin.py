"""The local services as pytest fixtures: `pytest_plugins = ["tiered_cache.local.pytest_plugin"]` in `conftest.py`.

Each server starts once per session, when a test first asks for it, and stops at the session's end. A local Lambda is
started by the test that asks for it, and stops at that test's end.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tiered_cache.local.athena import AthenaServer
from tiered_cache.local.aws import AWSServer
from tiered_cache.local.awslambda import LocalLambda
from tiered_cache.local.services import LocalServices
from tiered_cache.local.valkey import ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """A Valkey or Redis server for the session. Its keys are whatever the tests before left; see `valkey`."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> ValkeyServer:
    """The session's Valkey or Redis server without keys and scripts, running again if a test before killed it."""
    if valkey_server.running:
        valkey_server.resume()
    valkey_server.start()
    valkey_server.flush()
    return valkey_server


@pytest.fixture(scope="session")
def local_aws() -> Iterator[AWSServer]:
    """S3 and DynamoDB for the session. Name your buckets and tables apart, or call `local_aws.reset()`."""
    with AWSServer() as server:
        yield server


@pytest.fixture(scope="session")
def local_athena(local_aws: AWSServer) -> Iterator[AthenaServer]:
    """An Athena for the session, over the S3 of `local_aws`."""
    with AthenaServer(local_aws.client("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def local_services() -> Iterator[LocalServices]:
    """All services for the session under one handle: its own servers, apart from those of the other fixtures."""
    with LocalServices() as services:
        yield services


@pytest.fixture
def local_lambda() -> Iterator[Callable[..., LocalLambda]]:
    """Starts a function on a local Lambda: `local_lambda("app.handler", directory="src")`, with LocalLambda's options."""
    with ExitStack() as started:

        def start(handler: str, **options: Any) -> LocalLambda:
            return started.enter_context(LocalLambda(handler, **options))

        yield start
