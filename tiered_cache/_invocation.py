"""The invocation under way, if there is one: its deadline, and the values that must not outlive it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tiered_cache import _whose
from tiered_cache._errors import ConfigurationError
from tiered_cache._forks import ForkSafe
from tiered_cache._load import run_loader
from tiered_cache._rules import SKEW
from tiered_cache._units import shown
from tiered_cache._values import Answer, Loaded, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager
    from types import TracebackType

    from tiered_cache._load import Call
    from tiered_cache._values import LoadContext


class Invocation(ForkSafe):
    """At most one at a time: an execution environment of Lambda serves one event after another."""

    def __init__(self, begun: Callable[[bool], None], ended: Callable[[], None]) -> None:
        super().__init__()
        self._begun = begun
        self._ended = ended
        self._remaining: Callable[[], float] | None = None
        self.is_running = False
        self._run = _whose.Run()  # the last that has begun

    def forked(self) -> None:
        """The invocation of the parent is none of a child's: it has its own, and until then no deadline."""
        super().forked()
        self.is_running, self._remaining = False, None

    def begin(self, remaining: Callable[[], float] | None, *, works_after_response: bool) -> None:
        """An invocation begins that has `remaining()` seconds left; None: no limit is known."""
        _check_remaining(remaining)
        if self.is_running:
            raise RuntimeError(
                "an invocation of this cache is running already: decorate only the outermost handler, and let one "
                "cache serve one invocation at a time"
            )
        self.is_running, self._remaining = True, remaining
        self._run = _whose.begin(self)
        try:
            self._begun(works_after_response)
        except BaseException:
            self._leave()
            raise

    def end(self) -> None:
        """Its handler has ended, and its values are gone."""
        with self._lock:
            self._run.close()
        try:
            self._ended()
        finally:
            self._leave()

    def _leave(self) -> None:
        _whose.leave(self)
        self.is_running, self._remaining = False, None

    @contextmanager
    def afterwards(self, remaining: Callable[[], float] | None) -> Generator[None]:
        """The time between a response and the next invocation: `remaining()` seconds of it; None: no limit is known.

        Where the next invocation runs already, or begins meanwhile, its own time is what counts.
        """
        _check_remaining(remaining)
        if not self.is_running:
            self._remaining = remaining
        try:
            yield
        finally:
            if not self.is_running:
                self._remaining = None

    def remaining(self) -> float | None:
        """Seconds until the invocation's deadline, or None where none is known, or it is not that of what runs here."""
        return None if self._remaining is None or _whose.is_in_its_own_time() else max(0.0, self._remaining())

    def forget(self, key: str | None) -> None:
        """`key` is invalidated, or everything, also for loads under way."""
        with self._lock:
            self._run.forget(key)

    def obtain(
        self,
        call: Call,
        context: LoadContext,
        ttl: float,
        *,
        too_late: Callable[[Call, None], object],
        counted: Callable[[], AbstractContextManager[None]],
        own: Callable[[Any], Any],
    ) -> Answer:
        """The value of a call with `scope="invocation"`: kept here alone, for at most `ttl` unless the call says else.

        What goes on beyond the invocation in which it was begun loads for itself, and keeps nothing.
        too_late: raises LoadTimeout where there is no time for a load. counted: counts the load that runs in it. own: gives a
        value as one holder among several is to have it.
        """
        if (run := _whose.run_of(self)) is None:
            raise ConfigurationError(
                'scope="invocation" needs an invocation: decorate the handler with '
                "tiered_cache.aws_lambda.lambda_handler(cache), or use `with cache.invocation():`"
            )
        if getattr(call.loader, "resumable", False):
            raise ConfigurationError(
                'scope="invocation" is not for a resumable loader: what that begins may outlive the invocation, and its '
                "value with it. Use one that is not resumable, or leave the scope out"
            )
        loaded_at, fresh_for, value = run.kept(call.key) or (0.0, 0.0, None)
        age = call.now - loaded_at
        if -SKEW <= age < fresh_for and not call.plan.force_refresh:
            return Answer(own(value), "l1", max(0.0, age), False, Reason.FRESH)
        too_late(call, None)
        load = run.begin_load(call.key)
        with counted():
            outcome = run_loader(call.loader, context)
            if not isinstance(outcome, Loaded):
                raise TypeError(
                    'with scope="invocation" a loader must give the value: nothing older is held to fall back on'
                )
        if not context.skipped:
            kept = (call.now, outcome.ttl or call.plan.ttl or ttl, own(outcome.value))
            with self._lock:  # an invalidation comes before this, and it is not kept, or after it
                run.keep(call.key, load, kept)
        return Answer(outcome.value, "origin", 0.0, False, Reason.LOADED)


def _check_remaining(remaining: object) -> None:
    """Refuse what does not give the seconds left, unless it is None. Raises TypeError."""
    wanted = "remaining must be a function that gives the seconds left as a number"
    if remaining is not None and not callable(remaining):
        raise TypeError(f"{wanted}; got {shown(remaining)}")
    left = 0.0 if remaining is None else remaining()
    if not isinstance(left, int | float):
        raise TypeError(f"{wanted}; it gave {shown(left)}")


class Running:
    """`with cache.invocation(remaining):`"""

    def __init__(
        self, invocation: Invocation, remaining: Callable[[], float] | None, *, works_after_response: bool
    ) -> None:
        self._invocation = invocation
        self._remaining = remaining
        self._works_after_response = works_after_response

    def __enter__(self) -> None:
        self._invocation.begin(self._remaining, works_after_response=self._works_after_response)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._invocation.end()
