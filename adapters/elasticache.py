"""ElastiCache with IAM: tokens in place of passwords, signed at each connect and kept nowhere.

    RedisTier("rediss://…:6379", credentials=ElastiCacheIAM("orders-function", "orders"), ttl="1h")

The cache's user must have the same id and name, and the authentication mode `iam`; the function's role must be allowed
`elasticache:Connect` on the cache and the user ("Authenticating with IAM", Amazon ElastiCache User Guide).
"""

# pyright: reportMissingTypeStubs=false
# botocore has none.

from __future__ import annotations

import os
import re
from typing import Any, final
from urllib.parse import urlencode

from tiered_cache._errors import ConfigurationError
from tiered_cache._options import flag
from tiered_cache._units import shown

__all__ = ["ElastiCacheIAM"]

VALID = 900
"""Seconds within which a token must be used, the most that ElastiCache allows. It does not end the connection."""


@final
class ElastiCacheIAM:
    """Credentials for `RedisTier(credentials=…)`.

    user: the id of the cache's user, which is its name too.
    cache_name: the name of the serverless cache, or the id of the replication group; not its endpoint.
    region: that of the cache; None: the session's, else that in AWS_REGION.
    serverless: whether it is a serverless cache, for which tokens have another form.
    session: a boto3 or botocore session; None: a new one, by which the function's role is found.

    Needs botocore, which is imported when the first connection is made. Signing asks no server; fetching the role's
    credentials may, outside of Lambda. Raises ConfigurationError for names that cannot be.
    """

    needs_tls = True
    """What is sent is a password for a quarter of an hour, and ElastiCache takes it over TLS alone."""

    def __init__(
        self,
        user: str,
        cache_name: str,
        *,
        region: str | None = None,
        serverless: bool = False,
        session: Any = None,
    ) -> None:
        self._user = _checked("user", user, r"[A-Za-z][A-Za-z0-9-]*", "letters, digits and hyphens")
        name = _checked("cache_name", cache_name, r"[A-Za-z0-9-]+", "letters, digits and hyphens; it is no endpoint")
        self._cache_name = name.lower()  # as ElastiCache stores it, and signs it
        self._region = None if region is None else _checked("region", region, r"[a-z0-9-]+", "such as eu-west-1")
        self._serverless = flag("serverless", serverless)
        if session is not None and not callable(getattr(session, "get_credentials", None)):
            raise ConfigurationError(f"session must be a boto3 or botocore session; got {shown(session)}")
        self._session: Any = session

    def prepare(self) -> None:
        """Import botocore, and make the session if none was given. No server is asked."""
        if self._session is None:
            try:
                from botocore.session import Session
            except ImportError as error:
                raise ImportError(
                    "ElastiCacheIAM needs botocore: pip install 'tiered-cache[aws]'", name="botocore"
                ) from error
            self._session = Session()
        if hasattr(self._session, "get_component"):
            self._session.get_component("credential_provider")  # imports what the session would when it is asked
        self._signer()

    def get_credentials(self) -> tuple[str, str]:
        """The user, and a token signed with the credentials that the session has now. Raises ConfigurationError."""
        self.prepare()
        credentials = self._session.get_credentials()
        if credentials is None:
            raise ConfigurationError("no AWS credentials found: give the function a role")
        asked = {"Action": "connect", "User": self._user}
        if self._serverless:
            asked["ResourceType"] = "ServerlessCache"
        return self._user, self._signed(f"{self._cache_name}/?{urlencode(asked)}", credentials)

    def _signed(self, address: str, credentials: Any) -> str:
        """`address` with a signature and the time of its end, without a scheme."""
        from botocore.hooks import HierarchicalEmitter
        from botocore.model import ServiceId

        name, region, emitter = "elasticache", self._region or self._region_of_session(), HierarchicalEmitter()
        signer = self._signer()(ServiceId(name), region, name, "v4", credentials, emitter)  # it holds it weakly
        request = {"method": "GET", "url": f"https://{address}", "body": {}, "headers": {}, "context": {}}
        signed: str = signer.generate_presigned_url(request, operation_name="connect", expires_in=VALID)
        return signed.removeprefix("https://")

    def _signer(self) -> Any:
        from botocore.signers import RequestSigner

        return RequestSigner

    def _region_of_session(self) -> str:
        known = getattr(self._session, "region_name", None)  # boto3's; botocore's is asked as below
        if known is None and hasattr(self._session, "get_config_variable"):
            known = self._session.get_config_variable("region")
        region: str | None = known or os.environ.get("AWS_REGION")
        if not region:
            raise ConfigurationError("no AWS region is known: write ElastiCacheIAM(…, region=…), or set AWS_REGION")
        return region

    def __repr__(self) -> str:
        serverless = ", serverless=True" if self._serverless else ""
        return f"ElastiCacheIAM({self._user!r}, {self._cache_name!r}{serverless})"


def _checked(name: str, given: object, pattern: str, allowed: str) -> str:
    if not isinstance(given, str):
        raise ConfigurationError(f"{name} must be a str; got {shown(given)}")
    if not re.fullmatch(pattern, given):
        raise ConfigurationError(f"{name} must be of {allowed}; got {shown(given)}")
    return given
