"""A handler that does what its event says, and tells of its process."""

import os
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.stdout.write(f"init of {os.getpid()}\n")
BORN = time.time()
calls = []


def handler(event, context):
    calls.append(context.aws_request_id)
    for name in event:
        DO[name](event[name])
    return {
        "pid": os.getpid(),
        "calls": len(calls),
        "born": BORN,
        "request_id": context.aws_request_id,
        "remaining": context.get_remaining_time_in_millis() / 1000,
        "tenant": context.tenant_id,
        "arn": context.invoked_function_arn,
        "client": context.client_context and context.client_context.custom,
        "environment": dict(os.environ),
        "ticks": ticks[:],
        "answer": "x" * event.get("answer", 0),
        "scratch": sorted(path.name for path in Path(tempfile.gettempdir()).iterdir()),
    }


ticks = []


def tick(seconds):
    """Write down the time, in a thread of its own, for as long as the process lives."""

    def count():
        while True:
            time.sleep(seconds)
            ticks.append(time.monotonic())

    threading.Thread(target=count, daemon=True).start()


def fork(seconds):
    """A child that writes its number of rounds to `rounds` in the scratch folder."""
    if os.fork():
        return
    with Path(tempfile.gettempdir(), "rounds").open("w") as rounds:  # which may be removed meanwhile
        for number in range(1000):
            rounds.seek(0)
            rounds.write(str(number))
            rounds.flush()
            time.sleep(seconds)
    os._exit(0)


def daemon(path):
    """A process in a session of its own, whose parent has ended, and which writes its number to `path`."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if not os.fork():
        Path(f"{path}.new").write_text(str(os.getpid()))
        Path(f"{path}.new").rename(path)
        time.sleep(600)
    os._exit(0)


def until(gate):
    """That file is there."""
    while not Path(gate).exists():
        time.sleep(0.005)


def fail(text):
    raise ValueError(text)


DO = {
    "sleep": time.sleep,
    "until": until,
    "raise": fail,
    "exit": os._exit,
    "tick": tick,
    "fork": fork,
    "daemon": daemon,
    "write": lambda name: Path(tempfile.gettempdir(), name).touch(),
    "answer": lambda length: None,
    "say": lambda text: sys.stdout.write(text + "\n"),
}
