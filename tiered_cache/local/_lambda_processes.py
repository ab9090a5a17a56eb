"""The test's end of the warden: processes that are started, stopped, continued and ended, on the running loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tiered_cache.local._needs import ServiceUnavailable

NOT_STARTED = 127
"""The status of what could not be started, as a shell has it."""
_GONE = "the process that holds the local Lambda's containers was ended by somebody"


class Changes:
    """Something others wait for: `until(true)` looks again whenever `tell` is called."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        happened, self._next = self._next, asyncio.Event()
        happened.set()

    async def until(self, true: Callable[[], Any]) -> None:
        while not true():
            await self._next.wait()


class Process:
    """A process that was started as the leader of its own group. `status` is None until it has ended."""

    def __init__(
        self, key: int, name: str, tell: Callable[..., None], changed: Callable[[], None], clock: Path | None
    ) -> None:
        self.pid = 0
        """0 until it is known to have been started."""
        self.refused = ""
        """Why it could not be started; it has a status then."""
        self.status: int | None = None
        self.still = False
        """True once the kernel says that it stands still."""
        self._key = key
        self._name = name
        self._tell = tell
        self._changed = changed
        self._clock = clock
        self._orders = itertools.count(1)
        self._order = self._went_on = 0

    def signal(self, name: str) -> None:
        """Send a signal to its group. Ended already: nothing."""
        self._tell("signal", self._key, signal=name)

    def stop(self) -> None:
        """SIGSTOP to its group; `still` says when it has come to that."""
        self._order = next(self._orders)
        self._tell("stop", self._key, order=self._order)

    def go_on(self) -> None:
        """SIGCONT to its group, its monotonic clock set back by the pause if it has such a clock."""
        self._order, self.still = next(self._orders), False
        clock = {} if self._clock is None else {"clock": str(self._clock)}
        self._tell("continue", self._key, order=self._order, **clock)

    async def terminate(self) -> None:
        """Let it go on, then SIGTERM, as soon as its main thread has got over that; a tenth of a second later at most.

        Before, the kernel gives the signal to any thread, and of Python's none but the main thread can act on it.
        """
        self.go_on()
        for _ in range(20):
            if self.status is not None or (self._went_on == self._order and self._sleeps()):
                break
            await asyncio.sleep(0.005)
        self.signal("SIGTERM")

    def _sleeps(self) -> bool:
        """True while its main thread waits for something."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:  # it has ended
            return False
        return stat.rpartition(")")[2].split()[0] in "SD"

    def hear(self, report: Mapping[str, Any]) -> None:
        """What the warden says of it."""
        if "pid" in report:
            self.pid = report["pid"]
        elif "error" in report:
            self.refused, self.status = f"{self._name} cannot be started: {report['error']}", NOT_STARTED
        elif "ended" in report:
            self.status, self.still = report["ended"], False
        elif "went_on" in report:
            self._went_on = report["went_on"]
            return
        elif report.get("stopped") == self._order:  # a later order to go on may have crossed it
            self.still = True
        self._changed()


class Processes:
    """The warden, its directory, and all processes it holds."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._keys = itertools.count(1)
        self._known: dict[int, Process] = {}
        self._pending = b""
        self._closed = False
        self._gone = False

    def open(self) -> None:
        script = Path(__file__).with_name("_lambda_warden.py")
        self._warden = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), str(self._directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C in the terminal reaches the test alone
        )
        assert self._warden.stdin is not None
        assert self._warden.stdout is not None
        self._orders, self._reports = self._warden.stdin, self._warden.stdout
        asyncio.get_running_loop().add_reader(self._reports.fileno(), self._read)

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        log: Path,
        changed: Callable[[], None],
        clock: Path | None = None,
    ) -> Process:
        """Have `command` started with its output at the end of `log`. Orders to the process count from now on; `changed`
        is called when it has a `pid` or is `refused`.
        """
        if self._gone or self._closed:
            raise ServiceUnavailable(_GONE)
        key = next(self._keys)
        process = self._known[key] = Process(key, command[0], self._tell, changed, clock)
        self._tell(
            "start",
            key,
            command=list(command),
            environment=dict(environment),
            directory=str(directory),
            log=str(log),
        )
        return process

    def close(self) -> None:
        """Kill what is left, and wait for it. The directory is gone afterwards."""
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._reports.fileno())
        self._orders.close()
        self._reports.close()
        self._warden.wait()

    def _tell(self, do: str, key: int, **more: Any) -> None:
        if self._closed:
            return
        left = json.dumps({"do": do, "key": key, **more}).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):  # somebody ended the warden, which `_read` sees too
            while left:
                left = left[self._orders.write(left) :]

    def _read(self) -> None:
        read = os.read(self._reports.fileno(), 1 << 16)
        if not read:
            self._lost()
            return
        *lines, self._pending = (self._pending + read).split(b"\n")
        for line in lines:
            self._hear(json.loads(line))

    def _hear(self, report: Mapping[str, Any]) -> None:
        if process := self._known.get(report["key"]):
            process.hear(report)
            if process.status is not None:
                del self._known[report["key"]]

    def _lost(self) -> None:
        asyncio.get_running_loop().remove_reader(self._reports.fileno())
        self._gone = True
        for process in self._known.values():
            if not process.pid:
                process.hear({"error": _GONE})
                continue
            # Their parent is gone, so an id may have been given away by now; but that they stay is far more likely.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.hear({"ended": -signal.SIGKILL})
        self._known.clear()
