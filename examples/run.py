"""Run an example on local services: `python examples/run.py hot_s3_objects`, or without a name all of them."""

import importlib
import json
import os
import sys
import time
from pathlib import Path

from tiered_cache.local import LocalServices
from tiered_cache.local.content import fill

EVENTS = {
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
}


class Context:
    """As much of Lambda's context object as a handler mostly uses."""

    def get_remaining_time_in_millis(self):
        return 30_000


def run(name):
    print(f"\n{name}: {importlib.import_module(name).__doc__.splitlines()[0]}")
    module = importlib.import_module(name)
    for event in EVENTS[name]:
        started = time.perf_counter()
        result = module.handler(event, Context())
        milliseconds = (time.perf_counter() - started) * 1000
        print(f"  {milliseconds:9.3f} ms  {json.dumps(event)} -> {json.dumps(result)[:150]}")
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
