"""Run an example on local services: `python examples/run.py hot_s3_objects`, or without a name all of them."""

import importlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tiered_cache.local import LocalLambda, LocalServices
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


def shown(name, result, milliseconds, container):
    print(f"  {milliseconds:9.3f} ms  container {container}  {name} -> {json.dumps(result)[:150]}")


def invoke(function, event):
    done = function.invoke(event)
    shown(json.dumps(event), done.value, done.seconds * 1000, done.container)
    return done.value


def user_sessions(services):
    """Six users click five times each, on as many containers as it takes."""
    with (
        function_of("user_sessions", services, containers=6, routing="random") as function,
        ThreadPoolExecutor(3) as some,
    ):
        list(some.map(lambda number: invoke(function, {"user": f"customer-{number % 6:06d}"}), range(30)))


def work_after_answer(services):
    """The value goes stale between the first two orders; the second is answered at once, the third sees its refresh."""
    with function_of("work_after_answer", services) as function:
        for order, pause in ((1, 1.1), (2, 0.0), (3, 0.0)):
            invoke(function, {"order": order})
            function.settle(30)  # until nothing runs after the response any more
            time.sleep(pause)


def long_athena_query(services):
    """A query of ten seconds for functions of five, in three containers: one execution, whose rows all of them get."""
    services.athena.delay, before = 10.0, services.athena.executions_started
    event = {"customer_id": "customer-000042"}
    with (
        function_of("long_athena_query", services, containers=3, timeout=5.0) as function,
        ThreadPoolExecutor(3) as three,
    ):
        answers = [{"status": 0}]
        while answers[-1]["status"] != 200:
            answers = list(three.map(lambda _: invoke(function, event), range(3)))
            time.sleep(1.0)
    print(f"  executions: {services.athena.executions_started - before}")
    services.athena.delay = 0.0


def snapstart(services):
    """Two containers, restored from what their init phase has left."""
    with function_of("snapstart", services, containers=2, initialization="snap-start") as function:
        with ThreadPoolExecutor(2) as both:
            list(both.map(lambda _: invoke(function, {}), range(2)))
        invoke(function, {})


def function_of(name, services, **options):
    environment = services.environment()
    options = {"timeout": 30.0, "memory": 512} | options
    return LocalLambda(f"{name}.handler", directory=Path(__file__).parent, environment=environment, **options)


ON_LAMBDA = {
    scenario.__name__: scenario for scenario in (user_sessions, work_after_answer, long_athena_query, snapstart)
}


def main(names):
    unknown = [name for name in names if name not in EVENTS and name not in ON_LAMBDA]
    if unknown:
        raise SystemExit(f"no example {unknown[0]!r}; there are: {', '.join((*EVENTS, *ON_LAMBDA))}")
    sys.path.insert(0, str(Path(__file__).parent))
    with LocalServices() as services:
        fill(services)
        os.environ.update(services.environment())
        for name in names or (*EVENTS, *ON_LAMBDA):
            if name in EVENTS:
                run(name)
            else:
                print(f"\n{name}: {ON_LAMBDA[name].__doc__}")
                ON_LAMBDA[name](services)


if __name__ == "__main__":
    main(sys.argv[1:])
