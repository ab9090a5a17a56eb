"""A handler beside a thread that calls the cache all the time, so that a freeze meets it anywhere."""

import random
import threading
import time

from origin import wait_until
from steps import cache, told

from tiered_cache.aws_lambda import lambda_handler

KEYS = [f"key-{number}" for number in range(8)]
counts = {"calls": 0, "wrong": 0, "raised": 0}


def right(key):
    return cache.get_or_load(key, lambda: f"value of {key}") == f"value of {key}"


def all_right():
    found = cache.get_many_or_load(KEYS, lambda missing: {key: f"value of {key}" for key in missing})
    return found == {key: f"value of {key}" for key in KEYS}


def churn():
    chance = random.Random(1)
    while True:
        key, call = chance.choice(KEYS), chance.random()
        try:
            if call < 0.6:
                counts["wrong"] += not right(key)
            elif call < 0.8:
                counts["wrong"] += not all_right()
            else:
                chance.choice((cache.delete, cache.expire, lambda key: cache.set(key, f"value of {key}")))(key)
        except Exception:
            counts["raised"] += 1
        counts["calls"] += 1


@lambda_handler(cache)
def handler(event, context):
    if not counts["calls"]:
        threading.Thread(target=churn, daemon=True).start()
    answers = [right(key) for key in KEYS]
    time.sleep(event["sleep"])
    wait_until(lambda: counts["calls"] >= event.get("calls", 0))
    return told(answers) | counts
