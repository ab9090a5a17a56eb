"""Credentials that are asked for at each connect, on every kind of link; and the tokens of ElastiCache's IAM."""

from __future__ import annotations

import hashlib
import hmac
import logging
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from queue import Queue
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote

import boto3
import pytest
import redis
from botocore.credentials import RefreshableCredentials
from botocore.session import Session
from rig import TLSServer, wait_until, within

from tiered_cache import ConfigurationError, RedisTier
from tiered_cache._l2.credentials import MAX_AGE
from tiered_cache._l2.faults import Failure, Unavailable
from tiered_cache._l2.link import Deadline, _Attempt
from tiered_cache.adapters.elasticache import ElastiCacheIAM
from tiered_cache.local.cluster import ValkeyCluster, ValkeySentinel
from tiered_cache.local.valkey import ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rig import Rig

    from tiered_cache.local.valkey import ValkeyServer

    RigOf = Callable[..., Rig]

SECRET = "hunter2"
TIMEOUT = 0.5


class Provider:
    """Gives what it is told to, and counts how often it was asked."""

    def __init__(self, *given: Any) -> None:
        self.given: Any = given
        self.asked = 0

    def get_credentials(self) -> Any:
        self.asked += 1
        if isinstance(self.given, BaseException):
            raise self.given
        return self.given


def admit(server: ValkeyServer, password: str) -> None:
    """Let the user `app` in by this password alone, and end the connections that came by another."""
    assert ask(server.port, f"ACL SETUSER app on resetpass >{password} ~tc1:* +@all").startswith("+OK")
    ask(server.port, "CLIENT KILL USER app")


def url(server: Any, kind: str = "redis") -> str:
    return f"{kind}://127.0.0.1:{server.port}"


# Each connect asks


def test_credentials_may_rotate_between_connects(rig_of: RigOf, server: ValkeyServer) -> None:
    """The provider is asked for each connection, and for nothing else; what it gave before is not kept."""
    admit(server, "first")
    provider = Provider("app", "first")
    rig = rig_of(url(server), server.url, credentials=provider)
    assert all(rig.reads_l2() for _ in range(5))
    assert (provider.asked, rig.l2.connects) == (1, 1)
    for password in ("second", "third"):
        admit(server, password)
        provider.given = ("app", password)
        assert rig.reads_l2()
    assert (provider.asked, rig.l2.connects, rig.errors) == (3, 3, {})


def test_a_password_alone(rig_of: RigOf, server: ValkeyServer) -> None:
    """A provider may give no user, as redis-py's may."""
    assert ask(server.port, f"CONFIG SET requirepass {SECRET}").startswith("+OK")
    rig = rig_of(url(server), f"redis://:{SECRET}@127.0.0.1:{server.port}", credentials=Provider(SECRET))
    assert rig.reads_l2()


def test_a_cluster_asks_for_each_node(rig_of: RigOf) -> None:
    """Each node that is connected to is told who we are."""
    with ValkeyCluster(node_timeout=60_000) as cluster:
        for node in cluster.nodes:
            admit(node, "first")
        by_url, by_client = Provider("app", "first"), Provider("app", "first")
        rig = rig_of(cluster.url, cluster.url, credentials=by_url)
        assert all(rig.reads_l2() for _ in range(10))
        assert by_url.asked == rig.l2.connects > 1
        client = redis.RedisCluster(host=cluster.host, port=cluster.nodes[0].port, credential_provider=by_client)
        asked = by_client.asked
        taken = rig_of(client, cluster.url)
        assert all(taken.reads_l2() for _ in range(10))
        assert by_client.asked == asked + taken.l2.connects
        client.close()
        assert (rig.errors, taken.errors) == ({}, {})


def test_sentinels_lead_to_a_primary_that_asks(rig_of: RigOf) -> None:
    """The primary is told who we are, with a provider of the client's or of the tier's; its Sentinels are not."""
    with ValkeySentinel(down_after=60_000) as watched:
        admit(watched.primary(), "first")
        manager = redis.Sentinel(watched.addresses)
        for own in (True, False):
            provider = Provider("app", "first")
            options = {"credential_provider": provider} if own else {}
            with manager.master_for(watched.name, **options) as client:
                given = {} if own else {"credentials": provider}
                rig = rig_of(client, watched.primary().url, **given)
                assert all(rig.reads_l2() for _ in range(3))
            assert (provider.asked, rig.l2.connects, rig.errors) == (1, 1, {})
        for sentinel in manager.sentinels:
            sentinel.close()


def test_a_clients_provider_is_taken_over(rig_of: RigOf, server: ValkeyServer) -> None:
    """As its user and password are; what redis-py's own client has asked for is not used."""
    admit(server, "first")
    provider = Provider("app", "first")
    with redis.Redis(port=server.port, credential_provider=provider) as client:
        rig = rig_of(client, server.url)
        assert rig.reads_l2()
    assert provider.asked == 1
    assert rig.tier.address.provider is provider


def test_a_client_and_a_provider_beside_it(rig_of: RigOf, server: ValkeyServer) -> None:
    """A client without credentials gives the place, and the provider gives them."""
    admit(server, "first")
    with redis.Redis(port=server.port) as client:
        assert rig_of(client, server.url, credentials=Provider("app", "first")).reads_l2()


@pytest.mark.parametrize("has_provider", [True, False])
def test_a_connection_is_replaced_before_the_server_ends_it(
    has_provider: bool, rig_of: RigOf, server: ValkeyServer
) -> None:
    """One that was authenticated by a provider lasts for eleven hours, though it never idles; others have no such end."""
    admit(server, "first")
    provider = Provider("app", "first")
    address = url(server) if has_provider else f"redis://app:first@127.0.0.1:{server.port}"
    rig = rig_of(address, server.url, **({"credentials": provider} if has_provider else {}))
    store, now = rig.tier.bind("test"), rig.clock()
    store.read("key", now, None)
    for at in range(30, int(MAX_AGE), 30):
        store.read("key", now + at, None)
    assert rig.l2.connects == 1
    store.read("key", now + MAX_AGE, None)
    assert rig.tier.connects == 1 + has_provider
    assert provider.asked == 2 * has_provider


# What can be wrong


@pytest.mark.parametrize(
    ("given", "failure"),
    [
        (RuntimeError(SECRET), "auth"),
        (SystemExit(SECRET), "auth"),
        (ConfigurationError("no AWS region is known"), "auth"),
        (TimeoutError(SECRET), "timeout"),
        (None, "auth"),
        (SECRET, "auth"),
        ((), "auth"),
        (("app", None), "auth"),
        (("app", SECRET, "more"), "auth"),
        ([SECRET], "auth"),
        (("app", SECRET), "auth"),
    ],
)
def test_a_provider_that_fails_is_a_failure_of_l2(
    given: Any, failure: str, rig_of: RigOf, server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    """What it raises, or gives amiss, reaches no caller and no log: it is counted, and L2 is left alone for a while."""
    admit(server, "first")
    provider = Provider()
    provider.given = given
    rig = rig_of(url(server), server.url, credentials=provider)
    assert [rig.ask().tier for _ in range(3)] == ["origin"] * 3
    assert (rig.errors, rig.l2.breaker, provider.asked) == ({failure: 1}, "open", 1)
    assert SECRET not in caplog.text
    assert "Traceback" not in caplog.text
    if isinstance(given, ConfigurationError):
        assert "no AWS region is known" in caplog.text
    provider.given = ("app", "first")
    assert rig.recovers()


class Slow(Provider):
    """Answers when the test says so."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.is_asked, self.answers = threading.Event(), threading.Event()

    def get_credentials(self) -> Any:
        super().get_credentials()
        self.is_asked.set()
        assert self.answers.wait(60)
        return self.given


def test_a_provider_that_hangs_ends_at_the_timeout(rig_of: RigOf, server: ValkeyServer) -> None:
    """It is asked within the call's own time, in one thread at most; what it gives too late opens no connection for long."""
    admit(server, "first")
    provider = Slow("app", "first")
    rig = rig_of(url(server), server.url, credentials=provider)
    for _ in range(2):
        with rig.hurried(TIMEOUT), within(TIMEOUT + 1):
            assert rig.ask().tier == "origin"
        rig.clock.advance(31)
    wait_until(lambda: provider.asked > 0)
    assert (rig.errors, provider.asked) == ({"timeout": 2}, 1)
    provider.answers.set()
    wait_until(lambda: not any(thread.name == "tiered_cache-connect" for thread in threading.enumerate()))
    assert rig.recovers()


def test_who_waits_for_a_provider_is_told_so(rig_of: RigOf, server: ValkeyServer) -> None:
    """Nothing in it leads to TLS, as the words for a server that does not answer do."""
    admit(server, "first")
    provider = Slow("app", "first")
    tier = rig_of(url(server), server.url, credentials=provider).tier
    slot = threading.Lock()
    assert slot.acquire()
    attempt = _Attempt(tier.address.maker(60), Deadline(60, 0.0), slot)  # whose time is up
    assert provider.is_asked.wait(60)
    with pytest.raises(Unavailable, match="^the provider of the credentials was too slow$") as caught:
        attempt.result()
    assert caught.value.failure is Failure.TIMEOUT
    provider.answers.set()
    wait_until(lambda: isinstance(attempt.late(), TimeoutError))


def test_who_waits_behind_another_for_a_provider_is_told_so(rig_of: RigOf, server: ValkeyServer) -> None:
    """There is one attempt to connect at a time."""
    admit(server, "first")
    provider = Slow("app", "first")
    rig = rig_of(url(server), server.url, credentials=provider)
    link, replies = rig.tier.link(), Queue[object]()
    first = threading.Thread(target=lambda: replies.put(link.call([(b"PING",)], rig.clock(), 60)))
    first.start()
    assert provider.is_asked.wait(60)
    with pytest.raises(Unavailable, match="^the provider of the credentials was too slow$"):
        link.call([(b"PING",)], rig.clock(), 0.0)
    provider.answers.set()
    first.join(60)
    assert replies.get_nowait() == [b"PONG"]


@pytest.mark.parametrize(
    ("address", "word"),
    [
        (f"rediss://app:{SECRET}@cache", "beside a user or password"),
        (f"rediss://:{SECRET}@cache", "beside a user or password"),
        ("rediss://app@cache", "beside a user or password"),
        (f"rediss://cache?password={SECRET}", "beside a user or password"),
        ("rediss://cache?username=app", "beside a user or password"),
        (f"unix://:{SECRET}@/run/valkey.sock", "beside a user or password"),
        (redis.Redis(username="app", password=SECRET), "beside a user or password"),
        (redis.Redis(credential_provider=redis.CredentialProvider()), "beside a user or password"),
    ],
    ids=str,
)
def test_two_kinds_of_credentials_are_refused(address: Any, word: str) -> None:
    """One of them would be ignored in silence."""
    with pytest.raises(ConfigurationError, match=f"^credentials means nothing {word}") as caught:
        RedisTier(address, ttl=60, credentials=Provider("app", SECRET))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("given", [SECRET, ("app", SECRET), object(), 0])
def test_what_is_no_provider_is_refused(given: Any) -> None:
    """The text says what is expected, and not what was given: it may be a password."""
    with pytest.raises(ConfigurationError, match=r"^credentials must be an object with get_credentials\(\)") as caught:
        RedisTier("redis://cache", ttl=60, credentials=given)
    assert SECRET not in str(caught.value)


# ElastiCache's tokens

KEY, HIDDEN, SESSION_TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "IQoJb3JpZ2luX2Vj/+=="


def session_with(key: str = KEY, secret: str = HIDDEN, token: str | None = SESSION_TOKEN) -> Session:
    session = Session()
    session.set_credentials(key, secret, token)
    return session


def computed(host: str, query: list[tuple[str, str]], secret: str) -> str:
    """The signature of a presigned GET of `https://host/?query`, by the rules of "Signature Version 4", by hand."""
    facts = dict(query)
    date, region, service, _ = facts["X-Amz-Credential"].split("/")[1:]
    scope = f"{date}/{region}/{service}/aws4_request"
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query)
    canonical = "\n".join(
        ("GET", "/", "&".join("=".join(pair) for pair in pairs), f"host:{host}\n", "host", hashlib.sha256().hexdigest())
    )
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    to_sign = f"AWS4-HMAC-SHA256\n{facts['X-Amz-Date']}\n{scope}\n{hashed}"
    return hmac.new(key, to_sign.encode(), "sha256").hexdigest()


def parts_of(token: str) -> tuple[str, list[tuple[str, str]], str]:
    """Host, query without its signature, and signature."""
    host, _, query = token.partition("/?")
    *pairs, (last, signature) = parse_qsl(query, strict_parsing=True)
    assert last == "X-Amz-Signature"
    return host, pairs, signature


@pytest.mark.parametrize("serverless", [True, False])
@pytest.mark.parametrize("token", [SESSION_TOKEN, None])
def test_a_token_is_a_presigned_request(serverless: bool, token: str | None) -> None:
    """Its parts are those that ElastiCache asks for, and its signature is what the rules give."""
    iam = ElastiCacheIAM(
        "orders-fn", "Orders-Cache", region="eu-west-1", serverless=serverless, session=session_with(token=token)
    )
    user, password = iam.get_credentials()
    host, query, signature = parts_of(password)
    facts = dict(query)
    made = datetime.strptime(facts.pop("X-Amz-Date"), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - made) < timedelta(minutes=1)
    expected = {
        "Action": "connect",
        "User": "orders-fn",
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{KEY}/{made:%Y%m%d}/eu-west-1/elasticache/aws4_request",
        "X-Amz-Expires": "900",
        "X-Amz-SignedHeaders": "host",
    }
    if serverless:
        expected["ResourceType"] = "ServerlessCache"
    if token:
        expected["X-Amz-Security-Token"] = token
    assert (user, host, facts) == ("orders-fn", "orders-cache", expected)
    assert signature == computed(host, query, HIDDEN)
    assert computed(host, query, HIDDEN + "x") != signature
    assert not password.startswith("http")


def test_credentials_are_read_when_a_token_is_signed() -> None:
    """Those that the role has now, refreshed if they end soon; neither they nor a token are kept."""
    refreshed: list[int] = []

    def refresh() -> dict[str, str]:
        refreshed.append(1)
        ends = datetime.now(UTC) + timedelta(minutes=5)  # at once too old again: ten are the least
        return {
            "access_key": f"KEY{len(refreshed)}",
            "secret_key": HIDDEN,
            "token": f"token{len(refreshed)}",
            "expiry_time": ends.isoformat(),
        }

    session = Session()
    session._credentials = RefreshableCredentials.create_from_metadata(refresh(), refresh, "test")
    iam = ElastiCacheIAM("fn", "cache", region="eu-west-1", session=session)
    seen = [dict(parts_of(iam.get_credentials()[1])[1]) for _ in range(2)]
    assert [facts["X-Amz-Security-Token"] for facts in seen] == ["token2", "token3"]
    assert [facts["X-Amz-Credential"].split("/")[0] for facts in seen] == ["KEY2", "KEY3"]


@contextmanager
def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_CONFIG_FILE", "/nowhere")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name, value in values.items():
            patch.setenv(name, value)
        yield


def region_of(iam: ElastiCacheIAM) -> str:
    return dict(parts_of(iam.get_credentials()[1])[1])["X-Amz-Credential"].split("/")[2]


def test_the_region_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written comes first, then the session's, then that of the function."""
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": HIDDEN}
    with environment(monkeypatch, AWS_REGION="eu-west-3", AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=HIDDEN):
        assert region_of(ElastiCacheIAM("fn", "cache")) == "eu-west-3"
        session = boto3.Session(region_name="eu-west-2", **keys)
        assert region_of(ElastiCacheIAM("fn", "cache", session=session)) == "eu-west-2"
        assert region_of(ElastiCacheIAM("fn", "cache", session=session, region="eu-west-1")) == "eu-west-1"
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
        assert region_of(ElastiCacheIAM("fn", "cache", session=Session())) == "eu-west-2"
        monkeypatch.delenv("AWS_DEFAULT_REGION")


def test_what_a_token_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a region or credentials the error says what to give."""
    with environment(monkeypatch):
        with pytest.raises(ConfigurationError, match="no AWS credentials found: give the function a role"):
            ElastiCacheIAM("fn", "cache", region="eu-west-1").get_credentials()
        with pytest.raises(ConfigurationError, match=r"no AWS region is known: write ElastiCacheIAM\(…, region=…\)"):
            ElastiCacheIAM("fn", "cache", session=session_with()).get_credentials()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"user": ""}, "user must be of letters"),
        ({"user": None}, "user must be a str; got None"),
        ({"user": "a b"}, "user must be of letters, digits and hyphens; got 'a b'"),
        ({"cache_name": "cache.abc.euw1.cache.amazonaws.com"}, "cache_name must be of .*it is no endpoint"),
        ({"region": "Frankfurt"}, "region must be of such as eu-west-1"),
        ({"serverless": "yes"}, "serverless must be True or False"),
        ({"session": "default"}, "session must be a boto3 or botocore session; got 'default'"),
    ],
)
def test_bad_names_are_refused(given: dict[str, Any], text: str) -> None:
    """When it is made, by a text that names the argument and what is allowed."""
    with pytest.raises(ConfigurationError, match=f"^{text}"):
        ElastiCacheIAM(**({"user": "fn", "cache_name": "cache"} | given))


@pytest.mark.parametrize(
    "address", ["redis://cache", "unix:///run/valkey.sock", "redis://cache?cluster=true", redis.Redis()], ids=str
)
def test_a_token_is_not_sent_in_plain_text(address: Any) -> None:
    """It is as good as a password for a quarter of an hour, and ElastiCache would not take it."""
    with pytest.raises(ConfigurationError, match=r"^credentials=ElastiCacheIAM\(…\) needs TLS: write rediss://"):
        RedisTier(address, ttl=60, credentials=ElastiCacheIAM("fn", "cache"))


def test_a_clients_own_provider_needs_tls_too() -> None:
    """The same where it was given to redis-py."""
    iam = ElastiCacheIAM("fn", "cache")
    with pytest.raises(ConfigurationError, match="needs TLS"):
        RedisTier(redis.Redis(credential_provider=iam), ttl=60)
    RedisTier(redis.Redis(credential_provider=iam, ssl=True), ttl=60)
    RedisTier("rediss://cache", ttl=60, credentials=iam)


def test_a_connection_by_iam(
    rig_of: RigOf, server: ValkeyServer, certificate: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Over TLS, to a server that takes the user with any password; with credentials that are there from then on."""
    caplog.set_level(logging.DEBUG, "tiered_cache")
    assert ask(server.port, "ACL SETUSER fn on nopass ~tc1:* +@all").startswith("+OK")
    session = Session()
    session.get_credentials = lambda: None  # as while the role's credentials cannot be had
    with TLSServer(certificate, server.port) as tls:
        address = f"{url(tls, 'rediss')}?ssl_ca_certs={certificate}.crt"
        iam = ElastiCacheIAM("fn", "cache", region="eu-west-1", session=session)
        rig = rig_of(address, server.url, credentials=iam)
        assert rig.ask().tier == "origin"
        assert rig.errors == {"auth": 1}
        assert "ConfigurationError: no AWS credentials found" in caplog.text
        session.get_credentials = session_with().get_credentials
        assert rig.recovers()
        assert "fn" in ask(server.port, "CLIENT LIST").partition("user=fn")[1]
        rig.cache.close()


def test_botocore_is_imported_when_a_connection_is_made() -> None:
    """Neither the adapter nor a tier with it needs it before; and what it takes is not the first call's time."""
    code = """if True:
        import sys
        from tiered_cache import RedisTier
        from tiered_cache.adapters.elasticache import ElastiCacheIAM
        tier = RedisTier("rediss://cache", ttl=60, credentials=ElastiCacheIAM("fn", "cache"))
        assert "botocore" not in sys.modules and "redis" not in sys.modules
        tier.link()
        assert "botocore.signers" in sys.modules
        print(repr(ElastiCacheIAM("fn", "Cache", serverless=True)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ElastiCacheIAM('fn', 'cache', serverless=True)"


def test_without_botocore_it_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the other adapters do."""
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(ImportError, match=r"^ElastiCacheIAM needs botocore: pip install 'tiered-cache\[aws\]'$"):
        ElastiCacheIAM("fn", "cache").get_credentials()


def test_a_provider_that_cannot_be_prepared_is_found_out_later(rig_of: RigOf, server: ValkeyServer) -> None:
    """What it raises then comes again when it is asked, and is counted there."""
    provider = Provider()
    provider.given = ImportError("botocore")
    provider.prepare = provider.get_credentials
    rig = rig_of(url(server), server.url, credentials=provider)
    assert rig.ask().tier == "origin"
    assert (rig.errors, provider.asked) == ({"auth": 1}, 2)
