"""An entry as the bytes that stand in the shared tier, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiered_cache._entry import Entry
from tiered_cache._errors import SerializationError
from tiered_cache._l2.envelope import Fault, Kind, Stored, Unreadable, begins_as, checksum_of, seal, unseal

if TYPE_CHECKING:
    from tiered_cache._l2.codec import Codec

_NEGATIVE, _PENDING = Kind.NEGATIVE, Kind.PENDING  # an enum's members are slow to find


def sealed(key: str, entry: Entry, codec: Codec, *, compress_above: int | None) -> bytes:
    """`entry` in its envelope, by which it is known from then on. Raises SerializationError for what cannot be carried."""
    try:
        kind = Kind.NEGATIVE if entry.negative else Kind.VALUE
        data = seal(_stored(key, entry, kind, codec.id, codec.encode(entry.value)), compress_above=compress_above)
    except SerializationError:
        raise
    except Exception as error:  # a codec of one's own may fail in any way, and a read must not fail with it
        raise SerializationError(f"the codec failed with {type(error).__name__}") from error
    entry.checksum = checksum_of(data)
    return data


def sealed_handle(key: str, left: Entry) -> bytes:
    """What a resumable load left, in an envelope; the value of `left` is the handle. Raises SerializationError."""
    payload = left.value.encode("utf-8", "surrogatepass")
    return seal(_stored(key, left, Kind.PENDING, 0, payload), compress_above=None)


def opened_handle(key: str, data: object, *, max_bytes: int) -> Entry:
    """What a resumable load left under `key`. Raises Unreadable, and nothing else, if `data` are not that."""
    if not isinstance(data, bytes):
        raise Unreadable(Fault.NOT_OURS)
    stored = unseal(data, key, max_bytes=max_bytes)
    if stored.kind is not Kind.PENDING or stored.codec_id != 0:
        raise Unreadable(Fault.CODEC)
    try:
        handle = str(stored.payload, "utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise Unreadable(Fault.SHAPE) from None
    return _entry(stored, handle)


def confirmed(key: str, data: object, codec: Codec, held: Entry) -> Entry | None:
    """The data of `held`, which L1 holds, read anew, where `data` begin as its envelope did; else None."""
    if not held.is_recognizable or not isinstance(data, bytes):
        return None
    times = (held.loaded_at, held.fresh_for, held.stale_while_revalidate, held.stale_if_error)
    is_same = begins_as(data, key, codec.id, checksum=held.checksum, times=times, born=held.born)
    return held.read_again() if is_same else None


def opened(key: str, data: object, codec: Codec, *, max_bytes: int, held: Entry | None = None) -> Entry:
    """The entry in `data`. Raises Unreadable, and nothing else, if it is not one of ours, or not this key's, or damaged.

    held: what L1 holds; if `data` are the same load's, its value is taken, and what stands after their header not read.
    """
    if not isinstance(data, bytes):
        raise Unreadable(Fault.NOT_OURS)
    if held is not None and (again := confirmed(key, data, codec, held)) is not None:
        return again
    stored = unseal(data, key, max_bytes=max_bytes)
    kind = stored.kind
    if stored.codec_id != codec.id or kind is _PENDING:  # a load's handle is nobody's value
        raise Unreadable(Fault.CODEC)
    try:
        value = codec.decode(stored.payload)
    except Exception:  # noqa: BLE001  # a codec may fail in any way on bytes that it did not write
        raise Unreadable(Fault.CODEC) from None
    if kind is _NEGATIVE and type(value) is not str:
        raise Unreadable(Fault.SHAPE)
    entry = _entry(stored, value)
    entry.checksum = checksum_of(data)
    return entry


def _stored(key: str, entry: Entry, kind: Kind, codec_id: int, payload: bytes) -> Stored:
    return Stored(
        key=key,
        kind=kind,
        loaded_at=entry.loaded_at,
        fresh_for=entry.fresh_for,
        stale_while_revalidate=entry.stale_while_revalidate,
        stale_if_error=entry.stale_if_error,
        load_time=entry.load_time,
        born=entry.born,
        etag=entry.etag,
        last_modified=entry.last_modified,
        tags=entry.tags,
        codec_id=codec_id,
        payload=payload,
        memory_size=entry.value_size,
    )


def _entry(stored: Stored, value: Any) -> Entry:
    """Taken apart at once, since each of its names would be a look-up, and every read from L2 comes by here."""
    (_, kind, loaded_at, fresh_for, while_revalidate, if_error, load_time,
     born, etag, last_modified, tags, _, _, memory_size) = stored  # fmt: skip
    return Entry(
        value,
        loaded_at=loaded_at,
        fresh_for=fresh_for,
        stale_while_revalidate=while_revalidate,
        stale_if_error=if_error,
        load_time=load_time,
        etag=etag,
        last_modified=last_modified,
        tags=tags,
        negative=kind is _NEGATIVE,
        birth=(born, 0),
        value_size=memory_size,
    )
