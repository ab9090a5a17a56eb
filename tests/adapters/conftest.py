"""A scripted AWS, and settings that lead boto3 to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
import pytest
from fault_server import FaultServer

if TYPE_CHECKING:
    from collections.abc import Iterator


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
