"""boto3 clients for local endpoints: dummy credentials, short timeouts, closed together."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from tiered_cache.local._needs import need

if TYPE_CHECKING:
    from collections.abc import Callable

REGION = "us-east-1"
ACCESS_KEY = "local"
SECRET_KEY = "local-secret"  # no secret: the local services accept any


def new_client(service: str, endpoint: str, *, read_timeout: float = 30.0) -> Any:
    """A boto3 client for `service` at `endpoint`: 5 s to connect, `read_timeout` to read, no retries, no proxy."""
    config = need("botocore.config").Config(
        connect_timeout=5.0,
        read_timeout=read_timeout,
        retries={"mode": "standard", "total_max_attempts": 1},
        proxies={},  # loopback, whatever HTTP_PROXY says
        max_pool_connections=50,
        s3={"addressing_style": "path"},
    )
    session = need("boto3").session.Session(
        aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY, region_name=REGION
    )
    return session.client(service, endpoint_url=endpoint, config=config)


class Clients:
    """One client per service, made when first asked for. `endpoint(service)` says where it is."""

    def __init__(self, endpoint: Callable[[str], str]) -> None:
        self._endpoint = endpoint
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __getitem__(self, service: str) -> Any:
        with self._lock:
            if service not in self._made:
                self._made[service] = new_client(service, self._endpoint(service))
            return self._made[service]

    def close(self) -> None:
        """Close every client that was made."""
        with self._lock:
            made, self._made = self._made, {}
        for client in made.values():
            client.close()
