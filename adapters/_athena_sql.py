"""What is checked and written before Athena is asked: the statement, its placeholders, and values as SQL literals."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, cast

from tiered_cache._errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST = 262_144  # bytes of a QueryString, https://docs.aws.amazon.com/athena/latest/APIReference/API_StartQueryExecution.html
_LONGEST_PARAMETER = 1024  # characters of one ExecutionParameter, the same page
_READS = ("SELECT", "WITH", "VALUES", "SHOW", "DESCRIBE", "EXPLAIN")
_OPAQUE = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/", re.DOTALL)


@lru_cache(maxsize=128)
def checked(sql: str) -> int:
    """The number of `?` placeholders in `sql`. Raises ConfigurationError unless it is one statement that only reads."""
    if not sql.strip():
        raise ConfigurationError("sql must not be empty")
    length = len(sql.encode(errors="replace"))
    if length > _LONGEST:
        raise ConfigurationError(f"sql must have at most {_LONGEST} bytes in UTF-8; got {length}")
    bare = _OPAQUE.sub(lambda found: " " if found[0].startswith(("--", "/*")) else "x", sql)
    first = re.match(r"[\s(]*([A-Za-z]*)", bare)
    if first is None or first[1].upper() not in _READS:
        raise ConfigurationError(f"sql must only read: its first word must be one of {', '.join(_READS)}")
    return bare.count("?")


def literals(sql: str, parameters: object) -> tuple[str, ...]:
    """`parameters` as the literals that Athena puts in place of the `?` of `sql`.

    Raises ConfigurationError if they are too few or too many, and TypeError for a type that has no literal.
    """
    if not isinstance(parameters, (tuple, list)):
        raise TypeError(f"parameters must be a tuple or list of values; got {type(parameters).__qualname__}")
    values = cast("Sequence[object]", parameters)
    wanted = checked(sql)
    if len(values) != wanted:
        raise ConfigurationError(f"sql has {wanted} placeholders (?), and {len(values)} parameters were given")
    return tuple(_literal(n, value) for n, value in enumerate(values))


def _literal(position: int, value: object) -> str:
    text = _written(position, value)
    if len(text) > _LONGEST_PARAMETER:
        raise ConfigurationError(
            f"parameters[{position}] must be a literal of at most {_LONGEST_PARAMETER} characters; it has {len(text)}"
        )
    return text


def _written(position: int, value: object) -> str:  # noqa: C901, PLR0911 - one line for each type
    match value:
        case None:
            return "NULL"
        case bool():
            return "TRUE" if value else "FALSE"
        case str():
            return "'" + value.replace("'", "''") + "'"
        case int():
            return str(int(value))
        case Decimal() if value.is_finite():
            return f"DECIMAL '{value:f}'"
        case float() if isfinite(value):
            text = repr(float(value))
            return text if "e" in text else f"{text}E0"  # 0.1 would be a decimal, 0.1E0 is a double
        case datetime():
            return f"TIMESTAMP '{_moment(value)}'"
        case date():
            return f"DATE '{value.isoformat()}'"
        case bytes() | bytearray():
            return f"X'{value.hex()}'"
        case Decimal() | float():
            raise ConfigurationError(f"parameters[{position}] must be a finite number")
        case _:
            allowed = "str, int, Decimal, float, bool, date, datetime, bytes or None"
            raise TypeError(f"parameters[{position}] must be {allowed}; got {type(value).__qualname__}")


def _moment(value: datetime) -> str:
    if value.tzinfo is None:
        return value.isoformat(sep=" ")
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ") + " UTC"
