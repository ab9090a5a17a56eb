"""A cache as one container has it, each call of which is written into the history."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from history import NEVER, Event, Load, nonce_of

from tiered_cache import MISSING, Loaded, NotFound, TieredCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from history import Origin

OPERATIONS = frozenset(name for name in ("delete", "expire", "invalidate_tag", "clear") if hasattr(TieredCache, name))
"""The ways of invalidation that the cache has."""


def tag_of(key: str) -> str:
    """Each key has one tag; one key in two gets it from its caller, the others from their loader."""
    return f"tag-{key[-1]}"


def tagged_by_caller(key: str) -> bool:
    """Only such keys become absent: a NotFound cannot bring tags along."""
    return key < "k"


def alike(key: str, other: str) -> bool:
    """Whether both may be asked for in one call: all keys of a batch get the tags that the caller gives."""
    if tagged_by_caller(key):
        return tagged_by_caller(other) and tag_of(key) == tag_of(other)
    return not tagged_by_caller(other)


class Container:
    """A cache with its origin. `ahead`: by how much its clock is ahead of true time at this moment."""

    def __init__(
        self,
        name: str,
        namespace: str,
        cache: TieredCache,
        origin: Origin,
        *,
        now: Callable[[], float],
        ahead: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.cache = cache
        self.events: list[Event] = []
        self.loads: list[Load] = []
        self._origin = origin
        self._now = now
        self._ahead = ahead
        self._invocation = NEVER

    @contextmanager
    def invocation(self, remaining: Callable[[], float] | None = None) -> Iterator[None]:
        """`with cache.invocation(remaining):`, in which later events are."""
        began = self._now()
        with self.cache.invocation(remaining):
            self._invocation = began
            try:
                yield
            finally:
                self._invocation = NEVER

    # Reads

    def ask(
        self, key: str, *, plain: bool = False, meanwhile: Callable[[], None] | None = None, **options: Any
    ) -> Event:
        """Read `key` through the cache. `plain`: by `get_or_load`, that tells nothing of where the value is from."""
        alone, insists = options.get("force_refresh", False), not options.get("stale_ok", True)
        loader = partial(self._load, key, alone=alone, meanwhile=meanwhile)
        if tagged_by_caller(key):
            options["tags"] = (tag_of(key),)
        if plain:
            act = lambda: {"value": self.cache.get_or_load(key, loader, **options)}
        else:
            act = lambda: self.cache.get_entry_or_load(key, loader, **options)._asdict()
        name = "get_or_load" if plain else "get_entry_or_load"
        return self._record(name, (key,), act, alone=alone, insists=insists)

    def ask_many(self, keys: Sequence[str]) -> list[Event]:
        """Read `keys` in one call; each must be `alike` to each."""

        def load(missing: Sequence[str]) -> dict[str, Any]:
            answers = {key: self._load_of_batch(key) for key in missing}
            for answer in answers.values():
                if isinstance(answer, Exception) and not isinstance(answer, NotFound):
                    raise answer
            return answers

        options = {"tags": (tag_of(keys[0]),)} if tagged_by_caller(keys[0]) else {}
        start, ahead = self._now(), self._ahead()
        found: dict[str, Any] = {}
        error = ""
        try:
            found = self.cache.get_many_or_load(keys, load, **options)
        except Exception as raised:  # every outcome is part of the history
            error = type(raised).__name__
        missing = {"error": error or "NotFound"}
        facts = [{"value": found[key]} if key in found else missing for key in keys]
        return [
            self._write("get_many_or_load", (key,), start, ahead, one) for key, one in zip(keys, facts, strict=True)
        ]

    def get(self, key: str) -> Event:
        """Read `key` without a loader."""

        def act() -> dict[str, Any]:
            value = self.cache.get(key)
            return {} if value is MISSING else {"value": value, "stale": False}

        return self._record("get", (key,), act)

    # Changes: the origin's first

    def set(self, key: str) -> Event:
        """Write a new version to the origin and to the cache."""
        value = self._origin.write(self.namespace, key)
        ahead = self._ahead()

        def act() -> dict[str, Any]:
            self.cache.set(key, value, tags=(tag_of(key),))
            return {"value": value}

        event = self._record("set", (key,), act)
        self._loaded(key, event.start, ahead, "set", value)
        return event

    def delete(self, key: str, *, absent: bool = False) -> Event:
        """Change `key` in the origin, and delete it."""
        self._origin.change(self.namespace, (key,), absent=absent and tagged_by_caller(key))
        return self._record("delete", (key,), lambda: self.cache.delete(key))

    def expire(self, key: str) -> Event:
        """Change `key` in the origin, and expire it."""
        self._origin.change(self.namespace, (key,))
        return self._record("expire", (key,), lambda: self.cache.expire(key))

    def invalidate_tag(self, tag: str, keys: Sequence[str]) -> Event:
        """Change those of `keys` in the origin that have `tag`, and invalidate it."""
        tagged = tuple(key for key in keys if tag_of(key) == tag)
        self._origin.change(self.namespace, tagged)
        return self._record("invalidate_tag", tagged, lambda: self.cache.invalidate_tag(tag))

    def clear(self, keys: Sequence[str]) -> Event:
        """Change all of `keys` in the origin, and clear the namespace, in which there are no others."""
        self._origin.change(self.namespace, keys)
        return self._record("clear", tuple(keys), lambda: self.cache.clear())

    # How

    def _load(
        self, key: str, *, alone: bool = False, batch: bool = False, meanwhile: Callable[[], None] | None = None
    ) -> Any:
        """Ask the origin, and write down what it said. `meanwhile` is called between its look and the answer's arrival."""
        began, ahead = self._now(), self._ahead()
        how = {"alone": alone, "batch": batch}
        try:
            value = self._origin.load(self.namespace, key)
        except Exception as raised:
            absent = isinstance(raised, NotFound)
            if meanwhile is not None:
                meanwhile()
            outcome = "absent" if absent else type(raised).__name__
            self._loaded(key, began, ahead, outcome, str(raised) if absent else None, **how)
            raise
        if meanwhile is not None:
            meanwhile()
        self._loaded(key, began, ahead, "value", value, **how)
        return value if tagged_by_caller(key) else Loaded(value, tags=(tag_of(key),))

    def _loaded(self, key: str, began: float, ahead: float, outcome: str, value: Any, **how: bool) -> None:
        version = value[2] if isinstance(value, tuple) else int((value or "- 0").split()[1])
        load = Load(
            namespace=self.namespace,
            key=key,
            version=version,
            nonce=nonce_of(value),
            container=self.name,
            began=began,
            ended=self._now(),
            ahead=ahead,
            outcome=outcome,
            value=value,
            **how,
        )
        self.loads.append(load)

    def _load_of_batch(self, key: str) -> Any:
        try:
            return self._load(key, batch=True)
        except Exception as raised:  # for the loader to sort out
            return raised

    def _record(self, operation: str, keys: tuple[str, ...], act: Callable[[], Any], **facts: Any) -> Event:
        start, ahead = self._now(), self._ahead()
        try:
            found = act() or {}
        except Exception as raised:  # every outcome is part of the history
            found = {"error": type(raised).__name__, "value": str(raised) if isinstance(raised, NotFound) else None}
        return self._write(operation, keys, start, ahead, {**found, **facts})

    def _write(self, operation: str, keys: tuple[str, ...], start: float, ahead: float, facts: dict[str, Any]) -> Event:
        end = self._now()
        trouble, gaps = self._counts()
        event = Event(
            operation=operation,
            keys=keys,
            namespace=self.namespace,
            container=self.name,
            thread=threading.get_ident(),
            start=start,
            end=end,
            ahead=min(ahead, self._ahead()),
            invocation=self._invocation,
            trouble=trouble,
            gaps=gaps,
            **facts,
        )
        self.events.append(event)
        return event

    def _counts(self) -> tuple[int, int]:
        """How often L2 failed or was not asked, and how often the log could not be followed."""
        l2 = self.cache.stats().l2
        return (0, 0) if l2 is None else (l2.skipped + l2.over_budget + sum(l2.errors.values()), l2.gaps)
