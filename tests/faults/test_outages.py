"""L2 away, in each way in which it can be: what the first call costs, what those after it cost, and that L2 comes back."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import redis
from certificates import certificate
from lossy import LossyRelay, needs_loss
from rig import STALL, Rig, TLSServer, free_port, wait_until
from watched import Outage, outage, per_call, per_held

from tiered_cache import MemoryTier, RedisTier, TieredCache
from tiered_cache.local.proxy import FaultProxy
from tiered_cache.local.valkey import ValkeyServer, ask

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    RigOf = Callable[..., Rig]
    Measured = Callable[[str], None]

TIMEOUT = 0.5
"""Of calls that nothing answers; all others have the time that a busy machine takes."""
TRIES = 5
"""A machine that stands still for a moment does not do so each time; code that waits for too long does."""
DEAR = 20.0
"""A call while L2 is away that costs so many times what it costs without an L2 has waited for something."""


class Scene(NamedTuple):
    """A server of the test's own, and what its fault needs: `stack` ends it."""

    server: ValkeyServer
    admin: redis.Redis
    proxy: FaultProxy
    stack: ExitStack

    @property
    def proxied(self) -> str:
        return f"redis://127.0.0.1:{self.proxy.port}"


class Fault(NamedTuple):
    """`url(scene)`: where the cache finds L2. `strike` breaks it, `heal` mends it; None: it cannot be mended."""

    errors: set[str]
    url: Callable[[Scene], str]
    strike: Callable[[Scene], object]
    heal: Callable[[Scene], object] | None = None


def proxied(errors: set[str], strike: Callable[[FaultProxy], object]) -> Fault:
    return Fault(errors, lambda scene: scene.proxied, lambda scene: strike(scene.proxy), lambda scene: scene.proxy.ok())


def at_server(errors: set[str], strike: Callable[[Scene], object], heal: Callable[[Scene], object]) -> Fault:
    return Fault(errors, lambda scene: scene.server.url, strike, heal)


def by_reader(scene: Scene) -> str:
    scene.admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all")
    return f"redis://reader:pw@127.0.0.1:{scene.server.port}"


def acl(*rules: str) -> Callable[[Scene], object]:
    def change(scene: Scene) -> None:
        scene.admin.execute_command("ACL", "SETUSER", "reader", *rules)
        if "resetpass" in rules:
            scene.admin.execute_command("CLIENT", "KILL", "USER", "reader")

    return change


def run_for_ever(scene: Scene) -> None:
    """A script without an end, in another client's connection."""

    def run() -> None:
        with redis.Redis(port=scene.server.port, socket_timeout=None) as client, pytest.raises(redis.ResponseError):
            client.eval("while true do end", 0)

    scene.admin.config_set("busy-reply-threshold", 1)
    running = threading.Thread(target=run)
    running.start()
    scene.stack.callback(running.join)
    wait_until(lambda: says(scene.server.port, "BUSY"))


def end_script(scene: Scene) -> None:
    scene.admin.script_kill()
    wait_until(lambda: not says(scene.server.port, "BUSY"))


def says(port: int, word: str) -> bool:
    """Whether the server answers with that error. Asked without redis-py, which tries again by itself."""
    return ask(port, "TYPE x").startswith(f"-{word}")


def no_more_clients(scene: Scene) -> None:
    scene.admin.config_set("maxclients", 1)  # which is the admin
    scene.admin.client_kill_filter(_type="normal", skipme=True)
    wait_until(lambda: says(scene.server.port, "ERR max"))


FAULTS = {
    ("F01", "nobody listens"): Fault({"refused"}, lambda _: f"redis://127.0.0.1:{free_port()}", lambda _: None),
    ("F02", "a killed server"): at_server({"refused"}, lambda s: s.server.kill(), lambda s: s.server.restart()),
    ("F03", "a frozen server"): at_server({"timeout"}, lambda s: s.server.pause(), lambda s: s.server.resume()),
    ("F05", "a dripping reply"): proxied({"timeout"}, lambda proxy: proxy.drip(1, 0.02)),
    ("F08", "a reset on reply"): proxied({"reset"}, lambda proxy: proxy.reset()),
    ("F12", "garbage in place of replies"): proxied({"protocol", "timeout", "reset"}, lambda proxy: proxy.garbage()),
    ("F16", "too many clients"): at_server(
        {"too_many_clients", "reset"}, no_more_clients, lambda s: s.admin.config_set("maxclients", 1000)
    ),
    ("F25", "a busy script"): at_server({"not_ready"}, run_for_ever, end_script),
    ("F27", "CLIENT PAUSE ALL"): at_server(
        {"timeout"}, lambda s: s.admin.execute_command("CLIENT", "PAUSE", 3000, "ALL"), lambda s: s.admin.ping()
    ),
    ("F32", "a rotated password"): Fault({"auth"}, by_reader, acl("resetpass", ">new"), acl("resetpass", ">pw")),
    ("F33", "a permission taken away"): Fault({"permission"}, by_reader, acl("resetkeys", "~other:*"), acl("~tc1:*")),
}


def cases(faults: dict[tuple[str, str], Fault]) -> list[Any]:
    return [pytest.param(fault, marks=pytest.mark.fault(*name), id=name[0]) for name, fault in faults.items()]


@pytest.fixture
def scene(server: ValkeyServer, stack: ExitStack) -> Scene:
    admin = stack.enter_context(redis.Redis(port=server.port))
    proxy = stack.enter_context(FaultProxy(server.host, server.port))
    return Scene(server, admin, proxy, stack)


@pytest.mark.parametrize("fault", cases(FAULTS))
def test_l2_is_away(fault: Fault, scene: Scene, rig_of: RigOf, measured: Measured) -> None:
    """No call raises, the failure has its class, it is paid for once, and L2 is used again when it is back."""
    for _ in range(TRIES):
        seen = struck(fault, scene, rig_of(fault.url(scene), scene.server.url))
        if seen.first < TIMEOUT + 0.5:
            break
    measured(str(seen))
    assert seen.first < TIMEOUT + 0.5
    assert seen.later < DEAR * per_call(with_l2(None))


def struck(fault: Fault, scene: Scene, rig: Rig) -> Outage:
    """What the fault costs, which is over then."""
    key = rig.plant("x" * 1000)
    assert fault.heal is None or rig.reads_l2()
    fault.strike(scene)
    with rig.hurried(TIMEOUT) if "timeout" in fault.errors else nullcontext():
        seen = outage(rig, None if fault.heal is None else key)
    assert sum(seen.errors.values()) == 1
    assert set(seen.errors) <= fault.errors
    assert rig.l2.breaker == "open"
    if fault.heal is not None:
        fault.heal(scene)
        assert rig.recovers()
    return seen


SLOW_TO_LOAD = (
    "--key-load-delay",
    "50000",
    "--loading-process-events-interval-bytes",
    "1024",
    "--rdbcompression",
    "no",
)
"""Options of a server that takes 50 ms for each key that it reads from its disk, and answers meanwhile."""


@pytest.mark.fault("F24", "a server that loads its data")
def test_a_server_that_loads_its_data(rig_of: RigOf, tmp_path: Path, stack: ExitStack, measured: Measured) -> None:
    """After a restart it listens before it can answer; that is no failure of its own, and what it had is there again."""
    server = stack.enter_context(ValkeyServer(config=("--dir", str(tmp_path), *SLOW_TO_LOAD)))
    admin = stack.enter_context(redis.Redis(port=server.port))
    rig = rig_of(server.url)
    keys = [rig.plant(f"{number}" * 1000) for number in range(100)]
    admin.save()
    server.restart()
    wait_until(lambda: says(server.port, "LOADING"))
    seen = outage(rig)
    admin.config_set("key-load-delay", 0)
    wait_until(lambda: not says(server.port, "LOADING"))
    rig.clock.advance(61)
    measured(f"{seen}; then {sum(rig.ask(key).tier == 'l2' for key in keys)} of {len(keys)} values from L2")
    assert seen.errors == {"not_ready": 1}
    assert rig.recovers()


# The four ways of which a figure is promised


def never_there(_: ExitStack, __: pytest.MonkeyPatch) -> str:
    return f"redis://127.0.0.1:{free_port()}"


def frozen(stack: ExitStack, _: pytest.MonkeyPatch) -> str:
    server = stack.enter_context(ValkeyServer())
    server.pause()
    return server.url


def dripping(stack: ExitStack, _: pytest.MonkeyPatch) -> str:
    server = stack.enter_context(ValkeyServer(config=("--requirepass", "secret")))
    proxy = stack.enter_context(FaultProxy(server.host, server.port))
    proxy.drip(1, 0.2)  # of the handshake's answer, as of every other
    return f"redis://:secret@127.0.0.1:{proxy.port}"


def unresolvable(stack: ExitStack, patch: pytest.MonkeyPatch) -> str:
    answers, resolve = threading.Event(), socket.getaddrinfo
    patch.setattr(socket, "getaddrinfo", lambda *given, **more: answers.wait(60) and resolve(*given, **more))
    stack.callback(answers.set)
    return "redis://cache.invalid"


def with_l2(url: str | None) -> TieredCache:
    l2 = None if url is None else RedisTier(url, ttl="1h", timeout=TIMEOUT)
    return TieredCache(MemoryTier(ttl=1e-6), l2, namespace="test")  # L2 is to be asked at each call


@pytest.mark.fault("F01", "dead, frozen, dripping and unresolvable in one process")
def test_the_four_ways_to_be_away(stack: ExitStack, monkeypatch: pytest.MonkeyPatch, measured: Measured) -> None:
    """A cold cache's first call ends at the timeout, and those after it cost what they cost without an L2, nearly."""
    without = per_call(with_l2(None))
    for away in (never_there, frozen, dripping, unresolvable):
        for _ in range(TRIES):
            with monkeypatch.context() as patch, with_l2(away(stack, patch)) as cache:
                began = time.perf_counter()
                assert cache.get_or_load("first", lambda: "loaded") == "loaded"
                first = time.perf_counter() - began
                held, later = per_held(cache), per_call(cache)
                stack.close()
            if first < TIMEOUT + 0.5:
                break
        measured(
            f"{away.__name__.replace('_', ' ')}: first call {first:.3f} s of a timeout of {TIMEOUT} s, then a call "
            f"takes {1e6 * held:.1f} µs for a value that is held, and {1e6 * later:.1f} µs for one that is loaded "
            f"({1e6 * without:.1f} µs without an L2)"
        )
        assert first < TIMEOUT + 0.5
        assert later < DEAR * without


# On the way


@pytest.fixture
def relay(valkey: ValkeyServer, stack: ExitStack) -> LossyRelay:
    needs_loss()
    return stack.enter_context(LossyRelay(valkey.port))


@pytest.mark.fault("F04", "a connection that is never accepted")
def test_connecting_is_swallowed(relay: LossyRelay, valkey: ValkeyServer, rig_of: RigOf, measured: Measured) -> None:
    """A SYN that is dropped without a word is cut at the timeout, and with the way open the next probe gets through."""
    rig = rig_of(relay.url, valkey.url)
    relay.lose(1)
    with rig.hurried(TIMEOUT):
        seen = outage(rig)
    measured(str(seen))
    assert seen.errors == {"timeout": 1}
    assert seen.first < TIMEOUT + STALL
    relay.lose(0)
    assert rig.recovers()


@pytest.mark.fault("F09", "a connection that died in silence")
def test_a_half_open_connection(relay: LossyRelay, valkey: ValkeyServer, rig_of: RigOf, measured: Measured) -> None:
    """What a NAT forgets while it idles costs one timeout and is not used again: the next call connects anew."""
    rig = rig_of(relay.url, valkey.url)
    assert rig.reads_l2()
    relay.lose(1)
    with rig.hurried(TIMEOUT):
        seen = outage(rig)
    relay.lose(0)
    assert rig.recovers()
    measured(f"{seen}; then a new connection, {rig.l2.connects} in all")
    assert (rig.errors, rig.l2.connects) == ({"timeout": 1}, 2)


@pytest.mark.faults
@pytest.mark.fault("F15", "a fifth of all packets lost, both ways")
def test_packets_are_lost(relay: LossyRelay, valkey: ValkeyServer, rig_of: RigOf, measured: Measured) -> None:
    """TCP sends again; what does not arrive in time is a miss, and no call takes longer than the timeout."""
    rig = rig_of(relay.url, valkey.url, timeout=TIMEOUT)
    keys = [rig.plant() for _ in range(100)]
    relay.lose(0.2)
    took, tiers = [], []
    for key in keys:
        began = time.perf_counter()
        answer = rig.ask(key)
        took.append(time.perf_counter() - began)
        tiers.append(answer.tier)
        assert answer.value in (key, "loaded")
        if rig.l2.breaker != "closed":
            rig.clock.advance(31)
    took.sort()
    figures = f"median {1000 * took[50]:.1f} ms, p90 {1000 * took[89]:.0f} ms, longest {took[-1]:.3f} s"
    measured(f"{tiers.count('l2')} of 100 reads from L2; {figures}; errors {rig.errors}")
    assert tiers.count("l2") > 50
    assert took[-1] < 2 * TIMEOUT + STALL  # a read, and the write of what was loaded
    relay.lose(0)
    wait_until(rig.recovers)  # its timeout is short


# TLS


@pytest.mark.fault("F34", "a certificate of an unknown authority")
def test_an_unknown_authority(
    valkey: ValkeyServer, rig_of: RigOf, tmp_path: Path, stack: ExitStack, measured: Measured
) -> None:
    """It is a class of its own, with a long pause; nobody gets past the handshake, and plain text is never tried."""
    tls = stack.enter_context(TLSServer(certificate(tmp_path / "own.pem"), valkey.port))
    rig = rig_of(f"rediss://127.0.0.1:{tls.port}", valkey.url)
    measured(str(outage(rig)))
    assert (rig.errors, tls.connections) == ({"tls": 1}, 0)


@pytest.mark.fault("F34", "an expired certificate")
def test_an_expired_certificate(
    valkey: ValkeyServer, rig_of: RigOf, tmp_path: Path, stack: ExitStack, measured: Measured
) -> None:
    """The same, though its authority is known."""
    path = certificate(tmp_path / "old.pem", expired=True)
    tls = stack.enter_context(TLSServer(path, valkey.port))
    rig = rig_of(f"rediss://127.0.0.1:{tls.port}?ssl_ca_certs={path}", valkey.url)
    measured(str(outage(rig)))
    assert (rig.errors, tls.connections) == ({"tls": 1}, 0)


def present(tls: TLSServer, path: Path) -> None:
    """Let the running server show this certificate to whoever connects from now on."""
    assert tls._context is not None
    tls._context.load_cert_chain(path)


@pytest.mark.fault("F34", "a certificate swapped on the running server")
def test_a_swapped_certificate(
    valkey: ValkeyServer, rig_of: RigOf, tmp_path: Path, stack: ExitStack, measured: Measured
) -> None:
    """Open connections go on; new ones are refused until the right certificate is back."""
    right, wrong = certificate(tmp_path / "right.pem"), certificate(tmp_path / "wrong.pem")
    tls = stack.enter_context(TLSServer(right, valkey.port))
    rig = rig_of(f"rediss://127.0.0.1:{tls.port}?ssl_ca_certs={right}", valkey.url)
    assert rig.reads_l2()
    present(tls, wrong)
    assert rig.reads_l2()
    rig.clock.freeze(61)  # after which an idle connection is not trusted
    seen = outage(rig)
    present(tls, right)
    assert rig.recovers()
    measured(f"{seen}; back after the right one")
    assert seen.errors == {"tls": 1}
