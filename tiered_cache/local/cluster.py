"""A real cluster of six nodes, and a primary with replicas and Sentinels, on loopback: for failovers and worse."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from tiered_cache.local._needs import ServiceUnavailable
from tiered_cache.local._process import HOST, free_port, poll
from tiered_cache.local.valkey import ValkeyServer, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

SLOTS = 16_384
AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""A primary waits some seconds for more replicas before it sends the first its data; here it does not."""
READY = 60.0
"""Seconds within which a set of servers must have found together."""


class _Node(ValkeyServer):
    """A node of a cluster, whose second port is not ten thousand above the first: systems give those to clients."""

    bus = 0

    def _command(self, binary: str, port: int) -> list[str]:
        self.bus = free_port()
        return [*super()._command(binary, port), "--cluster-port", str(self.bus)]


class ValkeyCluster:
    """Three primaries with a replica each, that find together at start.

    `node_timeout`: milliseconds of silence after which a node counts as gone; a replica takes over a second or so later.
    `config`: further options of every node, such as `("--cluster-require-full-coverage", "no")`.

    `nodes` are six ValkeyServer: `kill`, `pause` and `resume` them. A node that was killed is not brought back.

        with ValkeyCluster() as cluster:
            client = redis.RedisCluster(host=cluster.host, port=cluster.nodes[0].port)
            cluster.owner("key").kill()
    """

    host = HOST

    def __init__(
        self, *, binary: str | os.PathLike[str] | None = None, node_timeout: int = 1000, config: Sequence[str] = ()
    ) -> None:
        options = f"--cluster-enabled yes --cluster-config-file nodes.conf --cluster-node-timeout {node_timeout}"
        self.nodes = [_Node(binary=binary, config=(*options.split(), *AT_ONCE, *config)) for _ in range(6)]
        self._running = ExitStack()

    def start(self) -> Self:
        """Start the nodes, and wait until each of them says that all is well. Raises ServiceUnavailable."""
        with ExitStack() as started:
            for node in self.nodes:
                started.enter_context(node)
            self._join()
            self._running = started.pop_all()
        return self

    def _join(self) -> None:
        share = -(-SLOTS // 3)
        for number, node in enumerate(self.nodes[:3]):
            # As redis-cli does: no two primaries begin with the same epoch.
            _do(node, f"CLUSTER SET-CONFIG-EPOCH {number + 1}")
            _do(node, f"CLUSTER ADDSLOTSRANGE {number * share} {min(SLOTS, (number + 1) * share) - 1}")
        for node in self.nodes[1:]:
            _do(self.nodes[0], f"CLUSTER MEET {HOST} {node.port} {node.bus}")
        _wait(lambda: all("cluster_known_nodes:6" in ask(node.port, "CLUSTER INFO") for node in self.nodes), "meet")
        for primary, replica in zip(self.nodes[:3], self.nodes[3:], strict=True):
            _do(replica, f"CLUSTER REPLICATE {ask(primary.port, 'CLUSTER MYID').strip()}")
        _wait(self._is_well, "agree")

    def _is_well(self) -> bool:
        return all(
            "cluster_state:ok" in ask(node.port, "CLUSTER INFO")
            and ask(node.port, "CLUSTER NODES").count(" slave ") + ask(node.port, "CLUSTER NODES").count(",slave ") == 3
            for node in self.nodes
        ) and all("master_link_status:up" in ask(node.port, "INFO replication") for node in self.nodes[3:])

    def stop(self) -> None:
        """End the nodes and remove their directories. Twice does no harm."""
        self._running.close()

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:<port>?cluster=true`, of the first node."""
        return f"redis://{HOST}:{self.nodes[0].port}?cluster=true"

    def slot(self, key: str) -> int:
        """The slot of `key`."""
        return int(self._any("CLUSTER KEYSLOT " + key).strip(":\r\n"))

    def owner(self, key: str) -> ValkeyServer:
        """The node that has the slot of `key`, by what a node that answers says."""
        slot = self.slot(key)
        for line in self._lines():
            _, place, flags, *_ = line.split()
            ranges = [part.split("-") for part in line.split()[8:] if not part.startswith("[")]
            if "master" in flags and "fail" not in flags and any(int(r[0]) <= slot <= int(r[-1]) for r in ranges):
                return self._at(place)
        raise ServiceUnavailable(f"no node has slot {slot}")

    def replica(self, of: ValkeyServer) -> ValkeyServer:
        """The replica of the primary `of`."""
        ids = {self._at(line.split()[1]).port: line.split()[0] for line in self._lines()}
        for line in self._lines():
            if line.split()[3] == ids[of.port]:
                return self._at(line.split()[1])
        raise ServiceUnavailable(f"the node at port {of.port} has no replica")

    def _lines(self) -> list[str]:
        return [line for line in self._any("CLUSTER NODES").splitlines() if " connected" in line or "fail" in line]

    def _at(self, place: str) -> ValkeyServer:
        port = int(place.partition("@")[0].rpartition(":")[2])
        return next(node for node in self.nodes if node.port == port)

    def _any(self, command: str) -> str:
        for node in self.nodes:
            try:
                return ask(node.port, command, timeout=0.5)
            except OSError:
                continue
        raise ServiceUnavailable("no node of the cluster answers")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"ValkeyCluster({', '.join(map(repr, self.nodes))})"


class _Sentinel(ValkeyServer):
    """A Sentinel, which is the same program with a file of its own that it writes to."""

    def _command(self, binary: str, port: int) -> list[str]:
        begin = 'touch "$1" && exec "$0" "$1" --sentinel --port "$2" --bind "$3"'
        return ["sh", "-c", begin, binary, "{directory}/sentinel.conf", str(port), HOST]


class ValkeySentinel:
    """A primary with two replicas, and three Sentinels that watch over them under the name `main`.

    `down_after`: milliseconds of silence after which the primary counts as gone. `servers` and `sentinels` are ValkeyServer:
    `kill`, `pause` and `resume` them.

        with ValkeySentinel() as watched:
            client = redis.Sentinel(watched.addresses, socket_timeout=0.5).master_for(watched.name)
    """

    host = HOST
    name = "main"

    def __init__(self, *, binary: str | os.PathLike[str] | None = None, down_after: int = 1000) -> None:
        self._binary = binary
        self._down_after = down_after
        self.servers = [ValkeyServer(binary=binary, config=AT_ONCE)]
        self.sentinels = [_Sentinel(binary=binary) for _ in range(3)]
        self._running = ExitStack()

    def start(self) -> Self:
        """Start all, and wait until each Sentinel knows the replicas and the other Sentinels. Raises ServiceUnavailable."""
        with ExitStack() as started:
            primary = started.enter_context(self.servers[0])
            follow = ("--replicaof", HOST, str(primary.port), *AT_ONCE)
            replicas = [ValkeyServer(binary=self._binary, config=follow) for _ in range(2)]
            self.servers = [primary, *replicas]
            for server in (*replicas, *self.sentinels):
                started.enter_context(server)
            _wait(
                lambda: all("master_link_status:up" in ask(one.port, "INFO replication") for one in replicas), "follow"
            )
            for sentinel in self.sentinels:
                _do(sentinel, f"SENTINEL MONITOR {self.name} {HOST} {primary.port} 2")
                _do(sentinel, f"SENTINEL SET {self.name} down-after-milliseconds {self._down_after}")
                _do(sentinel, f"SENTINEL SET {self.name} failover-timeout {3 * self._down_after}")
            _wait(lambda: all("slaves=2,sentinels=3" in ask(one.port, "INFO") for one in self.sentinels), "meet")
            self._running = started.pop_all()
        return self

    def stop(self) -> None:
        """End all and remove their directories. Twice does no harm."""
        self._running.close()

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each Sentinel."""
        return [(HOST, sentinel.port) for sentinel in self.sentinels]

    def primary(self) -> ValkeyServer:
        """The server that is the primary, by what a Sentinel that answers says."""
        for sentinel in self.sentinels:
            try:
                said = ask(sentinel.port, "INFO", timeout=0.5)
            except OSError:
                continue
            port = int(
                said.partition(f"name={self.name},")[2].partition("address=")[2].partition(",")[0].rpartition(":")[2]
            )
            return next(server for server in self.servers if server.port == port)
        raise ServiceUnavailable("no Sentinel answers")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"ValkeySentinel({', '.join(map(repr, self.servers))})"


def _do(node: ValkeyServer, command: str) -> None:
    reply = ask(node.port, command)
    if not reply.startswith("+OK"):
        raise ServiceUnavailable(f"{command} was answered with {reply!r}")


def _wait(true: Callable[[], bool], what: str, *, seconds: float = READY) -> None:
    if not poll(true, seconds=seconds, interval=0.05):
        raise ServiceUnavailable(f"the servers did not {what} within {seconds:g} s")
