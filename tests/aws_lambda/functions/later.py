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
    if event.get("leave"):
        cache.after_response(leave)
    answer = {}
    if "load" in event:
        answer["value"] = cache.get_or_load("k", lambda: load(event["load"]))
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


def undecorated(event, context):
    return told()
