"""On Lambda: the decorator that tells a cache where an invocation begins and ends, and how long it may take.

And handlers of their own for events that say what has changed: `invalidate_on_s3` and `invalidate_on_dynamodb`.
"""

from __future__ import annotations

import os
from functools import partial, wraps
from time import time
from typing import TYPE_CHECKING, Any, TypeVar

from tiered_cache._options import check_loader_kind, flag
from tiered_cache._owed import is_frozen_between_invocations
from tiered_cache._units import seconds, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._asynchronous import AsyncTieredCache
    from tiered_cache._cache import TieredCache
    from tiered_cache._units import Duration
    from tiered_cache.aws_lambda._extension import Extension
    from tiered_cache.aws_lambda.events import (
        DynamoDBChange,
        S3Change,
        dynamodb_changes,
        invalidate_on_dynamodb,
        invalidate_on_s3,
        s3_changes,
    )

__all__ = [
    "DynamoDBChange",
    "S3Change",
    "dynamodb_changes",
    "invalidate_on_dynamodb",
    "invalidate_on_s3",
    "lambda_handler",
    "s3_changes",
]

Handler = TypeVar("Handler", bound="Callable[..., Any]")

RESERVE = 0.3
"""Seconds kept back from the remaining time for the answer itself."""


def lambda_handler(
    cache: TieredCache | AsyncTieredCache, *, after_response: bool | None = None, reserve: Duration = RESERVE
) -> Callable[[Handler], Handler]:
    """Decorate a handler: `@lambda_handler(cache)` above `def handler(event, context)`, below or above other decorators.
    It may be a method, or an object that can be called, such as `handler = lambda_handler(cache)(Mangum(app))`.

    Loads learn the invocation's remaining time, limits such as `soft_timeout="40%"` are counted from it, none is begun
    that cannot end in it, and values asked for with `scope="invocation"` are gone when the handler returns or raises. The
    remaining time is that of `context.get_remaining_time_in_millis()` (AWS Lambda Developer Guide, "Using the Lambda
    context object") less `reserve`; a context without that method has no limit. Where the function has SnapStart, the
    cache is told of snapshots and copies.

    after_response: whether refreshes and what `cache.after_response` was given are done after the response is out. This
        registers an internal extension when the handler is decorated, in the init phase, and that time is billed too.
        None: if the cache was made with `refresh="after_response"`. Outside Lambda and on Managed Instances, where
        threads go on, it changes nothing.
    reserve: seconds kept back from the remaining time for the answer itself.

    Raises TypeError for what is no cache, and for what is no handler, such as a coroutine function; ConfigurationError for
    a reserve that is no duration.
    """
    if isinstance(cache, type):
        raise TypeError(
            f"lambda_handler needs a cache, such as {cache.__name__}(), made outside of it; got the class itself"
        )
    if not callable(getattr(cache, "invocation", None)):
        raise TypeError("lambda_handler needs the cache: write @lambda_handler(cache) above the handler")
    kept_back = seconds("reserve", reserve, zero=True)
    wanted = cache.refresh == "after_response" if after_response is None else flag("after_response", after_response)

    def decorate(handler: Handler) -> Handler:
        _check_handler(handler)
        if wanted and is_frozen_between_invocations():
            _ask_for_extension()
        _register_hooks(cache)

        @wraps(handler)
        def wrapped(*args: Any, **named: Any) -> Any:
            if len(args) == 1 and not named:
                args = (*args, None)  # an event alone, as a test may give
            of_lambda = _context(*args[1:], *named.values())
            remaining = _remaining(of_lambda, kept_back)
            if (extension := _registered()) is None:
                with cache.invocation(remaining):
                    return handler(*args, **named)
            event, work = getattr(of_lambda, "aws_request_id", None), _work(cache, kept_back) if wanted else None
            with (
                extension.handling(event, lambda: cache.stats().work.waiting, work, _deadline(remaining, kept_back)),
                cache.invocation(remaining, works_after_response=wanted),
            ):
                return handler(*args, **named)

        return wrapped  # type: ignore[return-value]  # it takes and gives what the handler does

    return decorate


def _check_handler(handler: Any) -> None:
    """Refuse what cannot handle events: a class, a coroutine function or a generator function, bare or within others."""
    if isinstance(handler, type) or not callable(handler):
        name = f"the class {handler.__name__} itself" if isinstance(handler, type) else shown(handler)
        raise TypeError(f"lambda_handler needs a handler that can be called with (event, context); got {name}")
    while isinstance(handler, partial):
        handler = handler.func
    target = handler if hasattr(handler, "__code__") else type(handler).__call__
    if hasattr(target, "__code__"):  # else it is written in C, and no coroutine function
        check_loader_kind(target, "lambda_handler")


def _context(*given: Any) -> Any:
    """Of what a handler is given after its first argument, the context of Lambda: for a method that is the third, and it
    may be given by name.
    """
    return next((one for one in given if hasattr(one, "get_remaining_time_in_millis")), given[0] if given else None)


def _remaining(context: Any, kept_back: float) -> Callable[[], float] | None:
    """What gives the seconds left to the invocation of `context`; None where that does not tell."""
    milliseconds = getattr(context, "get_remaining_time_in_millis", None)
    if milliseconds is None:
        return None
    if not isinstance(given := milliseconds(), int | float):
        raise TypeError(
            f"context.get_remaining_time_in_millis() must give a number; got {shown(given)}. "
            "None in place of the context means no limit"
        )
    return lambda: milliseconds() / 1000 - kept_back


def _work(cache: TieredCache | AsyncTieredCache, kept_back: float) -> Callable[[float | None], object]:
    """Does what was put off, until `kept_back` seconds before the deadline that it is given, if it is given one."""
    return lambda deadline: cache.run_deferred(None if deadline is None else lambda: deadline - time() - kept_back)


def _deadline(remaining: Callable[[], float] | None, kept_back: float) -> Callable[[], float | None]:
    return lambda: None if remaining is None else time() + remaining() + kept_back


_EXTENSIONS: set[Extension] = set()
"""That of this process, once a handler has asked for it: a module that is imported for such handlers alone."""


def _ask_for_extension() -> None:
    from tiered_cache.aws_lambda._extension import EXTENSION

    EXTENSION.register()
    _EXTENSIONS.add(EXTENSION)


def _registered() -> Extension | None:
    """Who waits for the ends of this process's handlers, also of those for which no work is done after the response."""
    return next((one for one in _EXTENSIONS if one.is_registered), None)


def _register_hooks(cache: TieredCache | AsyncTieredCache) -> None:
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        from tiered_cache.aws_lambda import _snapstart

        _snapstart.register(cache)


def __getattr__(name: str) -> Any:
    """What events need, imported when first asked for: a handler that answers requests does not pay for it (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tiered_cache.aws_lambda import events

    globals()[name] = found = getattr(events, name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
