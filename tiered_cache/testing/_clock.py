"""A clock that stands still until it is told to go on."""

from __future__ import annotations


class FakeClock:
    """Wall-clock seconds under a test's control: `TieredCache(clock=FakeClock())`.

    `monotonic` is the clock that Lambda's freeze may stop: `advance` moves both, `freeze` the wall clock alone, and
    `step` sets the wall clock forward or back as a correction of the time would.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._wall = start
        self._steady = 1_000.0

    def __call__(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        """Seconds on the monotonic clock."""
        return self._steady

    def advance(self, seconds: float) -> None:
        """Let time pass for a running process. Raises ValueError for less than none: for that there is `step`."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards, got {seconds}: to set the clock back, call step()")
        self._wall += seconds
        self._steady += seconds

    def freeze(self, seconds: float) -> None:
        """Let time pass while the process is frozen: the monotonic clock stands still."""
        if seconds < 0:
            raise ValueError(f"a freeze cannot last {seconds} seconds")
        self._wall += seconds

    def step(self, seconds: float) -> None:
        """Correct the wall clock by `seconds`, which may be negative."""
        self._wall += seconds
