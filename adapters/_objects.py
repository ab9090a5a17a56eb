"""One S3 object's body, read whole or not at all."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from tiered_cache._errors import LoadTimeout, OriginMalformed, SizeLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tiered_cache.adapters._boto import Call

_CHUNK = 64 * 1024


def body(answer: Mapping[str, Any], max_bytes: int, call: Call, remaining: Callable[[], float | None]) -> bytes:
    """The bytes of a GetObject answer; its stream is closed in every case.

    Raises SizeLimitExceeded before anything is read if there are more than `max_bytes`, OriginMalformed if the answer
    is not an object of S3 (no ETag, no length) or its length is not the one announced, and LoadTimeout when
    `remaining` is up: it is looked at after each 64 KiB.
    """
    stream = answer["Body"]
    try:
        if not answer.get("ETag"):  # a proxy's page of HTML has none
            raise OriginMalformed(call.says("the answer has no ETag, so it is not an object of S3"))
        length = answer.get("ContentLength")
        if length is None:
            raise OriginMalformed(call.says("the answer does not say how long the object is"))
        if length > max_bytes:
            raise SizeLimitExceeded(call.says(f"it has {length} bytes, more than the {max_bytes} allowed by max_bytes"))
        return _read(stream, length, call, remaining)
    finally:
        stream.close()


def _read(stream: Any, length: int, call: Call, remaining: Callable[[], float | None]) -> bytes:
    taken = BytesIO()  # getvalue() hands over its bytes without a copy
    while chunk := stream.read(_CHUNK):
        taken.write(chunk)
        left = remaining()
        if left is not None and left <= 0 and taken.tell() < length:
            raise LoadTimeout(call.says(f"time was up after {taken.tell()} of {length} bytes"))
    if taken.tell() != length:
        raise OriginMalformed(call.says(f"the body ended after {taken.tell()} of {length} bytes"))
    return taken.getvalue()
