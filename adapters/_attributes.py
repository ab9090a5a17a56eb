"""DynamoDB's attribute values and Python's, exactly and both ways.

boto3's own `TypeDeserializer` wraps bytes in a class of its own and rounds numbers by a context, and importing it
imports boto3, which a request must not do; hence this table. A test holds it against boto3's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any, TypeAlias, cast

from tiered_cache._errors import ConfigurationError

Attribute: TypeAlias = dict[str, Any]
"""A value as the API writes it, such as `{"S": "a"}` or `{"N": "1"}`."""

Identity: TypeAlias = frozenset[tuple[str, object]]
"""A primary key, comparable with others."""

_DIGITS = 38
_KEY_TYPES = "a non-empty str, an int, a Decimal or non-empty bytes"


def attribute(where: str, value: object) -> Attribute:  # noqa: PLR0911 - one line for each type
    """`value` as DynamoDB writes it. `where` names the place for the error texts.

    Raises TypeError for a type that DynamoDB does not have, float above all, and ConfigurationError for a number out
    of range.
    """
    match value:
        case None:
            return {"NULL": True}
        case bool():
            return {"BOOL": value}
        case str():
            return {"S": value}
        case int() | Decimal():
            return {"N": _number(where, value)}
        case bytes() | bytearray():
            return {"B": bytes(value)}
        case list() | tuple():
            members = cast("Sequence[object]", value)
            return {"L": [attribute(f"{where}[{n}]", each) for n, each in enumerate(members)]}
        case dict():
            entries = cast("dict[object, object]", value).items()
            return {"M": {_name(where, name): attribute(f"{where}.{name}", each) for name, each in entries}}
        case set() | frozenset():
            return _set(where, cast("AbstractSet[object]", value))
        case float():
            raise TypeError(f"{where} is a float, which DynamoDB cannot hold exactly; write Decimal('...') instead")
        case _:
            raise TypeError(f"{where} is of type {type(value).__qualname__}, which DynamoDB does not have")


def _name(where: str, name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{where} has a key of type {type(name).__qualname__}; the keys of a map are str")
    return name


def _number(where: str, value: int | Decimal) -> str:
    number = Decimal(value)
    if not number.is_finite():
        raise ConfigurationError(f"{where} must be a finite number")
    digits = len("".join(map(str, number.as_tuple().digits)).strip("0"))
    if digits > _DIGITS or not (number == 0 or -130 <= number.adjusted() <= 125):
        raise ConfigurationError(f"{where} must have at most {_DIGITS} digits and lie within 1E-130 to 9.9E+125")
    return str(number)


def _set(where: str, values: AbstractSet[object]) -> Attribute:
    written = [attribute(f"a member of {where}", each) for each in values]
    tags = {tag for each in written for tag in each}
    if len(tags) != 1 or not tags <= {"S", "N", "B"}:
        raise TypeError(f"{where} must be a set of only str, only numbers or only bytes, and not empty")
    tag = tags.pop()
    return {f"{tag}S": [each[tag] for each in written]}


def key_attributes(where: str, key: object) -> dict[str, Attribute]:
    """The primary key `{"pk": "a"}` as DynamoDB writes it. Raises TypeError or ConfigurationError if it cannot be."""
    given = type(key).__qualname__ if key or not isinstance(key, Mapping) else "an empty one"
    if not isinstance(key, Mapping) or not key:
        raise TypeError(f'{where} must be a dict of the key attributes, such as {{"pk": "a"}}; got {given}')
    written: dict[str, Attribute] = {}
    for name, value in cast("Mapping[object, object]", key).items():
        place = f"{where}[{_name(where, name)!r}]"
        written[str(name)] = named = attribute(place, value)
        if not named.keys() <= {"S", "N", "B"}:
            raise TypeError(f"{place} must be {_KEY_TYPES}; got {type(value).__qualname__}")
        if value in ("", b""):
            raise ConfigurationError(f"{place} must be {_KEY_TYPES}; got an empty one")
    return written


def identity(key: Mapping[str, Attribute]) -> Identity:
    """`key`, so that equal keys are equal however they are written: 1, 1.0 and 1E0 are one number."""
    return frozenset((name, python(value)) for name, value in key.items())


def python(value: Attribute) -> Any:
    """The Python value of `value`. Raises an everyday error if it is not an attribute."""
    ((tag, given),) = value.items()
    return _PYTHON[tag](given)


def item(attributes: Mapping[str, Attribute]) -> dict[str, Any]:
    """An item in Python's types; raises as `python` does."""
    return {name: python(value) for name, value in attributes.items()}


def _list(values: Sequence[Attribute]) -> list[Any]:
    return [python(value) for value in values]


def _numbers(values: Sequence[str]) -> set[Decimal]:
    return {Decimal(value) for value in values}


def _nothing(_: object) -> None:
    return None


_PYTHON: dict[str, Callable[[Any], Any]] = {
    "S": str,
    "N": Decimal,
    "B": bytes,
    "BOOL": bool,
    "NULL": _nothing,
    "SS": set,
    "NS": _numbers,
    "BS": set,
    "L": _list,
    "M": item,
}
