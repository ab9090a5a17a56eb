"""In which invocations work was begun: what goes on beyond them must not be taken for a part of those that run then."""

from __future__ import annotations

from contextvars import Context, ContextVar, copy_context
from typing import Any

RUNNING: dict[object, Run] = {}
"""The invocations under way in this process, by whose they are."""
_BEGUN_IN: ContextVar[dict[object, Run | None]] = ContextVar("tiered_cache_begun_in")
"""By whose they are. Unset, as in a thread of the user's own: in those that run at the moment."""
_ANY_OTHER = object()
"""Stands there for all that are not named, in work that is carried on by others than those who began it."""
_IN_ITS_OWN_TIME: ContextVar[bool] = ContextVar("tiered_cache_in_its_own_time")


class Run:
    """One invocation: the values that are its alone, or None once it has ended."""

    __slots__ = ("_loads", "values")

    def __init__(self) -> None:
        self.values: dict[str, tuple[float, float, Any]] | None = {}
        self._loads: dict[str, object] = {}
        """The last load of each key that has begun, and was not invalidated since."""

    def begin_load(self, key: str) -> object:
        """A load of `key` begins; what it is known by."""
        load = self._loads[key] = object()
        return load

    def keep(self, key: str, load: object, value: tuple[float, float, Any]) -> None:
        """Keep what `load` has brought, unless it has ended, `key` was invalidated meanwhile, or a later load has begun."""
        if self.values is not None and self._loads.get(key) is load:
            self.values[key] = value

    def kept(self, key: str) -> tuple[float, float, Any] | None:
        """What is kept for `key`; nothing is once it has ended."""
        values = self.values
        return None if values is None else values.get(key)

    def forget(self, key: str | None) -> None:
        """Forget the value of `key`, or all, and what loads under way will bring."""
        if self.values is None:
            return
        if key is None:
            self.values, self._loads = {}, {}
        else:
            self._loads.pop(key, None)
            self.values.pop(key, None)

    def close(self) -> None:
        """It has ended, and so have its values."""
        self.values = None


def begin(whose: object) -> Run:
    """An invocation begins in this context, and what is begun in it belongs to that."""
    run = RUNNING[whose] = Run()
    _BEGUN_IN.set({**_BEGUN_IN.get({}), whose: run})
    _IN_ITS_OWN_TIME.set(False)
    return run


def leave(whose: object) -> None:
    """The invocation is over in this context. What was begun in it, and goes on, belongs to it all the same."""
    RUNNING.pop(whose, None)
    _BEGUN_IN.set({one: run for one, run in _BEGUN_IN.get({}).items() if one is not whose})


def run_of(whose: object) -> Run | None:
    """The invocation that what runs here was begun in, which may have ended; None: in none."""
    begun_in = _BEGUN_IN.get({})
    return begun_in.get(whose, begun_in.get(_ANY_OTHER, RUNNING.get(whose)))


def context_to_go_on_in(*, in_its_own_time: bool = False) -> Context:
    """A copy of this context for work that others carry on, whichever invocations run by then. Tracing goes with it.

    in_its_own_time: no invocation's deadline is that of the work.
    """
    within = copy_context()
    within.run(_BEGUN_IN.set, {_ANY_OTHER: None, **RUNNING, **_BEGUN_IN.get({})})
    if in_its_own_time:
        within.run(_IN_ITS_OWN_TIME.set, True)
    return within


def goes_on() -> bool:
    """Whether what runs here is carried on by others than those who began it, and so may outlive them."""
    return _ANY_OTHER in _BEGUN_IN.get({})


def is_in_its_own_time() -> bool:
    """Whether no invocation's deadline is that of what runs here."""
    return _IN_ITS_OWN_TIME.get(False)
