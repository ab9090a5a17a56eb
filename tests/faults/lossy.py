"""A TCP relay on loopback whose kernel loses packets: what a firewall, a NAT or a bad line does.

A socket filter (classic BPF, socket(7): SO_ATTACH_FILTER) on each of its sockets drops segments before TCP sees them: a SYN
is not answered, data is not acknowledged, and the sender's TCP sends again after 200 ms and more, as over a real line.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import threading
from contextlib import suppress
from typing import Self

import pytest

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_LOAD_RANDOM = (0x20, 0, 0, 0xFFFFF000 + 56)  # ld #rand
_ACCEPT, _DROP = (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)


def _set_loss(sock: socket.socket, share: float) -> None:
    """Let the kernel lose this share of the segments that arrive for `sock`. Raises PermissionError where it may not."""
    if share == 0:
        with suppress(FileNotFoundError):  # there was none
            sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        return
    above = (0x35, 0, 1, min(int(share * 2**32), 2**32 - 1))  # jge: accept, else skip to drop
    program = [_DROP] if share >= 1 else [_LOAD_RANDOM, above, _ACCEPT, _DROP]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))


def needs_loss() -> None:
    """Skip the test where the kernel lets nobody lose packets."""
    if sys.platform != "linux":
        pytest.skip("socket filters that lose packets are a thing of Linux")
    with socket.socket() as probed:
        try:
            _set_loss(probed, 1)
        except PermissionError as error:
            pytest.skip(f"needs the permission to attach a socket filter: {error}")


class LossyRelay:
    """Passes on what comes, in both directions, to 127.0.0.1 at `upstream`, which may be changed for new connections."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self._share = 0.0
        self._until_loss: int | None = None
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def lose(self, share: float) -> None:
        """Lose this share of the segments from now on, on all connections and in connecting; 1: all."""
        with self._lock:
            self._share = share
            for sock in (self._listener, *self._open):
                _set_loss(sock, share)

    def lose_after(self, sent: int) -> None:
        """Lose all once so many bytes more have come from clients."""
        self._until_loss = sent

    def cut(self) -> None:
        """End all connections."""
        with self._lock:
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for thread in self._threads[1:]:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # ended
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.upstream))
                except OSError:
                    client.close()
                    continue
                with self._lock:
                    self._open |= {client, server}
                    for sock in (client, server):
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        if self._share:
                            _set_loss(sock, self._share)
                self._start(self._stand_between, client, server)

    def _stand_between(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._pump, args=(server, client))
        back.start()
        self._pump(client, server, is_client=True)
        back.join()
        with self._lock:
            self._open -= {client, server}
            client.close()
            server.close()

    def _pump(self, source: socket.socket, sink: socket.socket, *, is_client: bool = False) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if is_client and self._until_loss is not None:
                    self._until_loss -= len(data)
                    if self._until_loss < 0:
                        self._until_loss = None
                        self.lose(1)
                sink.sendall(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _start(self, run: object, *given: object) -> None:
        thread = threading.Thread(target=run, args=given)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()
