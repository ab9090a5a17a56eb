"""S3 and DynamoDB on loopback: moto's server, in a process of its own.

moto keeps everything in memory and answers the way AWS documents its APIs. It is no copy of AWS. Seen to be as AWS has
it: conditional GET and PUT (304, 412), versions, ranges, multipart ETags; GetItem, BatchGetItem with its limits of 100
keys and 16 MB (`UnprocessedKeys`), transactions, type errors, the item limit of 400 kB. Seen to differ (moto 5.2):

- It never throttles, is never slow and never eventually consistent; a table is ACTIVE at once; an item past its TTL
  stays.
- Any credentials do: no signature, policy or permission is checked.
- `ConsumedCapacity` says 0.5 for strongly consistent reads too (AWS: 1). BatchGetItem answers in the order asked; AWS
  in any.
- A conditional GET with `If-None-Match: *` gives the body; unquoted ETags match; a 304 carries the ETag only.
- It closes the connection after each answer, so a test of idle connections that went dead needs another server.
- Its Athena never runs SQL; `tiered_cache.local.athena` does.
"""

from __future__ import annotations

import sys
import urllib.request
from typing import TYPE_CHECKING, Any, Self

from tiered_cache.local._clients import Clients
from tiered_cache.local._needs import ServiceUnavailable, need
from tiered_cache.local._process import HOST, ChildProcess, start_server

if TYPE_CHECKING:
    from types import TracebackType


class AWSServer:
    """S3 and DynamoDB (and whatever else moto is installed for) at a free port of loopback, everything in memory.

    A context manager; or `start()` and `stop()`. The process ends with its parent. Raises ImportError naming the extra
    where moto is not installed, ServiceUnavailable where it does not start.

        with AWSServer() as aws:
            aws.client("s3").create_bucket(Bucket="data")
    """

    def __init__(self) -> None:
        self._child: ChildProcess | None = None
        self._port: int | None = None
        self._clients: Clients | None = None

    def start(self) -> Self:
        """Start the server, which takes about a second, and wait until it listens. Running already: nothing."""
        if self.running:
            return self
        self.stop()
        need("moto.server")
        self._child, self._port = start_server(
            "moto's server", _command, _ready, port=self._port, environment={"PYTHONUNBUFFERED": "1"}
        )
        self._clients = Clients(lambda _: self.url)
        return self

    def stop(self) -> None:
        """End the server and close the clients it gave. Twice does no harm."""
        clients, self._clients = self._clients, None
        if clients is not None:
            clients.close()
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    def reset(self) -> None:
        """Forget every bucket, table and object."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, whatever the environment says
        with opener.open(urllib.request.Request(f"{self.url}/moto-api/reset", method="POST"), timeout=10) as answer:
            answer.read()

    def client(self, service: str) -> Any:
        """The boto3 client for `service`, with dummy credentials and short timeouts; closed when the server stops."""
        if self._clients is None:
            raise ServiceUnavailable("this server is not started")
        return self._clients[service]

    @property
    def port(self) -> int:
        """The port. Raises ServiceUnavailable before the first start."""
        if self._port is None:
            raise ServiceUnavailable("this server was never started: use `with AWSServer() as aws:` or start()")
        return self._port

    @property
    def url(self) -> str:
        """The endpoint for every service: `http://127.0.0.1:<port>`."""
        return f"http://{HOST}:{self.port}"

    @property
    def running(self) -> bool:
        """True between start and stop, unless the process ended on its own."""
        return self._child is not None and self._child.running

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"AWSServer(port={self._port}, running={self.running})"


def _command(port: int) -> list[str]:
    return [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]


def _ready(port: int, child: ChildProcess) -> bool:
    # werkzeug writes its address once it is bound, so this cannot be another process's server at the same port
    return f"{HOST}:{port}" in child.log() and "in use" not in child.log()
