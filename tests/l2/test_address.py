"""Where L2 is: URLs and clients, good ones and bad ones, and what an error may say of them."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis import asyncio as redis_asyncio
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from rig import within

from tiered_cache import ConfigurationError, RedisTier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rig import Rig, TLSServer

    from tiered_cache.local.valkey import ValkeyServer

SECRET = "hunter2"


def everything(error: BaseException) -> str:
    """What can be read from an error and from all that led to it."""
    seen: list[str] = []
    part: BaseException | None = error
    while part is not None:
        seen += [str(part), repr(part)]
        part = part.__cause__ or part.__context__
    return "\n".join(seen)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://cache", "redis://cache"),
        ("redis://cache:6380/3", "redis://cache:6380/3"),
        (f"redis://:{SECRET}@cache", "redis://cache"),
        (f"rediss://user:{SECRET}@cache:6379/0", "rediss://cache:6379/0"),
        (f"redis://cache?password={SECRET}&username=u&db=2&client_name=orders", "redis://cache"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        (f"unix://:{SECRET}@/run/valkey.sock?db=1", "unix:///run/valkey.sock"),
        (
            "rediss://cache?ssl_cert_reqs=none&ssl_check_hostname=false&protocol=3&socket_keepalive=yes",
            "rediss://cache",
        ),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    """Every form of URL is taken, and its repr names the place and nothing secret."""
    assert repr(RedisTier(url, ttl=60)) == f"RedisTier({shown}, ttl=60, timeout=0.2)"


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "must begin with"),
        ("cache:6379", "must begin with"),
        (f":{SECRET}@cache", "must begin with"),
        (f"user:{SECRET}@cache:6379", "must begin with"),
        (f"redis:/user:{SECRET}@cache", "must begin with"),
        ("http://cache", "http://"),
        ("REDIS://cache", "must begin with"),
        (" redis://cache", "must begin with"),
        ("redis://", "names no host"),
        ("redis://:6379", "names no host"),
        ("unix://", "names no socket"),
        ("redis://cache:0", "port from 1"),
        ("redis://cache:65536", "host or port"),
        ("redis://cache:port", "host or port"),
        (f"redis://user:p/{SECRET}@cache", "host or port"),
        ("redis://[::1", "host or port"),
        (f"redis://user:{SECRET}\u2100@cache", "host or port"),
        ("redis://cache/orders", "database number"),
        ("redis://cache/0/1", "database number"),
        ("redis://cache/-1", "database number"),
        ("redis://cache?db=first", "db must be a number"),
        (f"redis://user:123/{SECRET}@cache", "%2F"),
        (f"redis://user:123?{SECRET}@cache", "%2F"),
        (f"redis://user:123#{SECRET}@cache", "%2F"),
        (f"redis://cache#{SECRET}", "#"),
        ("redis://cache?socket_timeout=1", "must not set socket_timeout: the time limit is RedisTier"),
        ("redis://cache?socket_connect_timeout=1", "must not set"),
        ("redis://cache?retry_on_timeout=yes", "must not set"),
        ("redis://cache?max_connections=3", "must not set"),
        ("redis://cache?tls=yes", "unknown option tls"),
        ("redis://cache?protocol=4", "protocol must be 2 or 3"),
        ("rediss://cache?ssl_cert_reqs=never", "ssl_cert_reqs must be none"),
        ("rediss://cache?ssl_check_hostname=maybe", "true or false"),
        ("rediss://cache?ssl_ca_certs=/nowhere/ca.pem", "a file that exists"),
        ("redis://cache?client_name=", "client_name must be a text"),
    ],
)
def test_a_bad_url_is_refused_at_once(url: str, word: str) -> None:
    """B07: the error says what is allowed, and no part of it or of what led to it shows a password."""
    with pytest.raises(ConfigurationError) as caught:
        RedisTier(url, ttl=60)
    assert word in str(caught.value)
    assert SECRET not in everything(caught.value)


@pytest.mark.parametrize("given", [None, 6379, b"redis://cache", ["redis://a", "redis://b"], object(), redis])
def test_what_is_neither_url_nor_client_is_refused(given: Any) -> None:
    """B06: two of them, or another thing altogether, are a ConfigurationError that says what is expected."""
    with pytest.raises(ConfigurationError, match=r"expects a URL .* or a redis\.Redis"):
        RedisTier(given, ttl=60)


@pytest.mark.parametrize("client", [redis_asyncio.Redis(), redis_asyncio.RedisCluster(host="cache")])
def test_an_async_client_is_refused(client: Any) -> None:
    """B10: an asyncio client is a TypeError that says what to give instead."""
    with pytest.raises(TypeError, match=r"asyncio client.*give a redis\.Redis or a URL"):
        RedisTier(client, ttl=60)


def test_without_redis_the_error_names_the_extra() -> None:
    """B39: where redis is not installed, the constructor says what to install."""
    code = """if True:
        from importlib.machinery import PathFinder
        find = PathFinder.find_spec
        PathFinder.find_spec = lambda name, *rest: None if name.split(".")[0] == "redis" else find(name, *rest)
        from tiered_cache import RedisTier
        try:
            RedisTier("redis://cache", ttl=60)
        except ImportError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'tiered-cache[redis]'" in done.stdout


def test_without_redis_the_error_comes_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    """B39: and not at the first call."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ImportError, match="tiered-cache"):
        RedisTier("redis://cache", ttl=60)


def test_making_a_tier_imports_no_redis() -> None:
    """A cold start pays for redis when L2 is first used, and not before."""
    code = (
        "import sys; from tiered_cache import RedisTier; RedisTier('redis://h', ttl=60); print('redis' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture
def locked(server: ValkeyServer) -> Iterator[str]:
    """Host and port of a server that wants a user and a password, and two databases with different contents."""
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", f">{SECRET}", "~*", "+@all")
        admin.execute_command("ACL", "SETUSER", "default", "resetpass", f">{SECRET}-default")
        yield f"127.0.0.1:{server.port}"


@pytest.mark.parametrize("form", ["redis://reader:{}@{}/3", "redis://{1}?db=3&username=reader&password={0}"])
def test_user_password_and_database_of_a_url_are_used(locked: str, form: str, rig_of: Callable[..., Rig]) -> None:
    """What a URL says of credentials and database is what the connection uses."""
    rig = rig_of(form.format(SECRET, locked))
    assert rig.reads_l2()
    with redis.Redis(port=int(locked.split(":")[1]), db=3, username="reader", password=SECRET) as reader:
        assert reader.dbsize() == 3


def test_a_password_with_reserved_letters_is_written_with_percent(
    server: ValkeyServer, rig_of: Callable[..., Rig]
) -> None:
    """The hint that the error for a cut URL gives is right."""
    with redis.Redis(port=server.port) as admin:
        admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">a/b?c#d@e:f%g")
    assert rig_of(f"redis://:a%2Fb%3Fc%23d%40e%3Af%25g@127.0.0.1:{server.port}").reads_l2()


def test_a_unix_socket_is_served(tmp_path: Path, rig_of: Callable[..., Rig]) -> None:
    """A URL may name a socket of the same host; one that is not there is refused by nobody."""
    from tiered_cache.local.valkey import ValkeyServer

    with ValkeyServer(config=("--unixsocket", f"{tmp_path}/s")):
        assert rig_of(f"unix://{tmp_path}/s").reads_l2()
    rig = rig_of(f"unix://{tmp_path}/nobody")
    assert rig.ask().tier == "origin"
    assert rig.errors == {"refused": 1}


CLIENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decoding": {"decode_responses": True, "encoding": "latin-1"},
    "resp3": {"protocol": 3},
    "named": {"client_name": "orders"},
}


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_handed_in_gives_its_address(locked: str, kind: str, rig_of: Callable[..., Rig]) -> None:
    """Host, port, database, user and password are taken from a redis.Redis; how it decodes is not."""
    port = int(locked.split(":")[1])
    with redis.Redis(port=port, db=2, username="reader", password=SECRET, **CLIENTS[kind]) as client:
        rig = rig_of(client)
        assert rig.reads_l2()
        assert client.dbsize() == 3
    assert SECRET not in repr(rig.tier)
    assert f"localhost:{port}" in repr(rig.tier)


def test_a_pool_handed_in_by_url_gives_its_address(locked: str, rig_of: Callable[..., Rig]) -> None:
    """A client over a pool that was made from a URL is as good."""
    pool = redis.BlockingConnectionPool.from_url(f"redis://reader:{SECRET}@{locked}/1", timeout=9, max_connections=1)
    with redis.Redis(connection_pool=pool) as client:
        assert rig_of(client).reads_l2()
    pool.disconnect()


def test_a_clients_own_timeouts_and_retries_are_ignored(server: ValkeyServer, rig_of: Callable[..., Rig]) -> None:
    """B11: with the client's thirty seconds and its retries a frozen server would hold a call for minutes."""
    retry = Retry(ExponentialBackoff(), 10)
    client = redis.Redis(port=server.port, socket_timeout=30, retry=retry, health_check_interval=1)
    rig = rig_of(client, server.url)
    assert rig.reads_l2()
    server.pause()
    with rig.hurried(), within(1.2):
        assert rig.ask().tier == "origin"
    assert rig.errors == {"timeout": 1}
    server.resume()
    client.close()


def test_a_credential_provider_is_asked_for_each_connection(locked: str, rig_of: Callable[..., Rig]) -> None:
    """Passwords that change, such as those made by IAM, are asked for anew when a connection is made."""

    class Provider(redis.CredentialProvider):
        asked = 0

        def get_credentials(self) -> tuple[str, str]:
            self.asked += 1
            return "reader", SECRET

    provider = Provider()
    with redis.Redis(port=int(locked.split(":")[1]), credential_provider=provider) as client:
        rig = rig_of(client)
        assert rig.reads_l2()
        before = provider.asked
        client.client_kill_filter(_type="normal", skipme=True)
        assert rig.reads_l2()
        assert provider.asked > before


def test_a_connection_class_of_ones_own_is_used(valkey: ValkeyServer, rig_of: Callable[..., Rig]) -> None:
    """A client's connection class is kept, with what it wants to know."""
    made: list[str] = []

    class Own(redis.Connection):
        def __init__(self, *, colour: str, **options: Any) -> None:
            made.append(colour)
            super().__init__(**options)

    pool = redis.ConnectionPool(connection_class=Own, port=valkey.port, colour="blue")
    with redis.Redis(connection_pool=pool) as client:
        assert rig_of(client, valkey.url).reads_l2()
    assert "blue" in made


def test_a_client_with_tls_is_served(
    tls: TLSServer, certificate: Path, valkey: ValkeyServer, rig_of: Callable[..., Rig]
) -> None:
    """What a client says of TLS is kept: with its certificate authority it works, without one it does not."""
    with redis.Redis(port=tls.port, host="127.0.0.1", ssl=True, ssl_ca_certs=f"{certificate}.crt") as client:
        assert rig_of(client, valkey.url).reads_l2()
    with redis.Redis(port=tls.port, host="127.0.0.1", ssl=True) as client:
        rig = rig_of(client, valkey.url)
        assert not rig.reads_l2()
        assert rig.errors == {"tls": 1}


@pytest.mark.parametrize("url", ["redis://user:{}@127.0.0.1:{}/7", "redis://127.0.0.1:{1}?password={0}"])
def test_no_log_line_shows_the_password(
    url: str, rig_of: Callable[..., Rig], valkey: ValkeyServer, nobody: int, caplog: pytest.LogCaptureFixture
) -> None:
    """I11: neither a refused connection nor refused credentials put the password into the log."""
    caplog.set_level(logging.DEBUG)
    for port in (nobody, valkey.port):
        rig_of(url.format(SECRET, port), valkey.url).ask()
    assert len(caplog.records) == 2
    assert SECRET not in caplog.text
