"""From the change to the reader: a real notification or stream record, a handler's cache, a Valkey, another's cache."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tiered_cache import InvalidationNotDelivered, MemoryTier, RedisTier, TieredCache
from tiered_cache.adapters.dynamodb import DynamoDBOrigin
from tiered_cache.adapters.s3 import S3Origin
from tiered_cache.aws_lambda import DynamoDBChange, invalidate_on_dynamodb, invalidate_on_s3, s3_changes
from tiered_cache.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tiered_cache.local.aws import AWSServer
    from tiered_cache.local.valkey import ValkeyServer

OBJECT = "rates/May 2026+é.json"
L1_TTL = 60


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def container(valkey: ValkeyServer, clock: FakeClock) -> Iterator[Callable[..., TieredCache]]:
    """Makes caches of the same namespace, as containers have them."""
    made: list[TieredCache] = []

    def make(timeout: float = 20) -> TieredCache:
        l2 = RedisTier(valkey.url, ttl="1h", timeout=timeout)
        made.append(TieredCache(MemoryTier(ttl=L1_TTL, jitter=0), l2, namespace="events", clock=clock))
        return made[-1]

    yield make
    for cache in made:
        cache.close()


class Queue:
    """An SQS queue, as Lambda reads it."""

    def __init__(self, aws: AWSServer) -> None:
        self._sqs = aws.client("sqs")
        self._url = self._sqs.create_queue(QueueName="changes")["QueueUrl"]
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])["Attributes"]
        self.arn: str = attributes["QueueArn"]
        self._sqs.purge_queue(QueueUrl=self._url)

    def event(self) -> dict[str, Any]:
        """All messages that are there, as the event that Lambda makes of them."""
        messages: list[Any] = []
        while more := self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages"):
            messages += more
        return {
            "Records": [
                {
                    "messageId": message["MessageId"],
                    "body": message["Body"],
                    "eventSource": "aws:sqs",
                    "eventSourceARN": self.arn,
                }
                for message in messages
            ]
        }


def direct(_: AWSServer, queue: Queue) -> dict[str, Any]:
    return {"QueueConfigurations": [{"QueueArn": queue.arn, "Events": ["s3:ObjectCreated:*"]}]}


def by_sns(aws: AWSServer, queue: Queue) -> dict[str, Any]:
    sns = aws.client("sns")
    topic = sns.create_topic(Name="changes")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue.arn)
    return {"TopicConfigurations": [{"TopicArn": topic, "Events": ["s3:ObjectCreated:*"]}]}


def by_eventbridge(aws: AWSServer, queue: Queue) -> dict[str, Any]:
    events = aws.client("events")
    events.put_rule(Name="changes", EventPattern=json.dumps({"source": ["aws.s3"]}))
    events.put_targets(Rule="changes", Targets=[{"Id": "queue", "Arn": queue.arn}])
    return {"EventBridgeConfiguration": {}}


@pytest.fixture
def queue(local_aws: AWSServer) -> Queue:
    local_aws.reset()
    return Queue(local_aws)


@pytest.mark.parametrize("route", [direct, by_sns, by_eventbridge])
def test_a_new_object_reaches_the_readers(
    route: Callable[..., Any],
    local_aws: AWSServer,
    queue: Queue,
    container: Callable[[], TieredCache],
    clock: FakeClock,
) -> None:
    """By S3's own notification, whatever it came through; without it they would have had the old one for an hour."""
    s3 = local_aws.client("s3")
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key=OBJECT, Body=b"old")
    s3.put_bucket_notification_configuration(Bucket="bucket", NotificationConfiguration=route(local_aws, queue))
    reader, handler = container(), invalidate_on_s3(container(), key=lambda change: f"object:{change.key}")
    read = partial(reader.get_or_load, f"object:{OBJECT}", S3Origin("bucket", s3).object(OBJECT, decode=bytes.decode))

    assert "old" == read()
    s3.put_object(Bucket="bucket", Key=OBJECT, Body=b"new")
    clock.advance(L1_TTL)
    assert "old" == read()

    event = queue.event()
    assert {("bucket", OBJECT)} == {(change.bucket, change.key) for change in s3_changes(event)}
    assert {"batchItemFailures": []} == handler(event, None)
    clock.advance(L1_TTL)
    assert "new" == read()


def test_an_event_that_met_a_frozen_l2_is_not_lost(
    local_aws: AWSServer, queue: Queue, container: Callable[..., TieredCache], clock: FakeClock, valkey: ValkeyServer
) -> None:
    """It is given back to Lambda, and does its work when it comes again, in whichever container."""
    s3 = local_aws.client("s3")
    s3.create_bucket(Bucket="bucket")
    s3.put_bucket_notification_configuration(Bucket="bucket", NotificationConfiguration=direct(local_aws, queue))
    reader = container()
    reader.set(OBJECT, "old")
    s3.put_object(Bucket="bucket", Key=OBJECT, Body=b"new")
    event = queue.event()
    failing = [record["messageId"] for record in event["Records"] if OBJECT in str(s3_changes({"Records": [record]}))]
    make = partial(invalidate_on_s3, key=lambda change: change.key)

    valkey.pause()
    try:
        with pytest.raises(InvalidationNotDelivered):
            make(container(timeout=0.5))(event, None)
        reported = make(container(timeout=0.5), report_failures=True)(event, None)
    finally:
        valkey.resume()
    assert 2 == len(event["Records"])  # the notification's test event is the other one
    assert {"batchItemFailures": [{"itemIdentifier": name} for name in failing]} == reported

    again = {"Records": [record for record in event["Records"] if record["messageId"] in failing]}
    assert {"batchItemFailures": []} == make(container(), report_failures=True)(again, None)
    clock.advance(L1_TTL)
    assert "new" == reader.get_or_load(OBJECT, S3Origin("bucket", s3).object(OBJECT, decode=bytes.decode))


def as_lambda_has_it(records: list[Any], stream: str) -> dict[str, Any]:
    """Records of GetRecords as the event that Lambda makes of them: JSON, with the stream's ARN in each."""

    def plain(value: object) -> Any:
        return value.timestamp() if isinstance(value, datetime) else base64.b64encode(value).decode()  # type: ignore[arg-type]

    return json.loads(
        json.dumps({"Records": [record | {"eventSourceARN": stream} for record in records]}, default=plain)
    )


def test_a_changed_item_reaches_the_readers(
    local_aws: AWSServer, container: Callable[[], TieredCache], clock: FakeClock
) -> None:
    """By the records of its table's stream: put, updated, removed."""
    local_aws.reset()
    dynamodb, streams = local_aws.client("dynamodb"), local_aws.client("dynamodbstreams")
    stream = dynamodb.create_table(
        TableName="customers",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}, {"AttributeName": "number", "KeyType": "RANGE"}],
        AttributeDefinitions=[
            {"AttributeName": "id", "AttributeType": "S"},
            {"AttributeName": "number", "AttributeType": "N"},
        ],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )["TableDescription"]["LatestStreamArn"]
    key = {"id": {"S": "a"}, "number": {"N": "7"}}  # no binary key: moto's streams encode one twice
    request = DynamoDBOrigin("customers", dynamodb).item({"id": "a", "number": 7}, consistent=True)
    seen: list[DynamoDBChange] = []

    def key_of(change: DynamoDBChange) -> str:
        seen.append(change)
        return f"customer:{change.keys['id']}:{change.keys['number']}"

    reader, handler = container(), invalidate_on_dynamodb(container(), key=key_of, report_failures=True)
    read = partial(reader.get_or_load, "customer:a:7", request)

    dynamodb.put_item(TableName="customers", Item=key | {"name": {"S": "old"}, "seal": {"B": b"\x00\xff"}})
    old = read()
    dynamodb.put_item(TableName="customers", Item=key | {"name": {"S": "new"}, "seal": {"B": b"\x00\xff"}})
    clock.advance(L1_TTL)
    assert old == read()

    shard = streams.describe_stream(StreamArn=stream)["StreamDescription"]["Shards"][0]["ShardId"]
    start = streams.get_shard_iterator(StreamArn=stream, ShardId=shard, ShardIteratorType="TRIM_HORIZON")
    answer = streams.get_records(ShardIterator=start["ShardIterator"])
    assert {"batchItemFailures": []} == handler(as_lambda_has_it(answer["Records"], stream), None)
    clock.advance(L1_TTL)
    new = read()
    assert "new" == new["name"]

    dynamodb.delete_item(TableName="customers", Key=key)
    answer = streams.get_records(ShardIterator=answer["NextShardIterator"])
    handler(as_lambda_has_it(answer["Records"], stream), None)
    clock.advance(L1_TTL)
    with pytest.raises(KeyError):
        read()
    keys = {"id": "a", "number": Decimal(7)}
    assert [
        DynamoDBChange("customers", keys, "INSERT", old, None),
        DynamoDBChange("customers", keys, "MODIFY", new, old),
        DynamoDBChange("customers", keys, "REMOVE", None, new),
    ] == seen
