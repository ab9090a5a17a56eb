"""Credentials that are asked for at each connect: a token lives for minutes, and a container for hours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tiered_cache._errors import ConfigurationError, TieredCacheError
from tiered_cache._l2.faults import Failure, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_AGE = 11 * 3600.0
"""Seconds after which a connection with such credentials is replaced before use: ElastiCache closes it after 12 hours.

It is not spread: a connection's age counts from its own beginning, which containers do not share.
"""

TOO_SLOW = "the provider of the credentials was too slow"


class CredentialProvider(Protocol):
    """As redis-py's. It is asked once for each connection, from a thread of its own, within the call's time limit.

    It may have `needs_tls = True`, if what it gives must not cross a network in plain text; and a method `prepare()`, which
    imports what it needs and is called once, outside of any time limit.
    """

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """User and password, or the password alone."""
        ...


class Asked:
    """A provider as one connection is to see it: what is wrong with it is told apart from what the server says."""

    def __init__(self, provider: CredentialProvider) -> None:
        self._provider = provider
        self.is_under_way = False
        """Whether the connection waits for the provider, and for nobody else."""

    def get_credentials(self) -> tuple[str | bytes, ...]:
        """What the provider gives. Raises Unavailable, in whose text nothing stands that the provider said."""
        self.is_under_way = True
        try:
            given: Any = self._provider.get_credentials()
        except TimeoutError:
            raise Unavailable(Failure.TIMEOUT, TOO_SLOW) from None
        except BaseException as error:  # noqa: BLE001  # nobody else is in this thread
            own = f": {error}" if isinstance(error, TieredCacheError) else ""
            hint = f"the provider of the credentials raised {type(error).__name__}{own}"
            raise Unavailable(Failure.AUTH, hint) from None
        finally:
            self.is_under_way = False
        if isinstance(given, tuple) and len(given) in (1, 2) and all(isinstance(part, str | bytes) for part in given):
            return given
        raise Unavailable(Failure.AUTH, "the provider of the credentials gave no (user, password), nor a (password,)")


def checked_provider(given: Any, *, beside: bool, encrypted: bool) -> CredentialProvider:
    """The provider that is to be asked. Raises ConfigurationError.

    beside: whether the address has credentials of its own. encrypted: whether connections are.
    """
    if not callable(getattr(given, "get_credentials", None)):
        kind = f"an object of type {type(given).__qualname__}"  # it may be a password
        raise ConfigurationError(f"credentials must be an object with get_credentials(); got {kind}")
    if beside:
        raise ConfigurationError(
            "credentials means nothing beside a user or password in the address: leave one of them out"
        )
    if getattr(given, "needs_tls", False) and not encrypted:
        kind = type(given).__qualname__
        raise ConfigurationError(f"credentials={kind}(…) needs TLS: write rediss://, or give a client with ssl=True")
    provider: CredentialProvider = given
    return provider


def own_credentials(options: Mapping[str, Any]) -> bool:
    """Whether the options of a connection have credentials among them."""
    return any(options.get(name) is not None for name in ("username", "password", "credential_provider"))
