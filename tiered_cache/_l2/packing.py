"""The work of `MsgpackCodec`, apart from it so that msgpack is imported only when a value is carried.

Plain values (None, bool, int up to 64 bits, float, str, bytes, list, dict) are plain msgpack and never leave C.
The rest:

| code | type | data |
| --- | --- | --- |
| 1, 2, 3 | tuple, set, frozenset | none: the first item of an array, saying what the array stands for |
| 4 | wrapper | a whole value in which arrays are marked so |
| 5 | int beyond 64 bits | two's complement, big-endian |
| 6 | Decimal | its text |
| 7, 8, 9 | date, time, datetime | ISO 8601 text, or `text|fold|zone` where that alone does not say all |
| 10 | timedelta | days, seconds, microseconds as three int32, big-endian |
| 11 | UUID | 16 bytes |

A zone is a zoneinfo key, or `=microseconds` or `=microseconds=name` for a fixed offset, or empty.

Arrays are marked, and not nested in extensions, so that depth costs no recursion in either direction. The wrapper is
there so that only values with tuples or sets in them pay for the look at each array.

What stands in L2 may have been made to do harm. Numbers, UUIDs, tuples and frozensets have hashes that can be chosen, and
a dict of keys that collide takes time by the square of their number. Texts and bytes have not, so dicts of those are read
in C; where there are other keys, and for sets, what their comparisons may take is added up before they are made.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import date, datetime, time, timedelta, timezone
from decimal import Context, Decimal, InvalidOperation
from itertools import chain
from struct import Struct
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgpack  # pyright: ignore[reportMissingTypeStubs]  # msgpack ships no types

from tiered_cache._errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DEPTH_LIMIT: Final = 1024
"""Levels of containers in one value: what msgpack's C packer and unpacker both take."""

_PATH_LIMIT: Final = 200
_TIMEDELTA: Final = Struct(">3i")
_MICROSECOND: Final = timedelta(microseconds=1)
_STRICT: Final = Context(traps=[InvalidOperation])
"""For texts that are no number: the caller's own context may let them pass as NaN."""
_COMPARISONS: Final = 1_000_000
_COMPARISONS_PER_BYTE: Final = 8
"""What colliding keys may take to read. Real ones take less: -1 and -2 collide, and so do tuples of them."""
_QUICK_INT: Final = 256
"""Bits; an int compared with a Decimal is made one first, which takes time by the square of its length."""

_untyped: Any = msgpack
_packb: Callable[..., bytes] = _untyped.packb
_unpackb: Callable[..., Any] = _untyped.unpackb
_extension: Callable[[int, bytes], Any] = _untyped.ExtType

_TUPLE: Final = _extension(1, b"")
_SET: Final = _extension(2, b"")
_FROZENSET: Final = _extension(3, b"")
_WRAPPER: Final = 4
_MARKS: Final = (b"\xc7\x00\x01", b"\xc7\x00\x02", b"\xc7\x00\x03")
"""Those three as packed. Found by chance in other data, they cost a wrapper that was not needed."""
_EXTENSION_HEADS: Final = frozenset([*range(0xC7, 0xCA), *range(0xD4, 0xD9)])
_TELLTALES: Final = (*range(0xC4, 0xC7), *sorted(_EXTENSION_HEADS))
"""First bytes of the binary and extension forms. Where none occurs, nothing but plain msgpack types was packed."""


def pack(value: Any) -> bytes:
    """`value` as msgpack. Raises SerializationError, which says what cannot be carried, where it is and what to do."""
    try:
        packed = _packb(
            value, default=_dressed, strict_types=True
        )  # bounds the depth: what follows walks a finite tree
        if any(byte in packed for byte in _TELLTALES) and not _kinds_inside(value) <= _CARRIED:
            failure = "of a type inside it"
        elif any(mark in packed for mark in _MARKS):
            return _packb(_extension(_WRAPPER, packed))
        else:
            return packed
    except Exception as error:  # noqa: BLE001 - whatever a foreign type raises; its text may show the value
        failure = f"of {type(error).__name__}"
    raise SerializationError(_refusal(value, failure))


def _kinds_inside(value: Any) -> set[type[Any]]:
    """The types of `value` and of all that it contains, level by level at C speed.

    Needed since msgpack takes a bytearray, a memoryview or one of its own types without asking.
    """
    kinds: set[type[Any]] = {type(value)}
    holders: list[Any] = [value] if type(value) in _CONTAINERS else []
    while holders:
        dicts: list[dict[Any, Any]] = [holder for holder in holders if type(holder) is dict]
        others: list[Iterable[Any]] = [holder for holder in holders if type(holder) is not dict]
        holders = []
        for groups in (dicts, [entries.values() for entries in dicts], others):
            found = set(map(type, chain.from_iterable(groups)))
            kinds |= found
            if not found.isdisjoint(_CONTAINERS):
                holders += [part for part in chain.from_iterable(groups) if type(part) in _CONTAINERS]
    return kinds


def _dressed(value: Any) -> Any:
    """What stands on the wire for a value that msgpack asks about."""
    return _DRESS[type(value)](value)


def _int_bytes(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _moment_text(value: time | datetime) -> str:
    """ISO 8601, and after it what that leaves out: the fold, and a zone's key or a fixed offset's name."""
    zone = value.tzinfo
    suffix = "" if zone is None else _fixed_zone(zone) if type(zone) is timezone else _zone_key(zone)
    if not suffix and not value.fold:
        return value.isoformat()
    return f"{value.replace(tzinfo=None).isoformat() if suffix else value.isoformat()}|{value.fold}|{suffix}"


def _fixed_zone(zone: timezone) -> str:
    """Empty for what ISO 8601 tells: an offset without a name, in whole seconds (fromisoformat may lose the rest)."""
    offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]  # typeshed leaves out this part of pickling
    return "=".join(["", str(offset // _MICROSECOND), *name]) if name or offset.microseconds else ""


def _zone_key(zone: Any) -> str:
    from zoneinfo import ZoneInfo  # only zones that are not fixed need it

    if type(zone) is not ZoneInfo or not zone.key or zone.key.startswith("="):
        raise _ZoneError(type(zone).__qualname__)
    zone.__reduce__()  # raises for a zone that was read from a file, which its key does not bring back
    return zone.key


class _ZoneError(ValueError):
    """A time zone that neither an offset nor a key describes."""


def _moment(read: Callable[[str], Any], data: bytes) -> Any:
    text = data.decode()
    if "|" not in text:
        return read(text)
    plain, fold, zone = text.split("|", 2)
    moment = read(plain)
    return moment.replace(fold=int(fold), tzinfo=_zone(zone) if zone else moment.tzinfo)


def _zone(text: str) -> Any:
    if text.startswith("="):
        _, offset, *name = text.split("=", 2)
        return timezone(timedelta(microseconds=int(offset)), *name)
    from zoneinfo import ZoneInfo

    return ZoneInfo(text)


_DRESS: Final[dict[type, Callable[[Any], Any]]] = {
    tuple: lambda value: [_TUPLE, *value],
    set: lambda value: [_SET, *value],
    frozenset: lambda value: [_FROZENSET, *value],
    int: lambda value: _extension(5, _int_bytes(value)),
    Decimal: lambda value: _extension(6, str(value).encode()),
    date: lambda value: _extension(7, value.isoformat().encode()),
    time: lambda value: _extension(8, _moment_text(value).encode()),
    datetime: lambda value: _extension(9, _moment_text(value).encode()),
    timedelta: lambda value: _extension(10, _TIMEDELTA.pack(value.days, value.seconds, value.microseconds)),
    UUID: lambda value: _extension(11, value.bytes),
}

_CONTAINERS: Final = frozenset({list, dict, tuple, set, frozenset})
_CARRIED: Final = _CONTAINERS | {type(None), bool, float, str, bytes, *_DRESS}

_REVIVE: Final[dict[int, Callable[[bytes], Any]]] = {
    5: lambda data: int.from_bytes(data, "big", signed=True),
    6: lambda data: Decimal(data.decode(), _STRICT),
    7: lambda data: date.fromisoformat(data.decode()),
    8: lambda data: _moment(time.fromisoformat, data),
    9: lambda data: _moment(datetime.fromisoformat, data),
    10: lambda data: timedelta(*_TIMEDELTA.unpack(data)),
    11: lambda data: UUID(bytes=data),
}
_MAKERS: Final[dict[int, type]] = {1: tuple, 2: set, 3: frozenset}
_AS_DATETIME: Final = 3
"""What msgpack makes of its own timestamps, which are never written here: a type that a value may have."""


def unpack(data: bytes | memoryview) -> Any:
    """The value in some bytes. Raises for junk, for what comes after the value, and for a key that cannot be a key.

    Three readings, of which nearly always the first succeeds: it takes texts and bytes as keys, the second any plain
    msgpack, the third everything, with a look at each dict before it is made.
    """
    if data[0] in _EXTENSION_HEADS:  # nothing stands beside it, so a wrapper is only ever the whole value
        return _unpackb(data, ext_hook=_revived_whole, timestamp=_AS_DATETIME)
    try:
        return _unpackb(data, ext_hook=_revived, timestamp=_AS_DATETIME)
    except ValueError:
        pass
    try:
        return _unpackb(data, ext_hook=_refused, timestamp=_AS_DATETIME, strict_map_key=False)
    except ValueError:
        mapped = _Guard(len(data)).mapped
    return _unpackb(data, ext_hook=_revived, timestamp=_AS_DATETIME, strict_map_key=False, object_pairs_hook=mapped)


def _revived_whole(code: int, data: bytes) -> Any:
    return _unwrapped(data) if code == _WRAPPER else _revived(code, data)


def _revived(code: int, data: bytes) -> Any:
    return _REVIVE[code](data)


def _refused(*_: Any) -> Any:
    raise ValueError


def _unwrapped(data: bytes) -> Any:
    try:
        return _Unwrapping(len(data)).read(data)
    except ValueError:
        reading = _Unwrapping(len(data))
    return reading.read(data, strict_map_key=False, object_pairs_hook=reading.mapped)


class _Guard:
    """Counts what the hashing of one value may cost."""

    __slots__ = ("_comparisons",)

    def __init__(self, size: int) -> None:
        self._comparisons = _COMPARISONS + _COMPARISONS_PER_BYTE * size

    def mapped(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        self.admit([key for key, _ in pairs])
        return dict(pairs)

    def admit(self, keys: list[Any]) -> None:
        """Raises ValueError where to make a dict or a set of `keys` would cost too much."""
        hashes = list(map(hash, keys))
        if len(set(hashes)) == len(hashes):
            return
        alike: defaultdict[int, list[Any]] = defaultdict(list)
        for key, hashed in zip(keys, hashes, strict=True):
            alike[hashed].append(key)
        for group in alike.values():
            if len(group) > 1:
                self._comparisons -= len(group) * sum(map(_weight, group))
        if self._comparisons < 0:
            raise ValueError("too many keys have the same hash")


class _Unwrapping(_Guard):
    """One reading of what a wrapper holds. A mark stands as a class in its array until that is complete."""

    __slots__ = ("_marks",)

    def read(self, data: bytes, **options: Any) -> Any:
        self._marks = 0
        value = _unpackb(data, ext_hook=self._revived, list_hook=self._restored, timestamp=_AS_DATETIME, **options)
        if self._marks:
            raise ValueError("a mark that is not the first of an array")
        return value

    def _revived(self, code: int, data: bytes) -> Any:
        if code not in _MAKERS:
            return _REVIVE[code](data)
        self._marks += 1
        return _MAKERS[code]

    def _restored(self, items: list[Any]) -> Any:
        """An array as what its mark says. No value carries a class, so a class in front can only be a mark."""
        if items and isinstance(items[0], type):
            self._marks -= 1
            make = items[0]
            del items[0]
            if make is not tuple:
                self.admit(items)
            return make(items)
        return items


def _weight(key: Any) -> int:
    """About how many simple comparisons one comparison with `key` may come to."""
    weight = 0
    parts = [(key, 1)]
    while parts:
        part, times = parts.pop()
        if type(part) is tuple:
            parts += [(inner, times) for inner in part]
        elif type(part) is frozenset:
            alike = Counter(map(hash, part))
            parts += [(inner, times * alike[hash(inner)]) for inner in part]
        elif type(part) is int:
            weight += times * (part.bit_length() // _QUICK_INT) ** 2
        weight += times
    return weight


# After a failure only: where is it?


def _refusal(value: Any, failure: str) -> str:
    try:
        found = _first_misfit(value)
    except Exception:  # noqa: BLE001 - the value changes meanwhile, or a class of it misbehaves
        found = None
    path, complaint = found or ("value", f"cannot be carried because {failure}")
    if len(path) > _PATH_LIMIT:
        path = f"{path[:_PATH_LIMIT]}…"
    return f"{path} {complaint}: convert it before it is cached, or give RedisTier(codec=...) a codec that carries it"


def _first_misfit(value: Any) -> tuple[str, str] | None:
    """Path and complaint of the first part, depth first, that cannot be carried."""
    steps: list[str] = []
    trail: list[Iterator[tuple[str, Any]]] = [iter([("value", value)])]
    open_ids: dict[int, None] = {}  # a dict, to ask it and to take the last
    done: set[int] = set()
    while trail:
        step, part = next(trail[-1], ("", None))
        if not step:
            trail.pop()
            if steps:
                steps.pop()
                done.add(open_ids.popitem()[0])
            continue
        complaint = "holds itself" if id(part) in open_ids else _complaint(part, len(open_ids))
        if complaint:
            return "".join([*steps, step]), complaint
        if type(part) in _CONTAINERS and id(part) not in done:
            steps.append(step)
            open_ids[id(part)] = None
            trail.append(_steps_into(part))
    return None


def _complaint(part: object, depth: int) -> str | None:
    kind: type[object] = type(part)
    if kind not in _CARRIED:
        return f"is of type {kind.__module__}.{kind.__qualname__}, which MsgpackCodec does not carry"
    if kind in _CONTAINERS:
        return f"is nested deeper than {DEPTH_LIMIT} levels" if depth >= DEPTH_LIMIT else None
    try:
        _packb(part, default=_dressed, strict_types=True)
    except UnicodeEncodeError:
        return f"is a {kind.__name__} with lone surrogates, which are no Unicode text"
    except _ZoneError as error:
        return f"is a {kind.__name__} with a time zone of type {error}; fixed offsets and zoneinfo keys are carried"
    except Exception as error:  # noqa: BLE001 - its text may show the value
        return f"is a {kind.__name__} that cannot be packed ({type(error).__name__})"
    return None


def _steps_into(holder: Any) -> Iterator[tuple[str, Any]]:
    """Each part of a container with its step in the path. Keys that do not look like field names stay unsaid."""
    entries: Any = holder
    if type(holder) is dict:
        for place, (key, part) in enumerate(entries.items()):
            yield f"[<key {place}>]", key
            named = type(key) is str and len(key) <= 40 and key.replace("-", "_").isidentifier()
            yield (f'["{key}"]' if named else f"[<key {place}>]"), part
    else:
        ordered = type(holder) in (list, tuple)
        for place, part in enumerate(entries):
            yield (f"[{place}]" if ordered else "[<item>]"), part
