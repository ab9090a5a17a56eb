"""Durations, sizes and counts in every form a user may write them, turned into plain numbers or refused with a reason."""

from __future__ import annotations

from math import inf, isfinite
from typing import TYPE_CHECKING, TypeAlias, Union

from tiered_cache._errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import timedelta

Duration: TypeAlias = Union[float, str, "timedelta"]
"""Seconds as int or float, a `timedelta`, or text such as `"90s"`, `"5m"`, `"1h30m"`, `"1d"`."""

Size: TypeAlias = int | str
"""Bytes as int, or text such as `"64 MiB"` (binary units) or `"64 MB"` (decimal units)."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_DURATION_FORMS = 'seconds as a number, a timedelta, or text such as "90s", "5m", "1h30m", "1d"'
_SIZE_FORMS = 'bytes as an int, or text such as "64 MiB"'


def seconds(name: str, given: object, *, zero: bool = False) -> float:
    """Seconds in `given`, the value of the option `name`.

    Finite and above zero, or zero too where `zero` is set. Raises ConfigurationError for anything else, bool included.
    """
    number = _seconds(given)
    if number is None or not isfinite(number) or number < 0 or (number == 0 and not zero):
        bound = "zero or more" if zero else "above zero"
        raise ConfigurationError(f"{name} must be a finite duration {bound}: {_DURATION_FORMS}; got {shown(given)}")
    return number


def _seconds(given: object) -> float | None:
    if isinstance(given, bool):
        return None
    if isinstance(given, int | float):
        try:
            return float(given)
        except OverflowError:
            return None
    if isinstance(given, str):
        return _parts(given, _SECONDS)
    return _total_seconds(given)


def _total_seconds(given: object) -> float | None:
    from datetime import timedelta  # only who gives one needs it, and a cold start should not pay for it

    return given.total_seconds() if isinstance(given, timedelta) else None


def size(name: str, given: object) -> int:
    """Bytes in `given`, the value of the option `name`. Raises ConfigurationError unless it is at least one byte."""
    number: float | None = None
    if isinstance(given, int) and not isinstance(given, bool):
        number = given
    elif isinstance(given, str):
        number = _parts(given, _BYTES, once=True)
    if number is None or not 1 <= number < inf or number != int(number):
        raise ConfigurationError(f"{name} must be a size of at least one byte: {_SIZE_FORMS}; got {shown(given)}")
    return int(number)


def _parts(text: str, units: dict[str, float] | dict[str, int], *, once: bool = False) -> float | None:
    """Sum of `text` read as number-unit pairs, or None where it is not that. ("1h30m" has two pairs.)"""
    import re  # only text forms need it, and a cold start should not pay for it

    pair = r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)"
    pairs = re.findall(pair, text, re.ASCII)
    rest = re.sub(pair, "", text, flags=re.ASCII)  # matching the whole at once could take exponential time
    if not pairs or rest.strip() or (once and len(pairs) != 1):
        return None
    names = [unit.lower() for _, unit in pairs]
    if len(set(names)) != len(names) or any(name not in units for name in names):
        return None
    return sum(float(number) * units[name] for (number, _), name in zip(pairs, names, strict=True))


def shown(given: object) -> str:
    """`given` for an error text: its repr if that is short and of a harmless type, else its type alone."""
    if isinstance(given, int) and given.bit_length() > 128:
        return "an int of more than 128 bits"  # Python refuses to write out the very long
    if given is None or isinstance(given, bool | int | float):
        return repr(given)
    if isinstance(given, str) and len(given) <= 40:
        return repr(given)
    return f"an object of type {type(given).__qualname__}"


def whole(name: str, given: object, *, least: int, most: int | None = None) -> int:
    """A whole number in [least, most]. Raises ConfigurationError."""
    if isinstance(given, int) and not isinstance(given, bool) and least <= given and (most is None or given <= most):
        return given
    bound = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise ConfigurationError(f"{name} must be a whole number {bound}; got {shown(given)}")
