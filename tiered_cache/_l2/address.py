"""Where L2 is: a URL or a redis-py client, checked when it is given and turned into a maker of connections."""

from __future__ import annotations

import os
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from tiered_cache._errors import ConfigurationError
from tiered_cache._l2.credentials import MAX_AGE, Asked, checked_provider, own_credentials
from tiered_cache._units import shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from urllib.parse import SplitResult

    from tiered_cache._l2.cluster import ClusterLink
    from tiered_cache._l2.credentials import CredentialProvider
    from tiered_cache._l2.link import Link
    from tiered_cache._l2.nodes import Place

SCHEMES = ("redis", "rediss", "unix")
_FORMS = "redis://host:6379/0, rediss://user:password@host:6379 (TLS) or unix:///path/to/socket"

_TEXT = (bool, "a text")
_NUMBER = (str.isdecimal, "a number")
_FLAG = (lambda given: given.lower() in {"0", "1", "true", "false", "yes", "no"}, "true or false")
_FILE = (os.path.exists, "a file that exists")
_URL_OPTIONS: dict[str, tuple[Callable[[str], bool], str]] = {
    "client_name": _TEXT,
    "cluster": _FLAG,
    "db": _NUMBER,
    "password": _TEXT,
    "protocol": (lambda given: given in {"2", "3"}, "2 or 3"),
    "socket_keepalive": _FLAG,
    "ssl_ca_certs": _FILE,
    "ssl_ca_path": _FILE,
    "ssl_cert_reqs": (lambda given: given in {"none", "optional", "required"}, "none, optional or required"),
    "ssl_certfile": _FILE,
    "ssl_check_hostname": _FLAG,
    "ssl_keyfile": _FILE,
    "ssl_min_version": _NUMBER,
    "username": _TEXT,
}


class Address(NamedTuple):
    """An address without its secrets, and how to make a connection to it (not yet connected) within a timeout.

    `startup`: of a cluster, the nodes that are asked for all the others; `maker` makes connections to any `host` and
    `port` then. `remap`: the place at which a node can be reached from here, by that under which the cluster names it.
    `provider`: gives the credentials of each connection.
    """

    shown: str
    maker: Callable[[float], Callable[..., Any]]
    startup: tuple[Place, ...] = ()
    remap: Callable[[Place], Place] | None = None
    provider: CredentialProvider | None = None

    def link(self, timeout: float) -> Link | ClusterLink:
        """The connections to it, of which none is made yet: this imports redis."""
        from importlib import import_module

        import_module("redis")  # the package before its parts, or two threads that import it may fail each other
        from tiered_cache._l2.link import Link

        max_age = inf if self.provider is None else MAX_AGE
        prepare = getattr(self.provider, "prepare", None)
        if prepare is not None:
            with suppress(Exception):  # it comes again when a connection is made, and is counted then
                prepare()
        if not self.startup:
            return Link(self.maker(timeout), timeout, max_age)
        from tiered_cache._l2.cluster import ClusterLink

        return ClusterLink(self.maker(timeout), self.startup, timeout, self.remap, max_age)


def address_of(given: object, credentials: object = None) -> Address:
    """The address in a URL or a client. Raises ConfigurationError or TypeError, in whose text no password stands."""
    if isinstance(given, str):
        return _from_url(given, credentials)
    return _from_client(given, credentials)


def _from_url(url: str, credentials: object) -> Address:
    parts = _split(url)
    if parts is None:
        hint = _AT_HINT if "@" in url else ""
        raise ConfigurationError(f"RedisTier url has a host or port that is none; allowed: {_FORMS}{hint}")
    if parts.scheme not in SCHEMES or not url.startswith(f"{parts.scheme}://"):
        got = f"; got {parts.scheme}://" if url.startswith(f"{parts.scheme}://") else ""
        raise ConfigurationError(f"RedisTier url must begin with redis://, rediss:// or unix://, as in {_FORMS}{got}")
    if "@" in parts.query + parts.fragment + (parts.path if parts.scheme != "unix" else ""):
        raise ConfigurationError(f"RedisTier url is cut short by its password{_AT_HINT}")
    _check_place(parts)
    _check_options(parts)
    provider = None
    if credentials is not None:
        provider = checked_provider(credentials, beside=_names_a_user(parts), encrypted=parts.scheme == "rediss")
    _require_redis()
    startup = _cluster_of(parts)
    shown_place = f"{_place(parts)}?cluster=true" if startup else _place(parts)
    return Address(shown_place, lambda timeout: _maker_from_url(url, timeout, provider), startup, provider=provider)


def _names_a_user(parts: SplitResult) -> bool:
    from urllib.parse import parse_qs

    return "@" in parts.netloc or not {"username", "password"}.isdisjoint(parse_qs(parts.query))


_AT_HINT = "; write / ? # @ : and % in a password as %2F %3F %23 %40 %3A and %25"


def _split(url: str) -> SplitResult | None:
    """None where there is none. What urllib raises quotes the password, and must not stand in an error's context."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # it is parsed when it is asked for
    except ValueError:
        return None
    return parts


def _check_place(parts: SplitResult) -> None:
    if parts.scheme == "unix":
        if not parts.path:
            raise ConfigurationError(f"RedisTier url names no socket; allowed: {_FORMS}")
        return
    if not parts.hostname:
        raise ConfigurationError(f"RedisTier url names no host; allowed: {_FORMS}")
    if parts.port == 0:
        raise ConfigurationError(f"RedisTier url must have a port from 1 to 65535; got {_place(parts)}")
    database = parts.path.strip("/")
    if database and not database.isdecimal():
        raise ConfigurationError(f"RedisTier url may end in a database number, such as /0; got {_place(parts)}")


def _check_options(parts: SplitResult) -> None:
    from urllib.parse import parse_qsl

    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name.endswith("timeout") or name.startswith("retry") or name == "max_connections":
            raise ConfigurationError(f"RedisTier url must not set {name}: the time limit is RedisTier(timeout=…)")
        if name not in _URL_OPTIONS:
            raise ConfigurationError(f"RedisTier url has the unknown option {name}; allowed: {', '.join(_URL_OPTIONS)}")
        is_allowed, allowed = _URL_OPTIONS[name]
        if not is_allowed(value):
            raise ConfigurationError(f"RedisTier url: {name} must be {allowed}")
    if parts.fragment:
        raise ConfigurationError(f"RedisTier url has a #, after which nothing is read{_AT_HINT}")


def _cluster_of(parts: SplitResult) -> tuple[Place, ...]:
    """The node that a cluster is asked for at first; none if the URL is that of a single server."""
    from urllib.parse import parse_qs, unquote

    options = parse_qs(parts.query)
    if options.get("cluster", ["no"])[0].lower() not in {"1", "true", "yes"}:
        return ()
    if parts.scheme == "unix" or not parts.hostname:
        raise ConfigurationError("RedisTier url with cluster=true must begin with redis:// or rediss://")
    if any(database.strip("/0") for database in (parts.path, *options.get("db", []))):
        raise ConfigurationError(
            "RedisTier url with cluster=true must not name a database: a cluster has number 0 alone"
        )
    return ((unquote(parts.hostname), parts.port or 6379),)


def _place(parts: SplitResult) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _from_client(client: Any, credentials: object) -> Address:
    kinds = [base.__module__ for base in type(client).__mro__]
    if any(kind.startswith("redis.asyncio") for kind in kinds):
        raise TypeError("RedisTier got an asyncio client, and this cache is synchronous: give a redis.Redis or a URL")
    if hasattr(client, "nodes_manager"):
        return _from_cluster_client(client, credentials)
    pool = getattr(client, "connection_pool", None)
    if pool is None or not any(kind.split(".")[0] == "redis" for kind in kinds):
        raise ConfigurationError(f"RedisTier expects a URL ({_FORMS}) or a redis.Redis; got {shown(client)}")
    options = _options(pool, credentials)
    place = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    if hasattr(pool, "service_name"):
        return _from_sentinel(pool, options)
    return Address(
        f"redis.Redis at {place}",
        lambda timeout: _maker(pool.connection_class, options, timeout),
        provider=options.get("credential_provider"),
    )


def _options(pool: Any, credentials: object) -> dict[str, Any]:
    """The options of a pool's connections that say where the server is, and who we are."""
    from redis.connection import SSLConnection

    options = {name: value for name, value in pool.connection_kwargs.items() if _is_ours(name)}
    given = options.get("credential_provider") if credentials is None else credentials
    if given is not None:
        beside = credentials is not None and own_credentials(options)
        encrypted = issubclass(pool.connection_class, SSLConnection)
        options["credential_provider"] = checked_provider(given, beside=beside, encrypted=encrypted)
    return options


def _from_sentinel(pool: Any, options: dict[str, Any]) -> Address:
    def maker(timeout: float) -> Callable[..., Any]:
        finder = _in_time(options["connection_pool"], timeout)
        return _maker(pool.connection_class, options | {"connection_pool": finder}, timeout)

    shown_place = f"redis.Redis at Sentinel's {pool.service_name}"
    return Address(shown_place, maker, provider=options.get("credential_provider"))


def _in_time(finder: Any, timeout: float) -> Any:
    """A copy of what finds the primary, whose Sentinels are asked once, for half of `timeout` each at most.

    With the client's own timeouts, which may be none at all, one frozen Sentinel would keep connections from being made.
    """
    from copy import copy

    from redis import ConnectionPool, Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    class OneUse(ConnectionPool):
        """A pool that keeps nothing open: Sentinels are asked when a connection is made, and hardly ever again."""

        def release(self, connection: Any) -> None:
            connection.disconnect()
            super().release(connection)

    def bounded(sentinel: Any) -> Any:
        pool = sentinel.connection_pool
        options = {name: value for name, value in pool.connection_kwargs.items() if _is_ours(name)}
        options |= {"socket_timeout": timeout / 2, "socket_connect_timeout": timeout / 2}
        return Redis(connection_pool=OneUse(pool.connection_class, retry=Retry(NoBackoff(), 0), **options))

    found = copy(finder)
    found.sentinel_manager = copy(finder.sentinel_manager)
    found.sentinel_manager.sentinels = [bounded(sentinel) for sentinel in finder.sentinel_manager.sentinels]
    return found


def _from_cluster_client(client: Any, credentials: object) -> Address:
    nodes = client.nodes_manager
    startup = tuple((node.host, node.port) for node in nodes.startup_nodes.values())
    # redis-py itself turns a cluster's options into those of a connection.
    pool = nodes.create_redis_node(*startup[0], **nodes.connection_kwargs).connection_pool
    options = _options(pool, credentials)
    options["redis_connect_func"] = _greeting(client.user_on_connect_func)
    host, port = startup[0]
    return Address(
        f"redis.RedisCluster at {host}:{port}",
        lambda timeout: _maker(pool.connection_class, options, timeout),
        startup,
        lambda place: nodes.remap_host_port(*place),
        options.get("credential_provider"),
    )


def _greeting(own: Callable[[Any], None] | None) -> Callable[[Any], None] | None:
    """What a cluster client does to a new connection, less READONLY, which would let replicas answer."""
    if own is None:
        return None

    def greet(connection: Any) -> None:
        connection.on_connect()
        own(connection)

    return greet


_NOT_OURS = {
    "cache",
    "cache_config",
    "cluster",
    "command_packer",
    "decode_responses",
    "driver_info",
    "encoding",
    "encoding_errors",
    "event_dispatcher",
    "health_check_interval",
    "legacy_responses",
    "lib_name",
    "lib_version",
    "max_connections",
    "parser_class",
    "protocol",
    "retry",
    "retry_on_error",
    "retry_on_timeout",
    "socket_connect_timeout",
    "socket_read_size",
    "socket_timeout",
}
_NOT_OURS_BY_PREFIX = ("himport_", "maint_notifications_", "maintenance_", "orig_", "oss_cluster_")


def _is_ours(name: str) -> bool:
    """Whether an option of a client says where the server is and who we are, and not how a client goes about it."""
    return name not in _NOT_OURS and not name.startswith(_NOT_OURS_BY_PREFIX)


def _require_redis() -> None:
    from importlib.util import find_spec

    if find_spec("redis") is None:
        raise ImportError("RedisTier needs the package redis: pip install 'tiered-cache[redis]'")


def _maker_from_url(url: str, timeout: float, provider: CredentialProvider | None) -> Callable[..., Any]:
    from redis.connection import Connection, parse_url

    options: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
    kind = options.pop("connection_class", Connection)
    options["credential_provider"] = provider
    return _maker(kind, {name: value for name, value in options.items() if _is_ours(name)}, timeout)


def _maker(kind: type[Any], options: dict[str, Any], timeout: float) -> Callable[..., Any]:
    """A function that makes a connection that keeps to `timeout`, never retries, and says no more than it must.

    It may be given another `host` and `port`.
    """
    from inspect import signature

    from redis.backoff import NoBackoff
    from redis.connection import AbstractConnection
    from redis.retry import Retry

    from tiered_cache._l2.link import deadline_connection

    how: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # one message before the first command instead of up to five; nothing here needs RESP3
    }
    known = signature(AbstractConnection.__init__).parameters
    for name in ("driver_info",) if "driver_info" in known else ("lib_name", "lib_version"):
        how[name] = None  # no CLIENT SETINFO, which would be two messages more
    bounded = deadline_connection(kind)
    provider = options.get("credential_provider")
    if provider is None:
        return lambda **place: bounded(**(options | how | place))
    return lambda **place: bounded(**(options | how | place | {"credential_provider": Asked(provider)}))
