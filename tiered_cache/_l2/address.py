"""Where L2 is: a URL or a redis-py client, checked when it is given and turned into a maker of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tiered_cache._errors import ConfigurationError
from tiered_cache._units import shown

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEMES = ("redis", "rediss", "unix")
_FORMS = "redis://host:6379/0, rediss://user:password@host:6379 (TLS) or unix:///path/to/socket"
_URL_OPTIONS = ("db", "client_name", "protocol", "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile")
_URL_OPTIONS += ("ssl_keyfile", "ssl_check_hostname", "ssl_min_version", "username", "password", "socket_keepalive")


class Address(NamedTuple):
    """An address without its secrets, and how to make a connection to it (not yet connected) within a timeout."""

    shown: str
    maker: Callable[[float], Callable[[], Any]]


def address_of(given: object) -> Address:
    """The address in a URL or a client. Raises ConfigurationError or TypeError, in whose text no password stands."""
    if isinstance(given, str):
        return _from_url(given)
    return _from_client(given)


def _from_url(url: str) -> Address:
    from urllib.parse import parse_qs, urlsplit

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"RedisTier url has a port or host that is none; allowed: {_FORMS}") from None
    masked = _masked(parts.scheme, parts.hostname, port, parts.path)
    if parts.scheme not in SCHEMES:
        raise ConfigurationError(f"RedisTier url must begin with {', '.join(s + '://' for s in SCHEMES)}; got {masked}")
    if parts.scheme == "unix":
        if not parts.path:
            raise ConfigurationError(f"RedisTier url names no socket; allowed: {_FORMS}")
    elif not parts.hostname:
        raise ConfigurationError(f"RedisTier url names no host; got {masked}; allowed: {_FORMS}")
    elif port == 0:
        raise ConfigurationError(f"RedisTier url must have a port from 1 to 65535; got {masked}")
    elif parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise ConfigurationError(f"RedisTier url may end in a database number, such as /0; got {masked}")
    for name in parse_qs(parts.query, keep_blank_values=True):
        if name.endswith("timeout") or name.startswith("retry") or name == "max_connections":
            raise ConfigurationError(f"RedisTier url must not set {name}: the time limit is RedisTier(timeout=…)")
        if name not in _URL_OPTIONS:
            raise ConfigurationError(f"RedisTier url has the unknown option {name}; allowed: {', '.join(_URL_OPTIONS)}")
    _require_redis()
    return Address(masked, lambda timeout: _maker_from_url(url, timeout))


def _masked(scheme: str, host: str | None, port: int | None, path: str) -> str:
    place = (host or "") + (f":{port}" if port else "") + path
    return f"{scheme}://{place}" if scheme else f"{place!r} without a scheme"


def _from_client(client: Any) -> Address:
    kinds = [base.__module__ for base in type(client).__mro__]
    if any(kind.startswith("redis.asyncio") for kind in kinds):
        raise TypeError("RedisTier got an asyncio client, and this cache is synchronous: give a redis.Redis or a URL")
    if hasattr(client, "nodes_manager"):
        raise ConfigurationError("RedisTier got a cluster client: only a single server is served so far; give its URL")
    pool = getattr(client, "connection_pool", None)
    if pool is None or not any(kind.split(".")[0] == "redis" for kind in kinds):
        raise ConfigurationError(f"RedisTier expects a URL ({_FORMS}) or a redis.Redis; got {shown(client)}")
    options = pool.connection_kwargs
    place = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    return Address(f"redis.Redis at {place}", lambda timeout: _maker(pool.connection_class, dict(options), timeout))


def _require_redis() -> None:
    from importlib.util import find_spec

    if find_spec("redis") is None:
        raise ImportError("RedisTier needs the package redis: pip install 'tiered-cache[redis]'")


def _maker_from_url(url: str, timeout: float) -> Callable[[], Any]:
    from redis.connection import Connection, parse_url

    options = dict(parse_url(url))
    return _maker(options.pop("connection_class", Connection), options, timeout)


_NOT_OURS = ("max_connections", "retry_on_timeout", "retry_on_error", "cache", "cache_config", "lib_name", "lib_version")
_NOT_OURS += ("maint_notifications_pool_handler", "oss_cluster_maint_notifications_handler", "event_dispatcher")


def _maker(kind: type[Any], options: dict[str, Any], timeout: float) -> Callable[[], Any]:
    """A function that makes a connection that keeps to `timeout`, never retries, and says no more than it must."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from tiered_cache._l2.link import deadline_connection

    for name in _NOT_OURS:
        options.pop(name, None)
    options.update(
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
        decode_responses=False,
        protocol=2,  # one message before the first command instead of up to five; nothing here needs RESP3
        driver_info=None,
    )
    bounded = deadline_connection(kind)
    return lambda: bounded(**options)
