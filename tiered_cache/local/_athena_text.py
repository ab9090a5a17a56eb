"""Values as Athena writes them: the text of each type, the type's name and figures, and the CSV of a result."""

from __future__ import annotations

import datetime as dt
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

# DuckDB's name of a type: Athena's name, and the precision that GetQueryResults reports for it.
_TYPES = {
    "TINYINT": ("tinyint", 3),
    "SMALLINT": ("smallint", 5),
    "INTEGER": ("integer", 10),
    "BIGINT": ("bigint", 19),
    "HUGEINT": ("bigint", 19),  # DuckDB widens sum(bigint), Athena does not
    "FLOAT": ("float", 17),
    "DOUBLE": ("double", 17),
    "BOOLEAN": ("boolean", 0),
    "DATE": ("date", 0),
    "TIME": ("time", 3),
    "TIMESTAMP": ("timestamp", 3),
    "TIMESTAMP WITH TIME ZONE": ("timestamp with time zone", 3),
    "BLOB": ("varbinary", 1_073_741_824),
    "VARCHAR": ("varchar", 2_147_483_647),
}


class Column(NamedTuple):
    """A column of a result: its name, and its type as Athena says it."""

    name: str
    type: str
    precision: int = 0
    scale: int = 0

    @classmethod
    def of(cls, name: str, engine_type: str) -> Column:
        """The column that Athena would report for DuckDB's type of that name."""
        if decimal := re.fullmatch(r"DECIMAL\((\d+),\s*(\d+)\)", engine_type):
            return cls(name, "decimal", int(decimal[1]), int(decimal[2]))
        if engine_type.endswith("]"):
            return cls(name, "array")
        if engine_type.startswith(("STRUCT", "ROW")):
            return cls(name, "row")
        if engine_type.startswith("MAP"):
            return cls(name, "map")
        if engine_type.startswith("TIMESTAMP_"):
            engine_type = "TIMESTAMP"
        return cls(name, *_TYPES.get(engine_type, _TYPES["VARCHAR"]))

    def info(self) -> dict[str, Any]:
        """The `ColumnInfo` of `GetQueryResults`."""
        return {
            "CatalogName": "hive",
            "SchemaName": "",
            "TableName": "",
            "Name": self.name,
            "Label": self.name,
            "Type": self.type,
            "Precision": self.precision,
            "Scale": self.scale,
            "Nullable": "UNKNOWN",
            "CaseSensitive": self.type == "varchar",
        }


def texts(columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> list[list[str | None]]:
    """Every value of `rows` as Athena's text, with None for NULL."""
    write = [_WRITERS.get(column.type, text) for column in columns]
    return [
        [None if value is None else one(value) for one, value in zip(write, row, strict=True)] for row in rows
    ]  # a list of functions by column, since a look at each value's type would double the time


def csv(rows: Iterable[Sequence[str | None]]) -> bytes:
    """A result file: every value in quotes, a quote doubled, NULL as nothing at all (an empty string is `""`)."""
    lines = (",".join(["" if value is None else f'"{_doubled(value)}"' for value in row]) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def _doubled(value: str) -> str:
    return value.replace('"', '""') if '"' in value else value


def text(value: Any) -> str:
    """One value of any type, inside an array, row or map too (where NULL is written `null`)."""
    for kind, write in _BY_CLASS:
        if isinstance(value, kind):
            return write(value)
    return str(value)


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _double(value: float) -> str:
    """As Java's Double.toString: plain from 0.001 up to 10,000,000, else in scientific notation."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value) if "e" not in repr(value) else f"{Decimal(repr(value)):f}"
    sign, digits, exponent = Decimal(repr(value)).as_tuple()
    assert isinstance(exponent, int)
    figures = "".join(map(str, digits))
    shift = exponent + len(figures) - 1
    return f"{'-' * sign}{figures[0]}.{figures[1:].rstrip('0') or '0'}E{shift}"


def _decimal(value: Decimal) -> str:
    return f"{value:f}"


def _timestamp(value: dt.datetime) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S}.{value.microsecond // 1000:03d}"


def _instant(milliseconds: int) -> str:
    """A timestamp with time zone, which the engine hands over as milliseconds since 1970."""
    return _timestamp(dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=milliseconds)) + " UTC"


def _time(value: dt.time) -> str:
    return f"{value:%H:%M:%S}.{value.microsecond // 1000:03d}"


def _bytes(value: bytes) -> str:
    return value.hex(" ")


def _inner(value: Any) -> str:
    return "null" if value is None else text(value)


def _array(value: Iterable[Any]) -> str:
    return f"[{', '.join(map(_inner, value))}]"


def _map(value: dict[Any, Any]) -> str:
    return "{" + ", ".join(f"{_inner(key)}={_inner(held)}" for key, held in value.items()) + "}"


_WRITERS: dict[str, Callable[[Any], str]] = {
    "varchar": str,
    "tinyint": str,
    "smallint": str,
    "integer": str,
    "bigint": str,
    "date": str,
    "boolean": _boolean,
    "double": _double,
    "float": _double,
    "decimal": _decimal,
    "timestamp": _timestamp,
    "timestamp with time zone": _instant,
    "time": _time,
    "varbinary": _bytes,
}

# bool before any number, datetime before date: the subclass first
_BY_CLASS: tuple[tuple[type | tuple[type, ...], Callable[[Any], str]], ...] = (
    (bool, _boolean),
    (str, str),
    (int, str),
    (float, _double),
    (Decimal, _decimal),
    (dt.datetime, _timestamp),
    (dt.time, _time),
    ((bytes, bytearray), _bytes),
    ((list, tuple), _array),
    (dict, _map),
)
