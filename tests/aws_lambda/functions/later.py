"""Handlers that leave work behind; gates are files, for which the work waits."""

import os
import time
from pathlib import Path

from tiered_cache import MemoryTier, TieredCache
from tiered_cache.aws_lambda import lambda_handler
from tiered_cache.aws_lambda._extension import _runtime_waits

GATES = Path(os.environ["GATES"])
cache = TieredCache(MemoryTier(ttl=0.001, stale_while_revalidate="1h"), refresh="after_response")
other = TieredCache()
done = []
asked = []
loads = []
busy = [False]
handing_over = [0]


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
    time.sleep(event.get("take", 0))
    for name in event.get("work", ()):
        cache.after_response(work, name, event.get("gate"))
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
    if event.get("raise"):
        raise ValueError(event["raise"])
    return answer | told()


@lambda_handler(cache)
def handler(event, context):
    return act(event)


@lambda_handler(other, after_response=True)
@lambda_handler(cache)
def of_two_caches(event, context):
    for name in event.get("other", ()):
        other.after_response(done.append, name)
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
    handing_over[0] = event.get("late", 0)
    return {"done": done[:]}


def hand_over_late():
    """Let the runtime take its time between the arrival of an event and its handler, as after a restore."""
    from awslambdaric.lambda_runtime_client import LambdaRuntimeClient

    wait = LambdaRuntimeClient.wait_next_invocation

    def wait_next_invocation(client):
        given = wait(client)
        time.sleep(handing_over[0])
        return given

    LambdaRuntimeClient.wait_next_invocation = wait_next_invocation


hand_over_late()


def undecorated(event, context):
    return told()
