"""What stands under a key in the shared tier: a fixed header, then key, validators, tags, payload.

All numbers are big-endian.

| offset | bytes | field |
| --- | --- | --- |
| 0 | 3 | magic, `C1 54 43`: a byte that neither msgpack nor UTF-8 nor a pickle begins with, then `TC` |
| 3 | 1 | format version, 1 |
| 4 | 1 | codec id; 0 where no codec was asked (a negative or pending entry) |
| 5 | 1 | flags: see below |
| 6 | 2 | length of the etag |
| 8 | 2 | length of last_modified |
| 10 | 2 | number of tags |
| 12 | 4 | length of the key |
| 16 | 4 | length of the tags block: per tag its length (2 bytes) and text |
| 20 | 4 | length of the payload as it stands here |
| 24 | 4 | length of the payload when decompressed |
| 28 | 4 | CRC-32 of everything after the header |
| 32 | 4 | what the value takes in memory, in units of 16 bytes, as its writer measured it; 0 where that is not known |
| 36 | 8 | `loaded_at`, wall-clock seconds, float64 |
| 44 | 8 | `fresh_for`, seconds, float64 |
| 52 | 8 | `stale_while_revalidate`, seconds, float64 |
| 60 | 8 | `stale_if_error`, seconds, float64 |
| 68 | 8 | `load_time`, seconds that the load took, float64 |
| 76 | 16 | `born`, position in the invalidation log: milliseconds and sequence of a stream id, two uint64 |
| 92 | 4 | CRC-32 of bytes 0 to 91 |
| 96 | | key, etag, last_modified, tags block, payload; texts are UTF-8 |

Flags: bits 0-1 kind (0 value, 1 negative, 2 pending), bits 2-3 compression (0 none, 1 zlib), bit 4 there is an etag,
bit 5 there is a last_modified, bits 6-7 zero.

Bytes 36 to 95 can be rewritten in place (`rewritten_header`, then SETRANGE): the facts before them describe the body,
and stay. Each byte is covered by one of the two checksums, and the header's covers the body's; so a header with a
foreign body is noticed. The reasons are in docs/decisions/0002-envelope.md.
"""

from __future__ import annotations

import struct
import zlib
from enum import Enum, StrEnum
from math import inf
from struct import Struct
from typing import Final, NamedTuple

from tiered_cache._errors import SerializationError

MAGIC: Final = b"\xc1TC"
VERSION: Final = 1
HEADER_SIZE: Final = 96
TIMES_AT: Final = 36
"""Offset of the part that can be rewritten, as `TIMES` describes it."""
TIMES: Final = Struct(">5d2Q")
"""`loaded_at`, `fresh_for`, `stale_while_revalidate`, `stale_if_error`, `load_time`, `born` in two numbers."""

_HEADER: Final = Struct(">3s3B3H6I5d2QI")
_BODY_CHECKSUM_AT: Final = 28
_IDENTITY: Final = Struct(">I4x4d8x2QI")  # from there on: the body's checksum, all times but one, `born`, the header's
_CHECKSUM_AT: Final = HEADER_SIZE - 4
_CHECKSUM: Final = Struct(">I")
_TAG_LENGTH: Final = Struct(">H")
_ZLIB, _HAS_ETAG, _HAS_LAST_MODIFIED = 0x04, 0x10, 0x20
_COMPRESSION_BITS, _RESERVED_BITS = 0x0C, 0xC0
_BEGINNING: Final = MAGIC + bytes([VERSION])
_COPIED: Final = 8_192  # bytes below which a copy is quicker than a memoryview, and quicker to decode
_MEMORY_UNIT: Final = 16  # what an allocator deals out
_MOST_MEMORY: Final = 2**32 - 1
_FASTEST: Final = 1  # zlib's level; 6 takes four times as long for a few per cent fewer bytes of typical rows


class Kind(Enum):
    """What an entry stands for."""

    VALUE = 0
    """A value; the payload is what the codec made of it."""
    NEGATIVE = 1
    """The origin said that there is no such thing."""
    PENDING = 2
    """A load goes on elsewhere; the payload is its handle."""


class Fault(StrEnum):
    """Why an entry in the shared tier is not taken. Each is a miss and a counter."""

    NOT_OURS = "not_ours"
    """It does not begin as an envelope does."""
    VERSION = "version"
    """It was written by another version of the format."""
    HEADER = "header"
    """The header is cut or its checksum is wrong."""
    KEY = "key"
    """It belongs to another key."""
    CHECKSUM = "checksum"
    """What comes after the header is damaged or cut."""
    CODEC = "codec"
    """It was written by a codec other than the tier's, or the codec does not understand it."""
    COMPRESSION = "compression"
    """The compression is unknown, or the payload does not decompress to exactly the length stated."""
    TOO_LARGE = "too_large"
    """The payload is, or says that it is, larger than allowed."""
    SHAPE = "shape"
    """The checksums are right and the facts cannot be: times, lengths, flags or texts."""


class Unreadable(Exception):
    """An entry that is a miss, and why. Never leaves the library."""

    def __init__(self, reason: Fault) -> None:
        super().__init__(reason)
        self.reason: Final = reason


class Stored(NamedTuple):
    """An entry of the shared tier, its payload decompressed and not yet decoded. Durations are in seconds."""

    key: str
    kind: Kind
    loaded_at: float
    fresh_for: float
    stale_while_revalidate: float
    stale_if_error: float
    load_time: float
    born: tuple[int, int]
    etag: str | None
    last_modified: str | None
    tags: tuple[str, ...]
    codec_id: int
    payload: bytes | memoryview
    memory_size: int = 0
    """Bytes that the value takes in memory, as its writer measured it, in steps of 16; 0 where that is not known."""


_KINDS: Final = (Kind.VALUE, Kind.NEGATIVE, Kind.PENDING)


def seal(stored: Stored, *, compress_above: int | None) -> bytes:
    """The envelope of `stored`. A payload over `compress_above` bytes is compressed where that makes it smaller.

    Raises SerializationError for times that are negative or not finite, and for what is too long.
    """
    key, etag, last_modified = _bytes(stored.key), _bytes(stored.etag or ""), _bytes(stored.last_modified or "")
    tags = _tags_block(stored.tags)
    flags = stored.kind.value
    flags |= (stored.etag is not None) * _HAS_ETAG | (stored.last_modified is not None) * _HAS_LAST_MODIFIED
    payload = stored.payload
    if compress_above is not None and len(payload) > compress_above:
        compressed = zlib.compress(payload, _FASTEST)
        if len(compressed) < len(payload):
            payload = compressed
            flags |= _ZLIB
    facts = b"".join((key, etag, last_modified, tags))
    lengths = (len(etag), len(last_modified), len(stored.tags), len(key), len(tags), len(payload), len(stored.payload))
    memory = min(-(-stored.memory_size // _MEMORY_UNIT), _MOST_MEMORY)
    times = (stored.loaded_at, stored.fresh_for, stored.stale_while_revalidate, stored.stale_if_error, stored.load_time)
    if not _are_times(*times):
        raise SerializationError("an entry's times must be finite and not negative")
    body_checksum = zlib.crc32(payload, zlib.crc32(facts))
    try:
        header = _HEADER.pack(
            MAGIC, VERSION, stored.codec_id, flags, *lengths, body_checksum, memory, *times, *stored.born, 0
        )
    except struct.error:
        raise SerializationError(
            "an entry's codec id must be 0 to 255, etag, last_modified and number of tags below 64 Ki, key and payload"
            " below 4 GiB, born two unsigned 64-bit numbers"
        ) from None
    return b"".join((_signed(header[:_CHECKSUM_AT]), facts, payload))


def unseal(data: bytes, key: str, *, max_bytes: int) -> Stored:
    """The entry in `data`, if it is whole, is `key`'s and its payload has at most `max_bytes` when decompressed.

    Raises Unreadable with the reason for anything else, and nothing but Unreadable.
    A large payload shares memory with `data`.
    """
    if data[:4] != _BEGINNING or len(data) < HEADER_SIZE:
        _check_header(data)  # says what it is
    (_, _, codec_id, flags, etag_size, last_modified_size, tag_count, key_size, tags_size, size, raw_size, checksum,
     memory, loaded_at, fresh_for, while_revalidate, if_error, load_time,
     born_at, born_sequence, header_checksum) = _HEADER.unpack_from(data)  # fmt: skip
    if zlib.crc32(data[:_CHECKSUM_AT]) != header_checksum:
        raise Unreadable(Fault.HEADER)
    if size > max_bytes or raw_size > max_bytes:
        raise Unreadable(Fault.TOO_LARGE)
    body = data[HEADER_SIZE:] if len(data) < _COPIED else memoryview(data)[HEADER_SIZE:]
    if zlib.crc32(body) != checksum:
        raise Unreadable(Fault.CHECKSUM)
    facts_size = key_size + etag_size + last_modified_size + tags_size
    kind = flags & 3
    if (
        facts_size + size != len(body)
        or kind == 3
        or flags & _RESERVED_BITS
        or not _are_times(loaded_at, fresh_for, while_revalidate, if_error, load_time)
    ):
        raise Unreadable(Fault.SHAPE)
    if body[:key_size] != _bytes(key):
        raise Unreadable(Fault.KEY)
    etag: str | None = None
    last_modified: str | None = None
    tags: tuple[str, ...] = ()
    if facts_size != key_size or tag_count or flags & (_HAS_ETAG | _HAS_LAST_MODIFIED):
        etag, last_modified, tags = _facts(body[key_size:facts_size], flags, etag_size, last_modified_size, tag_count)
    payload = body[facts_size:]
    if flags & _COMPRESSION_BITS:
        payload = _decompressed(payload, raw_size, flags)
    elif size != raw_size:
        raise Unreadable(Fault.SHAPE)
    return Stored(key, _KINDS[kind], loaded_at, fresh_for, while_revalidate, if_error, load_time,
                  (born_at, born_sequence), etag, last_modified, tags, codec_id, payload, memory * _MEMORY_UNIT)  # fmt: skip


def checksum_of(data: bytes) -> int:
    """The checksum of all that comes after the header, as this states it: with `begins_as`, that of the value itself."""
    return int.from_bytes(data[_BODY_CHECKSUM_AT : _BODY_CHECKSUM_AT + 4])


def begins_as(
    data: bytes, key: str, codec_id: int, *, checksum: int, times: tuple[float, ...], born: tuple[int, int]
) -> bool:
    """Whether `data` begin with a whole header of that very value of `key`, which need not be decoded again then.

    checksum: by `checksum_of` the envelope that is known. times: its `loaded_at`, `fresh_for` and both stale windows.
    """
    if data[:4] != _BEGINNING or len(data) < HEADER_SIZE or data[4] != codec_id or data[5] & 3:
        return False
    stated, *stamped, born_at, born_sequence, signed = _IDENTITY.unpack_from(data, _BODY_CHECKSUM_AT)
    if stated != checksum or tuple(stamped) != times or (born_at, born_sequence) != born:
        return False
    if signed != zlib.crc32(data[:_CHECKSUM_AT]):
        return False
    name = _bytes(key)
    return data.startswith(name, HEADER_SIZE) and len(name) == int.from_bytes(data[12:16])


def rewritten_header(
    data_header: bytes,
    *,
    loaded_at: float | None = None,
    fresh_for: float | None = None,
    stale_while_revalidate: float | None = None,
    stale_if_error: float | None = None,
    load_time: float | None = None,
    born: tuple[int, int] | None = None,
) -> bytes:
    """The header of an envelope with other times, to be written over it; what is None stays as it is.

    `data_header` is the header, or an envelope that begins with it. Raises Unreadable if it is not a whole header of
    this version, SerializationError for times that are negative or not finite.
    """
    _check_header(data_header)
    given = (loaded_at, fresh_for, stale_while_revalidate, stale_if_error, load_time, *(born or (None, None)))
    held = TIMES.unpack_from(data_header, TIMES_AT)
    times = [old if new is None else new for old, new in zip(held, given, strict=True)]
    if not _are_times(*times[:5]):
        raise SerializationError("an entry's times must be finite and not negative")
    return _signed(data_header[:TIMES_AT] + TIMES.pack(*times))


def _check_header(data: bytes) -> None:
    if data[:3] != MAGIC:
        raise Unreadable(Fault.NOT_OURS)
    if len(data) < HEADER_SIZE:
        raise Unreadable(Fault.HEADER)
    if data[3] != VERSION:
        raise Unreadable(Fault.VERSION)
    if _CHECKSUM.unpack_from(data, _CHECKSUM_AT)[0] != zlib.crc32(data[:_CHECKSUM_AT]):
        raise Unreadable(Fault.HEADER)


def _signed(header: bytes) -> bytes:
    return header + _CHECKSUM.pack(zlib.crc32(header))


def _are_times(first: float, second: float, third: float, fourth: float, fifth: float) -> bool:
    """True if none is negative, infinite or NaN. Written out, since every read from the shared tier comes by here."""
    return (
        0.0 <= first < inf and 0.0 <= second < inf and 0.0 <= third < inf and 0.0 <= fourth < inf and 0.0 <= fifth < inf
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _tags_block(tags: tuple[str, ...]) -> bytes:
    try:
        return b"".join(_TAG_LENGTH.pack(len(tag)) + tag for tag in map(_bytes, tags))
    except struct.error:
        raise SerializationError("a tag of an entry must have less than 64 KiB") from None


def _facts(
    block: bytes | memoryview, flags: int, etag_size: int, last_modified_size: int, tag_count: int
) -> tuple[str | None, str | None, tuple[str, ...]]:
    """Etag, last_modified and tags, which must fill the block exactly."""
    tags: list[str] = []
    at = etag_size + last_modified_size
    try:
        etag = _text(block[:etag_size])
        last_modified = _text(block[etag_size:at])
        for _ in range(tag_count):
            (size,) = _TAG_LENGTH.unpack_from(block, at)
            tags.append(_text(block[at + 2 : at + 2 + size]))
            at += 2 + size
    except (struct.error, UnicodeDecodeError):
        raise Unreadable(Fault.SHAPE) from None
    has_etag, has_last_modified = flags & _HAS_ETAG, flags & _HAS_LAST_MODIFIED
    if at != len(block) or (etag and not has_etag) or (last_modified and not has_last_modified):
        raise Unreadable(Fault.SHAPE)
    return etag if has_etag else None, last_modified if has_last_modified else None, tuple(tags)


def _text(block: bytes | memoryview) -> str:
    return str(block, "utf-8", "surrogatepass")


def _decompressed(payload: bytes | memoryview, raw_size: int, flags: int) -> bytes:
    """The payload, whose output is never let grow past the length that the header states."""
    if flags & _COMPRESSION_BITS != _ZLIB:
        raise Unreadable(Fault.COMPRESSION)
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(payload, raw_size + 1)  # one more, so that output which is too long shows
    except (zlib.error, MemoryError):
        raise Unreadable(Fault.COMPRESSION) from None
    if len(raw) != raw_size or not stream.eof or stream.unused_data:
        raise Unreadable(Fault.COMPRESSION)
    return raw
