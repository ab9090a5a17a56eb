"""What users' tests are given: a clock to set by hand, and a shared tier in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tiered_cache import SerializationError
from tiered_cache._entry import START, Entry
from tiered_cache._reply import UNREACHED, Claim, Filled, Lease, Right
from tiered_cache.testing import FakeClock, InMemorySharedTier

if TYPE_CHECKING:
    from tiered_cache.testing._shared import InMemorySharedStore


def leased(store: InMemorySharedStore, key: str) -> Lease:
    """A lease that is held."""
    lease = Lease(key, key.encode(), 60.0)
    assert store.ask(lease, Claim.SEIZE, 0.0, None).right is Right.MINE
    return lease


def test_time_passes_for_both_clocks_or_for_one() -> None:
    """`advance` moves both, `freeze` and `step` the wall clock alone."""
    clock = FakeClock(100.0)
    clock.advance(5)
    clock.freeze(10)
    clock.step(-3)
    assert (112.0, 1005.0) == (clock(), clock.monotonic())


def test_time_does_not_pass_backwards() -> None:
    """The error says what to call instead."""
    clock = FakeClock()
    with pytest.raises(ValueError, match=r"to set the clock back, call step\(\)$"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="^a freeze cannot last -1 seconds$"):
        clock.freeze(-1)


def test_the_tier_forgets_what_is_past_its_windows() -> None:
    """It is a miss from then on, and is not written either."""
    tier = InMemorySharedTier(ttl=60, stale_if_error=40)
    store = tier.bind("a")
    entry = Entry("v", loaded_at=0.0, fresh_for=60, stale_if_error=40)
    assert store.fill(leased(store, "k"), entry, 0.0) is Filled.KEPT
    assert store.read("k", 99.9, None).entry is not None
    assert store.read("k", 100.0, None).entry is None
    assert store.fill(leased(store, "k"), entry, 100.0) is Filled.NOT_KEPT
    assert "InMemorySharedTier(ttl=60, entries=1)" == repr(tier)


def test_namespaces_are_apart() -> None:
    """What one writes another does not see."""
    tier = InMemorySharedTier(ttl=60)
    store = tier.bind("a")
    assert store.fill(leased(store, "k"), Entry("v", loaded_at=0.0, fresh_for=60), 0.0) is Filled.KEPT
    assert store.read("k", 0.0, None).entry is not None
    assert tier.bind("b").read("k", 0.0, None).entry is None


def test_a_tier_that_is_down_does_nothing_and_counts_it() -> None:
    """Reads, leases, fills, looks, invalidations, releases and warming up."""
    tier = InMemorySharedTier(ttl=60)
    store = tier.bind("a")
    lease = leased(store, "k")
    tier.down = True
    assert not store.read("k", 0.0, None).reached
    assert store.ask(Lease("k", b"x", 60.0), Claim.SEIZE, 0.0, None) == UNREACHED
    assert store.fill(lease, Entry("v", loaded_at=0.0, fresh_for=60), 0.0) is Filled.NOT_KEPT
    assert store.look(START, (), 0.0) is None
    assert store.invalidate((), START, 0.0, None) is None
    store.release([lease], 0.0, drop=True)
    assert not store.warm_up(0.0)
    assert {"down": 7} == store.stats(0.0).errors


def test_values_go_through_the_codec() -> None:
    """What Redis could not carry is refused here too, one by one or many at once; what comes back is an equal copy."""
    store = InMemorySharedTier(ttl=60).bind("a")
    value = [1, (2, 3)]
    with pytest.raises(SerializationError):
        store.fill(leased(store, "k"), Entry(object(), loaded_at=0.0, fresh_for=60), 0.0)
    filled = [
        (leased(store, "bad"), Entry(object(), loaded_at=0.0, fresh_for=60)),
        (leased(store, "good"), Entry(value, loaded_at=0.0, fresh_for=60)),
    ]
    assert store.fill_many(filled, 0.0) == {"bad": Filled.NOT_KEPT, "good": Filled.KEPT}
    found, _ = store.read_many(["bad", "good"], 0.0, None)
    assert found["bad"].entry is None
    assert found["good"].entry is not None
    assert value == found["good"].entry.value
    assert value is not found["good"].entry.value
    assert 2 == store.stats(0.0).unserializable
    store.close()
