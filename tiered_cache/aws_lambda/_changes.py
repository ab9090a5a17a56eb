"""What an event says has changed: S3's notifications in each of their wrappings, and the records of a DynamoDB Stream.

Pure functions of the event, which is JSON as Lambda hands it over. What is not understood raises ValueError, since a
change that is passed over in silence is a stale value that nobody looks for.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import unquote_plus

from tiered_cache._units import shown

C = TypeVar("C")

S3_EVENT = "an event notification of S3, direct or through SNS, SQS or EventBridge"
STREAM_EVENT = 'an event of a DynamoDB Stream, {"Records": [...]} with records of the source "aws:dynamodb"'
MOST_SHOWN = 10
"""Keys of an event that was not understood which an error text lists."""
_TABLE = re.compile(r":table/([^/]+)/stream/")


class S3Change(NamedTuple):
    """An object that was written, removed, restored, tagged or the like."""

    bucket: str
    key: str
    """As it was put, with nothing encoded."""
    event: str
    """In AWS's words: `"ObjectCreated:Put"` and the like, or through EventBridge `"Object Created"`."""
    version: str | None
    """None where the bucket has no versions."""
    size: int | None
    """Bytes; None where the object is gone."""
    etag: str | None
    """Without quotes; None where the object is gone."""


class DynamoDBChange(NamedTuple):
    """An item that was put, updated or removed; its values have the types that `DynamoDBOrigin` gives them."""

    table: str
    keys: dict[str, Any]
    """The primary key."""
    event: str
    """`"INSERT"`, `"MODIFY"` or `"REMOVE"`."""
    new: dict[str, Any] | None
    """The item as it is now; None if it is gone, or if the stream's view type does not have it."""
    old: dict[str, Any] | None
    """The item as it was; None if it was not there, or if the stream's view type does not have it."""


class Part(NamedTuple, Generic[C]):
    """A part of an event that can fail on its own."""

    name: str | None
    """Its identifier in a partial batch response; None: it has none, and can only be sent again with the whole event."""
    read: Callable[[], list[C]]
    """Gives its changes. Raises ValueError for what it does not understand."""


def s3_changes(event: Any) -> list[S3Change]:
    """The changes that an event of S3 speaks of, in its order; none for the test event of a new notification.

    Direct or through SNS, SQS or EventBridge, one within another too (Amazon S3 User Guide, "Event message structure"
    and "EventBridge event message structure"; AWS Lambda Developer Guide, "Using Lambda with Amazon SQS" and "Invoking
    Lambda functions with Amazon SNS notifications"). Raises ValueError for anything else; no value is in its text.
    """
    return _s3_event("event", event)


def s3_parts(event: Any) -> list[Part[S3Change]]:
    """`event` as its records, of which those of SQS have names; as one part where it has no records."""
    match event:
        case {"Records": [*records]}:
            return [
                Part(_text(record, "messageId"), partial(_s3_record, where, record))
                for where, record in _placed("event", records)
            ]
        case _:
            return [Part(None, partial(s3_changes, event))]


def dynamodb_changes(event: Any) -> list[DynamoDBChange]:
    """The changes that an event of a DynamoDB Stream speaks of, in its order.

    (AWS Lambda Developer Guide, "Using AWS Lambda with Amazon DynamoDB"; Amazon DynamoDB API Reference, "Record".)
    Raises ValueError for anything else; no value is in its text.
    """
    return [change for part in dynamodb_parts(event) for change in part.read()]


def dynamodb_parts(event: Any) -> list[Part[DynamoDBChange]]:
    """`event` as its records. Raises ValueError if it has none."""
    match event:
        case {"Records": [*records]}:
            return [
                Part(_text(record, "dynamodb", "SequenceNumber"), partial(_stream_record, where, record))
                for where, record in _placed("event", records)
            ]
        case _:
            raise _unexpected("event", event, STREAM_EVENT)


def _s3_event(where: str, event: Any) -> list[S3Change]:
    match event:
        case {"Records": [*records]}:
            return [change for place, record in _placed(where, records) for change in _s3_record(place, record)]
        case {
            "source": "aws.s3",
            "detail-type": str(kind),
            "detail": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)} as facts},
        }:  # the key stands here as it is, other than in S3's own notifications
            return [S3Change(bucket, key, kind, facts.get("version-id"), facts.get("size"), facts.get("etag"))]
        case {"Type": "Notification", "Message": str(text)}:  # SNS to SQS, without raw message delivery
            return _s3_event(f"{where}.Message", _json(f"{where}.Message", text))
        case {"Service": "Amazon S3", "Event": "s3:TestEvent"}:
            return []
        case _:
            raise _unexpected(where, event, S3_EVENT)


def _s3_record(where: str, record: Any) -> list[S3Change]:
    match record:
        case {
            "eventSource": "aws:s3",
            "eventName": str(name),
            "s3": {"bucket": {"name": str(bucket)}, "object": {"key": str(key)} as facts},
        }:
            key = unquote_plus(key, errors="strict")
            return [S3Change(bucket, key, name, facts.get("versionId"), facts.get("size"), facts.get("eTag"))]
        case {"eventSource": "aws:sqs", "body": str(text)}:
            return _s3_event(f"{where}.body", _json(f"{where}.body", text))
        case {"EventSource": "aws:sns", "Sns": {"Message": str(text)}}:
            return _s3_event(f"{where}.Sns.Message", _json(f"{where}.Sns.Message", text))
        case _:
            raise _unexpected(where, record, S3_EVENT)


def _stream_record(where: str, record: Any) -> list[DynamoDBChange]:
    match record:
        case {
            "eventSource": "aws:dynamodb",
            "eventSourceARN": str(arn),
            "eventName": str(name),
            "dynamodb": {"Keys": {**keys}, **images},
        } if table := _TABLE.search(arn):
            place = f"{where}.dynamodb"
            new, old = (
                _item(f"{place}.{image}", images[image]) if image in images else None
                for image in ("NewImage", "OldImage")
            )
            return [DynamoDBChange(table[1], _item(f"{place}.Keys", keys), name, new, old)]
        case _:
            raise _unexpected(where, record, "a record of a DynamoDB Stream")


def _text(record: Any, *path: str) -> str | None:
    """The text that stands there in `record`, if there is one."""
    for name in path:
        record = record.get(name) if isinstance(record, dict) else None
    return record if isinstance(record, str) else None


def _placed(where: str, records: Sequence[Any]) -> list[tuple[str, Any]]:
    """`records`, each with its place for error texts."""
    return [(f"{where}.Records[{number}]", record) for number, record in enumerate(records)]


def _json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} must be JSON; it is not from character {error.pos} on") from None


def _item(where: str, attributes: Any) -> dict[str, Any]:
    from tiered_cache.adapters._attributes import item  # who listens to S3 alone does not pay for it

    try:
        return item({name: _with_bytes(value) for name, value in attributes.items()})
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f'{where} must be attributes such as {{"id": {{"S": "a"}}}}; one is not') from error


def _with_bytes(value: Any) -> Any:
    """The attribute `value` as the API gives it: an event is JSON, which has binary values as base64."""
    match value:
        case {"B": given}:
            return {"B": _bytes(given)}
        case {"BS": [*texts]}:
            return {"BS": [_bytes(text) for text in texts]}
        case {"L": [*values]}:
            return {"L": [_with_bytes(each) for each in values]}
        case {"M": {**attributes}}:
            return {"M": {name: _with_bytes(each) for name, each in attributes.items()}}
        case _:
            return value


def _bytes(given: Any) -> Any:
    return b64decode(given, validate=True) if isinstance(given, str) else given


def _unexpected(where: str, given: Any, expected: str) -> ValueError:
    """What was expected, and the keys of what came instead: its values may be anybody's data."""
    if isinstance(given, Mapping):
        names = [shown(name) for name in given]
        has = f"it has the keys {', '.join(names[:MOST_SHOWN])}" if names else "it is empty"
        has += f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    else:
        has = f"it is of type {type(given).__qualname__}"
    return ValueError(f"{where} must be {expected}; {has}")
