"""Hold the processes of the local Lambda's containers, so that none of them outlives the test. Run as a script, by path.

`python -I -S _lambda_warden.py DIRECTORY` reads orders as lines of JSON on its standard input and writes what became
of them to its standard output. Each process is the leader of a process group of its own, and a signal goes to the
group, so that forked workers get it too. Who has left its group, as a daemon does, becomes a child of the warden when
its parent ends, and is killed at the end with all others.

    {"do": "start", "key": 7, "command": [...], "environment": {...}, "directory": "...", "log": "..."}
        -> {"key": 7, "pid": 4711} or {"key": 7, "error": "..."}; in the end {"key": 7, "ended": <exit status>}
    {"do": "signal", "key": 7, "signal": "SIGTERM"}
    {"do": "stop", "key": 7, "order": 12} -> {"key": 7, "stopped": 12}, once the leader stands still
    {"do": "continue", "key": 7, "order": 13, "clock": "..."} -> {"key": 7, "went_on": 13}; where there is a clock, the
        nanoseconds it stood still are added to the number in that file first

When the input ends or this process gets another parent, the test is gone: all groups are killed and DIRECTORY goes.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

Order = dict[str, Any]
PR_SET_CHILD_SUBREAPER = 36
"""As in <linux/prctl.h>."""


class Group:
    """A process group that was started, and since when it stands still."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.order = 0
        self.still_since: int | None = None

    def signal(self, number: int) -> None:
        # Its leader is a child of ours that was not waited for, so the id cannot belong to anybody else by now.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def go_on(self, clock: str | None) -> None:
        """SIGCONT; before it, the pause is added to the clock's file, so that no instant sees the clock jump."""
        since, self.still_since, self.order = self.still_since, None, 0
        if clock is not None and since is not None:
            _add(Path(clock), time.monotonic_ns() - since)
        self.signal(signal.SIGCONT)


def _add(path: Path, nanoseconds: int) -> None:
    with path.open("r+b") as file:  # written in place: the containers' processes have it mapped
        before = int.from_bytes(file.read(8), sys.byteorder, signed=True)
        file.seek(0)
        file.write((before + nanoseconds).to_bytes(8, sys.byteorder, signed=True))


class Warden:
    """All groups by key, and the two pipes to the test's process."""

    def __init__(self) -> None:
        self._groups: dict[int, Group] = {}

    def obey(self, order: Order) -> None:
        if order["do"] == "start":
            self._start(order)
        elif group := self._groups.get(order["key"]):  # an order may cross the report that the process has ended
            match order["do"]:
                case "signal":
                    group.signal(signal.Signals[order["signal"]])
                case "stop":
                    group.order = order["order"]
                    group.signal(signal.SIGSTOP)
                case "continue":
                    group.go_on(order.get("clock"))
                    say({"key": order["key"], "went_on": order["order"]})
                case unknown:
                    raise AssertionError(unknown)

    def _start(self, order: Order) -> None:
        try:
            with Path(order["log"]).open("ab") as log:
                process = subprocess.Popen(
                    order["command"],
                    cwd=order["directory"],
                    env=order["environment"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    process_group=0,
                )
        except (OSError, ValueError) as error:  # no such program, or a NUL in a word or a variable
            say({"key": order["key"], "error": str(error)})
            return
        self._groups[order["key"]] = Group(process)
        say({"key": order["key"], "pid": process.pid})

    def look(self) -> None:
        """Report who has ended or now stands still."""
        for key, group in list(self._groups.items()):
            seen = os.waitid(os.P_PID, group.process.pid, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
            if seen is None:
                continue
            if seen.si_code != os.CLD_STOPPED:
                group.signal(signal.SIGKILL)  # what it has forked is of no use without it
                del self._groups[key]
                say({"key": key, "ended": group.process.wait()})
            elif group.still_since is None and group.order:
                group.still_since = time.monotonic_ns()
                say({"key": key, "stopped": group.order})

    def end(self) -> None:
        """Kill all that is left."""
        for group in self._groups.values():
            group.signal(signal.SIGKILL)
        for group in self._groups.values():
            group.process.wait()
        while orphans := _children():
            for pid in orphans:
                os.kill(pid, signal.SIGKILL)  # a child that was not waited for: the id is nobody else's
                os.waitpid(pid, 0)  # and what it has forked is our child from now on

    def bury(self) -> None:
        """Wait for orphans that have ended. A leader that has meanwhile is for the next look."""
        leaders = {group.process.pid for group in self._groups.values()}
        with contextlib.suppress(ChildProcessError):
            while (seen := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and seen.si_pid not in leaders:
                os.waitpid(seen.si_pid, 0)


def adopt_orphans() -> None:
    """Have the kernel make this process the parent of those below it whose parents have ended."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        from ctypes import CDLL

        CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> list[int]:
    with contextlib.suppress(OSError):  # a kernel that does not tell
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    return []


def say(what: Order) -> None:
    """Report to the test's process; where it is gone, that shows at the next read."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(what).encode() + b"\n")


def main() -> None:
    directory = sys.argv[1]
    warden, parent = Warden(), os.getppid()
    adopt_orphans()
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(
        signal.SIGCHLD, lambda *_: None
    )  # a handler is needed for the byte in the pipe; Python's does no more
    pending = b""
    while os.getppid() == parent:  # a fork of the parent may hold the pipe open after its death
        ready, _, _ = select.select([0, woken], [], [], 1.0)
        if woken in ready:
            os.read(woken, 4096)
        if 0 in ready:
            read = os.read(0, 1 << 16)
            if not read:
                break
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                warden.obey(json.loads(line))
        warden.look()
        warden.bury()
    warden.end()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    main()
