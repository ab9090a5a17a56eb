"""The real code on a stage: containers on one real server, each of whose steps waits until the scheduler lets it go.

A *gate* stands before each exchange with the server and each load, and behind each load and fill. Between two gates a thread runs
the code as it is. Beside the containers the stage keeps the truth that the code cannot know: which version was invalidated
when; and so it can tell after each step whether the invariants of the protocol hold. `explore.py` has the same ones.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import redis
from gates import Actor, GatedTier, gate_of
from world import Thread

from tiered_cache import MemoryTier, TieredCache
from tiered_cache._entry import START
from tiered_cache._l2.codec import MsgpackCodec
from tiered_cache._l2.record import opened
from tiered_cache._l2.scripts import Script
from tiered_cache._rules import Verdict, judge_data
from tiered_cache._waits import WAITS
from tiered_cache.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiered_cache import Answer
    from tiered_cache._entry import Entry, Position
    from tiered_cache._l2.scripts import Command

KEY, TAG = "key", "tag"
NAMESPACE = "stage"
_PREFIX = f"tc1:{{{NAMESPACE}|".encode()
VALUE = _PREFIX + KEY.encode() + b"}"
LEASE = VALUE + b":lease"
LOG_KEY, MARKS_KEY = _PREFIX + b"}:log", _PREFIX + b"}:marks"
L1_TTL = 0.01
"""Seconds: little enough to pass some tens of times before a look is due."""
POLL = 0.0005
STUCK = 120.0
"""Seconds after which a thread that neither waits at a gate nor ends is taken for stuck."""
SETTER = Thread(-1, 0)
"""Who holds the lease while a value is set."""


class Held(NamedTuple):
    """A value in a tier: its version, and where it was born, as (which epoch, which record in it)."""

    version: int
    born: tuple[int, int]
    expired: bool = False


class Known(NamedTuple):
    """What can be seen of a container: its L1, unless doubted, and its position."""

    l1: Held | None
    position: tuple[int, int] | None


class Seen(NamedTuple):
    """What can be seen of a world, real or model."""

    entry: Held | None
    lease: Thread | None
    log: tuple[int, int]
    marker: int
    containers: tuple[Known, ...]


class Stage:
    """Containers, an invalidator and a server. Every method is the scheduler's, who alone decides what comes next.

    threads: how many of each container may be in a call at the same time.
    at_home: the invalidator is a thread of container 0; else a container of its own.
    fine: a gate before each single command and behind it, which the model does not have; else before each exchange.
    """

    def __init__(self, url: str, *, containers: int = 2, at_home: bool = False, fine: bool = False) -> None:
        self.fine = fine
        self.clock = FakeClock()
        self.server = redis.Redis.from_url(url)
        self._url = url
        self._condition = threading.Condition()
        self._actors: list[Actor] = []
        for text in Script.by_hash.values():
            self.server.script_load(text)  # one that must be sent again would be two exchanges
        self.caches = [self._container() for _ in range(containers)]
        self._outsider = self._container()
        self._outsider.warm_up()  # so there is a log
        self._invalidator = self.caches[0] if at_home else self._outsider
        self.home = 0 if at_home else None
        self.origin = self.target = self.deleted = self.recorded = 0
        self.owed = [0] * containers
        self.tokens: dict[bytes, Thread] = {}
        self._epochs: list[int] = []
        self._ids: list[list[int]] = []
        self._truth: dict[tuple[int, int], int] = {START: 0}
        self.seen = self.look()

    def _container(self) -> TieredCache:
        tier = GatedTier(self._url, ttl="1d", jitter=0, timeout=60)
        tier.stage = self
        l1 = MemoryTier(ttl=L1_TTL, jitter=0)
        return TieredCache(
            l1,
            tier,
            namespace=NAMESPACE,
            clock=self.clock,
            coherence="invocation",
            refresh="inline",
            on_failure="queue",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while live := self.live():
            live[0].let_go()
            self._wait()
        for cache in (*self.caches, self._outsider):
            cache.close()
        self.server.close()

    # What the scheduler may have done.

    def read(self, thread: Thread, *, looks: bool, **options: Any) -> Actor:
        """A call that L1's time does not answer begins. `looks`: an invocation has begun, so that it looks into the log."""
        cache = self.caches[thread.container]
        self.clock.advance(2 * L1_TTL)
        if looks:
            with cache.invocation():
                pass

        def work(actor: Actor) -> Answer:
            def load() -> int:
                actor.pause("load")
                version = self.origin
                actor.pause("loaded")
                return version

            actor.due = self.owed[thread.container]
            return cache.get_entry_or_load(KEY, load, tags=[TAG], **options)

        return self._begun(thread, work)

    def catch_up(self, container: int) -> Actor:
        """Another thread looks into the log."""
        return self._begun(f"container {container}, another thread", lambda _: self.caches[container].warm_up())

    def change(self) -> None:
        """The origin changes."""
        self.origin += 1
        self.settle()

    def invalidate(self, how: str) -> Actor:
        """The origin has changed, and the invalidator says so: by delete, expire, invalidate_tag, clear or set."""
        cache, self.target = self._invalidator, self.origin

        def work(_: Actor) -> None:
            match how:
                case "delete" | "expire":
                    getattr(cache, how)(KEY)
                case "tag":
                    cache.invalidate_tag(TAG)
                case "clear":
                    cache.clear()
                case "set":
                    cache.set(KEY, self.target, tags=[TAG])

        return self._begun("invalidator", work)

    def expire_lease(self) -> None:
        self.server.delete(LEASE)
        self.settle()

    def trim(self) -> None:
        """Append a record of another key, and trim the log to it."""
        self._outsider.delete("another")
        self.server.xtrim(LOG_KEY, maxlen=1, approximate=False)
        self.settle()

    def lose(self) -> None:
        """Log and markers are lost, and the entry is not."""
        self.server.delete(LOG_KEY, MARKS_KEY)
        self.settle()

    def step(self, actor: Actor) -> list[Actor]:
        """Let `actor` go to its next gate; those whose calls have ended by that, its own or others'."""
        actor.let_go()
        return self.settle()

    def finish(self, actor: Actor) -> list[Actor]:
        """Let `actor` go as far as it comes."""
        ended: list[Actor] = []
        while actor.state == "parked":
            ended += self.step(actor)
        return ended

    def ask_anew(self) -> None:
        """A new container reads: what L2 gives it must not be older than the last invalidation."""
        cache = self._container()
        version = cache.get_or_load(KEY, lambda: self.origin, tags=[TAG])
        cache.close()
        assert version >= self.deleted, f"a new container was given {version}, deleted: {self.deleted}"

    def live(self) -> list[Actor]:
        """Those that wait at a gate."""
        return [actor for actor in self._actors if actor.state == "parked"]

    def calls(self) -> list[Actor]:
        """Those that are in a call, whether at a gate or in wait for another's flight."""
        return list(self._actors)

    # How it is done.

    def _begun(self, who: Thread | str, work: Callable[[Actor], Any]) -> Actor:
        actor = Actor(self, who, work)
        self._actors.append(actor)
        return actor

    def changed(self, actor: Actor, state: str) -> None:
        with self._condition:
            actor.state = state
            self._condition.notify_all()

    def done(self, actor: Actor, gate: str, part: Sequence[Command]) -> None:
        """An exchange with the server was made: what it means for the truth."""
        for command in part:
            if command[0] == b"EVALSHA" and gate_of(command) == "ask" and isinstance(actor.who, Thread):
                self.tokens[command[6]] = actor.who
            elif command[0] == b"SET":
                self.tokens[command[2]] = SETTER
            if command[0] in {b"HGET", b"HMGET"} and not actor.lose_reply:
                actor.due = max(actor.due, self.recorded)  # a look is of the moment at which it reads the log's end
        if actor.who == "invalidator" and gate in {"delete", "record"}:
            self.deleted = self.target
            self.recorded = self.target if gate == "record" else self.recorded

    def settle(self) -> list[Actor]:
        """Wait until everybody waits at a gate, in a flight, or has ended; then look whether all is well."""
        self._wait()
        ended = [one for one in self._actors if one.state == "done"]
        self._actors = [one for one in self._actors if one.state != "done"]
        self.seen = self.look()
        for one in ended:
            if one.who == "invalidator" and self.home is not None:
                self.owed[self.home] = max(self.owed[self.home], self.recorded)
        self.check(ended)
        return ended

    def _wait(self) -> None:
        """Wait until everybody waits at a gate, in a flight, or has ended."""
        patience = round(STUCK / POLL)
        with self._condition:
            while any(one.state == "running" and not self._in_flight(one) for one in self._actors):
                self._condition.wait(POLL)  # whoever joins a flight does not say so
                patience -= 1
                assert patience, f"stuck: {[(one.who, one.gate) for one in self._actors]}"

    def _in_flight(self, actor: Actor) -> bool:
        """Whether it waits for another caller's flight, which has not landed."""
        if not isinstance(actor.who, Thread) or actor.thread.ident is None:
            return False
        flight = WAITS.awaited.get(actor.thread.ident)
        return flight is not None and flight.leader != 0

    # What can be seen, and what must hold.

    def look(self) -> Seen:
        """What can be seen now."""
        with self.server.pipeline(transaction=True) as pipeline:
            value, lease, records, marks = pipeline.get(VALUE).get(LEASE).xrange(LOG_KEY).hgetall(MARKS_KEY).execute()
        for at, _ in records:
            self._note(at)
        epoch, end = self._number(self._position(records[-1][0])) if records else (len(self._epochs), 0)
        self._held_in_l2 = (
            None if value is None else opened(f"{NAMESPACE}|{KEY}", value, MsgpackCodec(), max_bytes=len(value))
        )
        marked = max((int(marks.get(name, 0)) for name in (b"t" + TAG.encode(), b"all")), default=0)
        marker = self._number((self._epochs[epoch], marked))[1] if marked else 0
        containers = tuple(self._known(number) for number in range(len(self.caches)))
        entry = None if self._held_in_l2 is None else self._as_held(self._held_in_l2)
        return Seen(entry, None if lease is None else self.tokens[lease], (epoch, end), marker, containers)

    def _note(self, at: bytes) -> None:
        """Number the log's records, and remember which invalidation each is the last word of."""
        epoch, sequence = self._position(at)
        if epoch not in self._epochs:
            self._epochs.append(epoch)
            self._ids.append([])
        ids = self._ids[self._epochs.index(epoch)]
        if sequence not in ids:
            ids.append(sequence)
            self._truth[epoch, sequence] = self.recorded

    @staticmethod
    def _position(at: bytes) -> Position:
        epoch, sequence = at.split(b"-")
        return int(epoch), int(sequence)

    def _number(self, at: Position) -> tuple[int, int]:
        if at == START:
            return at[0] - 1, at[1]  # of no log: of none that anybody knows
        epoch = self._epochs.index(at[0])
        return epoch, self._ids[epoch].index(at[1])

    def _as_held(self, entry: Entry) -> Held:
        return Held(entry.value, self._number(entry.born), judge_data(entry, self.clock()) is not Verdict.FRESH)

    def _known(self, number: int) -> Known:
        memory = self.caches[number]._memory
        position = memory.invalidated.position
        if position != START:
            self.owed[number] = max(self.owed[number], self._truth[position])
        held = memory.look(KEY)
        l1 = None if held is None or not self._may_answer(held) else self._as_held(held)
        return Known(l1, None if position == START else self._number(position))

    def _may_answer(self, entry: Entry) -> bool:
        return not entry.doubtful and judge_data(entry, self.clock()) is Verdict.FRESH

    def check(self, ended: Sequence[Actor]) -> None:
        """The invariants of `explore.py`, on what is real."""
        entry, seen = self._held_in_l2, self.seen
        if entry is not None and self._may_answer(entry):
            lives = seen.entry is not None and seen.entry.born[0] == seen.log[0] and seen.entry.born[1] >= seen.marker
            assert not lives or entry.value >= self.deleted, f"L2 holds {entry.value}, deleted: {self.deleted}"
            assert entry.value >= self._truth[entry.born], "L2's entry claims to know of an invalidation after its load"
        for number, (known, owed) in enumerate(zip(seen.containers, self.owed, strict=True)):
            assert known.l1 is None or known.l1.version >= owed, f"L1 of {number} holds {known.l1}, owed: {owed}"
        for actor in ended:
            if isinstance(actor.outcome, BaseException):
                raise actor.outcome
            if isinstance(actor.who, Thread):
                version = actor.outcome.value
                assert actor.due <= version <= self.origin, f"{actor.who} was given {version}, due: {actor.due}"
