"""A scripted AWS, and settings that lead boto3 to it."""

from __future__ import annotations

import time
from random import Random
from typing import TYPE_CHECKING

import boto3
import pytest
from fault_server import FaultServer

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pauses:
    """The time as it would be if nothing took any but the pauses, which are over at once. The date is the true one."""

    time = staticmethod(time.time)

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets and timeouts are spent by pauses alone, which are drawn alike in each run."""
    clock = Pauses()
    for module in ("_athena_query", "_boto", "dynamodb"):
        monkeypatch.setattr(f"tiered_cache.adapters.{module}.time", clock)
    monkeypatch.setattr("tiered_cache.adapters._boto._random", Random(1))


@pytest.fixture
def aws_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials and a region from the environment alone, read afresh."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret-key",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def faults(aws_settings: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A scripted server that boto3 takes for S3, DynamoDB and Athena."""
    server = FaultServer()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    for service in ("S3", "DYNAMODB", "ATHENA"):
        monkeypatch.delenv(f"AWS_ENDPOINT_URL_{service}", raising=False)
    yield server
    server.close()
