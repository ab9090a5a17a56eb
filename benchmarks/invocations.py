"""What an invocation costs: the decorator, a refresh after the response, the first call after a thaw."""

from contextlib import ExitStack
from pathlib import Path

import tiered_cache
from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.aws_lambda import lambda_handler
from tiered_cache.benchmarks.harness import Timing, interleaved, table
from tiered_cache.benchmarks.progress import turns
from tiered_cache.local import FaultProxy, LocalLambda, ValkeyServer

FUNCTIONS = Path(__file__).parent / "functions"
CALLS = 200
PLAIN = "a stale hit, nothing to refresh"
BARE = "the handler alone"


class Context:
    """As much of Lambda's context object as the decorator uses."""

    def get_remaining_time_in_millis(self):
        return 30_000


def handler(event, context):
    return event


def decorated(quick):
    """The decorator around a handler that does nothing, in one process."""
    with ValkeyServer() as server:
        with_l2 = TieredCache(MemoryTier(ttl=60), RedisTier(server.url, ttl="1h", timeout=1), coherence="ttl")
        functions = {
            BARE: handler,
            "with lambda_handler, no L2": lambda_handler(TieredCache())(handler),
            "with lambda_handler, an L2 and no call to it": lambda_handler(with_l2)(handler),
        }
        context = Context()
        operations = {name: lambda function=function: repeat(function, context) for name, function in functions.items()}
        timings = interleaved(operations, rounds=31 if quick else 301, calls=CALLS, base=BARE)
        with_l2.close()
    bare, *rest = (timing.median for timing in timings if timing.name in functions)
    most = max(rest) - bare
    return table(
        "An invocation's overhead", timings, BARE, f"lambda_handler adds {most * 1e6:.1f} µs to each invocation."
    )


def repeat(function, context):
    for _ in range(CALLS):
        function(None, context)


def after_response(quick):
    """Invocations that find a value stale whose refresh takes 500 ms, on the local Lambda, taking turns."""
    ways = {PLAIN: "nobody", "refreshed after the response": "after_response", "refreshed inline": "inline"}
    seconds = {name: [] for name in ways}
    loads = {}
    with ExitStack() as started:
        functions = {
            name: started.enter_context(
                LocalLambda(
                    "refreshed.handler", directory=FUNCTIONS, containers=1, timeout=30, environment=variables(way)
                )
            )
            for name, way in ways.items()
        }
        for turn in turns(4 if quick else 21):
            for name, function in functions.items():
                done = function.invoke({})
                loads[name] = done.value["loads"]
                function.settle(30)
                if turn > 1:  # the first makes the container and the value, the second the first copy
                    seconds[name].append(done.seconds)
    return table("A response, with a refresh of 500 ms owed", timings_of(seconds), PLAIN, f"Loads: {loads}")


def thaw(quick):
    """The first call of an invocation whose connection was reset while the container was frozen."""
    seconds = {"an L2 hit on a connection in use": [], "the first after a thaw with a dead connection": []}
    with ValkeyServer() as server, FaultProxy(server.host, server.port) as proxy, ExitStack() as started:
        environment = variables("") | {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}"}
        function = started.enter_context(
            LocalLambda("thawed.handler", directory=FUNCTIONS, containers=1, timeout=30, environment=environment)
        )
        function.invoke({})
        before = function.invoke({}).value
        rounds = 3 if quick else 20
        for _ in turns(rounds):
            for name, measured in seconds.items():
                function.settle(30)
                if name.startswith("the first"):
                    proxy.kill_all()
                last = function.invoke({}).value
                measured.append(last["seconds"])
    note = f"{last['connects'] - before['connects']} connects for {rounds} dead connections; errors counted: {last['errors']}"
    return table("Thaw", timings_of(seconds), "an L2 hit on a connection in use", note)


def variables(way):
    return {"REFRESH": way, "PYTHONPATH": str(Path(tiered_cache.__file__).resolve().parents[1])}


def timings_of(seconds):
    return [Timing(name, values) for name, values in seconds.items()]


def run(*, quick):
    return decorated(quick) + after_response(quick) + thaw(quick)
