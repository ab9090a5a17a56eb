"""Items of DynamoDB as loaders, with exact types.

users = DynamoDBOrigin("users")
cache.get_or_load("user:7", users.item({"pk": "7"}))
cache.get_many_or_load(keys, users.items(lambda key: {"pk": key.removeprefix("user:")}))
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, final

from tiered_cache._errors import (
    ConfigurationError,
    LoadTimeout,
    NotFound,
    OriginMalformed,
    OriginThrottled,
    SizeLimitExceeded,
)
from tiered_cache._units import seconds, shown
from tiered_cache._values import BatchContext
from tiered_cache.adapters._attributes import attribute, identity, item, key_attributes
from tiered_cache.adapters._boto import Call, Clients, paused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from decimal import Decimal

    from tiered_cache._units import Duration
    from tiered_cache._values import LoadContext
    from tiered_cache.adapters._attributes import Attribute, Identity

T = TypeVar("T")

_TABLE = re.compile(r"[a-zA-Z0-9_.\-]{3,255}|arn:aws[^:\s]*:dynamodb:\S+", re.ASCII)
_BATCH = 100  # keys of one BatchGetItem
_TTL_MEMORY = 5 * 365 * 86400  # DynamoDB never deletes what is said to have expired longer ago than this


@final
class DynamoDBOrigin:
    """One table. Needs `dynamodb:GetItem`, `dynamodb:BatchGetItem` for `items`, `dynamodb:Query` for `query`.

    table: its name or ARN.
    client: a boto3 DynamoDB client (not a resource), used as it is; by default one is made at the first load.
    ttl_attribute: the table's TTL attribute; an expired item counts as absent, though DynamoDB deletes it only days
    later.
    read_timeout: the longest wait for any one piece of an answer, cut to fit the time that a load has left.
    clock: wall-clock seconds, against which `ttl_attribute` is held.

    Raises ConfigurationError or TypeError for an argument that cannot mean anything.
    """

    __slots__ = ("_clients", "_clock", "_ttl_attribute", "table")

    def __init__(
        self,
        table: str,
        client: Any = None,
        *,
        ttl_attribute: str | None = None,
        read_timeout: Duration = 5,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(table, str) or not _TABLE.fullmatch(table):  # pyright: ignore[reportUnnecessaryIsInstance] untyped callers
            raise ConfigurationError(
                f"table must be a table's name (3 to 255 of a-z A-Z 0-9 _ . -) or ARN; got {shown(table)}"
            )
        if ttl_attribute is not None and (not isinstance(ttl_attribute, str) or not ttl_attribute):  # pyright: ignore[reportUnnecessaryIsInstance] untyped callers
            raise ConfigurationError(f"ttl_attribute must be an attribute's name or None; got {shown(ttl_attribute)}")
        self.table = table
        self._ttl_attribute = ttl_attribute
        self._clock = clock
        self._clients = Clients("dynamodb", client, read_timeout)

    def item(self, key: Mapping[str, Any], consistent: bool = False) -> ItemRequest:
        """The loader of one item by its whole primary key, such as `{"pk": "a"}` or `{"pk": "a", "sk": 3}`.

        consistent: read strongly; it costs double. Otherwise a load right after a write may cache the old item.
        """
        return ItemRequest(self, key_attributes("key", key), bool(consistent))

    def items(
        self, key_of: Callable[[str], Mapping[str, Any]], consistent: bool = False, *, budget: Duration = "5s"
    ) -> ItemsRequest:
        """The batch loader for `get_many_or_load`.

        key_of: makes an item's primary key of a cache key.
        budget: the time for one batch, its pauses included; keys still unanswered then raise OriginThrottled.
        """
        if not callable(key_of):
            raise TypeError(f"key_of must be callable: a cache key in, the item's primary key out; got {shown(key_of)}")
        return ItemsRequest(self, key_of, bool(consistent), seconds("budget", budget))

    def query(
        self,
        key_condition: str,
        values: Mapping[str, Any],
        *,
        names: Mapping[str, str] | None = None,
        filter_expression: str | None = None,
        index: str | None = None,
        forward: bool = True,
        consistent: bool = False,
        limit: int | None = None,
        max_items: int = 10_000,
    ) -> QueryRequest:
        """The loader of all items that `key_condition` finds, as a list, over all pages.

        key_condition, values: such as `"pk = :pk"` and `{":pk": "a"}`; names: for reserved words, `{"#n": "name"}`.
        filter_expression: applied after reading. index: a secondary index.
        limit: stop after so many items, at most max_items, in the order of the sort key, or against it with `forward=False`.
        max_items: more raise SizeLimitExceeded.
        """
        if not isinstance(key_condition, str) or not key_condition.strip():  # pyright: ignore[reportUnnecessaryIsInstance] untyped callers
            raise TypeError(f'key_condition must be an expression such as "pk = :pk"; got {shown(key_condition)}')
        for name, given in (("limit", limit), ("max_items", max_items)):
            if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < 1):  # pyright: ignore[reportUnnecessaryIsInstance] untyped callers
                raise ConfigurationError(f"{name} must be a whole number of at least 1; got {shown(given)}")
        if limit is not None and limit > max_items:
            raise ConfigurationError(
                f"limit ({limit}) must not be above max_items ({max_items}), beyond which SizeLimitExceeded is raised"
            )
        if consistent and index is not None:
            raise ConfigurationError("consistent reads are not to be had from a global index; leave out one of the two")
        parameters: dict[str, Any] = {
            "KeyConditionExpression": key_condition,
            "ExpressionAttributeValues": {name: attribute(f"values[{name!r}]", each) for name, each in values.items()},
            "ScanIndexForward": bool(forward),
            "ConsistentRead": bool(consistent),
        }
        optional = {
            "ExpressionAttributeNames": dict(names or {}),
            "FilterExpression": filter_expression,
            "IndexName": index,
        }
        parameters |= {name: given for name, given in optional.items() if given}
        if limit is not None and filter_expression is None:  # DynamoDB counts before it filters
            parameters["Limit"] = limit
        return QueryRequest(self, parameters, limit, max_items)

    def _ask(
        self, operation: str, remaining: Callable[[], float | None], parameters: dict[str, Any], detail: str = ""
    ) -> tuple[Call, dict[str, Any]]:
        """The whole answer of `operation`, proved to come from DynamoDB by the capacity that it says was consumed.

        Without that proof a page of HTML with status 200 reads as 'no item': botocore makes an empty answer of it.
        """
        call = Call(operation, f"table {self.table!r}{detail}")
        method = {"GetItem": "get_item", "BatchGetItem": "batch_get_item", "Query": "query"}[operation]

        def ask(client: Any) -> dict[str, Any]:
            answer: dict[str, Any] = getattr(client, method)(ReturnConsumedCapacity="TOTAL", **parameters)
            return answer

        answer = self._clients.run(call, remaining, ask)
        if not answer.get("ConsumedCapacity"):
            raise OriginMalformed(call.says("the answer does not say what it consumed, so it is not DynamoDB's"))
        return call, answer

    def _read(self, call: Call, attributes: Mapping[str, Attribute]) -> dict[str, Any] | None:
        """The item in Python's types, or None if its TTL is over."""
        try:
            read = item(attributes)
        except (LookupError, ValueError, TypeError, ArithmeticError, AttributeError) as error:
            raise OriginMalformed(call.says("an attribute is not in DynamoDB's format")) from error
        return None if self._expired(read) else read

    def _expired(self, read: Mapping[str, Any]) -> bool:
        from decimal import Decimal

        until: Decimal | object = None if self._ttl_attribute is None else read.get(self._ttl_attribute)
        return isinstance(until, Decimal) and 0 <= self._clock() - float(until) < _TTL_MEMORY

    def close(self) -> None:
        """Close the connections. A client that was handed in stays open. Later loads raise ClosedError."""
        self._clients.close()

    def __repr__(self) -> str:
        return f"DynamoDBOrigin({self.table!r})"


# pyright: reportPrivateUsage=false
# ruff: noqa: SLF001 - the requests below are one module with their origin


class ItemRequest(NamedTuple):
    """One item, as a loader; made by `DynamoDBOrigin.item`."""

    origin: DynamoDBOrigin
    key: dict[str, Attribute]
    consistent: bool

    def load(self, context: LoadContext, /) -> dict[str, Any]:
        """The item as a dict: N is Decimal, B bytes, sets are sets, NULL is None.

        Raises NotFound only on a whole answer of DynamoDB that has no item; OriginDenied, OriginThrottled,
        OriginMalformed, OriginError, ConfigurationError for a wrong table or key, or LoadTimeout if too little time is
        left.
        """
        table = self.origin.table
        parameters = {"TableName": table, "Key": self.key, "ConsistentRead": self.consistent}
        names = f" (key attributes given: {', '.join(sorted(self.key))})"
        call, answer = self.origin._ask("GetItem", context.remaining, parameters, names)
        found = answer.get("Item")
        read = None if found is None else self.origin._read(call, found)
        if read is None:
            raise NotFound(Call("GetItem", f"table {table!r}").says("no such item"))
        return read

    def __repr__(self) -> str:
        return f"<item of {self.origin!r}>"  # a key may be personal


class ItemsRequest(NamedTuple):
    """A batch loader for `get_many_or_load`; made by `DynamoDBOrigin.items`."""

    origin: DynamoDBOrigin
    key_of: Callable[[str], Mapping[str, Any]]
    consistent: bool
    budget: float

    def __call__(self, missing_keys: Sequence[str], /) -> dict[str, dict[str, Any]]:
        """As `load_many`, where no other limit than the budget is known."""
        return self.load_many(missing_keys, BatchContext())

    def load_many(self, missing_keys: Sequence[str], context: BatchContext, /) -> dict[str, dict[str, Any]]:
        """The items by cache key; a key whose item does not exist is left out.

        In chunks of 100, each item asked for once. Raises OriginThrottled if keys are still unprocessed when the
        budget is spent, or the time that the load has left, since nobody then knows whether their items exist; else
        what `ItemRequest.load` raises, but for NotFound.
        """
        keys: dict[Identity, dict[str, Attribute]] = {}
        wanted_by: dict[Identity, list[str]] = {}
        for cache_key in missing_keys:
            key = key_attributes("what key_of gave", self.key_of(cache_key))
            keys[identity(key)] = key
            wanted_by.setdefault(identity(key), []).append(cache_key)
        items = self._fetch(keys, context.remaining)
        return {cache_key: items[wanted] for wanted in items for cache_key in wanted_by[wanted]}

    def _fetch(
        self, keys: dict[Identity, dict[str, Attribute]], remaining: Callable[[], float | None]
    ) -> dict[Identity, dict[str, Any]]:
        end = time.monotonic() + self.budget

        def left() -> float:
            left = remaining()
            return end - time.monotonic() if left is None else min(left, end - time.monotonic())

        waiting = list(keys.values())
        shapes = {frozenset(key) for key in waiting}
        found: dict[Identity, dict[str, Any]] = {}
        unprocessed: list[dict[str, Attribute]] = []
        fruitless = 0
        while waiting:
            asked, rest = waiting[:_BATCH], waiting[_BATCH:]
            try:
                call, answers, unprocessed = self._ask(asked, left)
            except LoadTimeout as error:
                if unprocessed:  # the time went in waiting for keys that were left so
                    raise self._throttled(len(waiting), len(keys)) from error
                raise
            for attributes in answers:
                wanted = next((key for key in _keys_of(attributes, shapes) if key in keys), None)
                if wanted is None:
                    raise OriginMalformed(call.says("the answer has an item that was not asked for"))
                read = self.origin._read(call, attributes)
                if read is not None:
                    found[wanted] = read
            waiting = rest + unprocessed
            fruitless = 0 if len(unprocessed) < len(asked) else fruitless + 1
            if unprocessed and not paused(fruitless, left()):
                raise self._throttled(len(waiting), len(keys))
        return found

    def _throttled(self, waiting: int, keys: int) -> OriginThrottled:
        text = (
            f"{waiting} of {keys} keys still unprocessed when the time was up, at most the budget of {self.budget:g} s"
        )
        return OriginThrottled(Call("BatchGetItem", f"table {self.origin.table!r}").says(text))

    def _ask(
        self, keys: list[dict[str, Attribute]], remaining: Callable[[], float | None]
    ) -> tuple[Call, list[dict[str, Attribute]], list[dict[str, Attribute]]]:
        table = self.origin.table
        wish = {table: {"Keys": keys, "ConsistentRead": self.consistent}}
        names = f" (key attributes given: {', '.join(sorted({name for key in keys for name in key}))})"
        call, answer = self.origin._ask("BatchGetItem", remaining, {"RequestItems": wish}, names)
        unprocessed: list[dict[str, Attribute]] = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])
        answers: list[dict[str, Attribute]] | None = answer.get("Responses", {}).get(table)
        if answers is None:
            if not unprocessed:
                raise OriginMalformed(call.says("the answer has neither items nor unprocessed keys of this table"))
            answers = []
        return call, answers, unprocessed

    def __repr__(self) -> str:
        return f"<items of {self.origin!r}>"


def _keys_of(attributes: dict[str, Attribute], shapes: set[frozenset[str]]) -> Iterator[Identity]:
    """What may be the key of an item, by its own attributes: answers come in any order."""
    for names in shapes:
        if names <= attributes.keys():
            yield identity({name: attributes[name] for name in names})


class QueryRequest(NamedTuple):
    """All items that a key condition finds, as a loader; made by `DynamoDBOrigin.query`."""

    origin: DynamoDBOrigin
    parameters: dict[str, Any]
    limit: int | None
    max_items: int

    def load(self, context: LoadContext, /) -> list[dict[str, Any]]:
        """The items in the order of the sort key; an empty list where there are none.

        Raises SizeLimitExceeded beyond `max_items`; else as `ItemRequest.load`, but for NotFound.
        """
        found: list[dict[str, Any]] = []
        parameters = {"TableName": self.origin.table, **self.parameters}
        while True:
            call, answer = self.origin._ask("Query", context.remaining, parameters)
            page: list[dict[str, Attribute]] | None = answer.get("Items")
            if page is None or answer.get("Count") != len(page):
                raise OriginMalformed(call.says("the answer's items are not as many as it says"))
            found += [read for each in page if (read := self.origin._read(call, each)) is not None]
            if self.limit is not None and len(found) >= self.limit:
                return found[: self.limit]
            if len(found) > self.max_items:
                text = f"it found more than the {self.max_items} items that max_items allows"
                raise SizeLimitExceeded(call.says(text))
            after = answer.get("LastEvaluatedKey")
            if not after:
                return found
            if after == parameters.get("ExclusiveStartKey"):
                raise OriginMalformed(call.says("the answer gives the same page again and again"))
            parameters["ExclusiveStartKey"] = after

    def __repr__(self) -> str:
        return f"<query of {self.origin!r}>"
