"""SnapStart and Managed Instances on the local Lambda."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tiered_cache.local import LocalLambda, _lambda_environment
from tiered_cache.local._process import poll
from tiered_cache.local.awslambda import ContainerCrashed, FunctionTimedOut, InitFailed, Throttled

HANDLERS = Path(__file__).parent / "handlers"
WAIT = 60.0
"""Seconds that anything may take on a slow machine, if it is not what a test measures."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="awslambdaric runs on Linux only")


def snap(**options) -> LocalLambda:
    options = {"timeout": WAIT, "init_timeout": WAIT, **options}
    return LocalLambda("snap.handler", directory=HANDLERS, initialization="snap-start", **options)


def managed(**options) -> LocalLambda:
    return LocalLambda(
        "worker.handler",
        directory=HANDLERS,
        initialization="lambda-managed-instances",
        **{"timeout": WAIT, "init_timeout": WAIT, "processes": 3, **options},
    )


# SnapStart


def test_the_hooks_run_around_the_snapshot():
    """Before-hooks last registered first, after-hooks in order, and the next event finds all done."""
    with snap() as fn:
        done = fn.invoke({})
        assert [name for name, _ in done.value["happened"]] == ["init", "before 2", "before 1", "after 1", "after 2"]
        assert done.value["type"] == "snap-start"
        assert done.cold
        assert done.init_seconds > 0 < done.restore_seconds
        assert len(fn.invoke({}).value["happened"]) == 5


def test_a_container_stands_still_between_snapshot_and_restore():
    """Started ahead it waits, frozen, before the restore; its first event restores it."""
    with snap(containers=2).start(2) as fn:
        fn.settle(WAIT)
        assert [one.state for one in fn.containers] == ["frozen", "frozen"]
        time.sleep(0.5)
        done = fn.invoke({})
        times = dict(done.value["happened"])
        assert times["after 1"] - times["before 1"] >= 0.5
        assert (done.cold, done.init_seconds) == (True, 0.0)
        assert done.restore_seconds > 0
        assert fn.containers[done.container - 1].frozen_seconds >= 0.5
        assert not fn.invoke({}).cold


@pytest.mark.parametrize("failing", ["before 1", "after 2"])
def test_a_hook_that_raises_fails_the_start(failing):
    """Before the snapshot and after the restore: the function does not come up, and the error says why."""
    with snap(environment={"FAIL": failing}) as fn:
        with pytest.raises(InitFailed, match=f"{failing} went wrong"):
            fn.invoke({})
        assert "Error" in fn.containers[0].log


def test_hooks_that_take_too_long_after_the_restore_fail_it(monkeypatch):
    """Lambda gives them ten seconds, here it is half a second; and the time of init does not count."""
    monkeypatch.setattr(_lambda_environment, "RESTORE_TIMEOUT", 0.5)
    with snap(environment={"HANG": "after 1"}) as fn, pytest.raises(InitFailed, match=r"within 0\.5 s") as caught:
        fn.invoke({})
    assert caught.value.kind == "SnapStartTimeoutException"


# Managed Instances


def test_workers_take_events_at_once_and_each_has_its_own_globals():
    """One container, three processes of one parent, each with an init of its own; a fourth event is throttled."""
    with managed() as fn:
        at_once = [fn.invoke_async({"meet": "here", "of": 4}) for _ in range(3)]
        assert poll(lambda: [one for one in fn.containers if one.state == "busy"], seconds=WAIT)
        with pytest.raises(Throttled):
            fn.invoke({})
        meet(fn)
        values = [one.result(WAIT).value for one in at_once]
        assert len({value["pid"] for value in values}) == 3
        assert all(value["init"] == value["pid"] for value in values)
        assert {value["parent"] for value in values} == {fn.containers[0].pid}
        assert [value["calls"] for value in values] == [1, 1, 1]
        assert values[0]["type"] == "lambda-managed-instances"
        assert len(fn.containers) == 1


def scratch_of(fn: LocalLambda) -> str:
    """The folder of the first container's own; empty where its process has not begun."""
    pid = fn.containers[0].pid
    environment = [] if pid is None else Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next((line.partition(b"=")[2].decode() for line in environment if line.startswith(b"TMPDIR=")), "")


def meet(fn: LocalLambda) -> None:
    """Be the one whom the workers of `worker.handler` still wait for."""
    assert poll(lambda: scratch_of(fn), seconds=WAIT)  # its process may not have begun
    place = Path(scratch_of(fn), "here")
    assert poll(lambda: place.exists() and len(list(place.iterdir())) == 3, seconds=WAIT)
    place.joinpath("test").touch()


def test_a_managed_instance_is_never_frozen():
    """It stays idle."""
    with managed() as fn:
        fn.invoke({})
        fn.settle(WAIT)
        assert fn.containers[0].state == "idle"
        assert fn.containers[0].frozen_seconds == 0


def test_its_timeout_is_told_to_the_caller_and_the_code_goes_on(tmp_path):
    """The process lives, its worker is busy until it is done, and what it did is there."""
    with managed(processes=1) as fn:
        before = fn.invoke({})
        with pytest.raises(FunctionTimedOut):
            fn.invoke({"until": str(tmp_path / "gate")}, timeout=0.5)
        with pytest.raises(Throttled):
            fn.invoke({})
        waiting = fn.invoke_async({}, wait=True)
        (tmp_path / "gate").touch()
        after = waiting.result(WAIT)
        assert after.value["pid"] == before.value["pid"]
        assert after.value["calls"] == 3


def test_a_worker_that_dies_leaves_the_others_serving(tmp_path):
    """Its event fails; the container takes one event less at once."""
    with managed(processes=2) as fn:
        fn.invoke({})
        with pytest.raises(ContainerCrashed, match="worker"):
            fn.invoke({"exit": 5})
        done = [fn.invoke({}) for _ in range(3)]
        assert {one.container for one in done} == {1}
        assert not any(one.cold for one in done)
        running = fn.invoke_async({"until": str(tmp_path / "gate")})
        with pytest.raises(Throttled):
            fn.invoke({})
        (tmp_path / "gate").touch()
        assert running.result(WAIT).value["calls"] >= 3


def test_a_worker_that_dies_while_it_waits_is_missed(tmp_path):
    """The container takes one event less at once."""
    with managed(processes=2) as fn:
        place = [fn.invoke_async({"meet": "here", "of": 2}) for _ in range(2)]
        pids = {one.result().value["pid"] for one in place}
        os.kill(pids.pop(), signal.SIGKILL)
        assert poll(lambda: fn._fleet.environments[0]._life.lost == 1, seconds=WAIT)
        running = fn.invoke_async({"until": str(tmp_path / "gate")})
        assert poll(lambda: fn.containers[0].state == "busy", seconds=WAIT)
        with pytest.raises(Throttled):
            fn.invoke({})
        (tmp_path / "gate").touch()
        assert running.result(WAIT).value["pid"] in pids


def test_without_workers_a_container_is_not_busy():
    """Their parent stands still, and has not ended with them: the next event starts another all the same."""
    with managed(processes=2) as fn:
        place = [fn.invoke_async({"meet": "here", "of": 2}) for _ in range(2)]
        pids = {one.result(WAIT).value["pid"] for one in place}
        (container,) = fn.containers
        os.kill(container.pid, signal.SIGSTOP)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        life = fn._fleet.environments[0]._life
        assert poll(lambda: life.lost == 2, seconds=WAIT)
        done = fn.invoke({})
        assert (done.container, done.cold) == (1, True)


def test_when_all_workers_are_dead_the_container_comes_up_anew():
    """The parent ends with its last worker, and the next event starts another."""
    with managed(processes=1) as fn:
        with pytest.raises(ContainerCrashed):
            fn.invoke({"exit": 5})
        done = fn.invoke({}, wait=True)
        assert (done.container, done.cold) == (1, True)
