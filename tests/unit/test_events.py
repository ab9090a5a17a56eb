"""Events that say what has changed: each shape is understood or refused, and no change is lost in silence."""

from __future__ import annotations

import json
import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import tiered_cache.aws_lambda
from tiered_cache import ConfigurationError, InvalidationNotDelivered, MemoryTier, TieredCache
from tiered_cache.aws_lambda import (
    DynamoDBChange,
    S3Change,
    dynamodb_changes,
    invalidate_on_dynamodb,
    invalidate_on_s3,
    s3_changes,
)
from tiered_cache.testing import InMemorySharedTier

SAMPLES = Path(__file__).parents[1] / "fixtures" / "events"
OBJECT = S3Change("example-bucket", "rates/May 2026+é.json", "ObjectCreated:Put", "v7", 1024, "0123abcd")


def sample(name: str) -> Any:
    return json.loads((SAMPLES / f"{name}.json").read_text(encoding="utf-8"))


def make(**options: Any) -> tuple[TieredCache, InMemorySharedTier]:
    l2 = InMemorySharedTier(ttl=600)
    return TieredCache(MemoryTier(ttl=60), l2, **options), l2


def put(key: str) -> dict[str, Any]:
    """S3's notification of one object that was put."""
    return {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "b"}, "object": {"key": key}},
    }


def queued(**keys: str | None) -> dict[str, Any]:
    """An event of SQS: one message for each name, with the object's key; None: something else's message."""
    return {
        "Records": [
            {
                "messageId": name,
                "eventSource": "aws:sqs",
                "body": json.dumps({"Records": [put(key)]} if key else {"order": 4711}),
            }
            for name, key in keys.items()
        ]
    }


def streamed(*ids: str) -> dict[str, Any]:
    """An event of a DynamoDB Stream: one record for each id, numbered 100, 101 and so on."""
    return {
        "Records": [
            {
                "eventSource": "aws:dynamodb",
                "eventSourceARN": "arn:aws:dynamodb:eu-west-1:123456789012:table/customers/stream/2026-05-01T00:00:00.000",
                "eventName": "MODIFY",
                "dynamodb": {"Keys": {"id": {"S": each}}, "SequenceNumber": str(number)},
            }
            for number, each in enumerate(ids, 100)
        ]
    }


def failures(*names: str) -> dict[str, list[dict[str, str]]]:
    return {"batchItemFailures": [{"itemIdentifier": name} for name in names]}


def key_of(change: S3Change) -> str | None:
    return None if change.key == "nothing" else change.key


# What an event says


@pytest.mark.parametrize("name", ["s3", "s3_by_sns", "s3_by_sqs", "s3_by_sns_and_sqs"])
def test_an_s3_notification_says_the_same_in_each_wrapping(name: str) -> None:
    """And the key, which S3 writes as in a form's URL, is as it was put."""
    assert [OBJECT] == s3_changes(sample(name))


def test_by_eventbridge_it_has_its_own_words() -> None:
    """And the key is not encoded: a plus is a plus, and %20 are three characters."""
    change = OBJECT._replace(event="Object Created")
    assert [change] == s3_changes(sample("s3_by_eventbridge"))
    assert [change, change._replace(key="a+b%20c")] == s3_changes(sample("s3_by_eventbridge_and_sqs"))


def test_what_an_event_leaves_out_is_none() -> None:
    """A removed object has no size and no ETag, one in a bucket without versions no version."""
    removed = put("gone")
    assert [("b", "gone", "ObjectCreated:Put", None, None, None)] == s3_changes({"Records": [removed]})


def test_the_test_event_of_a_new_notification_changes_nothing() -> None:
    """S3 sends it when a notification is configured, and every queue begins with it."""
    assert [] == s3_changes(sample("s3_test_event_by_sqs")) == s3_changes({"Records": []})


def test_stream_records_have_the_types_that_the_origin_gives() -> None:
    """Exact numbers, sets, and bytes, which JSON has as base64 at any depth."""
    insert, modify, remove = dynamodb_changes(sample("dynamodb"))
    new = {
        "id": Decimal(101),
        "seal": b"\x00\xff",
        "seals": {b"\x01", b"\x02"},
        "deep": {"list": [b"\x03", "text", None, True]},
        "numbers": {Decimal("1.50"), Decimal(2)},
    }
    assert DynamoDBChange("customers", {"id": Decimal(101)}, "INSERT", new, None) == insert
    assert ({"id": Decimal(101), "name": "new"}, {"id": Decimal(101), "name": "old"}) == (modify.new, modify.old)
    assert DynamoDBChange("customers", {"id": Decimal(101)}, "REMOVE", None, None) == remove


def test_records_as_the_sdk_gives_them_are_understood_too() -> None:
    """There bytes are bytes."""
    event = streamed("a")
    event["Records"][0]["dynamodb"]["Keys"] = {"id": {"B": b"\x00"}, "more": {"BS": [b"\x01"]}}
    assert {"id": b"\x00", "more": {b"\x01"}} == dynamodb_changes(event)[0].keys


SECRET = "4111-1111"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({}, r"^event must be an event notification of S3, direct or through .* it is empty$"),
        ([SECRET], "it is of type list$"),
        (None, "it is of type NoneType$"),
        ({"card": SECRET}, "it has the keys 'card'$"),
        ({SECRET * 9: 1}, "it has the keys an object of type str$"),
        ({f"k{n}": SECRET for n in range(12)}, "'k9' and 2 more$"),
        ({"Records": [{"eventSource": "aws:kinesis", "kinesis": SECRET}]}, r"^event.Records\[0\] must .*'kinesis'$"),
        ({"Records": [put("a"), {"eventSource": "aws:s3", "s3": {}}]}, r"^event.Records\[1\] must"),
        ({"source": "aws.s3", "detail-type": "AWS API Call via CloudTrail", "detail": {}}, "'source', 'detail-type'"),
        ({"Records": [{"eventSource": "aws:sqs", "body": SECRET}]}, r"^event.Records\[0\].body must be JSON; .* 4 on$"),
        (queued(m=None), r"^event.Records\[0\].body must be .* it has the keys 'order'$"),
        ({"Records": [{"EventSource": "aws:sns", "Sns": {"Message": "{}"}}]}, r"^event.Records\[0\].Sns.Message must"),
        ({"Type": "Notification", "Message": '{"Records": 7}'}, r"^event.Message must .* the keys 'Records'$"),
        ({"Records": [put("%FF")]}, "utf-8"),
        (streamed("a"), r"^event.Records\[0\] must be an event notification of S3"),
    ],
)
def test_another_event_is_refused_with_its_keys_and_without_its_values(event: Any, text: str) -> None:
    """A change that nobody understood must not count as handled, and what it holds is nobody's business."""
    with pytest.raises(ValueError, match=text) as caught:
        s3_changes(event)
    assert SECRET not in str(caught.value)
    cache, _ = make()
    with pytest.raises(ValueError, match=text):
        invalidate_on_s3(cache, key=lambda change: change.key)(event, None)


def without(name: str) -> dict[str, Any]:
    event = streamed("a")
    del event["Records"][0][name]
    return event


def with_keys(keys: Any) -> dict[str, Any]:
    event = streamed("a")
    event["Records"][0]["dynamodb"]["Keys"] = keys
    return event


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            {"table": SECRET},
            r'^event must be an event of a DynamoDB Stream, \{"Records": .* it has the keys \'table\'$',
        ),
        ({"Records": [put("a")]}, r"^event.Records\[0\] must be a record of a DynamoDB Stream; .* 's3'$"),
        ({"Records": [SECRET]}, r"^event.Records\[0\] must be a record .* it is of type str$"),
        (without("eventSourceARN"), "must be a record of a DynamoDB Stream"),
        (without("dynamodb"), "must be a record of a DynamoDB Stream"),
        (with_keys(SECRET), "must be a record of a DynamoDB Stream"),
        (with_keys({"id": {"N": SECRET}}), r'^event.Records\[0\].dynamodb.Keys must be attributes such as \{"id"'),
        (with_keys({"id": {"B": "no base64"}}), "must be attributes"),
        (with_keys({"id": {"X": SECRET}}), "must be attributes"),
        (with_keys({"id": SECRET}), "must be attributes"),
        (with_keys({"id": {}}), "must be attributes"),
    ],
)
def test_another_event_than_a_streams_is_refused_likewise(event: Any, text: str) -> None:
    """Its shape is named, its values are not."""
    with pytest.raises(ValueError, match=text) as caught:
        dynamodb_changes(event)
    assert SECRET not in str(caught.value)


# What is invalidated


def test_the_keys_that_a_change_calls_for_are_forgotten() -> None:
    """One, several or none for each change; in L2 as in L1; all else stays."""
    cache, l2 = make()
    for key in ("a", "b", "c", "kept"):
        cache.set(key, key)
    names: dict[str, Any] = {"a": "a", "b": ["b", "c"], "nothing": None}
    handler = invalidate_on_s3(cache, key=lambda change: names[change.key])
    assert failures() == handler({"Records": [put("a"), put("b"), put("nothing")]}, None)
    assert {("default", "kept")} == set(l2.entries)
    assert ["kept"] == [key for key in ("a", "b", "c", "kept") if cache.get(key, None)]


def test_each_key_is_invalidated_once_for_an_event() -> None:
    """However many of its records name it."""
    cache, _ = make()
    handler = invalidate_on_dynamodb(cache, key=lambda change: (f"customer:{change.keys['id']}", "customers"))
    handler(streamed("1", "2", "1", "1"), None)
    stats = cache.stats().l2
    assert stats is not None
    assert 3 == stats.deletes


@pytest.mark.skipif(not hasattr(TieredCache, "invalidate_tag"), reason="TieredCache.invalidate_tag is not there yet")
def test_tags_are_invalidated_beside_keys() -> None:
    """By what the item was and is, for instance."""
    cache, _ = make()
    for key in ("a", "b", "c"):
        cache.set(key, key, tags=(f"region:{key}",))
    handler = invalidate_on_dynamodb(cache, tags=lambda change: f"region:{change.keys['id']}", key=lambda _: "c")
    assert failures() == handler(streamed("a", "a"), None)
    assert ["b"] == [key for key in ("a", "b", "c") if cache.get(key, None)]


@pytest.mark.skipif(not hasattr(TieredCache, "expire"), reason="TieredCache.expire is not there yet")
def test_expired_values_may_still_cover_for_a_failing_origin() -> None:
    """With `expire=True`, where deleted ones are gone."""
    l2 = InMemorySharedTier(ttl=600, stale_if_error=600)
    cache = TieredCache(MemoryTier(ttl=60), l2)

    def failing() -> str:
        raise OSError("the origin is down")

    cache.set("a", "old")
    invalidate_on_s3(cache, key=key_of, expire=True)({"Records": [put("a")]}, None)
    answer = cache.get_entry_or_load("a", failing)
    assert ("old", True) == (answer.value, answer.stale)
    invalidate_on_s3(cache, key=key_of)({"Records": [put("a")]}, None)
    with pytest.raises(OSError, match="the origin is down"):
        cache.get_or_load("a", failing)


def test_the_handler_marks_an_invocation() -> None:
    """What `key` asks the cache for is within it, and gone with it; a context tells the remaining time."""
    cache, _ = make()
    loads: list[str] = []
    handler = invalidate_on_s3(
        cache, key=lambda change: cache.get_or_load("k", lambda: loads.append("load") or change.key, scope="invocation")
    )
    for _ in range(2):
        handler({"Records": [put("a"), put("a")]}, None)
    assert 2 == len(loads)


# What failed


@pytest.mark.parametrize("event", [{"Records": [put("a")]}, queued(m="a"), sample("s3"), sample("s3_by_eventbridge")])
def test_what_l2_did_not_take_is_raised_so_that_lambda_sends_it_again(event: Any) -> None:
    """Sent again when L2 is back, it is done."""
    cache, l2 = make()
    handler = invalidate_on_s3(cache, key=lambda _: "a")
    cache.set("a", "old")
    l2.down = True
    with pytest.raises(InvalidationNotDelivered):
        handler(event, None)
    l2.down = False
    assert {("default", "a")} == set(l2.entries)
    assert failures() == handler(event, None)
    assert {} == l2.entries


def test_no_record_keeps_another_from_being_heard() -> None:
    """What can be invalidated is, and then the first failure is raised."""
    cache, l2 = make()
    for key in ("a", "b"):
        cache.set(key, key)
    handler = invalidate_on_s3(cache, key=key_of)
    with pytest.raises(ValueError, match=r"^event.Records\[1\].body must be"):
        handler(queued(first="a", second=None, third="b", fourth=None), None)
    assert {} == l2.entries
    cache.set("a", "a")
    with pytest.raises(ValueError, match=r"^event.Records\[0\] must be"):
        handler({"Records": [{"eventSource": "aws:s3"}, put("a")]}, None)
    assert {} == l2.entries


def test_a_queue_is_told_which_messages_failed(caplog: pytest.LogCaptureFixture) -> None:
    """And those alone: whatever their reason is, which stands in the log without keys or values."""
    cache, l2 = make()
    handler = invalidate_on_s3(cache, key=key_of, report_failures=True)
    event = queued(a="x", b="nothing", c=None, d="x", e="y")
    with caplog.at_level(logging.WARNING, "tiered_cache"):
        assert failures("c") == handler(event, None)
        l2.down = True
        assert failures("a", "c", "d", "e") == handler(event, None)
    assert [
        "1 of 5 records are given back to Lambda: ValueError",
        "4 of 5 records are given back to Lambda: InvalidationNotDelivered, ValueError",
    ] == [record.getMessage() for record in caplog.records]
    l2.down = False
    assert failures() == handler(queued(a="x", d="x"), None)


def test_a_stream_is_told_the_first_record_that_failed() -> None:
    """Lambda sends the batch again from there on, in order."""
    cache, l2 = make()
    handler = invalidate_on_dynamodb(
        cache, key=lambda change: None if change.keys["id"] == "nothing" else "k", report_failures=True
    )
    l2.down = True
    assert failures("101") == handler(streamed("nothing", "x", "nothing", "y"), None)
    assert failures() == handler(streamed("nothing"), None)
    l2.down = False
    assert failures() == handler(streamed("x", "y"), None)


def test_what_key_raises_is_a_failure_of_its_record_alone() -> None:
    """A bug in it is seen, and loses no event."""
    cache, l2 = make()
    cache.set("2", "old")

    def key(change: DynamoDBChange) -> str:
        return {"2": "2"}[change.keys["id"]]

    with pytest.raises(KeyError):
        invalidate_on_dynamodb(cache, key=key)(streamed("1", "2"), None)
    assert {} == l2.entries
    assert failures("100") == invalidate_on_dynamodb(cache, key=key, report_failures=True)(streamed("1", "2"), None)


@pytest.mark.parametrize("event", [{"Records": [put("a")]}, sample("s3_by_sns"), sample("s3_by_eventbridge")])
def test_where_there_is_nothing_to_report_by_it_is_raised_all_the_same(event: Any) -> None:
    """S3, SNS and EventBridge invoke asynchronously: only an error makes Lambda try again."""
    cache, l2 = make()
    l2.down = True
    with pytest.raises(InvalidationNotDelivered):
        invalidate_on_s3(cache, key=lambda _: "a", report_failures=True)(event, None)


def test_a_failed_record_without_a_number_is_raised() -> None:
    """A report that left it out would lose it."""
    cache, _ = make()
    event = streamed("a", "b")
    event["Records"][1] = {}
    with pytest.raises(ValueError, match=r"^event.Records\[1\] must be a record"):
        invalidate_on_dynamodb(cache, key=lambda _: "k", report_failures=True)(event, None)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"key": lambda _: 7}, TypeError, "^key must give a str, several or None; it gave a value of type int$"),
        ({"key": lambda _: b"k"}, TypeError, "^key must be a non-empty str; got int"),
        ({"key": lambda _: ""}, ValueError, "^key must not be empty$"),
        ({"tags": lambda _: 7}, TypeError, "^tags must give a str, several or None"),
        ({"tags": lambda _: [None]}, TypeError, "^each tag must be a str"),
    ],
)
def test_what_key_and_tags_give_is_checked(options: Any, error: type[Exception], text: str) -> None:
    """A name that could never have been a key's is a mistake, and is seen."""
    cache, _ = make()
    with pytest.raises(error, match=text):
        invalidate_on_s3(cache, **options)({"Records": [put("a")]}, None)


def test_a_bad_key_is_the_failure_of_its_record_alone() -> None:
    """And nothing is invalidated for that record before it is mended."""
    cache, l2 = make()
    cache.set("a", "v")
    cache.set("b", "v")
    handler = invalidate_on_s3(
        cache, key=lambda change: ["a", ""] if change.key == "bad" else "b", report_failures=True
    )
    assert failures("m") == handler(queued(m="bad", n="good"), None)
    assert {("default", "a")} == set(l2.entries)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, ConfigurationError, "^key or tags must say what is to be invalidated"),
        ({"key": "rates"}, TypeError, "^key must be a function of a change, or None; got one of type str$"),
        ({"tags": ("a",)}, TypeError, "^tags must be a function"),
        ({"key": str, "expire": "yes"}, ConfigurationError, "^expire must be True or False; got 'yes'$"),
        ({"key": str, "report_failures": None}, ConfigurationError, "^report_failures must be True or False"),
    ],
)
def test_bad_options_are_refused_at_once(options: Any, error: type[Exception], text: str) -> None:
    """When the module is imported, not at the first event."""
    cache, _ = make()
    for make_handler in (invalidate_on_s3, invalidate_on_dynamodb):
        with pytest.raises(error, match=text):
            make_handler(cache, **options)
    with pytest.raises(TypeError, match="needs the cache"):
        invalidate_on_s3("cache", key=key_of)  # type: ignore[arg-type]


def test_the_names_are_those_of_the_package() -> None:
    """Each has a docstring; a misspelt one is refused as usual."""
    names = {name for name in dir(tiered_cache.aws_lambda) if not name.startswith("_")}
    assert {
        "DynamoDBChange",
        "S3Change",
        "dynamodb_changes",
        "invalidate_on_dynamodb",
        "invalidate_on_s3",
        "lambda_handler",
        "s3_changes",
    } <= names
    assert all(getattr(tiered_cache.aws_lambda, name).__doc__ for name in names)
    with pytest.raises(AttributeError, match="^module 'tiered_cache.aws_lambda' has no attribute 'invalidate_on_s4'$"):
        tiered_cache.aws_lambda.invalidate_on_s4  # noqa: B018
