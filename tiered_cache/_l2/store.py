"""The entries, leases and log of one namespace in Redis or Valkey."""

from __future__ import annotations

import struct
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tiered_cache._errors import SerializationError
from tiered_cache._l2.calls import Calls
from tiered_cache._l2.envelope import HEADER_SIZE, TIMES, TIMES_AT, Unreadable, rewritten_header
from tiered_cache._l2.faults import HARMLESS, Failure, Unavailable, classify
from tiered_cache._l2.log import LogKeys, news_of
from tiered_cache._l2.looks import Looks
from tiered_cache._l2.record import confirmed, opened, opened_handle, sealed, sealed_handle
from tiered_cache._l2.steps import Steps
from tiered_cache._log import warn_once
from tiered_cache._news import Kind, News
from tiered_cache._reply import ABSENT, UNREACHED, Filled, Reply, Right
from tiered_cache._rules import awaited_for, expired, kept_for
from tiered_cache._stats import Counters, SharedStats

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tiered_cache._entry import Entry, Position
    from tiered_cache._l2.scripts import Command
    from tiered_cache._l2.tier import RedisTier
    from tiered_cache._news import Invalidation
    from tiered_cache._reply import Claim, Lease

MOST_AT_ONCE = 1_000
"""Invalidations in one round trip."""
MOST_STRAYS = 100
"""Leases remembered that could not be given up, to be given up with the next that is asked for or given up."""
LARGE = 32 * 1024
"""Bytes of a value in L1 from which on L2 is asked first whether it still has the same."""
TRIES = 3
"""How often a header is rewritten before the value is given up, since others rewrite it at the same time."""

_RIGHTS = {b"OK": Right.MINE, None: Right.TAKEN, b"unasked": Right.UNASKED}


class RedisStore:
    """One namespace. No method raises but `fill`, and that only SerializationError."""

    def __init__(self, tier: RedisTier, namespace: str) -> None:
        self._tier = tier
        self._steps = Steps(namespace, hash_keys=tier.hash_keys)
        self._log = LogKeys(self._steps.prefix)
        self._counts = Counters()
        self._calls = Calls(tier, self._counts)
        self._strays: deque[Lease] = deque(maxlen=MOST_STRAYS)  # leases that may be held in the server, by nobody here
        self._looks = Looks(tier, self._log, self._calls, self._counts)
        self._look_and = self._looks.beside

    def alias(self, name: str) -> str:
        """What stands in the server for a key or a tag: itself, or its hash."""
        return self._steps.alias(name)

    # Reading.

    def read(self, key: str, now: float, since: Position | None, held: Entry | None = None) -> Reply:
        """What L2 holds under `key`, and what is new in the log after `since`.

        Where it is the same as `held`, that is not decoded again, nor sent again if it is large: its header tells.
        """
        command = (b"GET", self._steps.value(key))
        if held is None or held.value_size < LARGE or not held.is_recognizable:
            replies, news = self._look_and((command,), now, since)
            return self._opened(key, replies[0], news, held) if replies else UNREACHED
        replies, news = self._look_and((self._steps.beginning(key),), now, since)
        again = confirmed(self._steps.owner + key, replies[0], self._tier.codec, held) if replies else None
        if again is not None:
            self._counts["hits"] += 1
            return Reply(again, True, Right.UNASKED, news)
        if replies and replies[0]:  # else there is nothing
            replies = self._calls.call((command,), now) or []
        return self._opened(key, replies[0] or None, news) if replies else UNREACHED._replace(news=news)

    def read_many(
        self, keys: Sequence[str], now: float, since: Position | None, held: Mapping[str, Entry] | None = None
    ) -> tuple[dict[str, Reply], News | None]:
        """The same for several keys, in one round trip."""
        known = held or {}
        names = [self._steps.value(key) for key in keys]
        whole = len(names) > 1 and self._tier.link().ordered  # one server: one command costs it and us a third
        commands: list[Command] = [(b"MGET", *names)] if whole else [(b"GET", name) for name in names]
        replies, news = self._look_and(commands, now, since)
        if not replies:
            return dict.fromkeys(keys, UNREACHED), None
        if whole:
            replies = self._parts(replies[0], len(names))
        return {
            key: self._opened(key, reply, None, known.get(key)) for key, reply in zip(keys, replies, strict=True)
        }, news

    def _parts(self, reply: Any, count: int) -> list[Any]:
        """The parts of one reply for so many keys; an error stands for each."""
        if isinstance(reply, list) and len(reply) == count:
            return reply
        if not isinstance(reply, Unavailable):
            self._counts[f"errors.{Failure.PROTOCOL.value}"] += 1
            reply = Unavailable(Failure.PROTOCOL, "a reply for other keys than were asked for")
        return [reply] * count

    def ask(self, lease: Lease, claim: Claim, now: float, since: Position | None) -> Reply:
        """What L2 holds under the lease's key, the lease as claimed, and what is new in the log, in one round trip."""
        if not self._calls.may_write(now):
            self._counts["skipped"] += 1
            return self.read(lease.key, now, since)._replace(right=Right.NONE)
        strays = self._taken_strays()
        replies, news = self._look_and([*map(self._steps.release, strays), self._steps.ask(lease, claim)], now, since)
        if not replies:
            self._strays.extend((*strays, lease))  # it may be ours, and nobody would know
            return UNREACHED
        return self._granted(lease, replies[-1], now, news)

    def ask_many(
        self, leases: Sequence[Lease], claim: Claim, now: float, since: Position | None
    ) -> tuple[dict[str, Reply], News | None]:
        """The same for several leases."""
        if not self._calls.may_write(now):
            self._counts["skipped"] += 1
            replies, news = self.read_many([lease.key for lease in leases], now, since)
            return {key: reply._replace(right=Right.NONE) for key, reply in replies.items()}, news
        answers, news = self._look_and([self._steps.ask(lease, claim) for lease in leases], now, since)
        if not answers:
            self._strays.extend(leases)
            return {lease.key: UNREACHED for lease in leases}, None
        granted = zip(leases, answers, strict=True)
        return {lease.key: self._granted(lease, answer, now) for lease, answer in granted}, news

    def look(self, since: Position, tags: Sequence[str], now: float) -> News | None:
        """What is new in the log after `since`, with the markers of `tags`; None if it cannot be told."""
        return self._look_and((), now, since, tags)[1]

    # Writing.

    def fill(self, lease: Lease, entry: Entry, now: float) -> Filled:
        """Keep `entry` until it is past all its windows, and give up the lease, if it is still ours."""
        try:
            command = self._filling(lease, entry, now)
        except SerializationError:
            self.release([lease], now, drop=True)  # what L2 has is older
            raise
        if command is None:
            self.release([lease], now, drop=True)
            return Filled.NOT_KEPT
        return self._filled([lease], [command], now)[lease.key]

    def fill_many(self, filled: Sequence[tuple[Lease, Entry]], now: float) -> dict[str, Filled]:
        """The same for several, in one round trip. What cannot be carried is counted and left out."""
        leases: list[Lease] = []
        commands: list[Command] = []
        for lease, entry in filled:
            try:
                command = self._filling(lease, entry, now)
            except SerializationError as error:
                warn_once("a value stays in L1 alone: %s", error)
                command = None
            if command is not None:
                leases.append(lease)
                commands.append(command)
        outcomes = self._filled(leases, commands, now) if commands else {}
        self.release([lease for lease, _ in filled if lease.held], now, drop=True)
        return {lease.key: outcomes.get(lease.key, Filled.NOT_KEPT) for lease, _ in filled}

    def leave(self, lease: Lease, left: Entry, pause: float, now: float) -> Filled:
        """Keep the handle of a load that goes on, and let nobody look at it for `pause`, if the lease is still ours."""
        lasting = left.loaded_at + awaited_for(left) - now
        try:
            data = sealed_handle(self._steps.owner + lease.key, left)
        except SerializationError:
            self._counts["unserializable"] += 1
            return Filled.NOT_KEPT
        if lasting <= 0 or self._is_too_large(data):
            return Filled.NOT_KEPT
        return self._filled([lease], [self._steps.leave(lease, data, lasting, pause)], now)[lease.key]

    def release(self, leases: Sequence[Lease], now: float, *, drop: bool, ended: bool = False) -> None:
        """Give up the leases that are still ours; `ended`: with their loads' handles, `drop`: with the values too."""
        for lease in leases:
            lease.held = False
        strays = self._taken_strays()
        commands = [*map(self._steps.release, strays)]
        commands += [self._steps.release(lease, drop=drop, ended=ended) for lease in leases]
        if commands and self._calls.call(commands, now) is None:
            self._strays.extend((*strays, *leases))

    def takes_writes(self, now: float) -> bool:
        """Whether no breaker says that a write would be refused."""
        return self._tier.breaker.state(now) != "open" and self._tier.write_breaker.allows(now)

    def invalidate(self, what: Sequence[Invalidation], since: Position, now: float, lease: Lease | None) -> News | None:
        """Forget values and leases, and then append the records. None if any of it was not done, else what is new."""
        news: News | None = News(since, since, followed=True)
        for start in range(0, len(what), MOST_AT_ONCE):
            news = self._invalidated(what[start : start + MOST_AT_ONCE], since, now, lease)
            if news is None:
                return None
        if lease is not None:
            lease.held = True
        return news

    def _invalidated(
        self, what: Sequence[Invalidation], since: Position, now: float, lease: Lease | None
    ) -> News | None:
        if not all(self._expire(one.name, now) for one in what if one.kind is Kind.EXPIRED):
            return None
        keys = [one.name for one in what if one.kind is Kind.KEY]
        forgetting = [command for key in keys for command in self._steps.forget(key, lease)]
        if forgetting and not self._tier.link().ordered:  # the record must not come before the deletion
            if not self._all_done(self._calls.call(forgetting, now, urgent=True)):
                return None
            forgetting = []
        aliased = [one._replace(name=self.alias(one.name)) for one in what]
        look = self._log.look(since)
        replies = self._calls.call([*forgetting, self._log.append(aliased), *look], now, urgent=True)
        if replies is None or not self._all_done(replies[: -len(look)]):
            return None
        self._counts["deletes"] += len(keys)
        self._calls.wrote()
        return self._looks.understood(news_of, replies[-len(look) :], since)

    def _expire(self, key: str, now: float) -> bool:
        """Take the lease away and let the value be fresh no longer, by its header alone; whether that was done."""
        name = self._steps.value(key)
        for _ in range(TRIES):
            replies = self._calls.call([(b"GETRANGE", name, b"0", b"%d" % (HEADER_SIZE - 1))], now, urgent=True)
            if replies is None:
                return False
            header: Any = replies[0]
            if isinstance(header, Unavailable):
                if header.failure is not Failure.REPLY:
                    return False
                break  # of another type: no entry
            try:
                loaded_at, fresh_for, _, stale_if_error, *_ = TIMES.unpack_from(header, TIMES_AT)
                fresh_for, covering = expired(loaded_at, fresh_for, stale_if_error, now)
                new = rewritten_header(header, fresh_for=fresh_for, stale_while_revalidate=0.0, stale_if_error=covering)
            except (struct.error, TypeError, Unreadable, SerializationError):
                break  # nothing there that may be served
            done = self._calls.call([self._steps.rewrite(key, header, new)], now, urgent=True)
            if not self._all_done(done):
                return False
            if done and done[0] == 1:
                return True
        return self._all_done(self._calls.call(self._steps.forget(key, None), now, urgent=True))

    # What else a tier does.

    def warm_up(self, now: float, *, wait: bool = True) -> bool:
        """Import redis and msgpack, and have a connection ready; `wait=False`: the latter in a thread that a call joins."""
        self._tier.codec.decode(self._tier.codec.encode(None))
        asked = [(b"GET", self._steps.value("warm_up"))]  # not PING, which an ACL may forbid
        if not wait:
            self._calls.warm_up(asked, now)
            return True
        replies = self._calls.call(asked, now)
        return replies is not None and not isinstance(replies[0], Unavailable)

    def thawed(self, now: float) -> None:
        """Trust no connection that idled for long, and no breaker."""
        self._tier.thawed(now)

    def suspend(self) -> None:
        """Close the tier's connections until the next call, and forget what copies of this process must not share."""
        self._strays.clear()
        self._tier.suspend()

    def allow(self, seconds: float | None) -> None:
        """All calls together may take so many seconds from now on; None: no limit."""
        self._calls.allow(seconds)

    def stats(self, now: float) -> SharedStats:
        """The counters of this namespace."""
        counts = self._counts
        return SharedStats(
            hits=counts["hits"],
            misses=counts["misses"],
            writes=counts["writes"],
            deletes=counts["deletes"],
            skipped=counts["skipped"],
            errors=counts.group("errors"),
            unreadable=counts.group("unreadable"),
            unserializable=counts["unserializable"],
            breaker=self._tier.breaker.state(now),
            connects=self._tier.connects,
            leases=counts["leases"],
            over_budget=counts["over_budget"],
        )

    def close(self) -> None:
        """Close the tier's connections; one that a call opens later is closed at its end."""
        self._calls.close()

    # Commands, and what their replies mean.

    def _taken_strays(self) -> list[Lease]:
        """The leases that are to be given up, which no other thread then gives up too."""
        taken: list[Lease] = []
        with suppress(IndexError):
            while True:
                taken.append(self._strays.popleft())
        return taken

    def _granted(self, lease: Lease, answer: Any, now: float, news: News | None = None) -> Reply:
        """The value and the right in what ASK gave."""
        if isinstance(answer, Unavailable):
            return self._opened(lease.key, answer, news)._replace(right=Right.NONE)
        if not isinstance(answer, list) or len(answer) != 3:
            self._counts[f"errors.{Failure.PROTOCOL.value}"] += 1
            return Reply(None, True, Right.NONE, news)
        value, taken, left = answer
        right = Right.NONE if isinstance(taken, Exception) else _RIGHTS.get(taken, Right.NONE)
        lease.held = right is Right.MINE
        if lease.held:
            self._counts["leases"] += 1
            self._calls.wrote()
        reply = self._opened(lease.key, self._plain(value, now, writes=False), news)
        self._plain(taken, now, writes=True)  # the server takes no writes now: the value is good all the same
        return reply._replace(right=right, left=self._left(lease.key, self._plain(left, now, writes=False)))

    def _left(self, key: str, data: Any) -> Entry | None:
        """What a load left that goes on; one that cannot be read is none, and is counted."""
        if data is None or isinstance(data, Unavailable):
            return None
        try:
            return opened_handle(self._steps.owner + key, data, max_bytes=self._tier.max_value_bytes)
        except Unreadable as error:
            self._counts[f"unreadable.{error.reason.value}"] += 1
            return None

    def _plain(self, part: Any, now: float, *, writes: bool) -> Any:
        """A part of a script's reply: an error in it as the Unavailable that it stands for, and counted."""
        if not isinstance(part, Exception):
            return part
        error = classify(part)
        self._calls.refused(error, now, writes=writes)
        return error

    def _filling(self, lease: Lease, entry: Entry, now: float) -> Command | None:
        """The command that fills; None where it is too late for the entry, or it is too large."""
        left = entry.loaded_at + kept_for(entry) - now
        if left <= 0:
            return None
        data = self._sealed(lease.key, entry)
        return None if self._is_too_large(data) else self._steps.fill(lease, data, left)

    def _is_too_large(self, data: bytes) -> bool:
        """Whether that is not to be sent, and counted so."""
        if len(data) <= self._tier.max_value_bytes:
            return False
        self._counts["errors.too_large"] += 1
        return True

    def _filled(self, leases: Sequence[Lease], commands: Sequence[Command], now: float) -> dict[str, Filled]:
        """Send the commands of fills, and tell what became of each."""
        replies = self._calls.call(commands, now) if self._calls.may_write(now) else None
        outcomes = [Filled.NOT_KEPT] * len(leases)
        if replies is not None:
            known = {1: Filled.KEPT, 0: Filled.REFUSED}
            outcomes = [
                Filled.NOT_KEPT if isinstance(reply, Unavailable) else known.get(reply, Filled.NOT_KEPT)
                for reply in replies
            ]
            self._all_done(replies)
        written = outcomes.count(Filled.KEPT)
        self._counts["writes"] += written
        if written:
            self._calls.wrote()
        for lease, outcome in zip(leases, outcomes, strict=True):
            lease.held = lease.held and outcome is Filled.NOT_KEPT
        return {lease.key: outcome for lease, outcome in zip(leases, outcomes, strict=True)}

    def _all_done(self, replies: Sequence[Any] | None) -> bool:
        """Whether there are replies, and each is one that such a command has."""
        if replies is None:
            return False
        for reply in replies:
            if isinstance(reply, Unavailable):
                return False
            if not isinstance(reply, int) and reply != b"OK" and not isinstance(reply, bytes):
                self._counts[f"errors.{Failure.PROTOCOL.value}"] += 1
                return False
        return True

    def _sealed(self, key: str, entry: Entry) -> bytes:
        try:
            return sealed(self._steps.owner + key, entry, self._tier.codec, compress_above=self._tier.compress_above)
        except SerializationError:
            self._counts["unserializable"] += 1
            raise

    def _opened(self, key: str, data: Any, news: News | None = None, held: Entry | None = None) -> Reply:
        """The entry in what L2 sent, or a miss that is counted by what is wrong with it."""
        if data is None:
            self._counts["misses"] += 1
            return ABSENT if news is None else ABSENT._replace(news=news)
        if isinstance(data, Unavailable):
            reply = ABSENT if data.failure in HARMLESS and data.failure is not Failure.NODE else UNREACHED
            return reply._replace(news=news)
        try:
            entry = opened(
                self._steps.owner + key, data, self._tier.codec, max_bytes=self._tier.max_value_bytes, held=held
            )
        except Unreadable as error:
            self._counts[f"unreadable.{error.reason.value}"] += 1
            return ABSENT._replace(news=news)
        self._counts["hits"] += 1
        return Reply(entry, True, Right.UNASKED, news)
