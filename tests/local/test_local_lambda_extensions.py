"""The Extensions API of the local Lambda: who holds up the freeze, who is refused, who hears of the end."""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from tiered_cache.local import LocalLambda, _lambda_life
from tiered_cache.local._process import poll
from tiered_cache.local.awslambda import ContainerCrashed, Done, FunctionTimedOut, InitFailed, Throttled

HANDLERS = Path(__file__).parent / "handlers"
WAIT = 60.0
"""Seconds that anything may take on a slow machine, if it is not what a test measures."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="awslambdaric runs on Linux only")


def inside(**options) -> LocalLambda:
    return LocalLambda("inside.handler", directory=HANDLERS, **{"timeout": WAIT, "init_timeout": WAIT, **options})


def outside(mode: str, **options) -> LocalLambda:
    command = [sys.executable, "outside.py", mode]
    options = {"timeout": WAIT, "init_timeout": WAIT, **options}
    return LocalLambda("plain.handler", directory=HANDLERS, extensions=[command], **options)


def opened(gate: Path, done: Done) -> float:
    """Let the extension go on that works for that gate; for how long the event is billed at least."""
    time.sleep(0.2)
    gate.touch()
    return done.seconds + 0.2


@pytest.fixture
def patience(monkeypatch):
    """At the end the processes have more time than on Lambda, so that a slow machine does not cut off what they say."""
    monkeypatch.setattr(_lambda_life, "SIGTERM_GRACE", dict.fromkeys(_lambda_life.SIGTERM_GRACE, WAIT))
    monkeypatch.setattr(_lambda_life, "SHUTDOWN_GRACE", WAIT)


def test_an_extension_works_after_the_answer_and_holds_up_the_freeze(tmp_path):
    """The caller has the answer at once; the container is busy until the extension asks for the next event."""
    with inside() as fn:
        fn.invoke({})
        fn.settle(WAIT)
        done = fn.invoke({"after": str(tmp_path / "gate")})
        (container,) = fn.containers
        assert container.state == "busy"
        least = opened(tmp_path / "gate", done)
        assert done.billed_seconds >= least
        container.wait_frozen(WAIT)
        again = fn.invoke({})
        assert [event["requestId"] for event in again.value["log"]][-1] == done.request_id


def test_an_event_for_an_extension_says_what_it_is_about():
    """INVOKE with the request, its deadline, the function and the trace."""
    with inside() as fn:
        began = time.time()
        first = fn.invoke({})
        ended = time.time()
        fn.settle(WAIT)
        (event,) = fn.invoke({}).value["log"]
    assert event["eventType"] == "INVOKE"
    assert event["requestId"] == first.request_id
    assert event["invokedFunctionArn"].endswith(":function:local")
    assert event["tracing"]["type"] == "X-Amzn-Trace-Id"
    assert began - 0.001 <= event["deadlineMs"] / 1000 - WAIT <= ended


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
        fn.start(1)
        first = fn.invoke({"after": "/nowhere"}, timeout=3.0)
        assert first.value["log"] == []
        assert first.billed_seconds >= 2.9
        assert isinstance(first.failure, FunctionTimedOut)
        assert (first.failure.container, first.failure.request_id) == (first.container, first.request_id)
        fn.settle(WAIT)
        assert f"Z {first.request_id} Task timed out after 3.00 seconds" in fn.containers[0].log
        second = fn.invoke({})
        assert (second.container, second.cold, second.value["log"]) == (first.container, True, [])
        assert second.failure is None


def test_an_extension_that_gives_up_takes_the_container_with_it():
    """/extension/exit/error ends the environment; the answer was posted before."""
    with inside() as fn:
        failure = fn.invoke({"give-up": True}).failure
        assert isinstance(failure, ContainerCrashed)
        assert "the disk is full" in str(failure)
        fn.settle(WAIT)
        assert fn.containers[0].pid is None
        assert fn.invoke({}).cold


def test_leaving_the_block_lets_a_reset_go_through(monkeypatch):
    """The container is ending its processes already: what it listened on is closed, as at any other end."""
    life, begun, fn = _lambda_life.Life, threading.Event(), inside()
    gone, address = life._gone, []

    async def gone_late(self, processes, seconds):
        address.append(self._server.address.split(":"))
        begun.set()
        await fn._keeper.stopping.wait()
        await asyncio.sleep(0.1)  # long enough to be cut off
        await gone(self, processes, seconds)

    monkeypatch.setattr(life, "_gone", gone_late)
    with fn:
        fn.invoke_async({"give-up": True})
        assert begun.wait(WAIT)
        with pytest.raises(Throttled):
            fn.invoke({})
    host, port = address[0]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


def test_an_end_of_a_failed_init_goes_through_though_the_time_is_over(monkeypatch, tmp_path):
    """The second try is a part of the invocation, and so is its end: that is waited for no longer, and is not cut off."""
    life, addresses = _lambda_life.Life, []
    gone = life._gone

    async def gone_late(self, processes, seconds):
        if self._server.address not in addresses:
            addresses.append(self._server.address)
        await asyncio.sleep(1.5 * (len(addresses) - 1))
        await gone(self, processes, seconds)

    monkeypatch.setattr(life, "_gone", gone_late)
    (tmp_path / "broken.py").write_text("raise KeyError('no table')\n")
    fn = LocalLambda("broken.handler", directory=tmp_path, timeout=1.0, init_timeout=WAIT)
    with fn, pytest.raises(FunctionTimedOut):
        fn.invoke({})
    host, port = addresses[1].split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


def test_an_internal_extension_has_half_a_second_after_sigterm(patience):
    """With one the runtime hears SIGTERM at the end, where the client lets Python's handlers run; without it does not."""
    with inside(python_version="3.12") as fn:
        fn.invoke({})
        (container,) = fn.containers
    assert "SIGTERM heard" in container.log


def test_an_external_extension_hears_of_events_and_of_the_end(patience):
    """It is started before the runtime, gets each event, and SHUTDOWN with the reason."""
    with outside("hear") as fn:
        done = fn.invoke({})
        fn.settle(WAIT)
        (container,) = fn.containers
    assert f"INVOKE {done.request_id}" in container.log
    assert "SHUTDOWN spindown" in container.log
    assert container.state == "gone"


def test_an_external_extension_holds_up_the_freeze_and_is_frozen(tmp_path):
    """Both processes stand still in the end."""
    with outside(str(tmp_path / "gate")) as fn:
        done = fn.invoke({})
        assert fn.containers[0].state == "busy"
        least = opened(tmp_path / "gate", done)
        assert done.billed_seconds >= least
        fn.containers[0].wait_frozen(WAIT)


def test_an_external_extension_hears_of_a_timeout(patience):
    """The runtime is killed, the extension is told why."""
    with outside("hear") as fn:
        with pytest.raises(FunctionTimedOut):
            fn.invoke({"sleep": WAIT}, timeout=0.5)
        assert "SHUTDOWN timeout" in fn.containers[0].log
        assert fn.invoke({}).value["calls"] == 1


def test_an_external_extension_that_is_busy_hears_of_the_end_when_it_asks(patience, tmp_path):
    """Its next call of `next` gives SHUTDOWN, while its two seconds last."""
    with outside(str(tmp_path / "gate")) as fn:
        fn.start(1)
        running = fn.invoke_async({"sleep": WAIT}, timeout=1.0)
        assert poll(lambda: fn.containers[0].pid is None, seconds=WAIT)  # the container is being reset
        (tmp_path / "gate").touch()
        with pytest.raises(FunctionTimedOut):
            running.result(WAIT)
        assert "SHUTDOWN timeout" in fn.containers[0].log


def test_an_external_extension_that_ends_is_a_crash():
    """Extension.Crash, with its status."""
    with outside("crash") as fn:
        with pytest.raises(ContainerCrashed, match=r"Extension\.Crash") as caught:
            fn.invoke({"sleep": WAIT})
        assert caught.value.status == 7


def test_an_extension_that_ends_at_once_fails_the_init():
    """Even where its beginning and its end are heard of at the same time."""
    options = {"timeout": WAIT, "init_timeout": WAIT, "extensions": [["true"]]}
    with LocalLambda("plain.handler", directory=HANDLERS, **options) as fn:
        reports = fn._fleet._processes._reports
        longest = len(json.dumps({"key": 1, "pid": 1 << 22})) + 1

        async def hears_both_at_once() -> None:
            starting = asyncio.create_task(fn._fleet.start_ahead(1))
            while not fn._fleet._processes._known:
                await asyncio.sleep(0)
            assert poll(lambda: waiting_in(reports) > longest, seconds=WAIT)
            await starting

        with pytest.raises(InitFailed, match="exit status 0"):
            fn._keeper.call(hears_both_at_once)


def waiting_in(pipe) -> int:
    """Bytes that nobody has read yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_an_extension_that_cannot_come_up_fails_the_init():
    """/extension/init/error, no registration in time, and a program that is not there."""
    with outside("fail") as fn, pytest.raises(InitFailed, match="no licence key"):
        fn.invoke({})
    with outside("no-register", init_timeout=0.5) as fn, pytest.raises(InitFailed, match="init was not over"):
        fn.start(1)
    options = {"timeout": WAIT, "init_timeout": WAIT, "extensions": [["/no/such/program"]]}
    nowhere = LocalLambda("plain.handler", directory=HANDLERS, **options)
    with nowhere as fn, pytest.raises(InitFailed, match="no/such/program"):
        fn.invoke({})
