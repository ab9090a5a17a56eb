"""Ways to alter an entry. Accidents leave the checksums alone; forgeries make them right again afterwards."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

from stored import FACTS, GENUINE, MAX_BYTES, OTHERS, holding, signed

from tiered_cache._l2.envelope import HEADER_SIZE, Kind, unseal

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

_GENUINE: Final = tuple(GENUINE.values())

# Accidents: what broken hardware, a broken network or a broken writer may do.


def flipped(chance: Random) -> bytes:
    """One to three bits."""
    data = bytearray(chance.choice(_GENUINE))
    for _ in range(chance.randint(1, 3)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def burst(chance: Random) -> bytes:
    """Neighbouring bits, up to 64."""
    data = chance.choice(_GENUINE)
    size = chance.randint(1, 8)
    at = chance.randrange(len(data) - size)
    noise = int.from_bytes(data[at : at + size], "big") ^ chance.getrandbits(8 * size)
    return data[:at] + noise.to_bytes(size, "big") + data[at + size :]


def cut(chance: Random) -> bytes:
    """Only the beginning, only the end, or a piece out of the middle is there."""
    data = chance.choice(_GENUINE)
    start, end = sorted((chance.randrange(len(data)), chance.randrange(len(data))))
    return chance.choice((data[:end], data[start:], data[start:end], data[:start] + data[end:]))


def grown(chance: Random) -> bytes:
    """Noise, or a part of the entry itself, stands somewhere between, before or after."""
    data = chance.choice(_GENUINE)
    at, start = chance.randint(0, len(data)), chance.randrange(len(data))
    more = chance.choice((chance.randbytes(chance.randint(1, 40)), data[start : start + chance.randint(1, 100)]))
    return data[:at] + more + data[at:]


def spliced(chance: Random) -> bytes:
    """The beginning of one entry and the end of another, of this key or not, at one place or two."""
    one, other = chance.choice(_GENUINE), chance.choice(_GENUINE + OTHERS)
    at = chance.choice((HEADER_SIZE, 36, chance.randrange(len(one))))
    return one[:at] + other[chance.choice((at, chance.randrange(len(other)))) :]


def overwritten(chance: Random) -> bytes:
    """A part is noise, or zeros."""
    data = chance.choice(_GENUINE)
    at, size = chance.randrange(len(data)), chance.choice((1, 2, 4, 16, 64, 512))
    size = min(size, len(data) - at)
    return data[:at] + chance.choice((bytes(size), chance.randbytes(size))) + data[at + size :]


def noise(chance: Random) -> bytes:
    """Random bytes, by themselves or after the start of a real entry."""
    kept = chance.choice((0, 3, 4, 36, HEADER_SIZE, HEADER_SIZE + len(FACTS.key.encode())))
    return chance.choice(_GENUINE)[:kept] + chance.randbytes(chance.choice((1, 8, 60, 100, 400)))


def foreign(chance: Random) -> bytes:
    """A whole entry of another key."""
    return chance.choice(OTHERS)


ACCIDENTS: Final[tuple[Callable[[Random], bytes], ...]] = (
    flipped, burst, cut, grown, spliced, overwritten, noise, foreign,
)  # fmt: skip

# Forgeries: what a faulty or hostile writer may leave. The checksums hold.

_FIELDS: Final = (
    *((at, ">B") for at in (3, 4, 5)),
    *((at, ">H") for at in (6, 8, 10)),
    *((at, ">I") for at in (12, 16, 20, 24, 32)),
    *((at, ">d") for at in (36, 44, 52, 60, 68)),
    *((at, ">Q") for at in (36, 76, 84)),
)
_EDGES: Final = {
    ">B": (0, 1, 2, 3, 4, 5, 0x10, 0x20, 0x34, 0x40, 0x80, 255),
    ">H": (0, 1, 2, 255, 65535),
    ">I": (0, 1, 10, 255, 65536, MAX_BYTES, MAX_BYTES + 1, 2**31 - 1, 2**32 - 1),
    ">d": (0.0, -0.0, 5e-324, 1.0, 1e18, 1.7e308, -1.0, float("inf"), float("-inf"), float("nan")),
    ">Q": (0, 1, 2**52, 2**63 - 1, 2**63, 2**64 - 1),
}


def fields(chance: Random) -> bytes:
    """One to three facts of the header are others."""
    data = bytearray(chance.choice(_GENUINE))
    for _ in range(chance.randint(1, 3)):
        at, form = chance.choice(_FIELDS)
        struct.pack_into(form, data, at, chance.choice(_EDGES[form]))
    return signed(bytes(data))


def header_noise(chance: Random) -> bytes:
    """The header is noise from somewhere on."""
    data, at = chance.choice(_GENUINE), chance.randint(4, HEADER_SIZE - 4)
    return signed(data[:at] + chance.randbytes(HEADER_SIZE - at) + data[HEADER_SIZE:])


def resigned(chance: Random) -> bytes:
    """Any accident to an entry, vouched for."""
    return signed(chance.choice(ACCIDENTS)(chance))


def altered_payload(chance: Random) -> bytes:
    """A few bytes of what the codec wrote are others; all lengths are right."""
    data = bytearray(chance.choice(_PAYLOADS))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        data[at] = chance.choice((chance.choice(_HEADS), chance.randrange(256)))
    end = chance.choice((len(data), len(data), chance.randrange(len(data)) + 1))
    return holding(bytes(data[:end]), compress_above=chance.choice((None, 0)), kind=chance.choice(_KINDS))


def soup(chance: Random) -> bytes:
    """A payload of msgpack's own building blocks, some with lengths that lie."""
    payload = b"".join(_token(chance) for _ in range(chance.choice((1, 2, 3, 5, 10, 30))))
    wrap = chance.choice((False, False, True))
    payload = extension(4, payload) if wrap else payload
    return holding(payload, compress_above=chance.choice((None, 0)), kind=chance.choice(_KINDS))


def altered_stream(chance: Random) -> bytes:
    """A compressed payload is damaged, or its length is not what it says, and both checksums hold."""
    raw = chance.choice(_PAYLOADS) * chance.choice((1, 1, 3))
    stream = bytearray(zlib.compress(raw, chance.choice((0, 1, 9))))
    for _ in range(chance.randint(0, 2)):
        stream[chance.randrange(len(stream))] ^= 1 << chance.randrange(8)
    end = chance.choice((len(stream), len(stream), chance.randrange(len(stream))))
    data = bytearray(holding(bytes(stream[:end])))
    data[5] |= 0x04
    struct.pack_into(">I", data, 24, max(0, len(raw) + chance.choice((0, 0, 0, -1, 1, 1000))))
    return signed(bytes(data))


FORGERIES: Final[tuple[Callable[[Random], bytes], ...]] = (
    fields, header_noise, resigned, altered_payload, soup, altered_stream,
)  # fmt: skip


def extension(code: int, data: bytes) -> bytes:
    """A msgpack extension, its length in four bytes."""
    return b"\xc9" + struct.pack(">Ib", len(data), code) + data


def _payload(data: bytes) -> bytes:
    return bytes(unseal(data, FACTS.key, max_bytes=MAX_BYTES).payload)


_KINDS: Final = (Kind.VALUE, Kind.VALUE, Kind.VALUE, Kind.NEGATIVE, Kind.PENDING)
_PAYLOADS: Final = tuple(map(_payload, _GENUINE))
_HEADS: Final = bytes([*range(0xC0, 0xE0), 0x80, 0x81, 0x82, 0x90, 0x91, 0x92, 0xA0, 0xA1, 0x00, 0xFF])
_MARKS: Final = (b"\xc7\x00\x01", b"\xc7\x00\x02", b"\xc7\x00\x03")
_TEXTS: Final = (
    b"", b"x", b"1", b"-0", b"NaN", b"sNaN9", b"1E+999999999999999999", b"1E+9999999999999999999", b"1_0", b"\xd9\xa1",
    b"2024-02-29", b"2024-02-30", b"0000-01-01", b"9999-12-31", b"99999-01-01", b"2024-W01-1", b"01:02:03.5",
    b"24:00", b"2024-01-01T00:00:00", b"9999-12-31T23:59:59.999999-23:59", b"2024-01-01T00:00:00|1|", b"01:02|2|",
    b"2024-01-01T00:00:00|0|Europe/Berlin", b"2024-01-01T00:00:00|0|../../etc/passwd", b"2024-01-01T00:00:00|0|/x",
    b"2024-01-01T00:00:00|0|Europe", b"2024-01-01T00:00:00|0|a\0b", b"2024-01-01T00:00:00|0|=1=n", b"01:02|0|=",
    b"2024-01-01T00:00:00|0|=86400000000", b"2024-01-01T00:00:00|0|=99999999999999999999", b"01:02|0|Asia/Kolkata|",
)  # fmt: skip


def _token(chance: Random) -> bytes:
    """A part of a msgpack value: a whole scalar, the head of a container, an extension, or a mark."""
    choice = chance.randrange(10)
    if choice < 3:
        return bytes([chance.choice((0xC0, 0xC2, 0xC3, 0x00, 0x7F, 0xE0, 0xFF, 0xA0, 0x80, 0x90))])
    if choice < 5:
        return bytes([chance.choice((0x81, 0x82, 0x83, 0x91, 0x92, 0x93))])
    if choice == 5:
        return chance.choice(_MARKS)
    if choice == 6:
        text = chance.choice(_TEXTS)
        return extension(chance.randint(5, 11), text)
    if choice == 7:
        return extension(chance.randint(-2, 13), chance.randbytes(chance.choice((0, 1, 4, 8, 12, 15, 16, 17))))
    if choice == 8:
        return bytes([chance.choice(_HEADS)]) + chance.randbytes(chance.randint(0, 9))
    head, form = chance.choice(((0xDC, ">H"), (0xDD, ">I"), (0xDE, ">H"), (0xDF, ">I"), (0xDB, ">I"), (0xC6, ">I")))
    return bytes([head]) + struct.pack(form, chance.choice((0, 1, 2, 3, 100, 65535)))
