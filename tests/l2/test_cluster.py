"""A cluster as L2: routing, slots that move, nodes that are away. Six real nodes; the slow part is `make faults`."""

from __future__ import annotations

import gc
import logging
import threading
import time
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from load import Load, say
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from rig import STALL, Rig, ScriptedServer, TLSServer, wait_until, within

from tiered_cache import ConfigurationError, MemoryTier, RedisTier, TieredCache
from tiered_cache._l2.address import address_of
from tiered_cache._l2.cluster import ClusterLink
from tiered_cache._l2.faults import Failure, Unavailable
from tiered_cache._l2.link import Link
from tiered_cache._l2.nodes import Aside
from tiered_cache._l2.scripts import Script
from tiered_cache.local import ServiceUnavailable
from tiered_cache.local.cluster import ValkeyCluster, _do, _Node, _wait
from tiered_cache.local.proxy import FaultProxy
from tiered_cache.local.valkey import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tiered_cache.local.valkey import ValkeyServer

TIMEOUT = 0.5
"""Seconds after which a call ends that nothing answers."""
SHARED = 5.0
"""The same where others do answer, which must be in time on a busy machine too."""
PATIENT = 20.0
"""Seconds for a call that all answer."""
HALF = 5.0
"""Seconds for the first of two nodes, of which one is silent, and for the other."""
SOON = TIMEOUT + 1.0
NOW = 1_000.0
BOTH = Script("return redis.call('GET', KEYS[1])")
"""A script of two keys in one slot."""
KEYS = [f"key-{number}" for number in range(90)]
"""The keys of a load."""


def name(key: str) -> str:
    """What L2 knows `key` by, in the rigs' namespace."""
    return f"tc1:{{test|{key}}}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[ValkeyCluster]:
    """Six nodes that hold still: so patient that a frozen node is not replaced."""
    with ValkeyCluster(node_timeout=60_000) as started:
        yield started


@pytest.fixture
def link(cluster: ValkeyCluster) -> Iterator[ClusterLink]:
    made = address_of(cluster.url).link(PATIENT)
    assert isinstance(made, ClusterLink)
    yield made
    made.drop()


@pytest.fixture
def ample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes have SHARED seconds of a call, and the rest is long enough to look what became of them, on any machine."""
    monkeypatch.setattr("tiered_cache._l2.cluster.SHARE", SHARED / PATIENT)


@contextmanager
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """From one step of a call to several nodes to the next no time passes, on whatever machine."""
    now = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr("tiered_cache._l2.cluster.time", SimpleNamespace(monotonic=lambda: now))
        yield


@pytest.fixture
def client(cluster: ValkeyCluster) -> Iterator[redis.RedisCluster]:
    with redis.RedisCluster(host=cluster.host, port=cluster.nodes[0].port) as made:
        yield made


@pytest.fixture
def spread(cluster: ValkeyCluster, client: redis.RedisCluster) -> list[str]:
    """A key on each of the three primaries, with its own name as its value."""
    keys: dict[int, str] = {}
    for number in range(200):
        keys.setdefault(cluster.owner(f"key-{number}").port, f"key-{number}")
        if len(keys) == 3:
            break
    client.flushall()
    for key in keys.values():
        client.set(key, key)
    return list(keys.values())


def gets(keys: Sequence[str]) -> list[tuple[bytes, ...]]:
    return [(b"GET", key.encode()) for key in keys]


def failures(replies: Sequence[Any]) -> list[Failure | None]:
    """What each reply says of itself: None for a value."""
    return [reply.failure if isinstance(reply, Unavailable) else None for reply in replies]


@contextmanager
def paused(*nodes: ValkeyServer) -> Iterator[None]:
    for node in nodes:
        node.pause()
    try:
        yield
    finally:
        for node in nodes:
            node.resume()


@contextmanager
def loaded(cluster: ValkeyCluster, timeout: float) -> Iterator[tuple[TieredCache, Load]]:
    """A cache over `cluster` whose L1 holds next to nothing, and a load on it."""
    tier = RedisTier(cluster.url, ttl="1h", timeout=timeout)
    with TieredCache(MemoryTier(ttl=0.001, jitter=0, max_entries=1), tier, namespace="test") as cache:
        for key in KEYS:
            cache.set(key, key)
        with Load(cache, KEYS) as load:
            load.go_on()
            yield cache, load


# All is well


def test_keys_of_all_slots(cluster: ValkeyCluster, rig_of: Callable[..., Rig]) -> None:
    """Values are written to and read from the nodes that have their slots, one by one and many at once."""
    rig = rig_of(cluster.url)
    assert f"RedisTier({cluster.url}, " in repr(rig.tier)
    keys = [rig.plant() for _ in range(50)]
    assert [rig.ask(key).tier for key in keys[:20]] == ["l2"] * 20
    assert rig.cache.get_many_or_load(keys, lambda _: {}) == {key: key for key in keys}
    assert rig.ask().tier == "origin"
    assert (rig.l2.writes, rig.errors) == (1, {})
    assert 3 <= rig.l2.connects <= 4  # one to each primary, and perhaps one to the replica that was asked for them
    assert {cluster.owner(name(key)).port for key in keys} == {node.port for node in cluster.nodes[:3]}
    rig.cache.delete(keys[0])
    assert rig.ask(keys[0]).tier == "origin"


def test_the_set_tells_who_has_what(cluster: ValkeyCluster) -> None:
    """The nodes of ValkeyCluster are told apart by what they have, also while the first of them is frozen."""
    owner, first = cluster.owner("key"), cluster.nodes[0]
    assert owner in cluster.nodes[:3]
    assert cluster.replica(owner) in cluster.nodes[3:]
    with paused(first):
        assert cluster.owner("key") is owner
    assert f"port={first.port}, running=True" in repr(cluster)
    with pytest.raises(ServiceUnavailable, match="has no replica"):
        cluster.replica(cluster.replica(owner))
    with pytest.raises(ServiceUnavailable, match="answered with '-ERR"):
        _do(first, "CLUSTER ADDSLOTSRANGE 2 1")
    with pytest.raises(ServiceUnavailable, match="did not come true"):
        _wait(lambda: False, "come true", seconds=0.01)


def test_a_cluster_client_gives_its_nodes(
    cluster: ValkeyCluster, client: redis.RedisCluster, rig_of: Callable[..., Rig]
) -> None:
    """The nodes that a redis.RedisCluster knows are asked; one of them suffices."""
    rig = rig_of(client)
    assert "redis.RedisCluster at 127.0.0.1:" in repr(rig.tier)
    assert all(rig.reads_l2() for _ in range(10))
    assert rig.errors == {}


def test_replies_are_in_the_order_of_the_commands(link: ClusterLink, spread: list[str]) -> None:
    """Though the nodes are asked together, and a command may fail where others do not."""
    commands = gets(spread * 2)
    commands.insert(2, (b"INCR", spread[0].encode()))
    replies = link.call(commands, NOW)
    assert failures(replies) == [None, None, Failure.REPLY, None, None, None, None]
    del replies[2]
    assert replies == [key.encode() for key in spread * 2]
    assert not link.ordered


def test_scripts_are_sent_to_the_nodes_that_do_not_know_them(
    cluster: ValkeyCluster, link: ClusterLink, spread: list[str]
) -> None:
    """Each node keeps scripts of its own; a call to all of them with a script that none knows gives what it is to give."""
    for _ in range(2):
        for node in cluster.nodes[:3]:
            ask(node.port, "SCRIPT FLUSH")
        read = [BOTH((key.encode(), b"{%b}lease" % key.encode())) for key in spread]
        assert link.call(read, NOW) == [key.encode() for key in spread]


def test_idle_connections_that_died_are_made_anew(cluster: ValkeyCluster, link: ClusterLink, spread: list[str]) -> None:
    """A call to several nodes takes new connections where the old ones turn out to be dead, in the time that is left."""
    assert link.call(gets(spread), NOW) == [key.encode() for key in spread]
    before = link.connects
    for node in cluster.nodes:
        ask(node.port, "CLIENT KILL TYPE normal SKIPME yes")
    assert link.call(gets(spread), NOW) == [key.encode() for key in spread]
    assert link.connects == before + 3


def test_threads_that_begin_together_look_once(link: ClusterLink, spread: list[str]) -> None:
    """At a cold start the cluster is asked for its nodes by one thread, for which the others wait."""
    looks: list[None] = []
    look = link._look

    def counted(now: float, ends: float) -> Any:
        looks.append(None)
        return look(now, ends)

    link._look = counted  # type: ignore[method-assign]
    start, replies = threading.Barrier(8), []

    def run() -> None:
        start.wait()
        replies.append(link.call(gets(spread), NOW))

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [[key.encode() for key in spread]] * 8
    assert len(looks) == 1


# Where a cluster is


def test_a_cluster_url_for_a_single_server(valkey: ValkeyServer, rig_of: Callable[..., Rig], caplog: Any) -> None:
    """B09: the log says which mode to choose."""
    rig = rig_of(f"{valkey.url}?cluster=true", valkey.url)
    assert rig.ask().tier == "origin"
    assert rig.errors == {"cluster": 1}
    assert "leave out cluster=true" in caplog.text


def test_a_url_of_one_node_for_a_cluster(cluster: ValkeyCluster, rig_of: Callable[..., Rig], caplog: Any) -> None:
    """B09: a tier for one server, before a cluster, is told so by the first key that lies elsewhere."""
    rig = rig_of(cluster.nodes[0].url, cluster.url)
    wait_until(lambda: rig.ask().tier == "origin" and rig.errors != {})
    assert rig.errors == {"cluster": 1}
    assert "add ?cluster=true to the URL, or give a redis.RedisCluster" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache/1?cluster=true",
        "redis://cache?cluster=yes&db=2",
        "unix:///run/valkey.sock?cluster=true",
        "redis://cache?cluster=perhaps",
    ],
)
def test_a_cluster_url_that_cannot_be(url: str) -> None:
    """B07: a cluster has one database, and no socket of the file system."""
    with pytest.raises(ConfigurationError, match="cluster"):
        RedisTier(url, ttl=60)


@pytest.mark.parametrize("url", ["redis://cache/0?cluster=true&db=0", "redis://cache/0?cluster=false"])
def test_number_zero_is_the_database_of_a_cluster(url: str) -> None:
    """Naming it is no mistake."""
    assert ("cluster=true" in repr(RedisTier(url, ttl=60))) is ("cluster=true" in url)


def test_a_cluster_without_slots(rig_of: Callable[..., Rig], valkey: ValkeyServer) -> None:
    """A cluster that is not formed yet is not ready; it is no mistake of the configuration."""
    with _Node(config=("--cluster-enabled", "yes")) as lonely:
        rig = rig_of(f"redis://127.0.0.1:{lonely.port}?cluster=true", valkey.url)
        assert rig.ask().tier == "origin"
        assert rig.errors == {"not_ready": 1}


def test_a_user_who_may_not_ask_for_the_nodes(
    cluster: ValkeyCluster, rig_of: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    """The log says what such a user lacks."""
    for node in cluster.nodes:
        ask(node.port, "ACL SETUSER narrow on >secret ~* +get +set +del")
    rig = rig_of(cluster.url.replace("//", "//narrow:secret@"), cluster.url)
    assert rig.ask().tier == "origin"
    assert rig.errors == {"permission": 1}
    assert "a cluster takes CLUSTER SLOTS too" in caplog.text


@pytest.mark.parametrize(
    "reply",
    [
        b":1\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\n*2\r\n:0\r\n:1\r\n",
        b"*1\r\n*3\r\n:0\r\n:99999\r\n*2\r\n$1\r\nh\r\n:1\r\n",
        b"$-1\r\n",
    ],
)
def test_a_topology_that_is_none(reply: bytes, rig_of: Callable[..., Rig], valkey: ValkeyServer) -> None:
    """What is no list of slots is a failure of the protocol, and not an error of the caller's."""
    with ScriptedServer(reply) as server:
        rig = rig_of(f"redis://127.0.0.1:{server.port}?cluster=true", valkey.url)
        assert rig.ask().tier == "origin"
        assert rig.errors == {"protocol": 1}


def test_a_node_without_a_name_is_where_it_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that does not know its own host names leaves them out. Slots that nobody has are misses, until looked for."""
    monkeypatch.setattr("tiered_cache._l2.cluster.LOOK_EVERY", 0.0)
    slots = b"*1\r\n*3\r\n:0\r\n:%d\r\n*2\r\n$-1\r\n:%d\r\n"
    with ScriptedServer(b"") as server:
        server.reply = slots % (8000, server.port)
        link = address_of(f"redis://localhost:{server.port}?cluster=true").link(PATIENT)
        assert isinstance(link, ClusterLink)
        replies = link.call([(b"GET", b"bar"), (b"GET", b"foo")], NOW)  # slots 5061 and 12182
        assert failures(replies) == [None, Failure.NODE]
        assert list(link._nodes) == [("localhost", server.port)]
        server.reply = slots % (16383, server.port)
        assert failures(link.call([(b"GET", b"bar"), (b"GET", b"foo")], NOW)) == [None, None]
        link.drop()


@contextmanager
def remapped(
    cluster: ValkeyCluster, before: Callable[[ValkeyServer], Any], **options: Any
) -> Iterator[tuple[Any, Any]]:
    """A cluster client that reaches each node by what `before` puts before it, and these by the nodes' ports."""
    with ExitStack() as stack:
        fronts = {node.port: stack.enter_context(before(node)) for node in cluster.nodes}
        made = redis.RedisCluster(
            host=cluster.host,
            port=fronts[cluster.nodes[0].port].port,
            address_remap=lambda place: (place[0], getattr(fronts.get(place[1]), "port", place[1])),
            **options,
        )
        with made:
            made.disconnect_connection_pools()
            yield made, fronts
    gc.collect()


def test_a_cluster_behind_tls_and_other_addresses(
    cluster: ValkeyCluster, certificate: Path, rig_of: Callable[..., Rig]
) -> None:
    """A client's certificate authority and its remapping of addresses hold for every node."""
    with remapped(
        cluster, lambda node: TLSServer(certificate, node.port), ssl=True, ssl_ca_certs=f"{certificate}.crt"
    ) as (client, fronts):
        rig = rig_of(client, cluster.url)
        before = sum(front.connections for front in fronts.values())
        assert all(rig.reads_l2() for _ in range(10))
        assert sum(front.connections for front in fronts.values()) - before == rig.l2.connects >= 3
        rig.close()


def test_what_a_client_does_to_new_connections_is_done(cluster: ValkeyCluster, rig_of: Callable[..., Rig]) -> None:
    """A function of the user's is called with each; READONLY, by which replicas would answer, is not sent."""
    greeted: list[Any] = []
    options = {
        "redis_connect_func": greeted.append,
        "load_balancing_strategy": redis.cluster.LoadBalancingStrategy.RANDOM_REPLICA,
    }
    with redis.RedisCluster(host=cluster.host, port=cluster.nodes[0].port, **options) as client:
        rig = rig_of(client, cluster.url)
        greeted.clear()
        before = readonly(cluster)
        assert all(rig.reads_l2() for _ in range(10))
        assert len(greeted) == rig.l2.connects
        assert readonly(cluster) == before


def readonly(cluster: ValkeyCluster) -> list[str]:
    """How often each node was told READONLY."""
    return [
        ask(node.port, "INFO commandstats").partition("cmdstat_readonly:")[2].partition(",")[0]
        for node in cluster.nodes
    ]


@pytest.mark.usefixtures("ample")
def test_a_cluster_clients_own_timeouts_and_retries_are_ignored(
    cluster: ValkeyCluster, rig_of: Callable[..., Rig]
) -> None:
    """B11: with the client's thirty seconds, and its retries, a frozen node would hold a call for minutes."""
    place = {"host": cluster.host, "port": cluster.nodes[0].port}
    with redis.RedisCluster(**place, socket_timeout=30, retry=Retry(ExponentialBackoff(), 10)) as client:
        rig = rig_of(client, cluster.url)
        key = rig.plant()
        assert rig.ask(key).tier == "l2"
        rig.clock.advance(61)  # so that L1 does not answer
        with paused(cluster.owner(name(key))), within(SHARED + 1):
            assert rig.ask(key).tier == "l1"
        assert rig.errors == {"node": 1}


# Slots that move


@contextmanager
def moving(cluster: ValkeyCluster, key: str) -> Iterator[tuple[redis.Redis, redis.Redis]]:
    """The owner of the slot of `key` while it gives the slot away, and the node that is to have it."""
    owner, slot = cluster.owner(key), cluster.slot(key)
    target = next(node for node in cluster.nodes[:3] if node is not owner)
    with redis.Redis(port=owner.port) as source, redis.Redis(port=target.port) as taker:
        ids = [one.execute_command("CLUSTER MYID").decode() for one in (source, taker)]
        taker.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
        yield source, taker
        for node in (taker, source):
            node.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])


def test_a_key_that_has_moved_ahead_of_its_slot(cluster: ValkeyCluster, link: ClusterLink, spread: list[str]) -> None:
    """ASK: the node named is asked, for this time; with a script too, that it may not know."""
    key = spread[0].encode()
    lease = b"{%b}lease" % key
    with moving(cluster, spread[0]) as (source, taker):
        assert link.call(gets(spread), NOW)[0] == key  # it is still where it was
        source.execute_command("MIGRATE", "127.0.0.1", taker.get_connection_kwargs()["port"], spread[0], 0, 20_000)
        taker.script_flush()
        assert link.call(gets(spread), NOW) == [one.encode() for one in spread]
        assert link.call([(b"SET", lease, b"held")], NOW) == [b"OK"]
        assert link.call([BOTH((key, lease))], NOW) == [key]
    assert link.call([(b"SET", key, b"moved"), (b"GET", key)], NOW) == [b"OK", b"moved"]


def test_a_slot_that_has_moved(cluster: ValkeyCluster, link: ClusterLink, spread: list[str]) -> None:
    """MOVED: the new owner is asked in the same call, and at once in the next ones."""
    assert link.call(gets(spread), NOW) == [key.encode() for key in spread]
    with moving(cluster, spread[1]) as (source, taker):
        source.execute_command("MIGRATE", "127.0.0.1", taker.get_connection_kwargs()["port"], spread[1], 0, 20_000)
    moved = source.info("errorstats").get("errorstat_MOVED", {"count": 0})["count"]
    for _ in range(3):
        assert link.call(gets(spread), NOW) == [key.encode() for key in spread]
    assert source.info("errorstats")["errorstat_MOVED"]["count"] == moved + 1
    source.close()


def test_a_slot_that_nobody_wants(link: ClusterLink, cluster: ValkeyCluster, spread: list[str]) -> None:
    """Two nodes that name each other are asked once each; the key is a miss, and a failure of one node alone."""
    slot, owner = cluster.slot(spread[2]), cluster.owner(spread[2])
    other = next(node for node in cluster.nodes[:3] if node is not owner)
    with redis.Redis(port=owner.port) as source:
        source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ask(other.port, "CLUSTER MYID").strip())
        source.delete(spread[2])
        assert failures(link.call(gets(spread), NOW)) == [None, None, Failure.NODE]  # ASK, and then MOVED
        source.execute_command("CLUSTER SETSLOT", slot, "STABLE")
    assert link.call(gets(spread[2:]), NOW) == [None]


def test_keys_that_lie_on_both_sides(cluster: ValkeyCluster, link: ClusterLink, spread: list[str]) -> None:
    """TRYAGAIN: a command with two keys while its slot moves is a miss, and no reason to leave L2 alone."""
    key = spread[0].encode()
    with moving(cluster, spread[0]):
        command = BOTH((key, b"{%b}lease" % key))  # the value is there, the lease is not
        assert failures(link.call([command, *gets(spread[1:])], NOW)) == [Failure.NODE, None, None]
        link.call([(b"DEL", key)], NOW)
    link.call([(b"SET", key, key)], NOW)


def test_a_live_reshard(cluster: ValkeyCluster, capsys: Any) -> None:
    """F36: slots with their keys move under load, and nobody notices."""
    with loaded(cluster, PATIENT) as (cache, load):
        for key in KEYS[:40]:
            with moving(cluster, name(key)) as (source, taker):
                port = taker.get_connection_kwargs()["port"]
                for one in source.execute_command("CLUSTER GETKEYSINSLOT", cluster.slot(name(key)), 100):
                    source.execute_command("MIGRATE", "127.0.0.1", port, one, 0, 20_000)
        load.go_on()
        stats = cache.stats().l2
    assert (load.errors, load.wrong, dict(stats.errors)) == ([], [], {})
    assert load.tiers(KEYS) <= {"l1", "l2"}
    say(capsys, f"F36 40 slots moved: {load}")


# Nodes that are away


@pytest.mark.usefixtures("ample")
def test_a_frozen_node_costs_one_timeout_and_its_own_slots(
    cluster: ValkeyCluster, link: ClusterLink, spread: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The others are served in the very same call; then it is left alone, until it is tried again and answers."""
    caplog.set_level(logging.INFO)
    owner = cluster.owner(spread[0])
    assert link.call(gets(spread), NOW) == [key.encode() for key in spread]
    with paused(owner):
        with within(SHARED + 1):
            assert link.call(gets(spread), NOW)[1:] == [key.encode() for key in spread[1:]]
        with within(SOON):  # and not twenty times as long as that
            for _ in range(20):
                replies = link.call(gets(spread), NOW)
                assert failures(replies) == [Failure.NODE, None, None]
    assert link.call(gets(spread), NOW + 1.5) == [key.encode() for key in spread]
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith(f"L2 node 127.0.0.1:{owner.port} is left alone for now: timeout (")
    assert said[-1] == f"L2 node 127.0.0.1:{owner.port} answers again"


@pytest.mark.usefixtures("ample")
def test_a_node_that_does_not_connect_takes_no_time_from_the_others(
    cluster: ValkeyCluster, client: redis.RedisCluster, spread: list[str]
) -> None:
    """Also where none of them is connected yet, and one leads nowhere."""
    with remapped(cluster, lambda node: FaultProxy(node.host, node.port)) as (remapping, fronts):
        link = address_of(remapping).link(PATIENT)
        assert link.call([(b"GET", b"nothing")], NOW) == [None]  # the topology is known
        link.drop()
        fronts[cluster.owner(spread[0]).port].hang()
        with within(SHARED + 1):
            replies = link.call(gets(spread), NOW)
        assert replies[1:] == [key.encode() for key in spread[1:]]
        assert failures(replies)[0] is Failure.NODE
        link.drop()


@pytest.mark.usefixtures("ample")
def test_a_node_that_drips_takes_no_time_from_the_others(
    cluster: ValkeyCluster, spread: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies that are there in time are read, though another one was being read until the deadline."""
    monkeypatch.setattr("tiered_cache._l2.nodes.MOMENT", 5.0)  # to read what is there, on a busy machine
    with remapped(cluster, lambda node: FaultProxy(node.host, node.port)) as (remapping, fronts):
        link = address_of(remapping).link(PATIENT)
        link.call([(b"SET", spread[0].encode(), b"x" * 3000)], NOW)
        link.call(gets(spread), NOW)
        fronts[cluster.owner(spread[0]).port].drip(1, 0.02)
        for key in spread[1:]:
            fronts[cluster.owner(key).port].latency(0.1)  # so that the dripping one is read first
        with within(SHARED + 1):
            replies = link.call(gets(spread), NOW)
        assert replies[1:] == [key.encode() for key in spread[1:]]
        assert failures(replies)[0] is Failure.NODE
        link.drop()


def test_all_nodes_frozen(
    cluster: ValkeyCluster, rig_of: Callable[..., Rig], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call ends in time, and finds out that no other node is there either; the next take microseconds."""
    rig = rig_of(cluster.url)
    keys = [rig.plant() for _ in range(3)]
    assert rig.ask(keys[0]).tier == "l2"
    took: list[float] = []
    with paused(*cluster.nodes), rig.hurried(TIMEOUT), in_no_time(monkeypatch), within(SOON):
        for key in [*keys[1:], *(f"other-{number}" for number in range(200))]:
            began = time.perf_counter()
            assert rig.ask(key).tier == "origin"
            took.append(time.perf_counter() - began)
        assert rig.l2.breaker == "open"
    assert rig.errors == {"timeout": 1}
    median = sorted(took)[len(took) // 2]
    assert median < TIMEOUT / 2
    say(capsys, f"all nodes frozen: longest call {max(took):.3f} s, then {median * 1e6:.0f} µs a call, {rig.errors}")
    assert rig.recovers()


def test_where_all_are_left_alone_they_are_asked_all_the_same(
    cluster: ValkeyCluster, link: ClusterLink, spread: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the breaker of the whole, which lets a call through now and then, is the one that counts."""
    link.call(gets(spread), NOW)
    with paused(*cluster.nodes), in_no_time(monkeypatch), within(SOON), pytest.raises(Unavailable) as caught:
        link.call(gets(spread), NOW, TIMEOUT)
    assert caught.value.failure is Failure.TIMEOUT
    assert {node.breaker.state(NOW) for node in link._nodes.values()} == {"open"}
    assert link.call(gets(spread), NOW) == [key.encode() for key in spread]


def test_a_call_without_time_blames_no_node(link: ClusterLink, spread: list[str]) -> None:
    """What an invocation has no time left for is a miss, and says nothing about the nodes."""
    link.call(gets(spread), NOW)
    assert failures(link.call(gets(spread), NOW, 0)) == [Failure.NODE] * 3
    assert {node.breaker.state(NOW) for node in link._nodes.values()} == {"closed"}
    assert link.call(gets(spread), NOW) == [key.encode() for key in spread]


def test_while_another_thread_looks(link: ClusterLink, spread: list[str]) -> None:
    """Who knows no topology waits for it until the deadline; who knows one goes by it."""
    with link._looking, within(SOON), pytest.raises(Unavailable) as caught:
        link.call(gets(spread), NOW, TIMEOUT)
    assert caught.value.failure is Failure.TIMEOUT
    link.call(gets(spread), NOW)
    link._doubtful, link._looked_at = True, 0.0
    with link._looking:
        assert link.call(gets(spread), NOW) == [key.encode() for key in spread]


def test_while_other_threads_try_all_nodes(link: ClusterLink, spread: list[str]) -> None:
    """What they find out is not waited for."""
    link.call(gets(spread), NOW)
    for node in link._nodes.values():
        link._failed(node, Unavailable(Failure.RESET, "as another thread found"), NOW)
        assert node.breaker.allows(NOW + 2)
    assert failures(link.call(gets(spread), NOW + 2)) == [Failure.NODE] * 3


def test_a_silent_node_leaves_time_to_ask_another_for_the_topology(
    cluster: ValkeyCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a cold start too, where the first of the nodes that are known answers nothing."""
    monkeypatch.setattr("tiered_cache._l2.cluster.sample", lambda nodes, _: nodes)
    with ScriptedServer(b"") as silent:
        places = [(cluster.host, silent.port), (cluster.host, cluster.nodes[0].port)]
        link = ClusterLink(address_of(cluster.url).maker(2 * HALF), places, 2 * HALF)
        assert link.call([(b"GET", b"nothing")], NOW) == [None]
        link.drop()


def test_an_answer_that_comes_after_the_deadline_is_not_taken_for_anothers() -> None:
    """Not even between the words that the first node and then the second were silent."""
    silent, late = threading.Event(), threading.Event()

    class Silent:
        def __init__(self, hears: threading.Event) -> None:
            self.hears = hears

        def call(self, *_: object) -> list[Any]:
            self.hears.wait(60)
            return [b"late"]

    first, second = Silent(late), Silent(silent)
    aside = Aside({first: [], second: []}, NOW, time.monotonic())  # type: ignore[dict-item]
    aside.ask(first)  # type: ignore[arg-type]
    aside.ask(second)  # type: ignore[arg-type]
    found = []
    for node, reply in aside.answers():
        found.append((node, failures([reply])))
        late.set()
        wait_until(lambda: not aside._come.empty())
    silent.set()
    assert found == [(first, [Failure.TIMEOUT]), (second, [Failure.TIMEOUT])]


def test_no_node_is_there(rig_of: Callable[..., Rig], valkey: ValkeyServer, nobody: int) -> None:
    """Where a cluster cannot be found at all the breaker opens at the first failure, as before a single server."""
    rig = rig_of(f"redis://127.0.0.1:{nobody}?cluster=true", valkey.url)
    assert [rig.ask().tier for _ in range(3)] == ["origin"] * 3
    assert rig.errors == {"refused": 1}
    assert rig.l2.breaker == "open"


def test_where_no_thread_can_be_started(link: ClusterLink, spread: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process at its limit of threads that has lost its connections is told that nobody can be asked, and asks later."""
    assert link.call(gets(spread), NOW) == [key.encode() for key in spread]
    link.drop()

    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(Unavailable):
            link.call(gets(spread), NOW)
    assert link.call(gets(spread), NOW + 2) == [key.encode() for key in spread]


def test_an_interrupt_leaves_no_reply_behind(
    link: ClusterLink, spread: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that were sent to and not read from are closed: their replies belong to nobody."""
    assert link.call(gets(spread), NOW) == [key.encode() for key in spread]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tiered_cache._l2.nodes._as_ready", interrupt)
        with pytest.raises(KeyboardInterrupt):
            link.call(gets(spread), NOW)
    assert link.call(gets(spread[::-1]), NOW) == [key.encode() for key in spread[::-1]]


def test_a_connection_that_is_being_made_is_closed_with_the_others(valkey: ValkeyServer) -> None:
    """Who drops all connections means that one too, though its call goes on to its end."""
    begun, begin = threading.Event(), threading.Event()
    make = address_of(valkey.url).maker(PATIENT)

    def make_late() -> Any:
        begun.set()
        begin.wait(60)
        return make()

    link = Link(make_late, PATIENT)
    replies: list[Any] = []
    caller = threading.Thread(target=lambda: replies.extend(link.call([(b"GET", b"key")], NOW)))
    caller.start()
    assert begun.wait(60)
    link.drop()
    begin.set()
    caller.join()
    assert (replies, link.connects, len(link._idle)) == ([None], 1, 0)


# Failovers, which take seconds


def of(cluster: ValkeyCluster, owner: ValkeyServer) -> list[str]:
    """The keys of the load that `owner` has."""
    return [key for key in KEYS if cluster.owner(name(key)) is owner]


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_an_owner_is_replaced_under_load(fault: str, capsys: Any) -> None:
    """F35: while its replica takes over no call fails or outlasts the timeout, and then its slots are served again."""
    with ValkeyCluster() as cluster, loaded(cluster, 2 * TIMEOUT) as (cache, load):
        owner = cluster.owner(name("key-0"))
        lost = of(cluster, owner)
        load.calls.clear()
        began = time.monotonic()
        getattr(owner, fault)()
        wait_until(lambda: all(load.ask(key) == "l2" for key in lost))
        healed = time.monotonic() - began
        if fault == "pause":
            wait_until(lambda: time.monotonic() - began > 1.5 * STALL)  # for as long would what is unbounded wait
            owner.resume()  # it finds out that it is a replica now
            load.go_on(500)
    assert (load.errors, load.wrong) == ([], [])
    assert load.longest < SOON + STALL
    errors = dict(cache.stats().l2.errors)
    say(capsys, f"F35 owner of {len(lost)} keys, {fault}: {load}, healed after {healed:.1f} s, counted {errors}")


@pytest.mark.faults
@pytest.mark.parametrize("with_log", [True, False])
def test_a_part_of_the_cluster_is_gone(with_log: bool, capsys: Any) -> None:
    """F37: an owner and its replica are away for good; their slots are misses, and all others are served all the time.

    Also where the invalidation log is what they had: then nobody can be told of deletions, but values can be read.
    """
    with (
        ValkeyCluster(config=("--cluster-require-full-coverage", "no"), node_timeout=4000) as cluster,
        loaded(cluster, PATIENT) as (cache, load),
    ):
        owner = next(node for node in cluster.nodes[:3] if (node is cluster.owner("tc1:{test|}:log")) is with_log)
        lost = of(cluster, owner)
        kept = [key for key in KEYS if key not in lost]
        load.calls.clear()
        cluster.replica(owner).kill()
        owner.kill()
        ends = time.monotonic() + 12  # the nodes notice within eight seconds, and replace nobody
        wait_until(lambda: time.monotonic() > ends)
        stats = cache.stats().l2
    assert (load.errors, load.wrong) == ([], [])
    assert load.tiers(kept) <= {"l1", "l2"}
    assert load.longest < SOON + STALL
    assert stats.breaker == "closed"
    assert set(stats.errors) == {"node"}
    say(
        capsys,
        f"F37 {len(lost)} of 90 keys{' and the log' * with_log} without a node: {load}, counted {dict(stats.errors)}",
    )
