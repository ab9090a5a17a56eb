"""Run an example on local services: `python examples/run.py hot_s3_objects`, or without a name all of them."""

import importlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tiered_cache.local import LocalLambda, LocalServices
from tiered_cache.local.awslambda import FunctionTimedOut
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
EVENTS = {  # for each example: its events, with what the answers must have; in front a function that is not `handler`
    "global_dict": [
        ({"customer": "c1", "amount": 10, "currency": "USD"}, {"loads": {"rates": 1, "card": 1}}),
        ({"customer": "c2", "amount": 5, "currency": "CHF"}, {"loads": {"rates": 1, "card": 2}}),
    ],
    "hot_s3_objects": [({"document": "endpoints.json"}, {"tier": tier}) for tier in ("origin", "l1", "l1")],
    "athena_mapping": [
        ({"customer_id": "customer-000042"}, {"tier": "origin"}),
        ({"customer_id": "customer-000045"}, {"tier": "l1"}),
    ],
    "three_origins": [
        ({"want": "document", "document": "endpoints-1.json"}, {"tier": "origin"}),
        ({"want": "customer", "customer_id": "customer-000007"}, {"tier": "origin"}),
        ({"want": "mapping"}, {"tier": "origin", "items": 200_000}),
        ({"want": "customer", "customer_id": "customer-000007"}, {"tier": "l1"}),
    ],
    "invalidate_on_change": [
        ({"document": "endpoints.json"}, {"tier": "origin"}),
        ({"document": "endpoints.json"}, {"tier": "l1"}),
        ("on_object", OBJECT_PUT, {"batchItemFailures": []}),
        ({"document": "endpoints.json"}, {"tier": "origin"}),
        ({"customer_id": "customer-000007"}, {"tier": "origin"}),
        ({"customer_id": "customer-000007"}, {"tier": "l1"}),
        ("on_item", ITEM_MODIFIED, {"batchItemFailures": []}),
        ({"customer_id": "customer-000007"}, {"tier": "origin"}),
    ],
}


class Context:
    """As much of Lambda's context object as a handler mostly uses."""

    def get_remaining_time_in_millis(self):
        return 900_000


def expect(is_so, what, shown):
    """End the run if an example does not show what it is for."""
    if not is_so:
        raise SystemExit(f"expected {what}; got {shown}")


def run(name):
    print(f"\n{name}: {importlib.import_module(name).__doc__.splitlines()[0]}")
    module = importlib.import_module(name)
    for *named, event, wanted in EVENTS[name]:
        function = named[0] if named else "handler"
        started = time.perf_counter()
        result = getattr(module, function)(event, Context())
        milliseconds = (time.perf_counter() - started) * 1000
        print(f"  {milliseconds:9.3f} ms  {function}({json.dumps(event)[:100]}) -> {json.dumps(result)[:150]}")
        expect(wanted.items() <= result.items(), wanted, result)
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

        def click(user):
            return invoke(function, {"user": f"customer-{user:06d}"})["clicks"]

        counted = [list(some.map(click, range(6))) for _ in range(5)]
    expect(counted == [[click] * 6 for click in range(1, 6)], "no click lost, whatever container had it", counted)


def work_after_answer(services):
    """The value goes stale between the first two orders; the second is answered at once, the third sees its refresh."""
    answers = []
    with function_of("work_after_answer", services) as function:
        for order, pause in ((1, 1.1), (2, 0.0), (3, 0.0)):
            answers.append(invoke(function, {"order": order}))
            function.settle(30)  # until nothing runs after the response any more
            time.sleep(pause)
    _, stale, refreshed = answers
    expect(stale["stale"] and refreshed["age"] < stale["age"], "a stale answer, then a younger one", answers)
    sent = [answer["sent_so_far"] for answer in answers]
    expect(sent == [[], [1], [1, 2]], "what was sent after each response", sent)


def long_athena_query(services):
    """A query of twelve seconds for functions of ten, in three containers: one execution, whose rows all of them get."""
    services.athena.delay, before = 12.0, services.athena.executions_started
    event, rounds = {"customer_id": "customer-000042"}, []
    with (
        function_of("long_athena_query", services, containers=3, timeout=10.0) as function,
        ThreadPoolExecutor(3) as three,
    ):

        def asked(_):
            try:
                return invoke(function, event)
            except FunctionTimedOut as error:  # on a machine that is busy with much else; the next round takes it up
                print(f"  {error}")
                return {"status": 504, "retry_after": 1}

        while not rounds or rounds[-1] != [200, 200, 200]:
            expect(len(rounds) < 60, "the rows, after a minute at the latest", rounds)
            answers = list(three.map(asked, range(3)))
            rounds.append([answer["status"] for answer in answers])
            time.sleep(max(answer.get("retry_after", 0) for answer in answers))
    executions = services.athena.executions_started - before
    print(f"  executions: {executions}")
    services.athena.delay = 0.0
    expect(executions == 1, "one execution for the three containers", executions)
    expect(200 not in rounds[0], "nobody to have rows at first", rounds)


def snapstart(services):
    """Two containers, restored from what their init phase has left."""
    with function_of("snapstart", services, containers=2, initialization="snap-start") as function:
        with ThreadPoolExecutor(2) as both:
            restored = list(both.map(lambda _: invoke(function, {}), range(2)))
        again = invoke(function, {})
    tiers = [answer["tier"] for answer in (*restored, again)]
    expect("origin" not in tiers and again["tier"] == "l1", "what the snapshot has, confirmed once", tiers)
    containers = {answer["container"] for answer in restored}
    expect(len(containers) == 2, "an id for each copy", containers)


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
