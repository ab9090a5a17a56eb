"""A local AWS to try the library on: Valkey or Redis, S3, DynamoDB, an Athena that runs SQL, and a Lambda that freezes.

    with LocalServices() as local:
        local.client("s3").create_bucket(Bucket="data")
        os.environ.update(local.environment())      # an unmodified handler module now runs on them

    with LocalLambda("app.handler", directory="src", environment=local.environment()) as function:
        function.invoke({"user": "ann"})            # ... or by the real runtime client, in a process of its own

Each service is a context manager of its own too, and a pytest fixture by `tiered_cache.local.pytest_plugin`. All listen
on free ports of loopback, are stopped by handle, and end with the process that started them. `pip install
'tiered-cache[local]'`.
"""

from __future__ import annotations

from tiered_cache.local._needs import ServiceUnavailable
from tiered_cache.local.athena import AthenaServer
from tiered_cache.local.aws import AWSServer
from tiered_cache.local.awslambda import LocalLambda
from tiered_cache.local.proxy import FaultProxy
from tiered_cache.local.services import LocalServices
from tiered_cache.local.valkey import ValkeyServer

__all__ = [
    "AWSServer",
    "AthenaServer",
    "FaultProxy",
    "LocalLambda",
    "LocalServices",
    "ServiceUnavailable",
    "ValkeyServer",
]
