"""A handler for several workers at once: each meets the others at a barrier of files."""

import os
import tempfile
import time
from pathlib import Path

calls = []
INIT = os.getpid()


def handler(event, context):
    calls.append(event)
    if "exit" in event:
        os._exit(event["exit"])
    if "meet" in event:
        place = Path(tempfile.gettempdir(), event["meet"])
        place.mkdir(exist_ok=True)
        place.joinpath(str(os.getpid())).touch()
        while len(list(place.iterdir())) < event["of"]:
            time.sleep(0.01)
    while "until" in event and not Path(event["until"]).exists():
        time.sleep(0.01)
    Path(tempfile.gettempdir(), "ended").touch()
    return {
        "pid": os.getpid(),
        "init": INIT,
        "parent": os.getppid(),
        "calls": len(calls),
        "ended": Path(tempfile.gettempdir(), "ended").exists(),
        "remaining": context.get_remaining_time_in_millis(),
        "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"],
    }
