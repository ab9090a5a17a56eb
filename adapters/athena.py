"""Athena queries as loaders: the rows as a list of dicts with Python types.

lake = AthenaOrigin(database="sales", output_location="s3://my-results/cache/")
cache.get_or_load("mapping", lake.query("SELECT id, name FROM customers WHERE region = ?", ("eu",)))
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, final

from tiered_cache._errors import ConfigurationError
from tiered_cache._units import seconds, shown, size
from tiered_cache.adapters._athena_query import QueryRequest
from tiered_cache.adapters._athena_service import Service, Where
from tiered_cache.adapters._athena_sql import literals
from tiered_cache.adapters._boto import Clients

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._units import Duration, Size

_LOCATION = re.compile(r"s3://[^/\s]{3,}(/\S*)?", re.ASCII)


@final
class AthenaOrigin:
    """One database by way of one workgroup.

    Needs `athena:StartQueryExecution`, `GetQueryExecution`, `GetQueryResults`, `StopQueryExecution` on the workgroup,
    `glue:GetTable`, `glue:GetPartitions` and `glue:GetDatabase` on the tables, `s3:GetObject` and `s3:ListBucket` on
    their data, and `s3:GetObject`, `s3:PutObject`, `s3:GetBucketLocation` on the output location.

    output_location: `s3://bucket/prefix/`; not needed where the workgroup has one or manages its results.
    client, s3_client: boto3 clients, used as they are; by default made at the first load.
    max_rows, max_bytes: larger results raise SizeLimitExceeded.
    timeout: the longest that one blocking load waits for its query; the time that the load has left cuts it further.
    read_timeout: the longest wait for any one piece of an answer.

    Raises ConfigurationError or TypeError for an argument that cannot mean anything.
    """

    __slots__ = ("_collected", "_service", "catalog", "database", "output_location", "workgroup")

    def __init__(
        self,
        *,
        database: str,
        workgroup: str = "primary",
        output_location: str | None = None,
        client: Any = None,
        s3_client: Any = None,
        catalog: str | None = None,
        max_rows: int = 1_000_000,
        max_bytes: Size = "64 MiB",
        timeout: Duration = "30m",
        read_timeout: Duration = 5,
    ) -> None:
        for name, given in (("database", database), ("workgroup", workgroup), ("catalog", catalog)):
            if not (isinstance(given, str) and given.strip()) and not (name == "catalog" and given is None):
                raise ConfigurationError(f"{name} must be a non-empty str; got {shown(given)}")
        if output_location is not None and (
            not isinstance(output_location, str) or not _LOCATION.fullmatch(output_location)  # pyright: ignore[reportUnnecessaryIsInstance] untyped callers
        ):
            raise ConfigurationError(
                f"output_location must be like 's3://bucket/prefix/'; got {shown(output_location)}"
            )
        if isinstance(max_rows, bool) or not isinstance(max_rows, int) or max_rows < 1:  # pyright: ignore[reportUnnecessaryIsInstance] untyped callers
            raise ConfigurationError(f"max_rows must be a whole number of at least 1; got {shown(max_rows)}")
        self.database = database
        self.workgroup = workgroup
        self.catalog = catalog
        self.output_location = output_location
        where = Where(database, catalog, workgroup, output_location)
        self._collected: dict[str, None] = {}
        self._service = Service(
            athena=Clients("athena", client, read_timeout),
            s3=Clients(
                "s3", s3_client, read_timeout, argument="s3_client", response_checksum_validation="when_required"
            ),
            where=where,
            max_rows=max_rows,
            max_bytes=size("max_bytes", max_bytes),
            timeout=seconds("timeout", timeout),
        )

    def query(
        self,
        sql: str,
        parameters: tuple[Any, ...] | list[Any] = (),
        *,
        decode: Callable[[list[dict[str, Any]]], Any] = list,
        resumable: bool = False,
        wait: Duration = 2,
        bucket_seconds: float = 60,
    ) -> QueryRequest:
        """The loader of one query's rows.

        sql: one statement that reads. A `?` outside of quotes and comments stands for a parameter.
        parameters: str, int, Decimal, float, bool, date, datetime, bytes or None; sent beside the SQL, never inside it.
        decode: makes the value of the rows, such as a dict by one column.
        resumable: the query outlives a load that is too short for it. A call waits for at most `wait` (not at all
            where a stale value can be served meanwhile; and in all, where another container looks at the query too),
            then the load answers 'pending', and a later load of the same key, in any container, takes the query up.
            By default a load waits for its query and stops it when its time is up.
        bucket_seconds: loads that start the same query within the same so many seconds share one execution, so a load
            may get data that old. Not with one from before an invalidation that this container knows of; where L2 is
            not there or not in reach, none is known. 0: each load runs its own.

        Raises ConfigurationError or TypeError for a statement or parameters that Athena could not accept.
        """
        if not isinstance(sql, str):  # pyright: ignore[reportUnnecessaryIsInstance] untyped callers
            raise TypeError(f"sql must be a str; got {shown(sql)}")
        if not callable(decode):
            raise TypeError(f"decode must be callable with the list of rows; got {shown(decode)}")
        return QueryRequest(
            self._service,
            self._collected,
            sql,
            literals(sql, parameters),
            decode,
            resumable=bool(resumable),
            wait=seconds("wait", wait, zero=True),
            bucket_seconds=seconds("bucket_seconds", bucket_seconds, zero=True),
        )

    def close(self) -> None:
        """Close the connections. Clients that were handed in stay open. Later loads raise ClosedError."""
        self._service.athena.close()
        self._service.s3.close()

    def __repr__(self) -> str:
        return f"AthenaOrigin(database={self.database!r}, workgroup={self.workgroup!r})"
