"""Athena's results as rows: its CSV, which tells NULL from an empty string, and its types as Python's."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tiered_cache._errors import ConfigurationError, LoadTimeout, OriginMalformed, SizeLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tiered_cache.adapters._boto import Call

Cells: TypeAlias = list[str | None]
"""One row as text; None is NULL."""

_ROWS_BETWEEN_LOOKS = 1000

# Every value is in quotes, a quote inside is doubled, and NULL is nothing at all between two commas. Python's csv
# module cannot tell that from an empty string before 3.12.
_CELL = re.compile(r'(?:"((?:[^"]|"")*)")?(,|\r?\n)')


class Column(NamedTuple):
    """A result column's name and Athena's name of its type, without precision."""

    name: str
    type: str


def columns(result_set: Mapping[str, Any], call: Call) -> tuple[Column, ...]:
    """The columns of a GetQueryResults answer. Raises ConfigurationError if two share a name."""
    described: Sequence[Mapping[str, Any]] = result_set.get("ResultSetMetadata", {}).get("ColumnInfo", ())
    if not described:
        raise OriginMalformed(call.says("the answer does not describe its columns"))
    found = tuple(Column(each["Name"], re.sub(r"\(.*?\)", "", each["Type"]).lower()) for each in described)
    names = [column.name for column in found]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigurationError(call.says(f"two columns are named {twice!r}; give one another name with AS"))
    return found


def cells_of_page(result_set: Mapping[str, Any]) -> list[Cells]:
    """The rows of a GetQueryResults answer as text."""
    return [[cell.get("VarCharValue") for cell in row.get("Data", ())] for row in result_set.get("Rows", ())]


def cells_of_csv(text: str, call: Call) -> Iterator[Cells]:
    """The rows of a result file, its header first. Raises OriginMalformed if it is not Athena's CSV or is cut off."""
    row: Cells = []
    place = 0
    for cell in _CELL.finditer(text):
        if cell.start() != place:
            break
        place = cell.end()
        value = cell[1]
        row.append(value if value is None or '"' not in value else value.replace('""', '"'))
        if cell[2] != ",":
            yield row
            row = []
    if place != len(text) or row:
        raise OriginMalformed(call.says("the result file is cut off, or is not a CSV of Athena"))


def in_time(cells: Iterable[Cells], remaining: Callable[[], float | None], call: Call) -> Iterator[Cells]:
    """`cells`, with a look at the time after each thousand: a large result takes seconds. Raises LoadTimeout."""
    for number, row in enumerate(cells, 1):
        if not number % _ROWS_BETWEEN_LOOKS:
            left = remaining()
            if left is not None and left <= 0:
                raise LoadTimeout(call.says(f"time was up after {number} rows"))
        yield row


def rows(head: Sequence[Column], cells: Iterable[Cells], max_rows: int, call: Call) -> list[dict[str, Any]]:
    """The rows as dicts with Python values.

    Raises SizeLimitExceeded beyond `max_rows`, and OriginMalformed for a row that is too short or a value not of its
    type.
    """
    names = [column.name for column in head]
    readers = [_READERS.get(column.type, str) for column in head]
    found: list[dict[str, Any]] = []
    for row in cells:
        if len(row) != len(head):
            raise OriginMalformed(call.says(f"row {len(found) + 1} has {len(row)} values for {len(head)} columns"))
        if len(found) == max_rows:
            raise SizeLimitExceeded(
                call.says(f"the result has more than {max_rows} rows, the number that max_rows allows")
            )
        try:
            values = [None if text is None else read(text) for read, text in zip(readers, row, strict=True)]
        except (ValueError, ArithmeticError, LookupError) as error:
            raise OriginMalformed(
                call.says(f"row {len(found) + 1} has a value that is not of its column's type")
            ) from error
        found.append(dict(zip(names, values, strict=True)))
    return found


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text]


def _zoned(text: str) -> datetime:
    """Such as '2026-01-31 08:00:00.000 UTC', '... Europe/Berlin' or '... +01:00'."""
    moment, _, zone = text.rpartition(" ")
    naive = datetime.fromisoformat(moment)
    if zone in ("UTC", "Z"):
        return naive.replace(tzinfo=UTC)
    offset = re.fullmatch(r"([+-])(\d\d):(\d\d)", zone, re.ASCII)
    if offset is not None:
        distance = timedelta(hours=int(offset[2]), minutes=int(offset[3]))
        return naive.replace(tzinfo=timezone(distance if offset[1] == "+" else -distance))
    from zoneinfo import ZoneInfo

    return naive.replace(tzinfo=ZoneInfo(zone))


_READERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("tinyint", "smallint", "integer", "int", "bigint"), int),
    **dict.fromkeys(("float", "real", "double"), float),
    "decimal": Decimal,
    "boolean": _boolean,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timestamp": datetime.fromisoformat,
    "timestamp with time zone": _zoned,
    "varbinary": bytes.fromhex,
}
