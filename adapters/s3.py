"""Objects of S3 as loaders.

rates = S3Origin("my-bucket")
cache.get_or_load("rates", rates.object("rates.json", decode=json.loads))
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, final

from tiered_cache._errors import ConfigurationError, OriginMalformed, TieredCacheError
from tiered_cache._units import shown, size
from tiered_cache._values import MISSING, Loaded
from tiered_cache.adapters._boto import Call, Clients, http_status
from tiered_cache.adapters._objects import body

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._units import Duration, Size
    from tiered_cache._values import LoadContext

_BUCKET = re.compile(r"[a-zA-Z0-9.\-_]{3,255}|arn:aws[^:\s]*:s3[^:\s]*:\S+", re.ASCII)
_KEY_BYTES = 1024


@final
class S3Origin:
    """One bucket. Needs `s3:GetObject`, and `s3:ListBucket` so that S3 says 'absent' where it otherwise says 'denied'.

    bucket: its name, or the ARN or alias of an access point.
    client: a boto3 S3 client, used as it is; by default one is made at the first load.
    max_bytes: an object larger than this raises SizeLimitExceeded before its body is read.
    read_timeout: the longest wait for any one piece of an answer, cut to fit the time that a load has left.

    Raises ConfigurationError or TypeError for an argument that cannot mean anything.
    """

    __slots__ = ("_call", "_clients", "_max_bytes", "bucket")

    def __init__(
        self, bucket: str, client: Any = None, *, max_bytes: Size = "256 MiB", read_timeout: Duration = 5
    ) -> None:
        if not isinstance(bucket, str) or not _BUCKET.fullmatch(bucket):  # pyright: ignore[reportUnnecessaryIsInstance] untyped callers
            allowed = "a bucket's name without s3:// and without a path, or an access point's ARN"
            raise ConfigurationError(f"bucket must be {allowed}; got {shown(bucket)}")
        self.bucket = bucket
        self._max_bytes = size("max_bytes", max_bytes)
        self._call = Call("GetObject", f"bucket {bucket!r}")
        self._clients = Clients(
            "s3", client, read_timeout, prepare=_empty_304, response_checksum_validation="when_required"
        )

    def object(
        self, key: str, decode: Callable[[bytes], Any] = bytes, *, version_id: str | None = None
    ) -> ObjectRequest:
        """The loader of one object; cheap enough to be made in each invocation.

        decode: makes the value of the body, such as `json.loads`; called once for each version of the object.
        version_id: read this version, which never changes: any TTL is right for it.
        """
        _check_key(key)
        if not callable(decode):
            raise TypeError(f"decode must be callable with the object's bytes, such as json.loads; got {shown(decode)}")
        return ObjectRequest(self, key, decode, version_id)

    def _load(self, request: ObjectRequest, context: LoadContext) -> Any:
        parameters = {"Bucket": self.bucket, "Key": request.key}
        if request.version_id is not None:
            parameters["VersionId"] = request.version_id
        if context.stale is not MISSING and context.etag:
            parameters["IfNoneMatch"] = context.etag

        def get(client: Any) -> Any:
            try:
                answer = client.get_object(**parameters)
            except client.exceptions.ClientError as error:
                if http_status(error) == 304 and "IfNoneMatch" in parameters:
                    return None
                raise
            return body(answer, self._max_bytes, self._call, context.remaining), answer

        got = self._clients.run(self._call, context.remaining, get)
        if got is None:
            return context.not_modified()
        content, answer = got
        headers = answer["ResponseMetadata"]["HTTPHeaders"]
        value = self._decoded(request.decode, content)
        return Loaded(value, etag=answer["ETag"], last_modified=headers.get("last-modified"))

    def _decoded(self, decode: Callable[[bytes], Any], content: bytes) -> Any:
        try:
            return decode(content)
        except (TieredCacheError, MemoryError):
            raise
        except Exception as error:  # whatever the caller's function raises for bytes that it cannot read
            text = f"decode raised {type(error).__name__} on {len(content)} bytes"
            raise OriginMalformed(self._call.says(text)) from error

    def close(self) -> None:
        """Close the connections. A client that was handed in stays open. Later loads raise ClosedError."""
        self._clients.close()

    def __repr__(self) -> str:
        return f"S3Origin({self.bucket!r})"


class ObjectRequest(NamedTuple):
    """One object, as a loader; made by `S3Origin.object`, never changed, used as often as you like."""

    origin: S3Origin
    key: str
    decode: Callable[[bytes], Any]
    version_id: str | None

    def load(self, context: LoadContext, /) -> Any:
        """The decoded object as a `Loaded` with its validators, or 'not modified'.

        A stale value's ETag goes along as If-None-Match (RFC 9110, 13.1.2), so that an unchanged object is not moved
        again. Raises NotFound where S3 says that there is no such key, OriginDenied, OriginThrottled, OriginMalformed,
        SizeLimitExceeded, OriginError, ConfigurationError, or LoadTimeout if too little time is left.
        """
        return self.origin._load(self, context)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] one module

    def __repr__(self) -> str:
        return f"<object of {self.origin!r}>"  # a key may be personal


def _check_key(key: object) -> None:
    if not isinstance(key, str):
        raise TypeError(f"key must be a str, the object's name in the bucket; got {shown(key)}")
    try:
        length = len(key) if key.isascii() else len(key.encode())
    except UnicodeEncodeError:
        raise ConfigurationError("key must be text that UTF-8 can carry; it has a lone surrogate") from None
    if not 1 <= length <= _KEY_BYTES:
        raise ConfigurationError(f"key must have 1 to {_KEY_BYTES} bytes in UTF-8; got {length}")


def _empty_304(client: Any) -> None:
    """Teach `client` that a 304 has no body: with a checksum header on it botocore fails with a TypeError."""

    def before_parse(response_dict: dict[str, Any], **_: Any) -> None:
        if response_dict["status_code"] == 304:
            response_dict["body"] = b""

    client.meta.events.register("before-parse.s3.GetObject", before_parse, unique_id="tiered-cache-304")
