"""Run an example on local services: `python examples/run.py hot_s3_objects`, or without a name all of them."""

import importlib
import json
import os
import sys
import time
from pathlib import Path

from tiered_cache.local import LocalServices
from tiered_cache.local.content import fill

OBJECT_PUT = {
    "Records": [
        {
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": "demo-documents"}, "object": {"key": "endpoints.json"}},
        }
    ]
}
ITEM_MODIFIED = {
    "Records": [
        {
            "eventSource": "aws:dynamodb",
            "eventSourceARN": "arn:aws:dynamodb:us-east-1:123456789012:table/demo-customers/stream/2026-05-01T00:00:00.000",
            "eventName": "MODIFY",
            "dynamodb": {"Keys": {"customer_id": {"S": "customer-000007"}}, "SequenceNumber": "1"},
        }
    ]
}
EVENTS = {  # for each example; with a function's name before it, where that is not `handler`
    "global_dict": [
        {"customer": "c1", "amount": 10, "currency": "USD"},
        {"customer": "c2", "amount": 5, "currency": "CHF"},
    ],
    "hot_s3_objects": [{"document": "endpoints.json"}] * 3,
    "athena_mapping": [{"customer_id": "customer-000042"}, {"customer_id": "customer-000045"}],
    "three_origins": [
        {"want": "document", "document": "endpoints-1.json"},
        {"want": "customer", "customer_id": "customer-000007"},
        {"want": "mapping"},
        {"want": "customer", "customer_id": "customer-000007"},
    ],
    "invalidate_on_change": [
        {"document": "endpoints.json"},
        {"document": "endpoints.json"},
        ("on_object", OBJECT_PUT),
        {"document": "endpoints.json"},
        {"customer_id": "customer-000007"},
        {"customer_id": "customer-000007"},
        ("on_item", ITEM_MODIFIED),
        {"customer_id": "customer-000007"},
    ],
}


class Context:
    """As much of Lambda's context object as a handler mostly uses."""

    def get_remaining_time_in_millis(self):
        return 30_000


def run(name):
    print(f"\n{name}: {importlib.import_module(name).__doc__.splitlines()[0]}")
    module = importlib.import_module(name)
    for entry in EVENTS[name]:
        function, event = entry if isinstance(entry, tuple) else ("handler", entry)
        started = time.perf_counter()
        result = getattr(module, function)(event, Context())
        milliseconds = (time.perf_counter() - started) * 1000
        print(f"  {milliseconds:9.3f} ms  {function}({json.dumps(event)[:100]}) -> {json.dumps(result)[:150]}")
    module.cache.close()


def main(names):
    unknown = [name for name in names if name not in EVENTS]
    if unknown:
        raise SystemExit(f"no example {unknown[0]!r}; there are: {', '.join(EVENTS)}")
    sys.path.insert(0, str(Path(__file__).parent))
    with LocalServices() as services:
        fill(services)
        os.environ.update(services.environment())
        for name in names or EVENTS:
            run(name)


if __name__ == "__main__":
    main(sys.argv[1:])
