"""What others may leave under a key: foreign formats, and small entries that are meant to cost much."""

from __future__ import annotations

import gzip
import json
import pickle
import struct
import zlib
from functools import cache
from typing import Any, Final

import msgpack
from mutations import extension
from stored import CODEC, GENUINE, MAX_BYTES, VALUES, holding, signed

from tiered_cache._l2.envelope import Kind

_MODULUS: Final = 2**61 - 1  # Python's hashes of numbers are residues of this
_PLAIN: Final = GENUINE["plain"]


def foreign_formats() -> dict[str, Any]:
    """What another program, another version or a broken client may give: none of it is an entry."""
    text = json.dumps(VALUES["rows"]).encode()
    found: dict[str, Any] = {
        "nothing": b"",
        "a byte": b"\xc1",
        "the magic": b"\xc1TC",
        "zeros": bytes(500),
        "json": text,
        "msgpack": msgpack.packb(VALUES["rows"]),
        "our codec without an envelope": CODEC.encode(VALUES["collections"]),
        "zlib": zlib.compress(text),
        "gzip": gzip.compress(text),
        "html": b"<!DOCTYPE html>" + text,
        "an envelope in msgpack": msgpack.packb(_PLAIN),
        "an envelope in zlib": zlib.compress(_PLAIN),
        "an envelope in base 16": _PLAIN.hex().encode(),
        "an envelope after another": _PLAIN + _PLAIN,
        "an envelope that was decoded as text": _PLAIN.decode("latin1").encode(),
        "text": "an envelope",
        "a number": 5,
        "a list": [_PLAIN],
        "an array of bytes": bytearray(_PLAIN),
        "nil": None,
        "an error": ValueError("WRONGTYPE"),
    }
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found[f"pickle {protocol}"] = pickle.dumps(VALUES["rows"], protocol)
    for version in set(range(256)) - {1}:
        found[f"version {version}"] = signed(_PLAIN[:3] + bytes([version]) + _PLAIN[4:])
    for codec in set(range(256)) - {CODEC.id}:
        found[f"codec {codec}"] = signed(_PLAIN[:4] + bytes([codec]) + _PLAIN[5:])
    return found


@cache
def bombs() -> dict[str, bytes]:
    """Entries with right checksums that an unwary reader would pay for with its time, memory or stack."""
    payloads = _lengths() | _texts() | _floods()
    return {name: holding(payload) for name, payload in payloads.items()}


@cache
def packed_bombs() -> dict[str, bytes]:
    """The same compressed, so that very little is stored, and compressed streams that are bombs themselves."""
    payloads = _lengths() | _texts() | _floods()
    return _streams() | {name: holding(payload, compress_above=0) for name, payload in payloads.items()}


def _streams() -> dict[str, bytes]:
    packer = zlib.compressobj(9)
    zeros = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(128)), packer.flush()])
    found = {
        f"{size} bytes that say {stated}": compressed(zeros, stated)
        for size, stated in ((2**27, 0), (2**27, 10), (2**27, MAX_BYTES), (2**27, MAX_BYTES + 1), (2**27, 2**27))
    }
    found["a stream in a stream"] = compressed(zlib.compress(zeros, 9), len(zeros))
    found["streams in a row"] = compressed(zlib.compress(b"\xc0") * 10_000, 10_000)
    asks_for_dictionary = zlib.compressobj(zdict=b"orders")
    found["a stream with a dictionary"] = compressed(
        asks_for_dictionary.compress(b"\xc0") + asks_for_dictionary.flush(), 1
    )
    return found


def compressed(stream: bytes, stated: int) -> bytes:
    """An entry whose payload is said to be zlib's and to decompress to the stated length."""
    data = bytearray(holding(stream))
    data[5] |= 0x04
    struct.pack_into(">I", data, 24, stated)
    return signed(bytes(data))


def _lengths() -> dict[str, bytes]:
    """Containers that say that they are large, deep or within each other without end."""
    found: dict[str, bytes] = {}
    for head in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF):
        for size in (2**32 - 1, 2**31, MAX_BYTES, 100):
            found[f"{head:#x} of {size}"] = bytes([head]) + struct.pack(">I", size) + bytes(100)
    for name, head in (("lists", b"\xdd"), ("dicts", b"\xdf")):
        found[f"{name} that say that they are long"] = (head + struct.pack(">I", 250_000)) * 1000 + b"\xc0" * 250_000
    for name, empty in (("dicts", b"\x80"), ("lists", b"\x90"), ("texts", b"\xa0")):
        found[f"empty {name}"] = b"\xdd" + struct.pack(">I", MAX_BYTES - 5) + empty * (MAX_BYTES - 5)
    for name, level in (
        ("lists", b"\x91"),
        ("dicts", b"\x81\xa1k"),
        ("keys", b"\x81"),
        ("tuples", b"\x92\xc7\x00\x01"),
    ):
        for depth in (1000, 1100, 200_000):
            deep = level * depth + b"\xc0"
            found[f"{depth} {name}"] = deep
            found[f"{depth} wrapped {name}"] = extension(4, deep)
            found[f"{depth} {name} as a key"] = extension(4, b"\x81" + deep + b"\xc0")
    wrapper = b"\xc0"
    for _ in range(2000):
        wrapper = extension(4, wrapper)
    found["wrappers in wrappers"] = wrapper
    found["wrappers in a row"] = b"\xdd" + struct.pack(">I", 10_000) + extension(4, b"\x91" * 9) * 10_000
    found["marks alone"] = extension(4, b"\xdd" + struct.pack(">I", 80_000) + b"\xc7\x00\x03" * 80_000)
    found["a mark"] = extension(4, b"\xc7\x00\x02")
    found["a mark in second place"] = extension(4, b"\x92\x01\xc7\x00\x02")
    found["a mark as a key"] = extension(4, b"\x81\xc7\x00\x02\x01")
    found["a mark as a value"] = extension(4, b"\x81\x01\xc7\x00\x02")
    for code in range(-128, 128):
        for size in (0, 1, 4, 8, 12, 16, 17):
            found[f"extension {code} of {size}"] = extension(code, b"\xff" * size)
    return found


def _texts() -> dict[str, bytes]:
    """Numbers, moments and zones that are out of bounds, or expensive to read."""
    large = MAX_BYTES - 100
    found = {
        "a large int": extension(5, b"\x7f" * large),
        "a large int as a key": b"\x81" + extension(5, b"\x7f" * (large - 10)) + b"\xc0",
        "many digits": extension(6, b"9" * large),
        "many digits as a key": b"\x81" + extension(6, b"9" * (large - 10)) + b"\xc0",
        "days beyond": extension(10, struct.pack(">3i", 2**31 - 1, 2**31 - 1, 2**31 - 1)),
        "days below": extension(10, struct.pack(">3i", -(2**31), -(2**31), -(2**31))),
        "a timestamp": b"\xd6\xff\0\0\0\1",
        "timestamps": b"\x92\xd6\xff\0\0\0\1\xd7\xff" + b"\xff" * 8,
        "a late timestamp": b"\xc7\x0c\xff" + b"\xff" * 12,
    }
    for number in ("1E+999999999999999999", "1E-999999999999999999", "1E+9999999999999999999", "NaN" + "9" * 9999, "sNaN",
                   "x", "", "1E+999999999999999999999999999999", "0E+999999999999999999", "Infinity", "1" * 5000):  # fmt: skip
        found[f"decimal {number[:30]}"] = extension(6, number.encode())
        found[f"decimal {number[:30]} as a key"] = b"\x82" + extension(6, number.encode()) + b"\xc0\x01\xc0"
    for moment in ("0000-01-01", "10000-01-01", "2024-13-01", "2023-02-29", "2024-01-01T24:00:01", "24:00", "0001-W01-1",
                   "2024-01-01T00:00:00+99:99", "9999-12-31T23:59:59-23:59", "", "|", "||", "2024-01-01|0|", "1|1|1|1",
                   "2024-01-01T00:00:00|" + "1" * 100_000 + "|", "01:02|2|", "01:02|-1|"):  # fmt: skip
        for code in (7, 8, 9):
            found[f"moment {moment[:40]} as {code}"] = extension(code, moment.encode())
    for zone in ("Nowhere/Land", "/etc/passwd", "../../etc/passwd", "Europe", "zone.tab", "x" * 100_000, "a\0b", ".", "\n",
                 "Europe/../Europe/Berlin", "C:\\x", "tzdata", "a.b/c", "=", "=x", "==", "=1=", "=86399999999", "=86400000000",
                 "=-86400000000", "=" + "9" * 5000, "=0=" + "n" * 100_000):  # fmt: skip
        for moment in ("2024-01-01T00:00:00", "0001-01-01T00:00:00", "9999-12-31T23:59:59.999999"):
            found[f"zone {zone[:30]} at {moment}"] = extension(9, f"{moment}|0|{zone}".encode())
    return found


def colliding_keys(count: int) -> dict[str, list[bytes]]:
    """Keys that are different and have one hash, as they are packed inside a wrapper."""
    numbers = [_MODULUS * (2**10 + number) for number in range(count)]
    ints = [extension(5, number.to_bytes(12, "big")) for number in numbers]
    return {
        "ints": ints,
        "uuids": [extension(11, number.to_bytes(16, "big")) for number in numbers],
        "decimals": [extension(6, str(number).encode()) for number in numbers],
        "tuples": [b"\x92\xc7\x00\x01" + number for number in ints],
        "frozensets": [b"\x92\xc7\x00\x03" + number for number in ints],
    }


def _floods() -> dict[str, bytes]:
    """Dicts and sets of colliding keys, and two keys that are slow to compare."""
    found: dict[str, bytes] = {}
    for name, keys in colliding_keys(8000).items():
        found[f"dict of {name}"] = extension(4, mapping(keys))
        found[f"set of {name}"] = extension(
            4, b"\xdd" + struct.pack(">I", len(keys) + 1) + b"\xc7\x00\x02" + b"".join(keys)
        )
        if name in ("ints", "uuids", "decimals"):
            found[f"plain dict of {name}"] = mapping(keys)
    found.update(slow_pairs(200_000))
    return found


def slow_pairs(size: int) -> dict[str, bytes]:
    """A large int and a Decimal with its hash: to compare them, the int is turned into decimal digits."""
    large = 1 << (8 * size - 20)
    pair = [extension(5, large.to_bytes(size, "big")), extension(6, str(large % _MODULUS).encode())]
    in_tuples = [b"\x92\xc7\x00\x01" + key for key in pair]
    return {
        "slow pair": mapping(pair),
        "slow pair in tuples": extension(4, mapping(in_tuples)),
        "slow pair in a set": extension(4, b"\x93\xc7\x00\x02" + b"".join(pair)),
    }


def mapping(keys: list[bytes]) -> bytes:
    return b"\xdf" + struct.pack(">I", len(keys)) + b"".join(key + b"\xc0" for key in keys)


def kinds_that_hold_no_value() -> dict[str, bytes]:
    """Entries that are right in all but their kind."""
    return {
        "a pending load with a payload": holding(b"\xa1x", kind=Kind.PENDING),
        "a pending load": holding(b"handle", kind=Kind.PENDING, codec_id=0),
        "an absence that is a number": holding(b"\x05", kind=Kind.NEGATIVE),
        "an absence of nothing": holding(b"\xc0", kind=Kind.NEGATIVE),
        "an absence without a codec": holding(b"", kind=Kind.NEGATIVE, codec_id=0),
    }
