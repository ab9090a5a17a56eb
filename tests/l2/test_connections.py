"""Connections over the life of a container: how many there are, and what a freeze, a snapshot or a fork does to them."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import ref

import pytest
import redis
from rig import Rig, TLSServer, leased, pause_of, wait_until, within

from tiered_cache import MemoryTier, NotFound, RedisTier, TieredCache
from tiered_cache._l2.faults import Failure
from tiered_cache._reply import Lease
from tiered_cache.aws_lambda import lambda_handler
from tiered_cache.local.cluster import ValkeyCluster
from tiered_cache.local.proxy import FaultProxy
from tiered_cache.local.valkey import ask
from tiered_cache.testing import InMemorySharedTier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tiered_cache.interfaces import SharedStore
    from tiered_cache.local.valkey import ValkeyServer
    from tiered_cache.testing import FakeClock

    RigOf = Callable[..., Rig]

TIMEOUT = 0.5
"""Seconds after which a call ends that nothing answers."""
HOUR = 3600.0


def spoil(proxy: FaultProxy, server: ValkeyServer, how: str) -> None:
    """End what is open now by FIN or by RST, or let it lead nowhere; new connections are served."""
    if how == "half-open":
        proxy.forget_all()
    elif how == "fin":
        ask(server.port, "CLIENT KILL TYPE normal SKIPME yes")
    else:
        proxy.kill_all()


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    """Six nodes that hold still."""
    with ValkeyCluster(node_timeout=60_000) as started:
        yield started


@pytest.fixture(params=["plain", "tls"])
def lined(
    request: pytest.FixtureRequest, rig_of: RigOf, valkey: ValkeyServer, certificate: Path
) -> Iterator[tuple[Rig, FaultProxy]]:
    """A cache at the end of a line that can be spoilt, with TLS on it or without."""
    with ExitStack() as stack:
        if request.param == "tls":
            tls = stack.enter_context(TLSServer(certificate, valkey.port))
            proxy = stack.enter_context(FaultProxy("127.0.0.1", tls.port))
            url = f"rediss://127.0.0.1:{proxy.port}?ssl_ca_certs={certificate}.crt"
        else:
            proxy = stack.enter_context(FaultProxy("127.0.0.1", valkey.port))
            url = f"redis://127.0.0.1:{proxy.port}"
        rig = rig_of(url, valkey.url)
        yield rig, proxy
        rig.cache.close()


FAULTS = ["fin", "reset", "half-open"]


# A thaw


@pytest.mark.parametrize("told", [True, False], ids=["told", "by the clock alone"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_connection_that_died_during_a_freeze_is_not_used(
    lined: tuple[Rig, FaultProxy], valkey: ValkeyServer, fault: str, told: bool
) -> None:
    """Closed, reset or leading nowhere: the first call after a long freeze costs one connect, and no error."""
    rig, proxy = lined
    assert rig.reads_l2()
    spoil(proxy, valkey, fault)
    rig.clock.freeze(HOUR)
    if told:
        rig.tier.bind("test").thawed(rig.clock())
        wait_until(lambda: proxy.open_connections == 0)
    with within(TIMEOUT / 2 + 1):
        assert rig.reads_l2()
    assert (rig.l2.connects, proxy.accepted, rig.errors) == (2, 2, {})


@pytest.mark.parametrize("fault", FAULTS)
def test_a_connection_that_died_a_moment_ago(lined: tuple[Rig, FaultProxy], valkey: ValkeyServer, fault: str) -> None:
    """Without a gap a dead one is found out by using it: one connect; a silent one costs one timeout, and no exception."""
    rig, proxy = lined
    assert rig.reads_l2()
    spoil(proxy, valkey, fault)
    rig.clock.advance(1)
    if fault == "half-open":
        with rig.hurried(TIMEOUT), pause_of(1) as pause:
            assert rig.ask(rig.plant()).tier == "origin"
        assert rig.errors == {"timeout": 1}
        rig.clock.advance(pause())
        assert rig.reads_l2()
    else:
        assert rig.reads_l2()
        assert rig.errors == {}
    assert rig.l2.connects == 2


def test_a_connection_that_was_just_used_stays(proxy: FaultProxy, valkey: ValkeyServer, rig_of: RigOf) -> None:
    """A thaw closes only what has idled for long, on the wall clock."""
    rig = rig_of(f"redis://127.0.0.1:{proxy.port}", valkey.url)
    assert rig.reads_l2()
    rig.clock.freeze(1)
    rig.tier.thawed(rig.clock())
    assert rig.reads_l2()
    assert (rig.l2.connects, proxy.open_connections) == (1, 1)


def test_a_clock_that_is_set_back_makes_a_connection_old(
    proxy: FaultProxy, valkey: ValkeyServer, rig_of: RigOf
) -> None:
    """Where its age cannot be told it is not trusted."""
    rig = rig_of(f"redis://127.0.0.1:{proxy.port}", valkey.url)
    store = rig.tier.bind("test")
    store.read("key", 1_000_000, None)
    store.read("key", 900_000, None)
    assert rig.tier.connects == 2


def test_breakers_let_a_call_through_after_a_thaw(
    proxy: FaultProxy, valkey: ValkeyServer, rig_of: RigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed before the freeze is asked again at once, however long the pause; one failure is enough to leave it."""
    rig = rig_of(f"redis://127.0.0.1:{proxy.port}", valkey.url)
    for failure in (Failure.AUTH, Failure.REFUSED):
        rig.tier.breaker.failed(failure, rig.clock())
        rig.tier.write_breaker.failed(failure, rig.clock())
        assert not rig.reads_l2()
        rig.tier.thawed(rig.clock())
        assert rig.l2.breaker == "half-open"
        assert rig.reads_l2()
        assert rig.ask().tier == "origin"
        assert rig.l2.breaker == rig.tier.write_breaker.state(rig.clock()) == "closed"
    assert rig.l2.writes == 2


def test_an_attempt_of_before_a_freeze_is_not_waited_for(
    rig_of: RigOf, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was being resolved when the container froze holds up no connection after the thaw."""
    resolve, asked, answers = socket.getaddrinfo, threading.Event(), threading.Event()

    def hang_once(*given: Any, **options: Any) -> Any:
        if not asked.is_set():
            asked.set()
            answers.wait(60)
        return resolve(*given, **options)

    rig = rig_of(f"redis://localhost:{valkey.port}", valkey.url)
    key = rig.plant()
    monkeypatch.setattr(socket, "getaddrinfo", hang_once)
    with rig.hurried(TIMEOUT):
        assert rig.ask(key).tier == "origin"
    assert rig.errors == {"timeout": 1}
    assert asked.wait(60)  # and none but this attempt is held up
    rig.clock.freeze(HOUR)
    rig.tier.thawed(rig.clock())
    assert rig.reads_l2()
    assert rig.l2.connects == 1
    answers.set()


def test_a_tier_that_was_not_used_yet(rig_of: RigOf, valkey: ValkeyServer) -> None:
    """Nothing to close, and nothing is connected to."""
    rig = rig_of(valkey.url)
    rig.tier.thawed(rig.clock())
    rig.tier.suspend()
    assert (rig.tier._link, rig.tier.connects) == (None, 0)


def test_the_tier_in_memory_has_the_same_methods() -> None:
    """What is called on a thaw and before a snapshot can be called on it."""
    store: SharedStore = InMemorySharedTier(ttl=60).bind("test")
    store.thawed(1.0)
    store.suspend()
    assert store.warm_up(1.0)


# A cluster


@contextmanager
def lines_to(cluster: ValkeyCluster) -> Iterator[tuple[dict[int, FaultProxy], redis.RedisCluster]]:
    """A line to each node, and a client that knows of no other way."""
    with ExitStack() as stack:
        lines = {node.port: stack.enter_context(FaultProxy("127.0.0.1", node.port)) for node in cluster.nodes}
        client = redis.RedisCluster(
            host=cluster.host,
            port=lines[cluster.nodes[0].port].port,
            address_remap=lambda place: (place[0], lines[place[1]].port if place[1] in lines else place[1]),
        )
        yield lines, client
        client.close()


def carried(lines: dict[int, FaultProxy]) -> int:
    return sum(line.open_connections for line in lines.values())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cluster_after_a_freeze(cluster: ValkeyCluster, rig_of: RigOf, fault: str) -> None:
    """Each node that is used costs one connect, no timeout and no error, whatever befell the connections."""
    with lines_to(cluster) as (lines, client):
        rig = rig_of(client, cluster.url)
        client.close()
        wait_until(lambda: carried(lines) == 0)
        keys = [rig.plant() for _ in range(30)]
        assert rig.cache.get_many_or_load(keys, lambda _: {}) == {key: key for key in keys}
        wait_until(lambda: carried(lines) == 3)  # a replica that was asked for the nodes is let go
        before = rig.l2.connects
        for node in cluster.nodes:
            spoil(lines[node.port], node, fault)
        rig.clock.freeze(HOUR)
        rig.tier.thawed(rig.clock())
        wait_until(lambda: carried(lines) == 0)
        keys = [rig.plant() for _ in range(30)]
        assert rig.cache.get_many_or_load(keys, lambda _: {}) == {key: key for key in keys}
        assert (rig.l2.connects - before, rig.errors) == (3, {})
        rig.cache.close()


def test_a_cluster_is_looked_at_anew_after_a_freeze(cluster: ValkeyCluster, rig_of: RigOf) -> None:
    """What was known of it is old: it is asked for its nodes before any is asked for a key."""
    rig = rig_of(cluster.url)
    assert rig.reads_l2()
    link = rig.tier.link()
    for node in list(link._nodes.values()):
        node.breaker.failed(Failure.TIMEOUT, rig.clock())
    wrong = link._node((cluster.host, cluster.nodes[5].port))  # a replica
    link._slots = [wrong] * len(link._slots)  # as after a failover
    asked, call = [], wrong.link.call

    def noted(commands: Any, *rest: Any) -> Any:
        asked.extend(command[0] for command in commands)
        return call(commands, *rest)

    wrong.link.call = noted
    rig.clock.freeze(HOUR)
    rig.tier.thawed(rig.clock())
    assert rig.reads_l2()
    assert asked in ([], [b"CLUSTER"])
    assert rig.errors == {}


def test_the_nodes_in_use_are_asked_first(cluster: ValkeyCluster, rig_of: RigOf) -> None:
    """For the topology too, which then takes no further connection; among others, and at first, it is a matter of chance."""
    rig = rig_of(f"redis://{cluster.host}:{cluster.nodes[4].port}?cluster=true", cluster.url)  # a replica
    link, now = rig.tier.link(), rig.clock()
    places = [(cluster.host, node.port) for node in cluster.nodes]
    unused = [link._node(place) for place in places]
    assert len({tuple(link._worth_asking(now)) for _ in range(50)}) > 10
    assert rig.reads_l2()
    for place in places:
        link._node(place)
    used = {node for node in unused if node.link.connects and node in link._slots}
    assert used
    assert all(set(link._worth_asking(now)[: len(used)]) == used for _ in range(50))


# Before a snapshot


def test_a_tier_is_suspended(lined: tuple[Rig, FaultProxy]) -> None:
    """No socket is left, nothing is sent, and the next call begins as the first one did."""
    rig, proxy = lined
    assert rig.reads_l2()
    rig.tier.breaker.failed(Failure.TIMEOUT, rig.clock())
    store = rig.tier.bind("test")
    store._strays.append(Lease("key", b"token", 60.0))
    store.suspend()
    wait_until(lambda: proxy.open_connections == 0)
    assert (list(store._strays), rig.l2.breaker, proxy.accepted) == ([], "closed", 1)
    store.suspend()
    assert rig.reads_l2()
    assert (rig.l2.connects, rig.errors) == (2, {})


def test_a_cluster_is_suspended(cluster: ValkeyCluster, rig_of: RigOf) -> None:
    """A copy of the process knows nothing of the nodes: it asks for them anew."""
    with lines_to(cluster) as (lines, client):
        rig = rig_of(client, cluster.url)
        client.close()
        wait_until(lambda: carried(lines) == 0)
        assert rig.reads_l2()
        before = rig.l2.connects
        rig.tier.suspend()
        wait_until(lambda: carried(lines) == 0)
        assert rig.l2.connects == before
        assert rig.tier.link()._slots is None
        assert rig.reads_l2()
        assert (rig.errors, rig.l2.connects > before) == ({}, True)
        rig.cache.close()


def test_a_call_under_way_survives_a_suspension(proxy: FaultProxy, valkey: ValkeyServer, rig_of: RigOf) -> None:
    """It ends as it would have, and its connection is closed then."""
    rig = rig_of(f"redis://127.0.0.1:{proxy.port}", valkey.url)
    key, link, replies = rig.plant(), rig.tier.link(), []
    send, gate, sent = link._send, threading.Event(), threading.Event()

    def held(*given: Any) -> None:
        send(*given)
        sent.set()
        gate.wait(60)

    link._send = held
    call = threading.Thread(target=lambda: replies.append(rig.tier.bind("test").read(key, rig.clock(), None)))
    call.start()
    assert sent.wait(60)
    rig.tier.suspend()
    link._send = send
    gate.set()
    call.join()
    assert replies[0].entry.value == key
    wait_until(lambda: proxy.open_connections == 0)


# A fork


@contextmanager
def forked(act: Callable[[], int]) -> Iterator[Callable[[], int]]:
    """A child process that does `act`, and gives a number from 0 to 200 by it; 255 if it does not end or fails."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # ends a child that hangs
        code = 255
        try:
            code = act()
        finally:
            os._exit(code)
    waited: list[int] = []

    def answer() -> int:
        if not waited:
            waited.append(os.waitpid(child, 0)[1])
        return os.waitstatus_to_exitcode(waited[0]) % 256

    try:
        yield answer
    finally:
        answer()


def in_tests(rig: Rig, keys: list[str]) -> int:
    """How many of the keys L2 has."""
    store = rig.tier.bind("test")
    found = [store.read(key, rig.clock(), None).entry for key in keys]
    return sum(entry is not None and entry.value == key for entry, key in zip(found, keys, strict=True))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("where", ["server", "cluster"])
def test_a_fork_while_another_thread_is_in_mid_call(
    where: str, proxy: FaultProxy, cluster: ValkeyCluster, valkey: ValkeyServer, rig_of: RigOf
) -> None:
    """Parent and child go on, each on connections of its own, and each gets what is its own."""
    planter = valkey.url if where == "server" else cluster.url
    rig = rig_of(f"redis://127.0.0.1:{proxy.port}" if where == "server" else cluster.url, planter, timeout=60)
    keys = [rig.plant() for _ in range(20)]
    assert in_tests(rig, keys) == 20
    link = (
        rig.tier.link()
        if where == "server"
        else next(node.link for node in rig.tier.link()._nodes.values() if node.link.connects)
    )
    receive, gate, waits, replies = link._receive, threading.Event(), threading.Event(), []

    def held(*given: Any) -> Any:
        if not waits.is_set():
            waits.set()
            gate.wait(60)
        return receive(*given)

    link._receive = held
    call = threading.Thread(target=lambda: replies.append(in_tests(rig, keys)))
    call.start()
    assert waits.wait(60)
    with forked(lambda: in_tests(rig, keys)) as child:
        assert in_tests(rig, keys) == 20
        gate.set()
        call.join()
        assert child() == 20
    assert in_tests(rig, keys) == 20
    assert (replies, rig.errors) == ([20], {})


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("where", ["server", "cluster"])
def test_locks_that_a_thread_of_the_parent_holds_do_not_hold_up_the_child(
    where: str, cluster: ValkeyCluster, valkey: ValkeyServer, rig_of: RigOf
) -> None:
    """Whichever lock another thread held at the fork, the child makes its own; the parent's stay as they are."""
    rig = rig_of(valkey.url if where == "server" else cluster.url)
    keys = [rig.plant() for _ in range(5)]
    assert in_tests(rig, keys) == 5
    link, tier = rig.tier.link(), rig.tier
    locks = [tier.link_lock, tier.breaker._lock, tier.write_breaker._lock]
    if where == "server":
        locks.append(link._connecting)
    else:
        locks += [link._looking, link._nodes_lock]
        for node in link._nodes.values():
            locks += [node.link._connecting, node.breaker._lock]
    held, gate = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            gate.wait(60)

    def act() -> int:
        tier.breaker.failed(Failure.RESET, rig.clock())
        tier.thawed(rig.clock())
        leased(tier.bind("test"), "key", rig.clock())
        return in_tests(rig, keys)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    with forked(act) as child:
        assert child() == 5
    gate.set()
    holder.join()
    assert in_tests(rig, keys) == 5
    assert rig.errors == {}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_waits_for_an_import_of_redis(
    valkey: ValkeyServer, rig_of: RigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the child the lock of a module that is half imported would be held for ever."""
    monkeypatch.setattr("tiered_cache._l2.tier.IMPORTING", 60.0)
    rig = rig_of(valkey.url)
    key, tier = rig.plant(), rig.tier
    gate, importing = threading.Event(), threading.Event()

    def link(timeout: float) -> Any:
        importing.set()
        gate.wait(60)
        return address.link(timeout)

    address = tier.address
    tier.address = SimpleNamespace(link=link, shown=address.shown)
    imports = threading.Thread(target=tier.link)
    imports.start()
    assert importing.wait(60)
    threading.Timer(0.1, gate.set).start()
    with forked(lambda: tier.has_link and in_tests(rig, [key])) as child:
        assert child() == 1
    imports.join()
    assert in_tests(rig, [key]) == 1
    with forked(lambda: in_tests(rig, [key])) as child:
        assert child() == 1
    fresh = RedisTier(valkey.url, ttl=60)
    with forked(lambda: not fresh.has_link) as child:
        assert child() == 1
    assert not fresh.link_lock.locked()


def test_a_tier_that_is_gone_is_not_remembered_for_forks() -> None:
    """What is to be done in children holds no tier."""
    import gc

    from tiered_cache._l2.tier import _TIERS

    tier = RedisTier("redis://cache", ttl=60)
    assert tier in _TIERS
    remembered = ref(tier)
    del tier
    gc.collect()
    assert remembered() is None


# One connection for a container's life


def commands_at(port: int) -> dict[str, int]:
    """How often each command was called at the server, since `CONFIG RESETSTAT`; what this asks is left out."""
    calls: dict[str, int] = {}
    for line in ask(port, "INFO commandstats").splitlines():
        if line.startswith("cmdstat_"):
            name, _, facts = line.removeprefix("cmdstat_").partition(":")
            calls[name] = int(facts.partition(",")[0].removeprefix("calls="))
    return {name: count for name, count in calls.items() if name not in ("info", "config|resetstat", "client|list")}


def clients_at(port: int) -> set[str]:
    """The connections of others that are open at the server."""
    lines = ask(port, "CLIENT LIST TYPE normal").splitlines()
    return {
        line.partition("addr=")[2].partition(" ")[0]
        for line in lines
        if line.startswith("id=") and "cmd=client" not in line
    }


def test_a_container_makes_one_connection_in_its_life(server: ValkeyServer, clock: FakeClock) -> None:
    """A hundred invocations that hit, miss, fail, invalidate and carry what cannot be carried: one socket for all."""
    tier = RedisTier(
        server.url, ttl=40, stale_while_revalidate=20, stale_if_error=60, timeout=20, max_value_bytes="10 KiB"
    )
    cache = TieredCache(
        MemoryTier(ttl=5, jitter=0), tier, namespace="life", clock=clock, negative_ttl=5, refresh="inline"
    )

    def fails() -> None:
        raise OSError("the origin is away")

    def missing() -> None:
        raise NotFound

    @lambda_handler(cache)
    def handler(event: int, context: object) -> None:
        cache.get_or_load("steady", lambda: event)
        cache.get_or_load(f"new-{event}", lambda: "x" * 100, tags=("all",))
        cache.get_many_or_load([f"new-{event - 1}", f"many-{event}"], lambda keys: dict.fromkeys(keys, 1))
        for loader in (fails, missing):
            with suppress(OSError, NotFound):
                cache.get_or_load(f"{loader.__name__}-{event}", loader)
        cache.get_or_load(f"large-{event}", lambda: os.urandom(20_000))
        cache.get_or_load(f"exotic-{event}", lambda: object())
        if event % 10 == 0:
            cache.delete(f"new-{event}")
            cache.expire("steady")
            cache.invalidate_tag("all")
        if event % 7 == 0:
            raise ValueError(event)

    assert ask(server.port, "CONFIG RESETSTAT").startswith("+OK")
    seen: set[str] = set()
    for event in range(100):
        with suppress(ValueError):
            handler(event, None)
        clock.advance(event % 30)
        if event % 10 == 9:
            seen |= clients_at(server.port)
    received = int(ask(server.port, "INFO stats").partition("total_connections_received:")[2].split()[0])
    l2 = cache.stats().l2
    assert l2 is not None
    assert (len(seen), l2.connects) == (1, 1)
    assert received == 1 + 10 + 1  # the lists, and this question; resetting is counted by none
    assert (dict(l2.errors), l2.unserializable) == ({"too_large": 100}, 100)
    assert l2.hits > 50
    cache.close()
    wait_until(lambda: clients_at(server.port) == set())


@pytest.mark.parametrize(
    ("address", "greeting"),
    [
        ("redis://127.0.0.1:{}", {}),
        ("redis://app:pw@127.0.0.1:{}", {"auth": 1}),
        ("redis://127.0.0.1:{}/1", {"select": 1}),
        ("redis://app:pw@127.0.0.1:{}/1?client_name=orders&protocol=3", {"auth": 1, "select": 1, "client|setname": 1}),
    ],
)
def test_a_connection_says_no_more_than_it_must(
    address: str, greeting: dict[str, int], server: ValkeyServer, rig_of: RigOf
) -> None:
    """Before the first command come the credentials, if there are any, and what the address asks for; no HELLO, no SETINFO."""
    assert ask(server.port, "ACL SETUSER app on >pw ~tc1:* +@all").startswith("+OK")
    tier = RedisTier(address.format(server.port), ttl=60, timeout=20)
    assert ask(server.port, "CONFIG RESETSTAT").startswith("+OK")
    assert tier.bind("test").read("key", 1.0, None).reached
    assert commands_at(server.port) == greeting | {"get": 1}
    tier.close()


def test_a_cluster_is_begun_with_little(cluster: ValkeyCluster) -> None:
    """One question to one node, and one connection for each node that has what is asked for."""
    for node in cluster.nodes:
        assert ask(node.port, "CONFIG RESETSTAT").startswith("+OK")
    owner = cluster.owner("tc1:{test|key}")
    other = next(node for node in cluster.nodes[:3] if node is not owner)
    for start in (owner, other, cluster.nodes[5]):
        tier = RedisTier(f"{start.url.removesuffix('/0')}?cluster=true", ttl=60, timeout=20)
        assert tier.bind("test").read("key", 1.0, None).reached
        assert tier.connects == 1 + (start is not owner)
        assert all(node.link.ordered for node in tier.link()._nodes.values())
        asked = {
            name: sum(commands_at(node.port).get(name, 0) for node in cluster.nodes)
            for name in ("cluster|slots", "get")
        }
        assert asked == {"cluster|slots": 1, "get": 1}
        if start is cluster.nodes[5]:  # a replica, or a name that leads to any node: nobody needs it any more
            wait_until(lambda: clients_at(start.port) == set())
        tier.close()
        for node in cluster.nodes:
            ask(node.port, "CONFIG RESETSTAT")
