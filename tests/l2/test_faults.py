"""What goes wrong with L2, done to real servers: no error reaches a reader, a counter names it, and it heals."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import redis
from rig import Rig, ScriptedServer, delete, leased, pause_of, wait_until, within

from tiered_cache import InvalidationNotDelivered, Reason
from tiered_cache._l2.link import Link
from tiered_cache._l2.scripts import Script
from tiered_cache._reply import Filled
from tiered_cache.local.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig import TLSServer

    from tiered_cache.local.valkey import ValkeyServer

RigOf = "Callable[..., Rig]"
TIMEOUT = 0.25
"""Seconds after which a call ends that nothing answers."""
SOON = TIMEOUT + 1.0


@pytest.fixture
def admin(server: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port) as client:
        yield client


# Nobody there


def test_nothing_listens(rig_of: RigOf, valkey: ValkeyServer, nobody: int) -> None:
    """F01: the origin serves; the breaker opens at the first failure, and the next calls do not even try."""
    rig = rig_of(f"redis://127.0.0.1:{nobody}", valkey.url)
    assert [rig.ask().tier for _ in range(3)] == ["origin"] * 3
    assert rig.errors == {"refused": 1}
    assert rig.l2.skipped == 6  # the value, the lease and the value beside it, of the two others
    assert rig.l2.breaker == "open"


def test_a_server_killed_in_mid_run(rig_of: RigOf, server: ValkeyServer) -> None:
    """F02: its connection breaks, the origin serves; restarted, it is used again after the pause."""
    rig = rig_of(server.url)
    assert rig.reads_l2()
    server.kill()
    assert rig.ask().tier == "origin"
    assert rig.errors == {"refused": 1}
    server.restart()
    rig.clock.advance(0.9)
    assert rig.ask().tier == "origin"
    rig.clock.advance(0.2)
    assert rig.ask().tier == "origin"  # it is empty now, but it is asked
    assert rig.reads_l2()
    assert rig.l2.breaker == "closed"


def test_a_name_that_does_not_resolve(rig_of: RigOf, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """F07: a class of its own."""

    def no_such_name(*_: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    rig = rig_of("redis://cache.invalid", valkey.url)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", no_such_name)
        assert rig.ask().tier == "origin"
    assert rig.errors == {"resolve": 1}
    long = rig_of(f"redis://{'a' * 70}", valkey.url)
    assert long.ask().tier == "origin"
    assert long.errors == {"resolve": 1}


def test_a_resolver_that_hangs(rig_of: RigOf, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """F06: each probe is cut at the timeout, one thread waits for the resolver and no second one; then it recovers."""
    answers = threading.Event()
    resolve = socket.getaddrinfo

    def hang(*given: Any, **options: Any) -> Any:
        answers.wait(60)
        return resolve(*given, **options)

    rig = rig_of(f"redis://localhost:{valkey.port}", valkey.url)
    rig.planter.get("connect before the resolver hangs", None)
    wait_until(lambda: not any(thread.name == "tiered_cache-connect" for thread in threading.enumerate()))
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    for _ in range(4):
        with rig.hurried(TIMEOUT), within(SOON):
            assert rig.ask().tier == "origin"
        assert sum(thread.name == "tiered_cache-connect" for thread in threading.enumerate()) == 1
        rig.clock.advance(31)
    assert rig.errors == {"timeout": 4}
    answers.set()
    wait_until(lambda: not any(thread.name == "tiered_cache-connect" for thread in threading.enumerate()))
    assert rig.recovers()


def test_a_connection_that_comes_too_late_is_closed(
    rig: Rig, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is made after its caller has gone is not kept, and not leaked."""
    begin, resolve = threading.Event(), socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given: begin.wait(60) and resolve(*given))
    with rig.hurried(TIMEOUT):
        assert rig.ask().tier == "origin"
    begin.set()
    wait_until(lambda: proxy.accepted == 1 and proxy.open_connections == 0)
    assert rig.recovers()


def test_where_no_thread_can_be_started(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process at its limit of threads goes without L2, and comes back to it."""

    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert rig.ask().tier == "origin"
    assert rig.errors == {"protocol": 1}
    assert rig.recovers()


# There, and silent


def test_a_frozen_server(rig_of: RigOf, server: ValkeyServer) -> None:
    """F03: calls end at the timeout; after it goes on, no late reply is taken for that of another call."""
    rig = rig_of(server.url)
    keys = [rig.plant() for _ in range(10)]
    rig.ask(keys[0])
    server.pause()
    with rig.hurried(TIMEOUT), within(SOON):
        assert rig.ask(keys[1]).tier == "origin"
    rig.clock.advance(2)
    with rig.hurried(TIMEOUT), within(SOON):
        assert rig.ask(keys[2]).tier == "origin"  # a new connection: the kernel accepts it
    assert rig.errors == {"timeout": 2}
    server.resume()
    rig.clock.advance(5)
    assert [rig.ask(key).value for key in keys[3:]] == keys[3:]
    assert rig.recovers()


def test_a_hanging_reply(rig: Rig, proxy: FaultProxy) -> None:
    """A reply that does not come costs one timeout, and the connection."""
    assert rig.reads_l2()
    proxy.hang()
    with rig.hurried(TIMEOUT), within(SOON):
        assert rig.ask().tier == "origin"
    proxy.ok()
    assert rig.errors == {"timeout": 1}
    assert rig.recovers()
    assert rig.l2.connects == 2


def test_a_black_hole(rig: Rig, proxy: FaultProxy) -> None:
    """F04: a connection that is made and leads nowhere is cut at the timeout."""
    proxy.blackhole()
    with rig.hurried(TIMEOUT), within(SOON):
        assert rig.ask().tier == "origin"
    proxy.ok()
    assert rig.errors == {"timeout": 1}
    assert rig.recovers()


def test_a_dripping_reply(rig: Rig, proxy: FaultProxy) -> None:
    """F05: bytes that come one by one do not prolong a call."""
    key = rig.plant("x" * 1000)
    assert rig.reads_l2()
    proxy.drip(1, 0.02)
    with rig.hurried(TIMEOUT), within(SOON):
        assert rig.ask(key).tier == "origin"
    proxy.ok()
    assert rig.errors == {"timeout": 1}
    assert rig.recovers()


def test_a_handshake_and_a_call_share_one_timeout(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis) -> None:
    """Two replies that come in time each, and not together, are too late."""
    admin.config_set("requirepass", "secret")
    with FaultProxy(server.host, server.port) as proxy:
        rig = rig_of(f"redis://:secret@127.0.0.1:{proxy.port}", f"redis://:secret@127.0.0.1:{server.port}")
        key = rig.plant()
        proxy.latency(0.65)
        with rig.hurried(1):
            assert rig.ask(key).tier == "origin"
        proxy.ok()
        assert rig.errors == {"timeout": 1}
        assert rig.recovers()


def test_all_idle_connections_are_dropped_after_a_timeout(
    rig_of: RigOf, proxy: FaultProxy, valkey: ValkeyServer
) -> None:
    """F09: where one connection died silently so did the others, and they are not tried one after the other."""
    rig = rig_of(f"redis://127.0.0.1:{proxy.port}", valkey.url)
    proxy.hang()
    threads = [threading.Thread(target=rig.ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: proxy.open_connections == 4)
    proxy.ok()
    for thread in threads:
        thread.join()
    assert proxy.open_connections == 4
    proxy.hang()
    with rig.hurried(TIMEOUT):
        assert rig.ask().tier == "origin"
    wait_until(lambda: proxy.open_connections == 1)  # the proxy holds on to the reply that it is to give on one of them
    proxy.ok()
    assert rig.recovers()


def test_sixteen_threads_on_a_frozen_server(rig_of: RigOf, server: ValkeyServer) -> None:
    """All of them get on in time, and the pause is that of one failure."""
    rig = rig_of(server.url)
    assert rig.reads_l2()
    server.pause()
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(rig.ask().tier)) for _ in range(16)]
    with rig.hurried(TIMEOUT), within(5 * SOON), pause_of(1) as pause:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == ["origin"] * 16
    assert set(rig.errors) == {"timeout"}
    server.resume()
    rig.clock.advance(pause())
    assert rig.reads_l2()


def test_the_pause_begins_when_a_call_has_failed(rig_of: RigOf, server: ValkeyServer) -> None:
    """Were it counted from when the call began, one that hangs for longer would be followed by the next that hangs."""
    rig = rig_of(server.url)
    assert rig.reads_l2()
    server.pause()
    with rig.hurried(1.5), pause_of(1) as pause:
        assert rig.ask().tier == "origin"
    for seconds in (0.0, 1.0, 1.4):
        rig.clock.advance(seconds)
        assert rig.ask().tier == "origin"
    assert (rig.errors, rig.l2.breaker) == ({"timeout": 1}, "open")
    server.resume()
    rig.clock.advance(pause())
    assert rig.reads_l2()


def test_a_paused_server(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis) -> None:
    """F27: CLIENT PAUSE of all commands is as a freeze."""
    rig = rig_of(server.url)
    with admin.monitor() as watching:  # to whom no pause applies
        admin.execute_command("CLIENT", "PAUSE", 600_000, "ALL")
        with rig.hurried(TIMEOUT):
            assert rig.ask().tier == "origin"
        watching.connection.send_command("CLIENT", "UNPAUSE")
        admin.ping()  # waits for the end of the pause
    assert rig.errors == {"timeout": 1}
    assert rig.recovers()


def test_a_server_whose_writes_are_paused_while_they_hit(
    rig_of: RigOf, server: ValkeyServer, admin: redis.Redis
) -> None:
    """F27: CLIENT PAUSE of writes leaves the reads alone."""
    rig = rig_of(server.url)
    keys = [rig.plant() for _ in range(4)]
    assert rig.ask(keys[0]).tier == "l2"
    admin.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    assert [rig.ask(key).tier for key in keys[1:]] == ["l2"] * 3
    assert rig.errors == {}


def test_a_server_whose_writes_are_paused_while_they_miss(
    rig_of: RigOf, server: ValkeyServer, admin: redis.Redis
) -> None:
    """F27: the lease for what is not there costs one timeout; then the reads go on, while the pause lasts."""
    rig = rig_of(server.url)
    keys = [rig.plant() for _ in range(4)]
    assert rig.reads_l2()
    assert rig.ask().tier == "origin"
    admin.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    with rig.hurried(TIMEOUT), pause_of(1) as pause:
        assert rig.ask().tier == "origin"
    assert rig.errors == {"timeout": 1}
    rig.clock.advance(pause())
    assert [rig.ask(key).tier for key in keys] == ["l2"] * 4
    assert rig.errors == {"timeout": 1}


def test_a_cold_container_at_a_server_whose_writes_are_paused(
    rig_of: RigOf, server: ValkeyServer, admin: redis.Redis
) -> None:
    """F27: the first call costs one timeout; then the reads go on, while the pause lasts."""
    rig = rig_of(server.url)
    keys = [rig.plant() for _ in range(4)]
    admin.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    with rig.hurried(TIMEOUT):
        assert rig.ask(keys[0]).tier == "origin"
    rig.clock.advance(2)
    assert [rig.ask(key).tier for key in keys[1:]] == ["l2"] * 3
    assert rig.errors == {"timeout": 1}


# Broken


def test_a_reset_on_reply(rig: Rig, proxy: FaultProxy) -> None:
    """F08: the one reconnect is reset too, and that is all."""
    assert rig.reads_l2()
    proxy.reset()
    assert rig.ask().tier == "origin"
    proxy.ok()
    assert rig.errors == {"reset": 1}
    assert proxy.accepted == 2
    assert rig.recovers()


def test_idle_connections_that_were_closed(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis) -> None:
    """F10: what the server closed while it idled is replaced in the same call, with one reconnect and no failure."""
    rig = rig_of(server.url)
    assert rig.reads_l2()
    admin.client_kill_filter(_type="normal", skipme=True)
    key = rig.plant()
    assert rig.ask(key).tier == "l2"
    assert (rig.errors, rig.l2.connects) == ({}, 2)


def test_idle_connections_that_were_reset(rig: Rig, proxy: FaultProxy) -> None:
    """The same, where it was cut off on the way."""
    assert rig.reads_l2()
    proxy.kill_all()
    wait_until(lambda: proxy.open_connections == 0)
    assert rig.reads_l2()
    assert (rig.errors, rig.l2.connects) == ({}, 2)


def test_a_connection_that_idled_for_long_is_not_trusted(rig: Rig, proxy: FaultProxy) -> None:
    """After a minute of wall-clock time, which a freeze may have been, a connection is closed unused."""
    assert rig.reads_l2()
    rig.clock.freeze(61)
    proxy.hang()  # whatever is sent over the old connection would wait
    proxy.ok()
    assert rig.reads_l2()
    assert (rig.errors, rig.l2.connects) == ({}, 2)


def test_a_clock_that_steps_back_a_little_costs_no_connection(rig: Rig) -> None:
    """Two threads' looks at the clock are in no order, and that is no reason to connect anew."""
    assert rig.reads_l2()
    rig.clock.step(-0.5)
    assert rig.reads_l2()
    assert rig.l2.connects == 1


def test_a_reply_cut_at_every_offset(rig: Rig, proxy: FaultProxy) -> None:
    """F11: wherever a reply ends too early it is a miss, and never a part of a value."""
    key = rig.plant("some value")
    whole = len("$113\r\n") + 113 + 2
    values = []
    for offset in range(whole):
        rig.cache.delete(key)
        rig.planter.set(key, "some value")
        proxy.truncate(offset)
        values.append(rig.ask(key).value)
        proxy.ok()
        rig.clock.advance(61)
    assert set(values) == {"loaded"}
    assert rig.errors == {"reset": whole}
    assert rig.recovers()


def test_garbage_in_place_of_a_reply(rig: Rig, proxy: FaultProxy) -> None:
    """F12: random bytes are no answer, and end the connection."""
    key = rig.plant("some value" * 50)
    assert rig.reads_l2()
    proxy.garbage()
    with rig.hurried(TIMEOUT), within(SOON):
        assert rig.ask(key).tier == "origin"
    proxy.ok()
    assert sum(rig.errors.values()) == 1
    assert set(rig.errors) <= {"protocol", "timeout", "reset"}
    assert rig.recovers()


def test_flipped_bits(rig_of: RigOf, proxy: FaultProxy, valkey: ValkeyServer) -> None:
    """F13: with any bit of a reply flipped, the value is right or it is a miss, and so is the next one."""
    rig = rig_of(f"redis://127.0.0.1:{proxy.port}", valkey.url)
    key = rig.plant("some value")
    store, planted = rig.tier.bind("test"), rig.plant()
    bits = [*range(8 * 8), *range(8 * 8, 8 * 121, 3)]
    for bit in bits:
        proxy.flip(bit)
        with rig.hurried(0.1):  # a length that was made greater is waited for
            flipped = store.read(key, rig.clock(), None).entry
        assert flipped is None or flipped.value == "some value", bit
        proxy.ok()
        rig.planter.set(key, "some value")
        rig.clock.advance(61)
        rig.planter.set(planted, planted)
        found = store.read(planted, rig.clock(), None).entry
        assert found is not None, bit
        assert found.value == planted, bit
    stats = store.stats(rig.clock())
    assert stats.unreadable["checksum"] > 0
    assert stats.unreadable["header"] > 0
    assert stats.errors["protocol"] > 0


@pytest.mark.parametrize("bit", [0, 14], ids=[";1", ":q"])
def test_a_spoilt_answer_to_a_write_is_counted(rig: Rig, proxy: FaultProxy, bit: int) -> None:
    """A write of which the answer is not the one that is due has not happened for us."""
    store = rig.tier.bind("test")
    entry = store.read(rig.plant(), rig.clock(), None).entry
    assert entry is not None
    lease = leased(store, "key", rig.clock())
    proxy.flip(bit)
    assert store.fill(lease, entry, rig.clock()) is Filled.NOT_KEPT
    assert store.stats(rig.clock()).errors == {"protocol": 1}


@pytest.mark.parametrize("bit", [4, 0], ids=["*0", ";0"])
def test_a_spoilt_answer_to_a_deletion_is_counted(rig: Rig, proxy: FaultProxy, bit: int) -> None:
    """Nor has a deletion."""
    store = rig.tier.bind("test")
    assert delete(store, "key", now=rig.clock())
    proxy.flip(bit)
    assert not delete(store, "key", now=rig.clock())
    assert store.stats(rig.clock()).errors == {"protocol": 1}


def test_an_answer_of_another_kind(rig_of: RigOf, valkey: ValkeyServer) -> None:
    """A number in place of an entry is nothing of ours."""
    with ScriptedServer(b":1\r\n") as scripted:
        rig = rig_of(f"redis://127.0.0.1:{scripted.port}", valkey.url)
        assert rig.cache.get("key", None) is None
        assert rig.l2.unreadable == {"not_ours": 1}
        rig.cache.close()


def test_an_answer_of_another_kind_to_a_lease(rig_of: RigOf, valkey: ValkeyServer) -> None:
    """A number in place of a value and a lease is counted, and nobody is waited for."""
    with ScriptedServer(b":1\r\n") as scripted:
        rig = rig_of(f"redis://127.0.0.1:{scripted.port}", valkey.url)
        with rig.cache.invocation(lambda: 80.0):  # of which L2 has a quarter, and a wait would take half
            assert rig.ask().tier == "origin"
        assert set(rig.errors) == {"protocol"}
        assert rig.cache.stats().origin.waited == 0
        rig.cache.close()


def test_many_keys_at_once_while_l2_is_away(rig: Rig, proxy: FaultProxy) -> None:
    """get_many_or_load loads what it cannot ask for, and neither reads nor writes again until the pause is over."""
    keys = [rig.plant(), rig.plant()]
    proxy.reset()
    for _ in range(2):
        rig.cache.get_many_or_load(keys, lambda missing: dict.fromkeys(missing, "loaded"), force_refresh=True)
        assert rig.cache.get_many_or_load(["new"], lambda missing: dict.fromkeys(missing, 1)) == {"new": 1}
    proxy.ok()
    assert set(rig.errors) == {"reset"}
    assert rig.l2.skipped >= 3
    assert rig.recovers()


def test_one_write_at_a_time_probes_a_full_server(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis) -> None:
    """While one caller tries whether writes are taken again, the others' writes are left out."""
    rig = rig_of(server.url)
    admin.config_set("maxmemory", 1)
    rig.ask()
    rig.clock.advance(1.1)
    assert rig.tier.write_breaker.allows(rig.clock())  # another thread's probe, under way
    skipped = rig.l2.skipped
    assert rig.ask().tier == "origin"
    assert (rig.errors, rig.l2.skipped) == ({"out_of_memory": 1}, skipped + 1)


def test_more_than_was_asked_for(rig_of: RigOf, valkey: ValkeyServer) -> None:
    """Bytes that stand after a reply would be taken for the next one: the connection is given up."""
    with ScriptedServer(b"$-1\r\n+OK\r\n") as scripted:
        rig = rig_of(f"redis://127.0.0.1:{scripted.port}", valkey.url)
        assert rig.cache.get("key", None) is None
        assert set(rig.errors) == {"protocol"}
        rig.cache.close()


def test_an_interrupted_call_leaves_no_reply_behind(
    rig: Rig, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D15: after a KeyboardInterrupt in the midst of a read, the next read gets its own reply."""
    keys = [rig.plant() for _ in range(3)]
    store = rig.tier.bind("test")
    store.read(keys[0], rig.clock(), None)
    proxy.hang()
    link = rig.tier.link()
    receive = link._receive

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupted(*given: Any) -> Any:
        signal.setitimer(signal.ITIMER_REAL, 0.05)  # only now, so that it comes in this call and not before it
        return receive(*given)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        monkeypatch.setattr(link, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.read(keys[1], rig.clock(), None)
        monkeypatch.setattr(link, "_receive", receive)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    proxy.ok()
    found = store.read(keys[2], rig.clock(), None).entry
    assert found is not None
    assert found.value == keys[2]


def test_what_the_caller_is_handling_is_not_taken_for_the_cause(rig: Rig, proxy: FaultProxy) -> None:
    """An error that is being handled where the cache is called stands in the context of ours, and is none of ours."""
    assert rig.reads_l2()
    proxy.reset()
    try:
        raise socket.gaierror(socket.EAI_NONAME, "[SSL: CERTIFICATE_VERIFY_FAILED] NOAUTH LOADING")
    except OSError:
        rig.ask()
    proxy.ok()
    assert rig.errors == {"reset": 1}


# Refused


def test_too_many_clients(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis) -> None:
    """F16: a full server is a class of its own, and connections that are there are kept."""
    rig = rig_of(server.url)
    assert rig.reads_l2()
    clients = admin.info("clients")["connected_clients"]
    admin.config_set("maxclients", clients)
    other = rig_of(server.url)
    assert other.ask().tier == "origin"
    assert sum(other.errors.values()) == 1
    assert set(other.errors) <= {"too_many_clients", "reset"}
    assert rig.reads_l2()
    admin.config_set("maxclients", 1000)
    assert other.recovers()
    assert rig.l2.connects == 1


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:{}", "redis://:hunter2@127.0.0.1:{}", "redis://u:hunter2@127.0.0.1:{}"]
)
def test_wrong_credentials(
    url: str, rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """F32: only people can mend it: a minute's pause, a counter, one line at the level of an error."""
    admin.config_set("requirepass", "right")
    rig = rig_of(url.format(server.port), f"redis://:right@127.0.0.1:{server.port}")
    rig.ask()
    rig.clock.advance(59)
    rig.ask()
    assert rig.errors == {"auth": 1}
    rig.clock.advance(2)
    rig.ask()
    assert rig.errors == {"auth": 2}
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "auth (the credentials were refused)" in caplog.text
    assert "hunter2" not in caplog.text
    if "hunter2" not in url:
        admin.config_set("requirepass", "")
        rig.clock.advance(61)
        rig.ask()
        assert rig.l2.breaker == "closed"


def test_a_password_that_was_rotated(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis) -> None:
    """F32: open connections go on; once they are cut, the old password is refused."""
    admin.execute_command("ACL", "SETUSER", "reader", "on", ">old", "~*", "+@all")
    rig = rig_of(f"redis://reader:old@127.0.0.1:{server.port}", server.url)
    assert rig.reads_l2()
    admin.execute_command("ACL", "SETUSER", "reader", "resetpass", ">new")
    assert rig.reads_l2()
    admin.execute_command("CLIENT", "KILL", "USER", "reader")
    assert rig.ask().tier == "origin"
    assert rig.errors == {"auth": 1}


def test_keys_that_the_user_may_not_touch(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis) -> None:
    """F33: a read that is forbidden is counted, paused for long, and 'could not be asked' rather than 'not there'."""
    admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~tc1:*", "+@all")
    rig = rig_of(f"redis://reader:pw@127.0.0.1:{server.port}", server.url)
    key = rig.plant()
    assert rig.ask(key).tier == "l2"
    admin.execute_command("ACL", "SETUSER", "reader", "resetkeys", "~other:*")
    rig.clock.advance(61)
    answer = rig.ask(key)
    assert (answer.value, answer.reason) == (key, Reason.UNCONFIRMED)
    assert (rig.errors, rig.l2.breaker) == ({"permission": 2}, "open")
    admin.execute_command("ACL", "SETUSER", "reader", "resetkeys", "~tc1:*")
    assert rig.recovers()


def test_a_user_who_may_only_read(
    rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """A write that is forbidden ends the writes, and the reads go on."""
    admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~tc1:*", "+@read")
    rig = rig_of(f"redis://reader:pw@127.0.0.1:{server.port}", server.url)
    assert rig.cache.warm_up()
    for _ in range(3):
        assert rig.ask().tier == "origin"
        assert rig.reads_l2()
    assert (rig.errors, rig.l2.writes, rig.l2.skipped) == ({"permission": 1}, 0, 6)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "is read only for now: permission" in caplog.text


@pytest.mark.parametrize("rest", ["/99", "?client_name=a%20b"])
def test_an_address_that_the_server_refuses(rest: str, rig_of: RigOf, server: ValkeyServer) -> None:
    """A database that is not there, or a name with a space, is found out once and not at every call."""
    rig = rig_of(server.url.removesuffix("/0") + rest, server.url)
    assert rig.ask().tier == "origin"
    rig.clock.advance(59)
    assert rig.ask().tier == "origin"
    assert rig.errors == {"handshake": 1}


def test_a_server_that_does_not_know_what_reads(
    rig_of: RigOf, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is left alone, and the log says why; it says no key."""
    with ScriptedServer(b"-ERR unknown command 'GET', with args beginning with: 'tc1:{test|secret}'\r\n") as scripted:
        rig = rig_of(f"redis://127.0.0.1:{scripted.port}", valkey.url)
        for _ in range(10):
            assert rig.ask("secret").tier in ("origin", "l1")
            rig.cache.get_many_or_load(["a", "secret"], lambda keys: dict.fromkeys(keys, 1), force_refresh=True)
        assert (set(rig.errors), rig.l2.breaker) == ({"unknown_command"}, "open")
        rig.clock.advance(50)
        counted = rig.errors
        rig.ask()
        assert rig.errors == counted
        rig.cache.close()
    assert "it is a Sentinel" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert len(caplog.records) <= 2  # of writes, and of all
    assert "secret" not in caplog.text


def test_a_server_whose_scripts_are_renamed(
    rig_of: RigOf, server: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that only writes need: reads go on, as they do for who may not write."""
    rig = rig_of(server.url)
    assert rig.reads_l2()
    monkeypatch.setattr(Script, "__call__", lambda *_: (b"EVALSH", b"", b"1", b"tc1:{test|}:log"))
    for _ in range(3):
        assert rig.ask().tier == "origin"
    monkeypatch.undo()
    assert (rig.errors, rig.reads_l2(), rig.l2.breaker) == ({"unknown_command": 1}, True, "closed")


def test_a_log_of_another_type_is_said_once(
    rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """No breaker opens for it, and each look fails."""
    rig = rig_of(server.url)
    admin.set("tc1:{test|}:marks", "of somebody else")
    for _ in range(3):
        rig.ask()
        rig.clock.advance(2)
    assert rig.l2.look_failures >= 3
    said = [record.getMessage() for record in caplog.records]
    assert said == ["the log of invalidations in L2 cannot be read: the error WRONGTYPE"]


# Writes alone


def test_a_server_out_of_memory(
    rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """F21: reads go on, writes are dropped, counted and not tried at every call; a deletion waits until it can be told."""
    rig = rig_of(server.url)
    keys = [rig.plant() for _ in range(3)]
    admin.config_set("maxmemory", 1)
    for key in keys:
        assert rig.ask().tier == "origin"
        assert rig.ask(key).tier == "l2"
    assert (rig.errors, rig.l2.breaker, rig.l2.skipped, rig.l2.writes) == ({"out_of_memory": 1}, "closed", 5, 0)
    with pytest.raises(InvalidationNotDelivered):
        rig.cache.delete(keys[0])
    assert admin.exists(f"tc1:{{test|{keys[0]}}}") == 0
    assert rig.l2.undelivered == 1
    admin.config_set("maxmemory", 0)
    rig.clock.advance(1.1)
    assert rig.ask().tier == "origin"
    assert (rig.l2.writes, rig.l2.undelivered) == (1, 0)
    hint = "out_of_memory (the server is full and its maxmemory-policy evicts nothing: use volatile-lru)"
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"L2 {server.url} is read only for now: {hint}"]


def test_a_replica(
    rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, nobody: int, caplog: pytest.LogCaptureFixture
) -> None:
    """F23: reads go on, each refused write makes the connection anew, and as a primary it takes writes again."""
    caplog.set_level(logging.INFO)
    rig = rig_of(server.url)
    key = rig.plant()
    rig.ask()
    admin.replicaof("127.0.0.1", str(nobody))
    assert rig.ask().tier == "origin"
    assert rig.ask(key).tier == "l2"
    assert (rig.errors, rig.l2.breaker, rig.l2.connects) == ({"read_only": 1}, "closed", 2)
    admin.replicaof("NO", "ONE")
    rig.clock.advance(1.1)
    assert rig.ask().tier == "origin"
    assert rig.l2.writes == 2
    words = ["read only" in record.getMessage() for record in caplog.records]
    assert words == [True, False]
    assert "takes writes again" in caplog.text


def test_a_primary_without_its_replicas(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis) -> None:
    """F24: NOREPLICAS is a matter of writes."""
    rig = rig_of(server.url)
    key = rig.plant()
    admin.config_set("min-replicas-to-write", 1)
    rig.ask()
    assert rig.ask(key).tier == "l2"
    assert (rig.errors, rig.l2.breaker) == ({"no_writes": 1}, "closed")


# Not ready


def test_a_replica_without_its_primary(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis, nobody: int) -> None:
    """F24: MASTERDOWN says nothing of what L2 holds: a fresh value in L1 is served unconfirmed."""
    rig = rig_of(server.url)
    key = rig.plant()
    rig.ask(key)
    admin.config_set("replica-serve-stale-data", "no")
    admin.replicaof("127.0.0.1", str(nobody))
    rig.clock.advance(61)
    assert rig.ask(key).reason is Reason.UNCONFIRMED
    assert rig.errors == {"not_ready": 2}
    admin.replicaof("NO", "ONE")
    assert rig.recovers()


def test_a_busy_script(rig_of: RigOf, server: ValkeyServer, admin: redis.Redis) -> None:
    """F25: a server that is busy with a script is left alone, the script too."""
    rig = rig_of(server.url)
    assert rig.reads_l2()
    admin.config_set("busy-reply-threshold", 1)
    running = threading.Thread(target=_run_for_ever, args=(server.port,))
    running.start()

    def busy() -> bool:
        try:
            admin.ping()
        except redis.ResponseError:
            return True
        return False

    wait_until(busy)
    assert rig.ask().tier == "origin"
    assert busy()
    assert rig.errors == {"not_ready": 1}
    admin.script_kill()
    running.join()
    assert rig.recovers()


def _run_for_ever(port: int) -> None:
    with redis.Redis(port=port, socket_timeout=None) as client, pytest.raises(redis.ResponseError):
        client.eval("while true do end", 0)


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (b"-LOADING the dataset in memory", "not_ready"),
        (b"-MASTERDOWN Link with MASTER is down", "not_ready"),
        (b"-BUSY running a script", "not_ready"),
        (b"-CLUSTERDOWN Hash slot not served", "not_ready"),
        (b"-TRYAGAIN later", "not_ready"),
        (b"-MOVED 866 10.0.0.1:6379", "cluster"),
        (b"-DENIED Redis is running in protected mode", "permission"),
        (b"-NOPERM this user", "permission"),
        (b"-NOAUTH Authentication required.", "auth"),
        (b"-WRONGPASS invalid", "auth"),
        (b"-ERR max number of clients reached", "too_many_clients"),
        (b"-ERR something else NOAUTH LOADING SSL", "reply"),
        (b"-WRONGTYPE Operation against a key", "reply"),
        (b"-ERR unknown command 'GET', with args beginning with: 'key'", "unknown_command"),
        (b"-ERR Error running script: Unknown Redis command called from Lua script", "unknown_command"),
        (b"HTTP/1.1 400 Bad Request", "protocol"),
        (b"$ten", "protocol"),
        (b"*1000000000", "timeout"),
    ],
)
def test_an_error_reply_has_its_class(reply: bytes, failure: str, rig_of: RigOf, valkey: ValkeyServer) -> None:
    """An error reply to a read is a miss under a counter of its own; the breaker opens if it is the server's matter."""
    with ScriptedServer(reply + b"\r\n") as scripted:
        rig = rig_of(f"redis://127.0.0.1:{scripted.port}", valkey.url)
        with rig.hurried(TIMEOUT) if failure == "timeout" else nullcontext():
            assert [rig.ask().tier for _ in range(2)] == ["origin"] * 2
        assert set(rig.errors) == {failure}
        assert rig.l2.breaker == ("closed" if failure == "reply" else "open")
        rig.cache.close()


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (b"-OOM command not allowed", "out_of_memory"),
        (b"-READONLY You can't write", "read_only"),
        (b"-NOREPLICAS Not enough good replicas", "no_writes"),
        (b"-MISCONF Errors writing to the AOF file", "no_writes"),
    ],
)
def test_a_probe_that_is_answered_closes_the_breaker(
    reply: bytes, failure: str, rig_of: RigOf, valkey: ValkeyServer
) -> None:
    """A server that refuses writes answers: for reads the breaker is closed, whoever found out."""
    with ScriptedServer(b"-LOADING the dataset in memory\r\n") as scripted:
        rig = rig_of(f"redis://127.0.0.1:{scripted.port}", valkey.url)
        store = rig.tier.bind("test")
        assert not delete(store, "key", now=rig.clock())
        scripted.reply = reply + b"\r\n"
        rig.clock.advance(2)
        assert not delete(store, "key", now=rig.clock())
        stats = store.stats(rig.clock())
        assert (stats.errors, stats.breaker) == ({"not_ready": 1, failure: 4}, "closed")
        assert rig.tier.write_breaker.state(rig.clock()) == "open"
        rig.cache.close()


# TLS


def test_tls_with_the_right_authority(rig_of: RigOf, tls: TLSServer, certificate: Path, valkey: ValkeyServer) -> None:
    """rediss:// with the server's authority works, large values too."""
    rig = rig_of(f"rediss://127.0.0.1:{tls.port}?ssl_ca_certs={certificate}.crt", valkey.url, compress_above=None)
    assert rig.reads_l2()
    key = rig.plant(b"x" * 3_000_000)
    assert rig.ask(key).tier == "l2"
    rig.cache.set("large", b"y" * 3_000_000)
    assert rig.planter.get("large") == b"y" * 3_000_000


def test_tls_with_a_wrong_authority(
    rig_of: RigOf, tls: TLSServer, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """F34: a certificate that is not to be trusted is a class of its own; plain text is never tried instead."""
    rig = rig_of(f"rediss://127.0.0.1:{tls.port}", valkey.url)
    assert not rig.reads_l2()
    rig.clock.advance(59)
    assert not rig.reads_l2()
    assert rig.errors == {"tls": 1}
    assert tls.connections == 0  # none got past its handshake
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "certificate authority" in caplog.text


def test_tls_to_a_server_that_speaks_none(
    rig_of: RigOf, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """rediss:// to a plain port is a TLS failure or a reset, and never a plain connection."""
    rig = rig_of(f"rediss://127.0.0.1:{valkey.port}", valkey.url, timeout=TIMEOUT)
    with within(SOON):
        assert not rig.reads_l2()
    assert len(rig.errors) == 1
    assert set(rig.errors) <= {"tls", "reset", "timeout"}
    assert "does the server speak TLS at this port?" in caplog.text


def test_a_tls_handshake_that_is_cut(rig_of: RigOf, valkey: ValkeyServer) -> None:
    """A server that goes away in the midst of a handshake may be back soon: a reset, and no long pause."""
    with ScriptedServer(b"") as scripted:  # what it reads first is no command: it closes
        rig = rig_of(f"rediss://127.0.0.1:{scripted.port}", valkey.url)
        assert not rig.reads_l2()
        assert rig.errors == {"reset": 1}
        rig.cache.close()


def test_plain_text_to_a_server_that_speaks_tls(
    rig_of: RigOf, tls: TLSServer, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """B08: redis:// to a TLS port fails with the hint to write rediss://."""
    rig = rig_of(f"redis://127.0.0.1:{tls.port}", valkey.url, timeout=TIMEOUT)
    with within(SOON):
        assert not rig.reads_l2()
    assert len(rig.errors) == 1
    assert set(rig.errors) <= {"tls", "reset", "timeout", "protocol"}
    assert "rediss://" in caplog.text


def test_a_tls_connection_that_is_cut(rig_of: RigOf, tls: TLSServer, certificate: Path, valkey: ValkeyServer) -> None:
    """What breaks later is a reset as without TLS: replaced if it idled, no reason for a long pause."""
    with FaultProxy("127.0.0.1", tls.port) as proxy:
        rig = rig_of(f"rediss://127.0.0.1:{proxy.port}?ssl_ca_certs={certificate}.crt", valkey.url)
        assert rig.reads_l2()
        proxy.kill_all()
        wait_until(lambda: proxy.open_connections == 0)
        assert rig.reads_l2()
        assert (rig.errors, rig.l2.connects) == ({}, 2)
        proxy.drip(1, 0.02)
        key = rig.plant("x" * 2000)
        with rig.hurried(TIMEOUT), within(SOON):
            assert rig.ask(key).tier == "origin"
        assert rig.errors == {"timeout": 1}
        proxy.ok()
        assert rig.recovers()


def test_a_host_whose_name_sounds_like_tls(
    rig_of: RigOf, valkey: ValkeyServer, nobody: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Failures are told apart by their kind and not by words in their text."""
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _host, *rest: resolve("127.0.0.1", *rest))
    rig = rig_of(f"redis://ssl-certificate.LOADING.example:{nobody}", valkey.url)
    rig.ask()
    assert rig.errors == {"refused": 1}


# A process and its children


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_with_an_open_connection(rig_of: RigOf, valkey: ValkeyServer) -> None:
    """Parent and child go on with connections of their own, and both get what is theirs."""
    rig = rig_of(valkey.url)
    keys = [rig.plant() for _ in range(40)]
    assert rig.reads_l2()
    rig.planter.close()
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            right = sum(rig.ask(key).tier == "l2" and rig.ask(key).value == key for key in keys[:20])
            os.write(into, bytes([right, rig.l2.connects]))
        finally:
            os._exit(0)
    assert [rig.ask(key).value for key in keys[20:]] == keys[20:]
    os.waitpid(child, 0)
    assert tuple(os.read(out, 2)) == (20, 2)
    os.close(out)
    os.close(into)
    assert [rig.ask(key).value for key in keys] == keys
    assert (rig.errors, rig.l2.connects) == ({}, 1)


# What is said of it


def test_one_line_for_each_change_of_state(rig: Rig, proxy: FaultProxy, caplog: pytest.LogCaptureFixture) -> None:
    """However many calls fail: one line when L2 is left alone, and one when it answers again."""
    caplog.set_level(logging.DEBUG, "tiered_cache")
    rig.ask()
    proxy.reset()
    for _ in range(5):
        for _ in range(5):
            rig.ask()
        rig.clock.advance(31)
    proxy.ok()
    for _ in range(5):
        rig.ask()
    place = f"L2 redis://127.0.0.1:{proxy.port}"
    tls = "does the URL begin with rediss://, and does the server speak TLS at this port?"
    hint = f"reset (the connection was closed (or only one side speaks TLS: {tls}))"
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines == [("WARNING", f"{place} is left alone for now: {hint}"), ("INFO", f"{place} answers again")]


def test_a_timeout_in_connecting_is_one_whatever_came_after() -> None:
    """What redis-py stumbles over while it handles a timeout does not hide it."""
    from tiered_cache._l2.faults import Failure, classify_connecting

    error = AttributeError("host")  # a unix socket has none
    error.__context__ = TimeoutError()
    assert classify_connecting(error).failure is Failure.TIMEOUT


def test_a_call_on_a_link_raises_unavailable_alone() -> None:
    """Whatever goes wrong in making a connection, a link's caller sees one kind of error, and of which class it is."""
    from tiered_cache._l2.faults import Failure, Unavailable

    for error, failure in ((MemoryError(), Failure.MEMORY), (ArithmeticError(), Failure.PROTOCOL)):

        def make(error: Exception = error) -> Any:
            raise error

        with pytest.raises(Unavailable) as caught:
            Link(make, 20).call([(b"GET", b"key")], 0)
        assert caught.value.failure is failure
