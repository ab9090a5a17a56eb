"""What the tests of L2 share: caches, servers to be spoilt, and a look for what is left behind."""

from __future__ import annotations

import gc
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rig import Rig, TLSServer, make_certificate, wait_until

from tiered_cache.local.proxy import FaultProxy
from tiered_cache.local.valkey import ValkeyServer
from tiered_cache.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _threads() -> int:
    return sum(thread.name == "tiered_cache-connect" for thread in threading.enumerate())


def _sockets() -> int:
    """Open sockets of this process, where the system tells."""
    count = 0
    descriptors = Path("/proc/self/fd")
    for descriptor in descriptors.iterdir() if descriptors.exists() else ():
        with suppress(OSError):  # the listing's own
            count += str(descriptor.readlink()).startswith("socket:")
    return count


@pytest.fixture(autouse=True)
def no_leaks(valkey_server: ValkeyServer) -> Iterator[None]:
    """No test leaves a socket or a thread behind."""
    sockets = _sockets()

    def none_is_left() -> bool:
        if _threads() == 0 and _sockets() <= sockets:
            return True
        gc.collect()  # a link that was used by threads may be part of a circle, until the last of them has ended
        return False

    yield
    wait_until(none_is_left)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port of loopback at which nobody listens, nor can: it is held by who does not."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server of the test's own, to be spoilt."""
    with ValkeyServer() as started:
        yield started
        if started.running:
            started.resume()


@pytest.fixture
def proxy(valkey: ValkeyServer) -> Iterator[FaultProxy]:
    """Stands before the session's server."""
    with FaultProxy(valkey.host, valkey.port) as started:
        yield started


@pytest.fixture
def rig_of(clock: FakeClock) -> Iterator[Callable[..., Rig]]:
    """Makes rigs, and closes them."""
    rigs: list[Rig] = []

    def make(address: Any, planter: str | None = None, **options: Any) -> Rig:
        rigs.append(Rig(address, planter, clock, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(rig_of: Callable[..., Rig], proxy: FaultProxy, valkey: ValkeyServer) -> Rig:
    """A cache behind the proxy."""
    return rig_of(f"redis://127.0.0.1:{proxy.port}", valkey.url)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-made certificate for 127.0.0.1, with its key in one file."""
    return make_certificate(tmp_path_factory.mktemp("tls") / "server.pem")


@pytest.fixture
def tls(certificate: Path, valkey: ValkeyServer) -> Iterator[TLSServer]:
    """TLS before the session's server."""
    with TLSServer(certificate, valkey.port) as started:
        yield started
