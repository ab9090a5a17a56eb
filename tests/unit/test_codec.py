"""The default codec: what comes back, what is refused and how it says so, and what junk does to it."""

from __future__ import annotations

import enum
import struct
import subprocess
import sys
import threading
import zoneinfo
from collections import Counter, OrderedDict, defaultdict
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tiered_cache._errors import SerializationError
from tiered_cache._l2.codec import MsgpackCodec

BERLIN = ZoneInfo("Europe/Berlin")
codec = MsgpackCodec()


def canonical(value: Any) -> Any:
    """A form of a value that is equal only for values that are the same in type and content, NaN and -0.0 included."""
    kind = type(value)
    if kind in (list, tuple):
        return kind, [canonical(part) for part in value]
    if kind in (set, frozenset):
        return kind, sorted((canonical(part) for part in value), key=repr)
    if kind is dict:
        return kind, [(canonical(key), canonical(part)) for key, part in value.items()]
    if kind is float:
        return kind, struct.pack(">d", value) if value == value else "nan"
    if kind is Decimal:
        return kind, value.as_tuple()
    if kind in (datetime, time):
        return kind, value.replace(tzinfo=None).isoformat(), value.fold, zone(value.tzinfo)
    return kind, value


def zone(of: tzinfo | None) -> Any:
    if type(of) is ZoneInfo:
        return ZoneInfo, of.key
    return (type(of), of.utcoffset(None), of.tzname(None)) if of is not None else None


fixed_zones = st.builds(
    lambda offset, name: timezone(offset, name) if name else timezone(offset),
    st.integers(-1439, 1439).map(lambda minutes: timedelta(minutes=minutes))
    | st.timedeltas(timedelta(hours=-23), timedelta(hours=23)),
    st.sampled_from(["", "CEST", "a|b", "="]),
)
zones = st.none() | st.just(UTC) | fixed_zones | st.sampled_from([BERLIN, ZoneInfo("UTC"), ZoneInfo("Asia/Kolkata")])


def folded(moments: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda moment, fold, zone: moment.replace(fold=fold, tzinfo=zone), moments, st.integers(0, 1), zones
    )


hashable_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.dates()
    | folded(st.datetimes())
    | folded(st.times())
    | st.timedeltas()
    | st.uuids()
)
hashables = st.recursive(
    hashable_scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
values = st.recursive(
    hashable_scalars | st.decimals(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashables, max_size=3)
        | st.frozensets(hashables, max_size=3)
        | st.dictionaries(hashables, inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(values)
@example([1, True, 1.0, "1", b"1"])
@example({1: "int", "1": "text", None: 0, (1, True): [], b"1": ()})
@example([{"rows": [(1, {2}, frozenset({(3, ())}))]}, [], (), set(), frozenset(), {}])
@example([2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**400])
@example([float("nan"), float("inf"), -0.0, Decimal("sNaN123"), Decimal("-0E+6"), Decimal("1E-400")])
@example([datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN), datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1)])
@example(
    [
        datetime.fromisoformat("0001-01-01"),
        datetime.fromisoformat("9999-12-31T23:59:59.999999"),
        time.max,
        timedelta.min,
        timedelta.max,
        date.min,
    ]
)
@example([UTC.utcoffset(None), datetime(1, 1, 1, tzinfo=timezone(timedelta(seconds=-1, microseconds=5)))])
@example(b"\xc7\x00\x01 \xc7\x00\x02")
@example(["\u01c7\u0000\u0001", [], [b"\xc7\x00\x01"]])
def test_every_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    """What is decoded is what was encoded, type by type, from bytes and from a view of bytes."""
    data = codec.encode(value)
    assert type(data) is bytes
    assert canonical(value) == canonical(codec.decode(data)) == canonical(codec.decode(memoryview(data)))


def test_plain_values_are_plain_msgpack() -> None:
    """JSON-like values can be read with any msgpack library."""
    value = {"id": 7, "tags": ["a", None, True], "price": 1.5, "raw": b"x"}
    assert value == msgpack.unpackb(codec.encode(value))


class Plain:
    def __repr__(self) -> str:
        return "the secret itself"


class Text(str):
    __slots__ = ()


class OwnZone(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(0)


class Point(NamedTuple):
    x: int
    y: int


Colour = enum.IntEnum("Colour", "RED")
Shade = enum.Enum("Shade", "DARK")


@pytest.mark.parametrize(
    "misfit",
    [
        Plain(),
        Point(1, 2),
        Colour.RED,
        Shade.DARK,
        OrderedDict(a=1),
        defaultdict(int),
        Counter("a"),
        Text("x"),
        bytearray(b"the secret itself"),
        memoryview(b"the secret itself"),
        msgpack.ExtType(5, b"the secret itself"),
        msgpack.Timestamp(1, 1),
        threading.Lock(),
        1j,
        range(3),
        Plain,
        len,
        ValueError("the secret itself"),
        datetime(2024, 1, 1, tzinfo=OwnZone()),
        time(1, tzinfo=OwnZone()),
        "the secret itself \ud800",
    ],
    ids=lambda misfit: type(misfit).__name__,
)
@pytest.mark.parametrize("inside", [False, True])
def test_what_would_come_back_as_something_else_is_refused(misfit: Any, inside: bool) -> None:
    """The error names type and path and what to do, and never shows the value."""
    value = {"items": [1, (2, {"deep": misfit}), b"x"]} if inside else misfit
    with pytest.raises(SerializationError) as caught:
        codec.encode(value)
    text = str(caught.value)
    assert text.startswith('value["items"][1][1]["deep"] is ' if inside else "value is ")
    assert type(misfit).__name__ in text
    assert "RedisTier(codec=...)" in text
    assert "secret" not in text
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_stream_is_refused() -> None:
    """An open file is named by its type."""
    with Path(__file__).open("rb") as stream, pytest.raises(SerializationError, match="BufferedReader"):
        codec.encode({"stream": stream})


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"4111 1111 1111 1111": 1j}, "value[<key 0>] "),
        ({"ok": 0, 41111111: 1j}, "value[<key 1>] "),
        ({1j: 0}, "value[<key 0>] "),
        ({"last-name": [1j]}, 'value["last-name"][0] '),
        ({frozenset([1, 1j])}, "value[<item>][<item>] "),
        ({"x" * 41: 1j}, "value[<key 0>] "),
    ],
)
def test_a_path_shows_field_names_and_no_other_keys(value: Any, path: str) -> None:
    """Keys that may be data themselves are shown by their place."""
    with pytest.raises(SerializationError) as caught:
        codec.encode(value)
    assert str(caught.value).startswith(path)


def nested(levels: int, holder: Any) -> Any:
    value = None
    for _ in range(levels):
        value = holder(value)
    return value


HOLDERS = [lambda part: [part], lambda part: (part,), lambda part: {"k": part}, lambda part: {"k": [(part,)]}]


@pytest.mark.parametrize("holder", HOLDERS, ids=["lists", "tuples", "dicts", "mixed"])
def test_deep_values_are_carried_or_refused_and_never_crash(holder: Any) -> None:
    """300 levels come back; 10,000 and 100,000 are an error that says so."""
    value = nested(300, holder)
    assert value == codec.decode(codec.encode(value))
    for levels in (10_000, 100_000):
        with pytest.raises(SerializationError, match="deeper than 1024 levels") as caught:
            codec.encode(nested(levels, holder))
        assert len(str(caught.value)) < 500


def test_the_deepest_value_that_is_encoded_can_be_decoded() -> None:
    """There is no depth that goes in and does not come out, in a thread with a small stack neither."""

    def look() -> None:
        for holder in HOLDERS[:3]:
            depth = 1024
            value = nested(depth, holder)
            back = codec.decode(codec.encode(value))
            while value is not None:
                assert type(value) is type(back)
                value, back = (value["k"], back["k"]) if type(value) is dict else (value[0], back[0])
            with pytest.raises(SerializationError):
                codec.encode(nested(depth + 1, holder))
        outcome.append("done")

    outcome: list[str] = []
    before = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert outcome == ["done"]


def test_a_value_that_holds_itself_is_refused() -> None:
    """A ring is an error with the path at which it closes, however it branches."""
    ring: list[Any] = [1]
    ring.append({"again": ring})
    with pytest.raises(SerializationError, match=r'value\[1\]\["again"\] holds itself'):
        codec.encode(ring)
    branching: list[Any] = []
    branching.extend([branching] * 50)
    with pytest.raises(SerializationError, match="holds itself"):
        codec.encode(branching)


def test_a_value_that_changes_while_it_is_encoded_is_refused() -> None:
    """Whatever a value raises when it is looked at comes out as the one error, without its text."""

    class Grows(dict[str, int]):
        pass

    class Liar:
        @property
        def __class__(self) -> Any:
            raise RuntimeError("the secret itself")

    for value in ([Liar()], {"a": Grows()}):
        with pytest.raises(SerializationError) as caught:
            codec.encode(value)
        assert "secret" not in str(caught.value)


def test_zones_that_a_key_does_not_bring_back_are_refused() -> None:
    """A zone read from a file may differ from the one of its name."""
    path = next(path for path in map(Path(zoneinfo.TZPATH[0]).joinpath, ["Europe/Berlin", "UTC"]) if path.exists())
    for key in (None, "Europe/Berlin", "="):
        with path.open("rb") as stream:
            from_file = ZoneInfo.from_file(stream, key=key)
        with pytest.raises(SerializationError):
            codec.encode(datetime(2024, 1, 1, tzinfo=from_file))


JUNK = [
    b"",
    b"\xc1",
    b"\x01\x02",
    b"\x93\x01",
    b"\xdb\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\x81\x90\xc0",
    b"\x81\x80\xc0",
    b"\xa1\xff",
    b"\xd4\x7f\x00",
    b"\xc7\x00\x01",
    b"\xc7\x01\x06x",
    b"\xc7\x05\x09later",
    b"\xc7\x03\x0bxyz",
    b"\xc7\x00\x0a",
    b"\x91" * 5000 + b"\xc0",
    b"\xc7\x05\x04\xc7\x02\x04\xc7\x00",
    b"\xc7\x05\x04\x92\xc7\x00\x02\x90",
    b"\xc7\x06\x04\x93\xc7\x00\x02\x90\x90",
    b"\x80\x04\x95.",
    b'{"a": 1}',
]


@pytest.mark.parametrize("data", JUNK)
def test_junk_is_an_exception(data: bytes) -> None:
    """Bytes that are not exactly one value raise, unhashable keys and trailing bytes included."""
    with pytest.raises(Exception):  # noqa: B017 - any exception is a miss
        codec.decode(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\xc7\xc8\x04", b"\x91", b"\x82\xa1k"]))
def test_random_bytes_give_a_value_or_an_exception(data: bytes, before: bytes) -> None:
    """Nothing but an ordinary exception comes of decoding whatever bytes there are."""
    try:
        codec.decode(before + data)
    except Exception:
        return


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of resident memory is read from /proc")
def test_lengths_that_lie_take_no_memory() -> None:
    """Two megabytes that claim a thousand lists of a million items each fail without eight gigabytes."""
    program = (
        "import re\n"
        "from pathlib import Path\n"
        "from tiered_cache._l2.codec import MsgpackCodec\n"
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "data = (b'\\xdd' + (990_000).to_bytes(4, 'big')) * 1000 + b'\\xc0' * 995_000\n"
        "codec = MsgpackCodec(); codec.decode(b'\\xc0')\n"
        "before = peak()\n"
        "try: codec.decode(data)\n"
        "except ValueError: print(peak() - before)\n"
    )
    grown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert int(grown) < 150_000  # kilobytes: page tables and the one list that is filled


def test_msgpack_is_imported_with_the_first_value() -> None:
    """Neither the module nor a codec object costs the import of msgpack, decimal or uuid."""
    program = (
        "import sys\n"
        "from tiered_cache._l2.codec import MsgpackCodec\n"
        "codec = MsgpackCodec()\n"
        "print([name for name in ('msgpack', 'decimal', 'uuid', 'datetime', 'zoneinfo') if name in sys.modules])\n"
        "codec.encode(1)\n"
        "print('msgpack' in sys.modules)\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert shown == "[]\nTrue\n"


def test_a_codec_is_known_by_its_number() -> None:
    """The id of the default codec stands in every stored entry and does not change."""
    assert (codec.id, repr(codec), UUID(int=5)) == (1, "MsgpackCodec()", codec.decode(codec.encode(UUID(int=5))))
