"""What the adapters share of boto3: its errors in our words, and clients whose patience fits the time that is left."""

# pyright: reportMissingTypeStubs=false
# boto3 and botocore have none.

from __future__ import annotations

import os
import re
import sys
import threading
import time
from random import SystemRandom
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast, final

from tiered_cache._errors import (
    ClosedError,
    ConfigurationError,
    LoadTimeout,
    NotFound,
    OriginDenied,
    OriginError,
    OriginMalformed,
    OriginThrottled,
    TieredCacheError,
)
from tiered_cache._units import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")


class Call(NamedTuple):
    """What is asked of whom, for error texts: never a key's value and never a credential."""

    operation: str
    resource: str

    def says(self, text: str) -> str:
        """`text` with the operation and the resource in front."""
        return f"{self.operation} on {self.resource}: {text}"


class Verdict(NamedTuple):
    """What an SDK error means: our error, the reason in words, and whether asking again at once may help."""

    error: type[TieredCacheError]
    reason: str
    passing: bool = False


_THROTTLED = Verdict(OriginThrottled, "asked more often than the service allows", passing=True)
_DENIED = Verdict(OriginDenied, "access denied; the role's policy must allow this operation on this resource")
_EXPIRED = Verdict(OriginDenied, "the credentials are expired or not valid")
_ABSENT = Verdict(NotFound, "no such object")
_FAILED = Verdict(OriginError, "the service failed", passing=True)
_REFUSED = Verdict(OriginError, "the service refused the request")
_UNREACHED = Verdict(OriginError, "the service could not be reached", passing=True)
_SLOW = Verdict(OriginError, "no answer in time", passing=True)
_MALFORMED = Verdict(OriginMalformed, "the answer is not one that the service gives", passing=True)
_CUT = Verdict(OriginMalformed, "the answer was cut off or damaged on its way", passing=True)
_NO_KEYS = Verdict(OriginError, "the credentials could not be fetched")
_NO_CREDENTIALS = Verdict(
    ConfigurationError,
    "no AWS credentials found: give the function a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
)
_BUCKET = Verdict(ConfigurationError, "there is no bucket of this name")
_REGION = Verdict(ConfigurationError, "the bucket is in another region; make the client with that region_name")
_RESOURCE = Verdict(ConfigurationError, "there is no such resource in this account and region; check the name")
_INPUT = Verdict(ConfigurationError, "the service cannot accept these arguments")
_SETTINGS = Verdict(ConfigurationError, "the AWS settings (environment, profile or config file) are not usable")


def _each(names: str, verdict: Verdict) -> dict[str, Verdict]:
    return dict.fromkeys(names.split(), verdict)


_BY_CODE: dict[str, Verdict] = {
    # The codes that botocore's own standard retry mode counts as throttling.
    **_each(
        "Throttling ThrottlingException ThrottledException RequestThrottledException RequestThrottled "
        "TooManyRequestsException ProvisionedThroughputExceededException TransactionInProgressException "
        "RequestLimitExceeded BandwidthLimitExceeded LimitExceededException SlowDown PriorRequestNotComplete "
        "EC2ThrottledException",
        _THROTTLED,
    ),
    **_each(
        "AccessDenied AccessDeniedException AllAccessDisabled AccountProblem NotAuthorized NotSignedUp OptInRequired "
        "KMS.AccessDeniedException UnauthorizedOperation UnauthorizedAccess",
        _DENIED,
    ),
    **_each(
        "ExpiredToken ExpiredTokenException InvalidToken TokenRefreshRequired RequestExpired RequestTimeTooSkewed "
        "InvalidAccessKeyId InvalidClientTokenId UnrecognizedClientException SignatureDoesNotMatch "
        "InvalidSignatureException IncompleteSignature MissingAuthenticationToken MissingAuthenticationTokenException",
        _EXPIRED,
    ),
    **_each("NoSuchKey NoSuchVersion", _ABSENT),
    "InvalidObjectState": Verdict(OriginError, "the object is archived; restore it before it can be read"),
    "NoSuchBucket": _BUCKET,
    **_each(
        "PermanentRedirect TemporaryRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException", _REGION
    ),
    **_each("ResourceNotFoundException TableNotFoundException", _RESOURCE),
    **_each(
        "ValidationException ValidationError InvalidRequestException InvalidParameterException InvalidBucketName "
        "InvalidArgument KeyTooLongError SerializationException UnknownOperationException",
        _INPUT,
    ),
    **_each(
        "InternalError InternalFailure InternalServerError InternalServerException ServiceUnavailable "
        "ServiceUnavailableException RequestTimeout RequestTimeoutException",
        _FAILED,
    ),
}

_BY_STATUS: dict[int, Verdict] = {
    **dict.fromkeys((301, 302, 307), _REGION),
    **dict.fromkeys((401, 403), _DENIED),
    404: _MALFORMED,  # one that is not the service's own, which says NoSuchKey or signs its answer
    408: _FAILED,
    429: _THROTTLED,
}

# By the names of classes, since botocore is not imported before it is needed. The nearest base class decides.
_BY_CLASS: dict[str, Verdict] = {
    **_each("ConnectTimeoutError ReadTimeoutError", _SLOW),
    "SSLError": Verdict(OriginError, "no trusted TLS connection; check the CA bundle and the endpoint's name"),
    **_each("ConnectionError HTTPClientError", _UNREACHED),
    **_each("IncompleteReadError ResponseStreamingError ChecksumError FlexibleChecksumError", _CUT),
    "ResponseParserError": _MALFORMED,
    **_each("CredentialRetrievalError MetadataRetrievalError", _NO_KEYS),
    **_each("SSOError LoginError NoAuthTokenError TokenRetrievalError", _EXPIRED),
    **_each("NoCredentialsError PartialCredentialsError", _NO_CREDENTIALS),
    "NoRegionError": Verdict(ConfigurationError, "no AWS region: set AWS_DEFAULT_REGION, or hand in a client"),
    **_each("ParamValidationError MissingParametersError UnsupportedS3ArnError", _INPUT),
    **_each(
        "ValidationError ProfileNotFound ConfigNotFound ConfigParseError InvalidConfigError InvalidRegionError "
        "InvalidRetryConfigurationError InvalidRetryModeError InvalidMaxRetryAttemptsError InvalidProxiesConfigError "
        "InvalidDefaultsMode InvalidIMDSEndpointError InvalidIMDSEndpointModeError InvalidS3AddressingStyleError "
        "InvalidS3UsEast1RegionalEndpointConfigError InvalidSTSRegionalEndpointsConfigError InvalidChecksumConfigError "
        "InvalidEndpointDiscoveryConfigurationError InvalidDNSNameError InvalidHostLabelError EndpointProviderError "
        "BaseEndpointResolverError UnknownServiceError UnknownSignatureVersionError UnsupportedSignatureVersionError "
        "UnsupportedServiceProtocolsError UnsupportedS3AccesspointConfigurationError UnsupportedS3ConfigurationError "
        "UnsupportedOutpostResourceError UnsupportedS3ControlArnError UnsupportedS3ControlConfigurationError "
        "UnknownCredentialError UnknownTokenProviderError DataNotFoundError ServiceNotInRegionError "
        "InvalidEndpointConfigurationError MissingDependencyException MissingServiceIdError "
        "InfiniteLoopConfigError RefreshWithMFAUnsupportedError",
        _SETTINGS,
    ),
    "BotoCoreError": Verdict(OriginError, "the SDK failed"),
}


def verdict(error: Exception) -> Verdict:
    """What `error`, of boto3 or botocore, means: by service code, then by HTTP status, then by class."""
    answer: Mapping[str, Any] | None = getattr(error, "response", None)
    if answer is None:
        return next((_BY_CLASS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _BY_CLASS), _REFUSED)
    known = _BY_CODE.get(service_code(error))
    if known is not None:
        return known
    status = http_status(error)
    if status == 404 and "x-amz-request-id" in _headers(error):
        return _ABSENT
    return _BY_STATUS.get(status) or (_FAILED if status >= 500 else _MALFORMED if status < 300 else _REFUSED)


def service_code(error: Exception) -> str:
    """The service's error code, or an empty string."""
    answer: Mapping[str, Any] = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


def http_status(error: Exception) -> int:
    """The HTTP status of the answer that became `error`, or 0."""
    answer: Mapping[str, Any] = getattr(error, "response", None) or {}
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _headers(error: Exception) -> Mapping[str, str]:
    answer: Mapping[str, Any] = getattr(error, "response", None) or {}
    headers: Mapping[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers


def translated(error: Exception, call: Call) -> TieredCacheError:
    """Our error for `error` of the SDK, naming the operation and the resource; raise it `from error`."""
    kind, reason, _ = verdict(error)
    code, status = service_code(error), http_status(error)
    facts = [code] if re.fullmatch(r"[A-Za-z][\w.]{0,63}", code, re.ASCII) else []
    facts += [f"HTTP {status}"] if status else []
    region = _headers(error).get("x-amz-bucket-region", "")
    facts += [region] if re.fullmatch(r"[a-z\d-]{1,40}", region, re.ASCII) else []
    return kind(call.says(reason + (f" ({', '.join(facts)})" if facts else "")))


def sdk_errors() -> tuple[type[Exception], ...]:
    """Every class that boto3 raises for a failed call."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    return (ClientError, BotoCoreError, ResponseParserError)


_making = threading.Lock()


def _renew_lock() -> None:
    global _making  # noqa: PLW0603 - a lock for the process, which is another one after a fork
    _making = threading.Lock()  # a thread of the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)

_ATTEMPTS = 3
_HALVINGS = 8
_LEAST = 0.05  # seconds in which a repetition can still do something
_random = SystemRandom()  # has no state that a fork or a snapshot could copy


def unlimited() -> float | None:
    """Stands for a `LoadContext.remaining` where no limit is known."""
    return None


def spread(attempt: int) -> float:
    """Seconds to pause before repetition number `attempt`: evenly in 0 to 0.1 times 2 to the `attempt`, at most 5.

    Full jitter, https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return _random.uniform(0, min(5.0, 0.1 * 2 ** min(attempt, 16)))


def paused(attempt: int, left: float | None) -> bool:
    """Pause before repetition number `attempt` if there is time for both, and say whether there was."""
    delay = spread(attempt)
    if left is not None and delay + _LEAST >= left:
        return False
    time.sleep(delay)
    return True


@final
class Clients:
    """One service's clients for one origin, made at the first call and again after a fork.

    botocore's timeouts belong to a client, not to a call, and its retries multiply them. So a client here tries once,
    and there is one for each patience (`read_timeout`, half of it, a quarter, ...), made when a call first needs it (5
    ms and 0.3 MB after the first). A call takes the longest that fits the time left and is repeated only after a
    passing failure and only within that time. A client that was handed in is used as it is, with its own timeouts and
    retries.
    """

    __slots__ = ("_closed", "_given", "_made", "_options", "_prepare", "_read_timeout", "_service")

    def __init__(
        self,
        service: str,
        given: Any,
        read_timeout: object,
        *,
        prepare: Callable[[Any], None] | None = None,
        argument: str = "client",
        **options: Any,
    ) -> None:
        if given is not None:
            _check_client(service, given, argument)
            if prepare is not None:
                prepare(given)
        self._service = service
        self._given = given
        self._read_timeout = seconds("read_timeout", read_timeout)
        self._prepare = prepare
        self._options = options
        self._made: dict[tuple[int, float], Any] = {}
        self._closed = False

    def run(self, call: Call, remaining: Callable[[], float | None], action: Callable[[Any], T]) -> T:
        """What `action(client)` gives, tried up to three times on passing failures while time is left.

        Raises LoadTimeout if no try fits the time left, and our error for what the SDK raises.
        """
        attempt = 1
        while True:
            client = self._client(call, remaining())
            try:
                return action(client)
            except sdk_errors() as error:
                attempt = self._attempt_after(attempt, error, remaining())
                if not attempt:
                    raise translated(error, call) from error

    def _attempt_after(self, attempt: int, error: Exception, left: float | None) -> int:
        """Wait and give the next attempt's number, or 0 where there is none."""
        if self._given is not None or attempt == _ATTEMPTS or not verdict(error).passing:
            return 0
        return attempt + 1 if paused(attempt, left) else 0

    def _client(self, call: Call, left: float | None) -> Any:
        if self._closed:
            raise ClosedError(call.says("the origin was closed"))
        patience = self._patience(left)
        if patience is None:
            raise LoadTimeout(call.says("not started, since it could not end in the time left"))
        if self._given is not None:
            return self._given
        place = os.getpid(), patience
        client = self._made.get(place)
        if client is None:
            with _making:  # boto3's default session is not made for several threads at once
                client = self._made.get(place) or self._make(call, patience)
                self._made[place] = client
        return client

    def _patience(self, left: float | None) -> float | None:
        """The longest read timeout that fits into `left` seconds with the time to connect; None if none does."""
        patience = self._read_timeout
        for _ in range(_HALVINGS):
            if left is None or patience + _connect_timeout(patience) <= left:
                return patience
            patience /= 2
        return None

    def _make(self, call: Call, patience: float) -> Any:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise ImportError("this origin needs boto3: pip install 'tiered-cache[aws]'") from error
        config = Config(
            connect_timeout=_connect_timeout(patience),
            read_timeout=patience,
            retries={"mode": "standard", "total_max_attempts": 1},
            tcp_keepalive=True,
            **self._options,
        )
        try:
            client = cast("Any", boto3).client(self._service, config=config)
        except sdk_errors() as error:
            raise translated(error, call) from error
        if self._prepare is not None:
            self._prepare(client)
        return client

    def close(self) -> None:
        """Close the clients made here, not one that was handed in. Later calls raise ClosedError."""
        self._closed = True
        while self._made:
            _, client = self._made.popitem()
            client.close()


def _connect_timeout(patience: float) -> float:
    return min(1.0, patience / 2)


def _check_client(service: str, given: Any, argument: str) -> None:
    """Raise TypeError unless `given` is a boto3 client of `service`."""
    wanted = f"{argument} must be a boto3 client, such as boto3.client({service!r})"
    botocore_client = sys.modules.get("botocore.client")  # who has a client has imported it
    kind = cast("type[object]", type(given))
    if botocore_client is None or not issubclass(kind, botocore_client.BaseClient):
        hint = "; of a resource, hand in .meta.client" if hasattr(given, "meta") else ""
        raise TypeError(f"{wanted}; got an object of type {kind.__qualname__}{hint}")
    import inspect

    if inspect.iscoroutinefunction(getattr(kind, "_make_api_call", None)):
        raise TypeError(f"{wanted}; got an asynchronous one")
    offered = given.meta.service_model.service_name
    if offered != service:
        raise TypeError(f"{wanted}; got a client of {offered!r}")
