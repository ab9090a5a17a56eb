"""Child processes that serve on a free port of loopback, and that are gone when their parent is."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import random
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tiered_cache.local._needs import ServiceUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HOST = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Where free ports are looked for: below the ports that systems hand out to clients, and so far below 55,535 that a
Redis cluster's bus port (port + 10,000) exists too."""

BLOCK = 100
"""How many of them one process has for itself."""

T = TypeVar("T")


def bind_somewhere(bind: Callable[[int], T]) -> T:
    """What `bind(port)` gives for the next of this process's ports at which it does not raise 'address in use'."""
    ports = _ports_of(os.getpid())
    for _ in range(BLOCK):
        try:
            return bind(next(ports))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise ServiceUnavailable(
        f"none of the {BLOCK} ports between {PORTS.start} and {PORTS.stop} of this process is free"
    )


@functools.cache
def _ports_of(_process: int) -> Iterator[int]:
    """Ports in turn, without an end, from a block that no other process has while this one lives: its first is held.

    So nobody takes by chance what is given up for a while, such as the port of a server that is started again.
    """
    for first in random.SystemRandom().sample(PORTS[::BLOCK], len(PORTS) // BLOCK):
        with socket.socket() as holding, contextlib.suppress(OSError):
            holding.bind((HOST, first))
            holding.detach()  # and not closed before the process ends
            return itertools.cycle(range(first + 1, first + BLOCK))
    raise ServiceUnavailable(f"no {BLOCK} ports in a row are free between {PORTS.start} and {PORTS.stop}")


def free_port() -> int:
    """A port of loopback that was free a moment ago; a process that does not ask here may take it before you do."""

    def probe(port: int) -> int:
        with socket.socket() as probed:
            probed.bind((HOST, port))
        return port

    return bind_somewhere(probe)


def poll(what: Callable[[], T | None], *, seconds: float, interval: float = 0.005) -> T | None:
    """The first true answer of `what()`, or None if there was none within `seconds`."""
    for _ in _until(seconds, interval):
        if answer := what():
            return answer
    return None


def _until(seconds: float, interval: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(interval)


class ChildProcess:
    """One running server process with a directory of its own, held by a guard process (see `_guard`).

    `command` may hold the text `{directory}`, which becomes the path of the temporary directory.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="tiered-cache-"))
        filled = [part.replace("{directory}", str(self.directory)) for part in command]
        guard = [sys.executable, "-I", "-S", str(Path(__file__).with_name("_guard.py")), str(self.directory), *filled]
        with (self.directory / "guard.log").open("wb") as log:
            self._guard = subprocess.Popen(
                guard,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # a Ctrl-C in the terminal reaches the parent alone
            )
        assert self._guard.stdout is not None
        first = self._guard.stdout.readline()
        if not first:
            reason = (self.directory / "guard.log").read_text(errors="replace").strip().rpartition("\n")[2]
            self.stop()
            raise ServiceUnavailable(f"{filled[0]} could not be started: {reason}")
        self.pid = int(first)

    @property
    def running(self) -> bool:
        """True until the server has ended."""
        out = self._guard.stdout
        if out is None or out.closed:
            return False
        poller = select.poll()  # not select(), which fails in a process with more than 1,024 open files
        poller.register(out, select.POLLIN)
        return not poller.poll(0)  # the guard closes its end, and writes nothing more, when the server has ended

    def log(self) -> str:
        """What the server wrote to its output so far."""
        try:
            return (self.directory / "log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        self._tell("SIGKILL")
        poll(lambda: not self.running, seconds=10)

    def pause(self) -> None:
        """SIGSTOP, and wait until the process stands still (on Linux, where that can be seen)."""
        self._tell("SIGSTOP")
        if sys.platform == "linux":
            poll(self._stands_still, seconds=5)

    def resume(self) -> None:
        """SIGCONT."""
        self._tell("SIGCONT")

    def stop(self) -> None:
        """End the server (SIGTERM, after 3 s SIGKILL), wait for it, and remove its directory. Twice does no harm."""
        self._tell("quit")
        try:
            self._guard.wait(10)
        except subprocess.TimeoutExpired:  # the guard itself hangs
            self._guard.kill()
            self._guard.wait()
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                pipe.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _tell(self, line: str) -> None:
        pipe = self._guard.stdin
        if pipe is None or pipe.closed:
            return
        with contextlib.suppress(BrokenPipeError):  # the guard could not start the server, or was ended by somebody
            pipe.write(line.encode() + b"\n")

    def _stands_still(self) -> bool:
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except FileNotFoundError:
            return True
        return stat.rpartition(")")[2].split()[0] == "T"


def start_server(
    name: str,
    command: Callable[[int], Sequence[str]],
    ready: Callable[[int, ChildProcess], bool],
    *,
    port: int | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float = 30.0,
) -> tuple[ChildProcess, int]:
    """Start `command(port)` and wait until `ready(port, child)`; at a free port, or at `port` where one is given.

    A server that ends before it is ready is tried again with another port if its output says that the port is taken.
    Raises ServiceUnavailable with the end of its output otherwise, and where it is not ready within `seconds`.
    """
    for attempt in range(5):
        chosen = free_port() if port is None else port
        child = ChildProcess(command(chosen), environment=environment)
        try:
            trouble = _wait_ready(child, lambda: ready(chosen, child), seconds)  # noqa: B023 - called at once
            output = child.log()
        except BaseException:
            child.stop()
            raise
        if trouble is None:
            return child, chosen
        child.stop()
        if port is not None or attempt == 4 or "in use" not in output.lower():
            said = output[-2000:].strip() or "nothing"
            raise ServiceUnavailable(f"{name} {trouble} at port {chosen}; it said: {said}")
    raise AssertionError("unreachable: the last attempt returns or raises")


def _wait_ready(child: ChildProcess, ready: Callable[[], bool], seconds: float) -> str | None:
    """None once the child is ready; else what became of it."""
    if poll(lambda: ready() or not child.running, seconds=seconds):
        return None if child.running else "ended at once"
    return f"is not ready after {seconds:g} s"
