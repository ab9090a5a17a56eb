"""Every error the library raises of its own, in one tree.

TieredCacheError
├── ConfigurationError (also ValueError)      an option cannot mean anything; raised when it is given
├── ClosedError (also RuntimeError)           the cache was closed before this call
├── ReentrantLoadError (also RuntimeError)    a loader waits, by way of the cache, for itself
├── LoadTimeout (also TimeoutError)           the load took longer than `hard_timeout`, or cannot end in time
├── LoadPending                               a resumable load goes on, and nothing stale may be served
├── NotFound (also KeyError)                  raised by a loader: the origin says that there is no such thing
├── SerializationError (also ValueError)      a value that the codec cannot carry; names the path inside it
├── InvalidationNotDelivered                  the shared tier did not take an invalidation
└── OriginError                               the origin gave no value
    ├── OriginThrottled                       ... because it is asked too often
    ├── OriginDenied                          ... because we may not; never covered up by a stale value
    ├── OriginMalformed                       ... but an answer that is not to be trusted
    └── SizeLimitExceeded                     ... since what it has is larger than was allowed

What a plain loader raises reaches the caller unchanged. Trouble in the shared tier never reaches the caller of a read.
"""

from __future__ import annotations


class TieredCacheError(Exception):
    """Base of every error that this library raises of its own."""


class ConfigurationError(TieredCacheError, ValueError):
    """An option cannot mean anything. The text names the argument, what was given and what is allowed."""


class ClosedError(TieredCacheError, RuntimeError):
    """The cache was used after `close()`."""


class ReentrantLoadError(TieredCacheError, RuntimeError):
    """A loader asked the cache for a key whose load waits for that very loader."""


class LoadTimeout(TieredCacheError, TimeoutError):
    """The load did not end within `hard_timeout`, or could not have ended before the invocation's deadline."""


class LoadPending(TieredCacheError):
    """A resumable load is under way and no stale value may be served; ask again later.

    retry_after: the seconds after which it has been looked at again, if anybody asks; at the least half a second, at most ten.
    """

    def __init__(self, *args: object, retry_after: float = 0.5) -> None:
        super().__init__(*args)
        self.retry_after = retry_after


class NotFound(TieredCacheError, KeyError):
    """Raised by a loader for 'does not exist', or returned. Cached for `negative_ttl` and raised again to callers."""

    __str__ = Exception.__str__  # KeyError shows the repr of its argument, which garbles a sentence


class SerializationError(TieredCacheError, ValueError):
    """The codec cannot carry a value to the shared tier; the text names the type and the path inside the value."""


class InvalidationNotDelivered(TieredCacheError):
    """The shared tier did not take an invalidation. The local copy is gone in any case."""


class OriginError(TieredCacheError):
    """The origin gave no value. The SDK's own error, where there is one, is the cause (`__cause__`)."""


class OriginThrottled(OriginError):
    """The origin is asked more often than it allows; passing."""


class OriginDenied(OriginError):
    """The origin refuses us. Never covered up by a stale value, never cached as absence."""


class OriginMalformed(OriginError):
    """The origin answered with something that cannot be trusted, such as a page of HTML with status 200."""


class SizeLimitExceeded(OriginError):
    """What the origin has is larger than the limit that was set; its body was not read."""
