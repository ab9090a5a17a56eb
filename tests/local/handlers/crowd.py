"""Ten extensions, as many as there may be, which want no events; what an eleventh is told, and one that asks twice."""

import threading
import time

from extension_api import ask, next_event, register

identifiers = [register(f"number {number}")[1]["Lambda-Extension-Identifier"] for number in range(10)]
eleventh = register("number 11")
for identifier in identifiers:
    threading.Thread(target=next_event, args=(identifier,), daemon=True).start()


def handler(event, context):
    time.sleep(0.1)
    twice = ask("GET", "/event/next", Lambda_Extension_Identifier=identifiers[0])
    return {"eleventh": eleventh[2], "twice": twice[2]}
