"""A cluster as one link: the commands of a call go to the nodes that have their slots, all within one deadline.

redis-py's cluster client bounds each receive by a timeout, and adds retries and looks at the topology on top of that: one
frozen node holds a call for seconds. Here each node has a `Link` and a breaker of its own, so that one that is away
costs one timeout and its own slots, and no others.
"""

from __future__ import annotations

import threading
import time
from itertools import islice
from math import inf
from random import SystemRandom
from typing import TYPE_CHECKING, Any, TypeAlias

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from tiered_cache._l2.faults import MISCONFIGURED, Elsewhere, Failure, Unavailable
from tiered_cache._l2.link import Link
from tiered_cache._l2.nodes import Found, Node, Place, answers
from tiered_cache._l2.scripts import Command, in_full, routed_by
from tiered_cache._log import log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from redis.connection import Connection

sample = SystemRandom().sample
"""By the kernel's numbers: the state of `random` itself is the same in all containers that are made of one snapshot."""
LOOK_EVERY = 1.0
"""Seconds between two looks at the topology, while something remains wrong with it."""
ASKED_AT_ONCE = 6
"""Nodes that are asked for the topology together. If none of them answers, the cluster is taken to be away."""
SHARE = 0.8
"""The part of a call's time that is the nodes'. If one of them uses it up, the rest tells whether it alone is away."""

_SLOTS: Command = (b"CLUSTER", b"SLOTS")
_ASKING: Command = (b"ASKING",)


_Work: TypeAlias = tuple[Node | None, tuple[Command, ...]]
"""A node, and commands for it, of which the reply to the last counts. No node: nobody has the slot."""


class ClusterLink:
    """The connections of one process to the nodes of one cluster. Commands are routed by the slot of their key.

    `make`: makes a connection to `host` and `port`. `startup`: where the cluster is asked for its nodes. `remap`: gives
    the place under which a node that the cluster names can be reached from here.
    """

    ordered = False
    """The commands of one call are executed in the order given at each node, and in any order across nodes."""

    def __init__(
        self,
        make: Callable[..., Connection],
        startup: Sequence[Place],
        timeout: float,
        remap: Callable[[Place], Place] | None = None,
        max_age: float = inf,
    ) -> None:
        self._make = make
        self._timeout = timeout
        self._max_age = max_age
        self._remap = remap or (lambda place: place)
        self._startup = tuple(startup)
        self._nodes: dict[Place, Node] = {}
        self._former_connects = 0
        self.begin_anew()

    def begin_anew(self) -> None:
        """As after the construction: for a copy of this process, whose sockets and locks are another's."""
        self._nodes_lock = threading.Lock()
        self._looking = threading.Lock()
        self._slots: list[Node | None] | None = None
        self._doubtful = False
        self._looked_at = -inf
        self._let_go(set(self._nodes))

    def thawed(self, now: float) -> None:
        """As `Link.thawed`, for all nodes; and each is worth a try again, if it is still in the cluster."""
        for node in list(self._nodes.values()):
            node.link.thawed(now)
            node.breaker.half_open()
        self._doubtful, self._looked_at = True, -inf

    @property
    def connects(self) -> int:
        """Connections made so far, to all nodes."""
        return self._former_connects + sum(node.link.connects for node in list(self._nodes.values()))

    def drop(self) -> None:
        """Close all idle connections now, and those in use when their call has ended."""
        for node in list(self._nodes.values()):
            node.link.drop()

    def call(self, commands: Sequence[Command], now: float, limit: float | None = None) -> list[Any]:
        """The replies to `commands`, as `Link.call` gives them.

        A command whose node cannot be asked has an Unavailable of the class Failure.NODE in its place. Raises
        Unavailable if no node can be asked.
        """
        ends = time.monotonic() + (self._timeout if limit is None else min(limit, self._timeout))
        slots = self._topology(now, ends)
        ends_asking = ends - (1 - SHARE) * (ends - time.monotonic())
        owners = [slots[key_slot(routed_by(command))] for command in commands]
        work: list[_Work] = [(owner, (command,)) for owner, command in zip(owners, commands, strict=True)]
        replies = self._ask(work, now, ends_asking)
        self._follow(commands, owners, replies, now, ends_asking)
        if self._has_news():
            self._topology(now, ends)
        return [self._settled(reply) if isinstance(reply, Unavailable) else reply for reply in replies]

    def _follow(
        self, commands: Sequence[Command], owners: Sequence[Node | None], replies: list[Any], now: float, ends: float
    ) -> None:
        """Ask anew, once, where nodes name others."""
        sent_on: list[int] = []
        work: list[_Work] = []
        for number, (owner, reply) in enumerate(zip(owners, replies, strict=True)):
            if owner is not None and isinstance(reply, Elsewhere):
                sent_on.append(number)
                work.append(self._sent_on(reply, owner, commands[number]))
        if work:
            for number, reply in zip(sent_on, self._ask(work, now, ends), strict=True):
                replies[number] = reply

    def _ask(self, work: Sequence[_Work], now: float, ends: float) -> list[Any]:
        """For each piece of work the reply of its node to the last of its commands."""
        replies: list[Any] = [Unavailable(Failure.NODE, "its node is left alone for now")] * len(work)
        parts: dict[Node, list[int]] = {}
        for number, (node, _) in enumerate(work):
            if node is not None:
                parts.setdefault(node, []).append(number)
        if time.monotonic() >= ends:  # then none of them would be to blame
            return replies
        asked = {
            node: [command for number in numbers for command in work[number][1]]
            for node, numbers in parts.items()
            if node.breaker.allows(now)
        }
        for node, found in answers(asked, now, ends):
            if isinstance(found, Unavailable):
                self._failed(node, found, now)
                continue
            self._answered(node)
            rest = iter(found)
            for number in parts[node]:
                *_, replies[number] = islice(rest, len(work[number][1]))
        return replies

    def _sent_on(self, reply: Elsewhere, asked: Node, command: Command) -> _Work:
        """The work that is left to do where the node `asked` names another one."""
        node = self._node(self._remap((reply.host or asked.place[0], reply.port)))
        if not reply.for_good:  # the permission holds for one command, so a script must not need a second one
            return node, (_ASKING, in_full(command))
        self._doubtful = True
        if self._slots is not None:
            self._slots[key_slot(routed_by(command))] = node
        return node, (command,)

    def _settled(self, error: Unavailable) -> Unavailable:
        """The error reply as the caller sees it: what concerns a part of the cluster does not concern the whole."""
        if isinstance(error, Elsewhere) or error.failure is Failure.NOT_READY:
            self._doubtful = True
            return Unavailable(Failure.NODE, f"its node cannot serve it now: {error.failure.value}")
        return error

    def _failed(self, node: Node, error: Unavailable, now: float) -> None:
        self._doubtful = True
        if node.breaker.failed(error.failure, now):
            self._looked_at = -inf  # this is news, and looked into at once
            say = log().error if error.failure in MISCONFIGURED else log().warning
            say("L2 node %s is left alone for now: %s (%s)", node, error.failure.value, error)

    def _answered(self, node: Node) -> None:
        if node.breaker.succeeded():
            log().info("L2 node %s answers again", node)

    def _has_news(self) -> bool:
        return self._looked_at == -inf

    def _topology(self, now: float, ends: float) -> list[Node | None]:
        """The owner of each slot. Looked for first if it is not known, or is in doubt. Raises Unavailable."""
        slots = self._slots
        if slots is not None and not (self._doubtful and time.monotonic() - self._looked_at >= LOOK_EVERY):
            return slots
        looking = self._looking
        if not looking.acquire(timeout=0 if slots else max(0.0, ends - time.monotonic())):
            if slots is None:
                raise Unavailable(Failure.TIMEOUT, "the nodes of the cluster are still being asked for")
            return slots  # another thread is looking
        try:
            if self._slots is None or self._slots is slots:
                self._slots = self._look(now, ends)
            return self._slots
        finally:
            looking.release()

    def _look(self, now: float, ends: float) -> list[Node | None]:
        error: Unavailable | None = None
        for node, found in self._told(now, ends):
            try:
                slots = self._learnt(node, found)
            except Unavailable as failed:
                error = failed
                self._failed(node, failed, now)
                continue
            self._answered(node)
            self._looked_at = time.monotonic()
            self._doubtful = any(owner is None or owner.breaker.state(now) != "closed" for owner in set(slots))
            return slots
        if error is None and self._slots is not None:
            return self._slots
        raise error or Unavailable(Failure.TIMEOUT, "other threads are asking the nodes of the cluster")

    def _told(self, now: float, ends: float) -> Iterator[tuple[Node, Found]]:
        """What nodes say of the topology: one of them, which has half of the time, if that is much; others, at once."""
        nodes = self._worth_asking(now)
        if not nodes:  # where all are left alone, the breaker of the whole has let this call through
            for node in list(self._nodes.values()):
                node.breaker.half_open()
            nodes = self._worth_asking(now)
        allowed = (node for node in nodes if node.breaker.allows(now))
        left = ends - time.monotonic()
        if left > self._timeout / 2:
            for node in islice(allowed, 1):
                yield node, node.call([_SLOTS], now, ends - left / 2 if len(nodes) > 1 else ends)
        if time.monotonic() < ends:
            yield from answers({node: [_SLOTS] for node in islice(allowed, ASKED_AT_ONCE)}, now, ends)

    def _worth_asking(self, now: float) -> list[Node]:
        """The nodes that are not left alone: first those in use, which spares a connection, and otherwise in any order."""
        for place in self._startup:
            self._node(place)
        nodes = [node for node in list(self._nodes.values()) if node.breaker.state(now) != "open"]
        owners = set(self._slots or ())
        return sorted(sample(nodes, len(nodes)), key=lambda node: node not in owners or not node.link.connects)

    def _learnt(self, asked: Node, found: Found) -> list[Node | None]:
        """The owners of the slots by what the node `asked` says; nodes that are no more are let go. Raises Unavailable."""
        reply = found if isinstance(found, Unavailable) else found[0]
        if isinstance(reply, Unavailable):
            raise _no_topology(reply) if found is not reply else reply
        slots: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        places = set(self._startup)
        try:
            for first, last, *members in reply:
                here = [self._place(asked, host, port) for host, port, *_ in members]
                places.update(here)
                slots[first : last + 1] = [self._node(here[0])] * (last + 1 - first)
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise Unavailable(Failure.PROTOCOL, "the reply to CLUSTER SLOTS is none") from error
        if len(slots) != REDIS_CLUSTER_HASH_SLOTS:
            raise Unavailable(Failure.PROTOCOL, "CLUSTER SLOTS names slots that do not exist")
        if not reply:
            raise Unavailable(Failure.NOT_READY, "the cluster has no slots yet")
        for place in places:
            self._node(place)
        self._let_go(set(self._nodes) - places)
        owners = set(slots)
        for node in list(self._nodes.values()):
            if node not in owners:  # who only told of the others: a server counts its idle clients too
                node.link.drop()
        return slots

    def _place(self, asked: Node, host: bytes | None, port: int) -> Place:
        # No host: it is that under which the node was reached that says so.
        return self._remap((host.decode() if host else asked.place[0], port))

    def _node(self, place: Place) -> Node:
        with self._nodes_lock:
            if place not in self._nodes:
                host, port = place
                link = Link(lambda: self._make(host=host, port=port), self._timeout, self._max_age)
                self._nodes[place] = Node(place, link)
            return self._nodes[place]

    def _let_go(self, places: set[Place]) -> None:
        with self._nodes_lock:
            gone = [self._nodes.pop(place) for place in places]
        for node in gone:
            self._former_connects += node.link.connects
            node.link.begin_anew()


def _no_topology(reply: Unavailable) -> Unavailable:
    """The error reply to CLUSTER SLOTS, told in terms of what to do."""
    if reply.failure is Failure.REPLY or reply.failure is Failure.UNKNOWN_COMMAND:
        hint = "this server is no cluster: leave out cluster=true, or give a redis.Redis in place of a RedisCluster"
        return Unavailable(Failure.CLUSTER, hint)
    if reply.failure is Failure.PERMISSION:
        return Unavailable(Failure.PERMISSION, "this user may not do that: a cluster takes CLUSTER SLOTS too")
    return reply
