"""What can go wrong with L2, told apart where it happens."""

from __future__ import annotations

import errno
import socket
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Failure(StrEnum):
    """A class of failure. The values are the keys of `stats().l2.errors`."""

    TIMEOUT = "timeout"
    """No answer within the tier's `timeout`, from name resolution to the last byte."""
    REFUSED = "refused"
    """Nobody listens, or no route leads there."""
    RESET = "reset"
    """The connection broke."""
    RESOLVE = "resolve"
    """The name does not resolve, or no Sentinel knows a primary by it."""
    AUTH = "auth"
    """Wrong or missing credentials."""
    PERMISSION = "permission"
    """The user may not run this command or touch this key."""
    TLS = "tls"
    """The certificate is not to be trusted, or the server breaks off the handshake."""
    HANDSHAKE = "handshake"
    """The server refuses the database number or the client name of the address."""
    UNKNOWN_COMMAND = "unknown_command"
    """The server does not know a command: it is a Sentinel, a proxy, or too old."""
    CLUSTER = "cluster"
    """The server is one node of a cluster and was taken for a single one, or the other way round."""
    NODE = "node"
    """One node of the cluster cannot be asked now: its slots are misses, and the others are served."""
    TOO_MANY_CLIENTS = "too_many_clients"
    """The server takes no more connections."""
    OUT_OF_MEMORY = "out_of_memory"
    """The server is full and evicts nothing: reads go on."""
    READ_ONLY = "read_only"
    """The server has become a replica: reads go on, and the connection is made anew."""
    NO_WRITES = "no_writes"
    """The server has too few replicas, or cannot save to disk, and takes no writes until it has: reads go on."""
    NOT_READY = "not_ready"
    """The server is loading, busy with a script, or cut off from its primary or its cluster."""
    SCRIPT_MISSING = "script_missing"
    """The server does not know a script by its hash: it is sent in full."""
    PROTOCOL = "protocol"
    """What came back is no answer of Redis."""
    MEMORY = "memory"
    """This process has no memory left for the call."""
    REPLY = "reply"
    """Another error reply, such as WRONGTYPE: a matter of this key, not of the server."""


class Unavailable(Exception):
    """An L2 call came to nothing. Never leaves the L2 package's callers: a read turns it into a miss."""

    def __init__(self, failure: Failure, hint: str) -> None:
        super().__init__(hint)
        self.failure = failure


class Elsewhere(Unavailable):
    """A node of a cluster names the node that has the slot: for good (MOVED), or for this one command (ASK)."""

    def __init__(self, hint: str, host: str, port: int, *, for_good: bool) -> None:
        super().__init__(Failure.CLUSTER, hint)
        self.host = host
        self.port = port
        self.for_good = for_good


WRITES_ONLY = frozenset({Failure.OUT_OF_MEMORY, Failure.READ_ONLY, Failure.NO_WRITES})
"""Failures that say nothing about reads."""
HARMLESS = frozenset({Failure.REPLY, Failure.SCRIPT_MISSING, Failure.NODE})
"""Failures that say nothing about the next call."""
FORBIDDEN = frozenset({Failure.PERMISSION, Failure.UNKNOWN_COMMAND})
"""Failures of one command: where it writes, others may still read."""
MISCONFIGURED = FORBIDDEN | {Failure.AUTH, Failure.TLS, Failure.HANDSHAKE, Failure.CLUSTER}
"""Failures that only people can mend: a long pause, and a louder word."""

_BY_REPLY = (
    ("NoPermissionError", Failure.PERMISSION),
    ("AuthorizationError", Failure.PERMISSION),
    ("AuthenticationError", Failure.AUTH),
    ("AuthenticationWrongNumberOfArgsError", Failure.AUTH),
    ("OutOfMemoryError", Failure.OUT_OF_MEMORY),
    ("ReadOnlyError", Failure.READ_ONLY),
    ("BusyLoadingError", Failure.NOT_READY),
    ("ClusterDownError", Failure.NOT_READY),  # and MasterDownError, which is one
    ("TryAgainError", Failure.NOT_READY),
    ("NoScriptError", Failure.SCRIPT_MISSING),
)
_BY_CODE = {
    "BUSY": Failure.NOT_READY,
    "NOREPLICAS": Failure.NO_WRITES,
    "MISCONF": Failure.NO_WRITES,
    "DENIED": Failure.PERMISSION,
}
_BY_TEXT = (
    ("ACL failure in script", Failure.PERMISSION),
    ("unknown command", Failure.UNKNOWN_COMMAND),
    ("Unknown Redis command called from", Failure.UNKNOWN_COMMAND),  # in a script
)
_NOT_THERE = {errno.ECONNREFUSED, errno.ENOENT, errno.EACCES, errno.EHOSTUNREACH, errno.ENETUNREACH}


def classify(error: BaseException) -> Unavailable:
    """The failure that `error`, raised by redis-py on an open connection, stands for, with a hint for the log.

    What led to `error` is not looked at: it may be whatever the caller of the cache was handling at that moment.
    """
    from redis import exceptions

    if isinstance(error, TimeoutError | exceptions.TimeoutError | MemoryError):
        return _unavailable(Failure.MEMORY if isinstance(error, MemoryError) else Failure.TIMEOUT, error)
    if isinstance(error, exceptions.AskError):
        for_good = isinstance(error, exceptions.MovedError)
        return Elsewhere(_HINTS[Failure.CLUSTER], error.host, error.port, for_good=for_good)
    for name, failure in _BY_REPLY:
        if isinstance(error, getattr(exceptions, name)):
            return _unavailable(failure, error)
    text = str(error)
    if isinstance(error, exceptions.ResponseError):
        return _refused(text)
    if isinstance(error, OSError | exceptions.ConnectionError):
        refused_late = "[SSL: " in text and "ALERT" in text and "BAD_RECORD" not in text  # TLS 1.3: after the handshake
        broken = Failure.TLS if refused_late else Failure.RESET
        return _unavailable(Failure.TOO_MANY_CLIENTS if "max number of clients" in text else broken, error)
    return _unavailable(Failure.PROTOCOL, error)


def _refused(text: str) -> Unavailable:
    """What an error reply stands for that redis-py has no class of its own for."""
    code = text.partition(" ")[0]
    found = _BY_CODE.get(code) or next((failure for part, failure in _BY_TEXT if part in text), Failure.REPLY)
    said = f"the error {code}" if code.isupper() else "an error without a code"  # the rest of its text may name a key
    return Unavailable(found, _HINTS.get(found, said))


def classify_connecting(error: BaseException) -> Unavailable:
    """As `classify`, for an error in connecting, raised in a thread that does nothing else: so its causes count too."""
    from ssl import SSLEOFError, SSLError, SSLZeroReturnError

    from redis.sentinel import MasterNotFoundError, SlaveNotFoundError

    for cause in _chain(error):
        if isinstance(cause, TimeoutError):
            return _unavailable(Failure.TIMEOUT, error)
        if isinstance(cause, socket.gaierror | UnicodeError):  # UnicodeError: no name that could be asked for
            return _unavailable(Failure.RESOLVE, error)
        if isinstance(cause, MasterNotFoundError | SlaveNotFoundError):
            return Unavailable(Failure.RESOLVE, "no Sentinel knows a server by this name, or none of them answers")
        if isinstance(cause, SSLError) and not isinstance(cause, SSLEOFError | SSLZeroReturnError):
            return _unavailable(Failure.TLS, error)
        if isinstance(cause, OSError) and cause.errno in _NOT_THERE:
            return _unavailable(Failure.REFUSED, error)
    found = classify(error)
    return _unavailable(Failure.HANDSHAKE, error) if found.failure in _OF_ONE_COMMAND else found


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that led to it."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _unavailable(failure: Failure, error: BaseException) -> Unavailable:
    return Unavailable(failure, _HINTS.get(failure, "") or type(error).__name__)


_OF_ONE_COMMAND = {Failure.REPLY, Failure.UNKNOWN_COMMAND}
_OR_TLS = (
    "(or only one side speaks TLS: does the URL begin with rediss://, and does the server speak TLS at this port?)"
)
_HINTS = {
    Failure.TIMEOUT: f"no answer within the timeout {_OR_TLS}",
    Failure.REFUSED: "nobody answers at this address",
    Failure.RESET: f"the connection was closed {_OR_TLS}",
    Failure.RESOLVE: "the name does not resolve",
    Failure.AUTH: "the credentials were refused",
    Failure.PERMISSION: "this user may not do that: on the keys tc1:* it needs GET MGET SET DEL GETRANGE SETRANGE EVALSHA EVAL "
    "HGET HSET HMGET HLEN XADD XRANGE XREVRANGE TIME",
    Failure.TLS: "no trusted TLS connection: check the certificate authority, and that the server speaks TLS here",
    Failure.HANDSHAKE: "the server refuses the database number or the client name",
    Failure.UNKNOWN_COMMAND: "the server does not know a command that L2 needs: it is a Sentinel (then give "
    "redis.Sentinel(…).master_for(name)), a proxy, or older than Redis 5",
    Failure.CLUSTER: "this is one node of a cluster: add ?cluster=true to the URL, or give a redis.RedisCluster",
    Failure.TOO_MANY_CLIENTS: "the server has as many clients as its maxclients allows",
    Failure.OUT_OF_MEMORY: "the server is full and its maxmemory-policy evicts nothing: use volatile-lru",
    Failure.READ_ONLY: "the server is a replica now",
    Failure.NO_WRITES: "the server has too few replicas or cannot save to disk, and takes no writes until it has",
    Failure.NOT_READY: "the server is not ready",
    Failure.MEMORY: "no memory is left in this process",
    Failure.PROTOCOL: "the answer is not in the protocol of Redis",
}
