"""How a value becomes bytes for the shared tier, and how it comes back.

The default is msgpack with extension types (`MsgpackCodec`): nothing is executed when it decodes, whatever the bytes
are. There is no pickle codec, since whoever can write to the shared tier could run code in every container that reads
it. What the default cannot carry goes through a codec of one's own, given as `RedisTier(codec=...)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Codec(Protocol):
    """Turns values into bytes and back, for every container that shares the tier.

    Both methods may be called from several threads at once, and must not block.
    """

    id: int
    """1 to 255, stored with each entry. An entry with another id is a miss. 1 is `MsgpackCodec`; take 128 or above."""

    def encode(self, value: Any, /) -> bytes:
        """The bytes that `decode` turns into an equal value of the same type.

        Raises SerializationError, with the path inside the value and never the value itself, where that cannot be done.
        """
        ...

    def decode(self, data: bytes | memoryview, /) -> Any:
        """The value that `encode` was given. Raises any exception for bytes that it does not understand: a miss."""
        ...


class MsgpackCodec:
    """The default codec: msgpack, with extensions so that every value comes back equal and of the same type.

    Carried, nested up to 1,024 levels: None, bool, int of any size, float, str, bytes, list, tuple, set,
    frozenset, dict with keys of any of these, Decimal, date, time, datetime, timedelta and UUID. Time zones: none,
    fixed offsets with their names, and zoneinfo zones by their key, so the reading side needs that zone's data.

    Refused, since it would come back as another type: subclasses (named tuples, enums, OrderedDict), bytearray, and
    everything else; also text with lone surrogates, other tzinfo classes, and values that hold themselves.
    Objects that occur twice come back as two. msgpack is imported when the codec is first used.
    """

    __slots__ = ("_pack", "_unpack")

    id: int = 1

    def __init__(self) -> None:
        self._pack: Callable[[Any], bytes] | None = None
        self._unpack: Callable[[bytes | memoryview], Any] | None = None

    def encode(self, value: Any, /) -> bytes:
        """The msgpack form of `value`. Raises SerializationError with type and path of what cannot be carried."""
        return (self._pack or self._open()[0])(value)

    def decode(self, data: bytes | memoryview, /) -> Any:
        """The value in `data`. Raises for anything that is not exactly one well-formed value.

        No length inside may exceed that of `data`, and nesting is bounded by the C unpacker's own stack of 1,024.
        """
        return (self._unpack or self._open()[1])(data)

    def _open(self) -> tuple[Callable[[Any], bytes], Callable[[bytes | memoryview], Any]]:
        from tiered_cache._l2.packing import pack, unpack

        self._pack, self._unpack = pack, unpack
        return pack, unpack

    def __repr__(self) -> str:
        return "MsgpackCodec()"
