"""Budgets of time that mean nothing, or more than there is; and an invocation that does not even begin."""

from __future__ import annotations

import threading
from math import inf, nan
from typing import TYPE_CHECKING, Any

import pytest

from tiered_cache import ConfigurationError, LoadContext, LoadTimeout, MemoryTier, RedisTier, TieredCache
from tiered_cache.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable

NOWHERE = "redis://127.0.0.1:1"
MAKES: dict[str, Callable[[Any], object]] = {
    "timeout": lambda given: RedisTier(NOWHERE, ttl=60, timeout=given),
    "lease": lambda given: RedisTier(NOWHERE, ttl=60, lease=given),
    "coherence": lambda given: TieredCache(coherence=given),
    "soft_timeout": lambda given: TieredCache(soft_timeout=given),
    "hard_timeout": lambda given: TieredCache(hard_timeout=given),
}


@pytest.mark.parametrize("bad", [0, -1, nan, inf, -inf, True])
@pytest.mark.parametrize("name", MAKES)
def test_a_budget_that_is_none_is_refused_when_the_object_is_made(name: str, bad: Any) -> None:
    """B42: the text names the option and what was given."""
    with pytest.raises(ConfigurationError, match=rf"^{name}.* must be a finite duration above zero: .*; got {bad}$"):
        MAKES[name](bad)


@pytest.mark.parametrize("bad", [-1.0, -inf, nan])
def test_an_invocation_with_less_than_no_time_has_none(bad: float) -> None:
    """B42: what is held is served, and no load is begun."""
    cache = TieredCache(clock=FakeClock())
    cache.set("held", 1)
    with cache.invocation(lambda: bad):
        assert cache._invocation.remaining() == 0.0
        assert cache.get_or_load("held", lambda: 2) == 1
        with pytest.raises(LoadTimeout, match="no time left beyond the reserve"):
            cache.get_or_load("k", lambda: 1)


def test_an_invocation_without_end_has_no_limit() -> None:
    """B42: as one whose limit is not known; no call fails for that."""
    cache = TieredCache(MemoryTier(ttl=60), RedisTier(NOWHERE, ttl=60), clock=FakeClock())
    with cache, cache.invocation(lambda: inf):
        assert cache.get_or_load("k", lambda: 1) == 1


def test_nobody_waits_for_longer_than_the_invocation_lasts() -> None:
    """B42: a hard timeout above the remaining time is that time."""
    cache = TieredCache()
    gate = threading.Event()
    with cache.invocation(lambda: 0.2), pytest.raises(LoadTimeout):
        cache.get_or_load("k", lambda: gate.wait(60), hard_timeout=60)
    gate.set()


class Request:
    """A loader that is told how long it may take."""

    def load(self, _: LoadContext) -> int:
        return 1


@pytest.mark.parametrize(
    ("limits", "clipped"),
    [({"hard_timeout": 100}, 0), ({"hard_timeout": 6000}, 1), ({"soft_timeout": 3000, "hard_timeout": 6000}, 2)],
)
def test_a_limit_that_is_cut_counts_once(limits: dict[str, Any], clipped: int) -> None:
    """However often one call asks for it."""
    cache = TieredCache()
    with cache.invocation(lambda: 1000.0):
        assert cache.get_or_load("k", Request(), **limits) == 1
    assert cache.stats().origin.clipped == clipped


def test_an_invocation_whose_time_cannot_be_told_has_not_begun() -> None:
    """The error is its caller's, and the next invocation begins as if there had been none."""
    cache = TieredCache(clock=FakeClock())
    with pytest.raises(ZeroDivisionError), cache.invocation(lambda: 1 / 0):
        pytest.fail("ran")
    assert cache._invocation.remaining() is None
    with pytest.raises(ConfigurationError, match="needs an invocation"):
        cache.get_or_load("k", lambda: 1, scope="invocation")
    with cache.invocation(lambda: 2.0):
        assert cache._invocation.remaining() == 2.0
