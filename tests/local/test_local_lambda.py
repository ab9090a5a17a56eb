"""The local Lambda: containers, freeze and thaw, timeouts and crashes, with the real runtime client."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from tiered_cache import ConfigurationError
from tiered_cache.local import LocalLambda, ServiceUnavailable, _lambda_life, awslambda
from tiered_cache.local._lambda_fleet import RULES
from tiered_cache.local._lambda_http import ApiServer
from tiered_cache.local._lambda_invocation import Invocation
from tiered_cache.local._lambda_options import RESERVED
from tiered_cache.local._process import poll
from tiered_cache.local.awslambda import (
    ContainerCrashed,
    Done,
    FunctionTimedOut,
    HandlerError,
    InitFailed,
    LambdaError,
    Throttled,
)

HANDLERS = Path(__file__).parent / "handlers"
ROOT = Path(__file__).parents[2]
WAIT = 60.0
"""Seconds that anything may take on a slow machine, if it is not what a test measures."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="awslambdaric runs on Linux only")


def function(handler: str = "plain.handler", **options) -> LocalLambda:
    return LocalLambda(handler, **{"directory": HANDLERS, "timeout": WAIT, "init_timeout": WAIT, **options})


def state_of(pid: int) -> str:
    """The letter that proc(5) has for it; Z where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


def alive(pid: int) -> bool:
    """True while there is such a process, a zombie not counted."""
    return state_of(pid) != "Z"


def forked_by(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_an_event_is_handled_in_a_process_that_stays():
    """The second event finds the globals of the first; cold is the first alone."""
    with function() as fn:
        first, second = fn.invoke({}), fn.invoke({})
        assert (first.value["calls"], second.value["calls"]) == (1, 2)
        assert first.value["pid"] == second.value["pid"] == first.pid == fn.containers[0].pid
        assert (first.cold, second.cold) == (True, False)
        assert first.init_seconds > 0 == second.init_seconds
        assert first.container == second.container == 1
        assert first.request_id == first.value["request_id"] != second.request_id
        assert second.billed_seconds >= second.seconds > 0


def test_the_environment_is_lambdas_own(monkeypatch):
    """What Lambda sets is set, `environment` is on top, and nothing of this process gets in by accident."""
    monkeypatch.setenv("A_SECRET_OF_THE_TEST", "1")
    with function(
        memory=512, timeout=77.0, python_version="3.12", environment={"TABLE": "t", "AWS_REGION": "eu-1"}
    ) as fn:
        value = fn.invoke({}, client_context={"custom": {"a": "b"}}).value
    seen = value["environment"]
    expected = {
        "_HANDLER": "plain.handler",
        "LAMBDA_TASK_ROOT": str(HANDLERS),
        "AWS_LAMBDA_FUNCTION_NAME": "local",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12",
        "TZ": ":UTC",
        "TABLE": "t",
        "AWS_REGION": "eu-1",
    }
    assert {name: seen.get(name) for name in expected} == expected
    assert seen["_X_AMZN_TRACE_ID"].startswith("Root=1-")
    assert "A_SECRET_OF_THE_TEST" not in seen
    assert 0 < value["remaining"] <= 77.0
    assert value["arn"].endswith(":function:local")
    assert value["client"] == {"a": "b"}


def test_relative_folders_are_those_of_where_the_function_is_made(tmp_path, monkeypatch):
    """The directory's and PYTHONPATH's, though the test goes elsewhere before the start and after it."""
    for folder in ("src", "lib", "elsewhere", "farther"):
        (tmp_path / folder).mkdir()
    (tmp_path / "lib" / "of_the_test.py").write_text("PLACE = __file__\n")
    code = "import os, of_the_test\n"
    code += "def handler(event, context): return os.getcwd(), os.environ['LAMBDA_TASK_ROOT'], of_the_test.PLACE\n"
    (tmp_path / "src" / "app.py").write_text(code)
    kept = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["lib", *([kept] if kept else [])]))
    expected = [str(tmp_path / place) for place in ("src", "src", "lib/of_the_test.py")]
    monkeypatch.chdir(tmp_path)
    fn = function("app.handler", directory="src")
    monkeypatch.chdir("elsewhere")
    with fn:
        assert fn.invoke({}).value == expected
        fn.containers[0].kill()
        monkeypatch.chdir("../farther")
        assert fn.invoke({}).value == expected


def test_a_frozen_container_does_nothing():
    """A thread stands still between two events, and goes on with the second."""
    with function() as fn:
        fn.invoke({"tick": 0.01})
        assert poll(lambda: fn.invoke({"sleep": 0.1}).value["ticks"], seconds=WAIT)
        (container,) = fn.containers
        container.wait_frozen(WAIT)
        began = time.monotonic()
        time.sleep(0.5)
        ended = time.monotonic()
        after = poll(lambda: goes_on(fn, ended), seconds=WAIT)
        assert after
        assert [] == [moment for moment in after if began < moment < ended]  # about 50 without the freeze
        assert container.frozen_seconds >= 0.5


def goes_on(fn: LocalLambda, since: float) -> list[float]:
    """When the thread of `tick` was at work, as soon as that was after `since`; nothing until then."""
    ticks = fn.invoke({"sleep": 0.02}).value["ticks"]
    return ticks if ticks and ticks[-1] > since else []


def test_forked_processes_are_frozen_too():
    """What the handler has forked is of the same group."""
    with function() as fn:
        pid = fn.invoke({"fork": 0.01}).pid
        rounds = scratch_of(pid) / "rounds"
        assert poll(lambda: fn.invoke({"sleep": 0.1}) and rounds.exists() and rounds.read_text(), seconds=WAIT)
        fn.containers[0].wait_frozen(WAIT)
        (forked,) = forked_by(pid)
        assert poll(lambda: state_of(forked) == "T", seconds=WAIT)
        before = rounds.read_text()
        time.sleep(0.3)
        assert rounds.read_text() == before
        assert state_of(forked) == "T"


def scratch_of(pid: int) -> Path:
    """The folder of that process's container."""
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return Path(next(line for line in environment if line.startswith(b"TMPDIR=")).partition(b"=")[2].decode())


def test_without_freeze_a_container_goes_on():
    """freeze=False leaves it idle and running."""
    with function(freeze=False) as fn:
        fn.invoke({"tick": 0.01})
        fn.settle(WAIT)
        assert fn.containers[0].state == "idle"
        assert poll(lambda: ticks_meanwhile(fn), seconds=WAIT)
        assert fn.containers[0].frozen_seconds == 0


def ticks_meanwhile(fn: LocalLambda) -> list[float]:
    """When the thread of `tick` was at work while no event was."""
    began = time.monotonic()
    time.sleep(0.1)
    ended = time.monotonic()
    return [moment for moment in fn.invoke({}).value["ticks"] if began < moment < ended]


def test_a_container_is_made_only_when_none_is_idle(tmp_path):
    """One after another they share one; at once each gets its own; too many are throttled, or wait."""
    with function(containers=2) as fn:
        for _ in range(3):
            fn.invoke({})
        assert len(fn.containers) == 1
        at_once = [fn.invoke_async({"until": str(tmp_path / "gate")}) for _ in range(2)]
        with pytest.raises(Throttled, match="2 containers"):
            fn.invoke({})
        waiting = fn.invoke_async({}, wait=True)
        (tmp_path / "gate").touch()
        waited = waiting.result(WAIT)
        assert {one.result().container for one in at_once} == {1, 2}
        assert waited.container in (1, 2)
        assert len(fn.containers) == 2


@pytest.mark.parametrize(
    ("routing", "expected"), [("newest", [3]), ("oldest", [1]), ("random", [1, 2, 3]), (lambda idle: idle[1], [2])]
)
def test_routing_chooses_among_idle_containers(routing, expected):
    """Each rule takes the containers it says."""
    with function(containers=3, routing=routing, seed=1).start(3) as fn:
        taken = {fn.invoke({}).container for _ in range(20 if routing == "random" else 3)}
        assert sorted(taken) == expected


def picks_the_sixth(idle):
    return idle[5]


class Forgetful:
    def __call__(self, idle):
        return None


@pytest.mark.parametrize(
    ("routing", "said"),
    [
        (
            picks_the_sixth,
            r"the routing picks_the_sixth raised IndexError\(.*\) when it was to choose one of 1 containers",
        ),
        (Forgetful(), "the routing Forgetful must return one of the containers it is given; it returned None"),
    ],
)
def test_a_routing_that_fails_is_told_to_the_caller(routing, said):
    """By its name: what it raised, and that it gave no container of those that it had."""
    with function(routing=routing) as fn:
        fn.invoke({})
        with pytest.raises(LambdaError, match=f"^{said}$"):
            fn.invoke({})


@pytest.mark.parametrize(("routing", "expected"), [("recent", [2, 2, 2]), ("rested", [1, 3, 2])])
def test_routing_may_follow_use(routing, expected):
    """The one that became idle last, or the one that has been idle longest."""
    order = [1, 3, 2]
    with function(containers=3, routing=lambda idle: next(one for one in idle if one.number == order[0])).start(
        3
    ) as fn:
        while order:
            assert fn.invoke({}).container == order.pop(0)
        fn._fleet._choose = RULES[routing]
        assert [fn.invoke({}).container for _ in range(3)] == expected


def test_the_handlers_error_reaches_the_caller_and_the_process_goes_on():
    """Kind, message and trace as the runtime posts them."""
    with function() as fn:
        with pytest.raises(HandlerError) as caught:
            fn.invoke({"raise": "no such luck"})
        assert (caught.value.kind, caught.value.message) == ("ValueError", "no such luck")
        assert any("plain.py" in line for line in caught.value.trace)
        assert caught.value.container == 1
        assert fn.invoke({}).value["calls"] == 2


def test_a_timeout_kills_the_processes_and_the_next_event_starts_new_ones():
    """Same container, new process, what it had written is still there."""
    with function() as fn:
        before = fn.invoke({"write": "kept"})
        with pytest.raises(FunctionTimedOut, match="Task timed out after 0.50 seconds") as caught:
            fn.invoke({"sleep": WAIT}, timeout=0.5)
        assert isinstance(caught.value, LambdaError)
        assert isinstance(caught.value, RuntimeError)
        assert not alive(before.pid)
        after = fn.invoke({})
        assert (after.container, after.cold, after.value["calls"]) == (1, True, 1)
        assert after.pid != before.pid
        assert after.value["scratch"] == ["kept"]
        log = fn.containers[0].log
        assert log.count("init of") == 2
        assert f"{caught.value.request_id} Task timed out after 0.50 seconds\n" in log


def test_a_crash_in_an_invocation_is_reported_with_its_status():
    """os._exit in a handler ends the invocation, and the next one starts anew."""
    with function() as fn:
        fn.invoke({"say": "a last word"})
        with pytest.raises(ContainerCrashed, match=r"(?s)exit status 3.*a last word") as caught:
            fn.invoke({"exit": 3})
        assert caught.value.status == 3
        assert fn.invoke({}).value["calls"] == 1


def test_a_killed_container_never_serves_again():
    """Its invocation fails; another container, with another number, takes the next."""
    with function() as fn:
        running = fn.invoke_async({"sleep": WAIT})
        assert poll(lambda: [one for one in fn.containers if one.state == "busy"], seconds=WAIT)
        (container,) = fn.containers
        container.kill()
        with pytest.raises(ContainerCrashed):
            running.result(WAIT)
        assert container.state == "gone"
        assert fn.containers == []
        assert fn.invoke({}).container == 2


@pytest.mark.parametrize("freeze", [True, False])
def test_a_killed_container_leaves_nothing_behind(freeze):
    """Idle or frozen: what it listened on is closed, its process has ended; the others go on."""
    with function(containers=2, freeze=freeze).start(2) as fn:
        done = fn.invoke({})
        fn.settle(WAIT)
        host, port = done.value["environment"]["AWS_LAMBDA_RUNTIME_API"].split(":")
        fn.containers[done.container - 1].kill()
        assert poll(lambda: refuses(host, int(port)), seconds=WAIT)
        assert not alive(done.pid)
        assert fn.invoke({}).container != done.container


def refuses(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port)).close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize("how", ["killed", "ended"])
@pytest.mark.parametrize("turns", [1, 2, 3, 4, 5, 7, 11])
@pytest.mark.parametrize("slower", [0, 30])
def test_a_container_ended_at_any_step_of_its_start_leaves_nothing_behind(slower, turns, how, monkeypatch):
    """Before it listens, before its process is ordered, before that is known to be there; `slower`: after it has ended."""
    start = ApiServer.start

    async def start_slower(self: ApiServer) -> None:
        await start(self)
        for _ in range(slower):
            await asyncio.sleep(0)

    monkeypatch.setattr(ApiServer, "start", start_slower)
    monkeypatch.setattr(_lambda_life, "SHUTDOWN_GRACE", 0.0)  # an extension that has not registered hears of no end
    with function(extensions=[["sleep", "600"]]) as fn:
        fleet, lives = fn._fleet, []

        async def start_and_kill() -> None:
            starting = asyncio.create_task(fleet.start_ahead(1))
            for _ in range(turns):
                await asyncio.sleep(0)
            for environment in fleet.environments:
                lives.append(environment._life)
                if how == "killed":
                    environment.kill()
                await environment.end()
            with suppress(LambdaError):
                await starting

        fn._keeper.call(start_and_kill)
        assert not fleet._processes._known
        for life in filter(None, lives):
            assert not life._server.address or refuses(*life._server.address.split(":"))


def test_a_container_killed_on_its_way_up_stays_dead(tmp_path):
    """The second try that a failed init has is not made in a container that is gone."""
    (tmp_path / "slow.py").write_text("import time\nprint('trying')\ntime.sleep(600)\n")
    with function("slow.handler", directory=tmp_path) as fn:
        running = fn.invoke_async({})
        assert poll(lambda: fn.containers and "trying" in fn.containers[0].log, seconds=WAIT)
        (container,) = fn.containers
        container.kill()
        with pytest.raises(ContainerCrashed, match="killed"):
            running.result(WAIT)
        assert container.log.count("trying") == 1


def test_a_process_that_died_in_its_sleep_is_replaced():
    """SIGKILL between two events, as the kernel does where memory is short: the next event starts anew."""
    with function() as fn:
        pid = fn.invoke({}).pid
        fn.settle(WAIT)
        os.kill(pid, signal.SIGKILL)
        assert poll(lambda: fn.containers[0].pid is None, seconds=WAIT)
        after = fn.invoke({})
        assert (after.container, after.cold) == (1, True)


def test_a_container_that_died_in_its_sleep_sleeps_no_longer():
    """It is idle, and the time that it has stood still does not grow."""
    with function() as fn:
        pid = fn.invoke({}).pid
        (container,) = fn.containers
        container.wait_frozen(WAIT)
        os.kill(pid, signal.SIGKILL)
        assert poll(lambda: container.pid is None, seconds=WAIT)
        assert container.state == "idle"
        with pytest.raises(TimeoutError):
            container.wait_frozen(0.1)
        fn.settle(WAIT)
        before = container.frozen_seconds
        assert container.frozen_seconds == before > 0
        fn.invoke({})
        assert container.frozen_seconds >= before


def test_an_event_that_meets_a_death_hears_of_it():
    """The process has hung up, and that it has ended is not known yet."""
    with function(freeze=False) as fn:
        pid = fn.invoke({}).pid
        fn.settle(WAIT)
        warden, (environment,) = fn._fleet._processes._warden.pid, fn._fleet.environments
        os.kill(warden, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            assert poll(lambda: not environment._life.seats, seconds=WAIT)
            running = fn.invoke_async({})
            assert poll(lambda: environment.invocations == 2, seconds=WAIT)
        finally:
            os.kill(warden, signal.SIGCONT)
        with pytest.raises(ContainerCrashed, match="signal 9"):
            running.result(WAIT)
        assert fn.invoke({}).cold


def test_an_event_that_meets_a_hanging_up_hears_of_it():
    """In the very turn in which the connection is over, and the runtime's call of `next` has not been left yet."""
    with function(freeze=False) as fn:
        fn.invoke({})
        fn.settle(WAIT)
        invocation = Invocation(b"{}", timeout=WAIT, tenant=None, client_context=None, keeper=fn._keeper.ident)

        async def meet() -> None:
            fn._fleet.begin(invocation, wait=False)  # whose first step comes before what the next line brings about
            fn._fleet.environments[0]._life.seats[0].given.cancel()

        fn._keeper.call(meet)
        error = invocation.answer.exception(WAIT)  # none where the client asks again on another connection
        assert error is None or isinstance(error, ContainerCrashed)
        assert fn.invoke({}, wait=True).container == 1


def test_an_init_that_fails_is_tried_once_more_and_reported(tmp_path):
    """What the module raised is in the error; Lambda runs such an init twice."""
    (tmp_path / "broken.py").write_text("print('trying')\nraise KeyError('no table')\n")
    with function("broken.handler", directory=tmp_path) as fn:
        with pytest.raises(InitFailed, match="no table") as caught:
            fn.invoke({})
        assert caught.value.kind == "KeyError"
        assert fn.containers[0].log.count("trying") == 2


def test_a_module_that_is_not_there_is_named(tmp_path):
    """Lambda's own word for it."""
    with function("nowhere.handler", directory=tmp_path) as fn, pytest.raises(InitFailed, match="nowhere") as caught:
        fn.invoke({})
    assert caught.value.kind == "Runtime.ImportModuleError"


def slow_to_come_up(directory: Path, **options) -> LocalLambda:
    """A function whose init waits for the file `gate` in that directory."""
    code = "import time, pathlib\nwhile not pathlib.Path(__file__).with_name('gate').exists():\n    time.sleep(0.005)\n"
    (directory / "slow.py").write_text(code + "def handler(event, context):\n    return 'came'\n")
    return function("slow.handler", directory=directory, **options)


def test_an_init_that_takes_too_long_is_tried_again_within_the_invocation(tmp_path):
    """It is killed at init_timeout; the second try may take the function's time."""
    with slow_to_come_up(tmp_path, init_timeout=1.0) as fn:
        running = fn.invoke_async({})
        assert poll(lambda: [one._lives for one in fn._fleet.environments] == [2], seconds=WAIT)
        (tmp_path / "gate").touch()
        done = running.result(WAIT)
        assert (done.value, done.cold) == ("came", True)


def test_an_init_that_never_ends_is_a_timeout_of_the_function(tmp_path):
    """Both tries are killed; ahead of any event it is a failed init."""
    with slow_to_come_up(tmp_path, init_timeout=0.5, timeout=0.5) as fn:
        with pytest.raises(FunctionTimedOut):
            fn.invoke({})
        with pytest.raises(InitFailed, match=r"0\.5 s"):
            fn.start(1)


def test_containers_started_ahead_are_warm():
    """start(n) has them initialised, and frozen, before the first event."""
    with function(containers=3, initialization="provisioned-concurrency").start(2) as fn:
        fn.settle(WAIT)
        assert [one.state for one in fn.containers] == ["frozen", "frozen"]
        done = fn.invoke({})
        assert not done.cold
        assert done.value["environment"]["AWS_LAMBDA_INITIALIZATION_TYPE"] == "provisioned-concurrency"
        fn.start(3)
        assert len(fn.containers) == 3


def test_waiting_in_vain_says_for_what(tmp_path):
    """The error names the container and its state."""
    with function(freeze=False) as fn:
        running = fn.invoke_async({"until": str(tmp_path / "gate")})
        assert poll(lambda: [one for one in fn.containers if one.state == "busy"], seconds=WAIT)
        (container,) = fn.containers
        with pytest.raises(TimeoutError, match=r"Container\(1, .*'busy'.* idle or frozen within 0.1 s"):
            container.wait_idle(0.1)
        with pytest.raises(TimeoutError, match=r"not settled within 0.1 s: .*'busy'"):
            fn.settle(0.1)
        assert repr(fn) == f"LocalLambda('plain.handler', containers=[{container!r}])"
        (tmp_path / "gate").touch()
        running.result(WAIT)
        container.wait_idle(WAIT)


def test_a_container_that_comes_up_is_given_to_an_event_rather_than_another_made(tmp_path):
    """A start ahead that is under way is waited for, and not called cold twice."""
    with slow_to_come_up(tmp_path, containers=2) as fn:
        starting = threading.Thread(target=fn.start, args=(1,))
        starting.start()
        assert poll(lambda: [one for one in fn.containers if one.state == "starting"], seconds=WAIT)
        running = fn.invoke_async({})
        (tmp_path / "gate").touch()
        done = running.result(WAIT)
        starting.join()
        assert (done.value, done.container, done.cold) == ("came", 1, False)
        assert len(fn.containers) == 1


def test_a_tenants_container_serves_that_tenant_alone():
    """Each tenant has its own; where there is no room, one that waits for another tenant goes."""
    with function(containers=2) as fn:
        blue, red, blue_again = (fn.invoke({}, tenant=tenant) for tenant in ("blue", "red", "blue"))
        assert [done.value["tenant"] for done in (blue, red, blue_again)] == ["blue", "red", "blue"]
        assert (blue.container, red.container, blue_again.container) == (1, 2, 1)
        assert fn.invoke({}, tenant="green").container == 3
        assert [one.number for one in fn.containers] == [1, 3]


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_both_ways_of_the_client_to_wait_are_served(version):
    """From 3.12 on the client waits in a helper thread."""
    with function(python_version=version) as fn:
        pids = set()
        for _ in range(3):
            pids.add(fn.invoke({}).pid)
            fn.settle(WAIT)
        assert len(pids) == 1


def test_large_events_answers_and_errors_pass():
    """Megabytes in and out; the cause of an error goes in a header."""
    with function() as fn:
        assert len(fn.invoke({"say": "x" * 5_000_000}).value["environment"]) > 10
        assert len(fn.invoke({"answer": 5_000_000}).value["answer"]) == 5_000_000
        with pytest.raises(HandlerError) as caught:
            fn.invoke({"raise": "x" * 500_000})
        assert len(caught.value.message) == 500_000


def test_a_clients_context_passes_up_to_lambdas_limit():
    """3583 bytes in base64 are 2685 of JSON at most."""
    with function() as fn:
        longest = {"custom": {"a": "x" * (2685 - len('{"custom": {"a": ""}}'))}}
        assert fn.invoke({}, client_context=longest).value["client"] == longest["custom"]
        with pytest.raises(ConfigurationError, match="^client_context must be at most 3583 bytes"):
            fn.invoke({}, client_context={"custom": {"a": longest["custom"]["a"] + "x"}})


def test_an_answer_above_six_megabytes_is_refused():
    """Lambda's limit; the client takes the refusal for a reason to end."""
    with function() as fn:
        with pytest.raises(HandlerError) as caught:
            fn.invoke({"answer": 7_000_000})
        assert caught.value.kind == "Function.ResponseSizeTooLarge"
        fn.settle(WAIT)
        assert fn.invoke({}).cold


def test_many_threads_invoke_at_once():
    """Every caller gets its own answer."""
    with function(containers=4) as fn:
        seen = []

        def call():
            for _ in range(5):
                done = fn.invoke({}, wait=True)
                seen.append(done.request_id == done.value["request_id"])

        callers = [threading.Thread(target=call) for _ in range(6)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert seen == [True] * 30
        assert sum(one.invocations for one in fn.containers) == 30


def test_nothing_is_left_behind():
    """After the end no process and no folder; a handle can still be read."""
    with function() as fn:
        fn.invoke({"fork": 1.0})
        (container,) = fn.containers
        pid, scratch = container.pid, scratch_of(container.pid)
    assert not alive(pid)
    assert not scratch.exists()
    assert container.state == "gone"
    assert "init of" in container.log
    with pytest.raises(ServiceUnavailable, match="not started"):
        fn.invoke({})
    fn.stop()


def test_a_daemon_ends_with_the_function(tmp_path):
    """Though it is in no group of a container, and the process that started it has ended long ago."""
    pid = tmp_path / "pid"
    with function() as fn:
        fn.invoke({"daemon": str(pid)})
        assert poll(pid.exists, seconds=WAIT)
        daemon = int(pid.read_text())
        fn.containers[0].kill()
        fn.invoke({})
        assert alive(daemon)
    assert not alive(daemon)


def test_an_orphan_that_ends_is_waited_for(tmp_path):
    """As the system's own first process would; a container that ends after it is noticed all the same."""
    pid = tmp_path / "pid"
    with function() as fn:
        fn.invoke({"daemon": str(pid)})
        assert poll(pid.exists, seconds=WAIT)
        daemon = int(pid.read_text())
        os.kill(daemon, signal.SIGKILL)
        assert poll(lambda: not Path(f"/proc/{daemon}").exists(), seconds=WAIT)
        with pytest.raises(ContainerCrashed):
            fn.invoke({"exit": 3})
        assert fn.invoke({}).value["calls"] == 1


def test_a_handle_outlives_the_function():
    """To kill what is gone does nothing; to wait for it is told to be in vain."""
    with function() as fn:
        fn.invoke({})
        (container,) = fn.containers
    container.kill()
    for wait in (container.wait_idle, container.wait_frozen):
        with pytest.raises(ServiceUnavailable, match="was stopped"):
            wait()


def test_a_done_callback_may_invoke_and_must_not_wait():
    """It runs where the answer that it would wait for is brought."""
    chained: Future[Done] = Future()
    refused: list[str] = []

    def then(answered: Future[Done]) -> None:
        fn.invoke_async({}).add_done_callback(lambda second: chained.set_result(second.result()))
        waits = (
            lambda: fn.invoke({}),
            lambda: fn.invoke_async({}, wait=True).result(),
            lambda: fn.invoke_async({}, wait=True).exception(),
            lambda: answered.result().billed_seconds,
            fn.settle,
            fn.stop,
            *(getattr(fn.containers[0], name) for name in ("kill", "wait_idle", "wait_frozen")),
        )
        for wait in waits:
            try:
                wait()
            except RuntimeError as error:
                refused.append(str(error))

    with function(containers=2) as fn:
        fn.invoke_async({}).add_done_callback(then)
        assert chained.result(WAIT).value["calls"] >= 1
        fn.settle(WAIT)
    assert len(refused) == 9
    assert all("Call invoke_async, or wait in another thread" in said for said in refused)


def test_a_routing_must_not_wait():
    """Its caller is told."""
    with function(routing=lambda containers: containers[0].wait_idle()) as fn:
        fn.invoke({})
        with pytest.raises(LambdaError, match="to wait here would be for ever"):
            fn.invoke({})


def test_an_invocation_that_is_cut_off_by_the_end_is_told_so():
    """Leaving the block lets the waiting caller go."""
    with function() as fn:
        running = fn.invoke_async({"sleep": WAIT})
        assert poll(lambda: [one for one in fn.containers if one.state == "busy"], seconds=WAIT)
    with pytest.raises(LambdaError, match="stopped"):
        running.result(WAIT)


PARENT = """
import sys
from tiered_cache.local import LocalLambda
options = {"timeout": 60, "init_timeout": 60, "freeze": sys.argv[2] == "freeze"}
fn = LocalLambda("plain.handler", directory=sys.argv[1], **options).start()
fn.invoke({"fork": 0.5})
fn.settle(60)
print(fn.containers[0].pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("freeze", ["freeze", "go on"])
def test_containers_do_not_outlive_a_test_that_was_killed(freeze):
    """Frozen or not, they go with the process that made them, what they have forked too, and so do their folders."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, HANDLERS, freeze],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        scratch = scratch_of(pid)
        forked = forked_by(pid)
        assert alive(pid)
        parent.kill()
        parent.wait()
        assert forked
        assert poll(lambda: not any(map(alive, [pid, *forked])), seconds=WAIT)
        assert poll(lambda: not scratch.exists(), seconds=WAIT)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"handler": "nodot"}, "handler must be text: 'module.function'; got 'nodot'"),
        ({"handler": 3}, "handler must be text: 'module.function'; got 3"),
        ({"directory": "/no/such/folder"}, "directory must be an existing folder"),
        ({"directory": None}, "directory must be the path of a folder; got None"),
        ({"containers": 0}, "containers must be a whole number of at least 1; got 0"),
        ({"containers": True}, "containers must be a whole number of at least 1; got True"),
        ({"timeout": 0}, "timeout must be a finite duration above zero: .* got 0"),
        ({"timeout": "3 parsecs"}, "timeout must be a finite duration above zero: .* got '3 parsecs'"),
        ({"timeout": 901.0}, "timeout must be at most 900 seconds, Lambda's limit; got 901.0"),
        ({"init_timeout": None}, "init_timeout must be a finite duration"),
        ({"memory": 64}, "memory must be a whole number from 128 to 10240; got 64"),
        ({"memory": 20000}, "memory must be a whole number from 128 to 10240; got 20000"),
        ({"routing": "round-robin"}, "routing must be one of 'newest', .* or a callable; got 'round-robin'"),
        ({"initialization": "warm"}, "initialization must be one of 'on-demand', .* got 'warm'"),
        ({"processes": 0}, "processes must be a whole number of at least 1; got 0"),
        ({"processes": 3}, 'processes means nothing but with initialization="lambda-managed-instances"; got 3'),
        ({"freeze": "yes"}, "freeze must be True or False; got 'yes'"),
        ({"still_clock": 1}, "still_clock must be True or False; got 1"),
        ({"initialization": "lambda-managed-instances", "still_clock": True}, "still_clock=True needs"),
        ({"extensions": "agent"}, "extensions must be a list of commands; got 'agent'"),
        ({"extensions": ["python ext.py"]}, "each of extensions must be a command .* got 'python ext.py'"),
        ({"extensions": [["agent", 1]]}, "each of extensions must be a command as a list of words"),
        ({"environment": ["a"]}, "environment must be a mapping of names to values; got an object of type list"),
        ({"environment": {"TABLE": 1}}, "environment must have text without NUL as values; TABLE has not"),
        ({"environment": {"A=B": "c"}}, "each name in environment must be text: a letter, then .* got 'A=B'"),
        ({"environment": {"AWS_LAMBDA_RUNTIME_API": "a:1"}}, "environment must not have AWS_LAMBDA_RUNTIME_API"),
        ({"environment": {"_HANDLER": "a.b"}}, "environment must not have _HANDLER, which the platform sets itself"),
        ({"name": ""}, "name must be text: 1 to 64 letters, .* got ''"),
        ({"python_version": "abc"}, "python_version must be text: such as \"3.13\"; got 'abc'"),
    ],
)
def test_options_that_mean_nothing_are_named(options, said):
    """The error says which argument, what was given, and what is allowed."""
    with pytest.raises(ConfigurationError, match=f"^{said}"):
        LocalLambda(**{"handler": "plain.handler", "directory": HANDLERS, **options})


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_what_the_platform_sets_is_kept(name):
    """All of it, but for credentials and region, by which local services are found."""
    with pytest.raises(ConfigurationError, match=f"^environment must not have {name}"):
        LocalLambda("plain.handler", directory=HANDLERS, environment={name: "mine"})


def test_bad_calls_are_named():
    """An event that JSON cannot carry, a time that cannot be, more containers than there may be."""
    with function() as fn:
        for wrong in ({"set": {1}}, float("nan"), {"most": float("inf")}):
            with pytest.raises(TypeError, match="^event must be something that JSON can carry"):
                fn.invoke(wrong)
        with pytest.raises(TypeError, match="^client_context must be something that JSON can carry"):
            fn.invoke({}, client_context=float("-inf"))
        for said, options in (
            ("event must be at most", {"event": "x" * (6 << 20)}),
            (
                "client_context must be at most 3583 bytes of base64, as it is sent; got 3584, of 2686 of JSON",
                {"client_context": "x" * 2684},
            ),
            ("timeout must be a finite duration above zero: .* got -1", {"timeout": -1}),
            ("tenant must be text: 1 to 256 letters, .* got 5", {"tenant": 5}),
            ("tenant must be text", {"tenant": "a\r\nX: b"}),
            ("wait must be True or False; got 'yes'", {"wait": "yes"}),
        ):
            with pytest.raises(ConfigurationError, match=f"^{said}"):
                fn.invoke(**{"event": {}, **options})
        for wrong in (2, -1, True, "1"):
            with pytest.raises(
                ConfigurationError, match=f"^containers must be a whole number from 0 to 1; got {wrong!r}"
            ):
                fn.start(wrong)
        with pytest.raises(ConfigurationError, match="^timeout must be a finite duration"):
            fn.settle("soon")
        assert fn.containers == []


def test_durations_are_written_as_everywhere():
    """Text or a timedelta will do; what the function is told, and what is enforced, are seconds."""
    with function(timeout="2m", init_timeout=timedelta(seconds=90)) as fn:
        assert 60 < fn.invoke({}).value["remaining"] <= 120
        with pytest.raises(FunctionTimedOut, match="timed out after 0.50 seconds"):
            fn.invoke({"sleep": WAIT}, timeout="500ms")
        fn.settle("60s")
        assert fn.invoke({}, timeout=timedelta(minutes=4)).value["remaining"] > 120
        fn.containers[0].wait_frozen("60s")


def test_without_the_client_the_error_says_what_to_install(monkeypatch):
    """No awslambdaric: the extra is named."""
    monkeypatch.setattr(awslambda, "find_spec", lambda name: None)
    with pytest.raises(ServiceUnavailable, match=r"tiered-cache\[local\]"):
        function().start()


def test_the_fixture_starts_functions_and_stops_them(local_lambda):
    """Any number of them, with the options of LocalLambda."""
    options = {"directory": HANDLERS, "timeout": WAIT, "init_timeout": WAIT}
    first, second = (local_lambda("plain.handler", memory=memory, **options) for memory in (128, 256))
    sizes = [fn.invoke({}).value["environment"]["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] for fn in (first, second)]
    assert sizes == ["128", "256"]
