"""A handler before L2 that does what the event says, step by step, and tells what came of each step.

The environment: URL and, as JSON, the options L1, L2, CACHE and HANDLER, INIT, which are steps of the init phase, and
PAUSE, the seconds for which L2 is left alone after a failure, where the library's own second may be over on a slow machine.
"""

import os
import threading
import time
from pathlib import Path

from origin import Origin, WallClock, given, wait_until

from tiered_cache import MISSING, MemoryTier, RedisTier, TieredCache, TieredCacheError
from tiered_cache._l2 import breaker
from tiered_cache.aws_lambda import lambda_handler

breaker.FIRST_PAUSE = given("PAUSE") or breaker.FIRST_PAUSE
GATES = Path(os.environ["GATES"])
origin = Origin(GATES)
l2 = RedisTier(os.environ["URL"], **{"ttl": "1d", "timeout": 5, "jitter": 0, **given("L2")})
cache = TieredCache(
    MemoryTier(**{"ttl": "1m", "jitter": 0, **given("L1")}),
    l2,
    namespace="test",
    clock=WallClock(GATES),
    **given("CACHE"),
)


def load(key, **options):
    """Value, tier and reason of the answer, or the name of the error."""
    try:
        answer = cache.get_entry_or_load(key, lambda: origin.load(key), **options)
    except TieredCacheError as error:
        return type(error).__name__
    return [answer.value, answer.tier, answer.reason]


def get(key):
    found = cache.get(key)
    return None if found is MISSING else found


def spend(left):
    """Until the function has so many seconds left."""
    time.sleep(max(0.0, remaining() - left))


def remaining():
    return contexts[-1].get_remaining_time_in_millis() / 1000


def touch(name):
    (GATES / name).touch()


def wait_for(gate):
    wait_until((GATES / gate).exists)


def wait_for_loads():
    """Until no load goes on in a thread of this process."""
    wait_until(lambda: all(thread.name != "tiered_cache-load" for thread in threading.enumerate()))


STEPS = {
    "load": load,
    "get": get,
    "set": cache.set,
    "delete": cache.delete,
    "warm_up": cache.warm_up,
    "after_response": lambda name: cache.after_response(touch, name),
    "touch": touch,
    "wait_for": wait_for,
    "wait_asked": origin.wait_asked,
    "spend": spend,
    "remaining": remaining,
    "monotonic": time.monotonic,
    "id": lambda: cache.stats().container.id,
    "wait_for_loads": wait_for_loads,
}


def taken(steps):
    for name, *arguments in steps:
        options = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
        yield STEPS[name](*arguments, **options)


contexts = []
init = list(taken(given("INIT")))


def told(answers):
    stats = cache.stats()
    return {
        "init": init,
        "answers": answers,
        "pid": os.getpid(),
        "l1": stats.l1._asdict(),
        "l2": {**stats.l2._asdict(), "errors": dict(stats.l2.errors), "unreadable": dict(stats.l2.unreadable)},
        "origin": stats.origin._asdict(),
        "work": stats.work._asdict(),
        "container": stats.container._asdict(),
    }


@lambda_handler(cache, **given("HANDLER"))
def handler(event, context):
    contexts[:] = [context]
    return told(list(taken(event)))
