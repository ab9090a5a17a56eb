"""S3 objects as loaders."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from fault_server import CLOSED, HTML, FaultServer, Reply, s3_error, s3_object

from tiered_cache._errors import (
    ConfigurationError,
    LoadTimeout,
    NotFound,
    OriginDenied,
    OriginError,
    OriginMalformed,
    OriginThrottled,
    SizeLimitExceeded,
    TieredCacheError,
)
from tiered_cache._values import LoadContext, Loaded, Outcome
from tiered_cache.adapters.s3 import S3Origin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiered_cache.local.aws import AWSServer

NOT_MODIFIED = Reply(304, headers=(("ETag", '"e1"'), ("x-amz-checksum-crc32", "AAAAAA==")))
ELSEWHERE = s3_error("PermanentRedirect", 301, ("x-amz-bucket-region", "us-west-2"))


@pytest.fixture
def bucket(local_aws: AWSServer) -> str:
    """A bucket with one object, `rates.json`, on a local S3."""
    client = local_aws.client("s3")
    client.create_bucket(Bucket="rates")
    client.put_object(Bucket="rates", Key="rates.json", Body=b'{"eur": 1}')
    return "rates"


@pytest.fixture
def s3(faults: FaultServer) -> Iterator[S3Origin]:
    """An origin that asks the scripted server, with its own clients."""
    origin = S3Origin("rates", max_bytes=1000)
    yield origin
    origin.close()


def stale(**others: Any) -> LoadContext:
    return LoadContext("k", stale="old", etag='"e1"', **others)


def test_an_object_comes_decoded_with_its_validators(local_aws: AWSServer, bucket: str) -> None:
    """The value is what decode makes of the body; the ETag keeps its quotes."""
    loaded = S3Origin(bucket, local_aws.client("s3")).object("rates.json", json.loads).load(LoadContext("k"))
    assert isinstance(loaded, Loaded)
    assert loaded.value == {"eur": 1}
    assert loaded.etag is not None
    assert loaded.etag.startswith('"')
    assert loaded.last_modified is not None
    assert loaded.last_modified.endswith("GMT")


def test_an_unchanged_object_is_not_moved_again_and_a_changed_one_is(local_aws: AWSServer, bucket: str) -> None:
    """With a stale value the ETag goes along: 'not modified' as long as it is the same, then the new value."""
    client = local_aws.client("s3")
    request = S3Origin(bucket, client).object("rates.json")
    first = request.load(LoadContext("k"))
    again = LoadContext("k", stale=first.value, etag=first.etag)
    assert request.load(again) is Outcome.NOT_MODIFIED
    client.put_object(Bucket=bucket, Key="rates.json", Body=b"new")
    assert request.load(again).value == b"new"


def test_a_version_is_read_as_it_was(local_aws: AWSServer, bucket: str) -> None:
    """version_id reads that version, whatever was written since."""
    client = local_aws.client("s3")
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = client.put_object(Bucket=bucket, Key="v", Body=b"one")["VersionId"]
    client.put_object(Bucket=bucket, Key="v", Body=b"two")
    assert S3Origin(bucket, client).object("v", version_id=version).load(LoadContext("k")).value == b"one"


def test_a_missing_key_is_not_found_and_a_missing_bucket_is_a_mistake(local_aws: AWSServer, bucket: str) -> None:
    """NoSuchKey is absence; NoSuchBucket is a ConfigurationError that names the bucket."""
    client = local_aws.client("s3")
    with pytest.raises(NotFound):
        S3Origin(bucket, client).object("none").load(LoadContext("k"))
    with pytest.raises(ConfigurationError, match="no-such-bucket"):
        S3Origin("no-such-bucket", client).object("none").load(LoadContext("k"))


def test_a_large_object_of_many_chunks_comes_whole(local_aws: AWSServer, bucket: str) -> None:
    """A body of many reads is put together byte for byte, and decode=bytes gives it as it is."""
    body = bytes(range(256)) * 4096 + b"end"
    client = local_aws.client("s3")
    client.put_object(Bucket=bucket, Key="large", Body=body)
    value = S3Origin(bucket, client).object("large").load(LoadContext("k")).value
    assert type(value) is bytes
    assert value == body


def test_only_a_stale_value_makes_the_request_conditional(s3: S3Origin, faults: FaultServer) -> None:
    """Without a stale value there is no If-None-Match, whatever validators are left."""
    faults.script(s3_object(b"x"))
    s3.object("k").load(LoadContext("k", etag='"e1"'))
    s3.object("k").load(stale())
    assert [headers.get("If-None-Match") for _, _, headers, _ in faults.requests] == [None, '"e1"']


@pytest.mark.parametrize("handed_in", [False, True])
def test_a_304_with_a_checksum_header_is_not_modified(faults: FaultServer, handed_in: bool) -> None:
    """boto3 fails with a TypeError on a 304 that has a checksum header; the origin does not."""
    faults.script(NOT_MODIFIED)
    client = boto3.client("s3") if handed_in else None
    origin = S3Origin("rates", client)
    assert origin.object("k").load(stale()) is Outcome.NOT_MODIFIED
    origin.close()
    if client is not None:
        client.close()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (s3_error("SlowDown", 503), OriginThrottled),
        (s3_error("InternalError", 500), OriginError),
        (s3_error("ServiceUnavailable", 503), OriginError),
        (s3_error("AccessDenied", 403), OriginDenied),
        (s3_error("ExpiredToken", 400), OriginDenied),
        (s3_error("InvalidObjectState", 403), OriginError),
        (s3_error("NoSuchKey", 404), NotFound),
        (Reply(404, b"<html>nothing here</html>"), OriginMalformed),
        (ELSEWHERE, ConfigurationError),
        (HTML, OriginMalformed),
        (s3_object(b"abc", length=900), OriginMalformed),
        (NOT_MODIFIED, OriginError),
        (CLOSED, OriginError),
    ],
)
def test_a_bad_answer_becomes_the_right_error(
    s3: S3Origin, faults: FaultServer, reply: Reply, kind: type[TieredCacheError]
) -> None:
    """Each failure has its class, a denial is never absence, and the text tells neither key nor service text."""
    faults.script(reply)
    with pytest.raises(kind) as caught:
        s3.object("alice.json").load(LoadContext("k"))
    assert type(caught.value) is kind
    assert "bucket 'rates'" in str(caught.value)
    assert "alice" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_bucket_elsewhere_is_named_with_its_region(s3: S3Origin, faults: FaultServer) -> None:
    """A redirect that botocore cannot follow says which region to ask."""
    faults.script(ELSEWHERE)
    with pytest.raises(ConfigurationError, match=r"another region.*us-west-2"):
        s3.object("k").load(LoadContext("k"))


def test_a_cut_body_is_fetched_again(s3: S3Origin, faults: FaultServer) -> None:
    """A body that ends early is a passing failure: the next try's whole body is the value."""
    faults.script(s3_object(b"abc", length=900), s3_object(b"whole"))
    assert s3.object("k").load(LoadContext("k")).value == b"whole"


def test_an_object_over_the_limit_is_not_read(s3: S3Origin, faults: FaultServer) -> None:
    """SizeLimitExceeded names both figures, from the header alone: the announced body never comes."""
    faults.script(s3_object(b"", length=1001))
    with pytest.raises(SizeLimitExceeded, match=r"1001 bytes.*1000"):
        s3.object("k").load(LoadContext("k"))
    assert len(faults.requests) == 1


def test_time_that_runs_out_while_the_body_comes_ends_the_load(faults: FaultServer) -> None:
    """The time left is looked at between the pieces of a body."""
    faults.script(s3_object(b"x" * 300_000))
    origin = S3Origin("rates")
    left = iter([10.0, 5.0, 0.0])
    with pytest.raises(LoadTimeout, match="of 300000 bytes"):
        origin.object("k").load(LoadContext("k", remaining=lambda: next(left)))
    origin.close()


def test_what_decode_raises_is_a_malformed_object(s3: S3Origin, faults: FaultServer) -> None:
    """decode's own error is the cause; the body stays out of the text."""
    faults.script(s3_object(b"{secret"))
    with pytest.raises(OriginMalformed, match="JSONDecodeError on 7 bytes") as caught:
        s3.object("k", json.loads).load(LoadContext("k"))
    assert isinstance(caught.value.__cause__, json.JSONDecodeError)
    assert "secret" not in str(caught.value)


def test_what_decode_says_of_absence_passes(s3: S3Origin, faults: FaultServer) -> None:
    """A decode that raises one of the library's own errors means it."""

    def tombstone(_: bytes) -> None:
        raise NotFound("deleted")

    faults.script(s3_object(b"x"))
    with pytest.raises(NotFound, match="deleted"):
        s3.object("k", tombstone).load(LoadContext("k"))


@pytest.mark.parametrize("bucket", ["", "a", "s3://rates", "rates/path", None, "a b c"])
def test_a_bucket_that_cannot_be_one_is_refused(bucket: Any) -> None:
    """A bucket's name is checked when it is given."""
    with pytest.raises(ConfigurationError, match="bucket must be"):
        S3Origin(bucket)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("",), ConfigurationError),
        (("x" * 1025,), ConfigurationError),
        (("ü" * 513,), ConfigurationError),
        (("\ud800",), ConfigurationError),
        ((7,), TypeError),
        ((b"k",), TypeError),
        (("k", "json"), TypeError),
    ],
)
def test_a_request_that_cannot_be_one_is_refused(arguments: tuple[Any, ...], kind: type[Exception]) -> None:
    """Keys and decode are checked when the request is made."""
    with pytest.raises(kind, match=r"must be|must have"):
        S3Origin("rates").object(*arguments)


@pytest.mark.parametrize("key", ["x" * 1024, "ü" * 512, "a b", "🐍", "{}"])
def test_a_key_of_any_text_is_accepted(key: str, local_aws: AWSServer, bucket: str) -> None:
    """Odd keys and keys of the full length find their object."""
    client = local_aws.client("s3")
    client.put_object(Bucket=bucket, Key=key, Body=b"here")
    assert S3Origin(bucket, client).object(key).load(LoadContext("k")).value == b"here"


@pytest.mark.parametrize(
    "option", [{"max_bytes": 0}, {"max_bytes": "much"}, {"read_timeout": -1}, {"read_timeout": "x"}]
)
def test_an_option_that_means_nothing_is_refused(option: dict[str, Any]) -> None:
    """Limits are checked when they are given, and named."""
    with pytest.raises(ConfigurationError, match=next(iter(option))):
        S3Origin("rates", **option)


def test_reprs_are_short_and_tell_no_key() -> None:
    """A request's repr names the bucket and not the key."""
    assert repr(S3Origin("rates").object("alice.json")) == "<object of S3Origin('rates')>"
