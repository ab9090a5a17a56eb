"""Entries as a fleet writes them, and the judgement of what is read from altered ones."""

from __future__ import annotations

import math
import struct
import zlib
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, Final, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from tiered_cache._entry import START, Birth, Entry
from tiered_cache._l2.codec import MsgpackCodec
from tiered_cache._l2.envelope import HEADER_SIZE, Fault, Kind, Stored, Unreadable, seal
from tiered_cache._l2.record import opened, sealed

KEY: Final = "orders:ä"
OTHER_KEY: Final = "orders:b"
MAX_BYTES: Final = 1 << 18
CODEC: Final = MsgpackCodec()

VALUES: Final[dict[str, Any]] = {
    "plain": {"id": 7, "name": "Zoë", "price": 1.5, "tags": ["a", None, True], "raw": b"\x00\xff"},
    "collections": [(1, (2,), []), {3, "x"}, frozenset({(4, 5)}), {None: 1, 2: "b", (3, "k"): {}}, (), set()],
    "numbers": {2**64: -(2**63) - 1, 7: [10**50, Decimal("-0.10"), Decimal("1E+30"), math.inf, -0.0]},
    "times": [
        date(2024, 2, 29),
        time(1, 2, tzinfo=timezone(timedelta(hours=2), "CEST")),
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2024, 1, 1, tzinfo=UTC),
        timedelta(days=-1, microseconds=7),
        UUID(int=2**100),
    ],
    "rows": [{"id": number, "name": f"customer {number}", "paid": number % 3 == 0} for number in range(40)],
    "nothing": None,
}


def entry_of(value: Any, **facts: Any) -> Entry:
    return Entry(
        value,
        loaded_at=1_700_000_000.25,
        fresh_for=3600.0,
        stale_while_revalidate=600.0,
        stale_if_error=86400.0,
        load_time=0.125,
        value_size=4096,
        **facts,
    )


ENTRIES: Final[dict[str, Entry]] = {
    **{name: entry_of(value) for name, value in VALUES.items()},
    "facts": entry_of(
        "v", etag='"e-1"', last_modified="", tags=("customer:1", "", "ü"), birth=Birth((1_700_000_000_123, 7), 0)
    ),
    "negative": entry_of("no such order", negative=True, tags=("customer:1",)),
}
GENUINE: Final[dict[str, bytes]] = {
    name: sealed(KEY, entry, CODEC, compress_above=800) for name, entry in ENTRIES.items()
}
"""What stands in L2 under `KEY` for each of them; "rows" is compressed."""
OTHERS: Final = tuple(sealed(OTHER_KEY, entry, CODEC, compress_above=800) for entry in ENTRIES.values())
"""The same entries of another key."""
FACTS: Final = Stored(KEY, Kind.VALUE, 1.7e9, 60.0, 0.0, 0.0, 0.5, START, None, None, (), CODEC.id, b"")


def holding(payload: bytes, *, compress_above: int | None = None, **facts: Any) -> bytes:
    """An envelope of `KEY` in which all is right but what the payload may be."""
    return seal(FACTS._replace(payload=payload, **facts), compress_above=compress_above)


def signed(data: bytes) -> bytes:
    """The data with both checksums right; as they are where there is not a whole header."""
    if len(data) < HEADER_SIZE:
        return data
    header = data[:28] + struct.pack(">I", zlib.crc32(data[HEADER_SIZE:])) + data[32 : HEADER_SIZE - 4]
    return header + struct.pack(">I", zlib.crc32(header)) + data[HEADER_SIZE:]


class Wrong(AssertionError):
    """What was read is not what may be read."""


class Outcome(NamedTuple):
    """What came of opening some bytes: an entry, or the reason why there is none."""

    entry: Entry | None
    fault: Fault | None


def read(data: Any, key: str = KEY, max_bytes: int = MAX_BYTES) -> Outcome:
    """Open the data as L2 does; any exception but Unreadable goes through."""
    try:
        return Outcome(opened(key, data, CODEC, max_bytes=max_bytes), None)
    except Unreadable as unreadable:
        return Outcome(None, unreadable.reason)


def judge_accident(data: bytes, key: str = KEY) -> Outcome:
    """Open what an accident has made of a genuine entry: nothing may be read but the genuine bytes."""
    outcome = read(data, key)
    if outcome.entry is not None and (key != KEY or data not in _GENUINE):
        raise Wrong("altered bytes were taken")
    return outcome


_GENUINE: Final = frozenset(GENUINE.values())


def judge_forgery(data: bytes) -> Outcome:
    """Open what has right checksums whatever it holds: if it is taken, the entry must be well-formed."""
    outcome = read(data)
    if outcome.entry is not None:
        complaint = malformation(outcome.entry)
        if complaint:
            raise Wrong(complaint)
    return outcome


def malformation(entry: Entry) -> str | None:
    """What is wrong with the shape of an entry, if anything."""
    times = (entry.loaded_at, entry.fresh_for, entry.stale_while_revalidate, entry.stale_if_error, entry.load_time)
    if not all(type(moment) is float and 0 <= moment < math.inf for moment in times):
        return f"times {times}"
    if type(entry.value_size) is not int or entry.value_size < 0:
        return "size"
    if [type(part) for part in entry.born] != [int, int] or not all(0 <= part < 2**64 for part in entry.born):
        return "position"
    if not all(text is None or type(text) is str for text in (entry.etag, entry.last_modified)):
        return "validators"
    if type(entry.tags) is not tuple or not all(type(tag) is str for tag in entry.tags):
        return "tags"
    if type(entry.negative) is not bool or (entry.negative and type(entry.value) is not str):
        return "negative"
    return foreign_type(entry.value)


_SCALARS: Final = {type(None), bool, int, float, str, bytes, Decimal, date, time, datetime, timedelta, UUID}


def foreign_type(value: Any) -> str | None:
    """The first type inside a value that no value that was encoded can hold."""
    parts = [value]
    while parts:
        part = parts.pop()
        kind = type(part)
        if kind is dict:
            parts += [*part.keys(), *part.values()]
        elif kind in (list, tuple, set, frozenset):
            parts += part
        elif kind not in _SCALARS or not _is_zone(getattr(part, "tzinfo", None)):
            return f"a value of type {kind.__qualname__}"
    return None


def _is_zone(zone: tzinfo | None) -> bool:
    return zone is None or type(zone) in (timezone, ZoneInfo)


def canonical(value: Any) -> Any:
    """A form that is equal only for values of the same types and content."""
    kind = type(value)
    if kind in (list, tuple):
        return kind, [canonical(part) for part in value]
    if kind in (set, frozenset):
        return kind, sorted((canonical(part) for part in value), key=repr)
    if kind is dict:
        return kind, [(canonical(key), canonical(part)) for key, part in value.items()]
    return kind, repr(value)


def same(one: Entry, other: Entry) -> bool:
    """Whether two entries agree in every fact that L2 keeps."""
    return all(canonical(getattr(one, name)) == canonical(getattr(other, name)) for name in _KEPT)


_KEPT: Final = (
    "value", "loaded_at", "fresh_for", "stale_while_revalidate", "stale_if_error", "load_time", "etag", "last_modified",
    "tags", "negative", "born", "value_size",
)  # fmt: skip
