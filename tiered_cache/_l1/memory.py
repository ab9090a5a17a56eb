"""L1: entries in the memory of this process, bounded in bytes.

A fresh entry is *armed*: it stands in `hot` as (value, until, entry), and a plain hit reads nothing else. Use is the
entry's count of hits, settled only when something must go (the policies are in `eviction` and `s3fifo`), so that a hit
takes no lock. All else happens under one lock, which is never held during I/O or a loader.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from math import inf
from sys import getsizeof
from typing import TYPE_CHECKING, Any

from tiered_cache._entry import START, Birth
from tiered_cache._forks import ForkSafe
from tiered_cache._l1.invalidation import Invalidations
from tiered_cache._l1.policy import entries_by
from tiered_cache._log import log, warn_once
from tiered_cache._news import Invalidation, Kind
from tiered_cache._stats import MemoryStats
from tiered_cache._units import shown
from tiered_cache._values import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from tiered_cache._entry import Entry
    from tiered_cache._l1.tier import MemoryTier
    from tiered_cache._news import News

ENTRY_OVERHEAD = 700
"""Bytes that an entry costs at most besides its value and texts: measured by `python -m benchmarks memory`."""
LOGGED_OVERHEAD = 200
"""Bytes more of one that has a place in the log of an L2: the place is its own, and so are more of its times."""


class Unmeasured(Exception):
    """Nobody can say what a value takes in memory."""


class MemoryStore(ForkSafe):
    """The entries of one cache."""

    def __init__(self, tier: MemoryTier) -> None:
        super().__init__(threading.RLock)
        self.freshness = tier.freshness
        self.invalidated = Invalidations()
        self.hot: dict[str, tuple[Any, float, Entry]] = {}
        self._tier = tier
        self._entries, self._armable = entries_by(tier.policy, tier.max_bytes, self._evicted)
        self._settled_hits = 0
        self._evictions = 0
        self._oversized = 0
        self.stale_hits = 0
        self.misses = 0
        self.coherent_until = inf
        """Until when plain hits may answer without a look into the log."""
        if tier.sizer is None:
            from tiered_cache._l1.sizer import sizeof

            self._sizer: Callable[[Any], int] = sizeof
        else:
            self._sizer = tier.sizer
        self._arms = self._armable and tier.share == "reference" and not tier.detect_mutation
        self._copies: dict[str, Any] = {}

    def forked(self) -> None:
        """What another thread was changing is not to be relied on: then nothing is held."""
        is_whole = self._lock.acquire(blocking=False)
        super().forked()
        if not is_whole:
            self.hot.clear()  # in place: plain hits look into this very dict
            self._copies = {}
            self._entries, self._armable = entries_by(self._tier.policy, self._tier.max_bytes, self._evicted)

    def look(self, key: str) -> Entry | None:
        """The entry of `key`, whatever its age."""
        with self._lock:
            entry: Entry | None = self._entries.get_quietly(key) if self._armable else self._entries.get(key)
            return entry

    def holds_any(self, keys: Iterable[str]) -> bool:
        """Whether there is an entry of any of `keys`, whatever its age."""
        with self._lock:
            return any(key in self._entries for key in keys)

    def look_many(self, keys: Iterable[str]) -> dict[str, Entry]:
        """The entries of those of `keys` that are held."""
        look = self._entries.get_quietly if self._armable else self._entries.get
        with self._lock:
            return {key: entry for key in keys if (entry := look(key)) is not None}

    def plain_hits(self, keys: Iterable[str], now: float) -> dict[str, Any]:
        """The values of those of `keys` of which `get_or_load` would make plain hits."""
        found: dict[str, Any] = {}
        for key in keys:
            armed = self.hot.get(key)
            if armed is not None and now < armed[1]:
                armed[2].hits += 1
                found[key] = armed[0]
        return found

    def count(self, entry: Entry, *, stale: bool) -> None:
        """A caller is given what `entry` holds."""
        if stale:
            self.stale_hits += 1
        else:
            entry.hits += 1

    def refuses(self, key: str, entry: Entry) -> bool:
        """Whether `entry` is not to be kept: invalidated since its load began, or older than what is held."""
        with self._lock:
            return self._refuses(key, entry, self._peek(key))

    def _refuses(self, key: str, entry: Entry, held: Entry | None) -> bool:
        is_older = held is not None and held.loaded_at > entry.loaded_at
        return is_older or self.invalidated.overtakes(key, entry)

    def birth(self) -> Birth:
        """The birth of what is loaded from now on."""
        with self._lock:
            return Birth(self.invalidated.position, self.invalidated.tick)

    def spares(self, entries: Mapping[str, Entry]) -> bool:
        """Whether none of the entries is known to have been invalidated, or said to be no longer fresh."""
        with self._lock:
            return self.invalidated.spares(entries)

    def is_dead(self, key: str, entry: Entry) -> bool:
        """Whether `entry` is known to have been invalidated since its load began."""
        with self._lock:
            return self.invalidated.kills(key, entry)

    def store(self, key: str, entry: Entry) -> bool:
        """Keep `entry` for `key`, unless it was invalidated since its load began, or a later load is held already.

        False if it is not kept. One larger than the whole budget is not, nor one that cannot be measured, or that the
        process has no memory left to measure or to copy; then the key is not held at all. Raises TypeError for one that
        cannot be copied, where it must be.
        """
        try:
            return self._stored(key, entry)
        except MemoryError:
            self.drop(key)
            self._note_oversized("no memory is left to measure or to copy a value, which is not kept in L1")
            return False
        except Unmeasured as error:
            self.drop(key)
            self._oversized += 1
            warn_once("a value cannot be measured, and is not kept in L1: %s", error)
            return False
        except TypeError:
            self.drop(key)
            raise

    def _stored(self, key: str, entry: Entry) -> bool:
        if not entry.size:  # once: the policy counts on it to stay the same
            self._measure(entry)
            entry.size = entry.value_size + _size_of_rest(key, entry)
        with self._lock:
            held = self._peek(key)
            if held is entry:
                self.arm(key, entry)
                return True
            if self._refuses(key, entry, held):
                return False
            if entry.size > self._tier.max_bytes:
                self.drop(key)
                self._note_oversized(
                    f"a value of {entry.size} bytes is larger than L1's whole budget of {self._tier.max_bytes}, and is not "
                    "kept there: raise max_bytes"
                )
                return False
            self._put(key, entry, held)
        return True

    def _note_oversized(self, what: str) -> None:
        if not self._oversized:
            log().warning("%s; stats().l1.oversized counts further ones", what)
        self._oversized += 1

    def _put(self, key: str, entry: Entry, held: Entry | None) -> None:
        """Put `entry` in the place of `held`, and let go what it leaves no room for."""
        value = self.own(entry.value)  # the caller may change what it has
        copy = _unchanged(value) if self._tier.detect_mutation else MISSING
        if held is not None:
            self.hot.pop(key, None)
            self._copies.pop(key, None)
        elif self._tier.max_entries is not None:
            with suppress(KeyError):  # of a policy that has just let the last one go by itself
                while len(self._entries) >= self._tier.max_entries:
                    self._entries.popitem()
        entry.value = value
        self._entries[key] = entry
        if held is not None:
            self._settle(held)  # now that the policy has seen its uses
        self.arm(key, entry)
        if self._tier.detect_mutation and self._peek(key) is entry:  # a policy may decline it
            self._copies[key] = copy

    def arm(self, key: str, entry: Entry) -> None:
        """Let plain hits find a fresh, positive entry; one that L1 shares by reference."""
        if self._arms and not entry.negative and not entry.doubtful:
            self.hot[key] = (entry.value, min(entry.hit_until(), self.coherent_until), entry)

    def rearm(self, key: str, entry: Entry) -> None:
        """The same, if it is what is held: it was found fresh, though no plain hit could tell."""
        if self._arms:
            with self._lock:
                if self._peek(key) is entry:
                    self.arm(key, entry)

    def value(self, key: str, entry: Entry) -> Any:
        """The value of `entry` for a caller: itself, a copy, or an error where a caller changed it."""
        if (
            self._tier.detect_mutation
            and (copy := self._copies.get(key, MISSING)) is not MISSING
            and copy != entry.value
        ):
            raise RuntimeError(
                f"a cached value of type {type(entry.value).__qualname__} was changed by a caller: "
                'copy it before changing it, or set MemoryTier(share="copy")'
            )
        return self.own(entry.value)

    def own(self, value: Any) -> Any:
        """`value` for one holder among several: itself, or a copy where `share="copy"`."""
        return value if self._tier.share == "reference" else _deepcopy(value, 'MemoryTier(share="copy")')

    def measure(self, entry: Entry) -> None:
        """Learn what the value of `entry` takes in memory; what another container has measured is believed."""
        with suppress(MemoryError, Unmeasured):  # L2 may take it all the same, and L1 tries again when it is to keep it
            self._measure(entry)

    def _measure(self, entry: Entry) -> None:
        if not entry.value_size or self._tier.sizer is not None:
            entry.value_size = _measured(entry.value, self._sizer)

    def invalidate(self, what: Sequence[Invalidation], now: float) -> None:
        """This is invalidated: forget it, and refuse what was loaded before this moment."""
        with self._lock:
            self.invalidated.note(what)
            self._apply(what, now)

    def learn(self, news: News, now: float) -> Sequence[Invalidation] | None:
        """Apply what a look into the log has found. What was new in it; None if all that is held is to be doubted."""
        with self._lock:
            fresh = self.invalidated.learn(news)
            if fresh is None:
                self._doubt()
            elif fresh:
                self._apply([*fresh, *self._hashed(fresh)], now)
            return fresh

    def _apply(self, what: Sequence[Invalidation], now: float) -> None:
        for kind, name in what:
            entry = self._peek(name) if kind is Kind.KEY or kind is Kind.EXPIRED else None
            if entry is not None and self.invalidated.kills(name, entry):
                self.drop(name)
            elif entry is not None and self.invalidated.expires(name, entry):
                self.hot.pop(name, None)
                entry.expire(now)
        if any(kind is Kind.TAG or kind is Kind.ALL for kind, _ in what):
            self.drop_where(self.invalidated.kills)

    def _hashed(self, records: Sequence[Invalidation]) -> list[Invalidation]:
        """Those of `records` that stand in the log under a hash, with the keys that are held in its place."""
        by_hash = {name: kind for kind, name in records if name.startswith("#")}
        if not by_hash:
            return []
        alias = self.invalidated.alias
        return [Invalidation(by_hash[alias(key)], key) for key, _ in self._all() if alias(key) in by_hash]

    def _doubt(self) -> None:
        """Serve nothing that is held, unless L2 vouches for it anew or cannot be asked."""
        self.hot.clear()
        for _, entry in self._all():
            entry.doubtful = True

    def discard(self, key: str, entry: Entry) -> None:
        """Forget `key` if this is what is held."""
        with self._lock:
            if self._peek(key) is entry:
                self.drop(key)

    def drop(self, key: str) -> bool:
        """Forget `key`; True if it was held."""
        with self._lock:
            self.hot.pop(key, None)
            self._copies.pop(key, None)
            entry = self._peek(key)
            self._entries.pop(key, None)
            if entry is None:
                return False
            self._settle(entry)
            return True

    def drop_where(self, doomed: Callable[[str, Entry], bool]) -> None:
        """Forget every key whose entry is `doomed`."""
        with self._lock:
            for key, entry in self._all():
                if doomed(key, entry):
                    self.drop(key)

    def unconfirm(self, lost: float = 0.0) -> None:
        """Let no entry be served before the next tier has vouched for it. `lost`: seconds that the wall clock stepped back.

        By so much each entry is older than its stamp and the clock now say; it is stamped anew, so that its age is true.
        """
        with self._lock:
            self.hot.clear()
            for _, entry in self._all():
                entry.loaded_at -= lost
                entry.early_at -= lost
                entry.confirmed_at = -inf

    def clear(self) -> None:
        """Forget everything, and refuse what was loaded before this moment."""
        with self._lock:
            self.invalidated.doubt()
            self.drop_where(lambda _key, _entry: True)

    def stats(self) -> MemoryStats:
        """The counters, and what is held."""
        with self._lock:
            hits = self._settled_hits + sum(entry.hits for _, entry in self._all())
            return MemoryStats(
                hits=hits,
                stale_hits=self.stale_hits,
                misses=self.misses,
                entries=len(self._entries),
                bytes=int(self._entries.currsize),
                max_bytes=self._tier.max_bytes,
                evictions=self._evictions,
                oversized=self._oversized,
            )

    def _peek(self, key: str) -> Entry | None:
        """The entry of `key`, unseen by the policy."""
        entry: Entry | None = self._entries.get_quietly(key)
        return entry

    def _all(self) -> Iterator[tuple[str, Entry]]:
        """The keys and entries as of now, while they may be dropped; a list of pairs would take a tenth of the budget."""
        keys = list(self._entries) if self._armable else self._entries.keys_quietly()
        return ((key, entry) for key in keys if (entry := self._peek(key)) is not None)

    def _settle(self, entry: Entry) -> None:
        """Take over the hits of an entry that goes."""
        self._settled_hits += entry.hits
        entry.hits = entry.settled = 0

    def _evicted(self, key: str, entry: Entry) -> None:
        self._evictions += 1
        self._settle(entry)
        self.hot.pop(key, None)
        self._copies.pop(key, None)


def _size_of_rest(key: str, entry: Entry) -> int:
    """Bytes that an entry costs besides its value."""
    texts = filter(None, (*entry.tags, entry.etag, entry.last_modified))
    place = 0 if entry.born == START else LOGGED_OVERHEAD
    of_texts = sum(getsizeof(text) + _PER_TEXT for text in texts)
    return getsizeof(key) - _EMPTY_TEXT + of_texts + place + ENTRY_OVERHEAD


_EMPTY_TEXT = getsizeof("")
_PER_TEXT = 16
"""What refers to it, and the bytes by which the allocator rounds it up."""


def _measured(value: Any, sizer: Callable[[Any], int]) -> int:
    """What the sizer says. Raises Unmeasured, with the reason."""
    kind = type(value).__qualname__
    try:
        given = sizer(value)
    except MemoryError:
        raise
    except Exception as error:  # it is the user's code, and may raise anything
        raise Unmeasured(f"{type(error).__name__} from the sizer, for one of type {kind}") from error
    with suppress(TypeError):  # where it is no number
        if 0 <= given < inf:
            return int(given)
    raise Unmeasured(f"sizer must give bytes as a number of at least 0; got {shown(given)} for one of type {kind}")


def _unchanged(value: Any) -> Any:
    """A copy by which it is seen later that `value` was changed; MISSING where nothing can be said of such."""
    copy = _deepcopy(value, "MemoryTier(detect_mutation=True)")
    try:
        return copy if copy == value else MISSING
    except Exception:  # noqa: BLE001  # as of an array, whose equality is no truth
        return MISSING


def _deepcopy(value: Any, option: str) -> Any:
    import copy

    try:
        return copy.deepcopy(value)
    except MemoryError:
        raise
    except Exception as error:
        raise TypeError(
            f"{option} needs values that copy.deepcopy can copy; got one of type {type(value).__qualname__}, "
            f"which raises {type(error).__name__}"
        ) from error
