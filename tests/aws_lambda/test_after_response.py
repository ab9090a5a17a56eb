"""Work after the response, in real containers: the response is out first, and the container is frozen when all is done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from parts import WAIT

from tiered_cache.aws_lambda._extension import Extension
from tiered_cache.local.awslambda import ContainerCrashed, FunctionTimedOut, HandlerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tiered_cache.local import LocalLambda

    Make = Callable[..., LocalLambda]


def test_the_response_does_not_wait_for_the_work_and_the_freeze_does(function: Make, gates: Path) -> None:
    """The work waits for a gate that is opened only when the response is there; when it began, the runtime had posted it."""
    fn = function("later.handler")
    answer = fn.invoke({"work": ["a", "b"], "gate": "open"}).value
    assert [] == answer["done"]
    assert 2 == answer["work"]["waiting"]
    (container,) = fn.containers
    assert "busy" == container.state
    (gates / "open").touch()
    container.wait_frozen(WAIT)
    after = fn.invoke({}).value
    assert (["a", "b"], [True, True]) == (after["done"], after["asked"])
    assert (2, 2, 0, 0) == tuple(after["work"][name] for name in ("deferred", "done", "failures", "waiting"))
    assert 2 == after["container"]["invocations"]


def test_a_stale_value_is_refreshed_after_the_response(function: Make, gates: Path) -> None:
    """The invocation that meets it is not delayed; the next has the new value without a load of its own."""
    fn = function("later.handler")
    (gates / "open").touch()
    assert 1 == fn.invoke({"load": "open"}).value["value"]
    fn.settle(WAIT)
    (gates / "open").unlink()
    assert 1 == fn.invoke({"load": "open"}).value["value"]
    (gates / "open").touch()
    fn.settle(WAIT)
    assert (2, 2) == ((answer := fn.invoke({}).value)["loads"], answer["loads"])


def test_work_that_finds_no_time_is_done_after_a_later_invocation(function: Make) -> None:
    """It is not begun in a time that is not left, and not forgotten."""
    fn = function("later.handler", {"HANDLER": json.dumps({"reserve": WAIT})})
    assert [] == fn.invoke({"work": ["a"]}, timeout=WAIT).value["done"]
    (container,) = fn.containers
    container.wait_frozen(WAIT)
    again = fn.invoke({}, timeout=3 * WAIT).value
    assert ([], 1, 1) == (again["done"], again["work"]["waiting"], again["work"]["put_off"])
    fn.settle(WAIT)
    assert ["a"] == fn.invoke({}).value["done"]
    assert "1 pieces of work wait for the next invocation" in container.log


def test_work_that_is_killed_with_what_waits_behind_it_is_told(function: Make) -> None:
    """Nobody can say so afterwards, so the log says it before; a test sees it, and what ended in time says nothing."""
    fn = function("later.handler")
    assert fn.invoke({"naps": [0.5, 0, 0]}).failure is None
    (container,) = fn.containers
    assert "" == container.log
    killed = fn.invoke({"naps": [0, WAIT, 0, 0]}, timeout=3)
    assert isinstance(killed.failure, FunctionTimedOut)
    fn.settle(WAIT)
    told, ended = container.log.splitlines()
    assert told.startswith("[WARNING]")
    assert killed.request_id in told
    assert "work that was put off still runs, and the time is up" in told
    assert "2 pieces that wait behind it are never done" in told
    assert ended.endswith("Task timed out after 3.00 seconds")
    assert 0 == fn.invoke({}).value["work"]["deferred"]


def test_a_handler_that_is_killed_leaves_word_of_the_work_it_had_put_off(function: Make) -> None:
    """Which nobody begins; a handler that has put nothing off says nothing."""
    fn = function("later.handler", {"UNHANDLED": "2"})  # a quarter of which lies between two looks at the time
    for work, seconds, expected in (([], 1, 0), (["a", "b", "c"], 3, 1)):
        fn.start(1)  # so that the short invocation need not import
        with pytest.raises(FunctionTimedOut):
            fn.invoke({"dawdle": WAIT, "work": work}, timeout=seconds)
        assert expected == fn.containers[0].log.count("3 pieces of work that wait for the response are lost")
    assert 1 == fn.containers[0].log.count("[WARNING]")


def test_what_a_handler_that_raised_has_put_off_is_done(function: Make) -> None:
    """The caller has the error; the work is done all the same."""
    fn = function("later.handler")
    with pytest.raises(HandlerError, match="^ValueError: on purpose"):
        fn.invoke({"work": ["a"], "raise": "on purpose"})
    fn.settle(WAIT)
    assert ["a"] == fn.invoke({}).value["done"]


@pytest.mark.parametrize("handler", ["later.handler", "later.of_two_caches"])
@pytest.mark.parametrize("kind", ["SystemExit", "GeneratorExit"])
def test_what_a_handler_that_ends_its_process_has_put_off_is_done_first(
    function: Make, handler: str, kind: str
) -> None:
    """There is no response to wait for, and the process with its threads is gone at once. The next has work of its own."""
    fn = function(handler)
    with pytest.raises(ContainerCrashed):
        fn.invoke({"say": ["sent", "counted"], "other_say": ["of the other"], "exit": kind})
    said = [line for line in fn.containers[0].log.splitlines() if line in ("sent", "counted", "of the other")]
    assert ["sent", "counted"] + ["of the other"] * (handler == "later.of_two_caches") == said
    assert [] == fn.invoke({"work": ["a"]}).value["done"]
    fn.settle(WAIT)
    assert ["a"] == fn.invoke({}).value["done"]


def test_work_that_exits_does_not_leave_the_container_waiting(function: Make) -> None:
    """SystemExit ends a thread in silence, and Lambda would wait for it until the timeout; work or a loader may raise it."""
    fn = function("later.handler")
    fn.invoke({"leave": True, "load": None, "work": ["a"]})
    fn.settle(WAIT)
    assert ["a"] == fn.invoke({"load_and_leave": True}).value["done"]
    fn.settle(WAIT)
    fn.invoke({"work": ["b"]})
    fn.settle(WAIT)
    assert ["a", "b"] == fn.invoke({}).value["done"]
    log = fn.containers[0].log
    assert "deferred work failed: SystemExit" in log
    assert "a refresh in the background came to nothing: SystemExit" in log


def test_a_handler_that_tells_nothing_does_not_hang_the_container(function: Make) -> None:
    """The module registers the extension, and the function's handler is another one."""
    fn = function("later.undecorated", {"UNHANDLED": "0.1"})
    for _ in range(2):
        fn.invoke({})
        fn.containers[0].wait_frozen(WAIT)


def test_a_handler_that_asks_for_none_of_it_does_not_hang_the_container(function: Make) -> None:
    """Another of its module does. What it puts off is done before its response, and then the container is free."""
    fn = function("later.plain")
    for _ in range(2):
        fn.invoke({"work": ["a"]})
        fn.settle(WAIT / 2)
    assert {"done": ["a", "a"], "asked": [False, False]} == fn.invoke({}).value


def test_where_a_handler_is_called_for_each_record_the_work_waits_for_the_last(function: Make) -> None:
    """By one that is not decorated: the end of the first is not that of the invocation."""
    fn = function("later.of_records")
    fn.invoke({"records": [1, 2, 3]})
    fn.settle(WAIT)
    assert [[1, False], [2, False], [3, False]] == fn.invoke({}).value["done"]


def test_an_event_that_is_handed_over_late_leaves_the_later_ones_their_work(function: Make) -> None:
    """The extension takes its handler for one that does not tell, and its work is done with the next event's: after that
    one's response, not while its handler runs, and from then on each has its own again.
    """
    fn = function("later.handed_over_late")
    for number in range(5):
        fn.invoke({"number": number, "next is late": number == 1})
        fn.settle(WAIT)
    assert [[0, 0], [1, 1], [2, 3], [3, 3], [4, 4]] == fn.invoke({"number": 5}).value["done"]


def test_a_handler_within_another_need_not_know_the_event() -> None:
    """It may be called without a context; what ends is the outer one's event, and no other."""
    extension, long_ago = Extension(), 0.0
    with extension.handling("a", int, None, float), extension.handling(None, int, None, float):
        pass
    assert extension._wait_for_end("a", long_ago)
    assert not extension._wait_for_end("b", long_ago)


def test_two_caches_share_one_extension(function: Make) -> None:
    """Lambda refuses a second one of the same name; the work of both is done."""
    fn = function("later.of_two_caches")
    fn.invoke({"work": ["a"], "other": ["b"]})
    fn.settle(WAIT)
    assert ["a", "b"] == sorted(fn.invoke({}).value["done"])
    assert "not registered" not in fn.containers[0].log


def test_where_the_extension_cannot_be_registered_the_work_is_done_before_the_response(function: Make) -> None:
    """As after the init phase; the log says so, and the handler works."""
    fn = function("late.handler")
    assert ["late"] == fn.invoke({}).value["done"]
    assert "work after the response will be done before it: the extension was not registered: 403" in (
        fn.containers[0].log
    )


@pytest.mark.parametrize("handler", ["above", "below"])
def test_the_decorator_goes_with_those_of_powertools(function: Make, handler: str) -> None:
    """Above them or below; each invocation is marked once, and their metrics and logs come out."""
    fn = function(f"powertools.{handler}")
    for number in (1, 2):
        assert {"value": "loaded", "invocations": number} == fn.invoke({"order": 1}).value
    log: Any = fn.containers[0].log
    assert 2 == log.count('"message":"answered"')
    assert '"Orders"' in log
    assert '"function_request_id"' in log
