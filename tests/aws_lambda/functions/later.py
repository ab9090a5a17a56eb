"""Handlers that leave work behind; gates are files, for which the work waits."""

import os
import time
from pathlib import Path

from origin import given

from tiered_cache import MemoryTier, TieredCache, _deferred
from tiered_cache.aws_lambda import _extension, lambda_handler
from tiered_cache.aws_lambda._extension import _runtime_waits

# The library's own short times, longer: on a slow machine they are over before what they wait for.
_deferred.LAST = _extension.LAST = 1.0
_extension.POSTING = 20.0
_extension.UNHANDLED = float(os.environ.get("UNHANDLED", "60"))

GATES = Path(os.environ["GATES"])
cache = TieredCache(MemoryTier(ttl=0.001, stale_while_revalidate="1h"), refresh="after_response")
other = TieredCache()
done = []
asked = []
loads = []
busy = [False]
late = [False]
arrived, done_with = [0], [0]


def wait_for(gate):
    while gate is not None and not (GATES / gate).exists():
        time.sleep(0.005)


def work(name, gate=None):
    asked.append(_runtime_waits())
    wait_for(gate)
    done.append(name)


def load(gate):
    wait_for(gate)
    loads.append(len(loads))
    return len(loads)


def leave():
    raise SystemExit(3)


@lambda_handler(other)
def plain(event, context):
    """Decorated before anybody asks for work after the response, and does not."""
    for name in event.get("work", ()):
        other.after_response(work, name)
    return {"done": done[:], "asked": asked[:]}


def told():
    stats = cache.stats()
    return {
        "done": done[:],
        "asked": asked[:],
        "loads": len(loads),
        "work": stats.work._asdict(),
        "container": stats.container._asdict(),
        "refresh_failures": stats.origin.refresh_failures,
    }


def act(event):
    for name in event.get("work", ()):
        cache.after_response(work, name, event.get("gate"))
    for said in event.get("say", ()):
        cache.after_response(print, said)
    for seconds in event.get("naps", ()):
        cache.after_response(time.sleep, seconds)
    time.sleep(event.get("dawdle", 0))
    if event.get("leave"):
        cache.after_response(leave)
    answer = {}
    if "load" in event:
        answer["value"] = cache.get_or_load("k", lambda: load(event["load"]))
    if event.get("load_and_leave"):
        cache.get_or_load("k", leave)
    if event.get("exit"):
        raise {"SystemExit": SystemExit, "GeneratorExit": GeneratorExit}[event["exit"]]("on purpose")
    if event.get("raise"):
        raise ValueError(event["raise"])
    return answer | told()


@lambda_handler(cache, **given("HANDLER"))
def handler(event, context):
    return act(event)


@lambda_handler(other, after_response=True)
@lambda_handler(cache)
def of_two_caches(event, context):
    for name in event.get("other", ()):
        other.after_response(done.append, name)
    for said in event.get("other_say", ()):
        other.after_response(print, said)
    return act(event)


@lambda_handler(cache)
def one(record, context):
    cache.after_response(lambda: done.append((record, busy[0])))
    time.sleep(0.6)  # with the next record longer than the extension waits for the response


def of_records(event, context):
    """The decorated handler, once for each record."""
    busy[0] = True
    for record in event.get("records", ()):
        one(record, context)
        time.sleep(0.1)
    busy[0] = False
    return {"done": done[:]}


@lambda_handler(cache)
def handed_over_late(event, context):
    """What it puts off tells of the event in which it is done."""
    busy[0] = event["number"]
    given = event["number"]
    cache.after_response(lambda: done.append((given, busy[0])))
    late[0] = event.get("next is late", False)
    _extension.UNHANDLED = 0.5 if late[0] else 60.0  # of the next event
    return {"done": done[:]}


def hand_over_late():
    """Let the runtime take its time between the arrival of an event and its handler, as after a restore: until the
    extension has done with the event.
    """
    from awslambdaric.lambda_runtime_client import LambdaRuntimeClient

    wait, after = LambdaRuntimeClient.wait_next_invocation, _extension.Extension._after

    def wait_next_invocation(client):
        event = wait(client)
        arrived[0] += 1
        while late[0] and done_with[0] < arrived[0]:
            time.sleep(0.005)
        return event

    def count(extension, event):
        after(extension, event)
        done_with[0] += 1

    LambdaRuntimeClient.wait_next_invocation = wait_next_invocation
    _extension.Extension._after = count


hand_over_late()


def undecorated(event, context):
    return told()
