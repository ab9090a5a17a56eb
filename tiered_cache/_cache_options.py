"""What a cache is made of, checked when it is made."""

from __future__ import annotations

from math import inf

from tiered_cache._errors import ConfigurationError
from tiered_cache._l1.tier import MemoryTier
from tiered_cache._units import seconds, shown


def check_tiers(l1: object, l2: object) -> None:
    if not isinstance(l1, MemoryTier):
        kind = f"an object of type {type(l1).__qualname__}"  # a URL may hold a password
        raise ConfigurationError(f"l1 must be a MemoryTier, such as MemoryTier(ttl=60); got {kind}")
    if l2 is None or (callable(getattr(l2, "bind", None)) and hasattr(l2, "freshness")):
        return
    hint = "write RedisTier(url, ttl=…)" if isinstance(l2, str) or hasattr(l2, "connection_pool") else "one, or None"
    kind = "a str" if isinstance(l2, str) else f"an object of type {type(l2).__qualname__}"  # a URL may hold a password
    raise ConfigurationError(f"l2 must be a RedisTier: {hint}; got {kind}")


def check_clock(clock: object) -> None:
    if not callable(clock):
        raise ConfigurationError(f"clock must be a function that gives wall-clock seconds; got {shown(clock)}")
    now = clock()
    if not isinstance(now, int | float) or not -inf < now < inf:
        raise ConfigurationError(f"clock must give wall-clock seconds as a finite number; it gave {shown(now)}")


def check_namespace(namespace: object) -> None:
    allowed = "1 to 64 letters, digits and ._:- (no |, {, } or spaces)"
    if not isinstance(namespace, str):
        raise ConfigurationError(f"namespace must be a str of {allowed}; got {shown(namespace)}")
    plain = namespace.isascii() and all(letter.isalnum() or letter in "._:-" for letter in namespace)
    if not plain or not 1 <= len(namespace) <= 64:
        raise ConfigurationError(f"namespace must have {allowed}; got {shown(namespace)}")


def check_coherence(coherence: object) -> None:
    if coherence not in ("ttl", "invocation"):
        seconds('coherence (other than "ttl" and "invocation")', coherence)
