"""What the tests of handlers before L2 share, fixtures excepted."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from tiered_cache.local import FaultProxy, LocalLambda, ValkeyServer
    from tiered_cache.local.awslambda import Done

    Make = Callable[..., LocalLambda]
    Record = Callable[[str, object], None]

HOUR = 3600.0
WAIT = 60.0
"""Seconds that anything may take on a slow machine, if it is not what a test measures."""
ASKS_L2 = {"ttl": 1e-6}
"""L1 for a microsecond, so that every call asks L2."""


def before(at: FaultProxy | ValkeyServer, **options: Any) -> dict[str, str]:
    """The environment of `functions/steps.py`: L2 at `at`, and options by name."""
    return {"URL": f"redis://{at.host}:{at.port}"} | {name: json.dumps(given) for name, given in options.items()}


def ask(fn: LocalLambda, *steps: Any, **options: Any) -> SimpleNamespace:
    """What the handler tells after these steps, each a name or a list of a name and arguments."""
    return told(fn.invoke(_event(steps), **options))


def begin(fn: LocalLambda, *steps: Any, **options: Any) -> Future[Done]:
    """The same of an invocation that is not waited for; see `told`."""
    return fn.invoke_async(_event(steps), **options)


def _event(steps: Iterable[Any]) -> list[Any]:
    return [[step] if isinstance(step, str) else step for step in steps]


def told(done: Done) -> SimpleNamespace:
    """`answers`, and the counters of the cache as they were at the end of the invocation."""
    return SimpleNamespace(**done.value)


def frozen(fn: LocalLambda) -> None:
    """Return as soon as its containers stand still."""
    for container in fn.containers:
        container.wait_frozen(WAIT)


def clients(server: ValkeyServer) -> list[dict[str, str]]:
    """Who is connected to the server, but for who asks."""
    with redis.Redis(port=server.port) as admin:
        me = str(admin.client_id())
        return [client for client in admin.client_list(_type="normal") if client["id"] != me]


def leases(server: ValkeyServer) -> dict[str, int]:
    """The leases that are held, by key, and how many milliseconds each has left."""
    with redis.Redis(port=server.port) as admin:
        names = list(admin.scan_iter("tc1:*:lease"))
        return {name.decode().rpartition("|")[2].removesuffix("}:lease"): admin.pttl(name) for name in names}
