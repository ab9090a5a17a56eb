"""A client of the Extensions API, for the tests' extensions."""

import http.client
import json
import os


def ask(method, path, body=None, **headers):
    """Status, headers and body of the answer. Header names are given with underscores."""
    connection = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, "/2020-01-01/extension" + path, None if body is None else json.dumps(body), named)
    reply = connection.getresponse()
    got = reply.read()
    connection.close()
    return reply.status, dict(reply.headers), json.loads(got or b"null")


def register(name, *events):
    """The same of a registration."""
    return ask("POST", "/register", {"events": list(events)}, Lambda_Extension_Name=name)


def next_event(identifier):
    """The next event, when there is one."""
    return ask("GET", "/event/next", Lambda_Extension_Identifier=identifier)[2]
