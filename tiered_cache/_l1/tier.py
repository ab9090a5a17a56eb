"""The policy of L1: what `MemoryTier` is given, checked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tiered_cache._errors import ConfigurationError
from tiered_cache._l1.policy import Policy, checked_policy
from tiered_cache._options import flag, freshness, one_of, refuse_unknown_options
from tiered_cache._units import Duration, Size, shown, size

if TYPE_CHECKING:
    from collections.abc import Callable

Share: TypeAlias = Literal["reference", "copy"]

FUNCTION_MEMORY = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"
AUTO_SHARE = 0.25
"""The share of the function's memory that `max_bytes="auto"` takes."""
AUTO_ELSEWHERE = 64 * 2**20
"""Bytes that `max_bytes="auto"` takes where the function's memory is not known."""


class MemoryTier:
    """The policy of L1.

    ttl: how long a container may answer without asking the next tier; without an L2, how long the data are fresh.
    stale_while_revalidate: for how long after that a value is served at once while a refresh is owed.
    stale_if_error: without an L2, for how long after freshness a value covers for a failing load. With one, L2's counts.
    max_bytes: the budget; `"auto"` is a quarter of the function's memory, 64 MiB elsewhere. Values are measured deeply.
        Each entry counts as some 700 bytes more, 900 with an L2, and the length of its key, tags and validators.
    max_entries: a second bound, on their number.
    policy: what goes first: by `"lru"` what was used longest ago; `"s3fifo"` keeps keys that are asked for again from being
        flushed by those asked for once; or any class with the interface of `cachetools.Cache` (a hit then takes its lock).
    jitter: the share of `ttl` by which an entry may be cut short, so that entries do not expire together.
    share: `"reference"`: callers get the cached object itself, and loaders too, as `context.stale`; `"copy"`: a deep copy
        each, at its price.
    detect_mutation: for tests: raise RuntimeError when a caller has changed a cached value. Compares by a deep copy.
    sizer: a function (value) -> bytes in place of the built-in one.

    Raises ConfigurationError for an option that cannot mean anything.
    """

    @refuse_unknown_options
    def __init__(
        self,
        *,
        ttl: Duration,
        stale_while_revalidate: Duration = 0,
        stale_if_error: Duration = 0,
        max_bytes: Size | Literal["auto"] = "auto",
        max_entries: int | None = None,
        policy: Policy = "lru",
        jitter: float = 0.1,
        share: Share = "reference",
        detect_mutation: bool = False,
        sizer: Callable[[Any], int] | None = None,
    ) -> None:
        self.freshness = freshness(ttl, stale_while_revalidate, stale_if_error, jitter)
        self.max_bytes = _byte_budget(max_bytes)
        self.max_entries = _entry_limit(max_entries)
        self.policy = checked_policy(policy)
        self.share = one_of("share", share, ("reference", "copy"))
        self.detect_mutation = flag("detect_mutation", detect_mutation)
        if sizer is not None and not callable(sizer):
            raise ConfigurationError(f"sizer must be a function of a value that gives bytes; got {shown(sizer)}")
        self.sizer = sizer

    def __repr__(self) -> str:
        return f"MemoryTier(ttl={self.freshness.ttl:g}, max_bytes={self.max_bytes})"


def _entry_limit(given: object) -> int | None:
    if given is None or (isinstance(given, int) and not isinstance(given, bool) and given >= 1):
        return given
    raise ConfigurationError(f"max_entries must be a whole number of at least 1, or None; got {shown(given)}")


def _byte_budget(given: object) -> int:
    memory = _function_memory()
    if given == "auto":
        return AUTO_ELSEWHERE if memory is None else int(memory * AUTO_SHARE)
    budget = size("max_bytes", given)
    if memory is not None and budget >= memory:
        raise ConfigurationError(
            f"max_bytes must leave room within the function's memory of {memory // 2**20} MiB; got {budget} bytes"
        )
    return budget


def _function_memory() -> int | None:
    stated = os.environ.get(FUNCTION_MEMORY)
    if stated is None:
        return None
    if not stated.isdecimal() or int(stated) == 0:
        raise ConfigurationError(
            f"{FUNCTION_MEMORY} must be the function's memory in MB, such as 512; got {shown(stated)}"
        )
    return int(stated) * 2**20
