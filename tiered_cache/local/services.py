"""All local services under one handle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tiered_cache.local import _clients
from tiered_cache.local._needs import ServiceUnavailable, need
from tiered_cache.local.athena import AthenaServer
from tiered_cache.local.aws import AWSServer
from tiered_cache.local.valkey import ValkeyServer

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")
_NONE = "there is no such service here: it takes LocalServices({}=True), and started"


class LocalServices:
    """Valkey, S3 with DynamoDB, and Athena, started side by side and stopped together.

    `redis`, `aws`, `athena`: which of them are wanted. Athena reads its tables from the local S3, and so needs `aws`.
    Raises at start what the services raise (ServiceUnavailable, ImportError), with none left running.
    """

    def __init__(self, *, redis: bool = True, aws: bool = True, athena: bool = True) -> None:
        if athena and not aws:
            raise ValueError("athena=True needs aws=True, since its tables and results are in the local S3")
        self._valkey = ValkeyServer() if redis else None
        self._aws = AWSServer() if aws else None
        self._wants_athena = athena
        self._athena: AthenaServer | None = None
        self._athena_clients: _clients.Clients | None = None

    def start(self) -> Self:
        """Start all that are wanted, which takes about one and a half seconds."""
        try:
            with ThreadPoolExecutor(3) as pool:
                wanted = [pool.submit(server.start) for server in (self._valkey, self._aws) if server is not None]
                if self._wants_athena:
                    wanted += [pool.submit(need, module) for module in ("duckdb", "sqlglot", "boto3")]
            for started in wanted:
                started.result()
            if self._wants_athena and self._athena is None:
                athena = self._athena = AthenaServer(self.aws.client("s3")).start()
                self._athena_clients = _clients.Clients(lambda _: athena.url)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop all. Twice does no harm."""
        clients, self._athena_clients = self._athena_clients, None
        athena, self._athena = self._athena, None
        for closed in (clients, athena):
            if closed is not None:
                closed.close()
        for server in (self._aws, self._valkey):
            if server is not None:
                server.stop()

    @property
    def valkey(self) -> ValkeyServer:
        """The Valkey or Redis server. Raises ServiceUnavailable where it was not asked for."""
        return _wanted("redis", self._valkey)

    @property
    def aws(self) -> AWSServer:
        """S3 and DynamoDB. Raises ServiceUnavailable where it was not asked for."""
        return _wanted("aws", self._aws)

    @property
    def athena(self) -> AthenaServer:
        """Athena. Raises ServiceUnavailable where it was not asked for, or is not started."""
        return _wanted("athena", self._athena)

    def client(self, service: str) -> Any:
        """The boto3 client for `"s3"`, `"dynamodb"` or `"athena"`; closed when the services stop."""
        if service == "athena":
            if self._athena_clients is None:
                raise ServiceUnavailable(_NONE.format("athena"))
            return self._athena_clients[service]
        return self.aws.client(service)

    def environment(self) -> dict[str, str]:
        """The environment variables by which the SDK, and a handler that reads `REDIS_URL`, find these services."""
        variables = {
            "AWS_ACCESS_KEY_ID": _clients.ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": _clients.SECRET_KEY,
            "AWS_DEFAULT_REGION": _clients.REGION,
            "AWS_REGION": _clients.REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        if self._aws is not None:
            variables["AWS_ENDPOINT_URL_S3"] = variables["AWS_ENDPOINT_URL_DYNAMODB"] = self._aws.url
        if self._athena is not None:
            variables["AWS_ENDPOINT_URL_ATHENA"] = self._athena.url
        if self._valkey is not None:
            variables["REDIS_URL"] = self._valkey.url
        return variables

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"LocalServices(redis={self._valkey!r}, aws={self._aws!r}, athena={self._athena!r})"


def _wanted(option: str, server: T | None) -> T:
    if server is None:
        raise ServiceUnavailable(_NONE.format(option))
    return server
