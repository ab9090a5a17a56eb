"""Callers that read through a cache without end while something is done to its L2."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from rig import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from tiered_cache import TieredCache

PAUSE = 0.002
"""Seconds between two calls of a thread, which leave the processor to the servers."""


def say(capsys: pytest.CaptureFixture[str], figures: str) -> None:
    """Print what was measured, past pytest's capture."""
    with capsys.disabled():
        print(f"\n{figures}")  # noqa: T201  # this is what it is for


class Call(NamedTuple):
    key: str
    tier: str
    took: float


class Load:
    """Threads that ask for `keys` in turn, each value being its key; a context manager, with what came of the calls."""

    def __init__(self, cache: TieredCache, keys: Sequence[str], threads: int = 4) -> None:
        self._cache = cache
        self._keys = keys
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        self.calls: list[Call] = []
        self.errors: list[BaseException] = []
        self.wrong: list[object] = []

    def ask(self, key: str) -> str:
        """Which tier answers for `key`; the call is noted."""
        began = time.perf_counter()
        answer = self._cache.get_entry_or_load(key, lambda: key)
        self.calls.append(Call(key, answer.tier, time.perf_counter() - began))
        if answer.value != key:
            self.wrong.append(answer)
        return answer.tier

    def _run(self, first: int) -> None:
        turn = first
        while not self._ended.wait(PAUSE):
            turn += 1
            try:
                self.ask(self._keys[turn % len(self._keys)])
            except BaseException as error:
                self.errors.append(error)

    @property
    def longest(self) -> float:
        """Seconds of the longest call so far."""
        return max(call.took for call in self.calls)

    def tiers(self, keys: Sequence[str]) -> set[str]:
        """The tiers that answered for `keys`."""
        return {call.tier for call in self.calls if call.key in keys}

    def go_on(self, calls: int = 100) -> None:
        """Wait until that many calls more were made."""
        count = len(self.calls)
        wait_until(lambda: len(self.calls) >= count + calls)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def __str__(self) -> str:
        by_tier = {tier: sum(call.tier == tier for call in self.calls) for tier in ("l1", "l2", "origin")}
        return f"{len(self.calls)} calls {by_tier}, longest {self.longest:.3f} s, {len(self.errors)} errors"
