"""What an invocation costs: the decorator, a refresh after the response, the first call after a thaw."""

import time
from contextlib import ExitStack
from pathlib import Path

import tiered_cache
from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.aws_lambda import lambda_handler
from tiered_cache.benchmarks.harness import AGAIN, Timing, in_turn, interleaved, table, with_base_again
from tiered_cache.benchmarks.progress import turns
from tiered_cache.local import FaultProxy, LocalLambda, ValkeyServer

FUNCTIONS = Path(__file__).parent / "functions"
CALLS = 2_000
PLAIN = "a stale hit, nothing to refresh"
BARE = "the handler alone"
IN_USE, DEAD = "an L2 hit on a connection in use", "the same, the connection died in the freeze"


class Context:
    """As much of Lambda's context object as the decorator uses."""

    def get_remaining_time_in_millis(self):
        return 30_000


def handler(event, context):
    return event


def decorated(quick):
    """The decorator around a handler that does nothing, in one process."""
    with ValkeyServer() as server:
        with_l2 = TieredCache(MemoryTier(ttl=60), RedisTier(server.url, ttl="1h", timeout=10), coherence="ttl")
        functions = {
            BARE: handler,
            "with lambda_handler, no L2": lambda_handler(TieredCache())(handler),
            "with lambda_handler, an L2 and no call to it": lambda_handler(with_l2)(handler),
        }
        context = Context()
        operations = {name: lambda function=function: repeat(function, context) for name, function in functions.items()}
        timings = interleaved(
            operations, rounds=15 if quick else 101, calls=CALLS, base=BARE, clock=time.process_time, warmed=True
        )
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
        measured = with_base_again(functions, PLAIN)
        seconds = {name: [] for name in measured}
        for turn in turns(5 if quick else 31):
            for name, function in in_turn(tuple(measured.items()), turn):
                done = function.invoke({})
                loads[name] = done.value["loads"]
                function.settle(30)
                if turn > 1:  # the first makes the container and the value, the second the first copy
                    seconds[name].append(done.seconds)
    del loads[AGAIN.format(PLAIN)]  # the same function's
    said = ", ".join(f"{number} where it was {name}" for name, number in loads.items() if name != PLAIN)
    note = f"Loads of the value: {loads[PLAIN]} where there was nothing to refresh, {said}."
    return table("A response, with a refresh of 500 ms owed", timings_of(seconds), PLAIN, note)


def thaw(quick):
    """The first call of an invocation whose connection was reset while the container was frozen."""
    seconds = {IN_USE: [], DEAD: [], AGAIN.format(IN_USE): []}
    with ValkeyServer() as server, FaultProxy(server.host, server.port) as proxy, ExitStack() as started:
        environment = variables("") | {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}"}
        function = started.enter_context(
            LocalLambda("thawed.handler", directory=FUNCTIONS, containers=1, timeout=30, environment=environment)
        )
        function.invoke({})
        before = function.invoke({}).value
        rounds = 5 if quick else 31
        for turn in turns(rounds):
            for name in in_turn(tuple(seconds), turn):
                function.settle(30)
                if name == DEAD:
                    proxy.kill_all()
                last = function.invoke({}).value
                seconds[name].append(last["seconds"])
    errors = ", ".join(f"{name} {number}" for name, number in last["errors"].items()) or "none"
    note = f"{last['connects'] - before['connects']} connects for {rounds} dead connections; errors counted: {errors}"
    return table("The first call after a thaw", timings_of(seconds), IN_USE, note)


def variables(way):
    return {"REFRESH": way, "PYTHONPATH": str(Path(tiered_cache.__file__).resolve().parents[1])}


def timings_of(seconds):
    return [Timing(name, values) for name, values in seconds.items()]


def run(*, quick):
    return decorated(quick) + after_response(quick) + thaw(quick)
