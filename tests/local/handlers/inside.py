"""A handler with an internal extension, whose thread works after each answer for as long as the event says."""

import http.client
import json
import os
import threading
import time

answered = threading.Event()
log = []
seconds = [0.0]


def ask(method, path, body=None, **headers):
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    connection.request(method, "/2020-01-01/extension" + path, body and json.dumps(body), headers)
    reply = connection.getresponse()
    got = reply.read()
    connection.close()
    return reply.status, dict(reply.headers), json.loads(got or b"null")


def register(name, *events):
    return ask("POST", "/register", {"events": list(events)}, **{"Lambda-Extension-Name": name})


def work():
    while True:
        _, _, event = ask("GET", "/event/next", **{"Lambda-Extension-Identifier": own})
        answered.wait()
        answered.clear()
        time.sleep(seconds[0])
        log.append(event)


refused = {"SHUTDOWN": register("too-much", "SHUTDOWN"), "name": ask("POST", "/register", {"events": []})}
status, headers, registered = register("worker", "INVOKE")
own = headers["Lambda-Extension-Identifier"]
refused["again"] = register("worker", "INVOKE")
refused["unknown"] = ask("GET", "/event/next", **{"Lambda-Extension-Identifier": "nobody"})
refused["anonymous"] = ask("GET", "/event/next")
threading.Thread(target=work, daemon=True).start()


def handler(event, context):
    seconds[0] = event.get("after", 0.0)
    late = register("late", "INVOKE")
    try:
        return {"log": list(log), "refused": refused, "registered": registered, "late": late, "pid": os.getpid()}
    finally:
        answered.set()
