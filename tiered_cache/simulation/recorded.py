"""Traffic that was recorded: a CSV file with a line for each request."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import UTC, datetime
from math import isfinite
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from tiered_cache._errors import ConfigurationError
from tiered_cache._units import shown, whole

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence
    from pathlib import Path

TIMES = ("timestamp", "time")
SIZES = ("bytes", "size")
"""Names that the columns may have."""
ENCODING = "utf-8-sig"
"""UTF-8, with or without the mark that some programs begin a file with."""
MOST_BYTES = 10**15
"""Of one value; a column with more in it is of something else."""
LATEST = 1e11
"""Seconds, three thousand years: times beyond are of a smaller unit."""


class Recorded(NamedTuple):
    """What a file holds.

    requests: (seconds since the first, key), in the order of time. sizes: of each key, the largest that was recorded, or
    the mean of the others' where none was; empty where none was of any key. spread: whether the file has whole seconds alone,
    so that the requests of each are spread over it.
    """

    requests: tuple[tuple[float, str], ...]
    sizes: Mapping[Hashable, int]
    spread: bool


def read_requests(path: Path) -> Recorded:
    """The requests in a CSV file whose header names the columns timestamp and key, and perhaps bytes.

    timestamp: seconds or ISO 8601, in any order. Raises ConfigurationError, which says what is wrong with the file.
    """
    try:
        with path.open(encoding=ENCODING, newline="") as lines:
            reader = csv.DictReader(lines)
            time = _column(reader, TIMES)
            size = next((name for name in SIZES if name in (reader.fieldnames or ())), None)
            _column(reader, ("key",))
            rows = [
                (_second(row[time], time), row["key"], _bytes(row[size]) if size else None)
                for row in whole_rows(reader)
            ]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise ConfigurationError(f"trace must be a CSV file of requests; {path} is not: {error}") from error
    if not rows:
        raise ConfigurationError(f"trace must hold at least one request; {path} holds none")
    rows.sort(key=lambda row: row[0])
    first = rows[0][0]
    if first == rows[-1][0]:
        count = "its only request" if len(rows) == 1 else f"all of its {len(rows):,} requests"
        raise ConfigurationError(f"trace must last for some time; {path} has {count} at one moment, {shown(first)}")
    moments = [row[0] for row in rows]
    spread = _is_of_whole_seconds(moments)
    if spread:
        moments = _spread(moments)
    requests = tuple((moment - moments[0], row[1]) for moment, row in zip(moments, rows, strict=True))
    return Recorded(requests, _sizes(rows), spread)


def _is_of_whole_seconds(moments: Sequence[float]) -> bool:
    """Whether nothing finer is told, and that matters, since some requests would come at one moment."""
    return all(moment.is_integer() for moment in moments) and len(set(moments)) < len(moments)


def _spread(moments: Sequence[float]) -> list[float]:
    """The same in their order, those of each second at moments within it, by chance: the same at each call."""
    uniform = Random("within their seconds").random  # noqa: S311  # a simulation is to be repeatable
    return [
        second + part for second, count in Counter(moments).items() for part in sorted(uniform() for _ in range(count))
    ]


def _sizes(rows: Sequence[tuple[float, str, int | None]]) -> dict[Hashable, int]:
    sizes: dict[Hashable, int] = {}
    for _, key, size in rows:
        if size is not None:
            sizes[key] = max(size, sizes.get(key, 0))
    if sizes:
        mean = round(sum(sizes.values()) / len(sizes))
        for _, key, _ in rows:
            sizes.setdefault(key, mean)
    return sizes


def whole_rows(reader: csv.DictReader[str]) -> Iterator[dict[str, str]]:
    """The rows. Raises ValueError, which names the line, for one with other columns than the header, or without a key."""
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"line {reader.line_num} has another number of columns than the header")
        if not row["key"]:
            raise ValueError(f"line {reader.line_num} has an empty key")
        yield row


def _column(reader: csv.DictReader[str], names: tuple[str, ...]) -> str:
    named = reader.fieldnames or ()
    found = next((name for name in names if name in named), None)
    if found is None:
        raise ValueError(f"its header must name a column {' or '.join(map(repr, names))}; it names {', '.join(named)}")
    return found


def moment(text: str) -> float:
    """Seconds or ISO 8601 as seconds; of UTC, where it names no zone, as access logs do. Raises ValueError for anything else."""
    try:
        seconds = float(text)
    except ValueError:
        told = datetime.fromisoformat(text)
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    if not isfinite(seconds):
        raise ValueError(f"a time must be finite; got {shown(text)}")
    return seconds


def _second(text: str, column: str) -> float:
    seconds = moment(text)
    if not abs(seconds) <= LATEST:
        raise ValueError(
            f"{column} must be ISO 8601 or seconds, at most {LATEST:,.0f}; got {shown(text)}, which may be milliseconds"
        )
    return seconds


def _bytes(text: str) -> int | None:
    """The size in `text`, None where there is none."""
    return whole("a size in bytes", int(text), least=0, most=MOST_BYTES) if text else None
