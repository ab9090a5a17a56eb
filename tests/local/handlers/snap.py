"""A handler with SnapStart's hooks, which write down when they ran; FAIL and HANG name one of them."""

import os
import time

from snapshot_restore_py import register_after_restore, register_before_snapshot

happened = [("init", time.time())]


def hook(name):
    happened.append((name, time.time()))
    if os.environ.get("HANG") == name:
        time.sleep(600)
    if os.environ.get("FAIL") == name:
        raise OSError(f"{name} went wrong")


register_before_snapshot(hook, "before 1")
register_before_snapshot(hook, "before 2")
register_after_restore(hook, "after 1")
register_after_restore(hook, "after 2")


def handler(event, context):
    return {"happened": happened, "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]}
