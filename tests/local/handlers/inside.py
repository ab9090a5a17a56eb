"""A handler with an internal extension, whose thread works after each answer until the file is there that the event names."""

import signal
import sys
import threading
import time
from pathlib import Path

from extension_api import ask, next_event, register

answered = threading.Event()
log = []
event_now = {}


def work():
    while True:
        event = next_event(own)
        answered.wait()
        answered.clear()
        if "give-up" in event_now:
            ask(
                "POST",
                "/exit/error",
                {"errorMessage": "the disk is full"},
                Lambda_Extension_Identifier=own,
                Lambda_Extension_Function_Error_Type="Extension.Full",
            )
        while "after" in event_now and not Path(event_now["after"]).exists():
            time.sleep(0.005)
        log.append(event)


refused = {
    "shutdown": register("too-much", "SHUTDOWN"),
    "nameless": ask("POST", "/register", {"events": []}),
    "formless": ask("POST", "/register", {}, Lambda_Extension_Name="formless"),
}
status, headers, registered = register("worker", "INVOKE")
own = headers["Lambda-Extension-Identifier"]
refused["again"] = register("worker", "INVOKE")
refused["unknown"] = ask("GET", "/event/next", Lambda_Extension_Identifier="nobody")
refused["anonymous"] = ask("GET", "/event/next")
refused["untyped"] = ask("POST", "/exit/error", {}, Lambda_Extension_Identifier=own)
refused["elsewhere"] = ask("GET", "/logs")
threading.Thread(target=work, daemon=True).start()


def last_word(*_):
    sys.stdout.write("SIGTERM heard\n")
    sys.exit(0)


signal.signal(signal.SIGTERM, last_word)


def handler(event, context):
    event_now.clear()
    event_now.update(event)
    late = register("late", "INVOKE")
    try:
        return {"log": list(log), "refused": refused, "registered": [status, registered], "late": late}
    finally:
        answered.set()
