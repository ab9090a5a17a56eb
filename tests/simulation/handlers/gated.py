"""A handler that tells the test that it has begun, and ends when the test says so."""

import socket


def handler(event, context):
    with socket.socket(socket.AF_UNIX) as gate:
        gate.connect(event["gate"])
        gate.sendall(b"%d\n" % event["number"])
        gate.recv(1)
    return event["number"]
