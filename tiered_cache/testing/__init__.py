"""For users' tests: a clock to set by hand, and a shared tier that lives in memory and can be made to fail."""

from tiered_cache.testing._clock import FakeClock
from tiered_cache.testing._shared import InMemorySharedTier

__all__ = ["FakeClock", "InMemorySharedTier"]
