"""The Extensions API of the local Lambda: who holds up the freeze, who is refused, who hears of the end."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tiered_cache.local import LocalLambda
from tiered_cache.local.awslambda import ContainerCrashed, FunctionTimedOut, InitFailed

HANDLERS = Path(__file__).parent / "handlers"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="awslambdaric runs on Linux only")


def inside(**options) -> LocalLambda:
    return LocalLambda("inside.handler", directory=HANDLERS, **{"timeout": 20.0, **options})


def outside(mode: str, **options) -> LocalLambda:
    command = [sys.executable, "outside.py", mode]
    return LocalLambda("plain.handler", directory=HANDLERS, extensions=[command], **{"timeout": 20.0, **options})


def test_an_extension_works_after_the_answer_and_holds_up_the_freeze():
    """The caller has the answer at once; the container is busy until the extension asks for the next event."""
    with inside() as fn:
        fn.invoke({})
        fn.settle()
        done = fn.invoke({"after": 1.0})
        (container,) = fn.containers
        assert container.state == "busy"
        assert done.billed_seconds >= 1.0 > done.seconds
        container.wait_frozen()
        again = fn.invoke({})
        assert [event["requestId"] for event in again.value["log"]][-1] == done.request_id


def test_an_event_for_an_extension_says_what_it_is_about():
    """INVOKE with the request, its deadline, the function and the trace."""
    with inside() as fn:
        first = fn.invoke({})
        fn.settle()
        (event,) = fn.invoke({}).value["log"]
    assert event["eventType"] == "INVOKE"
    assert event["requestId"] == first.request_id
    assert event["invokedFunctionArn"].endswith(":function:local")
    assert event["tracing"]["type"] == "X-Amzn-Trace-Id"
    assert time.time() * 1000 < event["deadlineMs"] + 1000 < time.time() * 1000 + 21_000


def test_what_lambda_refuses_is_refused():
    """After init, without a name, twice, for an event that an internal extension cannot have, for an unknown one."""
    with inside() as fn:
        value = fn.invoke({}).value
    assert value["registered"] == [
        200,
        {"functionName": "local", "functionVersion": "$LATEST", "handler": "inside.handler"},
    ]
    kinds = {name: (status, body["errorType"]) for name, (status, _, body) in value["refused"].items()}
    assert kinds == {
        "shutdown": (403, "Extension.InvalidEventType"),
        "nameless": (403, "Extension.InvalidExtensionName"),
        "formless": (403, "InvalidRequestFormat"),
        "again": (403, "Extension.InvalidExtensionState"),
        "unknown": (403, "Extension.UnknownExtensionIdentifier"),
        "anonymous": (403, "Extension.MissingExtensionIdentifier"),
        "untyped": (403, "Extension.MissingHeader"),
        "elsewhere": (404, "NotFound"),
    }
    status, _, body = value["late"]
    assert (status, body["errorType"]) == (403, "Extension.RegistrationClosed")


def test_an_extension_that_is_not_done_in_time_loses_the_container_but_not_the_answer():
    """The function's time covers the extension: the environment is reset, the answer was delivered all the same."""
    with inside() as fn:
        first = fn.invoke({"after": 20.0}, timeout=1.0)
        assert first.value["log"] == []
        assert 0.9 <= first.billed_seconds < 20
        assert isinstance(first.failure, FunctionTimedOut)
        assert (first.failure.container, first.failure.request_id) == (first.container, first.request_id)
        fn.settle()
        assert f"Z {first.request_id} Task timed out after 1.00 seconds" in fn.containers[0].log
        second = fn.invoke({})
        assert (second.container, second.cold, second.value["log"]) == (first.container, True, [])
        assert second.failure is None


def test_an_extension_that_gives_up_takes_the_container_with_it():
    """/extension/exit/error ends the environment; the answer was posted before."""
    with inside() as fn:
        failure = fn.invoke({"give-up": True}).failure
        assert isinstance(failure, ContainerCrashed)
        assert "the disk is full" in str(failure)
        fn.settle()
        assert fn.containers[0].pid is None
        assert fn.invoke({}).cold


def test_an_internal_extension_has_half_a_second_after_sigterm():
    """With one the runtime hears SIGTERM at the end, where the client lets Python's handlers run; without it does not."""
    with inside(python_version="3.12") as fn:
        fn.invoke({})
        (container,) = fn.containers
    assert "SIGTERM heard" in container.log


def test_an_external_extension_hears_of_events_and_of_the_end():
    """It is started before the runtime, gets each event, and SHUTDOWN with the reason."""
    with outside("0") as fn:
        done = fn.invoke({})
        fn.settle()
        (container,) = fn.containers
    assert f"INVOKE {done.request_id}" in container.log
    assert "SHUTDOWN spindown" in container.log
    assert container.state == "gone"


def test_an_external_extension_holds_up_the_freeze_and_is_frozen():
    """Both processes stand still in the end."""
    with outside("0.7") as fn:
        done = fn.invoke({})
        assert fn.containers[0].state == "busy"
        assert done.billed_seconds >= 0.7
        fn.containers[0].wait_frozen()


def test_an_external_extension_hears_of_a_timeout():
    """The runtime is killed, the extension is told why."""
    with outside("0") as fn:
        with pytest.raises(FunctionTimedOut):
            fn.invoke({"sleep": 20}, timeout=0.5)
        assert "SHUTDOWN timeout" in fn.containers[0].log
        assert fn.invoke({}).value["calls"] == 1


def test_an_external_extension_that_is_busy_hears_of_the_end_when_it_asks():
    """Its next call of `next` gives SHUTDOWN, while its two seconds last."""
    with outside("0.5") as fn:
        with pytest.raises(FunctionTimedOut):
            fn.invoke({"sleep": 20}, timeout=0.25)
        assert "SHUTDOWN timeout" in fn.containers[0].log


def test_an_external_extension_that_ends_is_a_crash():
    """Extension.Crash, with its status."""
    with outside("crash") as fn:
        with pytest.raises(ContainerCrashed, match=r"Extension\.Crash") as caught:
            fn.invoke({"sleep": 20})
        assert caught.value.status == 7


def test_an_extension_that_cannot_come_up_fails_the_init():
    """/extension/init/error, no registration in time, and a program that is not there."""
    with outside("fail") as fn, pytest.raises(InitFailed, match="no licence key"):
        fn.invoke({})
    with outside("no-register", init_timeout=0.5) as fn, pytest.raises(InitFailed, match="init was not over"):
        fn.start(1)
    nowhere = LocalLambda("plain.handler", directory=HANDLERS, extensions=[["/no/such/program"]])
    with nowhere as fn, pytest.raises(InitFailed, match="no/such/program"):
        fn.invoke({})
