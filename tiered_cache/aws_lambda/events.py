"""Handlers of their own that invalidate what was made from an S3 object or a DynamoDB item when that changes.

on_object = invalidate_on_s3(cache, key=lambda change: f"rates:{change.key}")
on_item = invalidate_on_dynamodb(cache, key=lambda change: f"customer:{change.keys['id']}")

Events come at least once, late, and from S3 in any order. An invalidation done twice or too late costs one load and does
no harm, so that neither order nor repetition matters here. What must not happen is that an event counts as handled
though the invalidation was not delivered: then Lambda is told of it and sends the event again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from tiered_cache._errors import ConfigurationError, InvalidationNotDelivered
from tiered_cache._log import log
from tiered_cache._options import check_key, checked_tags, flag
from tiered_cache.aws_lambda import lambda_handler
from tiered_cache.aws_lambda._changes import (
    DynamoDBChange,
    Part,
    S3Change,
    dynamodb_changes,
    dynamodb_parts,
    s3_changes,
    s3_parts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiered_cache._cache import TieredCache

__all__ = [
    "DynamoDBChange",
    "S3Change",
    "dynamodb_changes",
    "invalidate_on_dynamodb",
    "invalidate_on_s3",
    "s3_changes",
]

C = TypeVar("C")
Names: TypeAlias = str | Iterable[str] | None
"""One name, several, or None: nothing."""
Response: TypeAlias = dict[str, list[dict[str, str]]]
"""`{"batchItemFailures": [{"itemIdentifier": "..."}]}`; an empty list says that all is done."""
EventHandler: TypeAlias = Callable[..., Response]


def invalidate_on_s3(
    cache: TieredCache,
    *,
    key: Callable[[S3Change], Names] | None = None,
    tags: Callable[[S3Change], Names] | None = None,
    expire: bool = False,
    report_failures: bool = False,
) -> EventHandler:
    """A handler for the event notifications of S3, direct or through SNS, SQS or EventBridge; see `s3_changes`.

    key, tags: make of a change the cache keys and the tags to be invalidated: a str, several, or None for nothing.
    expire: expire the keys instead of deleting them: what they hold may still cover for a failing origin.
    report_failures: for a queue whose event source mapping has `ReportBatchItemFailures`: the messages that failed are
        sent again, and they alone. Without that setting Lambda takes no notice of such a report, and what failed would
        be lost. False: what failed is raised when all else is done, and Lambda sends the whole event again.

    The handler raises InvalidationNotDelivered, ValueError for an event that is none of S3's, and what `key` and `tags`
    raise. (AWS Lambda Developer Guide, "Handling errors for an SQS event source in Lambda".)
    """
    return _handler(cache, s3_parts, _rule(key, tags), expire, report_failures, in_order=False)


def invalidate_on_dynamodb(
    cache: TieredCache,
    *,
    key: Callable[[DynamoDBChange], Names] | None = None,
    tags: Callable[[DynamoDBChange], Names] | None = None,
    expire: bool = False,
    report_failures: bool = False,
) -> EventHandler:
    """A handler for the records of a DynamoDB Stream; see `dynamodb_changes`.

    key, tags, expire: as for `invalidate_on_s3`.
    report_failures: for an event source mapping with `ReportBatchItemFailures`: the batch is sent again from the first
        record that failed. Otherwise as for `invalidate_on_s3`.

    Loaders should read consistently: an eventually consistent read after the event may bring the old item back.
    (AWS Lambda Developer Guide, "Configuring partial batch response with DynamoDB and Lambda".)
    """
    return _handler(cache, dynamodb_parts, _rule(key, tags), expire, report_failures, in_order=True)


class _Rule(NamedTuple, Generic[C]):
    """What is to be invalidated for a change."""

    key: Callable[[C], Names] | None
    tags: Callable[[C], Names] | None

    def keys_of(self, change: C) -> tuple[str, ...]:
        keys = () if self.key is None else _several("key", self.key(change))
        for each in keys:
            check_key(each)
        return keys

    def tags_of(self, change: C) -> tuple[str, ...]:
        return () if self.tags is None else checked_tags(_several("tags", self.tags(change)))


def _rule(key: Callable[[C], Names] | None, tags: Callable[[C], Names] | None) -> _Rule[C]:
    if key is None and tags is None:
        raise ConfigurationError(
            'key or tags must say what is to be invalidated, such as key=lambda change: f"rates:{change.key}"'
        )
    for name, given in (("key", key), ("tags", tags)):
        if given is not None and not callable(given):
            raise TypeError(
                f"{name} must be a function of a change, or None; got one of type {type(given).__qualname__}"
            )
    return _Rule(key, tags)


def _several(name: str, given: Names) -> tuple[str, ...]:
    if given is None:
        return ()
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance] untyped callers
        raise TypeError(f"{name} must give a str, several or None; it gave a value of type {type(given).__qualname__}")
    return tuple(given)


def _handler(
    cache: TieredCache,
    parts_of: Callable[[Any], list[Part[C]]],
    rule: _Rule[C],
    expire: bool,
    report_failures: bool,
    *,
    in_order: bool,
) -> EventHandler:
    flag("expire", expire)
    flag("report_failures", report_failures)

    @lambda_handler(cache)
    def handler(event: Any, context: Any) -> Response:  # noqa: ARG001  # Lambda gives both
        parts = parts_of(event)
        failed = _invalidate(cache, rule, parts, expire=expire)
        names = [name for number in sorted(failed) if (name := parts[number].name)]
        if failed and not (report_failures and len(names) == len(failed)):
            raise failed[min(failed)]
        if failed:
            kinds = sorted({type(error).__name__ for error in failed.values()})
            log().warning("%d of %d records are given back to Lambda: %s", len(failed), len(parts), ", ".join(kinds))
        return {"batchItemFailures": [{"itemIdentifier": name} for name in (names[:1] if in_order else names)]}

    return handler


def _invalidate(cache: TieredCache, rule: _Rule[C], parts: Sequence[Part[C]], *, expire: bool) -> dict[int, Exception]:
    """Invalidate what `parts` call for, each name once. The parts that failed, by their number, with what they met."""
    failed: dict[int, Exception] = {}
    keys: dict[str, list[int]] = {}
    tags: dict[str, list[int]] = {}
    for number, part in enumerate(parts):
        try:
            wanted = [(rule.keys_of(change), rule.tags_of(change)) for change in part.read()]
        except Exception as error:  # noqa: BLE001  # one bad record keeps no other from being heard; raised or reported
            failed[number] = error
            continue
        for its_keys, its_tags in wanted:
            for key in its_keys:
                keys.setdefault(key, []).append(number)
            for tag in its_tags:
                tags.setdefault(tag, []).append(number)
    forget = cache.expire if expire else cache.delete
    for key, numbers in keys.items():
        _attempt(failed, numbers, forget, key)
    if tags:
        _attempt(failed, (number for numbers in tags.values() for number in numbers), cache.invalidate_tag, *tags)
    return failed


def _attempt(
    failed: dict[int, Exception], numbers: Iterable[int], invalidate: Callable[..., object], *names: str
) -> None:
    try:
        invalidate(*names)
    except InvalidationNotDelivered as error:
        for number in numbers:
            failed.setdefault(number, error)
