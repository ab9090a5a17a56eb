"""The end of the local Lambda: whoever waits for something hears of it, in every order of asking and stopping."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tiered_cache.local import LocalLambda, ServiceUnavailable
from tiered_cache.local._lambda_invocation import Invocation
from tiered_cache.local._process import poll
from tiered_cache.local.awslambda import InitFailed, LambdaError

HANDLERS = Path(__file__).parent / "handlers"
WAIT = 60.0
"""Seconds that anything may take on a slow machine."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="awslambdaric runs on Linux only")


def function(handler: str = "plain.handler", **options) -> LocalLambda:
    return LocalLambda(handler, **{"directory": HANDLERS, "timeout": WAIT, "init_timeout": WAIT, **options})


class Held:
    """The function's thread stands still from here on, until `go_on`; then it makes `turns` and calls `then`."""

    def __init__(self, fn: LocalLambda, turns: int = 0, then: Callable[[], object] = lambda: None) -> None:
        self._stands, self._goes_on = threading.Event(), threading.Event()

        async def hold() -> None:
            self._stands.set()
            assert self._goes_on.wait(WAIT)
            for _ in range(turns):
                await asyncio.sleep(0)
            then()

        self._thread = threading.Thread(target=fn._keeper.call, args=(hold,))
        self._thread.start()
        assert self._stands.wait(WAIT)

    def go_on(self) -> None:
        self._goes_on.set()
        self._thread.join(WAIT)


def heard(waiting) -> list[str]:
    return [f"{type(one.exception(WAIT)).__name__}: {one.exception()}" for one in waiting]


STOPPED = "LambdaError: the local Lambda was stopped"


def test_whoever_waits_for_a_container_is_told_of_the_end(tmp_path):
    """No container is made for them any more, and each hears of its own invocation."""
    with function() as fn:
        busy = fn.invoke_async({"until": str(tmp_path / "never")})
        waiting = [fn.invoke_async({}, wait=True) for _ in range(3)]
        assert poll(lambda: [one for one in fn.containers if one.state == "busy"], seconds=WAIT)
    assert heard([busy, *waiting]) == [STOPPED] * 4
    assert [one.invocations for one in fn._fleet.environments] == [1]
    assert len({one.exception().request_id for one in (busy, *waiting)}) == 4


@pytest.mark.parametrize("turns", range(12))
def test_every_invocation_is_over_at_whichever_step_the_end_comes(turns, tmp_path):
    """Before its task has begun, while its container is made, while it waits for one."""
    fn = function().start()
    held = Held(fn, turns, then=lambda: fn._keeper.stopping.set())
    asked = [fn.invoke_async({"until": str(tmp_path / "never")}, wait=wait) for wait in (False, True, True)]
    held.go_on()
    fn.stop()
    assert heard(asked) == [STOPPED] * 3
    assert len(fn._fleet.environments) <= 1


@pytest.mark.parametrize("before", [0, 1, 3])
def test_what_was_asked_before_the_end_is_over_with_it_and_nothing_is_asked_later(before, tmp_path):
    """The thread has seen none of it when the end is asked for."""
    fn = function(containers=2).start()
    held = Held(fn)
    asked = [fn.invoke_async({"until": str(tmp_path / "never")}, wait=True) for _ in range(before)]
    keeper, stopping = fn._keeper, threading.Thread(target=fn.stop)
    stopping.start()
    assert poll(lambda: keeper.shut, seconds=WAIT)
    for late in (lambda: fn.invoke_async({}), lambda: fn.invoke({}), fn.settle, lambda: keeper.ask(print)):
        with pytest.raises(ServiceUnavailable):
            late()
    held.go_on()
    stopping.join(WAIT)
    assert heard(asked) == [STOPPED] * before
    assert not stopping.is_alive()


@pytest.mark.parametrize("turns", range(4))
def test_an_invocation_is_over_when_its_task_is_cancelled(turns):
    """Before the first step of it too, when nothing in it can notice."""
    with function() as fn:
        invocation = Invocation(b"{}", timeout=WAIT, tenant=None, client_context=None, keeper=fn._keeper.ident)

        async def cancelled() -> None:
            fn._fleet.begin(invocation, wait=False)
            (task,) = fn._fleet._tasks
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()

        fn._keeper.call(cancelled)
        (said,) = heard([invocation.answer])
        assert said == (STOPPED if turns == 0 else "LambdaError: not served: CancelledError()")
        assert invocation.finished.exception(WAIT) is invocation.answer.exception()


def test_whoever_waits_for_a_state_is_told_of_the_end(tmp_path):
    """The containers are gone, and will never be what was waited for."""
    told: list[ServiceUnavailable] = []

    def wait() -> None:
        with pytest.raises(ServiceUnavailable, match="was stopped") as caught:
            container.wait_frozen(WAIT)
        told.append(caught.value)

    with function() as fn:
        fn.invoke_async({"until": str(tmp_path / "never")})
        assert poll(lambda: fn.containers, seconds=WAIT)
        (container,) = fn.containers
        waits = threading.Thread(target=wait)
        waits.start()
        assert poll(lambda: fn._keeper._calls, seconds=WAIT)
    waits.join(WAIT)
    assert len(told) == 1


def test_a_start_that_is_stopped_says_so(tmp_path):
    """And does not blame the container, which was on its way up."""
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n")
    fn, told = function("slow.handler", directory=tmp_path).start(), []

    def start() -> None:
        with pytest.raises((LambdaError, ServiceUnavailable), match="was stopped") as caught:
            fn.start(1)
        told.append(caught.value)

    starts = threading.Thread(target=start)
    starts.start()
    assert poll(lambda: [one for one in fn.containers if one.state == "starting"], seconds=WAIT)
    fn.stop()
    starts.join(WAIT)
    assert len(told) == 1


def nothing_is_left_of(fn: LocalLambda) -> bool:
    """Neither its thread nor the process that holds its containers."""
    keeper = fn._keeper
    return not keeper._thread.is_alive() and keeper.fleet._processes._warden.returncode is not None


def test_a_start_that_fails_leaves_nothing_behind(tmp_path):
    """`with LocalLambda(...).start(1)`: there is nobody yet who would stop it. One that ran before goes on."""
    fn = function("nowhere.handler", directory=tmp_path)
    with pytest.raises(InitFailed), fn.start(1):
        raise AssertionError("the block is entered")
    assert nothing_is_left_of(fn)
    with fn:
        for _ in range(2):
            with pytest.raises(InitFailed):
                fn.start(1)
        assert not nothing_is_left_of(fn)
    assert nothing_is_left_of(fn)


def test_a_start_that_is_interrupted_leaves_nothing_behind(tmp_path):
    """Ctrl-C while the container comes up."""
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n")
    fn = function("slow.handler", directory=tmp_path)

    def interrupt() -> None:
        assert poll(lambda: [one for one in fn.containers if one.state == "starting"], seconds=WAIT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where a shell in the background ignores it
    try:
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            fn.start(1)
        interrupting.join(WAIT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert nothing_is_left_of(fn)
