"""Running a loader, and reading what it gives."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from tiered_cache._entry import START, Entry
from tiered_cache._errors import (
    ClosedError,
    ConfigurationError,
    NotFound,
    OriginDenied,
    ReentrantLoadError,
    SerializationError,
)
from tiered_cache._options import Plan  # noqa: TC001  # a NamedTuple field
from tiered_cache._units import shown
from tiered_cache._values import MISSING, Loaded, Outcome, Pending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiered_cache._entry import Birth
    from tiered_cache._rules import Freshness
    from tiered_cache._values import BatchContext, LoadContext

_LASTING = (
    ClosedError,
    ConfigurationError,
    ImportError,
    NotFound,
    OriginDenied,
    PermissionError,
    ReentrantLoadError,
    SerializationError,
)
_DENIED_CODES = frozenset({
    "401", "403", "AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId",
    "InvalidClientTokenId", "InvalidSignatureException", "KMS.AccessDeniedException", "MissingAuthenticationToken",
    "MissingAuthenticationTokenException", "NotAuthorized", "SignatureDoesNotMatch", "UnauthorizedOperation",
    "UnrecognizedClientException",
})  # fmt: skip
"""Codes of AWS that say 'denied'. To a HEAD request, S3 answers with the bare number."""


FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.25
"""Seconds between two looks of one who waits for another container."""


class Call(NamedTuple):
    """One call: what was asked, how, and when."""

    key: str
    loader: Any
    plan: Plan
    now: float
    waited: float = 0.0
    """Seconds for which it has waited for another container's load."""
    owed: bool = False
    """Whether this is the refresh of what was served: nobody waits for it, or who does has a value already."""


class Patience:
    """The waiting for another container's load, at most for so many seconds: looks often first, then less often.

    most_pending: the seconds for one that is known to be pending, if they are fewer.
    """

    def __init__(self, most: float, most_pending: float | None = None) -> None:
        self._began = time.monotonic()
        self._most = most
        self._most_pending = most if most_pending is None else min(most, most_pending)
        self._pause = FIRST_PAUSE
        self.waited = 0.0

    def wait(self, *, is_pending: bool = False) -> bool:
        """Wait a little; False, at once, where the time is up."""
        left = self._began + (self._most_pending if is_pending else self._most) - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, self._pause))
        self.waited = time.monotonic() - self._began
        self._pause = min(self._pause * 1.5, LONGEST_PAUSE)
        return True


def wait_of(loader: Any) -> float | None:
    """The seconds for which a caller with nothing to serve is to wait for this loader's pending load, if it says so."""
    wait = getattr(loader, "wait", None) if getattr(loader, "resumable", False) else None
    return wait if isinstance(wait, int | float) else None


def run_loader(loader: Any, context: LoadContext) -> Loaded | Outcome | Pending:
    """What the loader gives for `context`, a bare value wrapped. Raises what it raises, NotFound also where it gives that,
    TypeError for an awaitable.
    """
    load = getattr(loader, "load", None)
    given = None
    try:
        given = load(context) if callable(load) else loader()
    finally:
        if not (context.handle_read or getattr(loader, "resumable", False) or isinstance(given, Pending)):
            context.handle = None  # it did not go on from there
    if isinstance(given, Outcome | Pending):
        return given
    if (absence := absence_of(given)) is not None:
        raise absence
    return loaded_of(given)


def run_batch_loader(loader: Any, keys: Sequence[str], context: BatchContext) -> Any:
    """What the batch loader gives for `keys`; nothing of it is checked."""
    load = getattr(loader, "load_many", None)
    return load(keys, context) if callable(load) else loader(keys)


def absence_of(given: Any) -> NotFound | None:
    """The NotFound that `given` is, or is the class of; None where it is a value."""
    if isinstance(given, NotFound):
        return given
    return given() if isinstance(given, type) and issubclass(given, NotFound) else None


def loaded_of(given: Any) -> Loaded:
    """What a loader gave, a bare value wrapped. Raises TypeError for what is no value."""
    if isinstance(given, Loaded):
        checked_value(given.value)
        return given
    return Loaded(checked_value(given))


def checked_value(value: Any) -> Any:
    """`value`, unless it is none, or can be used but once and so cannot be cached. Raises TypeError."""
    if isinstance(value, Loaded | Outcome | Pending) or absence_of(value) is not None:
        raise TypeError(
            f"a value must be the bare value; got {shown(value)}: Loaded, NotFound and what the context's verbs give "
            "are for a loader to return by themselves"
        )
    if hasattr(type(value), "__await__"):
        close = getattr(value, "close", None)
        if callable(close):
            close()
        raise TypeError("loader gave an awaitable, and this cache is synchronous: let the loader return the value")
    if hasattr(type(value), "__next__"):
        raise TypeError(
            "an iterator or a stream can be read only once, and so cannot be cached: "
            "let the loader return a list, or the bytes that body.read() gives"
        )
    return value


def is_passing(error: Exception) -> bool:
    """Whether a stale value may cover for this failure of a load.

    Not for 'denied', after which a value must not be shown, nor for errors that only people can mend. Denial is known by
    our own error, by PermissionError, and by the error codes of AWS in what botocore raises.
    """
    if isinstance(error, _LASTING):
        return False
    response = getattr(error, "response", None)  # botocore's ClientError, without importing it
    if isinstance(response, dict):
        details = response.get("Error")
        return not (isinstance(details, dict) and details.get("Code") in _DENIED_CODES)
    return True


def stamp(
    loaded: Loaded,
    call: Call,
    policy: Freshness,
    *,
    loaded_at: float,
    fresh_for: float,
    load_time: float,
    birth: Birth,
) -> Entry:
    """The entry for what was loaded: its times by `policy`, the outermost tier's, counted from when the load began."""
    return Entry(
        loaded.value,
        loaded_at=loaded_at,
        fresh_for=fresh_for,
        stale_while_revalidate=policy.stale_while_revalidate,
        stale_if_error=policy.stale_if_error,
        load_time=load_time,
        etag=loaded.etag,
        last_modified=loaded.last_modified,
        tags=tuple(dict.fromkeys((*call.plan.tags, *loaded.tags))),
        birth=birth,
    )


def unloaded(pending: Pending, call: Call, policy: Freshness, began: float, birth: Birth) -> Entry:
    """What stands for the outcome of a load that goes on: its handle, with what is known of that outcome already."""
    return Entry(
        pending.handle,
        loaded_at=began,
        fresh_for=policy.ttl,
        stale_while_revalidate=policy.stale_while_revalidate,
        stale_if_error=policy.stale_if_error,
        tags=call.plan.tags,
        birth=birth,
    )


def renewed(held: Entry, ttl: float | None) -> Loaded:
    """What 'not modified' stands for: the value that is held, with its validators and tags."""
    return Loaded(held.value, ttl=ttl, tags=held.tags, etag=held.etag, last_modified=held.last_modified)


def stale_value(held: Entry | None) -> Any:
    """The value that a loader may see as the stale one."""
    return MISSING if held is None or held.negative else held.value


def generation_of(birth: Birth) -> str:
    """The position in the log at which a load begins, as text; "" where no log is known."""
    return "" if birth.born == START else "{}-{}".format(*birth.born)
