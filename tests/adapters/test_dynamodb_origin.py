"""DynamoDB items as loaders."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from boto3.dynamodb.types import DYNAMODB_CONTEXT, Binary, TypeDeserializer, TypeSerializer
from fault_server import CLOSED, HTML, FaultServer, Reply, json_error, json_reply
from hypothesis import given
from hypothesis import strategies as st

from tiered_cache import TieredCache
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
from tiered_cache._values import LoadContext
from tiered_cache.adapters._attributes import attribute, identity, python
from tiered_cache.adapters.dynamodb import DynamoDBOrigin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiered_cache.local.aws import AWSServer

CAPACITY = {"TableName": "users", "CapacityUnits": 0.5}
CONTEXT = LoadContext("k")
EVERYTHING: dict[str, Any] = {
    "pk": "all",
    "sk": Decimal(1),
    "number": Decimal("-12345678901234567890.123456789012345678"),
    "bytes": b"\x00\xff",
    "texts": {"a", "b"},
    "numbers": {Decimal(1), Decimal("2.5")},
    "blobs": {b"x", b"y"},
    "none": None,
    "true": True,
    "map": {"list": [Decimal(1), "two", None, {"deep": b"z"}]},
    "empty": "",
}


@pytest.fixture
def client(local_aws: AWSServer) -> Any:
    """A client of a local DynamoDB with the table `users`: `pk` a string, `sk` a number."""
    client = local_aws.client("dynamodb")
    if "users" not in client.list_tables()["TableNames"]:
        client.create_table(
            TableName="users",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            AttributeDefinitions=[
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "N"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )
    return client


@pytest.fixture
def users(faults: FaultServer) -> Iterator[DynamoDBOrigin]:
    """An origin that asks the scripted server, with its own clients."""
    origin = DynamoDBOrigin("users")
    yield origin
    origin.close()


def put(client: Any, item: dict[str, Any]) -> None:
    client.put_item(TableName="users", Item={name: attribute(name, value) for name, value in item.items()})


def test_an_item_comes_back_with_exact_types(client: Any) -> None:
    """Every type of DynamoDB is Python's own: Decimal, bytes, sets, None."""
    put(client, EVERYTHING)
    item = DynamoDBOrigin("users", client).item({"pk": "all", "sk": 1}, consistent=True).load(CONTEXT)
    assert item == EVERYTHING
    assert type(item["bytes"]) is bytes


def test_no_item_is_not_found(client: Any) -> None:
    """A whole answer without an item is absence."""
    with pytest.raises(NotFound, match="table 'users'"):
        DynamoDBOrigin("users", client).item({"pk": "none", "sk": 1}).load(CONTEXT)


@pytest.mark.parametrize(
    ("table", "key", "named"),
    [("none", {"pk": "a", "sk": 1}, "ResourceNotFound"), ("users", {"id": "a"}, "given: id")],
)
def test_a_wrong_table_or_key_is_a_mistake(client: Any, table: str, key: dict[str, Any], named: str) -> None:
    """A missing table or another key schema is refused with the table's name and the key attributes given."""
    with pytest.raises(ConfigurationError, match=named) as caught:
        DynamoDBOrigin(table, client).item(key).load(CONTEXT)
    assert repr(table) in str(caught.value)


def test_an_expired_item_is_absent(client: Any) -> None:
    """With ttl_attribute an item past its time counts as deleted, as long as DynamoDB itself would delete it."""
    origin = DynamoDBOrigin("users", client, ttl_attribute="until", clock=lambda: 1_000_000_000.0)
    for sk, until in enumerate([1_000_000_001, 1_000_000_000, 999_999_999, 0, "text"]):
        put(client, {"pk": "ttl", "sk": sk, "until": until})
    found = origin.query("pk = :pk", {":pk": "ttl"}).load(CONTEXT)
    assert [int(item["sk"]) for item in found] == [0, 3, 4]
    with pytest.raises(NotFound):
        origin.item({"pk": "ttl", "sk": 2}).load(CONTEXT)
    keys = {f"k{sk}": {"pk": "ttl", "sk": sk} for sk in range(5)}
    assert origin.items(keys.__getitem__, budget="1m")(list(keys)).keys() == {"k0", "k3", "k4"}


def test_a_batch_loads_what_exists_by_cache_key(client: Any) -> None:
    """250 keys, some twice and some without an item: each cache key gets its own item, the absent are left out."""
    for sk in range(0, 240, 2):
        put(client, {"pk": "batch", "sk": sk, "value": sk})
    request = DynamoDBOrigin("users", client).items(
        lambda key: {"pk": "batch", "sk": int(key.split("-")[0])}, budget="1m"
    )
    keys = [f"{sk}-a" for sk in range(250)] + ["0-b", "1-b"]
    found = request(keys)
    assert found.keys() == {f"{sk}-a" for sk in range(0, 240, 2)} | {"0-b"}
    assert all(item["value"] == int(key.split("-")[0]) for key, item in found.items())
    assert request([]) == {}


def test_a_query_gives_all_pages_up_to_its_limit(client: Any) -> None:
    """Pages of 1 MB are put together in order; limit stops early; more than max_items is an error."""
    for sk in range(8):
        put(client, {"pk": "query", "sk": sk, "fat": "x" * 300_000})
    origin = DynamoDBOrigin("users", client)

    def keys(**options: Any) -> list[int]:
        return [int(item["sk"]) for item in origin.query("pk = :pk", {":pk": "query"}, **options).load(CONTEXT)]

    assert keys() == list(range(8))
    assert keys(limit=3, forward=False) == [7, 6, 5]
    assert keys(limit=3, filter_expression="#s > :pk", names={"#s": "pk"}) == []
    with pytest.raises(SizeLimitExceeded, match="it found more than the 7 items that max_items allows"):
        keys(max_items=7)
    assert origin.query("pk = :pk", {":pk": "none"}).load(CONTEXT) == []


BAD = [
    (json_error("ProvisionedThroughputExceededException"), OriginThrottled),
    (json_error("ThrottlingException"), OriginThrottled),
    (json_error("InternalServerError", 500), OriginError),
    (Reply(503, b"busy"), OriginError),
    (json_error("AccessDeniedException"), OriginDenied),
    (json_error("UnrecognizedClientException"), OriginDenied),
    (json_error("ResourceNotFoundException"), ConfigurationError),
    (json_error("ValidationException"), ConfigurationError),
    (HTML, OriginMalformed),
    (Reply(200, b'{"Item": {"pk": {"S": "a'), OriginMalformed),
    (Reply(200, b'{"Consumed', length=900), OriginMalformed),
    (Reply(200, b"{}"), OriginMalformed),
    (CLOSED, OriginError),
]


@pytest.mark.parametrize(("reply", "kind"), BAD)
def test_a_bad_answer_is_never_absence(
    users: DynamoDBOrigin, faults: FaultServer, reply: Reply, kind: type[TieredCacheError]
) -> None:
    """An item, a batch and a query raise the same class for the same failure, and no value is in the text."""
    faults.script(reply)
    requests = [
        lambda: users.item({"pk": "alice"}).load(CONTEXT),
        lambda: users.items(lambda key: {"pk": key}, budget="1m")(["alice"]),
        lambda: users.query("pk = :pk", {":pk": "alice"}).load(CONTEXT),
    ]
    for request in requests:
        with pytest.raises(kind) as caught:
            request()
        assert type(caught.value) is kind
        assert "table 'users'" in str(caught.value)
        assert not any(word in str(caught.value) for word in ("alice", "secret"))


def test_each_request_asks_for_the_proof(users: DynamoDBOrigin, faults: FaultServer) -> None:
    """ReturnConsumedCapacity goes along, since its answer tells DynamoDB from a page of HTML."""
    faults.script(json_reply(ConsumedCapacity=CAPACITY, Item={"pk": {"S": "a"}}))
    assert users.item({"pk": "a"}, consistent=True).load(CONTEXT) == {"pk": "a"}
    assert faults.bodies() == [
        {"TableName": "users", "Key": {"pk": {"S": "a"}}, "ConsistentRead": True, "ReturnConsumedCapacity": "TOTAL"}
    ]


def batch(found: list[str], unprocessed: list[str]) -> Reply:
    left = {"users": {"Keys": [{"pk": {"S": pk}} for pk in unprocessed]}} if unprocessed else {}
    items = [{"pk": {"S": pk}, "name": {"S": pk.upper()}} for pk in found]
    return json_reply(ConsumedCapacity=[CAPACITY], Responses={"users": items}, UnprocessedKeys=left)


def test_unprocessed_keys_are_asked_for_again(users: DynamoDBOrigin, faults: FaultServer) -> None:
    """What one answer leaves open the next ones settle, and order does not matter."""
    faults.script(batch(["c"], ["a", "b"]), batch([], ["b", "a"]), batch(["b"], []))
    found = users.items(lambda key: {"pk": key}, budget="1m")(["a", "b", "c"])
    assert {key: item["name"] for key, item in found.items()} == {"b": "B", "c": "C"}
    asked = [[key["pk"]["S"] for key in body["RequestItems"]["users"]["Keys"]] for body in faults.bodies()]
    assert asked == [["a", "b", "c"], ["a", "b"], ["b", "a"]]


@pytest.fixture
def patient_client(faults: FaultServer) -> Iterator[Any]:
    """A client of the scripted server that waits for as long as a busy machine takes to answer."""
    client = boto3.client("dynamodb")
    yield client
    client.close()


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize("budget", [0.4, 0.5, 0.6, 0.7])
def test_keys_left_unprocessed_are_not_absent(patient_client: Any, faults: FaultServer, budget: float) -> None:
    """When the budget is spent, in a pause or after one, the open keys are OriginThrottled with their number."""
    faults.script(batch([], ["a", "b"]))
    users = DynamoDBOrigin("users", patient_client)
    with pytest.raises(OriginThrottled, match=r"2 of 2 keys"):
        users.items(lambda key: {"pk": key}, budget=budget)(["a", "b"])


@pytest.mark.usefixtures("pauses")
def test_a_batch_takes_no_longer_than_its_invocation_has(patient_client: Any, faults: FaultServer) -> None:
    """Of which the cache tells it: the handler has an error to answer, and is not killed for a budget."""
    faults.script(batch([], ["a", "b"]))
    users, cache = DynamoDBOrigin("users", patient_client).items(lambda key: {"pk": key}, budget="1h"), TieredCache()
    with cache.invocation(lambda: 0.5), pytest.raises(OriginThrottled, match=r"2 of 2 keys"):
        cache.get_many_or_load(["a", "b"], users)
    with cache.invocation(lambda: 0.01), pytest.raises(LoadTimeout, match="BatchGetItem"):
        cache.get_many_or_load(["a", "b"], users)


@pytest.mark.usefixtures("pauses")
def test_keys_left_unprocessed_are_throttled_where_no_try_fits_any_more(
    patient_client: Any, faults: FaultServer
) -> None:
    """The pauses fit into the budget until a whole try does not: that is the table's doing, and no LoadTimeout."""
    faults.script(batch([], ["a", "b"]))
    # It begins no try with less than three seconds left.
    patient = DynamoDBOrigin("users", patient_client, read_timeout=256)
    with pytest.raises(OriginThrottled, match=r"2 of 2 keys") as caught:
        patient.items(lambda key: {"pk": key}, budget=3.1)(["a", "b"])
    assert isinstance(caught.value.__cause__, LoadTimeout)


@pytest.mark.parametrize("item", [{"pk": {"S": "other"}}, {"name": {"S": "no key"}}, {"pk": {"N": "7"}}])
def test_an_item_that_was_not_asked_for_is_malformed(users: DynamoDBOrigin, faults: FaultServer, item: Any) -> None:
    """A batch never gives a key another key's item."""
    faults.script(json_reply(ConsumedCapacity=[CAPACITY], Responses={"users": [item]}, UnprocessedKeys={}))
    with pytest.raises(OriginMalformed, match="not asked for"):
        users.items(lambda key: {"pk": key}, budget="1m")(["a"])


def test_a_query_that_turns_in_circles_ends(users: DynamoDBOrigin, faults: FaultServer) -> None:
    """The same page twice is malformed, and so is a page with fewer items than it counts."""
    page: dict[str, Any] = {
        "ConsumedCapacity": CAPACITY,
        "Items": [],
        "Count": 0,
        "LastEvaluatedKey": {"pk": {"S": "a"}},
    }
    faults.script(json_reply(**page))
    with pytest.raises(OriginMalformed, match="again and again"):
        users.query("pk = :pk", {":pk": "a"}).load(CONTEXT)
    faults.script(json_reply(ConsumedCapacity=CAPACITY, Items=[], Count=2))
    with pytest.raises(OriginMalformed, match="not as many"):
        users.query("pk = :pk", {":pk": "a"}).load(CONTEXT)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ({"pk": 1.5}, TypeError),
        ({"pk": True}, TypeError),
        ({"pk": None}, TypeError),
        ({"pk": ["a"]}, TypeError),
        ({7: "a"}, TypeError),
        ("a", TypeError),
        ({}, TypeError),
        ({"pk": ""}, ConfigurationError),
        ({"pk": b""}, ConfigurationError),
        ({"pk": Decimal("NaN")}, ConfigurationError),
        ({"pk": 10**40 + 1}, ConfigurationError),
    ],
)
def test_a_key_that_cannot_be_one_is_refused(key: Any, kind: type[Exception]) -> None:
    """Keys are checked when the request is made; a float is refused with the way out."""
    with pytest.raises(kind, match="key") as caught:
        DynamoDBOrigin("users").item(key)
    if key == {"pk": 1.5}:
        assert "Decimal" in str(caught.value)
    if key == {}:
        assert str(caught.value).endswith("; got an empty one")


@pytest.mark.parametrize("table", ["", "ab", "a b c", None, "x" * 256])
def test_a_table_that_cannot_be_one_is_refused(table: Any) -> None:
    """A table's name is checked when it is given."""
    with pytest.raises(ConfigurationError, match="table must be"):
        DynamoDBOrigin(table)


def test_options_that_mean_nothing_are_refused() -> None:
    """Limits, conditions and functions are checked when they are given."""
    origin = DynamoDBOrigin("users")
    with pytest.raises(ConfigurationError, match="limit"):
        origin.query("pk = :pk", {":pk": "a"}, limit=0)
    with pytest.raises(ConfigurationError, match=r"^limit \(300\) must not be above max_items \(100\)"):
        origin.query("pk = :pk", {":pk": "a"}, limit=300, max_items=100)
    with pytest.raises(ConfigurationError, match="consistent"):
        origin.query("pk = :pk", {":pk": "a"}, index="by-name", consistent=True)
    with pytest.raises(TypeError, match="key_condition"):
        origin.query("", {})
    with pytest.raises(TypeError, match="key_of"):
        origin.items({"a": 1})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"values\[':pk'\] is a float"):
        origin.query("pk = :pk", {":pk": 0.5})
    with pytest.raises(ConfigurationError, match="ttl_attribute"):
        DynamoDBOrigin("users", ttl_attribute="")


def test_reprs_are_short_and_tell_no_key() -> None:
    """A request's repr names the table and not the key."""
    origin = DynamoDBOrigin("users")
    assert repr(origin.item({"pk": "alice"})) == "<item of DynamoDBOrigin('users')>"


decimals = st.integers(-(10**20), 10**20) | st.decimals(
    allow_nan=False, allow_infinity=False, places=4, min_value=-1000, max_value=1000
)
scalars = st.none() | st.booleans() | st.text() | st.binary() | decimals
sets = st.sets(st.text(), min_size=1) | st.sets(st.binary(), min_size=1) | st.sets(decimals, min_size=1)
values = st.recursive(scalars | sets, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)


@given(values)
def test_values_are_written_and_read_as_boto3_does(value: Any) -> None:
    """What we write boto3 writes too, what we write we read back equal, and boto3 reads the same but for its Binary."""
    written = attribute("value", value)
    theirs = TypeSerializer().serialize(value)
    assert python(written) == python(theirs) == value
    assert TypeDeserializer().deserialize(written) == _with_binary(value)


def _with_binary(value: Any) -> Any:
    match value:
        case bytes():
            return Binary(value)
        case list():
            return [_with_binary(each) for each in value]
        case dict():
            return {name: _with_binary(each) for name, each in value.items()}
        case set():
            return {_with_binary(each) for each in value}
        case bool() | None | str():
            return value
        case _:
            return DYNAMODB_CONTEXT.create_decimal(value)


@given(st.integers(-1000, 1000))
def test_equal_keys_are_one_key_however_they_are_written(number: int) -> None:
    """1, 1.0 and 1E0 are the same number of a key."""
    texts = [str(number), f"{number}.00", f"{number}E0"]
    assert len({identity({"sk": {"N": text}}) for text in texts}) == 1
