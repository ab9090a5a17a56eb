"""On Lambda: the decorator that tells a cache where an invocation begins and ends, and how long it may take.

And handlers of their own for events that say what has changed: `invalidate_on_s3` and `invalidate_on_dynamodb`.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from tiered_cache._options import check_loader_kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiered_cache._cache import TieredCache
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


def lambda_handler(cache: TieredCache) -> Callable[[Handler], Handler]:
    """Decorate a handler: `@lambda_handler(cache)` above `def handler(event, context)`.

    Loads learn the invocation's remaining time, limits such as `soft_timeout="40%"` are counted from it, and values
    asked for with `scope="invocation"` are gone when the handler returns or raises. The remaining time is that of
    `context.get_remaining_time_in_millis()` (AWS Lambda Developer Guide, "Using the Lambda context object") less
    RESERVE; a context without that method has no limit.
    """
    if not callable(getattr(cache, "invocation", None)):
        raise TypeError("lambda_handler needs the cache: write @lambda_handler(cache) above the handler")

    def decorate(handler: Handler) -> Handler:
        check_loader_kind(handler, "lambda_handler")

        @wraps(handler)
        def wrapped(event: Any, context: Any = None, *args: Any, **named: Any) -> Any:
            milliseconds: Any = getattr(context, "get_remaining_time_in_millis", None)
            remaining = None if milliseconds is None else lambda: milliseconds() / 1000 - RESERVE
            with cache.invocation(remaining):
                return handler(event, context, *args, **named)

        return wrapped  # type: ignore[return-value]  # it takes and gives what the handler does

    return decorate


def __getattr__(name: str) -> Any:
    """What events need, imported when first asked for: a handler that answers requests does not pay for it (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tiered_cache.aws_lambda import events

    globals()[name] = found = getattr(events, name)
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
