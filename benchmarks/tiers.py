"""The same value from each tier: S3, DynamoDB and Athena by boto3 alone and through the cache, then from L2, then from L1.

On local services, and on real AWS beside them where environment variables name what to read (docs/benchmarks.md).
"""

import json
import logging
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import count
from random import Random
from string import hexdigits
from typing import Any, NamedTuple

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.adapters.athena import AthenaOrigin
from tiered_cache.adapters.dynamodb import DynamoDBOrigin
from tiered_cache.adapters.s3 import S3Origin
from tiered_cache.benchmarks import cpu
from tiered_cache.benchmarks.harness import Skipped, Timing, each, in_turn, one_by_one, table, with_base_again
from tiered_cache.benchmarks.l2 import PATIENCE, cache_without_l1, client_of, never, value_of
from tiered_cache.benchmarks.progress import turns
from tiered_cache.local import LocalServices, ValkeyServer, content

SIZES = (1_000, 100_000, 1_000_000)
SQL = "SELECT customer_id, account FROM customer_mapping LIMIT 1000"
shares = ContextVar("shares", default=tuple(cpu.MEGABYTES))
"""The shares of a processor that `tiers.cpu` measures with: --cpu."""
AWS = "TIERED_CACHE_BENCH_"
NAMESPACE = "tiered-cache-bench"
"""In L2: what other programs have there is left alone."""


class Content(NamedTuple):
    """A value: how boto3 alone gets it, and the loader of it. calls: how often it is loaded in each turn."""

    name: str
    alone: Any
    loader: Any
    calls: int


def origins(*, quick):
    with LocalServices() as services:
        content.fill(services)
        return ladders(local_contents(services, quick), services.valkey.url, "", quick)


def aws(*, quick):
    """The same on AWS, by the SDK's own credentials."""
    contents = list(aws_contents())
    url = os.environ.get(AWS + "REDIS_URL")
    if not contents:
        raise Skipped(f"set {AWS}BUCKET, {AWS}TABLE or {AWS}ATHENA_DATABASE to measure on AWS: docs/benchmarks.md")
    if url:
        return ladders(contents, url, " on AWS", quick)
    with ValkeyServer() as server:
        return ladders(contents, server.url, " on AWS, L2 on loopback", quick)


def ladders(contents, url, where, quick):
    """For each content, the time from each tier."""
    return [result for one in contents for result in ladder(one, url, where, quick)]


def ladder(one, url, where, quick):
    """The time of one content from each tier. What it has put into L2 is gone afterwards: it may be somebody's."""
    number = count()
    with (
        TieredCache(MemoryTier(ttl="1h"), RedisTier(url, ttl="1h", timeout=PATIENCE), namespace=NAMESPACE) as cache,
        cache_without_l1(url, namespace=NAMESPACE) as from_l2,
    ):
        operations = {
            "boto3 alone": one.alone,
            "tiered_cache, from the origin": lambda: cache.get_or_load(f"{one.name} {next(number)}", one.loader),
            "tiered_cache, from L2": partial(from_l2.get_or_load, one.name, never),
            "tiered_cache, from L1": partial(cache.get_or_load, one.name, never),
        }
        try:
            cache.set(one.name, one.alone())
            timings = one_by_one(operations, rounds=3 if quick else 11, calls=one.calls, base="boto3 alone")
        finally:
            delete(url, [one.name, *(f"{one.name} {each}" for each in range(next(number)))])
    return table(f"{one.name}{where}, from each tier", timings, "boto3 alone")


def delete(url, keys):
    """Delete what L2 has of these keys, and the log of our namespace: by their names, for a server may be full of others."""
    with client_of(url) as client:
        for name in (*(f"{{{NAMESPACE}|{key}}}" for key in keys), f"{{{NAMESPACE}|}}:log", f"{{{NAMESPACE}|}}:marks"):
            client.delete(f"tc1:{name}")


def local_contents(services, quick):
    s3, dynamodb, athena = (services.client(name) for name in ("s3", "dynamodb", "athena"))
    for size in SIZES[:1] if quick else SIZES:
        s3.put_object(Bucket=content.DOCUMENTS, Key=f"bench-{size}", Body=json.dumps(rows_of(size)))
        yield of_s3(s3, content.DOCUMENTS, f"bench-{size}", f"S3, {size:,} bytes of JSON", 20)
    yield of_dynamodb(dynamodb, content.CUSTOMERS, {"customer_id": content.customer_id(1)}, 20)
    query = Query(SQL, content.DATABASE, f"s3://{content.RESULTS}/")
    yield of_athena((athena, s3), query, "Athena, 1,000 rows", 2)


def rows_of(size):
    """A value whose JSON takes so many bytes: drawn rows, which zlib packs as it does real ones, to a third of that."""
    drawn, rows = Random(size), []
    left = size - len(json.dumps({"rows": rows, "rest": ""}))
    while (takes := len(json.dumps(made := row(drawn))) + len(", ") * bool(rows)) <= left:
        rows.append(made)
        left -= takes
    return {"rows": rows, "rest": "".join(drawn.choices(hexdigits, k=left))}


def row(drawn):
    names = ("Ada", "Grace", "Linus", "Barbara", "Edsger", "Frances", "Donald", "Radia")
    day = f"20{drawn.randrange(10, 27)}-{drawn.randrange(1, 13):02}-{drawn.randrange(1, 29):02}"
    return {
        "customer_id": f"c-{drawn.randrange(10**8):08}",
        "name": f"{drawn.choice(names)} {drawn.choice(names)}",
        "since": day,
        "balance": drawn.randrange(10**6) / 100,
        "active": drawn.random() < 0.8,
        "token": f"{drawn.getrandbits(64):016x}",
    }


def aws_contents():
    """What the environment names, by clients that the SDK makes of its own settings."""
    import boto3

    given = {name.removeprefix(AWS): value for name, value in os.environ.items() if name.startswith(AWS)}
    if "BUCKET" in given:
        key = wanted(given, "OBJECT")
        yield of_s3(boto3.client("s3"), given["BUCKET"], key, "S3, an object of JSON", 5)
    if "TABLE" in given:
        key = item_key(wanted(given, "ITEM"))
        yield of_dynamodb(boto3.client("dynamodb"), given["TABLE"], key, 5)
    if "ATHENA_DATABASE" in given:
        query = Query(wanted(given, "ATHENA_SQL"), given["ATHENA_DATABASE"], wanted(given, "ATHENA_OUTPUT"))
        yield of_athena((boto3.client("athena"), boto3.client("s3")), query, "Athena, a query", 1)


def wanted(given, name):
    if name not in given:
        raise Skipped(f"{AWS}{name} is not set, and what is measured on AWS needs it: docs/benchmarks.md")
    return given[name]


def item_key(text):
    try:
        key = json.loads(text)
    except ValueError:
        key = None
    if not isinstance(key, dict) or not key:
        raise Skipped(f'{AWS}ITEM must be the key of an item as JSON, such as {{"id": "a"}}; got {text[:80]!r}')
    return key


def of_s3(client, bucket, key, name, calls):
    def alone():
        return json.loads(client.get_object(Bucket=bucket, Key=key)["Body"].read())

    return Content(name, alone, S3Origin(bucket, client).object(key, decode=json.loads), calls)


def of_dynamodb(client, table, key, calls):
    from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

    typed = {name: TypeSerializer().serialize(value) for name, value in key.items()}
    decode = TypeDeserializer().deserialize

    def alone():
        item = client.get_item(TableName=table, Key=typed)["Item"]
        return {name: json_like(decode(value)) for name, value in item.items()}

    return Content("DynamoDB, an item", alone, DynamoDBOrigin(table, client).item(key), calls)


def json_like(value):
    """boto3's Binary as bytes, which is what the adapter gives."""
    return bytes(value) if type(value).__name__ == "Binary" else value


class Query(NamedTuple):
    """A query, the database that it asks, and where in S3 its results go."""

    sql: str
    database: str
    output: str


def of_athena(clients, query, name, calls):
    client, s3 = clients

    def alone():
        started = client.start_query_execution(
            QueryString=query.sql,
            QueryExecutionContext={"Database": query.database},
            ResultConfiguration={"OutputLocation": query.output},
        )["QueryExecutionId"]
        while client.get_query_execution(QueryExecutionId=started)["QueryExecution"]["Status"]["State"] in RUNNING:
            time.sleep(0.05)
        pages = client.get_paginator("get_query_results").paginate(QueryExecutionId=started)
        rows = [row["Data"] for page in pages for row in page["ResultSet"]["Rows"]]
        return [[cell.get("VarCharValue") for cell in row] for row in rows]

    origin = AthenaOrigin(database=query.database, output_location=query.output, client=client, s3_client=s3)
    return Content(name, alone, origin.query(query.sql), calls)


RUNNING = ("QUEUED", "RUNNING")


def by_share(*, quick):
    """Hits of L1 and L2, and a start, with the share of a processor that functions of several memory sizes have."""
    named = {f"{share:g} vCPU, {size_of(share)}": share for share in shares.get()}
    base = next(iter(named))
    with ValkeyServer() as server, ExitStack() as running:
        children = {
            name: running.enter_context(limited_child(server.url, share))
            for name, share in with_base_again(named, base).items()
        }
        told = {name: [] for name in children}
        for turn in turns(5 if quick else 15):
            for name, (ask, _) in in_turn(tuple(children.items()), turn):
                told[name].append(ask())
    results = []
    for measured in (STARTED, "L2 hit", "L1 hit"):
        timings = [Timing(name, *rounds_and_calls([turn[measured] for turn in told[name]])) for name in told]
        title = f"{measured}, by the share of a processor"
        results += table(title, timings, base, f"Limited by {children[base][1]}; {WAITS}.")
    return results


def rounds_and_calls(samples):
    """What `Timing` has, of the seconds that were told in each turn: means, in which the few calls that waited count."""
    means = [statistics.mean(seconds) for seconds in samples]
    return means, [one for seconds in samples for one in seconds] if len(samples[0]) > 1 else ()


def size_of(share):
    return f"{cpu.MEGABYTES[share]:,} MB" if share in cpu.MEGABYTES else f"{share * 1_769:,.0f} MB"


@contextmanager
def limited_child(url, share):
    """A process with that share: a function that has it measure a turn and gives what it tells, and how it is limited.

    The servers have the whole machine, and the others wait meanwhile.
    """
    command = [sys.executable, "-c", f"from {__name__} import measure; measure({url!r})"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, start_new_session=True, **pipes) as child:
        child.stdout.readline()  # it has started, and now waits

        def ask():
            child.stdin.write("go\n")
            child.stdin.flush()
            return json.loads(child.stdout.readline())

        try:
            with cpu.limited(child.pid, share) as how:
                ask()  # the first turn warms up
                yield ask, how
        finally:
            child.kill()


START = """
import time
started = time.perf_counter()
from tiered_cache import MemoryTier, RedisTier, TieredCache
TieredCache(MemoryTier(ttl=60), RedisTier({!r}, ttl="1h", timeout=5)).warm_up()
print(time.perf_counter() - started)
"""
STARTED = "A start: import, a cache, L2 connected"
L1_HITS = 200_000
"""Enough for some periods of a limit."""
WAITS = "who has used up a share waits, so that few calls take long: the ratio is that of the means of a turn"


def measure(url):
    """The process: for each line that it reads, the seconds of a start, of L2's hits and, on average, of L1's."""
    start = [sys.executable, "-c", START.format(url)]
    logging.getLogger("tiered_cache").setLevel(logging.ERROR)  # an L1 without room warns of it
    with TieredCache(MemoryTier(ttl="1h"), refresh="inline") as cache, cache_without_l1(url) as from_l2:
        cache.set("key", value_of(600))
        from_l2.set("key", value_of(600))
        hit_l2 = each(partial(from_l2.get_or_load, "key", never))
        print("ready", flush=True)
        for _ in sys.stdin:
            started = float(subprocess.run(start, capture_output=True, check=True).stdout)
            began = time.perf_counter()
            for _ in range(L1_HITS):
                cache.get_or_load("key", never)
            of_l1 = (time.perf_counter() - began) / L1_HITS
            print(json.dumps({STARTED: [started], "L2 hit": hit_l2(200), "L1 hit": [of_l1]}), flush=True)
