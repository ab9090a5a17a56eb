"""An external extension: writes what it hears to its output; `crash` ends, and a path is what it waits for after each event."""

import sys
import time
from pathlib import Path

from extension_api import ask, next_event, register

mode = sys.argv[1]
if mode == "no-register":
    time.sleep(600)
status, headers, _ = register("outside", "INVOKE", "SHUTDOWN")
own = headers["Lambda-Extension-Identifier"]
if mode == "fail":
    named = {"Lambda_Extension_Identifier": own, "Lambda_Extension_Function_Error_Type": "Extension.NoKey"}
    ask("POST", "/init/error", {"errorMessage": "no licence key"}, **named)
while True:
    event = next_event(own)
    sys.stdout.write(f"{event['eventType']} {event.get('requestId') or event.get('shutdownReason')}\n")
    sys.stdout.flush()
    if event["eventType"] == "SHUTDOWN":
        break
    if mode == "crash":
        sys.exit(7)
    while mode.startswith("/") and not Path(mode).exists():
        time.sleep(0.005)
