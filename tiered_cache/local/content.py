"""Real content for the local services, which the demo and the examples read."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from tiered_cache.local._needs import need

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache.local.services import LocalServices

DOCUMENTS = "demo-documents"
CUSTOMERS = "demo-customers"
RESULTS = "demo-athena-results"
WAREHOUSE = "demo-warehouse"
DATABASE = "shop"
MAPPING_ROWS = 200_000
CUSTOMER_ITEMS = 100
DOCUMENT_COPIES = 6


def fill(services: LocalServices, told: Callable[[str], object] = str) -> None:
    """Put six copies of a document of over a megabyte into S3, 100 items into DynamoDB and a table of 200,000 rows under Athena.

    told: called with a word on each step as it begins.
    """
    s3 = services.client("s3")
    for bucket in (DOCUMENTS, RESULTS, WAREHOUSE):
        s3.create_bucket(Bucket=bucket)
    told("JSON documents into S3")
    for copy in range(DOCUMENT_COPIES):
        s3.put_object(Bucket=DOCUMENTS, Key=document_name(copy), Body=document())
    told("customers into DynamoDB")
    _fill_table(services.client("dynamodb"))
    told(f"a mapping of {MAPPING_ROWS:,} rows under Athena")
    s3.put_object(Bucket=WAREHOUSE, Key="customer_mapping/part-0.csv", Body=mapping_csv().encode())
    _run(
        services.client("athena"),
        "CREATE EXTERNAL TABLE customer_mapping (customer_id string, account string, region string) "
        f"ROW FORMAT DELIMITED FIELDS TERMINATED BY ',' LOCATION 's3://{WAREHOUSE}/customer_mapping/'",
    )


def document_name(copy: int) -> str:
    """The key of that copy of the document."""
    return "endpoints.json" if copy == 0 else f"endpoints-{copy}.json"


def document() -> bytes:
    """AWS' own list of endpoints, which ships with botocore: about 1.2 MB of nested JSON."""
    return (Path(need("botocore").__file__).parent / "data" / "endpoints.json").read_bytes()


def customer_id(number: int) -> str:
    """The id of the customer of that number."""
    return f"customer-{number:06d}"


def mapping_csv(rows: int = MAPPING_ROWS) -> str:
    """A customer mapping as CSV without a header; the same at each call."""
    random = Random(7)
    regions = ("eu", "us", "ap")
    lines = (
        f"{customer_id(number)},account-{random.randrange(10**9):09d},{regions[number % 3]}\n" for number in range(rows)
    )
    return "".join(lines)


def _fill_table(dynamodb: Any) -> None:
    dynamodb.create_table(
        TableName=CUSTOMERS,
        KeySchema=[{"AttributeName": "customer_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "customer_id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    for first in range(0, CUSTOMER_ITEMS, 25):
        puts = [{"PutRequest": {"Item": _customer(number)}} for number in range(first, first + 25)]
        dynamodb.batch_write_item(RequestItems={CUSTOMERS: puts})


def _customer(number: int) -> dict[str, Any]:
    """An item with what JSON cannot carry: exact numbers, sets, binary, nested maps."""
    return {
        "customer_id": {"S": customer_id(number)},
        "balance": {"N": f"{number * 12345.67:.2f}"},
        "interests": {"SS": ["books", "music", f"shelf-{number % 7}"]},
        "seal": {"B": number.to_bytes(8, "big") * 4},
        "address": {
            "M": {"city": {"S": "Zürich"}, "floor": {"N": str(number % 9)}, "lines": {"L": [{"S": "c/o Ada"}]}}
        },
    }


def _run(athena: Any, sql: str) -> None:
    started = athena.start_query_execution(
        QueryString=sql,
        QueryExecutionContext={"Database": DATABASE},
        ResultConfiguration={"OutputLocation": f"s3://{RESULTS}/"},
    )
    while True:
        execution = athena.get_query_execution(QueryExecutionId=started["QueryExecutionId"])["QueryExecution"]
        state = execution["Status"]["State"]
        if state == "SUCCEEDED":
            return
        if state in ("FAILED", "CANCELLED"):
            raise RuntimeError(f"Athena: {state}: {execution['Status'].get('StateChangeReason')}")
        time.sleep(0.02)
