"""What can go wrong with L2, told apart where it happens."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Failure(str, Enum):
    """A class of failure. The values are the keys of `stats().l2.errors`."""

    TIMEOUT = "timeout"
    """No answer within the tier's `timeout`, from name resolution to the last byte."""
    REFUSED = "refused"
    """Nobody listens, or no route leads there."""
    RESET = "reset"
    """The connection broke."""
    RESOLVE = "resolve"
    """The name does not resolve."""
    AUTH = "auth"
    """Wrong or missing credentials."""
    PERMISSION = "permission"
    """The user may not run this command or touch this key."""
    TLS = "tls"
    """The certificate is not to be trusted, or one side speaks TLS and the other does not."""
    OUT_OF_MEMORY = "out_of_memory"
    """The server is full and evicts nothing: reads go on."""
    READ_ONLY = "read_only"
    """The server has become a replica: reads go on, and the connection is made anew."""
    NOT_READY = "not_ready"
    """The server is loading, busy with a script, or cut off from its primary or its replicas."""
    PROTOCOL = "protocol"
    """What came back is no answer of Redis."""
    REPLY = "reply"
    """Another error reply, such as WRONGTYPE: a matter of this key, not of the server."""


class Unavailable(Exception):
    """An L2 call came to nothing. Never leaves the L2 package's callers: a read turns it into a miss."""

    def __init__(self, failure: Failure, hint: str) -> None:
        super().__init__(hint)
        self.failure = failure


WRITES_ONLY = frozenset({Failure.OUT_OF_MEMORY, Failure.READ_ONLY})
"""Failures that say nothing about reads."""
HARMLESS = frozenset({Failure.REPLY})
"""Failures that say nothing about the next call."""
MISCONFIGURED = frozenset({Failure.AUTH, Failure.PERMISSION, Failure.TLS})
"""Failures that only people can mend: a long pause, and a louder word."""

_NOT_READY = ("LOADING", "MASTERDOWN", "BUSY ", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN")
_TLS_SIGNS = ("CERTIFICATE", "SSL", "TLS", "WRONG_VERSION_NUMBER")
_TLS_ALERT = r"\x15\x03"  # how a TLS record begins, inside redis-py's repr of what it read
_NOT_RESOLVED = ("Name or service not known", "Temporary failure in name resolution", "nodename nor servname", "getaddrinfo")


def classify(error: BaseException) -> Unavailable:
    """The failure that `error`, raised by redis-py or by a socket, stands for, with a hint for the log."""
    from redis import exceptions as redis_errors

    text = " ".join(str(part) for part in _chain(error))
    failure = _by_type(error, text, redis_errors)
    return Unavailable(failure, _HINTS.get(failure, "") or type(error).__name__)


def _by_type(error: BaseException, text: str, redis_errors: object) -> Failure:  # noqa: PLR0911  # a table, most specific first
    def is_a(*names: str) -> bool:
        kinds = tuple(getattr(redis_errors, name) for name in names if hasattr(redis_errors, name))
        return any(isinstance(part, kinds) for part in _chain(error))

    if is_a("NoPermissionError", "AuthorizationError"):
        return Failure.PERMISSION
    if is_a("AuthenticationError", "AuthenticationWrongNumberOfArgsError") or "NOAUTH" in text or "WRONGPASS" in text:
        return Failure.AUTH
    if _TLS_ALERT in text or (not is_a("ResponseError") and any(sign in text.upper() for sign in _TLS_SIGNS)):
        return Failure.TLS
    if is_a("OutOfMemoryError"):
        return Failure.OUT_OF_MEMORY
    if is_a("ReadOnlyError"):
        return Failure.READ_ONLY
    if is_a("BusyLoadingError", "ClusterDownError", "TryAgainError") or any(sign in text for sign in _NOT_READY):
        return Failure.NOT_READY
    if is_a("TimeoutError") or any(isinstance(part, TimeoutError) for part in _chain(error)):
        return Failure.TIMEOUT
    if is_a("ResponseError"):
        return Failure.REPLY
    from socket import gaierror

    if any(isinstance(part, gaierror) for part in _chain(error)) or any(sign in text for sign in _NOT_RESOLVED):
        return Failure.RESOLVE
    if is_a("ConnectionError") or isinstance(error, OSError):
        return Failure.REFUSED if _refused(error, text) else Failure.RESET
    return Failure.PROTOCOL


def _refused(error: BaseException, text: str) -> bool:
    signs = ("refused", "No route to host", "unreachable", "No such file", "connecting to")
    return any(isinstance(part, ConnectionRefusedError) for part in _chain(error)) or any(sign in text for sign in signs)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that led to it."""
    seen: BaseException | None = error
    for _ in range(6):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


_HINTS = {
    Failure.TIMEOUT: "no answer within the timeout (a server that demands TLS hangs like this: then write rediss://)",
    Failure.REFUSED: "nobody answers at this address",
    Failure.RESET: "the connection was closed (some servers that demand TLS do this: then write rediss://)",
    Failure.RESOLVE: "the name does not resolve",
    Failure.AUTH: "the credentials were refused",
    Failure.PERMISSION: "this user may not do that: it needs GET, SET, DEL and the keys tc1:*",
    Failure.TLS: "no trusted TLS connection: check the certificate authority; for a server that demands TLS, write rediss://",
    Failure.OUT_OF_MEMORY: "the server is full and its maxmemory-policy evicts nothing: use allkeys-lru",
    Failure.READ_ONLY: "the server is a replica now",
    Failure.NOT_READY: "the server is not ready",
    Failure.PROTOCOL: "the answer is not in the protocol of Redis",
}
