"""The nodes of a cluster, and a call to several of them: all are sent to before the first reply is waited for."""

from __future__ import annotations

import threading
import time
from queue import Empty, SimpleQueue
from selectors import EVENT_READ, DefaultSelector
from typing import TYPE_CHECKING, Any, TypeAlias

from tiered_cache._l2.breaker import Breaker
from tiered_cache._l2.faults import Failure, Unavailable, classify

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tiered_cache._l2.link import Link
    from tiered_cache._l2.scripts import Command

Place: TypeAlias = tuple[str, int]
"""Host and port."""
Found: TypeAlias = "list[Any] | Unavailable"
"""What a node replied to its commands, or why it could not be asked."""

MOMENT = 0.02
"""Seconds beyond the deadline in which a reply is read that was there in time, while another node's was waited for."""


class Node:
    """One node: its connections, and whether it is worth asking."""

    def __init__(self, place: Place, link: Link) -> None:
        self.place = place
        self.link = link
        self.breaker = Breaker()

    def call(self, commands: Sequence[Command], now: float, ends: float) -> Found:
        """The replies to `commands` by `ends`, or why there are none."""
        try:
            return self.link.call(commands, now, ends - time.monotonic())
        except Unavailable as error:
            return error

    def __repr__(self) -> str:
        return "{}:{}".format(*self.place)


def answers(parts: Mapping[Node, Sequence[Command]], now: float, ends: float) -> Iterator[tuple[Node, Found]]:
    """What each node says to its part, as it comes in. One alone is waited for here, several together."""
    if len(parts) < 2:
        return iter([(node, node.call(commands, now, ends)) for node, commands in parts.items()])
    return _together(parts, now, ends)


def _together(parts: Mapping[Node, Sequence[Command]], now: float, ends: float) -> Iterator[tuple[Node, Found]]:
    """As `answers`: all are sent to before the first is waited for. A node without an open connection has a thread.

    Connecting takes one in any case; so a node that cannot be connected to takes no time from the others.
    """
    sent: dict[Any, Node] = {}
    aside = Aside(parts, now, ends)
    try:
        for node, commands in parts.items():
            connection = node.link.begin(commands, now, ends)
            if connection is None:
                aside.ask(node)
            else:
                sent[connection] = node
        for connection, until in _as_ready(list(sent), ends):
            node = sent.pop(connection)
            try:
                yield node, node.link.finish(connection, parts[node], now, until)
            except Unavailable as error:
                if error.failure is Failure.RESET:  # it died while it idled
                    aside.ask(node)
                else:
                    yield node, error
        yield from aside.answers()
    finally:
        for connection in sent:
            connection.disconnect()


class Aside:
    """Nodes that are asked for their parts in threads of their own."""

    def __init__(self, parts: Mapping[Node, Sequence[Command]], now: float, ends: float) -> None:
        self._parts = parts
        self._now = now
        self._ends = ends
        self._owing: list[Node] = []
        self._come: SimpleQueue[tuple[Node, Found]] = SimpleQueue()

    def ask(self, node: Node) -> None:
        self._owing.append(node)
        try:
            threading.Thread(target=self._run, args=(node,), name="tiered_cache-connect", daemon=True).start()
        except RuntimeError as error:  # the process is at its limit of threads
            self._come.put((node, classify(error)))

    def _run(self, node: Node) -> None:
        self._come.put((node, node.call(self._parts[node], self._now, self._ends)))

    def answers(self) -> Iterator[tuple[Node, Found]]:
        """What they say, as it comes in, until the deadline."""
        while self._owing:
            try:
                node, found = self._come.get(timeout=max(0.0, self._ends - time.monotonic()))
            except Empty:
                break  # and what comes now is not looked at any more
            self._owing.remove(node)
            yield node, found
        for node in self._owing:
            yield node, Unavailable(Failure.TIMEOUT, "no answer within the timeout")


def _as_ready(connections: Sequence[Any], ends: float) -> Iterator[tuple[Any, float]]:
    """The connections in the order in which something comes in on them, each with the end of its reading."""
    with DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection._sock, EVENT_READ, connection)  # noqa: SLF001
        while selector.get_map():
            ready = selector.select(max(0.0, ends - time.monotonic()))
            if not ready:
                break
            for key, _ in ready:
                selector.unregister(key.fileobj)
                yield key.data, max(ends, time.monotonic() + MOMENT)
        silent = [key.data for key in selector.get_map().values()]
    for connection in silent:
        yield connection, ends
