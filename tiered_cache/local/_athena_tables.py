"""Athena's external tables: what their DDL says, and their objects brought from S3 into DuckDB."""

from __future__ import annotations

import itertools
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import duckdb
from sqlglot import exp

OPEN_CSV = "org.apache.hadoop.hive.serde2.OpenCSVSerde"
_PARQUET_SERDE = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
_DELIMITED_SERDE = "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe"
_KEPT = 3
"""How many states of one table stay loaded: a query that was planned on the last state but one can still run."""


class QueryFailed(Exception):
    """A query or statement that ends as FAILED; the text begins with Athena's name for the reason."""


@dataclass(frozen=True)
class Table:
    """An external table, as `CREATE EXTERNAL TABLE` states it. Columns are pairs of name and DuckDB type."""

    location: str
    columns: tuple[tuple[str, str], ...]
    parquet: bool = False
    quoted: bool = False
    delimiter: str = ","
    quote: str = '"'
    escape: str = ""
    skip: int = 0

    @classmethod
    def from_ddl(cls, create: exp.Create) -> Table:
        """Raises QueryFailed for what is not served here."""
        found = _properties(create)
        location = found.get("location")
        columns = tuple((c.name.lower(), _type(c)) for c in create.this.find_all(exp.ColumnDef))
        if not location or urlsplit(location).scheme != "s3" or not columns:
            raise QueryFailed(
                "NOT_SUPPORTED: only CREATE EXTERNAL TABLE with columns and LOCATION 's3://…' is served here"
            )
        if create.find(exp.PartitionedByProperty):
            raise QueryFailed("NOT_SUPPORTED: partitioned tables are not served here")
        serde = found.get("serde", "")
        form = found.get("format", "TEXTFILE").upper()
        if form not in ("TEXTFILE", "PARQUET") or serde not in ("", OPEN_CSV, _PARQUET_SERDE, _DELIMITED_SERDE):
            raise QueryFailed(f"NOT_SUPPORTED: only CSV and Parquet are served here, not {serde or form}")
        quoted = serde == OPEN_CSV
        return cls(
            location,
            columns,
            parquet=form == "PARQUET" or serde == _PARQUET_SERDE,
            quoted=quoted,
            delimiter=found.get("separatorchar" if quoted else "field.delim", ",").replace("\\t", "\t"),
            quote=found.get("quotechar", '"') if quoted else "",
            escape=found.get("escapechar", "") if quoted else found.get("escape.delim", ""),
            skip=int(found.get("skip.header.line.count", "0")),
        )


def _properties(create: exp.Create) -> dict[str, str]:
    """The statement's properties by name: Hive's own, SERDEPROPERTIES and TBLPROPERTIES alike."""
    found: dict[str, str] = {}
    for node in create.find_all(exp.Property):
        match node:
            case exp.LocationProperty():
                found["location"] = node.this.name
            case exp.FileFormatProperty():
                found["format"] = node.this.name
            case exp.RowFormatSerdeProperty():
                found["serde"] = node.this.name
            case exp.RowFormatDelimitedProperty():
                for option, name in (("fields", "field.delim"), ("escaped", "escape.delim")):
                    if node.args.get(option):
                        found[name] = node.args[option].name
            case _ if type(node) is exp.Property:
                found[node.name.lower()] = node.args["value"].name
            case _:
                pass
    return found


def _type(column: exp.ColumnDef) -> str:
    kind: str = column.args["kind"].sql("duckdb")
    return kind


class _Loaded(NamedTuple):
    """One state of a table's objects, as a table of DuckDB's."""

    name: str
    scanned: int


class Tables:
    """The tables' contents in `database`, read through the S3 client once per state of their objects (by ETag)."""

    def __init__(self, s3: Any, database: duckdb.DuckDBPyConnection) -> None:
        self._s3 = s3
        self._database = database
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._loaded: dict[Table, dict[tuple[tuple[str, str], ...], _Loaded]] = {}

    def load(self, table: Table) -> tuple[str, int]:
        """The DuckDB table that holds `table` as it is now, and the bytes of its objects. Raises QueryFailed."""
        objects = self._objects(table.location)
        state = tuple(sorted((key, etag) for key, etag, _ in objects))
        with self._lock:  # one load at a time: two queries that start together read the objects once
            states = self._loaded.setdefault(table, {})
            if state not in states:
                name = f"loaded_{next(self._numbers)}"
                self._read(table, name, [key for key, _, _ in objects])
                states[state] = _Loaded(name, sum(size for _, _, size in objects))
                while len(states) > _KEPT:
                    self._drop(states.pop(next(iter(states))))
            loaded = states[state]
        return loaded.name, loaded.scanned

    def _drop(self, old: _Loaded) -> None:
        with self._database.cursor() as cursor:
            cursor.execute(f"drop table {old.name}")

    def _objects(self, location: str) -> list[tuple[str, str, int]]:
        """Key, ETag and size of each object of the location, hidden ones (`_`, `.`) left out as Athena does."""
        bucket, prefix = bucket_and_key(location)
        prefix = prefix if not prefix or prefix.endswith("/") else prefix + "/"
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = [(o["Key"], o["ETag"], o["Size"]) for page in pages for o in page.get("Contents", ())]
        return [o for o in found if o[2] and not o[0].rpartition("/")[2].startswith(("_", "."))]

    def _read(self, table: Table, name: str, keys: list[str]) -> None:
        bucket, _ = bucket_and_key(table.location)
        columns = ", ".join(f"{_quoted(column)} {kind}" for column, kind in table.columns)
        with tempfile.TemporaryDirectory(prefix="tiered-cache-") as directory, self._database.cursor() as cursor:
            files = [self._fetch(bucket, key, Path(directory, f"{n}-{Path(key).name}")) for n, key in enumerate(keys)]
            cursor.execute(f"create table {name} ({columns})")
            if not files:
                return
            try:
                cursor.execute(f"insert into {name} {_parquet(table) if table.parquet else _csv(table)}", [files])
            except duckdb.Error as error:
                cursor.execute(f"drop table {name}")
                raise QueryFailed(f"HIVE_BAD_DATA: {first_line(error)}") from error

    def _fetch(self, bucket: str, key: str, path: Path) -> str:
        body = self._s3.get_object(Bucket=bucket, Key=key)["Body"]
        with path.open("wb") as file:
            file.writelines(body.iter_chunks(1 << 20))
        return str(path)


def _parquet(table: Table) -> str:
    return f"by name select {', '.join(_quoted(column) for column, _ in table.columns)} from read_parquet(?)"


def _csv(table: Table) -> str:
    r"""The objects read as text and cast to the columns' types.

    What a delimited row cannot mean is NULL, and so is `\N`; OpenCSVSerde fails on it. (Athena: SerDe reference.)
    """
    options = {
        "header": "false",
        "auto_detect": "false",
        "delim": _literal(table.delimiter),
        "quote": _literal(table.quote),
        "escape": _literal(table.escape or table.quote),
        "skip": str(table.skip),
        "nullstr": _literal("" if table.quoted else "\\N"),
        "null_padding": "true",
        "strict_mode": "false",
        "columns": "{" + ", ".join(f"{_literal(column)}: 'VARCHAR'" for column, _ in table.columns) + "}",
    }
    if table.quoted:
        del options["nullstr"]  # OpenCSVSerde knows no NULL
        options["force_not_null"] = "[" + ", ".join(_literal(column) for column, _ in table.columns) + "]"
    cast = "cast" if table.quoted else "try_cast"
    chosen = ", ".join(f"{cast}({_quoted(column)} as {kind})" for column, kind in table.columns)
    given = ", ".join(f"{name}={value}" for name, value in options.items())
    # Materialized, since DuckDB 2.0 moves a cast into the reading of the file, where try_cast fails like cast.
    return f"with fields as materialized (select * from read_csv(?, {given})) select {chosen} from fields"


def bucket_and_key(location: str) -> tuple[str, str]:
    """The bucket, and the key or prefix, of `s3://bucket/key`."""
    parts = urlsplit(location)
    return parts.netloc, parts.path.lstrip("/")


def first_line(error: Exception) -> str:
    """An engine's message without its drawing of the statement."""
    return str(error).strip().partition("\n")[0]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
