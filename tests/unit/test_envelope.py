"""The envelope: what was sealed comes back, and anything else whatever is a reason for a miss."""

from __future__ import annotations

import json
import math
import pickle
import random
import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiered_cache._errors import SerializationError
from tiered_cache._l2.codec import MsgpackCodec
from tiered_cache._l2.envelope import (
    HEADER_SIZE,
    TIMES,
    TIMES_AT,
    Fault,
    Kind,
    Stored,
    Unreadable,
    begins_as,
    checksum_of,
    rewritten_header,
    seal,
    unseal,
)

LIMIT = 1 << 20
ENTRY = Stored(
    key="orders:ä",
    kind=Kind.VALUE,
    loaded_at=1_700_000_000.25,
    fresh_for=3600.0,
    stale_while_revalidate=600.0,
    stale_if_error=86400.0,
    load_time=0.125,
    born=(1_700_000_000_123, 7),
    etag='"e-1"',
    last_modified="Tue, 14 Nov 2023 22:13:20 GMT",
    tags=("customer:1", "", "ü"),
    codec_id=1,
    payload=b"the payload",
)
PLAIN = ENTRY._replace(etag=None, last_modified=None, tags=())

texts = st.text(st.characters(), max_size=20)  # surrogates too
times = st.floats(0, allow_nan=False, allow_infinity=False)
entries = st.builds(
    Stored,
    key=texts,
    kind=st.sampled_from(Kind),
    loaded_at=times,
    fresh_for=times,
    stale_while_revalidate=times,
    stale_if_error=times,
    load_time=times,
    born=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    etag=st.none() | texts,
    last_modified=st.none() | texts,
    tags=st.lists(texts, max_size=4).map(tuple),
    codec_id=st.integers(0, 255),
    payload=st.binary(max_size=100) | st.integers(0, 3000).map(lambda size: b"ab" * size),
    memory_size=st.integers(0, 2**32 - 1).map(lambda units: 16 * units),
)


def fault_of(data: bytes, key: str = ENTRY.key, max_bytes: int = LIMIT) -> Fault:
    """Why the data are not taken; anything but Unreadable fails the test."""
    with pytest.raises(Unreadable) as caught:
        unseal(data, key, max_bytes=max_bytes)
    return caught.value.reason


def signed(data: bytes) -> bytes:
    """The data with both checksums right: what only a writer that knows the format can make."""
    body = struct.pack(">I", zlib.crc32(data[HEADER_SIZE:]))
    header = data[:28] + body + data[32 : HEADER_SIZE - 4]
    return header + struct.pack(">I", zlib.crc32(header)) + data[HEADER_SIZE:]


def with_fields(data: bytes, form: str, offset: int, *fields: Any) -> bytes:
    """The data with other fields at an offset of the header, signed anew."""
    changed = bytearray(data)
    struct.pack_into(form, changed, offset, *fields)
    return signed(bytes(changed))


@settings(max_examples=300, deadline=None)
@given(entries, st.none() | st.integers(0, 200))
def test_what_was_sealed_comes_back(entry: Stored, compress_above: int | None) -> None:
    """Every field of every entry survives, compressed or not."""
    back = unseal(seal(entry, compress_above=compress_above), entry.key, max_bytes=LIMIT)
    assert entry == back
    assert tuple(map(type, entry[:12])) == tuple(map(type, back[:12]))


def test_only_large_payloads_that_shrink_are_compressed() -> None:
    """A payload is left alone at the limit, and where compression would make it larger."""
    text, noise = b"abc" * 1000, random.Random(1).randbytes(3000)
    sizes = [
        len(seal(PLAIN._replace(payload=payload), compress_above=limit))
        for payload, limit in ((text, None), (text, 3000), (text, 2999), (noise, 0))
    ]
    whole = len(seal(PLAIN._replace(payload=b""), compress_above=None)) + 3000
    assert [sizes[0], sizes[1], sizes[3]] == [whole] * 3
    assert sizes[2] < whole - 2500


def test_every_truncation_is_a_miss() -> None:
    """No prefix of an entry is taken, nor an entry with something after it."""
    for entry in (ENTRY, PLAIN, ENTRY._replace(payload=b"ab" * 200)):
        data = seal(entry, compress_above=100)
        for size in range(len(data)):
            fault_of(data[:size])
        assert fault_of(data + b"\0") is Fault.CHECKSUM


def test_every_flipped_bit_is_a_miss() -> None:
    """There is no bit in an entry that can change unnoticed."""
    for entry in (ENTRY, PLAIN, ENTRY._replace(payload=b"ab" * 200)):
        data = bytearray(seal(entry, compress_above=100))
        for place in range(len(data) * 8):
            data[place // 8] ^= 1 << place % 8
            fault_of(bytes(data))
            data[place // 8] ^= 1 << place % 8
        assert entry == unseal(bytes(data), entry.key, max_bytes=LIMIT)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_flipped_bits_in_large_entries_are_a_miss(draw: st.DataObject) -> None:
    """One to three flips anywhere in a large entry, and a burst of up to 32 bits, are noticed."""
    data = bytearray(LARGE)
    for place in draw.draw(st.sets(st.integers(0, len(data) * 8 - 1), min_size=1, max_size=3)):
        data[place // 8] ^= 1 << place % 8
    fault_of(bytes(data))
    burst = draw.draw(st.integers(1, 2**32 - 1))
    at = draw.draw(st.integers(0, len(LARGE) - 4))
    fault_of(LARGE[:at] + (int.from_bytes(LARGE[at : at + 4], "big") ^ burst).to_bytes(4, "big") + LARGE[at + 4 :])


LARGE = seal(ENTRY._replace(payload=random.Random(2).randbytes(300_000)), compress_above=None)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.integers(0, HEADER_SIZE + 20))
def test_random_bytes_are_a_miss(noise: bytes, kept: int) -> None:
    """Noise is a miss, by itself and after any part of a real entry."""
    data = seal(ENTRY, compress_above=None)
    fault_of(noise)
    if not data.startswith(data[:kept] + noise) and noise:
        fault_of(data[:kept] + noise)


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=HEADER_SIZE - 8, max_size=HEADER_SIZE + 60), st.integers(0, 40))
def test_forged_entries_are_an_entry_or_a_miss(noise: bytes, kept: int) -> None:
    """With both checksums right, arbitrary facts still give a whole entry of this key or a reason."""
    data = seal(ENTRY, compress_above=None)
    data = signed(data[: 4 + kept] + noise)
    try:
        back = unseal(data, ENTRY.key, max_bytes=LIMIT)
    except Unreadable:
        return
    assert back.key == ENTRY.key
    assert all(math.isfinite(number) and number >= 0 for number in back[2:7])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"\0" * 200,
        pickle.dumps({"a": [1, 2, 3]}),
        pickle.dumps(ENTRY._replace(kind=Kind.VALUE)),
        json.dumps({"value": "x" * 100}).encode(),
        MsgpackCodec().encode(["x" * 100]),
        zlib.compress(b"x" * 10_000),
        b"<html>" + b" " * 200,
    ],
    ids=["empty", "one", "zeros", "pickle", "large pickle", "json", "msgpack", "zlib", "html"],
)
def test_foreign_formats_are_not_ours(data: bytes) -> None:
    """What others write under our key is told apart by its first bytes, and nothing in it runs."""
    assert fault_of(data) is Fault.NOT_OURS


def test_a_key_gets_only_its_own_entry() -> None:
    """An entry copied under another key is a miss there, whatever the keys share."""
    for theirs, ours in (("a", "b"), ("a", "ab"), ("ab", "a"), ("a", ""), ("ä", "a"), ("\ud800", "a"), ("a", "\ud800")):
        assert fault_of(seal(ENTRY._replace(key=theirs), compress_above=None), ours) is Fault.KEY


def test_another_version_is_told_apart() -> None:
    """An entry of a later format is a miss of its own kind, whatever stands behind the version."""
    data = bytearray(seal(ENTRY, compress_above=None))
    data[3] = 2
    assert fault_of(bytes(data)) is Fault.VERSION
    assert fault_of(signed(bytes(data))) is Fault.VERSION


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -1.0, -5e-324])
def test_times_that_cannot_be_are_a_miss_and_an_error_to_write(number: float) -> None:
    """Each of the five times must be finite and not negative, on the way in and on the way out."""
    data = seal(ENTRY, compress_above=None)
    for place, name in enumerate(Stored._fields[2:7]):
        assert fault_of(with_fields(data, ">d", TIMES_AT + 8 * place, number)) is Fault.SHAPE
        with pytest.raises(SerializationError, match="finite and not negative"):
            seal(ENTRY._replace(**{name: number}), compress_above=None)
        with pytest.raises(SerializationError, match="finite and not negative"):
            rewritten_header(data, **{name: number})


@pytest.mark.parametrize(
    ("form", "offset", "field", "reason"),
    [
        (">B", 5, 0x33, Fault.SHAPE),  # a fourth kind
        (">B", 5, 0x70, Fault.SHAPE),  # a reserved flag
        (">B", 5, 0x20, Fault.SHAPE),  # an etag and no flag for it
        (">B", 5, 0x10, Fault.SHAPE),
        (">B", 5, 0x38, Fault.COMPRESSION),  # compression 2
        (">B", 5, 0x34, Fault.COMPRESSION),  # a plain payload said to be compressed
        (">H", 6, 6, Fault.SHAPE),
        (">H", 8, 0, Fault.SHAPE),
        (">H", 10, 2, Fault.SHAPE),
        (">H", 10, 4, Fault.SHAPE),
        (">H", 10, 65535, Fault.SHAPE),
        (">I", 12, 2**32 - 1, Fault.SHAPE),
        (">I", 16, 0, Fault.SHAPE),
        (">I", 20, 10, Fault.SHAPE),
        (">I", 20, 2**32 - 1, Fault.TOO_LARGE),
        (">I", 24, 2**32 - 1, Fault.TOO_LARGE),
        (">I", 24, 10, Fault.SHAPE),
    ],
)
def test_facts_that_contradict_each_other_are_a_miss(form: str, offset: int, field: int, reason: Fault) -> None:
    """With both checksums right, lengths and flags must still add up."""
    assert fault_of(with_fields(seal(ENTRY, compress_above=None), form, offset, field)) is reason


def test_texts_that_are_no_utf8_are_a_miss() -> None:
    """A validator or a tag that does not decode is a reason, and no UnicodeDecodeError."""
    data = seal(ENTRY, compress_above=None)
    for text in (b'"e-1"', b"Tue", b"customer"):
        assert fault_of(signed(data.replace(text, b"\xff" * len(text)))) is Fault.SHAPE


def test_a_payload_over_the_limit_is_too_large() -> None:
    """The limit holds for the payload as stored and as decompressed, and is itself allowed."""
    for limit in (None, 10):
        data = seal(ENTRY._replace(payload=b"a" * 5000), compress_above=limit)
        assert len(unseal(data, ENTRY.key, max_bytes=5000).payload) == 5000
        assert fault_of(data, max_bytes=4999) is Fault.TOO_LARGE


def compressed(payload: bytes, stated: int) -> bytes:
    """An entry whose payload is said to be zlib's and to decompress to the stated length."""
    data = bytearray(seal(PLAIN._replace(payload=payload), compress_above=None))
    data[5] |= 0x04
    return with_fields(bytes(data), ">I", 24, stated)


def test_a_compressed_payload_must_be_exactly_what_it_says() -> None:
    """Too long, too short, cut, followed by something, or not zlib at all: each is a miss."""
    stream = zlib.compress(b"a" * 5000)
    assert unseal(compressed(stream, 5000), PLAIN.key, max_bytes=LIMIT).payload == b"a" * 5000
    for payload, stated in (
        (stream, 4999),
        (stream, 5001),
        (stream, 0),
        (stream[:-1], 5000),
        (stream[:-4], 5000),
        (stream + b"\0", 5000),
        (stream + stream, 10_000),
        (b"", 0),
        (b"", 5),
        (b"no stream", 9),
    ):
        assert fault_of(compressed(payload, stated)) is Fault.COMPRESSION


def test_a_bomb_is_a_miss_and_memory_stays_flat() -> None:
    """A small stream that grows to a quarter of a gigabyte is let out no further than the length that it states."""
    packer = zlib.compressobj(9)
    stream = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(256)), packer.flush()])
    for stated, reason in ((10, Fault.COMPRESSION), (1 << 20, Fault.COMPRESSION), (1 << 28, Fault.TOO_LARGE)):
        data = compressed(stream, stated)
        tracemalloc.start()
        assert fault_of(data, PLAIN.key, max_bytes=8 << 20) is reason
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 << 20


@settings(max_examples=100, deadline=None)
@given(entries, st.none() | times, st.none() | times, st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_a_header_is_rewritten_in_place(
    entry: Stored, loaded_at: float | None, fresh_for: float | None, born: tuple[int, int] | None
) -> None:
    """A header with other times, written over the old one, changes those and nothing else."""
    data = seal(entry, compress_above=50)
    header = rewritten_header(data[:HEADER_SIZE], loaded_at=loaded_at, fresh_for=fresh_for, born=born)
    assert len(header) == HEADER_SIZE
    assert header[:TIMES_AT] == data[:TIMES_AT]
    given = {"loaded_at": loaded_at, "fresh_for": fresh_for, "born": born}
    changed = entry._replace(**{name: field for name, field in given.items() if field is not None})
    assert changed == unseal(header + data[HEADER_SIZE:], entry.key, max_bytes=LIMIT)


def test_every_time_can_be_rewritten() -> None:
    """Each name of `rewritten_header` moves the field of that name, and where `TIMES` says."""
    data = seal(ENTRY, compress_above=None)
    for name in Stored._fields[2:8]:
        new: Any = (5, 6) if name == "born" else 5.5
        header = rewritten_header(data, **{name: new})
        assert ENTRY._replace(**{name: new}) == unseal(header + data[HEADER_SIZE:], ENTRY.key, max_bytes=LIMIT)
        held = TIMES.unpack_from(header, TIMES_AT)
        assert (*ENTRY._replace(**{name: new})[2:7], *ENTRY._replace(**{name: new}).born) == held


def test_a_header_that_is_not_whole_is_not_rewritten() -> None:
    """A damaged, cut or foreign header is a reason, so that nothing vouches for what it may stand for."""
    data = seal(ENTRY, compress_above=None)[:HEADER_SIZE]
    for place in range(HEADER_SIZE * 8):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(Unreadable):
            rewritten_header(bytes(flipped), fresh_for=1.0)
    for size in range(HEADER_SIZE):
        with pytest.raises(Unreadable):
            rewritten_header(data[:size], fresh_for=1.0)


def test_a_header_over_another_body_is_a_miss() -> None:
    """A header that comes late, over an entry that was replaced meanwhile, does not vouch for it."""
    old = seal(ENTRY, compress_above=None)
    new = seal(ENTRY._replace(payload=b"new payload"), compress_above=None)
    assert len(old) == len(new)
    assert fault_of(rewritten_header(old, fresh_for=9.0) + new[HEADER_SIZE:]) is Fault.CHECKSUM


@pytest.mark.parametrize(
    "fields",
    [
        {"codec_id": 256},
        {"codec_id": -1},
        {"etag": "x" * 65536},
        {"last_modified": "x" * 65536},
        {"tags": ("x",) * 65536},
        {"tags": ("x" * 65536,)},
        {"born": (-1, 0)},
        {"born": (0, 2**64)},
    ],
    ids=lambda fields: next(iter(fields)) + str(len(repr(fields))),
)
def test_what_has_no_place_in_the_header_is_an_error(fields: dict[str, Any]) -> None:
    """An entry whose facts do not fit is refused with what is allowed, and never written cut."""
    with pytest.raises(SerializationError, match="must"):
        seal(ENTRY._replace(**fields), compress_above=None)


def test_a_large_payload_is_not_copied() -> None:
    """What is read is a view of the reply, which a codec takes as it is."""
    value = {"rows": [(1, "ä", None)] * 3_000}
    data = seal(PLAIN._replace(payload=MsgpackCodec().encode(value)), compress_above=None)
    payload = unseal(data, PLAIN.key, max_bytes=LIMIT).payload
    assert isinstance(payload, memoryview)
    assert payload.obj is data
    assert value == MsgpackCodec().decode(payload)


def known_again(data: bytes, entry: Stored, **other: Any) -> bool:
    """By the facts of an entry, whose envelope that is, or by others."""
    checksum = other.pop("checksum", checksum_of(seal(entry, compress_above=None)))
    entry = entry._replace(**other)
    times = (entry.loaded_at, entry.fresh_for, entry.stale_while_revalidate, entry.stale_if_error)
    return begins_as(data, entry.key, entry.codec_id, checksum=checksum, times=times, born=entry.born)


@given(entries, entries)
def test_a_value_is_known_again_by_its_header(entry: Stored, other: Stored) -> None:
    """What stands after that and the key may be anything; a header of another value, load, key or codec is another."""
    data = seal(entry, compress_above=None)
    begins = data[: HEADER_SIZE + len(entry.key.encode("utf-8", "surrogatepass"))]
    assert known_again(begins, entry) == (entry.kind is Kind.VALUE)
    for name in ("key", "codec_id", "loaded_at", "fresh_for", "stale_while_revalidate", "stale_if_error", "born"):
        if getattr(entry, name) != getattr(other, name):
            assert not known_again(data, entry, **{name: getattr(other, name)})
    assert not known_again(data, entry, checksum=checksum_of(data) ^ 1)


def test_no_damaged_header_is_known_again() -> None:
    """Nor one that is cut, nor one of a key that only begins alike."""
    data = bytearray(seal(PLAIN, compress_above=None))
    for place in range((HEADER_SIZE + len(PLAIN.key.encode())) * 8):
        data[place // 8] ^= 1 << place % 8
        assert not known_again(bytes(data), PLAIN), place
        data[place // 8] ^= 1 << place % 8
    assert known_again(bytes(data), PLAIN)
    assert not any(known_again(bytes(data[:size]), PLAIN) for size in range(HEADER_SIZE + 1))
    assert not known_again(bytes(data), PLAIN, key=PLAIN.key[:-1])


@pytest.mark.parametrize(("measured", "read"), [(0, 0), (1, 16), (16, 16), (17, 32), (2**40, 16 * (2**32 - 1))])
def test_the_size_in_memory_is_kept_in_steps_of_16(measured: int, read: int) -> None:
    """Rounded up, so that L1 never thinks a value smaller than it is; beyond 64 GiB as the most that can be said."""
    data = seal(ENTRY._replace(memory_size=measured), compress_above=None)
    assert unseal(data, ENTRY.key, max_bytes=LIMIT).memory_size == read
