"""What the network of a machine can do to L2, in namespaces of a process's own, where nobody else feels it.

`seen_in_namespaces(name)` runs one scenario in a process of its own, in a network and a mount namespace made by `unshare`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from rig import Rig, wait_until
from watched import outage

from tiered_cache.local.valkey import ValkeyServer
from tiered_cache.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT = 0.5
NAME = "cache.example"
_QUESTION_END = 12 + len(NAME) + 2 + 4  # header, the name's labels, type and class


class Resolver:
    """A name server for NAME at 127.0.0.1; `mode` is `"silent"`, `"no such name"` or `"answers"`."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            query, peer = self._sock.recvfrom(512)
            if self.mode != "silent":
                self._sock.sendto(self._reply(query), peer)

    def _reply(self, query: bytes) -> bytes:
        """NXDOMAIN, or the address 127.0.0.1 to whoever asks for an IPv4 one (RFC 1035)."""
        question = query[12:_QUESTION_END]
        is_a = question[-4:-2] == b"\0\1"
        if self.mode == "no such name":
            return query[:2] + b"\x81\x83\0\1\0\0\0\0\0\0" + question
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\x7f\0\0\1" if is_a else b""
        return query[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0" + question + answer


@contextmanager
def scene() -> Iterator[tuple[Rig, ValkeyServer]]:
    """A server in this namespace, and a cache that knows it by name. The resolver is asked at 127.0.0.1."""
    run("ip", "link", "set", "lo", "up")
    with TemporaryDirectory() as directory, ValkeyServer() as server:
        for path, text in (("/etc/resolv.conf", "nameserver 127.0.0.1\n"), ("/etc/nsswitch.conf", "hosts: dns\n")):
            own = Path(directory, Path(path).name)
            own.write_text(text)
            if Path(path).exists():
                run("mount", "--bind", str(own), path)
        rig = Rig(f"redis://{NAME}:{server.port}", server.url, FakeClock())
        rig.plant()  # the planter, which knows the address, connects now
        yield rig, server
        rig.close()


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def saw(text: str) -> None:
    sys.stdout.write(text)


def connecting() -> int:
    return sum(thread.name == "tiered_cache-connect" for thread in threading.enumerate())


def silent_resolver() -> None:
    """F06."""
    with scene() as (rig, _):
        resolver = Resolver("silent")
        most = 0
        with rig.hurried(TIMEOUT):
            seen = outage(rig)
            for _ in range(3):
                rig.clock.advance(31)
                rig.ask()
                most = max(most, connecting())
        began = time.monotonic()
        resolver.mode = "answers"
        wait_until(lambda: connecting() == 0)
        rig.clock.advance(61)
        assert rig.reads_l2()
        waited = time.monotonic() - began
        saw(f"{seen}; in 4 tries {most} thread at a time; used again {waited:.1f} s after the resolver answers")
        assert rig.errors == {"timeout": 4}
        assert most == 1


def refusing_resolver() -> None:
    """F07: nobody listens at port 53."""
    with scene() as (rig, _):
        seen = outage(rig)
        Resolver("answers")
        saw(str(seen))
        assert rig.errors == {"resolve": 1}
        assert rig.recovers()


def no_such_name() -> None:
    """F07."""
    with scene() as (rig, _):
        resolver = Resolver("no such name")
        seen = outage(rig)
        resolver.mode = "answers"
        saw(str(seen))
        assert rig.errors == {"resolve": 1}
        assert rig.recovers()


def slow_link() -> None:
    """F14: two megabits a second, a value of 200 kB."""
    with scene() as (rig, _):
        Resolver("answers")
        large, small = rig.plant(os.urandom(200_000)), [rig.plant() for _ in range(20)]
        assert rig.reads_l2()
        run("ip", "link", "set", "lo", "mtu", "1500")
        run("tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "2mbit", "burst", "16kb", "latency", "2s")
        began = time.monotonic()
        with rig.hurried(TIMEOUT):  # all of it would take 0.8 s
            assert rig.ask(large).value == "loaded"
        took = time.monotonic() - began
        run("tc", "qdisc", "del", "dev", "lo", "root")
        run("tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "2mbit", "burst", "16kb", "latency", "2s")
        rig.clock.advance(1.1 + took)
        tiers = [rig.ask(key).tier for key in small]
        saw(
            f"the large value given up after {took:.3f} s, {tiers.count('l2')} of 20 small ones read, errors {rig.errors}"
        )
        assert rig.errors == {"timeout": 1}
        assert tiers == ["l2"] * 20


SCENARIOS = {run.__name__: run for run in (silent_resolver, refusing_resolver, no_such_name, slow_link)}


UNSHARE = ("unshare", "--net", "--mount", "--map-root-user")


def seen_in_namespaces(name: str) -> str:
    """What that scenario says. Skips where no namespaces can be had."""
    for tool in ("unshare", "ip", "tc", "mount"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs the command {tool}")
    tried = subprocess.run([*UNSHARE, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"needs a network namespace: {tried.stderr.strip()}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [*UNSHARE, sys.executable, __file__, name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


if __name__ == "__main__":
    SCENARIOS[sys.argv[1]]()
