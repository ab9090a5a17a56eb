"""A handler in a process of its own: the parent sends events as lines of JSON and reads results and times.

It is a plain stand-in for a container, without Lambda's runtime: no freeze, no deadline. `python -m
tiered_cache.local.container directory module` is the child; `Container` is the parent's end.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self


class Result(NamedTuple):
    """What a handler gave, and the seconds that each of the calls took inside its process."""

    value: Any
    seconds: list[float]


class Container:
    """A process that has imported the module `module` of the folder `directory` and calls its `handler`."""

    def __init__(self, directory: Path, module: str, environment: dict[str, str]) -> None:
        self._command = [sys.executable, "-m", "tiered_cache.local.container", str(directory), module]
        self._environment = os.environ | environment
        self._process: subprocess.Popen[str] | None = None

    def invoke(self, event: dict[str, Any], times: int = 1) -> Result:
        """Call the handler that many times with `event`. Raises RuntimeError with what the handler raised."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the container is not running: use it in a with statement")
        process.stdin.write(json.dumps({"event": event, "times": times}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the container ended with exit code {process.wait()}; its errors stand above")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"the handler raised {answer['error']}")
        return Result(answer["value"], answer["seconds"])

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(  # our own interpreter and module
            self._command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C in the terminal reaches the parent alone
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.communicate(timeout=5)  # closes its input, at which it ends
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


class Context:
    """As much of Lambda's context object as the handlers here use."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function's timeout."""
        return 900_000


def serve(directory: str, module: str) -> None:
    """The child: import, then answer each line until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a handler prints must not get in between
    sys.path.insert(0, directory)
    handler = importlib.import_module(module).handler
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(_answer(handler, request["event"], request["times"])) + "\n")


def _answer(handler: Any, event: Any, times: int) -> dict[str, Any]:
    context, seconds, value = Context(), [], None
    try:
        for _ in range(times):
            started = time.perf_counter()
            value = handler(event, context)
            seconds.append(time.perf_counter() - started)
    except Exception as error:  # noqa: BLE001  # whatever the handler raises is the parent's to show
        return {"error": f"{type(error).__name__}: {error}"}
    return {"value": value, "seconds": seconds}


if __name__ == "__main__":
    serve(*sys.argv[1:])
